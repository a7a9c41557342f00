"""
Pairwise overlaps of labels and detections, for all frames of a data set at once.

kitti_matching.py uses the same pairs many times (class, difficulty, metric, minimum IoU). This
module therefore computes them once, in a few large array operations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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
    :param dont_care_fraction: (D,) greatest fraction of the 2D box that one DontCare area covers.
    """

    ground_truth: Labels
    frame_index: Array
    detections: Labels
    overlaps: dict[str, tuple[Array, Array, Array]]
    dont_care_fraction: Array


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
    area_row, box_row = _pairs_in_same_frame(label_frame[is_dont_care], detection_frame)
    covered = _intersection_px2(labels.box_px[is_dont_care][area_row], detected.box_px[box_row])
    dont_care = np.zeros(len(detected))
    np.maximum.at(
        dont_care, box_row, safe_divide(covered, _box_area_px2(detected.box_px[box_row]))
    )
    labels, label_frame = labels[~is_dont_care], label_frame[~is_dont_care]
    return JoinedFrames(
        labels,
        label_frame,
        detected,
        _overlaps_by_metric(labels, label_frame, detected, detection_frame),
        dont_care,
    )


def _join_frames(frames: Sequence[Labels]) -> tuple[Labels, Array]:
    """Join the objects of all frames, names in lower case; return them and (N,) frame indices."""
    columns = {
        name: np.concatenate([getattr(labels, name) for labels in (Labels.empty(), *frames)])
        for name in Labels.FIELD_SHAPES
    }
    columns['name'] = np.char.lower(columns['name'])  # the devkit ignores case
    return Labels(**columns), np.repeat(np.arange(len(frames)), [len(labels) for labels in frames])


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


def _overlaps_by_metric(
    ground_truth: Labels, frame: Array, detections: Labels, detection_frame: Array
) -> dict[str, tuple[Array, Array, Array]]:
    """Compute IoU of all pairs of one frame in 2D, bird's-eye view and 3D; see JoinedFrames."""
    a, b = _pairs_in_same_frame(frame, detection_frame)
    bbox = box_iou(ground_truth.box_px[a], detections.box_px[b])
    overlapping = bbox > 0
    overlaps = {'bbox': (a[overlapping], b[overlapping], bbox[overlapping])}

    radius, detection_radius = (
        np.hypot(*x.size_hwl_m[:, 1:].T) / 2 for x in (ground_truth, detections)
    )
    offset = ground_truth.center_m[a] - detections.center_m[b]
    near = np.hypot(offset[:, 0], offset[:, 2]) < radius[a] + detection_radius[b]
    a, b = a[near], b[near]
    labels, detected = ground_truth[a], detections[b]
    rectangles, heights = [], []
    for x in (labels, detected):
        rectangles.append(np.column_stack([x.center_m[:, ::2], x.size_hwl_m[:, 1:], x.rotation_y]))
        heights.append(np.column_stack([x.center_m[:, 1], x.size_hwl_m[:, 0]]))
    starts = range(0, len(a), PAIRS_PER_CHUNK)
    intersection = np.concatenate(
        [
            np.zeros(0),
            *(
                bev_intersection_area(*(x[i : i + PAIRS_PER_CHUNK] for x in rectangles))
                for i in starts
            ),
        ]
    )
    area = [x.size_hwl_m[:, 1:].prod(1) for x in (labels, detected)]
    overlaps['bev'] = a, b, safe_divide(intersection, area[0] + area[1] - intersection)
    intersection = intersection * height_intersection(*heights)
    volume = [x.size_hwl_m.prod(1) for x in (labels, detected)]
    overlaps['3d'] = a, b, safe_divide(intersection, volume[0] + volume[1] - intersection)
    return overlaps
