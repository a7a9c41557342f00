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

from stl_core.shares import count, over_step

#: Share of the mean variance that is added to every channel's: of one that hardly varies, noise is
#: not to be learnt as if it were knowledge.
FLOOR = 0.01


class Scale(NamedTuple):
    """Mean and deviation of each channel, (C,) float32, without gradient."""

    mean: Tensor
    deviation: Tensor


def scale(ideal: Tensor, cells: Tensor) -> Scale:
    """
    Measure a teacher's map over objects, every object alike.

    :param ideal: (B, C, h, w).
    :param cells: (B, N, h, w) bool, those of each object.
    :return: of the whole step, where processes or parts share it; deviations are above 0.
    """
    ideal = ideal.detach().float()
    inside = cells.to(ideal.dtype)
    weight = torch.einsum('bnhw,bn->bhw', inside, 1 / inside.sum((-1, -2)).clamp(min=1))
    total = count(weight)
    mean, square = (
        over_step(torch.einsum('bhw,bchw->c', weight, each)) / total
        for each in (ideal, ideal.square())
    )
    # what float32 loses where a mean is large beside the deviation must not pass for a deviation
    variance = (square - mean.square()).clamp(min=0) + 1e-6 * square.mean()
    variance = variance + FLOOR * variance.mean()
    return Scale(mean, torch.where(variance > 0, variance, 1.0).sqrt())
