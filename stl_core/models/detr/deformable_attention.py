"""
Multi-scale deformable attention (Zhu et al., Deformable DETR, ICLR 2021) by grid_sample.

A query looks at a few points of every map, chosen by itself, instead of at all cells. Places are
shares of the picture, (0, 0) its top left corner and (1, 1) its bottom right one, so that one
place means the same on maps of any stride.
Shapes: B batch, T queries, S cells of all maps, C channels, A heads, L maps, K points.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

Sizes = Sequence[tuple[int, int]]


class DeformableAttention(nn.Module):
    """Attention to K points on each of L maps, for each of A heads."""

    def __init__(self, width: int, heads: int, levels: int, points: int) -> None:
        """
        Build the four projections; points start on rings round the query, evenly weighted.

        :param width: C, a multiple of heads.
        :param heads: A.
        :param levels: L.
        :param points: K.
        """
        super().__init__()
        self.heads, self.levels, self.points = heads, levels, points
        self.offsets = nn.Linear(width, heads * levels * points * 2)
        self.weights = nn.Linear(width, heads * levels * points)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)
        self.reset()

    def reset(self) -> None:
        """Point i of head a starts i + 1 steps away, towards angle 2 pi a / A."""
        angle = torch.arange(self.heads) * (2 * math.pi / self.heads)
        towards = torch.stack([angle.cos(), angle.sin()], -1)
        towards = towards / towards.abs().amax(-1, keepdim=True)
        steps = torch.arange(1.0, self.points + 1)
        ring = towards[:, None, None] * steps[:, None]  # (A, 1, K, 2)
        for linear in (self.offsets, self.weights):
            nn.init.zeros_(linear.weight)
            nn.init.zeros_(linear.bias)
        with torch.no_grad():
            self.offsets.bias.copy_(ring.expand(-1, self.levels, -1, -1).flatten())
        for linear in (self.value, self.out):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(
        self, query: Tensor, center: Tensor, reach: Tensor, cells: Tensor, sizes: Sizes
    ) -> Tensor:
        """
        Look.

        :param query: (B, T, C).
        :param center: (B or 1, T, 2) x y where each query stands.
        :param reach: (B or 1, T or 1, L or 1, 2) how far an offset of 1 leads, in x and y.
        :param cells: (B, S, C) maps, flattened, one after the other.
        :param sizes: L pairs (h, w).
        :return: (B, T, C).
        """
        batch, count, _ = query.shape
        shape = (batch, count, self.heads, self.levels, self.points)
        # float32 under autocast too: half of its digits would miss a cell of a wide map
        offsets = self.offsets(query).float().view(*shape, 2)
        places = center[:, :, None, None, None] + offsets * reach[:, :, None, :, None]
        weights = self.weights(query).float().view(*shape[:3], -1).softmax(-1).view(shape)
        values = self.value(cells).float().unflatten(-1, (self.heads, -1))
        return self.out(gather(values, places, weights, sizes))


def gather(values: Tensor, places: Tensor, weights: Tensor, sizes: Sizes) -> Tensor:
    """
    Sum what maps hold at weighted places, bilinear, 0 outside.

    :param values: (B, S, A, C/A) maps, flattened, one after the other.
    :param places: (B, T, A, L, K, 2) x y.
    :param weights: (B, T, A, L, K).
    :param sizes: L pairs (h, w).
    :return: (B, T, C).
    """
    batch, count = places.shape[:2]
    grid = (2 * places - 1).transpose(1, 2).flatten(0, 1)  # (B A, T, L, K, 2)
    weights = weights.transpose(1, 2).flatten(0, 1)[:, None]  # (B A, 1, T, L, K)
    maps = values.permute(0, 2, 3, 1).flatten(0, 1)  # (B A, C/A, S)
    total = torch.zeros((), dtype=values.dtype, device=values.device)
    for level, part in enumerate(maps.split([h * w for h, w in sizes], -1)):
        seen = nn.functional.grid_sample(
            part.unflatten(-1, sizes[level]), grid[:, :, level], align_corners=False
        )
        total = total + (seen * weights[:, :, :, level]).sum(-1)
    return total.view(batch, -1, count).transpose(1, 2)


def cell_reach(sizes: Sizes, like: Tensor) -> Tensor:
    """Sizes of L maps -> (1, 1, L, 2) reach of one cell of each, on the device of `like`."""
    return torch.tensor([[1 / w, 1 / h] for h, w in sizes], device=like.device)[None, None]
