"""
Pooling objects out of feature maps by one weighted sum of places for each cell.

RoIAlign (He et al., Mask R-CNN, ICCV 2017) is bilinear: a cell is a sum of a few places of the
map, whichever they are. Written as bags of places, nothing is copied for an object, and the
gradient is as cheap; torchvision's, on a processor, is a loop over single numbers.
Shapes: B batch, K objects, C channels, h w grid, S cells a side.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

#: A cell is the mean of so many samples a side.
SAMPLING_RATIO = 2


def pool_rois(grid: Tensor, rois: Tensor, stride: float, cells: int) -> Tensor:
    """
    Pool each object: RoIAlign, aligned, with SAMPLES samples a side of each cell.

    :param grid: (B, C, h, w).
    :param rois: (K, 5) image and box, pixels, the box within the canvas.
    :param stride: pixels a cell of the grid.
    :param cells: S.
    :return: (K, S * S, C).
    """
    channels, h, w = grid.shape[1:]
    # as RoIAlign has it: the middle of a map's first cell is at half a stride
    left, top, right, bottom = (rois[:, 1:].to(grid.dtype) / stride - 0.5).unbind(-1)
    row, down = interpolation_taps(top, bottom, cells, h)
    column, across = interpolation_taps(left, right, cells, w)
    row = row + rois[:, 0].long()[:, None, None] * h
    index = row[:, :, None, :, None] * w + column[:, None, :, None, :]
    weight = down[:, :, None, :, None] * across[:, None, :, None, :]
    bags = F.embedding_bag(
        index.flatten(3).flatten(0, 2),
        grid.permute(0, 2, 3, 1).reshape(-1, channels),
        per_sample_weights=weight.flatten(3).flatten(0, 2),
        mode='sum',
    )
    return bags.view(len(rois), cells * cells, channels)


def interpolation_taps(low: Tensor, high: Tensor, cells: int, size: int) -> tuple[Tensor, Tensor]:
    """
    Say which places of a line make up the cells between two borders, by linear interpolation.

    :param low: (K,) lower border, in places of the line; 0 is the middle of the first.
    :param high: (K,) upper border.
    :param cells: S.
    :param size: places of the line; beyond its ends the last place holds.
    :return: (K, S, 2 * SAMPLES) places, and their weights, adding up to 1 for each cell.
    """
    steps = (
        torch.arange(cells * SAMPLING_RATIO, device=low.device, dtype=low.dtype) + 0.5
    ) / SAMPLING_RATIO
    at = (low[:, None] + steps * ((high - low) / cells)[:, None]).clamp(0, size - 1)
    first = at.floor()
    fraction = at - first
    index = torch.stack([first, (first + 1).clamp(max=size - 1)], -1).long()
    weight = torch.stack([1 - fraction, fraction], -1) / SAMPLING_RATIO
    index, weight = (
        each.unflatten(1, (cells, SAMPLING_RATIO)).flatten(2) for each in (index, weight)
    )
    return index, weight
