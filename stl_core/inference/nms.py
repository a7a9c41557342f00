"""One answer for each thing: two objects of a class do not stand in the same place."""

from __future__ import annotations

import numpy as np

from stl_core.geometry import bev_intersection_area
from stl_core.types import Array, Objects3D


def bev_nms(objects: Objects3D, max_iou: float) -> Objects3D:
    """
    Leave out objects that stand where a surer one of their class stands.

    A detector's peaks are maxima of an image, so a large, near object often has several. Boxes
    of neighbours cover each other in the image; on the ground they hardly can.

    :param objects: N objects, camera frame.
    :param max_iou: greatest intersection over union of two footprints seen from above.
    :return: those that are kept, in their order.
    """
    first, second = _nearby_pairs(objects)
    overlapping = _bev_iou(objects, first, second) > max_iou
    suppressed = np.zeros(len(objects), bool)
    # pairs come by falling score of the first, so whether it is beaten itself is known by then
    for winner, loser in zip(first[overlapping], second[overlapping], strict=True):
        suppressed[loser] |= not suppressed[winner]
    return objects[~suppressed]


def _nearby_pairs(objects: Objects3D) -> tuple[Array, Array]:
    """Pair objects of one class that are near enough to meet: surer (P,), less sure (P,)."""
    order = np.argsort(-objects.score, kind='stable')
    first, second = (order[part] for part in np.triu_indices(len(objects), 1))
    reach = np.hypot(objects.size_hwl_m[:, 1], objects.size_hwl_m[:, 2]) / 2
    x, z = objects.center_m[:, 0], objects.center_m[:, 2]
    apart = np.hypot(x[first] - x[second], z[first] - z[second])
    meet = objects.class_id[first] == objects.class_id[second]
    meet &= apart < reach[first] + reach[second]
    return first[meet], second[meet]


def _bev_iou(objects: Objects3D, first: Array, second: Array) -> Array:
    """Return the intersection over union of pairs of footprints, (P,)."""
    footprint = np.column_stack(
        [objects.center_m[:, [0, 2]], objects.size_hwl_m[:, 1:], objects.rotation_y]
    )
    intersection = bev_intersection_area(footprint[first], footprint[second])
    area = objects.size_hwl_m[:, 1] * objects.size_hwl_m[:, 2]
    return intersection / np.maximum(area[first] + area[second] - intersection, 1e-9)
