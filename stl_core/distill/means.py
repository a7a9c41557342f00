"""The mean over all that is there, in a step which processes or parts may share."""

from __future__ import annotations

import torch
from torch import Tensor

from stl_core.shares import count


def mean(value: Tensor, mask: Tensor) -> Tensor:
    """
    Take the mean over what counts, without asking how much that is: the host need not wait.

    :param value: of any shape.
    :param mask: bool, of a shape that value's goes on from.
    :return: scalar; 0 with a gradient path where nothing counts.
    """
    mask = mask.view(mask.shape + (1,) * (value.dim() - mask.dim())).expand_as(value)
    return torch.where(mask, value, 0).sum() / count(mask)
