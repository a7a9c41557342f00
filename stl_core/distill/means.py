"""The mean over all that is there, in a step which processes or parts may share."""

from __future__ import annotations

import torch
from torch import Tensor

from stl_core.shares import count


def mean(value: Tensor) -> Tensor:
    """(...) of any shape, also empty -> scalar; 0 with a gradient path where there is nothing."""
    return value.sum() / count(torch.ones_like(value))
