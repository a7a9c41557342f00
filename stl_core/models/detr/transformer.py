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

from stl_core.models.detr import box_coding as center_box
from stl_core.models.detr.deformable_attention import DeformableAttention, Sizes, cell_reach
from stl_core.tensors.precision import exactly

#: Maps that queries and cells look at: strides 8, 16, 32, 64.
LEVELS = 4
#: References stay where a sigmoid's inverse is well told: between 1e-5 and 1 - 1e-5.
_LIMIT = math.log(1e5 - 1)


@dataclass(frozen=True)
class Shape:
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
class Scene:
    """
    What queries look at.

    :param depth: (B, D, C) tokens of the depth encoder.
    :param cells: (B, S, C) of the visual encoder, one map after the other.
    :param sizes: L pairs (h, w).
    """

    depth: Tensor
    cells: Tensor
    sizes: Sizes


class DepthEncoder(nn.Module):
    """Features of the depth map -> tokens that know of each other and of their own depth."""

    def __init__(self, shape: Shape, farthest_m: float) -> None:
        """Build one layer, and one learnt vector a metre."""
        super().__init__()
        self.attention = _attention(shape)
        self.after = _After(shape)
        self.feed = _Feed(shape)
        self.metres = nn.Embedding(int(farthest_m) + 1, shape.width)

    def forward(self, features: Tensor, depth_m: Tensor) -> Tensor:
        """
        Encode.

        :param features: (B, C, h, w).
        :param depth_m: (B, h, w) at the focal length that depth is learnt at.
        :return: (B, D, C).
        """
        tokens = features.flatten(2).transpose(1, 2)
        _, width, h, w = features.shape
        at = tokens + sine_position(h, w, width, features.device)
        mixed = self.attention(at, at, tokens, need_weights=False)[0]
        return self.feed(self.after(tokens, mixed)) + self.of_depth(depth_m.flatten(1))

    def of_depth(self, depth_m: Tensor) -> Tensor:
        """(B, D) metres -> (B, D, C), linear between the vectors of whole metres."""
        last = self.metres.num_embeddings - 1
        depth_m = depth_m.clamp(0, last)
        near = depth_m.floor().long()
        share = (depth_m - near)[..., None]
        return self.metres(near) * (1 - share) + self.metres((near + 1).clamp(max=last)) * share


class VisualEncoder(nn.Module):
    """Every cell of every map looks at a few points of all of them."""

    def __init__(self, shape: Shape, layers: int) -> None:
        """Build the layers, and one learnt vector a map."""
        super().__init__()
        self.levels = nn.Parameter(torch.randn(LEVELS, shape.width))
        self.layers = nn.ModuleList(_VisualLayer(shape) for _ in range(layers))
        _reset(self)

    def forward(self, maps: tuple[Tensor, ...]) -> tuple[Tensor, Sizes]:
        """(B, C, h, w) maps, finest first -> (B, S, C) cells, map after map, and L (h, w)."""
        width, device = maps[0].shape[1], maps[0].device
        sizes = [(each.shape[2], each.shape[3]) for each in maps]
        cells = torch.cat([each.flatten(2) for each in maps], 2).transpose(1, 2)
        position = torch.cat(
            [
                sine_position(h, w, width, device) + level
                for (h, w), level in zip(sizes, self.levels, strict=True)
            ]
        )
        center = torch.cat([cell_centers(h, w, device) for h, w in sizes])[None]
        reach = cell_reach(sizes, cells)
        for layer in self.layers:
            cells = layer(cells, position, center, reach, sizes)
        return cells, sizes


class Decoder(nn.Module):
    """Queries look at depth, at each other and at the picture, and say a box after each layer."""

    def __init__(self, shape: Shape, layers: int) -> None:
        """Build the layers, and where a query first stands."""
        super().__init__()
        self.layers = nn.ModuleList(_QueryLayer(shape) for _ in range(layers))
        self.start = nn.Linear(shape.width, 2)
        self.points = shape.points
        _reset(self)
        nn.init.zeros_(self.start.bias)

    def forward(
        self, queries: Tensor, groups: int, scene: Scene, boxes: nn.ModuleList
    ) -> tuple[Tensor, Tensor]:
        """
        Decode.

        :param queries: (Q, 2 C) position and content.
        :param groups: queries look at those of their own group only.
        :param scene: what they all look at.
        :param boxes: heads, one a layer, that say how a query's box moves.
        :return: (B, layers, Q, C) queries and (B, layers, Q, 6) logits of centre boxes.
        """
        position, content = queries.chunk(2, -1)
        content = content.expand(len(scene.depth), -1, -1)
        center = exactly(self.start, position)[None].clamp(-_LIMIT, _LIMIT)
        where = center.sigmoid(), cell_reach(scene.sizes, center)
        reference = nn.functional.pad(center, (0, 4))  # a first box is told without a guess
        said, logits = [], []
        for layer, head in zip(self.layers, boxes, strict=True):
            content = layer(content, position, groups, scene, where)
            logit = exactly(head, content) + reference
            said.append(content)
            logits.append(logit)
            # gradients stop here: a layer answers for its own step only
            reference = logit.detach().clamp(-_LIMIT, _LIMIT)
            box = reference.sigmoid()
            where = box[..., :2], center_box.extent(box)[:, :, None] / (2 * self.points)
        return torch.stack(said, 1), torch.stack(logits, 1)


def sine_position(h: int, w: int, width: int, device: torch.device) -> Tensor:
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
        turn = torch.arange(1, count + 1, device=device) * (2 * math.pi / (count + 1e-6))
        angle = turn[:, None] / period
        return torch.stack([angle[:, ::2].sin(), angle[:, 1::2].cos()], -1).flatten(1)

    rows, columns = waves(h)[:, None].expand(-1, w, -1), waves(w)[None].expand(h, -1, -1)
    return torch.cat([rows, columns], -1).flatten(0, 1)


def cell_centers(h: int, w: int, device: torch.device) -> Tensor:
    """Grid size -> (h w, 2) x y of its cells, shares of the picture."""
    y = (torch.arange(h, device=device) + 0.5) / h
    x = (torch.arange(w, device=device) + 0.5) / w
    return torch.stack([x.expand(h, -1), y[:, None].expand(-1, w)], -1).flatten(0, 1)


class _VisualLayer(nn.Module):
    """One layer of the visual encoder."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.attention = DeformableAttention(shape.width, shape.heads, LEVELS, shape.points)
        self.after = _After(shape)
        self.feed = _Feed(shape)

    def forward(
        self, cells: Tensor, position: Tensor, center: Tensor, reach: Tensor, sizes: Sizes
    ) -> Tensor:
        seen = self.attention(cells + position, center, reach, cells, sizes)
        return self.feed(self.after(cells, seen))


class _QueryLayer(nn.Module):
    """One layer of the decoder."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.to_depth = _attention(shape)
        self.after_depth = _After(shape)
        # Two layers that see the same and are added make one, but a step moves it twice as far;
        # kept as published, so that training goes at the published pace.
        self.asking = nn.ModuleList(nn.Linear(shape.width, shape.width) for _ in range(2))
        self.offering = nn.ModuleList(nn.Linear(shape.width, shape.width) for _ in range(2))
        self.to_queries = _attention(shape)
        self.after_queries = _After(shape)
        self.to_picture = DeformableAttention(shape.width, shape.heads, LEVELS, shape.points)
        self.after_picture = _After(shape)
        self.feed = _Feed(shape)

    def forward(
        self,
        content: Tensor,
        position: Tensor,
        groups: int,
        scene: Scene,
        where: tuple[Tensor, Tensor],
    ) -> Tensor:
        told = self.to_depth(content, scene.depth, scene.depth, need_weights=False)[0]
        content = self.after_depth(content, told)
        content = self.after_queries(content, self._among(content, position, groups))
        told = self.to_picture(content + position, *where, scene.cells, scene.sizes)
        return self.feed(self.after_picture(content, told))

    def _among(self, content: Tensor, position: Tensor, groups: int) -> Tensor:
        """(B, Q, C) queries -> (B, Q, C) what those of their group tell them."""
        at = content + position
        asking = torch.stack([linear(at) for linear in self.asking]).sum(0)
        offering = torch.stack([linear(at) for linear in self.offering]).sum(0)
        apart = [x.unflatten(1, (groups, -1)).flatten(0, 1) for x in (asking, offering, content)]
        return self.to_queries(*apart, need_weights=False)[0].reshape(content.shape)


class _After(nn.Module):
    """What follows an attention: dropout, sum, norm."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.dropout = nn.Dropout(shape.dropout)
        self.norm = nn.LayerNorm(shape.width)

    def forward(self, before: Tensor, told: Tensor) -> Tensor:
        return self.norm(before + self.dropout(told))


class _Feed(nn.Module):
    """Two linear layers on each token, added to it."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.wide = nn.Linear(shape.width, shape.feedforward)
        self.narrow = nn.Linear(shape.feedforward, shape.width)
        self.dropout = nn.Dropout(shape.dropout)
        self.after = _After(shape)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.after(tokens, self.narrow(self.dropout(self.wide(tokens).relu())))


def _attention(shape: Shape) -> nn.MultiheadAttention:
    return nn.MultiheadAttention(shape.width, shape.heads, shape.dropout, batch_first=True)


def _reset(module: nn.Module) -> None:
    """Start matrices as DETR does; deformable attentions know better themselves."""
    for each in module.modules():
        if isinstance(each, nn.Linear):
            nn.init.xavier_uniform_(each.weight)
    for each in module.modules():
        if isinstance(each, DeformableAttention):
            each.reset()
