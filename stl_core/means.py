"""Means over what counts, in a step which processes or parts may share, see shares."""

from __future__ import annotations

import torch
from torch import Tensor

from stl_core.shares import count, over_step


def masked_mean(value: Tensor, valid: Tensor) -> Tensor:
    """
    Mean of what counts, without asking how much that is: the host need not wait.

    :param value: of any shape; NaN where nothing counts is ignored.
    :param valid: bool, of a shape that value's goes on from.
    :return: scalar, 0 with a gradient path when nothing counts.
    """
    weight = _as_wide(valid, value)
    return torch.where(weight, value, 0.0).sum() / count(weight)


def whole_mean(value: Tensor, valid: Tensor) -> Tensor:
    """masked_mean over the whole step, whoever shares it; for factors: carries no gradient."""
    weight = _as_wide(valid, value)
    return over_step(torch.where(weight, value, 0.0).sum()) / count(weight)


def _as_wide(valid: Tensor, value: Tensor) -> Tensor:
    """Say the same of every number that value has behind valid's places."""
    return valid.view(valid.shape + (1,) * (value.dim() - valid.dim())).expand_as(value)
