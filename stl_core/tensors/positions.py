"""
3D positions as tensors: the centres of targets, and sinusoidal encodings of points.

Shapes: B batch, N object slots, C channels.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from stl_core.tensors.batch import Targets

#: Shortest and longest wavelength of sinusoidal_encoding, metres: about the width of a lane, and
#: four times the depth of the farthest labelled objects, so that long waves are unambiguous.
WAVELENGTHS_M = (4.0, 256.0)


def lift_centers(targets: Targets, P: Tensor) -> Tensor:
    """
    Compute the 3D centres of targets from pixel and depth, as geometry.backproject_pixels does.

    :param targets: network pixels, metres.
    :param P: (B, 3, 4) projections to network pixels.
    :return: (B, N, 3) metres, camera frame; means nothing in empty slots.
    """
    rows = P[:, None, :2] - targets.center_px[..., None] * P[:, None, 2:]
    rhs = -(rows[..., 2] * targets.depth_m[..., None] + rows[..., 3])
    (a, b), (c, d) = (row.unbind(-1) for row in rows[..., :2].unbind(-2))
    det = a * d - b * c
    x = (d * rhs[..., 0] - b * rhs[..., 1]) / det
    y = (a * rhs[..., 1] - c * rhs[..., 0]) / det
    return torch.stack([x, y, targets.depth_m], -1)


def sinusoidal_encoding(points_m: Tensor, channels: int) -> Tensor:
    """
    Encode points by sines and cosines of their coordinates (Vaswani et al., NeurIPS 2017).

    sqrt(2) (sin, cos)(2 pi x / wavelength) for x, y and z, at wavelengths in geometric steps
    between WAVELENGTHS_M, longest first. The mean square over channels is 1 for every point, and
    the inner product of two points depends on their difference alone and falls with the logarithm
    of it: the encoding shows which objects are neighbours, at every scale from lane to street.

    :param points_m: (..., 3) metres.
    :param channels: C; the last wavelength is incomplete unless C is a multiple of 6.
    :return: (..., C).
    """
    shortest, longest = WAVELENGTHS_M
    steps = torch.linspace(0, 1, -(-channels // 6), dtype=points_m.dtype, device=points_m.device)
    wavelength_m = longest * (shortest / longest) ** steps
    phase = 2 * math.pi * points_m[..., None, :] / wavelength_m[:, None]
    waves = torch.stack([phase.sin(), phase.cos()], -1).flatten(-3)
    return math.sqrt(2) * waves[..., :channels]
