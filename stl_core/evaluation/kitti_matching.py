"""
Which detection finds which labelled object: the matching of the KITTI object benchmark.

The rules are told in evaluate.py. Here they become pairs that can match, the devkit's greedy
order, and counts. All frames, and any number of score thresholds, are matched at once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stl_core.evaluation.overlaps import JoinedFrames, rank_in_run
from stl_core.types import Array

#: Classes so alike that finding one for the other is no mistake.
SIMILAR_CLASSES = {'Car': 'Van', 'Pedestrian': 'Person_sitting'}


@dataclass(frozen=True)
class Difficulty:
    """
    Which labelled objects must be found.

    :param min_height_px: least height of the 2D box.
    :param max_occluded: greatest occlusion state.
    :param max_truncated: greatest fraction outside the image.
    """

    min_height_px: float
    max_occluded: int
    max_truncated: float


EASY = Difficulty(min_height_px=40, max_occluded=0, max_truncated=0.15)
MODERATE = Difficulty(min_height_px=25, max_occluded=1, max_truncated=0.30)
HARD = Difficulty(min_height_px=25, max_occluded=2, max_truncated=0.50)
DIFFICULTIES = (EASY, MODERATE, HARD)


@dataclass(frozen=True)
class CandidateMatches:
    """
    What can match for one class, difficulty, metric and IoU: E pairs that overlap enough.

    :param label_index: (E,) number of the label, ascending.
    :param label_rank: (E,) place of that label among those of its frame.
    :param detection_index: (E,) number of the detection.
    :param score: (E,) of the detection.
    :param cost: (E,) lowest for the pair with the best overlap; highest, and equal, for all
        detections that are ignored: of them the devkit takes the first.
    :param credit: (4, E) what a match adds: true positives, detections that are no false
        positives after all, labels that had to be found, similarity of the alphas.
    :param num_ground_truth: how many labels must be found.
    :param potential_fp_scores: ascending scores of the detections that are false unless they
        match.
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
    Pick the pairs that can match, and tell what each match is worth.

    :param frames: labels and detections, see pairs.compare.
    :param class_name: any class that the labels name.
    :param difficulty: which objects must be found.
    :param metric: 'bbox', 'bev' or '3d'.
    :param min_iou: the IoU that a match must exceed.
    :return: the pairs.
    """
    truth, found = frames.ground_truth, frames.detections
    own = truth.name == class_name.lower()
    wanted = (
        own
        & (truth.box_px[:, 3] - truth.box_px[:, 1] >= difficulty.min_height_px)
        & (truth.occluded <= difficulty.max_occluded)
        & (truth.truncated <= difficulty.max_truncated)
    )
    may_match = own | (truth.name == SIMILAR_CLASSES.get(class_name, class_name).lower())
    # A low detection is ignored whatever its class, and then it can take an object of this class.
    ignored = np.abs(found.box_px[:, 3] - found.box_px[:, 1]) < difficulty.min_height_px
    counted = (found.name == class_name.lower()) & ~ignored
    suspect = counted & (frames.dont_care_fraction <= min_iou) if metric == 'bbox' else counted
    a, b, iou = frames.overlaps[metric]
    can = (iou > min_iou) & may_match[a] & (counted | ignored)[b]
    a, b, iou = a[can], b[can], iou[can]
    true = wanted[a] & counted[b]
    similarity = true * (1 + np.cos(truth.alpha[a] - found.alpha[b])) / 2
    rows, label = np.unique(a, return_inverse=True)
    return CandidateMatches(
        label_index=label,
        label_rank=rank_in_run(frames.frame_index[rows])[label],
        detection_index=np.unique(b, return_inverse=True)[1],
        score=found.score[b],
        cost=np.where(ignored[b], 0.0, -iou),
        credit=np.array([true, suspect[b], wanted[a], similarity], np.float64),
        num_ground_truth=int(wanted.sum()),
        potential_fp_scores=np.sort(found.score[suspect]),
    )


def true_positive_scores(candidates: CandidateMatches) -> Array:
    """Match by best score and return the scores of the true positives."""
    return candidates.score[_match_by_score(candidates) & (candidates.credit[0] > 0)]


def false_positive_scores(candidates: CandidateMatches) -> Array:
    """Match by best score and return the scores, ascending, of the false positives."""
    excused = candidates.score[_match_by_score(candidates) & (candidates.credit[1] > 0)]
    scores, counts = np.unique(candidates.potential_fp_scores, return_counts=True)
    excuses = np.bincount(np.searchsorted(scores, excused), minlength=len(scores))
    return np.repeat(scores, counts - excuses)


def count_matches(
    candidates: CandidateMatches, min_scores: Array
) -> tuple[Array, Array, Array, Array]:
    """
    Match by best overlap, with the detections of at least each of T scores.

    :return: (T,) true positives, false positives, labels missed, summed similarity.
    """
    match = _match_greedily(candidates, candidates.cost, candidates.score[:, None] >= min_scores)
    # einsum, for @ goes to BLAS threads, ten times slower when other work has the processor.
    true, excused, hit, similarity = np.einsum('ke,et->kt', candidates.credit, match)
    suspects = len(candidates.potential_fp_scores) - np.searchsorted(
        candidates.potential_fp_scores, min_scores
    )
    return true, suspects - excused, candidates.num_ground_truth - hit, similarity


def _match_by_score(candidates: CandidateMatches) -> Array:
    """(E,) the pairs that match when labels like high scores best and all detections count."""
    return _match_greedily(
        candidates, -candidates.score, np.ones((len(candidates.score), 1), bool)
    )[:, 0]


def _match_greedily(candidates: CandidateMatches, cost: Array, allowed: Array) -> Array:
    """
    Let each label in turn take the detection it likes best of those that are left.

    :param cost: (E,) a label takes the lowest; of equals, the first in the file.
    :param allowed: (E, T) whether the pair may match, in each of T separate trials.
    :return: (E, T) the pairs that match.
    """
    order = np.lexsort((cost, candidates.label_index))
    choice = np.empty_like(order)
    choice[order] = rank_in_run(
        candidates.label_index
    )  # ascending, so the order leaves it as it is
    # A round is the n-th choice of the m-th label of every frame: no two of its pairs share a
    # label or a detection, so all frames and trials go at once.
    number = candidates.label_rank * (choice.max(initial=0) + 1) + choice
    rounds = np.argsort(number, kind='stable')
    match = np.zeros_like(allowed)
    served = np.zeros((candidates.label_index.max(initial=-1) + 1, allowed.shape[1]), bool)
    taken = np.zeros((candidates.detection_index.max(initial=-1) + 1, allowed.shape[1]), bool)
    for pairs in np.split(rounds, np.flatnonzero(np.diff(number[rounds])) + 1):
        label, detection = candidates.label_index[pairs], candidates.detection_index[pairs]
        won = allowed[pairs] & ~(served[label] | taken[detection])
        match[pairs] = won
        served[label] |= won
        taken[detection] |= won
    return match
