"""
Regions of objects on feature maps: cells of their 2D boxes, cell owners and RoIs for pooling.

Shapes: B batch, N object slots, K valid objects, h w grid.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from stl_core.tensors.batch import Targets


def visible_targets(targets: Targets, size_px: tuple[int, int]) -> Targets:
    """
    Set targets outside of the canvas to invalid.

    :param targets: network pixels.
    :param size_px: height and width of the canvas.
    :return: the same targets, valid only where the clipped box is not empty. The projected centre
        may be off the canvas: a detector whose cell is the middle of the 2D box has a prediction
        for such an object; TargetPredictions.found holds which objects have one.
    """
    box = clip_boxes(targets.box_px, size_px)
    area = (box[..., 2:] > box[..., :2]).all(-1)
    return replace(targets, valid=targets.valid & area)


def clip_boxes(box_px: Tensor, size_px: tuple[int, int]) -> Tensor:
    """Clip (..., 4) boxes to a canvas of size_px (height, width)."""
    height, width = size_px
    # no tensor of limits: creating one makes the host wait for the device
    x, y = box_px[..., 0::2].clamp(0, width), box_px[..., 1::2].clamp(0, height)
    return torch.stack([x, y], -1).flatten(-2)


def dilate_boxes(targets: Targets, around: float) -> Targets:
    """Move each border of every box outwards by `around` times the box's width or height."""
    low, high = targets.box_px[..., :2], targets.box_px[..., 2:]
    margin = (high - low) * around
    return replace(targets, box_px=torch.cat([low - margin, high + margin], -1))


def nearest_object_map(targets: Targets, stride: float, h: int, w: int) -> tuple[Tensor, Tensor]:
    """
    Assign each cell to the nearest object whose box covers it, see box_cells.

    :param targets: network pixels.
    :param stride: pixels per cell.
    :param h: grid height.
    :param w: grid width.
    :return: (B, h, w) slot of the owner, and (B, h, w) bool, whether there is one.
    """
    inside = box_cells(targets, stride, h, w)
    nearest, nearest_slot = _cell_depths(targets, inside).min(1)
    return nearest_slot, nearest.isfinite()


def object_cells(targets: Targets, stride: float, h: int, w: int, around: float = 0.0) -> Tensor:
    """
    Return the cells of each object: those of its box where no other object is nearer.

    A small or hidden object without such a cell gets all cells of its box, so that every valid
    object has at least one. A cell in no box belongs to every object whose dilated box covers it.

    :param targets: network pixels.
    :param stride: pixels per cell.
    :param h: grid height.
    :param w: grid width.
    :param around: how far an object extends beyond its box, as fraction of the box's width and
        height, see dilate_boxes.
    :return: (B, N, h, w) bool; False in invalid slots.
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
    Return the cells that each box covers.

    A box covers the cells from that of its upper left corner up to, but excluding, that of its
    lower right corner; it is clipped at the map's edge and covers at least one cell.

    :param targets: network pixels.
    :param stride: pixels per cell.
    :param h: grid height.
    :param w: grid width.
    :return: (B, N, h, w) bool; False in invalid slots.
    """
    left, top, right, bottom = torch.floor(targets.box_px / stride).unbind(-1)
    columns = _in_range(left, right, w)
    rows = _in_range(top, bottom, h) & targets.valid[..., None]
    return rows[..., :, None] & columns[..., None, :]


def mean_over_cells(cells: Tensor, grid: Tensor) -> Tensor:
    """Average a (B, h, w) grid over (B, N, h, w) bool cells; returns (B, N), 0 without cells."""
    total = torch.where(cells, grid[:, None], 0).sum((-1, -2))
    return total / cells.sum((-1, -2)).clamp(min=1)


def valid_indices(targets: Targets) -> Tensor:
    """Return (K,) indices of valid objects among all slots; computing K makes the host wait."""
    return targets.valid.flatten().nonzero()[:, 0]


def object_rois(targets: Targets, size_px: tuple[int, int], indices: Tensor) -> Tensor:
    """Return (K, 5) RoIs of (K,) valid_indices: image index and box clipped to the canvas, px."""
    box = clip_boxes(targets.box_px, size_px).flatten(0, 1)[indices]
    image = indices.div(targets.valid.shape[1], rounding_mode='floor')
    return torch.cat([image[:, None].to(box.dtype), box], 1)


def _in_range(low: Tensor, high: Tensor, cells: int) -> Tensor:
    """Return (B, N, cells) bool: low <= cell < high of (B, N) limits, and at least one cell."""
    low = low.clamp(0, cells - 1)
    high = torch.maximum(high.clamp(max=cells), low + 1)
    index = torch.arange(cells, device=low.device)
    return (index >= low[..., None]) & (index < high[..., None])


def _keep_nearest(targets: Targets, inside: Tensor) -> Tensor:
    """Return (B, N, h, w) bool `inside`, True only for the nearest object of every cell."""
    depth_m = _cell_depths(targets, inside)
    return inside & (depth_m <= depth_m.amin(1, keepdim=True))


def _cell_depths(targets: Targets, inside: Tensor) -> Tensor:
    """Return the (B, N, h, w) depth of each object in its cells, metres; infinite elsewhere."""
    return torch.where(inside, targets.depth_m[..., None, None], torch.inf)
