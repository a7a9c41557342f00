"""
RoIAlign (He et al., Mask R-CNN, ICCV 2017) by weighted sums of map cells, fast on a CPU.

RoIAlign interpolates bilinearly: every pooled cell is a weighted sum of a few map cells. As an
embedding bag, the sum copies nothing per object, and its gradient is as cheap; torchvision's
implementation for the CPU loops over single numbers.
Shapes: B batch, K objects, C channels, h w grid, S pooled cells per side.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

#: Samples per side of a pooled cell, which is their mean.
SAMPLING_RATIO = 2


def pool_rois(grid: Tensor, rois: Tensor, cells: int) -> Tensor:
    """
    Pool each object by aligned RoIAlign with SAMPLING_RATIO samples per side of a pooled cell.

    :param grid: (B, C, h, w) feature map.
    :param rois: (K, 5) image index and box, cells of the map; the box must lie within the map.
    :param cells: S.
    :return: (K, S * S, C).
    """
    channels, h, w = grid.shape[1:]
    # as in RoIAlign: the centre of a map's first cell is at half a cell
    left, top, right, bottom = (rois[:, 1:].to(grid.dtype) - 0.5).unbind(-1)
    row, row_weight = interpolation_taps(top, bottom, cells, h)
    column, column_weight = interpolation_taps(left, right, cells, w)
    row = row + rois[:, 0].long()[:, None, None] * h
    index = row[:, :, None, :, None] * w + column[:, None, :, None, :]
    weight = row_weight[:, :, None, :, None] * column_weight[:, None, :, None, :]
    bags = F.embedding_bag(
        index.flatten(3).flatten(0, 2),
        grid.permute(0, 2, 3, 1).reshape(-1, channels),
        per_sample_weights=weight.flatten(3).flatten(0, 2),
        mode='sum',
    )
    return bags.view(len(rois), cells * cells, channels)


def interpolation_taps(low: Tensor, high: Tensor, cells: int, size: int) -> tuple[Tensor, Tensor]:
    """
    Return indices and weights that pool a row or column of a map by linear interpolation.

    :param low: (K,) lower border, in cells of the map; 0 is the centre of the first.
    :param high: (K,) upper border.
    :param cells: S.
    :param size: cells of the row or column; beyond its ends the last cell counts.
    :return: (K, S, 2 * SAMPLING_RATIO) indices, and their weights, which add up to 1 for each
        pooled cell.
    """
    steps = (
        torch.arange(cells * SAMPLING_RATIO, device=low.device, dtype=low.dtype) + 0.5
    ) / SAMPLING_RATIO
    position = (low[:, None] + steps * ((high - low) / cells)[:, None]).clamp(0, size - 1)
    first = position.floor()
    fraction = position - first
    index = torch.stack([first, (first + 1).clamp(max=size - 1)], -1).long()
    weight = torch.stack([1 - fraction, fraction], -1) / SAMPLING_RATIO
    index, weight = (
        each.unflatten(1, (cells, SAMPLING_RATIO)).flatten(2) for each in (index, weight)
    )
    return index, weight


def mean_of_boxes(grid: Tensor, box: Tensor, cells: int) -> Tensor:
    """
    Average the S x S pooled cells of each box: one vector for an object, for all slots at once.

    The mean of all samples of a RoIAlign is the product of a weighted sum over rows and one over
    columns, so that two matrix products suffice; no slot is left out, and so the host does not
    wait for the number of objects.

    :param grid: (B, C, h, w) feature map.
    :param box: (B, N, 4) left, top, right, bottom, in cells of the map, within the map.
    :param cells: S.
    :return: (B, N, C), the mean over cells of pool_rois.
    """
    h, w = grid.shape[-2:]
    left, top, right, bottom = (box.to(grid.dtype) - 0.5).unbind(-1)
    columns = _mean_weights(left, right, cells, w)
    rows = _mean_weights(top, bottom, cells, h)
    strips = torch.einsum('bchw,bnw->bnch', grid, columns)
    return torch.einsum('bnch,bnh->bnc', strips, rows)


def _mean_weights(low: Tensor, high: Tensor, cells: int, size: int) -> Tensor:
    """Return (B, N, size) weights of a row's cells in the mean of all samples, see above."""
    samples = cells * SAMPLING_RATIO
    steps = (torch.arange(samples, device=low.device, dtype=low.dtype) + 0.5) / samples
    position = (low[..., None] + steps * (high - low)[..., None]).clamp(0, size - 1)
    index = torch.arange(size, device=low.device, dtype=low.dtype)
    # linear interpolation gives a cell the weight 1 at its centre, falling to 0 at the next one
    return (1 - (position[..., None] - index).abs()).clamp(min=0).mean(-2)
