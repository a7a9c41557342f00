"""
Weights of distillation: gates from depth uncertainty, and channel statistics of the teacher.

Some channels of a network are large everywhere, others carry information in small values.
Dividing by the deviation over objects gives every channel the same influence; subtracting the
mean removes features that all objects share.
Shapes: B batch, N object slots, C channels, h w grid.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from stl_core.tensors.reductions import StepNormalizer

#: Fraction of the mean variance that is added to every channel's variance: otherwise the noise of
#: a nearly constant channel would be amplified and imitated.
VARIANCE_FLOOR = 0.01
#: Lower limit of bounded_deviation, as fraction of the root mean square of the channels.
DEVIATION_FLOOR = 0.1


class ChannelStatistics(NamedTuple):
    """Mean and standard deviation of each channel, (C,) float32, without gradient."""

    mean: Tensor
    deviation: Tensor


def channel_statistics(
    teacher: Tensor, cells: Tensor, normalizer: StepNormalizer
) -> ChannelStatistics:
    """
    Compute the channel statistics of a teacher's map over objects, all with the same weight.

    :param teacher: (B, C, h, w) features.
    :param cells: (B, N, h, w) bool, cells of each object.
    :param normalizer: normaliser of the step.
    :return: statistics of the whole step, over all processes and accumulated micro-batches;
        deviations are above 0.
    """
    teacher = teacher.detach().float()
    weight = cell_weights(cells, teacher.dtype)
    total = normalizer.total(weight)
    mean, square = (
        normalizer.mean(torch.einsum('bhw,bchw->c', weight, each)) / total
        for each in (teacher, teacher.square())
    )
    return ChannelStatistics(mean, deviation_of_moments(mean, square))


def cell_weights(cells: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """
    Return the weight of each cell in a mean in which every object counts the same.

    :param cells: (B, N, h, w) bool, cells of each object.
    :param dtype: floating-point type of the weights.
    :return: (B, h, w), 1 over the number of cells of an object, added up over the objects of a
        cell; the sum over cells is the number of objects that have cells.
    """
    inside = cells.to(dtype)
    return torch.einsum('bnhw,bn->bhw', inside, 1 / inside.sum((-1, -2)).clamp(min=1))


def deviation_of_moments(mean: Tensor, square: Tensor) -> Tensor:
    """
    Return the standard deviation of each channel, above 0.

    :param mean: (C,) mean of each channel.
    :param square: (C,) mean of its square.
    :return: (C,) with VARIANCE_FLOOR added to the variance; 1 if all channels are 0.
    """
    # float32 rounding of a mean much larger than the deviation must not count as deviation
    variance = (square - mean.square()).clamp(min=0) + 1e-6 * square.mean()
    variance = variance + VARIANCE_FLOOR * variance.mean()
    return torch.where(variance > 0, variance, 1.0).sqrt()


def bounded_deviation(statistics: ChannelStatistics) -> Tensor:
    """
    Return (C,) deviations of at least DEVIATION_FLOOR of the channels' root mean square.

    A difference in deviations would otherwise explode in the first steps of running statistics: a
    single object deviates from the mean by nothing.
    """
    mean, deviation = statistics
    root_mean_square = (mean.square() + deviation.square()).mean().sqrt()
    return torch.maximum(deviation, DEVIATION_FLOOR * root_mean_square)


def confidence_gate(sigma_m: Tensor, half_sigma_m: float) -> Tensor:
    """
    Compute 1 / (1 + (sigma / half)^2): 1 when certain, 0.5 at half_sigma_m, falling to 0.

    :param sigma_m: (...,) depth uncertainty, metres.
    :param half_sigma_m: metres; if infinite, all weights are 1.
    :return: (...,) in (0, 1], without gradient: a network must not learn to change its
        uncertainty in order to change its weight in the loss.
    """
    return 1 / (1 + (sigma_m.detach() / half_sigma_m).square())


def uncertainty_gate(sigma_m: Tensor, half_sigma_m: float) -> Tensor:
    """Compute 1 - confidence_gate, sigma^2 / (half^2 + sigma^2): (...,) in [0, 1), no gradient."""
    return 1 - confidence_gate(sigma_m, half_sigma_m)


def check_positive(name: str, half_sigma_m: float) -> None:
    """Raise ValueError, naming the option, unless the value is above 0."""
    if not half_sigma_m > 0:
        raise ValueError(f'{name}: {half_sigma_m} metres; must be above 0')
