"""Cars that stand well apart, and detections of them with one kind of error, as numbers only."""

from dataclasses import replace

import numpy as np

from stl_core.geometry import backproject_pixels, box_corners, project_points, wrap_angle
from stl_core.types import Labels

P2 = np.array([[720.0, 0, 610, 45], [0, 720, 173, 0.2], [0, 0, 1, 0.003]])
#: Bearings of the cars of a frame: their 2D boxes do not overlap.
BEARINGS = np.array([-0.5, -0.17, 0.16, 0.49])


def street(rng, frames, name='Car'):
    """Return the labels of some frames, four cars each, all high enough to be required."""
    return [_cars(rng, name) for _ in range(frames)]


def scored(rng, labels):
    """Return labels with the scores of detections, all different."""
    return [replace(each, score=rng.uniform(0.1, 1, len(each))) for each in labels]


def moved(labels, center_m):
    """Return objects at new centres: alpha stays, rotation_y follows the bearing."""
    return replace(
        labels, center_m=center_m, rotation_y=wrap_angle(labels.alpha + bearing(center_m))
    )


def farther(labels, factor, P=P2):
    """Return objects pushed away along the rays of their projected centres."""
    pixels, _ = project_points(labels.center_m, P)
    return moved(labels, backproject_pixels(pixels, labels.center_m[:, 2] * factor, P))


def bearing(center_m):
    return np.arctan2(center_m[:, 0], center_m[:, 2])


def _cars(rng, name):
    count = len(BEARINGS)
    z = rng.uniform(12, 40, count)
    center_m = np.stack([z * BEARINGS, rng.uniform(0.7, 1.0, count), z], 1)
    size = rng.uniform([1.6, 1.5, 3.5], [1.8, 1.7, 4.5], (count, 3))
    yaw = rng.uniform(-np.pi, np.pi, count)
    pixels, _ = project_points(box_corners(center_m, size, yaw), P2)
    return Labels(
        name=np.full(count, name),
        truncated=np.zeros(count),
        occluded=np.zeros(count),
        alpha=wrap_angle(yaw - bearing(center_m)),
        score=np.ones(count),
        center_m=center_m,
        size_hwl_m=size,
        rotation_y=yaw,
        box_px=np.concatenate([pixels.min(1), pixels.max(1)], 1),
    )
