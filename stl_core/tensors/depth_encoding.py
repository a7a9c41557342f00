"""
Depth encodings: logit of inverse depth with log of the depth sigma, of all detectors; depth bins.

z = 1 / (sigmoid(o) + EPS) - 1, so a logit of any size decodes to a finite depth (Ma et al.,
Delving into Localization Errors, CVPR 2021). Without EPS this is exp(-o): a lens with k times the
focal length shows the same image at k times the depth, so its logit is smaller by log k.

Bin widths increase linearly with depth (LID; Reading et al., CaDDN, CVPR 2021).
"""

from __future__ import annotations

import torch
from torch import Tensor

EPS = 1e-6
#: Near edge of the first bin, metres.
MIN_DEPTH_M = 1e-3


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


def bin_edges(bins: int, max_depth_m: float) -> Tensor:
    """
    Return the near edges of D bins whose widths are 1, 2, 3, ... times the first bin's.

    :param bins: D.
    :param max_depth_m: far edge of the last bin.
    :return: (D + 1,) metres; the last is max_depth_m, also used as the background's depth.
    """
    i = torch.arange(bins + 1, dtype=torch.float64)
    fraction = i * (i + 1) / (bins * (bins + 1))
    return (MIN_DEPTH_M + (max_depth_m - MIN_DEPTH_M) * fraction).float()


def depth_to_bins(depth_m: Tensor, edges_m: Tensor) -> Tensor:
    """
    Return the depth bin of every cell.

    :param depth_m: (B, h, w).
    :param edges_m: (B, D + 1) bin edges of each image.
    :return: (B, h, w) 0 to D - 1, and D for depths before the first bin or beyond the last.
    """
    index = torch.searchsorted(edges_m.contiguous(), depth_m.flatten(1), right=True) - 1
    return torch.where(index < 0, edges_m.shape[1] - 1, index).view_as(depth_m)
