"""Find weights and buffers that are not finite: one NaN makes all outputs of a network NaN."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


@torch.no_grad()
def not_finite(state: Mapping[str, Tensor]) -> list[str]:
    """
    Return the names of the tensors that hold NaN or infinity; waits for the device once.

    :param state: {name: tensor} of one device, such as a state dict.
    """
    checks = {name: each.isfinite().all() for name, each in state.items()}
    if not checks:
        return []
    finite = torch.stack(list(checks.values())).tolist()
    return [name for name, each in zip(checks, finite, strict=True) if not each]
