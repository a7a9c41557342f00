"""
Pairwise overlaps of labels and detections, for all frames of a data set at once.

kitti_matching.py uses the same pairs many times (class, difficulty, metric, minimum IoU). This
module therefore computes them once, in a few large array operations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from stl_core.geometry import bev_intersection_area, height_intersection
from stl_core.types import Array, Labels

PAIRS_PER_CHUNK = 4096  # small enough that the clipped polygons stay in the processor's cache


@dataclass(frozen=True)
class JoinedFrames:
    """
    Objects of all frames, joined: G labelled objects, D detections, and their overlaps.

    :param ground_truth: G objects, frame by frame, without DontCare.
    :param frame_index: (G,) index of the frame.
    :param detections: D detections, frame by frame.
    :param overlaps: for each metric the pairs that may overlap, ordered by label, then by
        detection: (P,) row of ground_truth, (P,) row of detections, (P,) IoU.
    :param dont_care_fraction: for each metric the (D,) greatest fraction of a detection that one
        DontCare region covers: of its 2D box, its footprint or its 3D box.
    """

    ground_truth: Labels
    frame_index: Array
    detections: Labels
    overlaps: dict[str, tuple[Array, Array, Array]]
    dont_care_fraction: dict[str, Array]


def pairwise_overlaps(
    ground_truth: Sequence[Labels], detections: Sequence[Labels]
) -> JoinedFrames:
    """
    Join frames and compute all overlaps, once for all classes and difficulties.

    :param ground_truth: the labels of each frame, DontCare included.
    :param detections: the detections of the same frames in the same order.
    :return: the joined frames.
    :raises ValueError: when the two differ in length.
    """
    if len(ground_truth) != len(detections):
        raise ValueError(
            f'{len(ground_truth)} frames of labels but {len(detections)} of detections'
        )
    labels, label_frame = _join_frames(ground_truth)
    detected, detection_frame = _join_frames(detections)
    is_dont_care = labels.name == 'dontcare'
    regions, region_frame = labels[is_dont_care], label_frame[is_dont_care]
    labels, label_frame = labels[~is_dont_care], label_frame[~is_dont_care]
    return JoinedFrames(
        labels,
        label_frame,
        detected,
        {
            metric: (pairs.label, pairs.detection, pairs.iou)
            for metric, pairs in _intersections(
                labels, label_frame, detected, detection_frame
            ).items()
        },
        {
            metric: _greatest_fraction(pairs, len(detected))
            for metric, pairs in _intersections(
                regions, region_frame, detected, detection_frame
            ).items()
        },
    )


class _Pairs(NamedTuple):
    """
    P pairs of a label and a detection of one frame that may intersect, for one metric.

    :param label: (P,) rows of the labels, ascending.
    :param detection: (P,) rows of the detections.
    :param intersection: (P,) area (px^2 or m^2) or volume (m^3) that both cover.
    :param label_size: (P,) area or volume of the label.
    :param detection_size: (P,) area or volume of the detection.
    """

    label: Array
    detection: Array
    intersection: Array
    label_size: Array
    detection_size: Array

    @property
    def iou(self) -> Array:
        """Return the (P,) intersection over union; 0 where neither has a size."""
        union = self.label_size + self.detection_size - self.intersection
        return safe_divide(self.intersection, union)


def _greatest_fraction(pairs: _Pairs, num_detections: int) -> Array:
    """Return the (D,) greatest fraction of each detection that one label of its frame covers."""
    fraction = np.zeros(num_detections)
    covered = safe_divide(pairs.intersection, pairs.detection_size)
    np.maximum.at(fraction, pairs.detection, covered)
    return fraction


def _join_frames(frames: Sequence[Labels]) -> tuple[Labels, Array]:
    """Join the objects of all frames, names in lower case; return them and (N,) frame indices."""
    joined = Labels.concatenate(frames)
    joined = replace(joined, name=np.char.lower(joined.name))  # the devkit ignores case
    return joined, np.repeat(np.arange(len(frames)), [len(labels) for labels in frames])


def _pairs_in_same_frame(a_frame: Array, b_frame: Array) -> tuple[Array, Array]:
    """Return all pairs of rows of a and b in the same frame; frame indices must ascend."""
    first = np.searchsorted(b_frame, a_frame)
    a = np.repeat(np.arange(len(a_frame)), np.searchsorted(b_frame, a_frame, 'right') - first)
    return a, first[a] + rank_in_run(a)


def rank_in_run(key: Array) -> Array:
    """Return the rank of each element in its run of equal keys: 5 5 5 8 9 9 -> 0 1 2 0 0 1."""
    starts = np.flatnonzero(np.diff(key, prepend=-1))
    return np.arange(len(key)) - np.repeat(starts, np.diff(starts, append=len(key)))


def safe_divide(numerator: Array, denominator: Array) -> Array:
    """Return numerator / denominator; 0 where the denominator is not positive."""
    return np.divide(numerator, denominator, out=np.zeros(len(numerator)), where=denominator > 0)


def box_iou(a: Array, b: Array) -> Array:
    """Return (P,) IoU of pairs of (P, 4) and (P, 4) boxes; 0 where neither has an area."""
    intersection = _intersection_px2(a, b)
    return safe_divide(intersection, _box_area_px2(a) + _box_area_px2(b) - intersection)


def _box_area_px2(box: Array) -> Array:
    return (box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1])


def _intersection_px2(a: Array, b: Array) -> Array:
    sides = np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2])
    return np.maximum(sides, 0.0).prod(1)


def _intersections(
    labels: Labels, frame: Array, detections: Labels, detection_frame: Array
) -> dict[str, _Pairs]:
    """Intersect all pairs of one frame in 2D, bird's-eye view and 3D; {metric: pairs}."""
    a, b = _pairs_in_same_frame(frame, detection_frame)
    boxes = labels.box_px[a], detections.box_px[b]
    covered = _intersection_px2(*boxes)
    bbox = _Pairs(a, b, covered, *(_box_area_px2(each) for each in boxes))
    overlapping = covered > 0
    radius, detection_radius = (np.hypot(*x.size_hwl_m[:, 1:].T) / 2 for x in (labels, detections))
    offset = labels.center_m[a] - detections.center_m[b]
    near = np.hypot(offset[:, 0], offset[:, 2]) < radius[a] + detection_radius[b]
    a, b = a[near], b[near]
    rectangles, heights, areas, volumes = [], [], [], []
    for x in (labels[a], detections[b]):
        rectangles.append(np.column_stack([x.center_m[:, ::2], x.size_hwl_m[:, 1:], x.rotation_y]))
        heights.append(np.column_stack([x.center_m[:, 1], x.size_hwl_m[:, 0]]))
        areas.append(x.size_hwl_m[:, 1:].prod(1))
        volumes.append(x.size_hwl_m.prod(1))
    starts = range(0, len(a), PAIRS_PER_CHUNK)
    chunks = (
        bev_intersection_area(*(x[i : i + PAIRS_PER_CHUNK] for x in rectangles)) for i in starts
    )
    covered = np.concatenate([np.zeros(0), *chunks])
    return {
        'bbox': _Pairs(*(each[overlapping] for each in bbox)),
        'bev': _Pairs(a, b, covered, *areas),
        '3d': _Pairs(a, b, covered * height_intersection(*heights), *volumes),
    }
