"""
Multi-scale deformable attention (Zhu et al., Deformable DETR, ICLR 2021) with grid_sample.

A query attends to a few points of every map, at offsets that it predicts, instead of to all
cells. Points are fractions of the image, (0, 0) its top left corner and (1, 1) its bottom right
one, so that the same coordinates apply to maps of any stride.
Shapes: B batch, T queries, S cells of all maps, C channels, A heads, L maps, K points.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

SpatialShapes = Sequence[tuple[int, int]]


class DeformableAttention(nn.Module):
    """Deformable attention to K points on each of L maps, with A heads (the paper's eq. 3)."""

    def __init__(self, width: int, heads: int, levels: int, points: int) -> None:
        """
        Build the four projections; points start on rings around the query, equally weighted.

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
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise: point i of head a starts i + 1 offset units away, at angle 2 pi a / A."""
        angle = torch.arange(self.heads) * (2 * math.pi / self.heads)
        direction = torch.stack([angle.cos(), angle.sin()], -1)
        direction = direction / direction.abs().amax(-1, keepdim=True)
        steps = torch.arange(1.0, self.points + 1)
        ring = direction[:, None, None] * steps[:, None]  # (A, 1, K, 2)
        for linear in (self.offsets, self.weights):
            nn.init.zeros_(linear.weight)
            nn.init.zeros_(linear.bias)
        with torch.no_grad():
            self.offsets.bias.copy_(ring.expand(-1, self.levels, -1, -1).flatten())
        for linear in (self.value, self.out):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(
        self,
        query: Tensor,
        reference_points: Tensor,
        offset_scale: Tensor,
        cells: Tensor,
        spatial_shapes: SpatialShapes,
    ) -> Tensor:
        """
        Return the attention output of each query.

        :param query: (B, T, C).
        :param reference_points: (B or 1, T, 2) x y of each query, fractions of the image.
        :param offset_scale: (B or 1, T or 1, L or 1, 2) length of an offset of 1 in x and y, as
            fractions of the image.
        :param cells: (B, S, C) maps, flattened and concatenated.
        :param spatial_shapes: L pairs (h, w).
        :return: (B, T, C).
        """
        batch, count, _ = query.shape
        shape = (batch, count, self.heads, self.levels, self.points)
        # float32 under autocast too: half precision is off by a cell on a wide map
        offsets = self.offsets(query).float().view(*shape, 2)
        sampling_locations = (
            reference_points[:, :, None, None, None] + offsets * offset_scale[:, :, None, :, None]
        )
        attention_weights = (
            self.weights(query).float().view(*shape[:3], -1).softmax(-1).view(shape)
        )
        values = self.value(cells).float().unflatten(-1, (self.heads, -1))
        return self.out(
            multi_scale_deformable_attn(
                values, sampling_locations, attention_weights, spatial_shapes
            )
        )


def multi_scale_deformable_attn(
    values: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    spatial_shapes: SpatialShapes,
) -> Tensor:
    """
    Sample maps bilinearly, 0 outside, and sum the samples with attention weights.

    :param values: (B, S, A, C/A) maps, flattened and concatenated.
    :param sampling_locations: (B, T, A, L, K, 2) x y, fractions of the image.
    :param attention_weights: (B, T, A, L, K).
    :param spatial_shapes: L pairs (h, w).
    :return: (B, T, C).
    """
    batch, count = sampling_locations.shape[:2]
    grid = (2 * sampling_locations - 1).transpose(1, 2).flatten(0, 1)  # (B A, T, L, K, 2)
    attention_weights = attention_weights.transpose(1, 2).flatten(0, 1)[
        :, None
    ]  # (B A, 1, T, L, K)
    maps = values.permute(0, 2, 3, 1).flatten(0, 1)  # (B A, C/A, S)
    total = torch.zeros((), dtype=values.dtype, device=values.device)
    for level, level_map in enumerate(maps.split([h * w for h, w in spatial_shapes], -1)):
        sampled = nn.functional.grid_sample(
            level_map.unflatten(-1, spatial_shapes[level]), grid[:, :, level], align_corners=False
        )
        total = total + (sampled * attention_weights[:, :, :, level]).sum(-1)
    return total.view(batch, -1, count).transpose(1, 2)


def cell_offset_scale(spatial_shapes: SpatialShapes, like: Tensor) -> Tensor:
    """Return the cell size (1, 1, L, 2) of each map, fractions of the image, on like's device."""
    return torch.tensor([[1 / w, 1 / h] for h, w in spatial_shapes], device=like.device)[
        None, None
    ]
