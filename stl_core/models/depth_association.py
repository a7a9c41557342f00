"""
Vision-depth association (VDA) with 3D-aware positional encoding: fuse given depth into a map.

Wu et al., DK3D, TPAMI 2025: the abstract says that a vision-depth association lets models that
are depth-independent fuse depth cues with visual features; its predecessor ADD names a 3D-aware
positional encoding of depth given object by object. No formula of it is public, and we know of no
other public implementation: the layers below are our choice, in the place where a CenterNet-style
network has its last map (the neck's output).
Shapes: B batch, C channels, E channels of a depth code, T cells at stride 16, H W canvas, h w
grid.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stl_core.tensors.batch import NetworkInput
from stl_core.tensors.positions import backproject_pixels, cell_centers_px, sinusoidal_encoding
from stl_core.tensors.precision import autocast_to

#: Network pixels per cell of the attention.
TOKEN_STRIDE = 16
#: Prefix of the weights of a privileged detector that its base lacks.
PREFIX = 'depth_association.'
#: Channels of the encoding of x, y, z, and of that of a viewing direction.
_POINT, _DIRECTION = 36, 48
#: E: whether depth is known, its logarithm, its deviation from the visual depth, and the encoding
#: of the point.
_CODE = 3 + _POINT
#: Unit of that deviation: the error of a visual depth that is usual, as a fraction.
_USUAL_ERROR = 0.1
#: Greatest deviation, in that unit; it is that of another object's depth.
_MAX_DEVIATION = 10.0
#: A viewing direction is encoded as its point at this depth, metres.
_DIRECTION_DEPTH_M = 100.0
#: Depth whose logarithm is coded as 0, metres.
_MIDDLE_M = 20.0
#: Depths below count as this one, metres; keeps inverse depth finite.
_MIN_M = 0.1
#: Cells with less known depth count as unknown.
_MIN_KNOWN = 1e-6
#: Attention logit of a cell without depth: its exponential is 0 in every precision.
_UNKNOWN_LOGIT = -1e4


@dataclass(frozen=True)
class DepthCells:
    """
    Depth in the cells of a grid.

    :param weight: (B, h, w) mean of `known` over the pixels of a cell.
    :param inverse: (B, h, w) mean of known / depth over the pixels of a cell, 1/m.
    :param known: (B, h, w) greatest `known` in a cell: a small object's depth is as certain as
        that of a large one.
    """

    weight: Tensor
    inverse: Tensor
    known: Tensor

    def pool(self, factor: int) -> DepthCells:
        """Return the depth in cells of factor x factor of these cells."""
        if factor == 1:
            return self
        weight, inverse = (F.avg_pool2d(each, factor) for each in (self.weight, self.inverse))
        return DepthCells(weight, inverse, F.max_pool2d(self.known, factor))

    def depth_m(self) -> Tensor:
        """Return the harmonic mean (B, h, w) of known depth, in which near pixels prevail."""
        is_known = self.weight > _MIN_KNOWN
        weight = torch.where(is_known, self.weight, _MIDDLE_M)
        return weight / torch.where(is_known, self.inverse, 1.0)


def cells_of_depth(depth_m: Tensor, known: Tensor, hw: tuple[int, int]) -> DepthCells:
    """
    Collect a depth map in the cells of a grid; differentiable in both maps.

    :param depth_m: (B, H, W) z in metres; means nothing where `known` is 0.
    :param known: (B, H, W) certainty of the depth, 0 (nothing is known) to 1.
    :param hw: height and width of the grid; H and W are multiples of them, or divide them.
    :raises ValueError: for a map of another size.
    """
    size = tuple(depth_m.shape[1:])
    repeats = hw[0] // size[0]
    if repeats > 1 and hw == (size[0] * repeats, size[1] * repeats):
        depth_m, known = (
            F.interpolate(each[:, None], hw)[:, 0] for each in (depth_m, known.to(depth_m.dtype))
        )
        size = hw
    factor = size[0] // hw[0]
    if size != (hw[0] * factor, hw[1] * factor):
        raise ValueError(
            f'depth map of {size[0]}x{size[1]}: expected a multiple of, or a size that divides,'
            f' {hw[0]}x{hw[1]}'
        )
    known = known.to(depth_m.dtype)
    return DepthCells(known, known / depth_m.clamp(min=_MIN_M), known).pool(factor)


class DepthAssociation(nn.Module):
    """
    A(F, e(D)): what depth D adds to a visual map F; a privileged teacher's map is F + A(F, e(D)).

    Code e of a cell: whether depth is known, log depth, log depth less that of the visual depth,
    and sines of the back-projected point x, y, z (ADD names a 3D-aware positional encoding; the
    sines are our choice). z is brought to the focal length at which the detector learns depth, x
    and y are metres: a lens of k times the focal length shows the same picture of the same scene
    at k times the depth, and the code is the same.

    The visual depth is what the detector's own head reads from F alone, without gradient. In a
    crowd, a third of the cells of cars' centres hold the depth of another object before the car,
    so that A must choose for each cell between given and visual depth; the difference shows which.
    With it, a trained depth head's median error falls from 1.5 to 0.5 m within 600 steps where the
    given depth is the car's own, without it to 1.2 m (layers as these on frozen features of a
    MonoDLE; the given depth varied by 2 %).

    1. Attention at stride 16, with learnt projections q, k, v: queries q(F) are the pooled visual
       cells, keys k(e) and values v(e) the cells with known depth. Both sides get one encoding of
       the viewing direction (u - cx, v - cy) / focal length by the same projection, so that
       attention begins near the cell itself (our choice: x, y, z of a visual cell are unknown).
       Logits get log(known); a key without value receives the attention of cells for which no
       depth matters.
    2. A local path at the stride of F, conv3x3(e) * sigmoid(conv1x1(F)): on small canvases an
       object is smaller than a cell of the attention (our choice).
    3. conv1x1(SiLU(upsampled 1 + 2)), initially 0: the privileged detector begins as its base. A
       ReLU dies here: at a learning rate of 0.003, 55 % of its outputs were above 0 at first, 13 %
       after twenty steps, and the teacher did not learn to read its depth.

    There are no biases and no statistics over the batch: where nothing is known, A is exactly 0,
    so that a teacher without given depth is a network of its student's architecture.
    """

    def __init__(
        self, channels: int, width: int = 64, heads: int = 4, virtual_focal_px: float = 720.0
    ) -> None:
        """
        Build the layers.

        :param channels: C of the map.
        :param width: channels of the attention and of the local path, a multiple of heads.
        :param heads: attention heads.
        :param virtual_focal_px: focal length at which the detector learns depth, network pixels; 0
            for true metres.
        :raises ValueError: for a width that is no multiple of heads.
        """
        super().__init__()
        if width % heads:
            raise ValueError(f'width {width}: expected a multiple of heads ({heads})')
        self.heads, self.virtual_focal_px = heads, virtual_focal_px
        self.query = nn.Sequential(nn.LayerNorm(channels), nn.Linear(channels, width))
        self.key = nn.Linear(_CODE, width, bias=False)
        self.value = nn.Linear(_CODE, width, bias=False)
        self.direction = nn.Linear(_DIRECTION, width, bias=False)
        # two thirds of the encoding, whose squares have mean 1, vary with the direction: the logit
        # of a cell for itself is about 4 above that for distant cells
        std = (4 / (2 / 3 * _DIRECTION) / (width // heads) ** 0.5) ** 0.5
        nn.init.normal_(self.direction.weight, std=std)
        self.no_depth = nn.Parameter(torch.zeros(width))
        self.mix = nn.Linear(width, width, bias=False)
        self.local = nn.Conv2d(_CODE, width, 3, padding=1, bias=False)
        self.gate = nn.Conv2d(channels, width, 1)
        self.output = nn.Conv2d(width, channels, 1, bias=False)
        nn.init.zeros_(self.output.weight)

    def forward(
        self,
        features: Tensor,
        depth_m: Tensor,
        known: Tensor,
        visual_depth_m: Tensor,
        P: Tensor,
        size_px: tuple[int, int],
    ) -> Tensor:
        """
        Return what depth adds to a visual map; gradients flow to the map, the depths and `known`.

        :param features: (B, C, h, w) F.
        :param depth_m: (B, H', W') z in metres, in network pixels or a coarser grid of the canvas;
            means nothing where `known` is 0.
        :param known: (B, H', W') certainty of the depth, 0 to 1; bool or float.
        :param visual_depth_m: (B, h, w) z in metres that the detector predicts from F alone.
        :param P: (B, 3, 4) projections to network pixels.
        :param size_px: height and width of the canvas.
        :return: (B, C, h, w), type of `features`; 0 where no depth is known in the whole image.
        :raises ValueError: for a depth map whose size fits no grid of `features`.
        """
        fine, inputs = self._attention_inputs(features, depth_m, known, visual_depth_m, P, size_px)
        attended = self._attend(*inputs)
        local = self.local(fine) * self.gate(features).sigmoid()
        attended = F.interpolate(attended, features.shape[2:], mode='bilinear')
        added: Tensor = self.output(F.silu(attended + local))
        return added.to(features.dtype)

    def attention_weights(
        self,
        features: Tensor,
        depth_m: Tensor,
        known: Tensor,
        visual_depth_m: Tensor,
        P: Tensor,
        size_px: tuple[int, int],
    ) -> Tensor:
        """
        Return how the cells at stride 16 attend to each other's depth, for pictures.

        :return: (B, h', w', h', w') mean over heads: of each visual cell (row, column), its
            attention to the depth of every cell; the rest of a sum of 1 is its attention to the
            key that stands for no depth. The arguments are those of forward.
        """
        _, (vision, *depth) = self._attention_inputs(
            features, depth_m, known, visual_depth_m, P, size_px
        )
        q, k, _, mask = self._queries_and_keys(vision, *depth)
        logits = q @ k.transpose(2, 3) / q.shape[-1] ** 0.5 + mask
        weights = logits.softmax(-1).mean(1)[..., 1:]
        h, w = vision.shape[2], vision.shape[3]
        return weights.unflatten(2, (h, w)).unflatten(1, (h, w))

    def _attention_inputs(
        self,
        features: Tensor,
        depth_m: Tensor,
        known: Tensor,
        visual_depth_m: Tensor,
        P: Tensor,
        size_px: tuple[int, int],
    ) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor, Tensor]]:
        """Return the depth code at the map's stride, and the arguments of _attend."""
        hw = (features.shape[2], features.shape[3])
        with autocast_to('fp32', features.device):
            depth_m = depth_m.to(torch.promote_types(depth_m.dtype, torch.float32))
            P, visual_depth_m = P.to(depth_m.dtype), visual_depth_m.to(depth_m.dtype)
            visual_log = visual_depth_m.clamp(min=_MIN_M).log()
            cells = cells_of_depth(depth_m, known, hw)
            factor = max(TOKEN_STRIDE * hw[0] // size_px[0], 1)
            tokens = cells.pool(factor)
            fine = self._encode(cells, visual_log, P, size_px)
            coarse = self._encode(tokens, F.avg_pool2d(visual_log, factor), P, size_px)
            directions = self._directions(coarse, P, size_px)
        return fine, (F.avg_pool2d(features, factor), coarse, tokens.known, directions)

    def _encode(
        self, cells: DepthCells, visual_log: Tensor, P: Tensor, size_px: tuple[int, int]
    ) -> Tensor:
        """Return the depth code (B, E, h, w) of cells, 0 where nothing is known."""
        z = cells.depth_m()
        hw = (z.shape[1], z.shape[2])
        points = backproject_pixels(cell_centers_px(hw, size_px, z.device, z.dtype), z, P)
        x, y, _ = points.unbind(-1)
        deviation = (z.log() - visual_log) / _USUAL_ERROR
        deviation = deviation.clamp(-_MAX_DEVIATION, _MAX_DEVIATION)
        if self.virtual_focal_px:
            z = z * (self.virtual_focal_px / P[:, 0, 0])[:, None, None]
        sines = sinusoidal_encoding(torch.stack([x, y, z], -1), _POINT)
        code = torch.stack([torch.ones_like(z), (z / _MIDDLE_M).log(), deviation], -1)
        known = torch.where(cells.weight > _MIN_KNOWN, cells.known, 0.0)
        return (torch.cat([code, sines], -1) * known[..., None]).permute(0, 3, 1, 2)

    def _directions(self, grid: Tensor, P: Tensor, size_px: tuple[int, int]) -> Tensor:
        """Return the encoded viewing directions (B, T, ...) of a grid (B, ., h, w)."""
        hw = (grid.shape[2], grid.shape[3])
        centers = cell_centers_px(hw, size_px, P.device, P.dtype).flatten(0, 1)
        focal, virtual = P[:, 0, 0], self.virtual_focal_px
        focal = torch.full_like(focal, virtual) if virtual else focal
        tangents = (centers - P[:, None, :2, 2]) / focal[:, None, None]
        return sinusoidal_encoding(_DIRECTION_DEPTH_M * F.pad(tangents, (0, 1)), _DIRECTION)

    def _attend(self, vision: Tensor, code: Tensor, known: Tensor, directions: Tensor) -> Tensor:
        """Return the attention (B, width, h, w) of visual cells to cells with known depth."""
        q, k, v, mask = self._queries_and_keys(vision, code, known, directions)
        attended = F.scaled_dot_product_attention(q, k, v.to(q.dtype), mask)
        mixed: Tensor = self.mix(attended.transpose(1, 2).flatten(2))
        return mixed.transpose(1, 2).unflatten(2, vision.shape[-2:])

    def _queries_and_keys(
        self, vision: Tensor, code: Tensor, known: Tensor, directions: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return queries, keys, values (B, heads, ...) and the mask that logits get."""
        code, known = code.flatten(2).transpose(1, 2), known.flatten(1)
        direction = self.direction(directions)
        query = self.query(vision.flatten(2).transpose(1, 2)) + direction
        key, value = self.key(code) + direction, self.value(code)
        no_depth = self.no_depth.to(key.dtype).expand(len(key), 1, -1)
        key = torch.cat([no_depth, key], 1)
        value = F.pad(value, (0, 0, 1, 0))
        is_known = known > _MIN_KNOWN
        logit = torch.where(is_known, torch.where(is_known, known, 1.0).log(), _UNKNOWN_LOGIT)
        logit = F.pad(logit, (1, 0))[:, None, None].to(query.dtype)
        q, k, v = (
            each.unflatten(-1, (self.heads, -1)).transpose(1, 2) for each in (query, key, value)
        )
        return q, k, v, logit.expand(-1, -1, q.shape[2], -1)


def build_depth_association(
    given_depth: bool, channels: int, virtual_focal_px: float
) -> DepthAssociation | None:
    """Build the association of a privileged teacher; None for a detector without given depth."""
    if not given_depth:
        return None
    return DepthAssociation(channels, virtual_focal_px=virtual_focal_px)


class FusedMap(NamedTuple):
    """
    A map of a detector with what given depth adds.

    :param features: (B, C, h, w) F + A(F, e(D)); F in a detector that is given no depth.
    :param added: (B, C, h, w) A(F, e(D)); None there.
    :param visual_depth_m: (B, h, w) depth that the detector reads from F alone; None there.
    """

    features: Tensor
    added: Tensor | None = None
    visual_depth_m: Tensor | None = None


def fuse_given_depth(
    association: DepthAssociation | None,
    features: Tensor,
    inputs: NetworkInput,
    depth_head: nn.Module,
    read_depth: Callable[[Tensor], Tensor],
) -> FusedMap:
    """
    Add what given depth adds to a map.

    :param association: None for a detector that is given no depth: nothing is added.
    :param features: (B, C, h, w) F.
    :param inputs: with given_depth_m; an image without any, all 0, is legal.
    :param depth_head: the layers that read_depth runs. They normalise by running statistics
        here, which they do not update: these are those of the fused map.
    :param read_depth: returns the (B, h, w) depth, metres, that the detector reads from F.
    :raises ValueError: for inputs without given depth.
    """
    if association is None:
        return FusedMap(features)
    depth_m = require_given_depth(inputs)
    with torch.no_grad(), in_eval_mode(depth_head):
        visual_depth_m = read_depth(features)
    added = association(features, depth_m, depth_m > 0, visual_depth_m, inputs.P, inputs.size_px)
    return FusedMap(features + added, added, visual_depth_m)


@contextmanager
def in_eval_mode(module: nn.Module) -> Iterator[None]:
    """Set a module to eval mode for a while, and each of its parts to its former mode after it."""
    modes = [(each, each.training) for each in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for each, mode in modes:
            each.training = mode


def require_given_depth(inputs: NetworkInput) -> Tensor:
    """Return the given depth (B, H, W) of inputs; ValueError without."""
    if inputs.given_depth_m is None:
        raise ValueError(
            'input without given_depth_m: this detector is a privileged teacher; expected a map,'
            ' 0 where no depth is given'
        )
    return inputs.given_depth_m
