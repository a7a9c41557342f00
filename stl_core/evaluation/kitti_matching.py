"""
Matching of detections with labels as in the KITTI object benchmark.

average_precision.py describes the rules. This module implements them as candidate pairs, the
devkit's greedy order, and counts. It matches all frames, and any number of score thresholds, at
once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stl_core.evaluation.overlaps import JoinedFrames, rank_in_run
from stl_core.types import Array, Labels

#: Class -> similar class: a detection of the first on an object of the second costs nothing.
SIMILAR_CLASSES = {'Car': 'Van', 'Pedestrian': 'Person_sitting'}


@dataclass(frozen=True)
class Difficulty:
    """
    Limits of the labelled objects that must be found.

    :param min_height_px: minimum height of the 2D box.
    :param max_occluded: maximum occlusion state.
    :param max_truncated: maximum fraction outside the image.
    """

    min_height_px: float
    max_occluded: int
    max_truncated: float


EASY = Difficulty(min_height_px=40, max_occluded=0, max_truncated=0.15)
MODERATE = Difficulty(min_height_px=25, max_occluded=1, max_truncated=0.30)
HARD = Difficulty(min_height_px=25, max_occluded=2, max_truncated=0.50)
DIFFICULTIES = {'easy': EASY, 'moderate': MODERATE, 'hard': HARD}


def meets_difficulty(labels: Labels, difficulty: Difficulty) -> Array:
    """Return (N,) bool, whether a label of an evaluated class must be found at a difficulty."""
    return (
        (labels.box_px[:, 3] - labels.box_px[:, 1] >= difficulty.min_height_px)
        & (labels.occluded <= difficulty.max_occluded)
        & (labels.truncated <= difficulty.max_truncated)
    )


@dataclass(frozen=True)
class CandidateMatches:
    """
    Candidate pairs for one class, difficulty, metric and IoU: E pairs with sufficient overlap.

    :param label_index: (E,) index of the label, ascending.
    :param label_rank: (E,) rank of that label among the labels of its frame.
    :param detection_index: (E,) index of the detection.
    :param score: (E,) of the detection.
    :param cost: (E,) -IoU; 0 for ignored detections, which the devkit takes in file order.
    :param credit: (4, E) increments of the counts by a match: true positives, potential false
        positives that match, required labels that are found, similarity of the alphas.
    :param num_ground_truth: number of labels that must be found.
    :param potential_fp_scores: ascending scores of the detections that are false positives unless
        they match.
    """

    label_index: Array
    label_rank: Array
    detection_index: Array
    score: Array
    cost: Array
    credit: Array
    num_ground_truth: int
    potential_fp_scores: Array


def candidate_matches(
    frames: JoinedFrames, class_name: str, difficulty: Difficulty, metric: str, min_iou: float
) -> CandidateMatches:
    """
    Return the pairs that can match, and what each match adds to the counts.

    :param frames: labels and detections, see overlaps.pairwise_overlaps.
    :param class_name: any class name in the labels.
    :param difficulty: defines the objects that must be found.
    :param metric: 'bbox', 'bev' or '3d'.
    :param min_iou: the IoU that a match must exceed.
    :return: the pairs.
    """
    labels, detections = frames.ground_truth, frames.detections
    in_class = labels.name == class_name.lower()
    required = in_class & meets_difficulty(labels, difficulty)
    matchable = in_class | (labels.name == SIMILAR_CLASSES.get(class_name, class_name).lower())
    # A low detection is ignored whatever its class, and then it can take an object of this class.
    ignored = np.abs(detections.box_px[:, 3] - detections.box_px[:, 1]) < difficulty.min_height_px
    counted = (detections.name == class_name.lower()) & ~ignored
    potential_fp = counted & (frames.dont_care_fraction[metric] <= min_iou)
    a, b, iou = frames.overlaps[metric]
    allowed = (iou > min_iou) & matchable[a] & (counted | ignored)[b]
    a, b, iou = a[allowed], b[allowed], iou[allowed]
    true_positive = required[a] & counted[b]
    similarity = true_positive * (1 + np.cos(labels.alpha[a] - detections.alpha[b])) / 2
    rows, label = np.unique(a, return_inverse=True)
    return CandidateMatches(
        label_index=label,
        label_rank=rank_in_run(frames.frame_index[rows])[label],
        detection_index=np.unique(b, return_inverse=True)[1],
        score=detections.score[b],
        cost=np.where(ignored[b], 0.0, -iou),
        credit=np.array([true_positive, potential_fp[b], required[a], similarity], np.float64),
        num_ground_truth=int(required.sum()),
        potential_fp_scores=np.sort(detections.score[potential_fp]),
    )


def true_positive_scores(candidates: CandidateMatches) -> Array:
    """Match by highest score and return the scores of the true positives."""
    return candidates.score[_match_by_score(candidates) & (candidates.credit[0] > 0)]


def false_positive_scores(candidates: CandidateMatches) -> Array:
    """Match by highest score and return the ascending scores of the false positives."""
    matched = candidates.score[_match_by_score(candidates) & (candidates.credit[1] > 0)]
    scores, counts = np.unique(candidates.potential_fp_scores, return_counts=True)
    num_matched = np.bincount(np.searchsorted(scores, matched), minlength=len(scores))
    return np.repeat(scores, counts - num_matched)


def count_matches(
    candidates: CandidateMatches, min_scores: Array
) -> tuple[Array, Array, Array, Array]:
    """
    Match by greatest overlap at each of T score thresholds, and count.

    :param candidates: pairs from candidate_matches.
    :param min_scores: (T,) detections with a lower score are left out.
    :return: (T,) true positives, false positives, missed labels, summed similarity.
    """
    match = _match_greedily(candidates, candidates.cost, candidates.score[:, None] >= min_scores)
    # einsum, because @ uses BLAS threads, ten times slower on a busy processor.
    true, matched_fp, found, similarity = np.einsum('ke,et->kt', candidates.credit, match)
    potential_fp = len(candidates.potential_fp_scores) - np.searchsorted(
        candidates.potential_fp_scores, min_scores
    )
    return true, potential_fp - matched_fp, candidates.num_ground_truth - found, similarity


def _match_by_score(candidates: CandidateMatches) -> Array:
    """Return (E,) matching pairs when labels prefer high scores and all detections count."""
    return _match_greedily(
        candidates, -candidates.score, np.ones((len(candidates.score), 1), bool)
    )[:, 0]


def _match_greedily(candidates: CandidateMatches, cost: Array, allowed: Array) -> Array:
    """
    Match each label in turn with its cheapest detection that is still free.

    :param cost: (E,) a label takes the lowest; of equal ones, the first in the file.
    :param allowed: (E, T) whether the pair may match, in each of T independent trials.
    :return: (E, T) whether the pair matches.
    """
    order = np.lexsort((cost, candidates.label_index))
    choice = np.empty_like(order)
    choice[order] = rank_in_run(candidates.label_index)  # label_index ascends: order keeps it
    # A round is the n-th choice of the m-th label of every frame. No two of its pairs share a
    # label or a detection, so one round handles all frames and trials at once.
    round_number = candidates.label_rank * (choice.max(initial=0) + 1) + choice
    by_round = np.argsort(round_number, kind='stable')
    match = np.zeros_like(allowed)
    label_taken = np.zeros((candidates.label_index.max(initial=-1) + 1, allowed.shape[1]), bool)
    detection_taken = np.zeros(
        (candidates.detection_index.max(initial=-1) + 1, allowed.shape[1]), bool
    )
    for pairs in np.split(by_round, np.flatnonzero(np.diff(round_number[by_round])) + 1):
        label, detection = candidates.label_index[pairs], candidates.detection_index[pairs]
        matched = allowed[pairs] & ~(label_taken[label] | detection_taken[detection])
        match[pairs] = matched
        label_taken[label] |= matched
        detection_taken[detection] |= matched
    return match
