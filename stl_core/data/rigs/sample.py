"""
Poses and labels of a sample in the vehicle frame: x forward, y left, z up, from the ground.

A data set of single cameras, such as KITTI, has no vehicle frame. Its camera then stands level at
CAMERA_HEIGHT_M above the frame's origin and looks along x, and its labels are those of the sample.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stl_core.data.frame_source import DataError, SourceSample
from stl_core.geometry import wrap_angle
from stl_core.types import Array, Labels, Objects3D
from stl_core.vehicle_types import VehicleLabels, VehicleObjects

#: Height of KITTI's cameras above the ground, metres.
CAMERA_HEIGHT_M = 1.65
#: Axes of a level camera that looks forward: columns are its x, y and z in the vehicle frame.
_FORWARD = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])


def forward_camera_pose(height_m: float = CAMERA_HEIGHT_M) -> Array:
    """Return (4, 4) vehicle_T_cam of a level camera above the origin that looks along x."""
    pose = np.eye(4)
    pose[:3, :3], pose[2, 3] = _FORWARD, height_m
    return pose


def camera_poses(sample: SourceSample) -> list[Array]:
    """
    Return vehicle_T_cam (4, 4) of each image of a sample.

    :raises DataError: for several images of which one has no pose.
    """
    if len(sample.images) == 1 and sample.images[0].vehicle_T_cam is None:
        return [forward_camera_pose()]
    for image in sample.images:
        if image.vehicle_T_cam is None:
            raise DataError(
                f'{image.pixels.location or image.id}: camera {image.camera!r} has no'
                ' vehicle_T_cam, but its sample has several cameras; expected the pose of each'
            )
    return [np.asarray(image.vehicle_T_cam, np.float64) for image in sample.images]


def sample_labels(sample: SourceSample) -> VehicleLabels:
    """
    Return the labels around the vehicle: those of the sample, or of its only image.

    :raises DataError: for a sample without labels.
    """
    if sample.labels is not None:
        return sample.labels
    labels = sample.images[0].labels
    if labels is None or len(sample.images) > 1:
        raise DataError(
            f'sample {sample.id}: no labels around the vehicle; expected those of the sample, or a'
            ' single labelled image'
        )
    return labels_to_vehicle(labels, camera_poses(sample)[0])


def labels_to_vehicle(labels: Labels, vehicle_T_cam: Array) -> VehicleLabels:
    """
    Convert labels of an image to the vehicle frame.

    The heading is that of the box's length axis on the ground, so that a pitched or rolled camera
    changes it by nothing.

    :param labels: camera frame.
    :param vehicle_T_cam: (4, 4) pose of the camera.
    """
    rotation = vehicle_T_cam[:3, :3]
    zero = np.zeros(len(labels))
    axis = np.column_stack([np.cos(labels.rotation_y), zero, -np.sin(labels.rotation_y)])
    along = axis @ rotation.T
    return VehicleLabels(
        name=labels.name,
        center_m=labels.center_m @ rotation.T + vehicle_T_cam[:3, 3],
        size_hwl_m=labels.size_hwl_m,
        yaw=wrap_angle(np.arctan2(along[:, 1], along[:, 0])),
        velocity_mps=(labels.velocity_mps @ rotation.T)[:, :2],
        attribute=labels.attribute,
        num_points=labels.num_points,
    )


def objects_to_camera(objects: VehicleObjects, vehicle_T_cam: Array, box_px: Array) -> Objects3D:
    """
    Convert objects around a vehicle to the frame of a camera, the inverse of labels_to_vehicle.

    :param objects: N objects, vehicle frame.
    :param vehicle_T_cam: (4, 4) pose of the camera.
    :param box_px: (N, 4) 2D boxes in its image.
    :return: camera frame; depth_sigma_m is that of the range.
    """
    rotation = vehicle_T_cam[:3, :3]
    zero = np.zeros(len(objects))
    along = np.column_stack([np.cos(objects.yaw), np.sin(objects.yaw), zero]) @ rotation
    return Objects3D(
        class_id=objects.class_id,
        score=objects.score,
        center_m=(objects.center_m - vehicle_T_cam[:3, 3]) @ rotation,
        size_hwl_m=objects.size_hwl_m,
        rotation_y=wrap_angle(np.arctan2(-along[:, 2], along[:, 0])),
        box_px=box_px,
        depth_sigma_m=objects.range_sigma_m,
        velocity_mps=np.column_stack([objects.velocity_mps, zero]) @ rotation,
        attribute_id=objects.attribute_id,
    )


def camera_names(samples: Sequence[SourceSample]) -> tuple[str, ...]:
    """
    Return the names of all cameras of samples, in the order in which they first appear.

    :raises DataError: for a sample with two images of one camera.
    """
    names: dict[str, None] = {}
    for sample in samples:
        cameras = [image.camera for image in sample.images]
        if len(set(cameras)) < len(cameras):
            raise DataError(f'sample {sample.id}: two images of one camera among {cameras}')
        names |= dict.fromkeys(cameras)
    return tuple(names)
