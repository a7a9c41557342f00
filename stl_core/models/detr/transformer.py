"""
MonoDETR's depth-guided transformer (Zhang et al., ICCV 2023, section 3.2): encoders, decoder.

The visual encoder applies deformable self-attention to the cells of four maps, the depth encoder
plain self-attention to the cells of the depth map. Each decoder layer applies depth
cross-attention, self-attention among the queries of a group, and deformable cross-attention to the
image around the query's box, which every layer refines. Layers are post-norm.
Shapes: B batch, S cells of all maps, D cells of the depth map, Q queries of all groups, C
channels, L maps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from stl_core.models.detr import box_coding
from stl_core.models.detr.deformable_attention import (
    DeformableAttention,
    SpatialShapes,
    cell_offset_scale,
)
from stl_core.tensors.precision import in_float32

#: Number of maps under deformable attention: strides 8, 16, 32, 64.
NUM_LEVELS = 4
#: Clamps references to between 1e-5 and 1 - 1e-5 after the sigmoid, as in Deformable DETR.
_LOGIT_LIMIT = math.log(1e5 - 1)


@dataclass(frozen=True)
class TransformerDims:
    """
    Sizes shared by all layers.

    :param width: C.
    :param heads: attention heads.
    :param points: sampling points per head and map of deformable attentions.
    :param feedforward: hidden width of feed-forward blocks.
    :param dropout: fraction of values dropped in training.
    :param checkpoint_activations: compute each layer again for its gradient, see _run_layer.
    """

    width: int
    heads: int
    points: int
    feedforward: int
    dropout: float
    checkpoint_activations: bool = False


@dataclass(frozen=True)
class EncoderMemory:
    """
    Encoder outputs that queries attend to.

    :param depth_tokens: (B, D, C) from the depth encoder.
    :param visual_tokens: (B, S, C) from the visual encoder, maps concatenated.
    :param spatial_shapes: L pairs (h, w).
    """

    depth_tokens: Tensor
    visual_tokens: Tensor
    spatial_shapes: SpatialShapes


class DepthEncoder(nn.Module):
    """Self-attention layer over depth features; adds an embedding of each cell's depth."""

    def __init__(self, dims: TransformerDims, max_depth_m: float) -> None:
        """Build one layer, and one learnt embedding per metre of depth."""
        super().__init__()
        self.attention = _build_attention(dims)
        self.after = _AddNorm(dims)
        self.feed = _FeedForward(dims)
        self.metres = nn.Embedding(int(max_depth_m) + 1, dims.width)

    def forward(self, features: Tensor, depth_m: Tensor) -> Tensor:
        """
        Return the depth tokens, one per cell of the depth map.

        :param features: (B, C, h, w) from the depth predictor.
        :param depth_m: (B, h, w) expected depth, at the focal length at which depth is learnt.
        :return: (B, D, C), D = h w.
        """
        tokens = features.flatten(2).transpose(1, 2)
        _, width, h, w = features.shape
        embedded = tokens + sine_position_embedding(h, w, width, features.device)
        mixed = self.attention(embedded, embedded, tokens, need_weights=False)[0]
        return self.feed(self.after(tokens, mixed)) + self.depth_embedding(depth_m.flatten(1))

    def depth_embedding(self, depth_m: Tensor) -> Tensor:
        """Return embeddings (B, D, C) of depths (B, D), interpolated between whole metres."""
        last_metre = self.metres.num_embeddings - 1
        depth_m = depth_m.clamp(0, last_metre)
        whole_metre = depth_m.floor().long()
        fraction = (depth_m - whole_metre)[..., None]
        return (
            self.metres(whole_metre) * (1 - fraction)
            + self.metres((whole_metre + 1).clamp(max=last_metre)) * fraction
        )


class VisualEncoder(nn.Module):
    """Multi-scale deformable self-attention over the cells of all maps."""

    def __init__(self, dims: TransformerDims, layers: int) -> None:
        """Build the layers, and one learnt level embedding per map."""
        super().__init__()
        self.levels = nn.Parameter(torch.randn(NUM_LEVELS, dims.width))
        self.checkpoint_activations = dims.checkpoint_activations
        self.layers = nn.ModuleList(_VisualEncoderLayer(dims) for _ in range(layers))
        _reset_parameters(self)

    def forward(self, maps: tuple[Tensor, ...]) -> tuple[Tensor, SpatialShapes]:
        """Return cells (B, S, C), maps concatenated, and L sizes (h, w) of maps (B, C, h, w)."""
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
            inputs = (cells, position, reference_points, offset_scale, spatial_shapes)
            cells = _run_layer(layer, inputs, self.checkpoint_activations)
        return cells, spatial_shapes


class Decoder(nn.Module):
    """Decode queries with depth, self- and image attention; each layer refines their boxes."""

    def __init__(self, dims: TransformerDims, layers: int) -> None:
        """Build the layers, and the projection of queries to initial reference points."""
        super().__init__()
        self.layers = nn.ModuleList(_DecoderLayer(dims) for _ in range(layers))
        self.start = nn.Linear(dims.width, 2)
        self.points = dims.points
        self.checkpoint_activations = dims.checkpoint_activations
        _reset_parameters(self)
        nn.init.zeros_(self.start.bias)

    def forward(
        self, queries: Tensor, groups: int, memory: EncoderMemory, box_heads: nn.ModuleList
    ) -> tuple[Tensor, Tensor]:
        """
        Return the decoded queries and boxes of every layer.

        :param queries: (Q, 2 C) position and content.
        :param groups: number of groups; queries attend to queries of the same group only.
        :param memory: encoder outputs.
        :param box_heads: one head per layer, which predicts the change of a query's box logits.
        :return: (B, layers, Q, C) queries and (B, layers, Q, 6) logits of boxes, see box_coding.
        """
        position, content = queries.chunk(2, -1)
        content = content.expand(len(memory.depth_tokens), -1, -1)
        center = in_float32(self.start, position)[None].clamp(-_LOGIT_LIMIT, _LOGIT_LIMIT)
        sampling_reference = center.sigmoid(), cell_offset_scale(memory.spatial_shapes, center)
        reference = nn.functional.pad(center, (0, 4))  # box sides have no initial reference
        hidden, logits = [], []
        for layer, head in zip(self.layers, box_heads, strict=True):
            inputs = (content, position, groups, memory, sampling_reference)
            content = _run_layer(layer, inputs, self.checkpoint_activations)
            logit = in_float32(head, content) + reference
            hidden.append(content)
            logits.append(logit)
            # gradients stop here: each layer learns its own refinement only
            reference = logit.detach().clamp(-_LOGIT_LIMIT, _LOGIT_LIMIT)
            box = reference.sigmoid()
            sampling_reference = (
                box[..., :2],
                box_coding.box_width_height(box)[:, :, None] / (2 * self.points),
            )
        return torch.stack(hidden, 1), torch.stack(logits, 1)


def sine_position_embedding(h: int, w: int, width: int, device: torch.device) -> Tensor:
    """
    Return DETR's sine position embedding (Carion et al., ECCV 2020): y channels, then x.

    :param h: grid height, cells.
    :param w: grid width, cells.
    :param width: C.
    :param device: device of the result.
    :return: (h w, C).
    """
    i = torch.arange(width // 2, device=device)
    period = 10000 ** (2 * torch.div(i, 2, rounding_mode='floor') / (width // 2))

    def along(count: int) -> Tensor:
        phase = torch.arange(1, count + 1, device=device) * (2 * math.pi / (count + 1e-6))
        angle = phase[:, None] / period
        return torch.stack([angle[:, ::2].sin(), angle[:, 1::2].cos()], -1).flatten(1)

    rows, columns = along(h)[:, None].expand(-1, w, -1), along(w)[None].expand(h, -1, -1)
    return torch.cat([rows, columns], -1).flatten(0, 1)


def cell_centers(h: int, w: int, device: torch.device) -> Tensor:
    """Return the x y (h w, 2) of the cell centres of a grid, fractions of the image."""
    y = (torch.arange(h, device=device) + 0.5) / h
    x = (torch.arange(w, device=device) + 0.5) / w
    return torch.stack([x.expand(h, -1), y[:, None].expand(-1, w)], -1).flatten(0, 1)


class _VisualEncoderLayer(nn.Module):
    """Deformable self-attention and feed-forward block."""

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
    """Depth cross-attention, group self-attention, image cross-attention, feed-forward."""

    def __init__(self, dims: TransformerDims) -> None:
        super().__init__()
        self.to_depth = _build_attention(dims)
        self.after_depth = _AddNorm(dims)
        # Query (asking) and key (offering) projections. The sum of two linear layers of the same
        # input equals one layer, but an optimisation step changes it twice as much; kept as
        # published, so that training converges at the published pace.
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
        """Return the self-attention (B, Q, C) of queries (B, Q, C) within each group."""
        embedded = content + position
        query = torch.stack([linear(embedded) for linear in self.asking]).sum(0)
        key = torch.stack([linear(embedded) for linear in self.offering]).sum(0)
        grouped = [x.unflatten(1, (groups, -1)).flatten(0, 1) for x in (query, key, content)]
        return self.to_queries(*grouped, need_weights=False)[0].reshape(content.shape)


class _AddNorm(nn.Module):
    """Dropout, residual sum and LayerNorm after an attention."""

    def __init__(self, dims: TransformerDims) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dims.dropout)
        self.norm = nn.LayerNorm(dims.width)

    def forward(self, before: Tensor, attended: Tensor) -> Tensor:
        return self.norm(before + self.dropout(attended))


class _FeedForward(nn.Module):
    """Feed-forward block: two linear layers per token, residual sum and LayerNorm."""

    def __init__(self, dims: TransformerDims) -> None:
        super().__init__()
        self.wide = nn.Linear(dims.width, dims.feedforward)
        self.narrow = nn.Linear(dims.feedforward, dims.width)
        self.dropout = nn.Dropout(dims.dropout)
        self.after = _AddNorm(dims)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.after(tokens, self.narrow(self.dropout(self.wide(tokens).relu())))


def _run_layer(layer: nn.Module, inputs: tuple[Any, ...], checkpoint_activations: bool) -> Tensor:
    """
    Run a layer of an encoder or decoder.

    With checkpoint_activations, only its inputs are kept for the gradient, which computes the
    layer again, with the same random numbers and precision.
    """
    if checkpoint_activations and torch.is_grad_enabled():
        output: Tensor = checkpoint(layer, *inputs, use_reentrant=False)
        return output
    output = layer(*inputs)
    return output


def _build_attention(dims: TransformerDims) -> nn.MultiheadAttention:
    return nn.MultiheadAttention(dims.width, dims.heads, dims.dropout, batch_first=True)


def _reset_parameters(module: nn.Module) -> None:
    """Initialise linear layers as DETR does, deformable attentions by their own method."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
    for layer in module.modules():
        if isinstance(layer, DeformableAttention):
            layer.reset_parameters()
