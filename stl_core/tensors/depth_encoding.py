"""
Depth encoding of all detectors: logit of inverse depth, and log of the depth sigma.

z = 1 / (sigmoid(o) + EPS) - 1, so a logit of any size decodes to a finite depth (Ma et al.,
Delving into Localization Errors, CVPR 2021). Without EPS this is exp(-o): a lens with k times the
focal length shows the same image at k times the depth, so its logit is smaller by log k.
"""

from __future__ import annotations

import torch
from torch import Tensor

EPS = 1e-6


def from_logit(logit: Tensor) -> Tensor:
    """Decode (...,) raw depth logits to metres."""
    return 1 / (logit.sigmoid() + EPS) - 1


def to_logit(depth_m: Tensor) -> Tensor:
    """Encode (...,) depths in metres, clamped to at least 1 mm, as logits; undoes from_logit."""
    return torch.logit(1 / (depth_m.clamp(min=1e-3) + 1) - EPS)


def rescale_to_focal_length(head: Tensor, focal_ratio: Tensor) -> Tensor:
    """
    Rescale encoded depth and sigma from the virtual to the true focal length.

    :param head: (B, 2, ...) depth logit and log sigma (metres).
    :param focal_ratio: (B,) true over virtual focal length.
    :return: (B, 2, ...) head whose depth and sigma are focal_ratio times as large.
    """
    shift = torch.stack([-focal_ratio.log(), focal_ratio.log()], 1)
    return head + shift.reshape(*shift.shape, *[1] * (head.dim() - 2)).to(head.dtype)
