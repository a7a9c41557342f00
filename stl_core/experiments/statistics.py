"""
Statistics of paired differences: t-interval, t-test, exact sign-flip test, Holm's correction.

A difference is the figure of one method minus that of another in the same replicate (or with the
same seed), so that what both runs have in common, such as their teacher, cancels. For differences
d_1 ... d_n with mean m and sample deviation s, t = m / (s / sqrt(n)) has Student's distribution
with n - 1 degrees of freedom if they are normal; the sign-flip test needs symmetry about 0 alone,
but its least p is 2^(1-n), so that five pairs never reach 0.05.

Shapes: N pairs, M tests.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from stl_core.types import Array

#: Probability of a claim that is wrong, over all primary tests of a study together.
ALPHA = 0.05
#: Most pairs of the exact test: it lists the 2^20 sign patterns of each half.
MAX_PAIRS = 40


@dataclass(frozen=True)
class PairedTest:
    """
    A paired comparison.

    :param differences: (N,) one per pair.
    :param mean: their mean; NaN without pairs.
    :param deviation: deviation of the sample; NaN for fewer than two pairs.
    :param interval: 95 % t-interval of the mean, not corrected; NaN for fewer than two pairs.
    :param p_t: two-sided p of the t-test; NaN for fewer than two pairs.
    :param p_sign_flip: two-sided p of the exact sign-flip test; NaN without pairs.
    """

    differences: Array
    mean: float
    deviation: float
    interval: tuple[float, float]
    p_t: float
    p_sign_flip: float


@dataclass(frozen=True)
class HolmResult:
    """
    Holm's correction (1979) of one of several tests.

    :param p: adjusted p: the test is rejected at ALPHA if p is less.
    :param level: level of the t-interval that belongs to it: the interval excludes 0 if and only
        if Holm's procedure rejects the test.
    """

    p: float
    level: float


def paired_test(differences: Array) -> PairedTest:
    """
    Test whether the mean of paired differences is zero.

    :param differences: (N,) differences, N at most MAX_PAIRS.
    :raises ValueError: for more pairs, or differences that are not finite.
    """
    values = np.asarray(differences, np.float64)
    if len(values) > MAX_PAIRS or not np.isfinite(values).all():
        raise ValueError(f'expected at most {MAX_PAIRS} finite differences, got {values.tolist()}')
    several = len(values) > 1
    return PairedTest(
        values,
        float(values.mean()) if len(values) else math.nan,
        float(values.std(ddof=1)) if several else math.nan,
        t_interval(values, 1 - ALPHA),
        2 * t_tail(abs(t_statistic(values)), len(values) - 1) if several else math.nan,
        sign_flip_p(values) if len(values) else math.nan,
    )


def t_statistic(differences: Array) -> float:
    """
    Return mean / (deviation / sqrt(N)); infinite, or 0, if all differences are equal.

    :param differences: (N,), two or more.
    """
    mean, deviation = float(differences.mean()), float(differences.std(ddof=1))
    # the rounding of equal differences is no deviation
    if deviation <= 1e-12 * float(np.abs(differences).max()):
        return math.copysign(math.inf, mean) if mean else 0.0
    return mean / (deviation / math.sqrt(len(differences)))


def t_tail(t: float, degrees: int) -> float:
    """Return P(T > t) of Student's distribution with some degrees of freedom."""
    return float(special.stdtr(degrees, -t))


def t_quantile(probability: float, degrees: int) -> float:
    """Return the t with P(T <= t) = probability."""
    return float(special.stdtrit(degrees, probability))


def t_interval(differences: Array, level: float) -> tuple[float, float]:
    """
    Return mean -+ t((1 + level) / 2, N - 1) deviation / sqrt(N); NaN for fewer than two pairs.

    :param differences: (N,).
    :param level: probability with which the interval covers the mean, such as 0.95.
    """
    if len(differences) < 2:
        return math.nan, math.nan
    mean = float(differences.mean())
    error = float(differences.std(ddof=1)) / math.sqrt(len(differences))
    half = t_quantile((1 + level) / 2, len(differences) - 1) * error
    return mean - half, mean + half


def sign_flip_p(differences: Array) -> float:
    """
    Return the exact two-sided p of the paired permutation test.

    Under the hypothesis, each difference has either sign with equal probability: p is the fraction
    of the 2^N sign patterns whose sum is at least as far from 0 as the observed one. The patterns
    of both halves are listed, and their pairs counted by bisection: 40 pairs are exact, too.

    :param differences: (N,), one or more, at most MAX_PAIRS.
    """
    observed = abs(float(differences.sum()))
    rounding = 1e-9 * float(np.abs(differences).sum())
    if observed <= rounding:
        return 1.0
    half = len(differences) // 2
    first = _signed_sums(differences[:half])
    second = np.sort(_signed_sums(differences[half:]))
    reached = len(second) - np.searchsorted(second, observed - rounding - first)
    # the patterns below -observed are the mirror images of those above
    return 2 * int(reached.sum()) / 2 ** len(differences)


def holm(p_values: Sequence[float], alpha: float = ALPHA) -> list[HolmResult]:
    """
    Correct tests for their number by Holm's step-down procedure.

    The test with the k-th smallest p (k = 0, 1, ...) is compared with alpha / (M - k), and the
    procedure stops at the first that is not less; the adjusted p is the running maximum of
    (M - k) p. A rejected test has an interval of level 1 - alpha / (M - k); all others have the
    level at which the procedure stopped, so that their intervals include 0.

    :param p_values: (M,) p of each test; NaN for a test without data counts as 1.
    :param alpha: probability of one or more wrong rejections.
    :return: one result per test, in the given order.
    """
    p_values = [1.0 if math.isnan(p) else p for p in p_values]
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    results: dict[int, HolmResult] = {}
    adjusted, level, stopped = 0.0, 1 - alpha, False
    for step, index in enumerate(order):
        factor = len(order) - step
        adjusted = max(adjusted, min(1.0, factor * p_values[index]))
        level = level if stopped else 1 - alpha / factor
        stopped = stopped or adjusted >= alpha
        results[index] = HolmResult(adjusted, level)
    return [results[index] for index in range(len(order))]


def _signed_sums(values: Array) -> Array:
    """Return the sums of (N,) values with every pattern of signs, (2^N,)."""
    sums = np.zeros(1)
    for value in values:
        sums = np.concatenate([sums + value, sums - value])
    return sums
