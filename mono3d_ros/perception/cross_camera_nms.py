"""
Non-maximum suppression across cameras, on the ground plane of the vehicle frame.

stl_core/inference/nms.py suppresses duplicates within one image; this module suppresses those of
different cameras whose poses on the vehicle are known.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stl_core.inference.nms import greedy_nms
from stl_core.types import Array, Objects3D


def suppress_duplicates(
    objects_per_camera: Sequence[Objects3D],
    vehicle_T_cams: Sequence[Array | None],
    max_overlap: float,
) -> list[Objects3D]:
    """
    Remove objects that overlap a higher-scoring object of their class from another camera.

    Objects of the same camera are not compared; NMS within the image has handled them.

    :param objects_per_camera: objects of each camera, in its camera frame.
    :param vehicle_T_cams: (4, 4) from each camera to a common frame, z up; None if unknown: the
        objects of such a camera are all kept.
    :param max_overlap: largest allowed bird's-eye-view IoU of two boxes.
    :return: the kept objects of each camera, in their order.
    """
    poses = {i: pose for i, pose in enumerate(vehicle_T_cams) if pose is not None}
    if len(poses) < 2:
        return list(objects_per_camera)
    camera = np.repeat(list(poses), [len(objects_per_camera[i]) for i in poses])
    class_id = np.concatenate([objects_per_camera[i].class_id for i in poses])
    score = np.concatenate([objects_per_camera[i].score for i in poses])
    footprint = np.concatenate(
        [_footprint(objects_per_camera[i], pose) for i, pose in poses.items()]
    )
    is_kept = greedy_nms(footprint, class_id, score, max_overlap, camera)
    kept = list(objects_per_camera)
    for i in poses:
        kept[i] = objects_per_camera[i][is_kept[camera == i]]
    return kept


def _footprint(objects: Objects3D, vehicle_T_cam: Array) -> Array:
    """Return (N, 5) x, y, width, length, angle from x to -y, as bev_intersection_area takes."""
    rotation, translation = vehicle_T_cam[:3, :3], vehicle_T_cam[:3, 3]
    center = objects.center_m @ rotation.T + translation
    cos, sin = np.cos(objects.rotation_y), np.sin(objects.rotation_y)
    heading = np.column_stack([cos, np.zeros(len(cos)), -sin]) @ rotation.T
    angle = -np.arctan2(heading[:, 1], heading[:, 0])
    return np.column_stack([center[:, :2], objects.size_hwl_m[:, 1:], angle])
