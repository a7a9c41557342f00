"""
MonoDLE detector (Ma et al., Delving into Localization Errors, CVPR 2021): CenterNet in 3D.

The cell of the projected 3D centre, on a stride-4 map, represents an object; centernet/heads.py
defines the seven heads.
Shapes: B batch, N slots, K peaks, C classes, A heading bins, h w grid.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from stl_core.models import losses
from stl_core.models.backbone import STRIDES, Backbone, build_neck
from stl_core.models.centernet import heatmap
from stl_core.models.centernet.heads import (
    MEAN_SIZE_HWL_M,
    STRIDE,
    CenterNetHeads,
    box_losses,
    decode_heads,
    encode_targets,
    gather_heads,
    head_channels,
    predictions_at_anchors,
)
from stl_core.models.depth_association import build_depth_association, fuse_given_depth
from stl_core.models.published_protocol import protocol_by_height
from stl_core.tensors import depth_encoding
from stl_core.tensors.batch import NetworkInput, Targets
from stl_core.tensors.detector import Outputs, TargetPredictions, check_head_names
from stl_core.tensors.feature_level import ImagePlane, LevelSpec, backbone_levels
from stl_core.tensors.precision import in_float32
from stl_core.tensors.reductions import StepNormalizer

#: Weight of every loss in the paper.
LOSS_WEIGHTS = {
    'det/heatmap': 1.0,
    'det/offset_2d': 1.0,
    'det/size_2d': 1.0,
    'det/depth': 1.0,
    'det/offset_3d': 1.0,
    'det/size_3d': 1.0,
    'det/heading': 1.0,
}

#: Threshold of its tester.
PUBLISHED = protocol_by_height(0.2, 'xinzhuma/monodle')


@dataclass(frozen=True)
class MonoDLEConfig:
    """
    Configuration of a MonoDLE detector.

    :param backbone: a timm model; 'dla34' in the paper.
    :param neck: 'dlaup' (the paper's) or 'light'.
    :param pretrained: start the backbone from timm's ImageNet weights.
    :param head_width: hidden channels of each head.
    :param heading_bins: A, bins of the observation angle.
    :param max_objects: K, maximum number of objects decoded from an image.
    :param virtual_focal_px: focal length at which depth is learnt, network pixels: the heads
        predict the depth at which a lens of this focal length would show the object at the same
        size, and forward multiplies it by true / virtual focal length. One checkpoint then serves
        every lens. 0 learns depth directly, as in the paper, for a single lens.
    :param mean_size_hwl_m: mean height, width, length of each class, metres, in class order; the
        default is that of Car, Pedestrian and Cyclist in KITTI's train split.
    """

    backbone: str = 'dla34'
    neck: str = 'dlaup'
    pretrained: bool = False
    head_width: int = 256
    heading_bins: int = 12
    max_objects: int = 50
    virtual_focal_px: float = 720.0
    mean_size_hwl_m: tuple[tuple[float, float, float], ...] = tuple(
        MEAN_SIZE_HWL_M[name] for name in ('Car', 'Pedestrian', 'Cyclist')
    )


class MonoDLE(nn.Module):
    """
    MonoDLE: anchor-free, one-stage monocular 3D detector (Ma et al., CVPR 2021, section 3).

    Architecture: a timm backbone (DLA-34 in the paper) and a neck (DLA-up) that fuses its maps to
    stride 4; each head is a 3x3 convolution, ReLU and a 1x1 convolution.

    Heads, raw, (B, channels, H/4, W/4), read at the cell of the projected 3D centre: heatmap C,
    offset_2d 2, size_2d 2, depth 2 (logit of inverse depth, log sigma), offset_3d 2, size_3d 3
    (less the class mean), heading 2A (bins, residuals).

    Losses: focal loss of the heatmap; L1 of both offsets and size_2d; Laplacian NLL of depth;
    dimension-aware L1 of size_3d (the paper's 3D IoU oriented optimisation); MultiBin of heading.

    A privileged teacher adds `depth_association` (see there) to the neck's map.
    """

    def __init__(
        self, config: MonoDLEConfig, in_channels: int, num_classes: int, given_depth: bool = False
    ) -> None:
        """
        Build backbone, neck and heads.

        :param config: configuration.
        :param in_channels: channels of the input image, 3 for RGB.
        :param num_classes: C.
        :param given_depth: whether it is a privileged teacher, which is given depth.
        :raises ValueError: for an unknown backbone or neck, or unless each class has a mean size.
        """
        super().__init__()
        if len(config.mean_size_hwl_m) != num_classes:
            raise ValueError(
                f'mean_size_hwl_m has {len(config.mean_size_hwl_m)} rows for {num_classes} classes'
            )
        self.config = config
        self.num_classes = num_classes
        self.backbone = Backbone(config.backbone, config.pretrained, in_channels)
        self.neck = build_neck(config.neck, self.backbone.channels)
        self.levels = (
            LevelSpec('neck', self.neck.out_channels, ImagePlane(STRIDE), after_given_depth=True),
            *backbone_levels(self.backbone.channels[1:], STRIDES[1:]),
        )
        widths = head_channels(num_classes, config.heading_bins)
        check_head_names(CenterNetHeads, widths)
        self.heads = nn.ModuleDict(
            {
                name: _build_head(self.neck.out_channels, config.head_width, n)
                for name, n in widths.items()
            }
        )
        nn.init.constant_(self.heads['heatmap'][-1].bias, -2.19)  # type: ignore
        self.mean_size_hwl_m: Tensor
        mean = torch.tensor(config.mean_size_hwl_m)
        self.register_buffer('mean_size_hwl_m', mean, persistent=False)
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
        :param targets: unused; all detectors have the same signature.
        :return: features, the neck's stride-4 map, with given depth, and the backbone's coarser
            maps; and the seven raw heads (B, channels, H/4, W/4).
        :raises ValueError: in a privileged teacher for inputs without given depth.
        """
        features = self.backbone(inputs.image)
        fused = fuse_given_depth(
            self.depth_association,
            self.neck(features),
            inputs,
            self.heads['depth'],
            lambda visual: depth_encoding.from_logit(self._run_depth_head(visual, inputs.P)[:, 0]),
        )
        heads = {
            name: head(fused.features) for name, head in self.heads.items() if name != 'depth'
        }
        heads['depth'] = self._run_depth_head(fused.features, inputs.P)
        return Outputs(
            (fused.features, *features[1:]),
            CenterNetHeads(**heads),
            inputs.size_px,
            given_depth_added=fused.added,
            visual_depth_m=fused.visual_depth_m,
        )

    def _run_depth_head(self, features: Tensor, P: Tensor) -> Tensor:
        """Return the raw depth head (B, 2, h, w) of a map, at the focal lengths of P."""
        depth = _head_in_float32(self.heads['depth'], features)
        if not self.config.virtual_focal_px:
            return depth
        ratio = P[:, 0, 0] / self.config.virtual_focal_px
        return depth_encoding.rescale_to_focal_length(depth, ratio)

    def losses(
        self, outputs: Outputs[CenterNetHeads], targets: Targets, normalizer: StepNormalizer
    ) -> dict[str, Tensor]:
        """
        Compute the training losses.

        :param outputs: from forward.
        :param targets: network pixels, metres.
        :param normalizer: normaliser of the step.
        :return: unweighted scalars, one per head, keys 'det/<head>'.
        """
        h, w = outputs.heads.heatmap.shape[-2:]
        bins = self.config.heading_bins
        head_targets = encode_targets(
            targets, targets.center_px, self.mean_size_hwl_m, bins, (h, w)
        )
        target_heatmap = heatmap.draw_heatmap(targets, self.num_classes, STRIDE, h, w)
        predicted = gather_heads(outputs.heads, head_targets.cell)
        return {
            'det/heatmap': losses.heatmap_focal_loss(
                outputs.heads.heatmap.float(), target_heatmap, normalizer
            ),
            **box_losses(predicted, head_targets, targets, normalizer),
            'det/heading': losses.multibin_loss(
                predicted.heading[..., :bins],
                predicted.heading[..., bins:],
                head_targets.heading_bin,
                head_targets.heading_residual,
                head_targets.valid,
                normalizer,
            ),
        }

    def decode(self, outputs: Outputs[CenterNetHeads]) -> dict[str, Tensor]:
        """Decode forward's outputs into the fields of ImageObjects, (B, K, ...)."""
        return decode_heads(
            outputs.heads,
            self.mean_size_hwl_m,
            self.config.heading_bins,
            self.config.max_objects,
        )

    def predictions_at_targets(
        self, outputs: Outputs[CenterNetHeads], targets: Targets
    ) -> TargetPredictions:
        """Return the raw heads at each target's cell; found where it is inside the grid."""
        return predictions_at_anchors(outputs.heads, targets, targets.center_px)


def perfect_heads(
    targets: Targets, mean_size_hwl_m: Tensor, bins: int, h: int, w: int
) -> CenterNetHeads:
    """
    Draw targets as the heads of a perfect network, which decode_heads turns back into targets.

    Where two objects share a cell, the nearer one (the earlier slot) is drawn.

    :param targets: network pixels, metres.
    :param mean_size_hwl_m: (C, 3) mean height, width, length per class.
    :param bins: A.
    :param h: grid height, cells.
    :param w: grid width, cells.
    :return: raw heads without contexts.
    """
    head_targets = encode_targets(targets, targets.center_px, mean_size_hwl_m, bins, (h, w))
    depth_logit = depth_encoding.to_logit(targets.depth_m)
    one_hot = nn.functional.one_hot(head_targets.heading_bin, bins)
    log_sigma = torch.full_like(depth_logit, -5.0)  # sigma of 7 mm
    values_at_cells = {
        'offset_2d': head_targets.offset_2d,
        'size_2d': head_targets.size_2d,
        'depth': torch.stack([depth_logit, log_sigma], -1),
        'offset_3d': head_targets.offset_3d,
        'size_3d': head_targets.size_3d,
        'heading': torch.cat([one_hot, one_hot * head_targets.heading_residual[..., None]], -1),
    }
    target_heatmap = heatmap.draw_heatmap(targets, len(mean_size_hwl_m), STRIDE, h, w)
    heads = {'heatmap': torch.logit(target_heatmap, eps=1e-6)}
    for name, value in values_at_cells.items():
        grid = torch.zeros(*value.shape[::2], h * w, dtype=value.dtype)
        for slot in range(value.shape[1] - 1, -1, -1):
            index = head_targets.cell[:, slot, None, None].expand(-1, value.shape[2], 1)
            keep = head_targets.valid[:, slot, None, None]
            previous = grid.gather(2, index)
            grid.scatter_(2, index, torch.where(keep, value[:, slot, :, None], previous))
        heads[name] = grid.unflatten(2, (h, w))
    return CenterNetHeads(**heads)


def _head_in_float32(head: nn.Module, fused: Tensor) -> Tensor:
    """Run a head with its last layer in float32, also under autocast."""
    *first, last = head.children()
    for layer in first:
        fused = layer(fused)
    return in_float32(last, fused)


def _build_head(in_channels: int, width: int, out_channels: int) -> nn.Sequential:
    """Build a head: 3x3 convolution, ReLU, 1x1 convolution; outputs start near 0."""
    last = nn.Conv2d(width, out_channels, 1)
    nn.init.normal_(last.weight, std=0.001)
    nn.init.zeros_(last.bias)  # type: ignore[arg-type]
    return nn.Sequential(nn.Conv2d(in_channels, width, 3, padding=1), nn.ReLU(inplace=True), last)
