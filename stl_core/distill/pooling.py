"""
Pooling objects out of feature maps by two small matrix products.

RoIAlign (He et al., Mask R-CNN, ICCV 2017) is bilinear, so its weights are a product of one for
rows and one for columns: W_y F W_x. Written so, most of it is matrix products, whose gradient a
processor computes many times faster than that of torchvision's loops.
Shapes: B batch, K objects, C channels, h w grid, S cells a side.
"""

from __future__ import annotations

import torch
from torch import Tensor

#: A cell is the mean of so many samples a side.
SAMPLES = 2


def pooled(grid: Tensor, rois: Tensor, stride: float, cells: int) -> Tensor:
    """
    Pool each object: RoIAlign, aligned, with SAMPLES samples a side of each cell.

    :param grid: (B, C, h, w).
    :param rois: (K, 5) image and box, pixels, the box within the canvas.
    :param stride: pixels a cell of the grid.
    :param cells: S.
    :return: (K, S * S, C).
    """
    h, w = grid.shape[-2:]
    # whole images in one piece: a processor copies those faster than grid[image]
    rows = grid.movedim(1, -1).flatten(1).index_select(0, rois[:, 0].long())
    count, channels = len(rois), grid.shape[1]
    # pixel centres: cell 0 of the grid is centred on pixel (stride - 1) / 2
    left, top, right, bottom = (rois[:, 1:].to(grid.dtype) / stride - 0.5).unbind(-1)
    down = shares(top, bottom, cells, h)
    across = shares(left, right, cells, w).repeat_interleave(cells, 0)
    squeezed = (down @ rows.view(count, h, w * channels)).view(count * cells, w, channels)
    return (across @ squeezed).view(count, cells * cells, channels)


def shares(low: Tensor, high: Tensor, cells: int, size: int) -> Tensor:
    """
    Weights of a grid's places in the cells between two borders, by linear interpolation.

    :param low: (K,) lower border, in places of the grid; 0 is the middle of the first.
    :param high: (K,) upper border.
    :param cells: S.
    :param size: places of the grid; beyond its ends the last place holds.
    :return: (K, S, size), each row adding up to 1.
    """
    steps = (torch.arange(cells * SAMPLES, device=low.device, dtype=low.dtype) + 0.5) / SAMPLES
    place = low[:, None] + steps * ((high - low) / cells)[:, None]
    grid = torch.arange(size, device=low.device, dtype=low.dtype)
    hats = (1 - (place.clamp(0, size - 1)[..., None] - grid).abs()).clamp(min=0)
    return hats.unflatten(1, (cells, SAMPLES)).mean(2)
