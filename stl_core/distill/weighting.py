"""
The scale of a teacher's features, channel by channel, over the objects of a step.

Some channels of a network are large wherever it looks, others say what matters with little. Taken
by how much each varies over objects, all have their say, and what every object has in common has
none. Shapes: B batch, N object slots, C channels, h w grid.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from stl_core.tensors.reductions import step_mean, step_normalizer

#: Share of the mean variance that is added to every channel's: of one that hardly varies, noise is
#: not to be learnt as if it were knowledge.
VARIANCE_FLOOR = 0.01


class ChannelStatistics(NamedTuple):
    """Mean and deviation of each channel, (C,) float32, without gradient."""

    mean: Tensor
    deviation: Tensor


def channel_statistics(teacher: Tensor, cells: Tensor) -> ChannelStatistics:
    """
    Measure a teacher's map over objects, every object alike.

    :param teacher: (B, C, h, w).
    :param cells: (B, N, h, w) bool, those of each object.
    :return: of the whole step, where processes or parts share it; deviations are above 0.
    """
    teacher = teacher.detach().float()
    inside = cells.to(teacher.dtype)
    weight = torch.einsum('bnhw,bn->bhw', inside, 1 / inside.sum((-1, -2)).clamp(min=1))
    total = step_normalizer(weight)
    mean, square = (
        step_mean(torch.einsum('bhw,bchw->c', weight, each)) / total
        for each in (teacher, teacher.square())
    )
    # what float32 loses where a mean is large beside the deviation must not pass for a deviation
    variance = (square - mean.square()).clamp(min=0) + 1e-6 * square.mean()
    variance = variance + VARIANCE_FLOOR * variance.mean()
    return ChannelStatistics(mean, torch.where(variance > 0, variance, 1.0).sqrt())


def confidence_gate(sigma_m: Tensor, half_sigma_m: float) -> Tensor:
    """
    1 / (1 + (sigma / half)^2): 1 where sure, falling to 0, and a half at half_sigma_m.

    :param sigma_m: (...,) metres.
    :param half_sigma_m: metres; infinite makes all alike.
    :return: (...,) in (0, 1], without gradient: a network must not learn to doubt so as to be
        taught more, or less.
    """
    return 1 / (1 + (sigma_m.detach() / half_sigma_m).square())


def uncertainty_gate(sigma_m: Tensor, half_sigma_m: float) -> Tensor:
    """sigma^2 / (half^2 + sigma^2), what certainty leaves: (...,) in [0, 1), no gradient."""
    return 1 - confidence_gate(sigma_m, half_sigma_m)


def check_positive(name: str, half_sigma_m: float) -> None:
    """Raise ValueError, naming the option, unless it can be divided by."""
    if not half_sigma_m > 0:
        raise ValueError(f'{name}: {half_sigma_m} metres; must be above 0')
