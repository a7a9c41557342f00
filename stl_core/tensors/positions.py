"""
3D positions as tensors: back-projected pixels and targets, and sinusoidal encodings of points.

Shapes: B batch, N object slots, C channels, h w grid.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from stl_core.tensors.batch import ObjectTargets, Targets, as_image_targets
from stl_core.tensors.rig import RigTargets

#: Shortest and longest wavelength of sinusoidal_encoding, metres: about the width of a lane, and
#: four times the depth of the farthest labelled objects, so that long waves are unambiguous.
WAVELENGTHS_M = (4.0, 256.0)


def backproject_pixels(pixels: Tensor, depth_m: Tensor, P: Tensor) -> Tensor:
    """
    Compute the points at given depths that project to given pixels, exactly for every P.

    geometry.backproject_pixels with a gradient and a P per image: solves
    (P[i] - pixel_i * P[2]) . (x, y, z, 1) = 0 for x and y.

    :param pixels: (B, ..., 2) network pixels.
    :param depth_m: (B, ...) z in the camera frame.
    :param P: (B, 3, 4) projections to network pixels.
    :return: (B, ..., 3) metres, camera frame.
    """
    P = P.reshape(len(P), *[1] * (depth_m.dim() - 1), 3, 4)
    rows = P[..., :2, :] - pixels[..., None] * P[..., 2:, :]
    rhs = -(rows[..., 2] * depth_m[..., None] + rows[..., 3])
    (a, b), (c, d) = (row.unbind(-1) for row in rows[..., :2].unbind(-2))
    det = a * d - b * c
    x = (d * rhs[..., 0] - b * rhs[..., 1]) / det
    y = (a * rhs[..., 1] - c * rhs[..., 0]) / det
    return torch.stack([x, y, depth_m], -1)


def lift_centers(targets: Targets, P: Tensor) -> Tensor:
    """
    Compute the 3D centres of targets from pixel and depth, as geometry.lift does.

    :param targets: network pixels, metres.
    :param P: (B, 3, 4) projections to network pixels.
    :return: (B, N, 3) metres, camera frame; means nothing in empty slots.
    """
    return backproject_pixels(targets.center_px, targets.depth_m, P)


def object_centers(targets: ObjectTargets, P: Tensor) -> Tensor:
    """
    Return the 3D centres of targets of any kind.

    :param targets: network pixels, or vehicle frame; metres.
    :param P: (B, 3, 4) projections to network pixels; not used for targets around a vehicle.
    :return: (S, N, 3) metres, camera frame, or vehicle frame; means nothing in empty slots.
    """
    if isinstance(targets, RigTargets):
        return targets.center_m
    return lift_centers(as_image_targets(targets), P)


def object_distances(targets: ObjectTargets) -> Tensor:
    """Return (S, N) the depth of targets in an image, or the range of those around a vehicle."""
    if isinstance(targets, RigTargets):
        return targets.range_m
    return as_image_targets(targets).depth_m


def cell_centers_px(
    hw: tuple[int, int], size_px: tuple[int, int], device: torch.device, dtype: torch.dtype
) -> Tensor:
    """
    Return the centres of the cells of a grid over the canvas.

    :param hw: height and width of the grid, cells.
    :param size_px: height and width of the canvas.
    :param device: device of the result.
    :param dtype: type of the result.
    :return: (h, w, 2) x and y, network pixels; 0 is the centre of the first pixel.
    """
    y, x = (
        (torch.arange(count, device=device, dtype=dtype) + 0.5) * (size / count) - 0.5
        for count, size in zip(hw, size_px, strict=True)
    )
    return torch.stack([x.expand(hw), y[:, None].expand(hw)], -1)


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
