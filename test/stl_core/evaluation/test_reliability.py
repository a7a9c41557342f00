"""What is said of depth, score and sigma, against answers known by hand or in closed form."""

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
    own = samples([10, 12, 19.9, 20], [1.0, -0.6, 0.4, 9.0])
    near = depth_errors(own, 10, 20)
    assert (near.from_m, near.to_m, near.count) == (10, 20, 3)
    assert near.bias_m == pytest.approx(0.8 / 3)
    assert near.mean_abs_m == pytest.approx(2.0 / 3)
    assert near.median_abs_m == pytest.approx(0.6)
    assert near.relative == pytest.approx((0.1 + 0.05 + 0.4 / 19.9) / 3)
    assert near.within_5_percent == pytest.approx(2 / 3)
    assert depth_errors(own, 20, np.inf).bias_m == 9
    nothing = depth_errors(own, 30, 40)
    assert nothing.count == 0
    assert np.isnan([nothing.bias_m, nothing.mean_abs_m, nothing.within_5_percent]).all()


def test_a_biased_depth_shows_its_bias():
    truth = street(np.random.default_rng(0), 20)
    found = [farther(each, 1.08, P2) for each in truth]
    own = filter_class(depth_samples(truth, found), 'Car')
    row = depth_errors(own, 0, np.inf)
    mean_depth = np.concatenate([each.center_m[:, 2] for each in truth]).mean()
    assert row.count == 80
    assert row.bias_m == pytest.approx(0.08 * mean_depth)
    assert row.relative == pytest.approx(0.08)
    assert row.within_5_percent == 0


def test_samples_keep_class_and_sigma_of_their_detection():
    rng = np.random.default_rng(1)
    truth = [*street(rng, 2), *street(rng, 1, 'Cyclist')]
    found = [each[::-1] for each in scored(rng, truth)]
    sigmas = [each.center_m[:, 2] / 10 for each in found]
    joined = depth_samples(truth, found, sigmas)
    assert not joined.error_m.any()
    np.testing.assert_allclose(joined.sigma_m, joined.depth_m / 10)
    assert [len(filter_class(joined, name).depth_m) for name in ('Car', 'Cyclist', 'Van')] == [
        8,
        4,
        0,
    ]
    assert np.isnan(depth_samples(truth, found).sigma_m).all()
    assert not len(depth_samples([], []).error_m)
    with pytest.raises(ValueError):
        depth_samples(truth, found[:2])


def laplace(rng, count):
    """Depth errors that obey their sigma, which differs from object to object."""
    sigma_m = rng.uniform(0.1, 5, count)
    return samples(np.full(count, 30), rng.laplace(scale=sigma_m / np.sqrt(2)), sigma_m)


def test_laplace_errors_lie_on_the_diagonal():
    covered = sigma_coverage(laplace(np.random.default_rng(2), 100_000))
    np.testing.assert_allclose(covered.observed, covered.expected, atol=0.006)
    assert covered.calibration_error < 0.004
    assert covered.fitting_factor == pytest.approx(1, abs=0.01)
    assert (covered.count, len(covered.expected)) == (100_000, len(COVERAGE_LEVELS))


@pytest.mark.parametrize('factor', [0.5, 3.0])
def test_a_wrong_sigma_leaves_the_diagonal_as_the_law_says(factor):
    """Coverage of scaled sigmas against scipy's Laplace law; the factor mends them."""
    own = laplace(np.random.default_rng(3), 100_000)
    covered = sigma_coverage(replace(own, sigma_m=own.sigma_m / factor))
    reach = stats.laplace.ppf((1 + COVERAGE_LEVELS) / 2)
    expected = 2 * stats.laplace.cdf(reach / factor) - 1
    np.testing.assert_allclose(covered.observed, expected, atol=0.006)
    assert covered.calibration_error == pytest.approx(
        np.abs(expected - COVERAGE_LEVELS).mean(), abs=0.004
    )
    assert covered.fitting_factor == pytest.approx(factor, rel=0.01)
    assert (covered.observed < covered.expected).all() == (factor > 1)


def test_the_sigma_that_training_asks_for_has_factor_one():
    """The loss of depth is least where the most likely factor of sigma is 1."""
    torch = pytest.importorskip('torch')
    from stl_core.models.losses import laplacian_nll_loss

    error = torch.as_tensor(np.random.default_rng(4).normal(size=(1, 500)))
    sigmas = np.linspace(0.5, 2, 1501)
    zero, valid = torch.zeros_like(error), torch.ones_like(error, dtype=torch.bool)
    told = [
        float(laplacian_nll_loss(error, torch.full_like(error, np.log(s)), zero, valid))
        for s in sigmas
    ]
    best = sigmas[np.argmin(told)]
    own = samples(np.full(500, 30), error[0].numpy(), np.full(500, best))
    assert sigma_coverage(own).fitting_factor == pytest.approx(1, abs=1e-3)


def test_coverage_asks_for_a_sigma():
    with pytest.raises(ValueError, match='got 2 samples, 1 of them positive'):
        sigma_coverage(samples([30, 30], [1, 1], [1, 0]))
    with pytest.raises(ValueError, match='got 0 samples'):
        sigma_coverage(samples([], []))


def scene(scores, right):
    """Cars of which some detections stand 5 m too far, with these scores."""
    truth = street(np.random.default_rng(5), len(scores) // 4)
    found = []
    for number, each in enumerate(truth):
        here = slice(4 * number, 4 * number + 4)
        shift = np.where(right[here], 0, 5)[:, None] * [0, 0, 1]
        found.append(replace(each, score=scores[here], center_m=each.center_m + shift))
    return pairwise_overlaps(truth, found)


def test_reliability_of_scores_by_hand():
    scores = np.array([0.05, 0.15, 0.15, 0.15, 0.15, 0.92, 0.94, 1.0])
    right = np.array([False, True, False, False, False, True, True, False])
    found = score_reliability(scene(scores, right), 'Car', MODERATE, 0.7)
    np.testing.assert_allclose(found.edges, np.linspace(0, 1, 11))
    assert found.count.tolist() == [1, 4, 0, 0, 0, 0, 0, 0, 0, 3]
    full = found.count > 0
    np.testing.assert_allclose(found.mean_score[full], [0.05, 0.15, 2.86 / 3])
    np.testing.assert_allclose(found.precision[full], [0, 0.25, 2 / 3])
    assert np.isnan(found.precision[~full]).all()
    expected = (1 * 0.05 + 4 * 0.10 + 3 * (2.86 / 3 - 2 / 3)) / 8
    assert found.calibration_error == pytest.approx(expected)


def test_scores_that_say_their_precision_have_no_error():
    rng = np.random.default_rng(6)
    scores = rng.uniform(0, 1, 8000)
    found = score_reliability(scene(scores, rng.random(8000) < scores), 'Car', MODERATE, 0.7)
    assert found.count.sum() == 8000
    assert found.calibration_error < 0.03


def test_scores_beyond_one_are_no_probabilities():
    scores = np.array([-2.0, 0.5, 7.0, 18.0])
    found = score_reliability(scene(scores, np.ones(4, bool)), 'Car', MODERATE, 0.7)
    assert (found.edges[0], found.edges[-1], found.count.sum()) == (-2, 18, 4)
    assert not found.is_probability
    assert np.isnan(found.calibration_error)
    nothing = score_reliability(scene(scores, np.ones(4, bool)), 'Cyclist', MODERATE, 0.5)
    assert nothing.count.sum() == 0
    assert np.isnan(nothing.calibration_error)
