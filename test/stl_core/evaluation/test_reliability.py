"""Depth errors, score and sigma calibration, compared with results by hand or in closed form."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from street_labels import P2, farther, scored, street

from stl_core.evaluation.kitti_matching import MODERATE
from stl_core.evaluation.overlaps import pairwise_overlaps
from stl_core.evaluation.reliability import (
    COVERAGE_LEVELS,
    DepthSamples,
    depth_errors,
    depth_samples,
    filter_class,
    score_reliability,
    sigma_coverage,
)


def samples(depth_m, error_m, sigma_m=None):
    count = len(error_m)
    return DepthSamples(
        class_name=np.full(count, 'car'),
        depth_m=np.asarray(depth_m, float),
        error_m=np.asarray(error_m, float),
        sigma_m=np.full(count, np.nan) if sigma_m is None else np.asarray(sigma_m, float),
    )


def test_depth_errors_by_hand():
    errors = samples([10, 12, 19.9, 20], [1.0, -0.6, 0.4, 9.0])
    near = depth_errors(errors, 10, 20)
    assert (near.from_m, near.to_m, near.count) == (10, 20, 3)
    assert near.bias_m == pytest.approx(0.8 / 3)
    assert near.mean_abs_m == pytest.approx(2.0 / 3)
    assert near.median_abs_m == pytest.approx(0.6)
    assert near.relative == pytest.approx((0.1 + 0.05 + 0.4 / 19.9) / 3)
    assert near.within_5_percent == pytest.approx(2 / 3)
    assert depth_errors(errors, 20, np.inf).bias_m == 9
    empty = depth_errors(errors, 30, 40)
    assert empty.count == 0
    assert np.isnan([empty.bias_m, empty.mean_abs_m, empty.within_5_percent]).all()


def test_the_bias_of_a_biased_depth():
    labels = street(np.random.default_rng(0), 20)
    detections = [farther(each, 1.08, P2) for each in labels]
    cars = filter_class(depth_samples(labels, detections), 'Car')
    row = depth_errors(cars, 0, np.inf)
    mean_depth = np.concatenate([each.center_m[:, 2] for each in labels]).mean()
    assert row.count == 80
    assert row.bias_m == pytest.approx(0.08 * mean_depth)
    assert row.relative == pytest.approx(0.08)
    assert row.within_5_percent == 0


def test_samples_keep_class_and_sigma_of_their_detection():
    rng = np.random.default_rng(1)
    labels = [*street(rng, 2), *street(rng, 1, 'Cyclist')]
    detections = [each[::-1] for each in scored(rng, labels)]
    sigmas = [each.center_m[:, 2] / 10 for each in detections]
    joined = depth_samples(labels, detections, sigmas)
    assert not joined.error_m.any()
    np.testing.assert_allclose(joined.sigma_m, joined.depth_m / 10)
    assert [len(filter_class(joined, name).depth_m) for name in ('Car', 'Cyclist', 'Van')] == [
        8,
        4,
        0,
    ]
    assert np.isnan(depth_samples(labels, detections).sigma_m).all()
    assert not len(depth_samples([], []).error_m)
    with pytest.raises(ValueError):
        depth_samples(labels, detections[:2])


def laplace(rng, count):
    """Return depth errors that follow their sigma, which differs between objects."""
    sigma_m = rng.uniform(0.1, 5, count)
    return samples(np.full(count, 30), rng.laplace(scale=sigma_m / np.sqrt(2)), sigma_m)


def test_laplace_errors_lie_on_the_diagonal():
    coverage = sigma_coverage(laplace(np.random.default_rng(2), 100_000))
    np.testing.assert_allclose(coverage.observed, coverage.expected, atol=0.006)
    assert coverage.calibration_error < 0.004
    assert coverage.fitting_factor == pytest.approx(1, abs=0.01)
    assert (coverage.count, len(coverage.expected)) == (100_000, len(COVERAGE_LEVELS))


@pytest.mark.parametrize('factor', [0.5, 3.0])
def test_a_wrong_sigma_leaves_the_diagonal_as_the_distribution_predicts(factor):
    """Coverage of scaled sigmas equals scipy's Laplace distribution; the factor corrects them."""
    calibrated = laplace(np.random.default_rng(3), 100_000)
    coverage = sigma_coverage(replace(calibrated, sigma_m=calibrated.sigma_m / factor))
    bounds = stats.laplace.ppf((1 + COVERAGE_LEVELS) / 2)
    expected = 2 * stats.laplace.cdf(bounds / factor) - 1
    np.testing.assert_allclose(coverage.observed, expected, atol=0.006)
    assert coverage.calibration_error == pytest.approx(
        np.abs(expected - COVERAGE_LEVELS).mean(), abs=0.004
    )
    assert coverage.fitting_factor == pytest.approx(factor, rel=0.01)
    assert (coverage.observed < coverage.expected).all() == (factor > 1)


def test_the_sigma_of_minimum_loss_has_factor_one():
    """The depth loss is minimal where the most likely factor of sigma is 1."""
    torch = pytest.importorskip('torch')
    from stl_core.models.losses import laplacian_nll_loss
    from stl_core.tensors.reductions import SINGLE_PART

    error = torch.as_tensor(np.random.default_rng(4).normal(size=(1, 500)))
    sigmas = np.linspace(0.5, 2, 1501)
    zero, valid = torch.zeros_like(error), torch.ones_like(error, dtype=torch.bool)
    losses = [
        float(laplacian_nll_loss(error, log_sigma, zero, valid, SINGLE_PART))
        for log_sigma in torch.from_numpy(np.log(sigmas))
    ]
    best = sigmas[np.argmin(losses)]
    best_samples = samples(np.full(500, 30), error[0].numpy(), np.full(500, best))
    assert sigma_coverage(best_samples).fitting_factor == pytest.approx(1, abs=1e-3)


def test_coverage_requires_a_positive_sigma():
    with pytest.raises(ValueError, match='got 2 samples, 1 of them positive'):
        sigma_coverage(samples([30, 30], [1, 1], [1, 0]))
    with pytest.raises(ValueError, match='got 0 samples'):
        sigma_coverage(samples([], []))


def scene(scores, right):
    """Return frames of cars with these scores; detections that are not right stand 5 m too far."""
    labels = street(np.random.default_rng(5), len(scores) // 4)
    detections = []
    for number, each in enumerate(labels):
        rows = slice(4 * number, 4 * number + 4)
        shift = np.where(right[rows], 0, 5)[:, None] * [0, 0, 1]
        detections.append(replace(each, score=scores[rows], center_m=each.center_m + shift))
    return pairwise_overlaps(labels, detections)


def test_reliability_of_scores_by_hand():
    scores = np.array([0.05, 0.15, 0.15, 0.15, 0.15, 0.92, 0.94, 1.0])
    right = np.array([False, True, False, False, False, True, True, False])
    reliability = score_reliability(scene(scores, right), 'Car', MODERATE, 0.7)
    np.testing.assert_allclose(reliability.edges, np.linspace(0, 1, 11))
    assert reliability.count.tolist() == [1, 4, 0, 0, 0, 0, 0, 0, 0, 3]
    filled = reliability.count > 0
    np.testing.assert_allclose(reliability.mean_score[filled], [0.05, 0.15, 2.86 / 3])
    np.testing.assert_allclose(reliability.precision[filled], [0, 0.25, 2 / 3])
    assert np.isnan(reliability.precision[~filled]).all()
    expected = (1 * 0.05 + 4 * 0.10 + 3 * (2.86 / 3 - 2 / 3)) / 8
    assert reliability.calibration_error == pytest.approx(expected)


def test_scores_equal_to_precision_have_no_calibration_error():
    rng = np.random.default_rng(6)
    scores = rng.uniform(0, 1, 8000)
    reliability = score_reliability(scene(scores, rng.random(8000) < scores), 'Car', MODERATE, 0.7)
    assert reliability.count.sum() == 8000
    assert reliability.calibration_error < 0.03


def test_scores_above_one_are_no_probabilities():
    scores = np.array([-2.0, 0.5, 7.0, 18.0])
    reliability = score_reliability(scene(scores, np.ones(4, bool)), 'Car', MODERATE, 0.7)
    assert (reliability.edges[0], reliability.edges[-1], reliability.count.sum()) == (-2, 18, 4)
    assert not reliability.is_probability
    assert np.isnan(reliability.calibration_error)
    empty = score_reliability(scene(scores, np.ones(4, bool)), 'Cyclist', MODERATE, 0.5)
    assert empty.count.sum() == 0
    assert np.isnan(empty.calibration_error)
