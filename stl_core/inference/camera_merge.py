"""
Merge the detections of a vehicle's cameras: an object that two cameras see is one object.

Every camera detects for itself; boxes go to the vehicle frame by the camera's pose at its own
exposure, and of boxes of one class that overlap on the ground the highest-scoring one stays.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stl_core.geometry import wrap_angle
from stl_core.inference.nms import vehicle_nms
from stl_core.rotations import move_points
from stl_core.types import Array, Objects3D
from stl_core.vehicle_types import VehicleObjects


def objects_to_vehicle(objects: Objects3D, vehicle_T_cam: Array) -> VehicleObjects:
    """
    Return objects of a camera in the vehicle frame.

    :param objects: N objects, camera frame.
    :param vehicle_T_cam: (4, 4) pose of the camera.
    :return: heading of the turned length axis, so that pitch and roll of the camera do not leak
        into yaw; the deviation of the range is that of the depth, along the viewing ray.
    """
    rotation = vehicle_T_cam[:3, :3]
    cos, sin = np.cos(objects.rotation_y), np.sin(objects.rotation_y)
    length_axis = np.column_stack([cos, np.zeros(len(objects)), -sin]) @ rotation.T
    center_m = move_points(vehicle_T_cam, objects.center_m)
    # a ray of depth z and length r: an error dz of the depth is an error dz r / z along the ray
    depth_m = np.maximum(np.abs(objects.center_m[:, 2]), 1e-6)
    along_ray = np.linalg.norm(objects.center_m, axis=1) / depth_m
    return VehicleObjects(
        class_id=objects.class_id,
        score=objects.score,
        center_m=center_m,
        size_hwl_m=objects.size_hwl_m,
        yaw=wrap_angle(np.arctan2(length_axis[:, 1], length_axis[:, 0])),
        velocity_mps=(objects.velocity_mps @ rotation.T)[:, :2],
        attribute_id=objects.attribute_id,
        range_sigma_m=objects.depth_sigma_m * along_ray,
    )


def merge_cameras(
    detections: Sequence[Objects3D], vehicle_T_cams: Sequence[Array], max_iou: float = 0.2
) -> VehicleObjects:
    """
    Merge what the cameras of a vehicle detect.

    :param detections: objects of each camera, camera frame.
    :param vehicle_T_cams: (4, 4) poses of the cameras, in the same order.
    :param max_iou: greatest bird's-eye-view IoU of two objects of a class, see vehicle_nms.
    :return: vehicle frame, in descending order of score.
    :raises ValueError: for another number of poses than cameras.
    """
    if len(detections) != len(vehicle_T_cams):
        raise ValueError(f'{len(detections)} cameras but {len(vehicle_T_cams)} poses')
    parts = [
        objects_to_vehicle(objects, np.asarray(pose))
        for objects, pose in zip(detections, vehicle_T_cams, strict=True)
    ]
    joined = VehicleObjects.concatenate(parts)
    return vehicle_nms(joined[np.argsort(-joined.score, kind='stable')], max_iou)
