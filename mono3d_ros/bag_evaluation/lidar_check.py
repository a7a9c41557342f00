"""
Check boxes against a LiDAR scan, without labels: the depth error of each box along the rays.

RULE defines the error. It uses neither classes nor labels, so it works on any drive with a LiDAR.
A scan hits the glass, the wheels and the slanted ends of a car behind the faces of its box, so
that even perfect boxes measure slightly too near.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from stl_core.geometry import project_points
from stl_core.types import Array, Objects3D

MIN_POINTS = 5
#: Limits between the distance ranges of the statistics, metres.
RANGES_M = (20.0, 40.0)

#: Definition of the error; figures.json and report.html quote it.
RULE = (
    'Points count for a box that lie, in the image, in the middle half of its 2D box (of width '
    'and of height) and whose ray from the camera meets the 3D box, no other box before it. Each '
    'says how much farther along z the ray enters the box than it was stopped; the median over '
    'the points is the error of the box, positive where the box is too far. Boxes with fewer than '
    f'{MIN_POINTS} points are not checked.'
)
#: Headings of the statistics of summarize_errors, without the range of distances.
STATISTICS_HEADINGS = (
    'boxes',
    'checked',
    'median error (m)',
    'median |error| (m)',
    '90% |error| (m)',
    'within 1 m',
)


def depth_errors(objects: Objects3D, points_m: Array, P: Array) -> Array:
    """
    Compute the depth error of each box by RULE.

    :param objects: N boxes in the camera frame, box_px in pixels of P's image.
    :param points_m: (L, 3) points of the scan in the camera frame.
    :param P: (3, 4) projection of the image.
    :return: (N,) metres, positive for a box that is too far; nan for a box without a check.
    """
    errors = np.full(len(objects), np.nan)
    if not len(objects):
        return errors
    pixels, w = project_points(points_m, P)
    low, high = objects.box_px[:, None, :2], objects.box_px[:, None, 2:]
    central = (np.abs(pixels - (low + high) / 2) <= (high - low) / 4).all(2) & (w > 0)  # (N, L)
    points_m, central = points_m[central.any(0)], central[:, central.any(0)]
    origin_m = -np.linalg.solve(P[:, :3], P[:, 3])
    entry = np.stack([_ray_entry(objects[i], points_m, origin_m) for i in range(len(objects))])
    hits = central & np.isfinite(entry) & (entry == entry.min(0))
    # the ray is origin + t (point - origin), so the point is at t = 1
    too_far_m = np.where(hits, entry - 1.0, 0.0) * (points_m[:, 2] - origin_m[2])
    for i in np.flatnonzero(hits.sum(1) >= MIN_POINTS):
        errors[i] = np.median(too_far_m[i, hits[i]])
    return errors


def summarize_errors(
    class_id: Array, depth_m: Array, errors_m: Array, classes: Sequence[str]
) -> dict[str, list[dict[str, Any]]]:
    """
    Compute error statistics by class and distance.

    :param class_id: (N,) indices into classes.
    :param depth_m: (N,) z of the boxes in the camera frame.
    :param errors_m: (N,) result of depth_errors.
    :param classes: class names.
    :return: class -> a row per distance range and one for all distances; the statistics of a
        range without checked boxes are None.
    """
    ends = (0.0, *RANGES_M, np.inf)
    ranges = [*pairwise(ends), (0.0, np.inf)]
    by_class = {}
    for i, name in enumerate(classes):
        rows = []
        for low, high in ranges:
            in_range = (class_id == i) & (depth_m >= low) & (depth_m < high)
            to_m = None if np.isinf(high) else high
            rows.append({'from_m': low, 'to_m': to_m, **_statistics(errors_m[in_range])})
        by_class[name] = rows
    return by_class


def _statistics(errors_m: Array) -> Mapping[str, Any]:
    checked = errors_m[np.isfinite(errors_m)]
    counts = {'boxes': len(errors_m), 'checked': len(checked)}
    names = ('median_error_m', 'median_abs_error_m', 'p90_abs_error_m', 'share_within_1_m')
    if not len(checked):
        return counts | dict.fromkeys(names)
    size = np.abs(checked)
    numbers = (np.median(checked), np.median(size), np.percentile(size, 90), np.mean(size <= 1.0))
    return counts | {
        name: round(float(each), 4) for name, each in zip(names, numbers, strict=True)
    }


def _ray_entry(box: Objects3D, points_m: Array, origin_m: Array) -> Array:
    """
    Intersect rays, origin + t (point - origin), with a box (slab method).

    :param box: one object in the camera frame.
    :param points_m: (L, 3) one point per ray.
    :param origin_m: (3,) common origin of the rays.
    :return: (L,) t at which each ray enters the box; inf if it misses the box or begins in it.
    """
    cos, sin = np.cos(box.rotation_y[0]), np.sin(box.rotation_y[0])
    box_R_camera = np.array([[cos, 0.0, -sin], [0.0, 1.0, 0.0], [sin, 0.0, cos]])
    height, width, length = box.size_hwl_m[0]
    half = np.array([length, height, width]) / 2
    start = box_R_camera @ (origin_m - box.center_m[0])
    direction = (points_m - origin_m) @ box_R_camera.T
    with np.errstate(divide='ignore', invalid='ignore'):
        t = np.stack([(-half - start) / direction, (half - start) / direction])  # (2, L, 3)
    enter, leave = t.min(0).max(1), t.max(0).min(1)
    return np.where((enter <= leave) & (enter > 0), enter, np.inf)
