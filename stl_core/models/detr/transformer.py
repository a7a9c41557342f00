"""
The depth-guided transformer of MonoDETR (Zhang et al., ICCV 2023).

A visual encoder mixes the cells of four maps by deformable attention, a depth encoder mixes those
of the depth map. In the decoder every query looks at depth, then at the other queries of its
group, then at the picture around its box, which every layer moves. Norms follow sums.
Shapes: B batch, S cells of all maps, D cells of the depth map, Q queries of all groups, C
channels, L maps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from stl_core.models.detr import box_coding
from stl_core.models.detr.deformable_attention import (
    DeformableAttention,
    SpatialShapes,
    cell_offset_scale,
)
from stl_core.tensors.precision import in_float32

#: Maps that queries and cells look at: strides 8, 16, 32, 64.
NUM_LEVELS = 4
#: References stay where a sigmoid's inverse is well told: between 1e-5 and 1 - 1e-5.
_LOGIT_LIMIT = math.log(1e5 - 1)


@dataclass(frozen=True)
class TransformerDims:
    """
    Sizes that all layers share.

    :param width: C.
    :param heads: of every attention.
    :param points: that a head looks at on each map.
    :param feedforward: hidden width between attentions.
    :param dropout: share of values dropped in training.
    """

    width: int
    heads: int
    points: int
    feedforward: int
    dropout: float


@dataclass(frozen=True)
class EncoderMemory:
    """
    What queries look at.

    :param depth_tokens: (B, D, C) tokens of the depth encoder.
    :param visual_tokens: (B, S, C) of the visual encoder, one map after the other.
    :param spatial_shapes: L pairs (h, w).
    """

    depth_tokens: Tensor
    visual_tokens: Tensor
    spatial_shapes: SpatialShapes


class DepthEncoder(nn.Module):
    """Features of the depth map -> tokens that know of each other and of their own depth."""

    def __init__(self, dims: TransformerDims, max_depth_m: float) -> None:
        """Build one layer, and one learnt vector a metre."""
        super().__init__()
        self.attention = _build_attention(dims)
        self.after = _AddNorm(dims)
        self.feed = _FeedForward(dims)
        self.metres = nn.Embedding(int(max_depth_m) + 1, dims.width)

    def forward(self, features: Tensor, depth_m: Tensor) -> Tensor:
        """
        Encode.

        :param features: (B, C, h, w).
        :param depth_m: (B, h, w) at the focal length that depth is learnt at.
        :return: (B, D, C).
        """
        tokens = features.flatten(2).transpose(1, 2)
        _, width, h, w = features.shape
        at = tokens + sine_position_embedding(h, w, width, features.device)
        mixed = self.attention(at, at, tokens, need_weights=False)[0]
        return self.feed(self.after(tokens, mixed)) + self.depth_embedding(depth_m.flatten(1))

    def depth_embedding(self, depth_m: Tensor) -> Tensor:
        """(B, D) metres -> (B, D, C), linear between the vectors of whole metres."""
        last = self.metres.num_embeddings - 1
        depth_m = depth_m.clamp(0, last)
        near = depth_m.floor().long()
        fraction = (depth_m - near)[..., None]
        return (
            self.metres(near) * (1 - fraction) + self.metres((near + 1).clamp(max=last)) * fraction
        )


class VisualEncoder(nn.Module):
    """Every cell of every map looks at a few points of all of them."""

    def __init__(self, dims: TransformerDims, layers: int) -> None:
        """Build the layers, and one learnt vector a map."""
        super().__init__()
        self.levels = nn.Parameter(torch.randn(NUM_LEVELS, dims.width))
        self.layers = nn.ModuleList(_VisualEncoderLayer(dims) for _ in range(layers))
        _reset_parameters(self)

    def forward(self, maps: tuple[Tensor, ...]) -> tuple[Tensor, SpatialShapes]:
        """(B, C, h, w) maps, finest first -> (B, S, C) cells, map after map, and L (h, w)."""
        width, device = maps[0].shape[1], maps[0].device
        spatial_shapes = [(each.shape[2], each.shape[3]) for each in maps]
        cells = torch.cat([each.flatten(2) for each in maps], 2).transpose(1, 2)
        position = torch.cat(
            [
                sine_position_embedding(h, w, width, device) + level
                for (h, w), level in zip(spatial_shapes, self.levels, strict=True)
            ]
        )
        reference_points = torch.cat([cell_centers(h, w, device) for h, w in spatial_shapes])[None]
        offset_scale = cell_offset_scale(spatial_shapes, cells)
        for layer in self.layers:
            cells = layer(cells, position, reference_points, offset_scale, spatial_shapes)
        return cells, spatial_shapes


class Decoder(nn.Module):
    """Queries look at depth, at each other and at the picture, and say a box after each layer."""

    def __init__(self, dims: TransformerDims, layers: int) -> None:
        """Build the layers, and where a query first stands."""
        super().__init__()
        self.layers = nn.ModuleList(_DecoderLayer(dims) for _ in range(layers))
        self.start = nn.Linear(dims.width, 2)
        self.points = dims.points
        _reset_parameters(self)
        nn.init.zeros_(self.start.bias)

    def forward(
        self, queries: Tensor, groups: int, memory: EncoderMemory, box_heads: nn.ModuleList
    ) -> tuple[Tensor, Tensor]:
        """
        Decode.

        :param queries: (Q, 2 C) position and content.
        :param groups: queries look at those of their own group only.
        :param memory: what they all look at.
        :param box_heads: heads, one a layer, that say how a query's box moves.
        :return: (B, layers, Q, C) queries and (B, layers, Q, 6) logits of centre boxes.
        """
        position, content = queries.chunk(2, -1)
        content = content.expand(len(memory.depth_tokens), -1, -1)
        center = in_float32(self.start, position)[None].clamp(-_LOGIT_LIMIT, _LOGIT_LIMIT)
        sampling_reference = center.sigmoid(), cell_offset_scale(memory.spatial_shapes, center)
        reference = nn.functional.pad(center, (0, 4))  # a first box is told without a guess
        hidden, logits = [], []
        for layer, head in zip(self.layers, box_heads, strict=True):
            content = layer(content, position, groups, memory, sampling_reference)
            logit = in_float32(head, content) + reference
            hidden.append(content)
            logits.append(logit)
            # gradients stop here: a layer answers for its own step only
            reference = logit.detach().clamp(-_LOGIT_LIMIT, _LOGIT_LIMIT)
            box = reference.sigmoid()
            sampling_reference = (
                box[..., :2],
                box_coding.box_width_height(box)[:, :, None] / (2 * self.points),
            )
        return torch.stack(hidden, 1), torch.stack(logits, 1)


def sine_position_embedding(h: int, w: int, width: int, device: torch.device) -> Tensor:
    """
    Sines and cosines of row and column (Carion et al., DETR, ECCV 2020): y first, then x.

    :param h: grid height.
    :param w: grid width.
    :param width: C.
    :param device: where to.
    :return: (h w, C).
    """
    i = torch.arange(width // 2, device=device)
    period = 10000 ** (2 * torch.div(i, 2, rounding_mode='floor') / (width // 2))

    def waves(count: int) -> Tensor:
        phase = torch.arange(1, count + 1, device=device) * (2 * math.pi / (count + 1e-6))
        angle = phase[:, None] / period
        return torch.stack([angle[:, ::2].sin(), angle[:, 1::2].cos()], -1).flatten(1)

    rows, columns = waves(h)[:, None].expand(-1, w, -1), waves(w)[None].expand(h, -1, -1)
    return torch.cat([rows, columns], -1).flatten(0, 1)


def cell_centers(h: int, w: int, device: torch.device) -> Tensor:
    """Grid size -> (h w, 2) x y of its cells, shares of the picture."""
    y = (torch.arange(h, device=device) + 0.5) / h
    x = (torch.arange(w, device=device) + 0.5) / w
    return torch.stack([x.expand(h, -1), y[:, None].expand(-1, w)], -1).flatten(0, 1)


class _VisualEncoderLayer(nn.Module):
    """One layer of the visual encoder."""

    def __init__(self, dims: TransformerDims) -> None:
        super().__init__()
        self.attention = DeformableAttention(dims.width, dims.heads, NUM_LEVELS, dims.points)
        self.after = _AddNorm(dims)
        self.feed = _FeedForward(dims)

    def forward(
        self,
        cells: Tensor,
        position: Tensor,
        reference_points: Tensor,
        offset_scale: Tensor,
        spatial_shapes: SpatialShapes,
    ) -> Tensor:
        attended = self.attention(
            cells + position, reference_points, offset_scale, cells, spatial_shapes
        )
        return self.feed(self.after(cells, attended))


class _DecoderLayer(nn.Module):
    """One layer of the decoder."""

    def __init__(self, dims: TransformerDims) -> None:
        super().__init__()
        self.to_depth = _build_attention(dims)
        self.after_depth = _AddNorm(dims)
        # Two layers that see the same and are added make one, but a step moves it twice as far;
        # kept as published, so that training goes at the published pace.
        self.asking = nn.ModuleList(nn.Linear(dims.width, dims.width) for _ in range(2))
        self.offering = nn.ModuleList(nn.Linear(dims.width, dims.width) for _ in range(2))
        self.to_queries = _build_attention(dims)
        self.after_queries = _AddNorm(dims)
        self.to_picture = DeformableAttention(dims.width, dims.heads, NUM_LEVELS, dims.points)
        self.after_picture = _AddNorm(dims)
        self.feed = _FeedForward(dims)

    def forward(
        self,
        content: Tensor,
        position: Tensor,
        groups: int,
        memory: EncoderMemory,
        sampling_reference: tuple[Tensor, Tensor],
    ) -> Tensor:
        attended = self.to_depth(
            content, memory.depth_tokens, memory.depth_tokens, need_weights=False
        )[0]
        content = self.after_depth(content, attended)
        content = self.after_queries(
            content, self._group_self_attention(content, position, groups)
        )
        attended = self.to_picture(
            content + position, *sampling_reference, memory.visual_tokens, memory.spatial_shapes
        )
        return self.feed(self.after_picture(content, attended))

    def _group_self_attention(self, content: Tensor, position: Tensor, groups: int) -> Tensor:
        """(B, Q, C) queries -> (B, Q, C) what those of their group tell them."""
        at = content + position
        query = torch.stack([linear(at) for linear in self.asking]).sum(0)
        key = torch.stack([linear(at) for linear in self.offering]).sum(0)
        grouped = [x.unflatten(1, (groups, -1)).flatten(0, 1) for x in (query, key, content)]
        return self.to_queries(*grouped, need_weights=False)[0].reshape(content.shape)


class _AddNorm(nn.Module):
    """What follows an attention: dropout, sum, norm."""

    def __init__(self, dims: TransformerDims) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dims.dropout)
        self.norm = nn.LayerNorm(dims.width)

    def forward(self, before: Tensor, attended: Tensor) -> Tensor:
        return self.norm(before + self.dropout(attended))


class _FeedForward(nn.Module):
    """Two linear layers on each token, added to it."""

    def __init__(self, dims: TransformerDims) -> None:
        super().__init__()
        self.wide = nn.Linear(dims.width, dims.feedforward)
        self.narrow = nn.Linear(dims.feedforward, dims.width)
        self.dropout = nn.Dropout(dims.dropout)
        self.after = _AddNorm(dims)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.after(tokens, self.narrow(self.dropout(self.wide(tokens).relu())))


def _build_attention(dims: TransformerDims) -> nn.MultiheadAttention:
    return nn.MultiheadAttention(dims.width, dims.heads, dims.dropout, batch_first=True)


def _reset_parameters(module: nn.Module) -> None:
    """Start matrices as DETR does; deformable attentions know better themselves."""
    for each in module.modules():
        if isinstance(each, nn.Linear):
            nn.init.xavier_uniform_(each.weight)
    for each in module.modules():
        if isinstance(each, DeformableAttention):
            each.reset_parameters()
