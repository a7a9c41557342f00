"""
Bird's-eye-view non-maximum suppression of 3D detections.

Of overlapping boxes of one class, the highest-scoring one stays.
"""

from __future__ import annotations

import numpy as np

from stl_core.geometry import bev_intersection_area
from stl_core.types import Array, Objects3D


def bev_nms(objects: Objects3D, max_iou: float) -> Objects3D:
    """
    Drop objects whose footprint overlaps that of a higher-scoring object of the same class.

    A detector finds local maxima of a heatmap, and a large, near object often has several. The
    image boxes of neighbouring objects overlap; their footprints on the ground hardly can.

    :param objects: N objects, camera frame.
    :param max_iou: greatest bird's-eye-view IoU of two footprints (x-z plane of the camera frame).
    :return: the remaining objects, in their original order.
    """
    first, second = _nearby_pairs(objects)
    overlapping = _bev_iou(objects, first, second) > max_iou
    suppressed = np.zeros(len(objects), bool)
    # pairs are sorted by the first object's score, highest first: its own fate is decided by then
    for higher, lower in zip(first[overlapping], second[overlapping], strict=True):
        suppressed[lower] |= not suppressed[higher]
    return objects[~suppressed]


def _nearby_pairs(objects: Objects3D) -> tuple[Array, Array]:
    """
    List pairs of objects of one class whose footprints are near enough to overlap.

    :return: indices of the higher-scoring (P,) and of the lower-scoring objects (P,).
    """
    order = np.argsort(-objects.score, kind='stable')
    first, second = (order[part] for part in np.triu_indices(len(objects), 1))
    radius = np.hypot(objects.size_hwl_m[:, 1], objects.size_hwl_m[:, 2]) / 2
    x, z = objects.center_m[:, 0], objects.center_m[:, 2]
    distance = np.hypot(x[first] - x[second], z[first] - z[second])
    nearby = objects.class_id[first] == objects.class_id[second]
    nearby &= distance < radius[first] + radius[second]
    return first[nearby], second[nearby]


def _bev_iou(objects: Objects3D, first: Array, second: Array) -> Array:
    """Return the bird's-eye-view IoU of P pairs of footprints, (P,)."""
    footprint = np.column_stack(
        [objects.center_m[:, [0, 2]], objects.size_hwl_m[:, 1:], objects.rotation_y]
    )
    intersection = bev_intersection_area(footprint[first], footprint[second])
    area = objects.size_hwl_m[:, 1] * objects.size_hwl_m[:, 2]
    return intersection / np.maximum(area[first] + area[second] - intersection, 1e-9)
