"""
Calibration of detections: depth errors by distance, precision by score, coverage of depth sigma.

The loss losses.laplacian_nll_loss, sqrt(2) |error| / sigma + log(sigma), makes depth_sigma_m the
standard deviation sigma of a Laplace distribution with scale sigma / sqrt(2). The fraction of
errors within t sigma is then 1 - exp(-sqrt(2) t).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stl_core.evaluation.error_matching import match_by_box_iou
from stl_core.evaluation.kitti_matching import (
    Difficulty,
    candidate_matches,
    false_positive_scores,
    true_positive_scores,
)
from stl_core.evaluation.overlaps import JoinedFrames
from stl_core.types import Array, Labels

#: Ranges of true depth; KITTI labels end near 90 m.
DEPTH_EDGES_M = (0.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 100.0)

#: Fractions of errors at which sigma_coverage tests sigma.
COVERAGE_LEVELS = np.arange(1, 100) / 100

SCORE_BINS = 10


@dataclass(frozen=True)
class DepthSamples:
    """
    True depths, depth errors and predicted sigmas of M matched detections.

    :param class_name: (M,) in lower case.
    :param depth_m: (M,) of the label.
    :param error_m: (M,) detection less label.
    :param sigma_m: (M,) standard deviation of depth that the detector predicts; NaN where unknown.
    """

    class_name: Array
    depth_m: Array
    error_m: Array
    sigma_m: Array


@dataclass(frozen=True)
class DepthErrors:
    """
    Depth errors in one range of distance; all NaN except the count if there is no match.

    :param from_m: minimum true depth.
    :param to_m: true depth is below this.
    :param count: number of matched detections.
    :param bias_m: mean error; positive if the detections are too far away.
    :param mean_abs_m: mean of the absolute errors.
    :param median_abs_m: median of the absolute errors.
    :param relative: mean of the absolute errors, each divided by the true depth.
    :param within_5_percent: fraction of the errors up to 5 % of the true depth.
    """

    from_m: float
    to_m: float
    count: int
    bias_m: float
    mean_abs_m: float
    median_abs_m: float
    relative: float
    within_5_percent: float


@dataclass(frozen=True)
class ScoreReliability:
    """
    Precision of detections in S bins of score.

    :param edges: (S + 1,) edges of the bins; 0 to 1 unless scores leave that range.
    :param count: (S,) true and false positives, without ignored detections.
    :param mean_score: (S,) NaN in an empty bin.
    :param precision: (S,) fraction of true positives; NaN in an empty bin.
    """

    edges: Array
    count: Array
    mean_score: Array
    precision: Array

    @property
    def is_probability(self) -> bool:
        """Return whether scores stay within 0 to 1, so that they can be probabilities."""
        return (self.edges[0], self.edges[-1]) == (0.0, 1.0)

    @property
    def calibration_error(self) -> float:
        """Return the expected calibration error, mean |precision - score|; NaN if undefined."""
        if not self.count.sum() or not self.is_probability:
            return float('nan')
        full = self.count > 0
        gap = np.abs(self.precision - self.mean_score)[full]
        return float(np.average(gap, weights=self.count[full]))


@dataclass(frozen=True)
class SigmaCoverage:
    """
    Fractions of M depth errors within multiples of the predicted sigma, expected and observed.

    :param count: M.
    :param expected: (T,) fraction of the errors within t sigma by the Laplace distribution.
    :param observed: (T,) fraction observed; below expected where sigma is too small.
    :param fitting_factor: most likely factor for every sigma, the mean of sqrt(2) |error| / sigma;
        1 when sigma is right.
    """

    count: int
    expected: Array
    observed: Array
    fitting_factor: float

    @property
    def calibration_error(self) -> float:
        """Return the mean absolute calibration error: mean |observed - expected|, 0 to 0.5."""
        return float(np.abs(self.observed - self.expected).mean())


def depth_samples(
    ground_truth: Sequence[Labels],
    detections: Sequence[Labels],
    depth_sigmas_m: Sequence[Array] | None = None,
) -> DepthSamples:
    """
    Match every frame (see error_matching.py) and collect the depths of the matches.

    :param ground_truth: the labels of each frame.
    :param detections: the detections of the same frames in the same order.
    :param depth_sigmas_m: (N,) of each frame's detections, if known.
    :return: the samples, frame by frame.
    :raises ValueError: when the lists differ in length.
    """
    if depth_sigmas_m is None:
        depth_sigmas_m = [np.full(len(detected), np.nan) for detected in detections]
    columns: list[list[Array]] = [[np.zeros(0, np.str_)], *([np.zeros(0)] for _ in range(3))]
    for labels, detected, sigma_m in zip(ground_truth, detections, depth_sigmas_m, strict=True):
        i, j = match_by_box_iou(labels, detected)
        depth_m = labels.center_m[i, 2]
        matched = (
            detected.name[j],
            depth_m,
            detected.center_m[j, 2] - depth_m,
            np.asarray(sigma_m)[j],
        )
        for column, values in zip(columns, matched, strict=True):
            column.append(values)
    class_name, *rest = (np.concatenate(column) for column in columns)
    return DepthSamples(np.char.lower(class_name), *rest)


def filter_class(samples: DepthSamples, class_name: str) -> DepthSamples:
    """Return the samples of one class."""
    in_class = samples.class_name == class_name.lower()
    return DepthSamples(**{name: column[in_class] for name, column in vars(samples).items()})


def depth_errors(samples: DepthSamples, from_m: float, to_m: float) -> DepthErrors:
    """Summarise the errors of objects with true depth in [from_m, to_m)."""
    inside = (samples.depth_m >= from_m) & (samples.depth_m < to_m)
    depth_m, error_m = samples.depth_m[inside], samples.error_m[inside]
    if not len(error_m):
        return DepthErrors(from_m, to_m, 0, *[float('nan')] * 5)
    abs_error_m = np.abs(error_m)
    return DepthErrors(
        from_m=from_m,
        to_m=to_m,
        count=len(error_m),
        bias_m=float(error_m.mean()),
        mean_abs_m=float(abs_error_m.mean()),
        median_abs_m=float(np.median(abs_error_m)),
        relative=float((abs_error_m / depth_m).mean()),
        within_5_percent=float((abs_error_m <= 0.05 * depth_m).mean()),
    )


def score_reliability(
    frames: JoinedFrames, class_name: str, difficulty: Difficulty, min_iou3d: float
) -> ScoreReliability:
    """
    Compute the precision of detections by score, with the benchmark's matching in 3D.

    :param frames: labels and detections, see overlaps.pairwise_overlaps.
    :param class_name: any class name in the labels.
    :param difficulty: defines the objects that must be found; ignored detections are left out.
    :param min_iou3d: 3D IoU that a true positive must exceed.
    :return: SCORE_BINS bins of equal width.
    """
    candidates = candidate_matches(frames, class_name, difficulty, '3d', min_iou3d)
    tp_scores, fp_scores = true_positive_scores(candidates), false_positive_scores(candidates)
    score = np.concatenate([tp_scores, fp_scores])
    edges = np.linspace(score.min(initial=0.0), score.max(initial=1.0), SCORE_BINS + 1)
    counts, _ = np.histogram(score, edges)
    sums, _ = np.histogram(score, edges, weights=score)
    hits, _ = np.histogram(tp_scores, edges)
    with np.errstate(invalid='ignore'):
        return ScoreReliability(edges, counts, sums / counts, hits / counts)


def sigma_coverage(samples: DepthSamples) -> SigmaCoverage:
    """
    Compare the predicted sigma of depth with the errors.

    :param samples: at least one, each with a positive sigma.
    :return: coverage at COVERAGE_LEVELS.
    :raises ValueError: for no samples, or a sigma that is not positive.
    """
    if not len(samples.error_m) or not (samples.sigma_m > 0).all():
        raise ValueError(
            f'expected samples with a positive sigma, got {len(samples.sigma_m)} samples,'
            f' {int((samples.sigma_m > 0).sum())} of them positive'
        )
    scaled = np.sqrt(2) * np.abs(samples.error_m) / samples.sigma_m
    scaled_bounds = -np.log1p(-COVERAGE_LEVELS)
    observed = np.searchsorted(np.sort(scaled), scaled_bounds, 'right') / len(scaled)
    return SigmaCoverage(len(scaled), COVERAGE_LEVELS, observed, float(scaled.mean()))
