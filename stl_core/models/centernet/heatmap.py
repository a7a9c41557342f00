"""
Grids: drawing objects on a heatmap, finding its peaks, reading head maps where objects are.

Grid coordinates are pixels / stride; the cell of a point is the floor of its grid coordinates.
Shapes: B batch, N object slots, K peaks, C channels, h w grid.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from stl_core.tensors.batch import Targets


def flat_cells(center_px: Tensor, stride: int, h: int, w: int) -> tuple[Tensor, Tensor]:
    """
    Find the cell that each object's projected centre falls into.

    :param center_px: (B, N, 2) network pixels.
    :param stride: pixels a cell.
    :param h: grid height.
    :param w: grid width.
    :return: (B, N) flat cell, 0 where outside, and (B, N) bool, whether inside the grid.
    """
    x, y = torch.floor(center_px / stride).unbind(-1)
    inside = (x >= 0) & (x < w) & (y >= 0) & (y < h)
    return torch.where(inside, y * w + x, 0).long(), inside


def gaussian_radius(size: Tensor, min_overlap: float = 0.7) -> Tensor:
    """
    Radius within which a shifted box still overlaps the true one by min_overlap, by CenterNet.

    Each root is computed as CenterNet-style code does, that is, not divided by the quadratic's
    leading coefficient, so that heatmaps match those that published models were trained with.

    :param size: (..., 2) box width and height in cells.
    :param min_overlap: intersection over union to keep.
    :return: (...,) cells.
    """
    roots = [(b + _sqrt_discriminant(a, b, c)) / 2 for a, b, c in _radius_cases(size, min_overlap)]
    return torch.stack(roots).amin(0)


def exact_radius(size: Tensor, min_overlap: float = 0.3) -> Tensor:
    """
    Radius within which a shifted box still overlaps the true one by min_overlap.

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
    Draw every valid object at its projected centre, see blobs, on the map of its class.

    :param targets: network pixels.
    :param num_classes: number of classes C.
    :param stride: pixels a cell.
    :param h: grid height.
    :param w: grid width.
    :return: (B, C, h, w) in [0, 1]; exactly 1 at the cell of every valid object inside.
    """
    size = (targets.box_px[..., 2:] - targets.box_px[..., :2]).clamp(min=0) / stride
    chosen = class_masks(targets, num_classes)
    points = (targets.center_px / stride)[:, :, None].expand(-1, -1, num_classes, -1)
    return draw_gaussians(points, gaussian_radius(size), chosen, h, w)


def class_masks(targets: Targets, num_classes: int) -> Tensor:
    """(B, N, C) bool: valid slots, on the map of their class."""
    one_hot = torch.nn.functional.one_hot(targets.class_id, num_classes).bool()
    return one_hot & targets.valid[..., None]


def draw_gaussians(points: Tensor, radius: Tensor, keep: Tensor, h: int, w: int) -> Tensor:
    """
    Draw Gaussians around the cells of points, the larger value winning.

    Sigma is a sixth of the diameter; beyond the radius, on each axis, the map is 0, as in
    CenterNet. A Gaussian is the product of one down and one across, so only these are computed
    for each point; maps are drawn slot by slot over the whole batch.

    :param points: (B, N, M, 2) in cells, one for each of M maps.
    :param radius: (B, N) cells; its floor is taken.
    :param keep: (B, N, M) bool, which to draw; those off the grid are not.
    :param h: grid height.
    :param w: grid width.
    :return: (B, M, h, w) in [0, 1]; exactly 1 at the cells of points that are drawn.
    """
    x, y = points.floor().unbind(-1)
    keep = keep & (x >= 0) & (x < w) & (y >= 0) & (y < h)
    cell_radius = radius.floor().clamp(min=0)[..., None]
    across = _gaussian_profile(x, cell_radius, w)
    down = _gaussian_profile(y, cell_radius, h) * keep[..., None]
    out = torch.zeros(len(points), points.shape[2], h, w, device=points.device)
    for slot in keep.any(2).any(0).nonzero()[:, 0].tolist():
        out = torch.maximum(out, down[:, slot, :, :, None] * across[:, slot, :, None])
    return out


def find_peaks(heatmap: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """
    Find the strongest local maxima (3x3, within a class).

    :param heatmap: (B, C, h, w) probabilities.
    :param count: K, at most; fewer where the grid is smaller.
    :return: (B, K) score in falling order, (B, K) class, (B, K) flat cell.
    """
    _, classes, h, w = heatmap.shape
    local = torch.nn.functional.max_pool2d(heatmap, 3, 1, 1)
    flat = (heatmap * (heatmap == local)).flatten(1)
    score, index = flat.topk(min(count, classes * h * w))
    return score, torch.div(index, h * w, rounding_mode='floor'), index % (h * w)


def gather_at(grid: Tensor, cell: Tensor) -> Tensor:
    """(B, C, h, w) map and (B, N) flat cells -> (B, N, C) values at the cells."""
    index = cell[:, None].expand(-1, grid.shape[1], -1)
    return grid.flatten(2).gather(2, index).transpose(1, 2)


def cell_xy(cell: Tensor, w: int) -> Tensor:
    """(B, N) flat cells -> (B, N, 2) x y of the cells, float."""
    return torch.stack([cell % w, torch.div(cell, w, rounding_mode='floor')], -1).float()


def encode_angle(angle: Tensor, bins: int) -> tuple[Tensor, Tensor]:
    """(...,) radians -> nearest of `bins` evenly spaced directions, and the rest in radians."""
    width = 2 * math.pi / bins
    shifted = torch.remainder(angle + width / 2, 2 * math.pi)
    chosen = torch.div(shifted, width, rounding_mode='floor').clamp(max=bins - 1)
    return chosen.long(), shifted - (chosen + 0.5) * width


def decode_angle(chosen: Tensor, residual: Tensor, bins: int) -> Tensor:
    """Undo encode_angle: (...,) bin and (...,) rest -> radians in [-pi, pi)."""
    angle = chosen * (2 * math.pi / bins) + residual
    return torch.remainder(angle + math.pi, 2 * math.pi) - math.pi


def _radius_cases(size: Tensor, min_overlap: float) -> tuple[tuple[float, Tensor, Tensor], ...]:
    """
    Quadratics a r^2 - b r + c of CornerNet (Law and Deng, ECCV 2018).

    One corner inside and one outside, both inside, both outside.
    """
    total, area = size.sum(-1), size.prod(-1)
    return (
        (1.0, total, area * (1 - min_overlap) / (1 + min_overlap)),
        (4.0, 2 * total, (1 - min_overlap) * area),
        (4 * min_overlap, -2 * min_overlap * total, (min_overlap - 1) * area),
    )


def _sqrt_discriminant(a: float, b: Tensor, c: Tensor) -> Tensor:
    """sqrt(b^2 - 4 a c), 0 where rounding made that negative."""
    return (b * b - 4 * a * c).clamp(min=0).sqrt()


def _gaussian_profile(center: Tensor, radius: Tensor, count: int) -> Tensor:
    """(...,) middle cells and (...,) radii -> (..., count) Gaussian over a row of cells."""
    away = torch.arange(count, device=center.device) - center[..., None]
    sigma = (2 * radius[..., None] + 1) / 6
    value = torch.exp(-(away * away) / (2 * sigma * sigma))
    return torch.where(away.abs() <= radius[..., None], value, 0.0)
