"""
Labels and detections of a whole data set, joined, with the overlaps of all pairs that meet.

contest.py asks many questions (class, difficulty, metric, least IoU) of the same pairs, so they
are found once, in a few large array operations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stl_core.geometry import bev_intersection_area, height_intersection
from stl_core.types import Array, Labels

PAIRS_PER_CHUNK = 4096  # so that the polygons being clipped stay in the processor's cache


@dataclass(frozen=True)
class JoinedFrames:
    """
    All frames in one: G labelled objects, D detections, and how they overlap.

    :param ground_truth: G objects, frame by frame, DontCare left out.
    :param frame_index: (G,) number of the frame.
    :param detections: D detections, frame by frame.
    :param overlaps: for each metric the pairs that meet, in order of truth, then of found:
        (P,) row of truth, (P,) row of found, (P,) IoU.
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
    """Join the frames and find every overlap, once for all classes and difficulties."""
    if len(ground_truth) != len(detections):
        raise ValueError(
            f'{len(ground_truth)} frames of labels but {len(detections)} of detections'
        )
    truth, frame = _join_frames(ground_truth)
    found, found_frame = _join_frames(detections)
    is_area = truth.name == 'dontcare'
    area, inside = _pairs_in_same_frame(frame[is_area], found_frame)
    covered = _intersection_px2(truth.box_px[is_area][area], found.box_px[inside])
    dont_care = np.zeros(len(found))
    np.maximum.at(dont_care, inside, safe_divide(covered, _box_area_px2(found.box_px[inside])))
    truth, frame = truth[~is_area], frame[~is_area]
    return JoinedFrames(
        truth, frame, found, _overlaps_by_metric(truth, frame, found, found_frame), dont_care
    )


def _join_frames(frames: Sequence[Labels]) -> tuple[Labels, Array]:
    """Put N objects of all frames into one, names in lower case; and (N,) their frame numbers."""
    columns = {
        name: np.concatenate([getattr(labels, name) for labels in (Labels.empty(), *frames)])
        for name in Labels.FIELD_SHAPES
    }
    columns['name'] = np.char.lower(columns['name'])  # the devkit takes CAR for Car
    return Labels(**columns), np.repeat(np.arange(len(frames)), [len(labels) for labels in frames])


def _pairs_in_same_frame(a_frame: Array, b_frame: Array) -> tuple[Array, Array]:
    """Pair every row of a with every row of b of the same frame; frame numbers ascend."""
    first = np.searchsorted(b_frame, a_frame)
    a = np.repeat(np.arange(len(a_frame)), np.searchsorted(b_frame, a_frame, 'right') - first)
    return a, first[a] + rank_in_run(a)


def rank_in_run(key: Array) -> Array:
    """Count up within each run of equal keys: 5 5 5 8 9 9 -> 0 1 2 0 0 1."""
    starts = np.flatnonzero(np.diff(key, prepend=-1))
    return np.arange(len(key)) - np.repeat(starts, np.diff(starts, append=len(key)))


def safe_divide(numerator: Array, denominator: Array) -> Array:
    """Divide; 0 where there is nothing to divide by."""
    return np.divide(numerator, denominator, out=np.zeros(len(numerator)), where=denominator > 0)


def box_iou(a: Array, b: Array) -> Array:
    """(P, 4) and (P, 4) boxes -> (P,) their IoU; 0 where neither has an area."""
    shared = _intersection_px2(a, b)
    return safe_divide(shared, _box_area_px2(a) + _box_area_px2(b) - shared)


def _box_area_px2(box: Array) -> Array:
    return (box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1])


def _intersection_px2(a: Array, b: Array) -> Array:
    sides = np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2])
    return np.maximum(sides, 0.0).prod(1)


def _overlaps_by_metric(
    ground_truth: Labels, frame: Array, detections: Labels, detection_frame: Array
) -> dict[str, tuple[Array, Array, Array]]:
    """Intersect all pairs of one frame in the image, from above and in 3D; see Frames."""
    a, b = _pairs_in_same_frame(frame, detection_frame)
    bbox = box_iou(ground_truth.box_px[a], detections.box_px[b])
    seen = bbox > 0
    overlaps = {'bbox': (a[seen], b[seen], bbox[seen])}

    reach, found_reach = (np.hypot(*x.size_hwl_m[:, 1:].T) / 2 for x in (ground_truth, detections))
    apart = ground_truth.center_m[a] - detections.center_m[b]
    near = np.hypot(apart[:, 0], apart[:, 2]) < reach[a] + found_reach[b]
    a, b = a[near], b[near]
    one, two = ground_truth[a], detections[b]
    flat, tall = [], []
    for x in (one, two):
        flat.append(np.column_stack([x.center_m[:, ::2], x.size_hwl_m[:, 1:], x.rotation_y]))
        tall.append(np.column_stack([x.center_m[:, 1], x.size_hwl_m[:, 0]]))
    starts = range(0, len(a), PAIRS_PER_CHUNK)
    shared = np.concatenate(
        [
            np.zeros(0),
            *(bev_intersection_area(*(x[i : i + PAIRS_PER_CHUNK] for x in flat)) for i in starts),
        ]
    )
    ground = [x.size_hwl_m[:, 1:].prod(1) for x in (one, two)]
    overlaps['bev'] = a, b, safe_divide(shared, ground[0] + ground[1] - shared)
    shared = shared * height_intersection(*tall)
    volume = [x.size_hwl_m.prod(1) for x in (one, two)]
    overlaps['3d'] = a, b, safe_divide(shared, volume[0] + volume[1] - shared)
    return overlaps
