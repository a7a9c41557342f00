"""
CenterNet heatmaps: draw objects as Gaussians, find peaks, read head maps at object cells.

Grid coordinates are pixels / stride; the cell of a point is the floor of its grid coordinates.
Shapes: B batch, N object slots, K peaks, C channels, h w grid.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from stl_core.tensors.batch import ObjectTargets, Targets


def flat_cells(center_px: Tensor, stride: int, h: int, w: int) -> tuple[Tensor, Tensor]:
    """
    Return the cell that contains each point, such as an object's projected centre.

    :param center_px: (B, N, 2) network pixels.
    :param stride: pixels per cell.
    :param h: grid height, cells.
    :param w: grid width, cells.
    :return: (B, N) flat cell (y * w + x), 0 where outside, and (B, N) bool, inside the grid.
    """
    x, y = torch.floor(center_px / stride).unbind(-1)
    inside = (x >= 0) & (x < w) & (y >= 0) & (y < h)
    return torch.where(inside, y * w + x, 0).long(), inside


def gaussian_radius(size: Tensor, min_overlap: float = 0.7) -> Tensor:
    """
    Compute the Gaussian radius of CenterNet's code from box size and minimum overlap.

    As in that code, no root is divided by the quadratic's leading coefficient, so that heatmaps
    match those that published models were trained with; exact_radius divides.

    :param size: (..., 2) box width and height in cells.
    :param min_overlap: intersection over union to keep; CenterNet's by default.
    :return: (...,) cells.
    """
    roots = [(b + _sqrt_discriminant(a, b, c)) / 2 for a, b, c in _radius_cases(size, min_overlap)]
    return torch.stack(roots).amin(0)


def exact_radius(size: Tensor, min_overlap: float = 0.3) -> Tensor:
    """
    Compute the radius within which a shifted box still overlaps the true one by min_overlap.

    :param size: (..., 2) box width and height in cells.
    :param min_overlap: intersection over union to keep; MonoCon's by default.
    :return: (...,) cells.
    """
    signs = (-1, -1, 1)
    roots = [
        (b + sign * _sqrt_discriminant(a, b, c)) / (2 * a)
        for sign, (a, b, c) in zip(signs, _radius_cases(size, min_overlap), strict=True)
    ]
    return torch.stack(roots).amin(0)


def draw_heatmap(targets: Targets, num_classes: int, stride: int, h: int, w: int) -> Tensor:
    """
    Draw a Gaussian at the projected 3D centre of every valid object, on the map of its class.

    :param targets: network pixels.
    :param num_classes: number of classes C.
    :param stride: pixels per cell.
    :param h: grid height, cells.
    :param w: grid width, cells.
    :return: (B, C, h, w) in [0, 1]; exactly 1 at the cell of every valid object in the grid.
    """
    size = (targets.box_px[..., 2:] - targets.box_px[..., :2]).clamp(min=0) / stride
    masks = class_masks(targets, num_classes)
    points = (targets.center_px / stride)[:, :, None].expand(-1, -1, num_classes, -1)
    return draw_gaussians(points, gaussian_radius(size), masks, h, w)


def class_masks(targets: ObjectTargets, num_classes: int) -> Tensor:
    """Return (B, N, C) bool: True for a valid slot on the map of its class."""
    one_hot = torch.nn.functional.one_hot(targets.class_id, num_classes).bool()
    return one_hot & targets.valid[..., None]


def draw_gaussians(points: Tensor, radius: Tensor, keep: Tensor, h: int, w: int) -> Tensor:
    """
    Draw a Gaussian around the cell of each point; where Gaussians overlap, the maximum wins.

    As in CenterNet, sigma is a sixth of the diameter, and a Gaussian is 0 beyond the radius on
    each axis. A Gaussian is the product of a profile along x and one along y, so only these are
    computed for each point. Slots are drawn one after the other, each over the whole batch.

    :param points: (B, N, M, 2) in cells, one for each of M maps.
    :param radius: (B, N) cells, rounded down.
    :param keep: (B, N, M) bool, points to draw; points outside the grid are skipped.
    :param h: grid height, cells.
    :param w: grid width, cells.
    :return: (B, M, h, w) in [0, 1]; exactly 1 at the cells of drawn points.
    """
    x, y = points.floor().unbind(-1)
    keep = keep & (x >= 0) & (x < w) & (y >= 0) & (y < h)
    radius_cells = radius.floor().clamp(min=0)[..., None]
    profile_x = _gaussian_profile(x, radius_cells, w)
    profile_y = _gaussian_profile(y, radius_cells, h) * keep[..., None]
    out = torch.zeros(len(points), points.shape[2], h, w, device=points.device)
    for slot in keep.any(2).any(0).nonzero()[:, 0].tolist():
        out = torch.maximum(out, profile_y[:, slot, :, :, None] * profile_x[:, slot, :, None])
    return out


def find_peaks(
    heatmap: Tensor, count: int, min_ratio: float = 1.0
) -> tuple[Tensor, Tensor, Tensor]:
    """
    Find the highest local maxima of a heatmap (3x3 neighbourhood, within a class).

    :param heatmap: (B, C, h, w) probabilities.
    :param count: K at most; fewer if the maps have fewer cells.
    :param min_ratio: least height of a peak relative to the highest cell of its neighbourhood; 1
        for maxima alone.
    :return: (B, K) score in decreasing order, (B, K) class, (B, K) flat cell.
    """
    _, classes, h, w = heatmap.shape
    local = torch.nn.functional.max_pool2d(heatmap, 3, 1, 1)
    flat = (heatmap * (heatmap >= min_ratio * local)).flatten(1)
    score, index = flat.topk(min(count, classes * h * w))
    return score, torch.div(index, h * w, rounding_mode='floor'), index % (h * w)


def gather_at(grid: Tensor, cell: Tensor) -> Tensor:
    """Return the values (B, N, C) of a map (B, C, h, w) at flat cells (B, N)."""
    index = cell[:, None].expand(-1, grid.shape[1], -1)
    return grid.flatten(2).gather(2, index).transpose(1, 2)


def cell_xy(cell: Tensor, w: int) -> Tensor:
    """Return the x and y (B, N, 2), float32, of flat cells (B, N) of a grid w wide."""
    return torch.stack([cell % w, torch.div(cell, w, rounding_mode='floor')], -1).float()


def encode_angle(angle: Tensor, bins: int) -> tuple[Tensor, Tensor]:
    """Encode angles (...,) as the nearest of `bins` evenly spaced bins and residuals, radians."""
    width = 2 * math.pi / bins
    shifted = torch.remainder(angle + width / 2, 2 * math.pi)
    nearest_bin = torch.div(shifted, width, rounding_mode='floor').clamp(max=bins - 1)
    return nearest_bin.long(), shifted - (nearest_bin + 0.5) * width


def decode_angle(bin_index: Tensor, residual: Tensor, bins: int) -> Tensor:
    """Return the angles in [-pi, pi) of bins (...,) and residuals (...,); undoes encode_angle."""
    angle = bin_index * (2 * math.pi / bins) + residual
    return torch.remainder(angle + math.pi, 2 * math.pi) - math.pi


def _radius_cases(size: Tensor, min_overlap: float) -> tuple[tuple[float, Tensor, Tensor], ...]:
    """
    Return a, b, c of CornerNet's three quadratics a r^2 - b r + c (Law and Deng, ECCV 2018).

    The cases: one corner inside and one outside, both inside, both outside.
    """
    total, area = size.sum(-1), size.prod(-1)
    return (
        (1.0, total, area * (1 - min_overlap) / (1 + min_overlap)),
        (4.0, 2 * total, (1 - min_overlap) * area),
        (4 * min_overlap, -2 * min_overlap * total, (min_overlap - 1) * area),
    )


def _sqrt_discriminant(a: float, b: Tensor, c: Tensor) -> Tensor:
    """Return sqrt(b^2 - 4 a c), or 0 where rounding makes the radicand negative."""
    return (b * b - 4 * a * c).clamp(min=0).sqrt()


def _gaussian_profile(center: Tensor, radius: Tensor, count: int) -> Tensor:
    """Return 1D Gaussians (..., count) around cells (...,), 0 beyond their radii (...,)."""
    distance = torch.arange(count, device=center.device) - center[..., None]
    sigma = (2 * radius[..., None] + 1) / 6
    value = torch.exp(-(distance * distance) / (2 * sigma * sigma))
    return torch.where(distance.abs() <= radius[..., None], value, 0.0)
