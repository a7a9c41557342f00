"""Means over what counts, and over all of that in a step which processes or parts share."""

from __future__ import annotations

import torch
from torch import Tensor

from stl_core.shares import over_step, shares


def mean(value: Tensor) -> Tensor:
    """(...) of any shape, also empty -> scalar; 0 with a gradient path where there is nothing."""
    return value.sum() / count(torch.ones_like(value))


def count(weight: Tensor) -> Tensor:
    """
    How much counts, to divide a sum by.

    :param weight: of any shape, 1 for what counts whole.
    :return: () the sum, at least 1; where the step is shared, the mean over its shares, so that
        the mean of the shares' losses is the loss of the whole.
    """
    return over_step(weight.sum()).clamp(min=1 / shares())
