"""
Bird's-eye-view non-maximum suppression of 3D detections.

Of overlapping boxes of one class, the highest-scoring one stays.
"""

from __future__ import annotations

import numpy as np

from stl_core.geometry import bev_intersection_area
from stl_core.types import Array, Objects3D
from stl_core.vehicle_types import VehicleObjects


def bev_nms(objects: Objects3D, max_iou: float) -> Objects3D:
    """
    Drop objects whose footprint overlaps that of a higher-scoring object of the same class.

    A detector finds local maxima of a heatmap, and a large, near object often has several. The
    image boxes of neighbouring objects overlap; their footprints on the ground hardly can.

    :param objects: N objects, camera frame.
    :param max_iou: greatest bird's-eye-view IoU of two footprints (x-z plane of the camera frame).
    :return: the remaining objects, in their original order.
    """
    footprints = np.column_stack(
        [objects.center_m[:, [0, 2]], objects.size_hwl_m[:, 1:], objects.rotation_y]
    )
    return objects[greedy_nms(footprints, objects.class_id, objects.score, max_iou)]


def vehicle_nms(objects: VehicleObjects, max_iou: float) -> VehicleObjects:
    """Do the same for objects around a vehicle, whose footprints lie in its x-y plane."""
    footprints = np.column_stack(
        # seen from above, an angle about z turns the other way than one about a camera's y
        [objects.center_m[:, :2], objects.size_hwl_m[:, 1:], -objects.yaw]
    )
    return objects[greedy_nms(footprints, objects.class_id, objects.score, max_iou)]


def greedy_nms(
    footprints: Array, class_id: Array, score: Array, max_iou: float, camera: Array | None = None
) -> Array:
    """
    Keep, in descending order of score, each object that no kept object of its class overlaps.

    :param footprints: (N, 5) x, y, width, length, angle; see geometry.bev_intersection_area.
    :param class_id: (N,) classes.
    :param score: (N,) scores; of equal scores, the first object is the higher one.
    :param max_iou: greatest IoU of two footprints that are both kept.
    :param camera: (N,) index of the camera; objects of one camera are not compared. None compares
        all objects.
    :return: (N,) bool, whether the object is kept.
    """
    order = np.argsort(-score, kind='stable')
    first, second = (order[part] for part in np.triu_indices(len(order), 1))
    compared = class_id[first] == class_id[second]
    if camera is not None:
        compared &= camera[first] != camera[second]
    compared &= _circles_overlap(footprints, first, second)
    first, second = first[compared], second[compared]
    overlapping = _iou(footprints[first], footprints[second]) > max_iou
    suppressed = np.zeros(len(order), bool)
    # pairs are in descending order of the first object's score: its own state is final by then
    for higher, lower in zip(first[overlapping], second[overlapping], strict=True):
        suppressed[lower] |= not suppressed[higher]
    return ~suppressed


def _circles_overlap(footprints: Array, first: Array, second: Array) -> Array:
    """Return (P,) whether the circumscribed circles of two footprints overlap."""
    radius = np.hypot(footprints[:, 2], footprints[:, 3]) / 2
    offset = footprints[first, :2] - footprints[second, :2]
    return np.hypot(offset[:, 0], offset[:, 1]) < radius[first] + radius[second]


def _iou(a: Array, b: Array) -> Array:
    """Return the (P,) IoU of (P, 5) and (P, 5) footprints."""
    intersection = bev_intersection_area(a, b)
    area = a[:, 2] * a[:, 3] + b[:, 2] * b[:, 3]
    return intersection / np.maximum(area - intersection, 1e-9)
