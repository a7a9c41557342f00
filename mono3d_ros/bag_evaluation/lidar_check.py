"""
Boxes against a scan, without labels: how far each box stands before or behind what was measured.

RULE tells how. It knows no classes and no truth, so it works on any drive with a LiDAR; but a scan
meets the glass, the wheels and the slanted ends of a car behind the plane of its box, so even
perfect boxes come out a little too near.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from stl_core.geometry import project_points
from stl_core.types import Array, Objects3D

MIN_POINTS = 5
#: Ends of the ranges of distance that are told apart, metres.
RANGES_M = (20.0, 40.0)

RULE = (
    'Points count for a box that lie, in the image, in the middle half of its 2D box (of width '
    'and of height) and whose ray from the camera meets the 3D box, no other box before it. Each '
    'says how much farther along z the ray enters the box than it was stopped; the median over '
    'the points is the error of the box, positive where the box is too far. Boxes with fewer than '
    f'{MIN_POINTS} points are not checked.'
)


def depth_errors(objects: Objects3D, points_m: Array, P: Array) -> Array:
    """
    Check boxes by RULE.

    :param objects: N boxes, camera frame, box_px in pixels of P's image.
    :param points_m: (L, 3) scan, camera frame.
    :param P: (3, 4).
    :return: (N,) metres; nan where a box was not checked.
    """
    errors = np.full(len(objects), np.nan)
    if not len(objects):
        return errors
    pixels, w = project_points(points_m, P)
    low, high = objects.box_px[:, None, :2], objects.box_px[:, None, 2:]
    middle = (np.abs(pixels - (low + high) / 2) <= (high - low) / 4).all(2) & (w > 0)  # (N, L)
    points_m, middle = points_m[middle.any(0)], middle[:, middle.any(0)]
    eye = -np.linalg.solve(P[:, :3], P[:, 3])
    entry = np.stack([_ray_entry(objects[i], points_m, eye) for i in range(len(objects))])
    own = middle & np.isfinite(entry) & (entry == entry.min(0))
    # the ray is eye + t (point - eye), so the point is at t = 1
    too_far_m = np.where(own, entry - 1.0, 0.0) * (points_m[:, 2] - eye[2])
    for i in np.flatnonzero(own.sum(1) >= MIN_POINTS):
        errors[i] = np.median(too_far_m[i, own[i]])
    return errors


def summarize_errors(
    class_id: Array, depth_m: Array, errors_m: Array, classes: Sequence[str]
) -> dict[str, list[dict[str, Any]]]:
    """
    Tell the errors by class and distance.

    :param class_id: (N,) counts into classes.
    :param depth_m: (N,) z of the boxes.
    :param errors_m: (N,) of depth_errors.
    :param classes: names.
    :return: class -> rows, the last of all distances; numbers are None where nothing was checked.
    """
    ends = (0.0, *RANGES_M, np.inf)
    ranges = [*pairwise(ends), (0.0, np.inf)]
    told = {}
    for i, name in enumerate(classes):
        rows = []
        for low, high in ranges:
            own = (class_id == i) & (depth_m >= low) & (depth_m < high)
            until = None if np.isinf(high) else high
            rows.append({'from_m': low, 'to_m': until, **_statistics(errors_m[own])})
        told[name] = rows
    return told


def _statistics(errors_m: Array) -> Mapping[str, Any]:
    known = errors_m[np.isfinite(errors_m)]
    counts = {'boxes': len(errors_m), 'checked': len(known)}
    names = ('median_error_m', 'median_abs_error_m', 'p90_abs_error_m', 'share_within_1_m')
    if not len(known):
        return counts | dict.fromkeys(names)
    off = np.abs(known)
    numbers = (np.median(known), np.median(off), np.percentile(off, 90), np.mean(off <= 1.0))
    return counts | {
        name: round(float(each), 4) for name, each in zip(names, numbers, strict=True)
    }


def _ray_entry(box: Objects3D, points_m: Array, origin_m: Array) -> Array:
    """
    Find where rays enter a box: eye + t (point - eye).

    :param box: the box.
    :param points_m: (L, 3) one a ray.
    :param origin_m: (3,) where the rays begin.
    :return: (L,) t; inf where a ray does not meet the box, or begins in it.
    """
    cos, sin = np.cos(box.rotation_y[0]), np.sin(box.rotation_y[0])
    box_R_camera = np.array([[cos, 0.0, -sin], [0.0, 1.0, 0.0], [sin, 0.0, cos]])
    height, width, length = box.size_hwl_m[0]
    half = np.array([length, height, width]) / 2
    start = box_R_camera @ (origin_m - box.center_m[0])
    way = (points_m - origin_m) @ box_R_camera.T
    with np.errstate(divide='ignore', invalid='ignore'):
        t = np.stack([(-half - start) / way, (half - start) / way])  # (2, L, 3)
    enter, leave = t.min(0).max(1), t.max(0).min(1)
    return np.where((enter <= leave) & (enter > 0), enter, np.inf)
