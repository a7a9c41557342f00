"""
Objects' 2D boxes on feature maps: which cell belongs to which object, and boxes to pool over.

Shapes: B batch, N object slots, K objects that count, h w grid.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from stl_core.batch import Targets


def shown(targets: Targets, size_px: tuple[int, int]) -> Targets:
    """
    Keep the objects that a canvas shows.

    :param targets: network pixels.
    :param size_px: height and width of the canvas.
    :return: the same, valid only where the projected centre is on the canvas, so that there is an
        answer to compare, and the box is not empty there.
    """
    height, width = size_px
    x, y = targets.center_px.unbind(-1)
    box = clipped(targets.box_px, size_px)
    area = (box[..., 2:] > box[..., :2]).all(-1)
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    return replace(targets, valid=targets.valid & inside & area)


def clipped(box_px: Tensor, size_px: tuple[int, int]) -> Tensor:
    """(..., 4) boxes -> the same, cut at the edge of a canvas of that height and width."""
    height, width = size_px
    limit = box_px.new_tensor([width, height, width, height])
    return torch.minimum(box_px.clamp(min=0), limit)


def enlarged(targets: Targets, around: float) -> Targets:
    """Push each border of every box outwards by a share of the box's width or height."""
    low, high = targets.box_px[..., :2], targets.box_px[..., 2:]
    margin = (high - low) * around
    return replace(targets, box_px=torch.cat([low - margin, high + margin], -1))


def owners(targets: Targets, stride: float, h: int, w: int) -> tuple[Tensor, Tensor]:
    """
    Give each cell to the nearest of the objects whose boxes it lies in, see covered.

    :param targets: network pixels.
    :param stride: pixels a cell.
    :param h: grid height.
    :param w: grid width.
    :return: (B, h, w) slot of the owner, and (B, h, w) bool, whether there is one.
    """
    inside = covered(targets, stride, h, w)
    nearest, owner = _depths(targets, inside).min(1)
    return owner, nearest.isfinite()


def own_cells(targets: Targets, stride: float, h: int, w: int) -> Tensor:
    """
    List the cells of each object: those where no other is nearer.

    An object that has none left, small or hidden, has those of its whole box: each has one.

    :param targets: network pixels.
    :param stride: pixels a cell.
    :param h: grid height.
    :param w: grid width.
    :return: (B, N, h, w) bool; none of slots that do not count.
    """
    inside = covered(targets, stride, h, w)
    depth_m = _depths(targets, inside)
    own = inside & (depth_m <= depth_m.amin(1, keepdim=True))
    return torch.where(own.any(-1).any(-1)[..., None, None], own, inside)


def covered(targets: Targets, stride: float, h: int, w: int) -> Tensor:
    """
    Mark the cells of each box.

    A box takes the cells from that of its left upper corner up to, without, that of its right
    lower corner; it is cut at the map's edge, and has one cell at least.

    :param targets: network pixels.
    :param stride: pixels a cell.
    :param h: grid height.
    :param w: grid width.
    :return: (B, N, h, w) bool; none of slots that do not count.
    """
    edge = torch.floor(targets.box_px / stride)
    limit = edge.new_tensor([w, h])
    low = torch.minimum(edge[..., :2].clamp(min=0), limit - 1)
    high = torch.maximum(torch.minimum(edge[..., 2:], limit), low + 1)
    columns = _between(low[..., 0], high[..., 0], w)
    rows = _between(low[..., 1], high[..., 1], h) & targets.valid[..., None]
    return rows[..., :, None] & columns[..., None, :]


def mean_over(cells: Tensor, grid: Tensor) -> Tensor:
    """(B, N, h, w) bool cells of each object, (B, h, w) -> (B, N) means over them; 0 of none."""
    total = torch.where(cells, grid[:, None], 0).sum((-1, -2))
    return total / cells.sum((-1, -2)).clamp(min=1)


def rois(targets: Targets, size_px: tuple[int, int]) -> Tensor:
    """(K, 5) of the valid objects: number of the image, and box cut at the canvas, pixels."""
    image = torch.arange(len(targets.valid), device=targets.valid.device)
    image = image[:, None].expand_as(targets.valid)[targets.valid]
    box = clipped(targets.box_px, size_px)[targets.valid]
    return torch.cat([image[:, None].to(box.dtype), box], 1)


def _between(low: Tensor, high: Tensor, cells: int) -> Tensor:
    """(B, N) first cell and the one after the last -> (B, N, cells) bool."""
    place = torch.arange(cells, device=low.device)
    return (place >= low[..., None]) & (place < high[..., None])


def _depths(targets: Targets, inside: Tensor) -> Tensor:
    """(B, N, h, w) depth of each object in its cells, metres; infinite elsewhere."""
    return torch.where(inside, targets.depth_m[..., None, None], torch.inf)
