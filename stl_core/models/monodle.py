"""
MonoDLE (Ma et al., Delving into Localization Errors, CVPR 2021): CenterNet heads for 3D boxes.

One stride-4 map feeds the seven heads of center_heads. An object lives in the cell of its
projected 3D centre.
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
    box_losses,
    decode_heads,
    depth_confidence,
    encode_targets,
    gather_heads,
    predictions_at_cells,
)
from stl_core.tensors import depth_encoding
from stl_core.tensors.batch import Outputs, Targets
from stl_core.tensors.precision import in_float32

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


@dataclass(frozen=True)
class MonoDLEConfig:
    """
    The numbers of a MonoDLE detector.

    :param backbone: a timm model; 'dla34' in the paper.
    :param neck: 'dlaup' (the paper's) or 'light'.
    :param pretrained: start the backbone from timm's ImageNet weights.
    :param head_width: channels inside each head.
    :param heading_bins: directions of the heading head.
    :param max_objects: most objects read from an image.
    :param virtual_focal_px: focal length at which depth is learnt, network pixels: the heads say
        how far an object would be if this lens showed it at its size, and the true focal length
        stretches that. One checkpoint then serves every lens. 0 learns depth itself, as in the
        paper, for one lens.
    :param mean_size_hwl_m: mean height, width, length of each class, in the order of classes;
        the default is KITTI's train split, Car, Pedestrian, Cyclist.
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
    """The detector; see the module for its heads."""

    strides = STRIDES

    def __init__(self, config: MonoDLEConfig, in_channels: int, num_classes: int) -> None:
        """
        Build backbone, neck and heads.

        :param config: the numbers.
        :param in_channels: channels of the input image, 3 for RGB.
        :param num_classes: C.
        :raises ValueError: for an unknown neck or a mean size missing for a class.
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
        self.channels = (self.neck.out_channels, *self.backbone.channels[1:])
        widths = {
            'heatmap': num_classes,
            'offset_2d': 2,
            'size_2d': 2,
            'depth': 2,
            'offset_3d': 2,
            'size_3d': 3,
            'heading': 2 * config.heading_bins,
        }
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

    def forward(self, image: Tensor, P: Tensor, targets: Targets | None = None) -> Outputs:
        """
        Run the network.

        :param image: (B, in_channels, H, W) normalised.
        :param P: (B, 3, 4) projections; their focal lengths stretch the depth.
        :param targets: not looked at either; DETR-style detectors do.
        :return: what the heads read, the backbone's coarser maps, and the seven raw heads
            (B, ., H/4, W/4).
        """
        features = self.backbone(image)
        fused = self.neck(features)
        heads = {
            name: _head_in_float32(head, fused) if name == 'depth' else head(fused)
            for name, head in self.heads.items()
        }
        if self.config.virtual_focal_px:
            heads['depth'] = depth_encoding.rescale_to_focal_length(
                heads['depth'], P[:, 0, 0] / self.config.virtual_focal_px
            )
        return Outputs((fused, *features[1:]), heads)

    def losses(self, out: Outputs, targets: Targets) -> dict[str, Tensor]:
        """
        Compare outputs with targets.

        :param out: what forward returned.
        :param targets: network pixels, metres.
        :return: unweighted scalars, one a head, keys 'det/<head>'.
        """
        h, w = out.heads['heatmap'].shape[-2:]
        bins = self.config.heading_bins
        head_targets = encode_targets(
            targets, targets.center_px, self.mean_size_hwl_m, bins, (h, w)
        )
        heat = heatmap.draw_heatmap(targets, self.num_classes, STRIDE, h, w)
        predicted = {
            name: value.float()
            for name, value in gather_heads(out.heads, head_targets.cell).items()
        }
        return {
            'det/heatmap': losses.heatmap_focal_loss(out.heads['heatmap'].float(), heat),
            **box_losses(predicted, head_targets, targets),
            'det/heading': losses.multibin_loss(
                predicted['heading'][..., :bins],
                predicted['heading'][..., bins:],
                head_targets.heading_bin,
                head_targets.heading_residual,
                head_targets.valid,
            ),
        }

    def decode(self, out: Outputs) -> dict[str, Tensor]:
        """Turn what forward returned into the fields of ImageObjects (B, K, ...)."""
        return decode_heads(
            out.heads,
            self.mean_size_hwl_m,
            self.config.heading_bins,
            self.config.max_objects,
        )

    def depth_confidence(self, out: Outputs, targets: Targets) -> Tensor:
        """(B, N) certainty of depth at each target, 1 / (1 + sigma) in (0, 1]."""
        return depth_confidence(out.heads, _target_cells(out, targets))

    def predictions_at_targets(self, out: Outputs, targets: Targets) -> dict[str, Tensor]:
        """Raw heads at each target, {name: (B, N, D)}; of depth its logit alone."""
        return predictions_at_cells(out.heads, _target_cells(out, targets))


def perfect_heads(
    targets: Targets, mean_size_hwl_m: Tensor, bins: int, h: int, w: int
) -> dict[str, Tensor]:
    """
    Draw targets as the perfect network would answer them: read must give them back.

    Where two objects share a cell, the nearer one (the earlier slot) is drawn.

    :param targets: network pixels, metres.
    :param mean_size_hwl_m: (C, 3).
    :param bins: A.
    :param h: grid height.
    :param w: grid width.
    :return: seven raw heads (B, ., h, w).
    """
    head_targets = encode_targets(targets, targets.center_px, mean_size_hwl_m, bins, (h, w))
    depth_logit = depth_encoding.to_logit(targets.depth_m)
    one_hot = nn.functional.one_hot(head_targets.heading_bin, bins)
    log_sigma = torch.full_like(depth_logit, -5.0)  # sigma of 7 mm
    at = {
        'offset_2d': head_targets.offset_2d,
        'size_2d': head_targets.size_2d,
        'depth': torch.stack([depth_logit, log_sigma], -1),
        'offset_3d': head_targets.offset_3d,
        'size_3d': head_targets.size_3d,
        'heading': torch.cat([one_hot, one_hot * head_targets.heading_residual[..., None]], -1),
    }
    heat = heatmap.draw_heatmap(targets, len(mean_size_hwl_m), STRIDE, h, w)
    heads = {'heatmap': torch.logit(heat, eps=1e-6)}
    for name, value in at.items():
        grid = torch.zeros(*value.shape[::2], h * w, dtype=value.dtype)
        for slot in range(value.shape[1] - 1, -1, -1):
            index = head_targets.cell[:, slot, None, None].expand(-1, value.shape[2], 1)
            keep = head_targets.valid[:, slot, None, None]
            old = grid.gather(2, index)
            grid.scatter_(2, index, torch.where(keep, value[:, slot, :, None], old))
        heads[name] = grid.unflatten(2, (h, w))
    return heads


def _target_cells(out: Outputs, targets: Targets) -> Tensor:
    """(B, N) flat cells of targets on the grid of the heads."""
    return heatmap.flat_cells(targets.center_px, STRIDE, *out.heads['heatmap'].shape[-2:])[0]


def _head_in_float32(head: nn.Module, fused: Tensor) -> Tensor:
    """Run a head whose last layer is float32 in any case."""
    *first, last = head.children()
    for layer in first:
        fused = layer(fused)
    return in_float32(last, fused)


def _build_head(in_channels: int, width: int, out_channels: int) -> nn.Sequential:
    """Build 3x3 convolution, ReLU, 1x1 convolution; outputs start near 0."""
    last = nn.Conv2d(width, out_channels, 1)
    nn.init.normal_(last.weight, std=0.001)
    nn.init.zeros_(last.bias)  # type: ignore[arg-type]
    return nn.Sequential(nn.Conv2d(in_channels, width, 3, padding=1), nn.ReLU(inplace=True), last)
