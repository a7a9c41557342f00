"""
The depth head that every detector shares: logit of inverse depth, and log sigma.

z = 1 / (sigmoid(o) + EPS) - 1, so a logit of any size is a finite depth (Ma et al., Delving into
Localization Errors, CVPR 2021). But for EPS that is exp(-o): a lens that is k times longer shows
the same picture k times farther away, which is the logit less log k.
"""

from __future__ import annotations

import torch
from torch import Tensor

EPS = 1e-6


def from_logit(logit: Tensor) -> Tensor:
    """(...,) raw depth head -> metres."""
    return 1 / (logit.sigmoid() + EPS) - 1


def to_logit(depth_m: Tensor) -> Tensor:
    """(...,) metres, at least 1 mm are taken -> raw depth head; from_logit undoes it."""
    return torch.logit(1 / (depth_m.clamp(min=1e-3) + 1) - EPS)


def rescale_to_focal_length(head: Tensor, focal_ratio: Tensor) -> Tensor:
    """
    Turn depth at one focal length into depth at another.

    :param head: (B, 2, ...) depth logit and log sigma (metres).
    :param focal_ratio: (B,) true over virtual focal length.
    :return: (B, 2, ...) of depth and sigma `factor` times as large.
    """
    shift = torch.stack([-focal_ratio.log(), focal_ratio.log()], 1)
    return head + shift.reshape(*shift.shape, *[1] * (head.dim() - 2)).to(head.dtype)
