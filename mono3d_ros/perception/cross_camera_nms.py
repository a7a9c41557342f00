"""
Non-maximum suppression across cameras, on the ground plane of the vehicle frame.

stl_core/inference/nms.py suppresses duplicates within one image; this module suppresses those of
different cameras whose poses on the vehicle are known.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stl_core.geometry import bev_intersection_area
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
    order = np.argsort(-score, kind='stable')
    first, second = (order[part] for part in np.triu_indices(len(order), 1))
    candidates = (camera[first] != camera[second]) & (class_id[first] == class_id[second])
    candidates &= _circles_overlap(footprint, first, second)
    first, second = first[candidates], second[candidates]
    overlapping = _bev_iou(footprint[first], footprint[second]) > max_overlap
    suppressed = np.zeros(len(order), bool)
    # pairs are in descending order of the winner's score, so its own state is final by then
    for winner, loser in zip(first[overlapping], second[overlapping], strict=True):
        suppressed[loser] |= not suppressed[winner]
    kept = list(objects_per_camera)
    for i in poses:
        kept[i] = objects_per_camera[i][~suppressed[camera == i]]
    return kept


def _footprint(objects: Objects3D, vehicle_T_cam: Array) -> Array:
    """Return (N, 5) x, y, width, length, angle from x to -y, as bev_intersection_area takes."""
    rotation, translation = vehicle_T_cam[:3, :3], vehicle_T_cam[:3, 3]
    center = objects.center_m @ rotation.T + translation
    cos, sin = np.cos(objects.rotation_y), np.sin(objects.rotation_y)
    heading = np.column_stack([cos, np.zeros(len(cos)), -sin]) @ rotation.T
    angle = -np.arctan2(heading[:, 1], heading[:, 0])
    return np.column_stack([center[:, :2], objects.size_hwl_m[:, 1:], angle])


def _circles_overlap(footprint: Array, first: Array, second: Array) -> Array:
    """Return (P,) whether the circumscribed circles of two footprints overlap."""
    radius = np.hypot(footprint[:, 2], footprint[:, 3]) / 2
    offset = footprint[first, :2] - footprint[second, :2]
    return np.hypot(offset[:, 0], offset[:, 1]) < radius[first] + radius[second]


def _bev_iou(a: Array, b: Array) -> Array:
    """Compute the (P,) IoU of (P, 5) and (P, 5) footprints."""
    intersection = bev_intersection_area(a, b)
    area = a[:, 2] * a[:, 3] + b[:, 2] * b[:, 3]
    return intersection / np.maximum(area - intersection, 1e-9)
