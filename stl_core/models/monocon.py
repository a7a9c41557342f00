"""
MonoCon detector (Liu et al., Learning Auxiliary Monocular Contexts, AAAI 2022).

The cell of the 2D box's centre, on a stride-4 map, represents an object. centernet/heads.py
defines the seven detection heads. Three auxiliary context heads predict the nine keypoints of a
3D box, its corners and its centre: keypoint_offset 16, from the object's cell to the corners, in
cells; keypoint_heatmap 9, logits of the keypoints in the image; keypoint_rest 2, position of a
keypoint in its cell. Contexts shape the features during training and are skipped at inference.
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
from stl_core.models.centernet import heatmap, keypoints
from stl_core.models.centernet.attentive_norm import AttentiveNorm
from stl_core.models.centernet.heads import (
    STRIDE,
    CenterNetHeads,
    HeadTargets,
    box_losses,
    decode_heads,
    encode_targets,
    gather_heads,
    predictions_at_anchors,
)
from stl_core.models.depth_association import build_depth_association, fuse_given_depth
from stl_core.models.published_protocol import protocol_by_score
from stl_core.tensors import depth_encoding
from stl_core.tensors.batch import NetworkInput, Targets
from stl_core.tensors.detector import Outputs, TargetPredictions, check_head_names
from stl_core.tensors.feature_level import ImagePlane, LevelSpec, backbone_levels
from stl_core.tensors.precision import in_float32
from stl_core.tensors.reductions import StepNormalizer

#: Loss weights of the paper, which has one weight for the offsets of all nine keypoints.
LOSS_WEIGHTS = {
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
CONTEXT_HEADS = frozenset({'keypoint_offset', 'keypoint_heatmap', 'keypoint_rest'})
#: Eight corners and the centre.
NUM_KEYPOINTS = keypoints.NUM_CORNERS + 1
#: Initial probability of all heatmap cells.
_PRIOR_PROBABILITY = 0.1

#: Threshold of its tester.
PUBLISHED = protocol_by_score(0.4, '2gunsu/monocon-pytorch')


@dataclass(frozen=True)
class MonoConConfig:
    """
    Configuration of a MonoCon detector.

    :param backbone: a timm model; 'dla34' in the paper.
    :param neck: 'dlaup' (the paper's) or 'light'.
    :param pretrained: start the backbone from timm's ImageNet weights.
    :param head_width: hidden channels of each head.
    :param norm_parts: T, affine parts of the attentive norms.
    :param heading_bins: A, bins of the observation angle.
    :param max_objects: K, maximum number of objects decoded from an image.
    :param virtual_focal_px: focal length at which depth is learnt, network pixels: the heads
        predict the depth at which a lens of this focal length would show the object at the same
        size, and forward multiplies it by true / virtual focal length. One checkpoint then serves
        every lens. 0 learns depth directly, as in the paper, for a single lens.
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
    """
    MonoCon: CenterNet-style monocular 3D detector with auxiliary contexts (Liu et al., AAAI 2022).

    Architecture (the paper's method section): a timm backbone (DLA-34 in the paper) and a neck
    (DLA-up) that fuses its maps to stride 4; each head is a 3x3 convolution, attentive norm and
    ReLU, then one 1x1 convolution per output.

    Heads, raw, (B, channels, H/4, W/4), read at the cell of the 2D box's centre: heatmap C,
    offset_2d 2, size_2d 2, depth 2 (logit of inverse depth, log sigma), offset_3d 2, size_3d 3,
    heading 2A (bins, residuals). Contexts, in training only: keypoint_offset 16,
    keypoint_heatmap 9, keypoint_rest 2.

    Losses: focal loss of both heatmaps; L1 of offsets, size_2d and keypoints; Laplacian NLL of
    depth; dimension-aware L1 of size_3d; MultiBin of heading, with binary cross-entropy.

    A privileged teacher adds `depth_association` (see there) to the neck's map.
    """

    def __init__(
        self, config: MonoConConfig, in_channels: int, num_classes: int, given_depth: bool = False
    ) -> None:
        """
        Build backbone, neck, heads and contexts.

        :param config: configuration.
        :param in_channels: channels of the input image, 3 for RGB.
        :param num_classes: C.
        :param given_depth: whether it is a privileged teacher, which is given depth.
        :raises ValueError: for an unknown backbone or neck.
        """
        super().__init__()
        self.config = config
        self.num_classes = num_classes
        self.backbone = Backbone(config.backbone, config.pretrained, in_channels)
        self.neck = build_neck(config.neck, self.backbone.channels)
        self.levels = (
            LevelSpec('neck', self.neck.out_channels, ImagePlane(STRIDE), after_given_depth=True),
            *backbone_levels(self.backbone.channels[1:], STRIDES[1:]),
        )
        bins = config.heading_bins
        outputs = {
            'heatmap': {'heatmap': num_classes},
            'offset_2d': {'offset_2d': 2},
            'size_2d': {'size_2d': 2},
            'depth': {'depth': 2},
            'size_3d': {'size_3d': 3},
            'heading': {'heading_bin': bins, 'heading_rest': bins},
            'keypoints': {'offset_3d': 2, 'keypoint_offset': 2 * keypoints.NUM_CORNERS},
            'keypoint_heatmap': {'keypoint_heatmap': NUM_KEYPOINTS},
            'keypoint_rest': {'keypoint_rest': 2},
        }
        names = {name for each in outputs.values() for name in each}
        check_head_names(CenterNetHeads, names - {'heading_bin', 'heading_rest'} | {'heading'})
        self.heads = nn.ModuleDict(
            {
                name: _MultiOutputHead(self.neck.out_channels, config, each)
                for name, each in outputs.items()
            }
        )
        # zero, since size_3d is the size itself, not a residual to a class mean
        self.mean_size_hwl_m: Tensor
        self.register_buffer('mean_size_hwl_m', torch.zeros(num_classes, 3), persistent=False)
        # last, so that with one seed all other weights are those of the detector without
        self.depth_association = build_depth_association(
            given_depth, self.neck.out_channels, config.virtual_focal_px
        )

    def forward(
        self, inputs: NetworkInput, targets: Targets | None = None
    ) -> Outputs[CenterNetHeads]:
        """
        Run the network.

        :param inputs: images with in_channels channels, and projections, whose focal lengths
            scale the depth.
        :param targets: if given, or in training mode, the contexts are computed too.
        :return: features, the neck's stride-4 map, with given depth, and the backbone's coarser
            maps; raw heads (B, channels, H/4, W/4); and P.
        :raises ValueError: in a privileged teacher for inputs without given depth.
        """
        features = self.backbone(inputs.image)
        depth_head = self.heads['depth']
        fused = fuse_given_depth(
            self.depth_association,
            self.neck(features),
            inputs,
            depth_head,
            lambda visual: depth_encoding.from_logit(
                self._at_focal_lengths(depth_head(visual, frozenset())['depth'], inputs.P)[:, 0]
            ),
        )
        skip = frozenset() if self.training or targets is not None else CONTEXT_HEADS
        heads: dict[str, Tensor] = {}
        for head in self.heads.values():
            heads.update(head(fused.features, skip))
        heads['heading'] = torch.cat([heads.pop('heading_bin'), heads.pop('heading_rest')], 1)
        heads['depth'] = self._at_focal_lengths(heads['depth'], inputs.P)
        return Outputs(
            (fused.features, *features[1:]),
            CenterNetHeads(**heads),
            inputs.size_px,
            inputs.P,
            given_depth_added=fused.added,
            visual_depth_m=fused.visual_depth_m,
        )

    def _at_focal_lengths(self, depth: Tensor, P: Tensor) -> Tensor:
        """Return a raw depth head (B, 2, h, w) at the focal lengths of P."""
        if not self.config.virtual_focal_px:
            return depth
        return depth_encoding.rescale_to_focal_length(
            depth, P[:, 0, 0] / self.config.virtual_focal_px
        )

    def losses(
        self, outputs: Outputs[CenterNetHeads], targets: Targets, normalizer: StepNormalizer
    ) -> dict[str, Tensor]:
        """
        Compute the training losses.

        :param outputs: from forward, contexts included.
        :param targets: network pixels, metres.
        :param normalizer: normaliser of the step.
        :return: unweighted scalars, keys 'det/<head>'.
        :raises ValueError: for outputs without P.
        """
        heads = outputs.heads
        h, w = heads.heatmap.shape[-2:]
        visible = _visible_targets(targets)
        center_px, bins = _box_centers(visible), self.config.heading_bins
        head_targets = encode_targets(visible, center_px, self.mean_size_hwl_m, bins, (h, w))
        points = (center_px / STRIDE)[:, :, None].expand(-1, -1, self.num_classes, -1)
        classes = heatmap.class_masks(visible, self.num_classes)
        target_heatmap = heatmap.draw_gaussians(points, _gaussian_radius(visible), classes, h, w)
        predicted = gather_heads(heads, head_targets.cell)
        return {
            'det/heatmap': losses.heatmap_focal_loss(
                heads.heatmap.float(), target_heatmap, normalizer
            ),
            **box_losses(predicted, head_targets, visible, normalizer),
            'det/heading': losses.multibin_bce_loss(
                predicted.heading[..., :bins],
                predicted.heading[..., bins:],
                head_targets.heading_bin,
                head_targets.heading_residual,
                head_targets.valid,
                normalizer,
            ),
            **context_losses(
                heads, visible, head_targets, _require_projections(outputs), normalizer
            ),
        }

    def decode(self, outputs: Outputs[CenterNetHeads]) -> dict[str, Tensor]:
        """Decode forward's outputs into the fields of ImageObjects, (B, K, ...)."""
        return decode_heads(
            outputs.heads, self.mean_size_hwl_m, self.config.heading_bins, self.config.max_objects
        )

    def predictions_at_targets(
        self, outputs: Outputs[CenterNetHeads], targets: Targets
    ) -> TargetPredictions:
        """Return the raw heads at each target's cell; found where it is inside the grid."""
        return predictions_at_anchors(outputs.heads, targets, _box_centers(targets))


def context_losses(
    heads: CenterNetHeads,
    targets: Targets,
    head_targets: HeadTargets,
    P: Tensor,
    normalizer: StepNormalizer,
) -> dict[str, Tensor]:
    """
    Compute the losses of the auxiliary context heads from the projected keypoints.

    keypoint_offset learns the corners in front of the camera at the object's cell;
    keypoint_heatmap and keypoint_rest learn the keypoints inside the grid at the keypoints' cells.

    :param heads: raw, with contexts.
    :param targets: network pixels, metres.
    :param head_targets: from encode_targets; cells of the targets.
    :param P: (B, 3, 4) projections to network pixels.
    :param normalizer: normaliser of the step.
    :return: unweighted scalars, keys 'det/<head>'.
    :raises ValueError: for heads without contexts.
    """
    keypoint_offset, keypoint_heatmap, keypoint_rest = _require_contexts(heads)
    h, w = keypoint_heatmap.shape[-2:]
    corners_px, in_front = keypoints.project_corners(targets, P)
    in_front = in_front & head_targets.valid[..., None]
    origin = heatmap.cell_xy(head_targets.cell, w)[:, :, None]
    offsets = heatmap.gather_at(keypoint_offset, head_targets.cell).unflatten(-1, (-1, 2))
    points_px = torch.cat([corners_px, targets.center_px[:, :, None]], 2)
    usable = torch.cat([in_front, head_targets.valid[..., None]], 2)
    cell, inside = heatmap.flat_cells(points_px.flatten(1, 2), STRIDE, h, w)
    has_rest = inside & usable.flatten(1, 2)
    residual = points_px.flatten(1, 2) / STRIDE - heatmap.cell_xy(cell, w)
    target_heatmap = heatmap.draw_gaussians(
        points_px / STRIDE, _gaussian_radius(targets), usable, h, w
    )
    return {
        'det/keypoint_offset': losses.l1_loss(
            offsets.flatten(1, 2),
            (corners_px / STRIDE - origin).flatten(1, 2),
            in_front.flatten(1, 2),
            normalizer,
        ),
        'det/keypoint_heatmap': losses.heatmap_focal_loss(
            keypoint_heatmap, target_heatmap, normalizer
        ),
        'det/keypoint_rest': losses.l1_loss(
            heatmap.gather_at(keypoint_rest, cell), residual, has_rest, normalizer
        ),
    }


class _MultiOutputHead(nn.Module):
    """3x3 convolution, attentive norm and ReLU, then a 1x1 convolution per output."""

    def __init__(self, in_channels: int, config: MonoConConfig, outputs: dict[str, int]) -> None:
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
                nn.init.constant_(bias, math.log(_PRIOR_PROBABILITY / (1 - _PRIOR_PROBABILITY)))
            else:
                nn.init.normal_(last.weight, std=0.001)
                nn.init.zeros_(bias)

    def forward(self, x: Tensor, skip: frozenset[str]) -> dict[str, Tensor]:
        names = [name for name in self.outputs if name not in skip]
        stem = self.stem(x) if names else x
        layers = {name: self.outputs[name] for name in names}
        return {
            name: in_float32(layer, stem) if name == 'depth' else layer(stem)
            for name, layer in layers.items()
        }


def _visible_targets(targets: Targets) -> Targets:
    """Return targets without objects outside the canvas, whose 2D box there is empty."""
    has_area = (targets.box_px[..., 2:] > targets.box_px[..., :2]).all(-1)
    return replace(targets, valid=targets.valid & has_area)


def _box_centers(targets: Targets) -> Tensor:
    """Return the centres (B, N, 2) of the 2D boxes, network pixels."""
    return (targets.box_px[..., :2] + targets.box_px[..., 2:]) / 2


def _gaussian_radius(targets: Targets) -> Tensor:
    """Return the radius (B, N) of the Gaussians of each object, cells."""
    size = (targets.box_px[..., 2:] - targets.box_px[..., :2]).clamp(min=0) / STRIDE
    return heatmap.exact_radius(size)


def _require_projections(outputs: Outputs[CenterNetHeads]) -> Tensor:
    if outputs.P is None:
        raise ValueError('outputs without P; expected the outputs of MonoCon.forward')
    return outputs.P


def _require_contexts(heads: CenterNetHeads) -> tuple[Tensor, Tensor, Tensor]:
    """Return keypoint_offset, keypoint_heatmap and keypoint_rest, float32."""
    offset, heat, rest = heads.keypoint_offset, heads.keypoint_heatmap, heads.keypoint_rest
    if offset is None or heat is None or rest is None:
        raise ValueError('outputs without contexts; expected those of forward with targets')
    return offset.float(), heat.float(), rest.float()
