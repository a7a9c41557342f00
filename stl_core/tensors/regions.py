"""
Regions of objects on feature maps: their cells, cell owners and RoIs for pooling.

On a map of the image an object covers its 2D box, on one of the ground its footprint.
Shapes: B batch, S samples of a rig, N object slots, K valid objects, h w grid.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from stl_core.tensors.batch import ObjectTargets, Targets
from stl_core.tensors.rig import RigTargets


def visible_targets(targets: ObjectTargets, size_px: tuple[int, int]) -> ObjectTargets:
    """
    Set targets outside of the canvas to invalid; those around a vehicle stay as they are.

    :param targets: network pixels.
    :param size_px: height and width of the canvas.
    :return: the same targets, valid only where the clipped box is not empty. The projected centre
        may be off the canvas: a detector whose cell is the middle of the 2D box has a prediction
        for such an object; TargetPredictions.found holds which objects have one.
    """
    if not isinstance(targets, Targets):
        return targets
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
    return owner_map(box_cells(targets, stride, h, w), targets.depth_m)


def object_cells(targets: Targets, stride: float, h: int, w: int, around: float = 0.0) -> Tensor:
    """
    Return the cells of each object: those of its box where no other object is nearer.

    :param targets: network pixels.
    :param stride: pixels per cell.
    :param h: grid height.
    :param w: grid width.
    :param around: how far an object extends beyond its box, as fraction of the box's width and
        height, see dilate_boxes.
    :return: (B, N, h, w) bool; False in invalid slots.
    """
    inside = box_cells(targets, stride, h, w)
    dilated = box_cells(dilate_boxes(targets, around), stride, h, w) if around else None
    return divide_cells(inside, targets.depth_m, dilated)


def owner_map(inside: Tensor, distance_m: Tensor) -> tuple[Tensor, Tensor]:
    """
    Assign each cell to the nearest object that covers it.

    :param inside: (B, N, h, w) bool, the cells that each object covers.
    :param distance_m: (B, N) distance of each object.
    :return: (B, h, w) slot of the owner, and (B, h, w) bool, whether there is one.
    """
    nearest, nearest_slot = _cell_distances(inside, distance_m).min(1)
    return nearest_slot, nearest.isfinite()


def divide_cells(inside: Tensor, distance_m: Tensor, dilated: Tensor | None = None) -> Tensor:
    """
    Return the cells of each object: those that it covers and no nearer object does.

    A small or hidden object without such a cell gets all cells that it covers, so that every valid
    object has at least one. A cell that no object covers belongs to every object whose dilated
    region covers it.

    :param inside: (B, N, h, w) bool, the cells that each object covers.
    :param distance_m: (B, N) distance of each object.
    :param dilated: (B, N, h, w) bool, the cells of each object's dilated region; None for none.
    :return: (B, N, h, w) bool.
    """
    distance = _cell_distances(inside, distance_m)
    nearest = inside & (distance <= distance.amin(1, keepdim=True))
    nearest = torch.where(nearest.any(-1).any(-1)[..., None, None], nearest, inside)
    if dilated is None:
        return nearest
    return nearest | (dilated & ~inside.any(1, keepdim=True))


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


def footprint_cells(
    targets: RigTargets,
    cell_m: float,
    origin_m: tuple[float, float],
    hw: tuple[int, int],
    around: float = 0.0,
) -> Tensor:
    """
    Return the cells of a grid on the ground whose centres lie in an object's footprint.

    An object without such a cell has that of its centre, the nearest one of the grid.

    :param targets: vehicle frame.
    :param cell_m: side of a cell.
    :param origin_m: x and y of the corner of the first cell; columns run along x, rows along y.
    :param hw: rows and columns of the grid.
    :param around: how far the footprint is extended, as fraction of its width and length.
    :return: (S, N, h, w) bool; False in invalid slots.
    """
    h, w = hw
    # no tensor of the origin: creating one makes the host wait for the device
    left, bottom = (targets.center_m[..., axis, None] - origin_m[axis] for axis in (0, 1))
    column, row = (torch.arange(count, device=left.device) for count in (w, h))
    x, y = (column + 0.5) * cell_m - left, (row + 0.5) * cell_m - bottom
    cos, sin = targets.yaw.cos()[..., None, None], targets.yaw.sin()[..., None, None]
    along = cos * x[..., None, :] + sin * y[..., None]
    across = cos * y[..., None] - sin * x[..., None, :]
    half = targets.size_hwl_m[..., 1:, None, None] * (0.5 + around)
    inside = (along.abs() <= half[..., 1, :, :]) & (across.abs() <= half[..., 0, :, :])
    center_column = torch.floor(left / cell_m).clamp(0, w - 1) == column
    center_row = torch.floor(bottom / cell_m).clamp(0, h - 1) == row
    center = center_row[..., :, None] & center_column[..., None, :]
    return (inside | center) & targets.valid[..., None, None]


def footprint_rois(targets: RigTargets, indices: Tensor) -> Tensor:
    """Return (K, 5) of (K,) valid_indices: sample and hull of the footprint, x0 y0 x1 y1, m."""
    cos, sin = targets.yaw.cos().abs(), targets.yaw.sin().abs()
    width, length = targets.size_hwl_m[..., 1], targets.size_hwl_m[..., 2]
    half = torch.stack([cos * length + sin * width, sin * length + cos * width], -1) / 2
    center = targets.center_m[..., :2]
    hull = torch.cat([center - half, center + half], -1).flatten(0, 1)[indices]
    sample = indices.div(targets.valid.shape[1], rounding_mode='floor')
    return torch.cat([sample[:, None].to(hull.dtype), hull], 1)


def valid_indices(targets: ObjectTargets) -> Tensor:
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


def _cell_distances(inside: Tensor, distance_m: Tensor) -> Tensor:
    """Return the (B, N, h, w) distance of each object in its cells, metres; infinite elsewhere."""
    return torch.where(inside, distance_m[..., None, None], torch.inf)
