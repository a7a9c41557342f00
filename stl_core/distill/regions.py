"""
Objects' 2D boxes on feature maps: which cell belongs to which object, and boxes to pool over.

Shapes: B batch, N object slots, K objects that count, h w grid.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from stl_core.tensors.batch import Targets


def visible_targets(targets: Targets, size_px: tuple[int, int]) -> Targets:
    """
    Keep the objects that a canvas shows.

    :param targets: network pixels.
    :param size_px: height and width of the canvas.
    :return: the same, valid only where the projected centre is on the canvas, so that there is an
        answer to compare, and the box is not empty there.
    """
    height, width = size_px
    x, y = targets.center_px.unbind(-1)
    box = clip_boxes(targets.box_px, size_px)
    area = (box[..., 2:] > box[..., :2]).all(-1)
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    return replace(targets, valid=targets.valid & inside & area)


def clip_boxes(box_px: Tensor, size_px: tuple[int, int]) -> Tensor:
    """(..., 4) boxes -> the same, cut at the edge of a canvas of that height and width."""
    height, width = size_px
    # no tensor of limits: making one lets the host wait for the device
    x, y = box_px[..., 0::2].clamp(0, width), box_px[..., 1::2].clamp(0, height)
    return torch.stack([x, y], -1).flatten(-2)


def dilate_boxes(targets: Targets, around: float) -> Targets:
    """Push each border of every box outwards by a share of the box's width or height."""
    low, high = targets.box_px[..., :2], targets.box_px[..., 2:]
    margin = (high - low) * around
    return replace(targets, box_px=torch.cat([low - margin, high + margin], -1))


def nearest_object_map(targets: Targets, stride: float, h: int, w: int) -> tuple[Tensor, Tensor]:
    """
    Give each cell to the nearest of the objects whose boxes it lies in, see covered.

    :param targets: network pixels.
    :param stride: pixels a cell.
    :param h: grid height.
    :param w: grid width.
    :return: (B, h, w) slot of the owner, and (B, h, w) bool, whether there is one.
    """
    inside = box_cells(targets, stride, h, w)
    nearest, nearest_slot = _cell_depths(targets, inside).min(1)
    return nearest_slot, nearest.isfinite()


def object_cells(targets: Targets, stride: float, h: int, w: int, around: float = 0.0) -> Tensor:
    """
    List the cells of each object: those of its box where no other is nearer, and around it.

    An object that has none left in its box, small or hidden, has all of them: each has one.
    A cell in no box is of every object around whose box it lies.

    :param targets: network pixels.
    :param stride: pixels a cell.
    :param h: grid height.
    :param w: grid width.
    :param around: how far beyond its box an object reaches, as share of the box, see enlarged.
    :return: (B, N, h, w) bool; none of slots that do not count.
    """
    inside = box_cells(targets, stride, h, w)
    nearest = _keep_nearest(targets, inside)
    nearest = torch.where(nearest.any(-1).any(-1)[..., None, None], nearest, inside)
    if not around:
        return nearest
    surroundings = box_cells(dilate_boxes(targets, around), stride, h, w) & ~inside.any(
        1, keepdim=True
    )
    return nearest | surroundings


def box_cells(targets: Targets, stride: float, h: int, w: int) -> Tensor:
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
    left, top, right, bottom = torch.floor(targets.box_px / stride).unbind(-1)
    columns = _in_range(left, right, w)
    rows = _in_range(top, bottom, h) & targets.valid[..., None]
    return rows[..., :, None] & columns[..., None, :]


def mean_over_cells(cells: Tensor, grid: Tensor) -> Tensor:
    """(B, N, h, w) bool cells of each object, (B, h, w) -> (B, N) means over them; 0 of none."""
    total = torch.where(cells, grid[:, None], 0).sum((-1, -2))
    return total / cells.sum((-1, -2)).clamp(min=1)


def valid_indices(targets: Targets) -> Tensor:
    """(K,) places of the valid objects among all slots; asking how many makes the host wait."""
    return targets.valid.flatten().nonzero()[:, 0]


def object_rois(targets: Targets, size_px: tuple[int, int], indices: Tensor) -> Tensor:
    """(K,) of listed -> (K, 5): number of the image, and box cut at the canvas, pixels."""
    box = clip_boxes(targets.box_px, size_px).flatten(0, 1)[indices]
    image = indices.div(targets.valid.shape[1], rounding_mode='floor')
    return torch.cat([image[:, None].to(box.dtype), box], 1)


def _in_range(low: Tensor, high: Tensor, cells: int) -> Tensor:
    """(B, N) first cell and the one after the last -> (B, N, cells) bool, one of them at least."""
    low = low.clamp(0, cells - 1)
    high = torch.maximum(high.clamp(max=cells), low + 1)
    index = torch.arange(cells, device=low.device)
    return (index >= low[..., None]) & (index < high[..., None])


def _keep_nearest(targets: Targets, inside: Tensor) -> Tensor:
    """(B, N, h, w) bool -> the same, of every cell only the nearest of its objects."""
    depth_m = _cell_depths(targets, inside)
    return inside & (depth_m <= depth_m.amin(1, keepdim=True))


def _cell_depths(targets: Targets, inside: Tensor) -> Tensor:
    """(B, N, h, w) depth of each object in its cells, metres; infinite elsewhere."""
    return torch.where(inside, targets.depth_m[..., None, None], torch.inf)
