"""
KITTI object detection metrics: average precision (AP) of 2D, bird's-eye-view and 3D boxes, AOS.

A detection is a true positive when its overlap with a labelled object of its class exceeds the
class's minimum IoU: of 2D boxes ('bbox'), of rectangles on the ground ('bev') or of 3D boxes
('3d'). An object matches at most one detection, and a detection at most one object. Precision is
measured at up to 41 scores, those at which recall is nearest to 0, 1/40, 2/40, ..., 1, and raised
at each of them to the best precision at that recall or a higher one. AP40 is the mean over the 40
recalls above 0, AP11 over the 11 recalls 0, 0.1, ..., 1. AOS ('aos') weights every true positive
of 'bbox' by (1 + cos(error of alpha)) / 2.

A difficulty defines the objects that must be found. Other objects of the class, and objects of the
similar class (Van, Person_sitting), may be found or missed at no cost. Detections lower than the
difficulty's height cost nothing, whatever their class. Neither do detections of which a DontCare
region covers more than the minimum IoU: of their 2D boxes, rectangles on the ground or 3D boxes,
as in the devkit (KITTI's DontCare regions have 2D boxes only).

The rules, the order of matching and the rounding follow evaluate_object.cpp of the KITTI object
devkit. Geiger, Lenz, Urtasun: 'Are we ready for autonomous driving?', CVPR 2012; the 40 recalls:
Simonelli et al., 'Disentangling monocular 3D object detection', ICCV 2019.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stl_core.evaluation.ap_result import (
    CLASSES,
    MIN_IOU,
    RECALLS,
    ApResult,
    ClassAp,
    class_min_iou,
)
from stl_core.evaluation.kitti_matching import (
    DIFFICULTIES,
    CandidateMatches,
    Difficulty,
    candidate_matches,
    count_matches,
    true_positive_scores,
)
from stl_core.evaluation.overlaps import JoinedFrames, pairwise_overlaps, safe_divide
from stl_core.types import Array, Labels

RECALL_STEPS = 40
NO_ALPHA = -10.0


@dataclass(frozen=True)
class OperatingPoint:
    """Precision and recall, 0 to 1, of the detections that score at least min_score."""

    min_score: float
    precision: float
    recall: float


@dataclass(frozen=True)
class PrecisionRecallCurve:
    """
    Precision and recall, 0 to 1, at each of T score thresholds, as measured: not interpolated.

    :param min_score: (T,) ascending; recall falls.
    :param precision: (T,).
    :param recall: (T,).
    """

    min_score: Array
    precision: Array
    recall: Array


def evaluate_detections(ground_truth: Sequence[Labels], detections: Sequence[Labels]) -> ApResult:
    """
    Compute AP and AOS of detections as the KITTI benchmark does.

    A class without objects that must be found gets 0, as in the devkit; so does the AOS of a class
    with a detection that has no alpha (-10), where the devkit prints no AOS at all.

    :param ground_truth: the labels of each frame, DontCare included.
    :param detections: the detections of the same frames in the same order.
    :return: percentages, see ApResult.
    :raises ValueError: when the two differ in length.
    """
    frames = pairwise_overlaps(ground_truth, detections)
    return ApResult({name: _evaluate_class(frames, name) for name in CLASSES})


def _evaluate_class(frames: JoinedFrames, class_name: str) -> ClassAp:
    in_class = frames.detections.name == class_name.lower()
    has_alpha = not (frames.detections.alpha[in_class] == NO_ALPHA).any()
    values: dict[tuple[str, str, str], tuple[float, ...]] = {}
    for criterion, kinds in MIN_IOU.items():
        for kind in kinds:
            iou = class_min_iou(class_name, kind, criterion)
            candidates = [
                candidate_matches(frames, class_name, difficulty, kind, iou)
                for difficulty in DIFFICULTIES.values()
            ]
            curves = np.stack([_interpolated_curves(each) for each in candidates], -1)
            for points, recalls in RECALLS.items():
                precision, similarity = 100 * curves[:, recalls].mean(1)
                values[kind, points, criterion] = tuple(precision.tolist())
                if kind == 'bbox':
                    values['aos', points, criterion] = tuple((similarity * has_alpha).tolist())
    return ClassAp(values)


def best_threshold(
    ground_truth: Sequence[Labels],
    detections: Sequence[Labels],
    class_name: str,
    difficulty: Difficulty,
    min_iou: float,
    kind: str = '3d',
) -> OperatingPoint:
    """
    Find the score threshold with the best F1 (harmonic mean of precision and recall).

    Tries the scores of true positives, evenly picked ones if there are more than 500: between two
    of them only the number of false positives changes.

    :param class_name: any class name in the labels.
    :param difficulty: defines the objects that must be found.
    :param min_iou: the IoU that a true positive must exceed.
    :param kind: overlap of the match: 'bbox', 'bev' or '3d'.
    :return: the lowest of equally good thresholds; all 0 if there is no true positive.
    """
    frames = pairwise_overlaps(ground_truth, detections)
    candidates = candidate_matches(frames, class_name, difficulty, kind, min_iou)
    scores = _candidate_thresholds(candidates, 500)
    if not len(scores):
        return OperatingPoint(0.0, 0.0, 0.0)
    true, false, missed, _ = count_matches(candidates, scores)
    best = int(np.argmax(safe_divide(2 * true, 2 * true + false + missed)))
    precision, recall = (
        safe_divide(true, true + false)[best],
        safe_divide(true, true + missed)[best],
    )
    return OperatingPoint(float(scores[best]), float(precision), float(recall))


def precision_recall_curve(
    frames: JoinedFrames, class_name: str, difficulty: Difficulty, metric: str, min_iou: float
) -> PrecisionRecallCurve:
    """
    Compute precision and recall of one class at the scores of its true positives.

    Measures at 100 evenly picked scores if there are more true positives.

    :param frames: labels and detections, see overlaps.pairwise_overlaps.
    :param class_name: any class name in the labels.
    :param difficulty: defines the objects that must be found.
    :param metric: 'bbox', 'bev' or '3d'.
    :param min_iou: the IoU that a true positive must exceed.
    :return: the curve; without points if there is no true positive.
    """
    candidates = candidate_matches(frames, class_name, difficulty, metric, min_iou)
    scores = _candidate_thresholds(candidates, 100)
    true, false, missed, _ = count_matches(candidates, scores)
    return PrecisionRecallCurve(
        scores, safe_divide(true, true + false), safe_divide(true, true + missed)
    )


def _candidate_thresholds(candidates: CandidateMatches, max_count: int) -> Array:
    """Return up to max_count evenly picked scores of true positives, ascending, ends included."""
    scores = np.unique(true_positive_scores(candidates))
    return scores[np.linspace(0, len(scores) - 1, min(len(scores), max_count)).astype(int)]


def _recall_thresholds(tp_scores: Array, num_ground_truth: int) -> Array:
    """Return the scores, descending, at which recall is nearest to 0, 1/40, 2/40, ..., 1."""
    scores = np.sort(tp_scores)[::-1]
    recall = np.arange(1, len(scores) + 1) / max(num_ground_truth, 1)
    next_recall = np.append(recall[1:], recall[-1:])
    thresholds: list[float] = []
    step, start = 0.0, 0
    while start < len(scores):
        skipped = next_recall[start:] - step < step - recall[start:]
        skipped[-1] = False  # the last score is always used, however far its recall is from step
        start += int(np.argmin(skipped)) + 1
        thresholds.append(scores[start - 1])
        step += 1 / RECALL_STEPS  # a running sum rounds as in the devkit, which decides ties
    return np.array(thresholds)


def _interpolated_curves(candidates: CandidateMatches) -> Array:
    """Return (2, 41) precision and orientation similarity at the recalls 0, 1/40, ..., 1."""
    min_scores = _recall_thresholds(true_positive_scores(candidates), candidates.num_ground_truth)
    true, false, _, similarity = count_matches(candidates, min_scores)
    curves = np.zeros((2, RECALL_STEPS + 1))
    curves[:, : len(min_scores)] = (
        safe_divide(true, true + false),
        safe_divide(similarity, true + false),
    )
    return np.maximum.accumulate(curves[:, ::-1], 1)[:, ::-1]
