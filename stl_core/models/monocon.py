"""
MonoCon (Liu et al., Learning Auxiliary Monocular Contexts, AAAI 2022): more is taught than is run.

One stride-4 map feeds the seven heads of center_heads and three contexts: the nine keypoints of a
box, its corners and its centre. keypoint_offset 16, from the object's cell to the corners;
keypoint_heatmap 9 and keypoint_rest 2, where in the image keypoints are and where in their cell.
Contexts are taught, which shapes the map, and left out where the network is run. An object lives
in the cell of the middle of its 2D box.
Shapes: B batch, N slots, K keypoints of an object, C classes, A heading bins, h w grid.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from stl_core.models import losses
from stl_core.models.backbone import STRIDES, Backbone, build_neck
from stl_core.models.centernet import heads as center_heads
from stl_core.models.centernet import heatmap, keypoints
from stl_core.models.centernet.attentive_norm import AttentiveNorm
from stl_core.models.centernet.heads import STRIDE
from stl_core.tensors import depth_encoding as inverse_depth
from stl_core.tensors.batch import Outputs, Targets
from stl_core.tensors.precision import exactly

#: Weight of every loss in the paper, which has one for the offsets of all nine keypoints.
WEIGHTS = {
    'det/heatmap': 1.0,
    'det/offset_2d': 1.0,
    'det/size_2d': 0.1,
    'det/depth': 1.0,
    'det/offset_3d': 1 / 9,
    'det/size_3d': 1.0,
    'det/heading': 1.0,
    'det/keypoint_offset': 8 / 9,
    'det/keypoint_heatmap': 1.0,
    'det/keypoint_rest': 1.0,
}
CONTEXTS = frozenset({'keypoint_offset', 'keypoint_heatmap', 'keypoint_rest'})
#: Corners and centre.
KEYPOINTS = keypoints.CORNERS + 1
#: Heatmaps begin at this probability everywhere.
_PRIOR = 0.1


@dataclass(frozen=True)
class Config:
    """
    The numbers of a MonoCon detector.

    :param backbone: a timm model; 'dla34' in the paper.
    :param neck: 'dlaup' (the paper's) or 'light'.
    :param pretrained: start the backbone from timm's ImageNet weights.
    :param head_width: channels inside each head.
    :param norm_parts: affine parts of the attentive norms.
    :param heading_bins: directions of the heading head.
    :param max_objects: most objects read from an image.
    :param virtual_focal_px: focal length at which depth is learnt, network pixels: the heads say
        how far an object would be if this lens showed it at its size, and the true focal length
        stretches that. One checkpoint then serves every lens. 0 learns depth itself, as in the
        paper, for one lens.
    """

    backbone: str = 'dla34'
    neck: str = 'dlaup'
    pretrained: bool = False
    head_width: int = 64
    norm_parts: int = 10
    heading_bins: int = 12
    max_objects: int = 30
    virtual_focal_px: float = 720.0


class MonoCon(nn.Module):
    """The detector; see the module for its heads."""

    strides = STRIDES

    def __init__(self, config: Config, in_channels: int, num_classes: int) -> None:
        """
        Build backbone, neck, heads and contexts.

        :param config: the numbers.
        :param in_channels: channels of the input image, 3 for RGB.
        :param num_classes: C.
        :raises ValueError: for an unknown backbone or neck.
        """
        super().__init__()
        self.config = config
        self.num_classes = num_classes
        self.backbone = Backbone(config.backbone, config.pretrained, in_channels)
        self.neck = build_neck(config.neck, self.backbone.channels)
        self.channels = (self.neck.out_channels, *self.backbone.channels[1:])
        bins = config.heading_bins
        outputs = {
            'heatmap': {'heatmap': num_classes},
            'offset_2d': {'offset_2d': 2},
            'size_2d': {'size_2d': 2},
            'depth': {'depth': 2},
            'size_3d': {'size_3d': 3},
            'heading': {'heading_bin': bins, 'heading_rest': bins},
            'keypoints': {'offset_3d': 2, 'keypoint_offset': 2 * keypoints.CORNERS},
            'keypoint_heatmap': {'keypoint_heatmap': KEYPOINTS},
            'keypoint_rest': {'keypoint_rest': 2},
        }
        self.heads = nn.ModuleDict(
            {name: _Head(self.neck.out_channels, config, each) for name, each in outputs.items()}
        )
        self.mean_size_hwl_m: Tensor  # sizes are learnt themselves
        self.register_buffer('mean_size_hwl_m', torch.zeros(num_classes, 3), persistent=False)

    def forward(self, image: Tensor, P: Tensor, targets: Targets | None = None) -> Outputs:
        """
        Run the network.

        :param image: (B, in_channels, H, W) normalised.
        :param P: (B, 3, 4) projections; their focal lengths stretch the depth.
        :param targets: their presence, or training mode, asks for the contexts.
        :return: what the heads read, the backbone's coarser maps, and raw heads (B, ., H/4, W/4).
        """
        features = self.backbone(image)
        fused = self.neck(features)
        skip = frozenset() if self.training or targets is not None else CONTEXTS
        heads: dict[str, Tensor] = {}
        for head in self.heads.values():
            heads.update(head(fused, skip))
        heads['heading'] = torch.cat([heads.pop('heading_bin'), heads.pop('heading_rest')], 1)
        if self.config.virtual_focal_px:
            factor = P[:, 0, 0] / self.config.virtual_focal_px
            heads['depth'] = inverse_depth.stretch(heads['depth'], factor)
        return Outputs((fused, *features[1:]), heads, P)

    def losses(self, out: Outputs, targets: Targets) -> dict[str, Tensor]:
        """
        Compare outputs with targets.

        :param out: what forward returned, contexts included.
        :param targets: network pixels, metres.
        :return: unweighted scalars, keys 'det/<head>'.
        """
        heads = {name: grid.float() for name, grid in out.heads.items()}
        h, w = heads['heatmap'].shape[-2:]
        shown = _shown(targets)
        middle, bins = _middle(shown), self.config.heading_bins
        ideal = center_heads.encode(shown, middle, self.mean_size_hwl_m, bins, (h, w))
        points = (middle / STRIDE)[:, :, None].expand(-1, -1, self.num_classes, -1)
        classes = heatmap.on_class_maps(shown, self.num_classes)
        heat = heatmap.blobs(points, _radius(shown), classes, h, w)
        at = center_heads.gather(heads, ideal.cell)
        return {
            'det/heatmap': losses.heatmap_focal(heads['heatmap'], heat),
            **center_heads.box_losses(at, ideal, shown),
            'det/heading': losses.multibin_each(
                at['heading'][..., :bins],
                at['heading'][..., bins:],
                ideal.heading_bin,
                ideal.heading_rest,
                ideal.valid,
            ),
            **context_losses(heads, shown, ideal, _projections(out)),
        }

    def read(self, out: Outputs) -> dict[str, Tensor]:
        """Turn what forward returned into the fields of ImageObjects (B, K, ...)."""
        return center_heads.read(
            out.heads, self.mean_size_hwl_m, self.config.heading_bins, self.config.max_objects
        )

    def confidence(self, out: Outputs, targets: Targets) -> Tensor:
        """(B, N) certainty of depth at each target, 1 / (1 + sigma) in (0, 1]."""
        return center_heads.certainty(out.heads, _cell(out, targets))

    def answers(self, out: Outputs, targets: Targets) -> dict[str, Tensor]:
        """Raw heads at each target, {name: (B, N, D)}; of depth its logit alone."""
        return center_heads.answers(out.heads, _cell(out, targets))


def context_losses(
    heads: dict[str, Tensor], targets: Targets, ideal: center_heads.Encoded, P: Tensor
) -> dict[str, Tensor]:
    """
    Compare the contexts with where keypoints are.

    Corners in front of the camera are taught to the object's cell; keypoints on the grid are
    drawn and taught to their own cells.

    :param heads: raw, float32.
    :param targets: network pixels, metres.
    :param ideal: cells of the targets.
    :param P: (B, 3, 4).
    :return: unweighted scalars, keys 'det/<head>'.
    """
    h, w = heads['keypoint_heatmap'].shape[-2:]
    corners_px, in_front = keypoints.corners(targets, P)
    in_front = in_front & ideal.valid[..., None]
    origin = heatmap.cell_xy(ideal.cell, w)[:, :, None]
    told = heatmap.gather_at(heads['keypoint_offset'], ideal.cell).unflatten(-1, (-1, 2))
    points_px = torch.cat([corners_px, targets.center_px[:, :, None]], 2)
    known = torch.cat([in_front, ideal.valid[..., None]], 2)
    cell, inside = heatmap.cells(points_px.flatten(1, 2), STRIDE, h, w)
    rest = points_px.flatten(1, 2) / STRIDE - heatmap.cell_xy(cell, w)
    heat = heatmap.blobs(points_px / STRIDE, _radius(targets), known, h, w)
    return {
        'det/keypoint_offset': losses.l1(
            told.flatten(1, 2),
            (corners_px / STRIDE - origin).flatten(1, 2),
            in_front.flatten(1, 2),
        ),
        'det/keypoint_heatmap': losses.heatmap_focal(heads['keypoint_heatmap'], heat),
        'det/keypoint_rest': losses.l1(
            heatmap.gather_at(heads['keypoint_rest'], cell), rest, inside & known.flatten(1, 2)
        ),
    }


class _Head(nn.Module):
    """3x3 convolution, attentive norm and ReLU; then a 1x1 convolution for each output."""

    def __init__(self, in_channels: int, config: Config, outputs: dict[str, int]) -> None:
        super().__init__()
        width = config.head_width
        conv = nn.Conv2d(in_channels, width, 3, padding=1)
        norm = AttentiveNorm(width, config.norm_parts)
        self.stem = nn.Sequential(conv, norm, nn.ReLU(inplace=True))
        self.outputs = nn.ModuleDict()
        for name, channels in outputs.items():
            self.outputs[name] = last = nn.Conv2d(width, channels, 1)
            bias: Any = last.bias
            if name.endswith('heatmap'):
                nn.init.constant_(bias, math.log(_PRIOR / (1 - _PRIOR)))
            else:
                nn.init.normal_(last.weight, std=0.001)
                nn.init.zeros_(bias)

    def forward(self, x: Tensor, skip: frozenset[str]) -> dict[str, Tensor]:
        wanted = [name for name in self.outputs if name not in skip]
        stem = self.stem(x) if wanted else x
        layers = {name: self.outputs[name] for name in wanted}
        return {
            name: exactly(layer, stem) if name == 'depth' else layer(stem)
            for name, layer in layers.items()
        }


def _shown(targets: Targets) -> Targets:
    """Leave out objects of which the canvas shows nothing: their box there is empty."""
    area = (targets.box_px[..., 2:] > targets.box_px[..., :2]).all(-1)
    return replace(targets, valid=targets.valid & area)


def _middle(targets: Targets) -> Tensor:
    """(B, N, 2) the middle of 2D boxes, network pixels."""
    return (targets.box_px[..., :2] + targets.box_px[..., 2:]) / 2


def _radius(targets: Targets) -> Tensor:
    """(B, N) radius of an object's Gaussians, cells."""
    size = (targets.box_px[..., 2:] - targets.box_px[..., :2]).clamp(min=0) / STRIDE
    return heatmap.exact_radius(size)


def _cell(out: Outputs, targets: Targets) -> Tensor:
    """(B, N) flat cells of targets on the grid of the heads."""
    return heatmap.cells(_middle(targets), STRIDE, *out.heads['heatmap'].shape[-2:])[0]


def _projections(out: Outputs) -> Tensor:
    if out.P is None:
        raise ValueError('outputs without P; expected what MonoCon.forward returned')
    return out.P
