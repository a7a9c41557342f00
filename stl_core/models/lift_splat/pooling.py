"""
Splat: add up the features of all cameras in the cells of the ground.

Shapes: S samples, V views, B = S V images, D depth bins, C channels, h w grid of image features,
Y X rows and columns of the ground.
"""

from __future__ import annotations

import torch
from torch import Tensor


def pool_frustum(
    probability: Tensor, context: Tensor, index: Tensor, views: int, rows_columns: tuple[int, int]
) -> Tensor:
    """
    Add context times the probability of its depth to the cell in which it lies at that depth.

    Sums are in float32 at least, whatever the autocast: thousands of points may share a cell. On a
    CPU their order is fixed.

    :param probability: (B, D, h, w) of each depth bin.
    :param context: (B, C, h, w) image features.
    :param index: (B, D, h, w) int64 cell of each point, Y X for points that are left out.
    :param views: V.
    :param rows_columns: Y and X.
    :return: (S, C, Y, X).
    """
    dtype = torch.promote_types(context.dtype, torch.float32)
    rows = context.to(dtype).permute(0, 2, 3, 1)[:, None]
    values = probability.to(dtype)[..., None] * rows
    return splat(values.flatten(1, 3), index.flatten(1), views, rows_columns)


def splat(values: Tensor, index: Tensor, views: int, rows_columns: tuple[int, int]) -> Tensor:
    """
    Add up the features of points in cells; see pool_frustum.

    :param values: (B, M, C) features of the points of each image.
    :param index: (B, M) int64 cell of each point, Y X for points that are left out.
    :param views: V.
    :param rows_columns: Y and X.
    :return: (S, C, Y, X).
    """
    images, channels = len(values), values.shape[-1]
    rows, columns = rows_columns
    samples, slots = images // views, rows * columns + 1  # the last one: points left out
    first = torch.arange(images, device=index.device) // views * slots
    flat = (index + first[:, None]).flatten()
    total = values.new_zeros(samples * slots, channels).index_add(0, flat, values.flatten(0, 1))
    maps = total.unflatten(0, (samples, slots))[:, :-1]
    return maps.transpose(1, 2).unflatten(2, (rows, columns))


def mask_absent(index: Tensor, present: Tensor, none: int) -> Tensor:
    """Return (B, D, h, w) indices with all points of (B,) absent cameras set to `none`."""
    return torch.where(present[:, None, None, None], index, none)
