"""
How far detections can be believed: depth by distance, score and sigma against what came true.

depth_sigma_m is what losses.laplacian_nll makes of it, sqrt(2) |error| / sigma + log(sigma): a
Laplace law of standard deviation sigma, whose scale is sigma / sqrt(2). A share
1 - exp(-sqrt(2) t) of the errors then lies within t sigma.
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

#: Shares of errors at which sigma is tested.
COVERAGE_LEVELS = np.arange(1, 100) / 100

SCORE_BINS = 10


@dataclass(frozen=True)
class DepthSamples:
    """
    The depths of M matched detections.

    :param class_name: (M,) in lower case.
    :param depth_m: (M,) of the label.
    :param error_m: (M,) detection less label.
    :param sigma_m: (M,) standard deviation of depth as the detector sees it; NaN where unknown.
    """

    class_name: Array
    depth_m: Array
    error_m: Array
    sigma_m: Array


@dataclass(frozen=True)
class DepthErrors:
    """
    Depth errors in one range of distance; all NaN but the count where nothing was matched.

    :param from_m: least true depth.
    :param to_m: true depth is below this.
    :param count: matched detections.
    :param bias_m: mean error; positive where objects are seen too far away.
    :param mean_abs_m: mean of the absolute errors.
    :param median_abs_m: median of the absolute errors.
    :param relative: mean of the absolute errors, each divided by the true depth.
    :param within_5_percent: share of the errors up to 5 % of the true depth.
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
    How often detections of like score are right.

    :param edges: (S + 1,) scores between which the bins lie; 0 to 1 unless scores leave it.
    :param count: (S,) detections that are true or false, ignored ones left out.
    :param mean_score: (S,) NaN in an empty bin.
    :param precision: (S,) share of true ones; NaN in an empty bin.
    """

    edges: Array
    count: Array
    mean_score: Array
    precision: Array

    @property
    def is_probability(self) -> bool:
        """Tell whether scores stay within 0 to 1, so that one could be a precision."""
        return (self.edges[0], self.edges[-1]) == (0.0, 1.0)

    @property
    def calibration_error(self) -> float:
        """Expected calibration error, the mean of |precision - score|; NaN unless is_share."""
        if not self.count.sum() or not self.is_probability:
            return float('nan')
        full = self.count > 0
        gap = np.abs(self.precision - self.mean_score)[full]
        return float(np.average(gap, weights=self.count[full]))


@dataclass(frozen=True)
class SigmaCoverage:
    """
    How many depth errors lie within what sigma promises, M errors.

    :param count: M.
    :param expected: (T,) share of the errors within t sigma by the Laplace law.
    :param observed: (T,) share that is there; below expected where sigma is too small.
    :param fitting_factor: what every sigma must be multiplied by to be most likely, the mean of
        sqrt(2) |error| / sigma; 1 when sigma is right.
    """

    count: int
    expected: Array
    observed: Array
    fitting_factor: float

    @property
    def calibration_error(self) -> float:
        """Mean absolute calibration error: mean |observed - expected|, 0 to 0.5."""
        return float(np.abs(self.observed - self.expected).mean())


def depth_samples(
    ground_truth: Sequence[Labels],
    detections: Sequence[Labels],
    depth_sigmas_m: Sequence[Array] | None = None,
) -> DepthSamples:
    """
    Match every frame (see matching.py) and gather what concerns depth.

    :param ground_truth: the labels of each frame.
    :param detections: the detections of the same frames in the same order.
    :param depth_sigmas_m: (N,) of each frame's detections, where they are known.
    :return: the samples, frame by frame.
    :raises ValueError: when the lists differ in length.
    """
    if depth_sigmas_m is None:
        depth_sigmas_m = [np.full(len(found), np.nan) for found in detections]
    columns: list[list[Array]] = [[np.zeros(0, np.str_)], *([np.zeros(0)] for _ in range(3))]
    for truth, found, sigma_m in zip(ground_truth, detections, depth_sigmas_m, strict=True):
        i, j = match_by_box_iou(truth, found)
        depth_m = truth.center_m[i, 2]
        new = (found.name[j], depth_m, found.center_m[j, 2] - depth_m, np.asarray(sigma_m)[j])
        for column, values in zip(columns, new, strict=True):
            column.append(values)
    class_name, *rest = (np.concatenate(column) for column in columns)
    return DepthSamples(np.char.lower(class_name), *rest)


def filter_class(samples: DepthSamples, class_name: str) -> DepthSamples:
    """Return the samples of one class."""
    own = samples.class_name == class_name.lower()
    return DepthSamples(**{name: column[own] for name, column in vars(samples).items()})


def depth_errors(samples: DepthSamples, from_m: float, to_m: float) -> DepthErrors:
    """Sum up the errors of objects between two true depths."""
    inside = (samples.depth_m >= from_m) & (samples.depth_m < to_m)
    depth_m, error_m = samples.depth_m[inside], samples.error_m[inside]
    if not len(error_m):
        return DepthErrors(from_m, to_m, 0, *[float('nan')] * 5)
    away_m = np.abs(error_m)
    return DepthErrors(
        from_m=from_m,
        to_m=to_m,
        count=len(error_m),
        bias_m=float(error_m.mean()),
        mean_abs_m=float(away_m.mean()),
        median_abs_m=float(np.median(away_m)),
        relative=float((away_m / depth_m).mean()),
        within_5_percent=float((away_m <= 0.05 * depth_m).mean()),
    )


def score_reliability(
    frames: JoinedFrames, class_name: str, difficulty: Difficulty, min_iou3d: float
) -> ScoreReliability:
    """
    Compare scores with how often they are right, by the benchmark's matching in 3D.

    :param frames: labels and detections, see pairs.compare.
    :param class_name: any class that the labels name.
    :param difficulty: what counts; detections that it ignores are left out.
    :param min_iou3d: 3D IoU that a true positive must exceed.
    :return: SCORE_BINS bins of equal width.
    """
    contest = candidate_matches(frames, class_name, difficulty, '3d', min_iou3d)
    right, wrong = true_positive_scores(contest), false_positive_scores(contest)
    score = np.concatenate([right, wrong])
    edges = np.linspace(score.min(initial=0.0), score.max(initial=1.0), SCORE_BINS + 1)
    counts, _ = np.histogram(score, edges)
    sums, _ = np.histogram(score, edges, weights=score)
    hits, _ = np.histogram(right, edges)
    with np.errstate(invalid='ignore'):
        return ScoreReliability(edges, counts, sums / counts, hits / counts)


def sigma_coverage(samples: DepthSamples) -> SigmaCoverage:
    """
    Test the predicted sigma of depth against the errors.

    :param samples: at least one, each with a positive sigma.
    :return: coverage at COVERAGES.
    :raises ValueError: for no samples, or a sigma that is not positive.
    """
    if not len(samples.error_m) or not (samples.sigma_m > 0).all():
        raise ValueError(
            f'expected samples with a positive sigma, got {len(samples.sigma_m)} samples,'
            f' {int((samples.sigma_m > 0).sum())} of them positive'
        )
    scaled = np.sqrt(2) * np.abs(samples.error_m) / samples.sigma_m
    reach = -np.log1p(-COVERAGE_LEVELS)
    observed = np.searchsorted(np.sort(scaled), reach, 'right') / len(scaled)
    return SigmaCoverage(len(scaled), COVERAGE_LEVELS, observed, float(scaled.mean()))
