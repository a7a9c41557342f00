"""Paired statistics against published tables, SciPy, enumeration and computations by hand."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from stl_core.experiments import statistics

DIFFERENCES = np.array([1.9, 0.4, 3.1, 2.2, -0.3, 1.5])


@pytest.mark.parametrize(
    ('degrees', 'quantile'),
    [(1, 12.706), (2, 4.303), (4, 2.776), (5, 2.571), (9, 2.262), (11, 2.201), (30, 2.042)],
)
def test_t_quantiles_are_those_of_the_published_table(degrees, quantile):
    """Two-sided 5 % points of Student's t, as statistics books print them."""
    assert statistics.t_quantile(0.975, degrees) == pytest.approx(quantile, abs=5e-4)
    assert statistics.t_tail(quantile, degrees) == pytest.approx(0.025, abs=1e-4)


def test_two_pairs_have_the_closed_form_of_the_cauchy_distribution():
    """With one degree of freedom P(|T| > t) = 1 - 2 atan(t) / pi; t = |sum| / |difference|."""
    one, other = 3.0, 1.0
    result = statistics.paired_test(np.array([one, other]))
    t = (one + other) / (one - other)
    assert result.p_t == pytest.approx(1 - 2 * math.atan(t) / math.pi, abs=1e-12)
    half = math.tan(0.475 * math.pi) * (one - other) / 2
    assert result.interval == pytest.approx((2 - half, 2 + half))
    assert result.p_sign_flip == 0.5


def test_the_half_width_of_few_replicates_is_large():
    """At a deviation of 1.5, as the committed study has: 13 AP for 2, 3.7 for 3, 1.6 for 6."""
    for count, half in ((2, 13.5), (3, 3.73), (6, 1.57)):
        values = np.arange(count, dtype=float)
        values *= 1.5 / values.std(ddof=1)
        low, high = statistics.t_interval(values, 0.95)
        assert (high - low) / 2 == pytest.approx(half, abs=0.03)


def test_interval_and_p_are_those_of_scipy():
    result = statistics.paired_test(DIFFERENCES)
    expected = stats.ttest_1samp(DIFFERENCES, 0.0)
    assert result.p_t == pytest.approx(expected.pvalue, rel=1e-10)
    error = stats.sem(DIFFERENCES)
    for level, (low, high) in (
        (0.95, result.interval),
        (0.975, statistics.t_interval(DIFFERENCES, 0.975)),
    ):
        bounds = stats.t.interval(level, 5, loc=DIFFERENCES.mean(), scale=error)
        assert (low, high) == pytest.approx(bounds, rel=1e-9)


@pytest.mark.parametrize('count', [1, 2, 3, 5, 8, 11])
def test_sign_flips_are_counted_exactly(count):
    """Against the list of all patterns; of integers, whose sums have many ties."""
    rng = np.random.default_rng(count)
    for values in (rng.normal(0.5, 1.0, count), rng.integers(-2, 4, count).astype(float)):
        signs = np.array(list(itertools.product((-1, 1), repeat=count)))
        reached = np.abs(signs @ values) >= abs(values.sum()) - 1e-9
        assert statistics.sign_flip_p(values) == reached.mean()


def test_the_least_p_of_sign_flips():
    assert statistics.sign_flip_p(np.full(5, 2.0)) == 2 / 32
    assert statistics.sign_flip_p(np.linspace(1.0, 2.0, 40)) == pytest.approx(2**-39, rel=1e-12)


def test_differences_that_are_equal_or_zero():
    equal = statistics.paired_test(np.full(4, 0.3))
    assert (equal.p_t, equal.interval) == (0.0, pytest.approx((0.3, 0.3)))
    zero = statistics.paired_test(np.zeros(4))
    assert (zero.p_t, zero.p_sign_flip) == (1.0, 1.0)


def test_few_pairs_have_no_interval():
    one = statistics.paired_test(np.array([2.0]))
    assert (one.mean, one.p_sign_flip) == (2.0, 1.0)
    none = statistics.paired_test(np.array([]))
    for number in (*one.interval, one.p_t, one.deviation, none.mean, none.p_sign_flip):
        assert math.isnan(number)
    for values in (np.ones(41), np.array([1.0, math.nan])):
        with pytest.raises(ValueError, match='at most 40 finite'):
            statistics.paired_test(values)


def test_holm_by_hand():
    """p 0.01, 0.04, 0.03, 0.005: 4 x 0.005, 3 x 0.01, 2 x 0.03, then 0.04 is raised to 0.06."""
    results = statistics.holm([0.01, 0.04, 0.03, 0.005])
    assert [each.p for each in results] == pytest.approx([0.03, 0.06, 0.06, 0.02])
    levels = [1 - 0.05 / 3, 1 - 0.05 / 2, 1 - 0.05 / 2, 1 - 0.05 / 4]
    assert [each.level for each in results] == pytest.approx(levels)


def test_holm_bounds_and_missing_tests():
    assert [each.p for each in statistics.holm([0.6, 0.7])] == [1.0, 1.0]
    assert statistics.holm([]) == []
    alone, missing = statistics.holm([0.02, math.nan])
    assert (alone.p, missing.p) == (0.04, 1.0)


def test_a_corrected_interval_excludes_zero_where_holm_rejects():
    rng = np.random.default_rng(3)
    rejected = 0
    for _ in range(200):
        samples = [rng.normal(mean, 1.0, 6) for mean in (0.0, 0.8, 1.2)]
        results = statistics.holm([statistics.paired_test(each).p_t for each in samples])
        for values, result in zip(samples, results, strict=True):
            low, high = statistics.t_interval(values, result.level)
            assert (result.p < statistics.ALPHA) == (low > 0 or high < 0)
            rejected += result.p < statistics.ALPHA
    assert 50 < rejected < 500


def test_holm_keeps_its_promise_without_any_difference():
    """Three true hypotheses: in at most 5 % of studies, within chance, one is rejected."""
    rng = np.random.default_rng(4)
    samples = rng.normal(0.0, 1.0, (1500, 3, 5))
    wrong = sum(
        any(
            result.p < statistics.ALPHA
            for result in statistics.holm([statistics.paired_test(x).p_t for x in each])
        )
        for each in samples
    )
    assert wrong / len(samples) < 0.05 + 3 * math.sqrt(0.05 * 0.95 / len(samples))
