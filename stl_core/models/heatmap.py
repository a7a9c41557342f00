"""
Grids: drawing objects on a heatmap, finding its peaks, reading head maps where objects are.

Grid coordinates are pixels / stride; the cell of a point is the floor of its grid coordinates.
Shapes: B batch, N object slots, K peaks, C channels, h w grid.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from stl_core.batch import Targets


def cells(center_px: Tensor, stride: int, h: int, w: int) -> tuple[Tensor, Tensor]:
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
    Radius within which a shifted box still overlaps the true one by min_overlap.

    The smallest of the three cases of CornerNet (Law and Deng, ECCV 2018): both corners inside,
    both outside, one of each. Each is the quadratic's root as CenterNet-style code computes it,
    division by 2 included, so that heatmaps match those that published models were trained with.

    :param size: (..., 2) box width and height in cells.
    :param min_overlap: intersection over union to keep.
    :return: (...,) cells.
    """
    total, area = size.sum(-1), size.prod(-1)
    cases = (
        (1.0, total, area * (1 - min_overlap) / (1 + min_overlap)),
        (4.0, 2 * total, (1 - min_overlap) * area),
        (4 * min_overlap, -2 * min_overlap * total, (min_overlap - 1) * area),
    )
    roots = [(b + (b * b - 4 * a * c).clamp(min=0).sqrt()) / 2 for a, b, c in cases]
    return torch.stack(roots).amin(0)


def draw(targets: Targets, classes: int, stride: int, h: int, w: int) -> Tensor:
    """
    Draw every valid object as a Gaussian around its cell, the larger value winning.

    Sigma is a sixth of the diameter; beyond the radius the map is 0, as in CenterNet. Objects
    are drawn slot by slot over the whole batch, so memory stays at a few heatmaps.

    :param targets: network pixels.
    :param classes: number of classes C.
    :param stride: pixels a cell.
    :param h: grid height.
    :param w: grid width.
    :return: (B, C, h, w) in [0, 1]; exactly 1 at the cell of every valid object inside.
    """
    cell, inside = cells(targets.center_px, stride, h, w)
    size = (targets.box_px[..., 2:] - targets.box_px[..., :2]).clamp(min=0) / stride
    radius = gaussian_radius(size).floor().clamp(min=0)
    keep = inside & targets.valid
    ys = torch.arange(h, device=cell.device, dtype=torch.float32)[:, None]
    xs = torch.arange(w, device=cell.device, dtype=torch.float32)
    batch = len(cell)
    out = torch.zeros(batch, classes, h, w, device=cell.device)
    rows = torch.arange(batch, device=cell.device)
    for slot in range(int(keep.sum(1).max()) if batch else 0):
        # valid objects come first in a row of slots, but those outside the grid leave gaps
        order = torch.argsort(keep.to(torch.int8), dim=1, descending=True, stable=True)[:, slot]
        at = cell[rows, order]
        dy = ys - torch.div(at, w, rounding_mode='floor')[:, None, None]
        dx = xs - (at % w)[:, None, None]
        reach = radius[rows, order][:, None, None]
        sigma = (2 * reach + 1) / 6
        blob = torch.exp(-(dx * dx + dy * dy) / (2 * sigma * sigma))
        blob = blob * (
            (dx.abs() <= reach) & (dy.abs() <= reach) & keep[rows, order][:, None, None]
        )
        kind = targets.class_id[rows, order]
        out[rows, kind] = torch.maximum(out[rows, kind], blob)
    return out


def peaks(heatmap: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """
    Find the strongest local maxima (3x3, within a class).

    :param heatmap: (B, C, h, w) probabilities.
    :param count: K, at most; fewer where the grid is smaller.
    :return: (B, K) score in falling order, (B, K) class, (B, K) flat cell.
    """
    _, classes, h, w = heatmap.shape
    local = torch.nn.functional.max_pool2d(heatmap, 3, 1, 1)
    flat = (heatmap * (heatmap == local)).flatten(1)
    score, place = flat.topk(min(count, classes * h * w))
    return score, torch.div(place, h * w, rounding_mode='floor'), place % (h * w)


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


def decode_angle(chosen: Tensor, rest: Tensor, bins: int) -> Tensor:
    """Undo encode_angle: (...,) bin and (...,) rest -> radians in [-pi, pi)."""
    angle = chosen * (2 * math.pi / bins) + rest
    return torch.remainder(angle + math.pi, 2 * math.pi) - math.pi
