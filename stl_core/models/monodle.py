"""
MonoDLE (Ma et al., Delving into Localization Errors, CVPR 2021): CenterNet heads for 3D boxes.

One stride-4 map feeds seven heads: heatmap C, offset_2d 2, size_2d 2, depth 2 (logit of inverse
depth, log sigma), offset_3d 2, size_3d 3 (less the class mean), heading 2A (bins, remainders).
An object lives in the cell of its projected 3D centre. offset_3d points from the cell to that
centre, offset_2d to the middle of the 2D box; both and size_2d count in cells.
Shapes: B batch, N slots, K peaks, C classes, A heading bins, h w grid.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from stl_core.batch import Outputs, Targets
from stl_core.models import depth, heatmap, losses
from stl_core.models.backbone import NECKS, STRIDES, Backbone


#: Weight of every loss in the paper.
WEIGHTS = {
    'det/heatmap': 1.0,
    'det/offset_2d': 1.0,
    'det/size_2d': 1.0,
    'det/depth': 1.0,
    'det/offset_3d': 1.0,
    'det/size_3d': 1.0,
    'det/heading': 1.0,
}


@dataclass(frozen=True)
class Config:
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
    mean_size_hwl_m: tuple[tuple[float, float, float], ...] = (
        (1.526, 1.629, 3.884),
        (1.761, 0.660, 0.842),
        (1.737, 0.597, 1.763),
    )


class MonoDLE(nn.Module):
    """The detector; see the module for its heads."""

    strides = STRIDES

    def __init__(self, config: Config, in_channels: int, num_classes: int) -> None:
        """
        Build backbone, neck and heads.

        :param config: the numbers.
        :param in_channels: channels of the input image, 3 for RGB.
        :param num_classes: C.
        :raises ValueError: for an unknown neck or a mean size missing for a class.
        """
        super().__init__()
        if config.neck not in NECKS:
            raise ValueError(f'neck {config.neck!r}: unknown; known: {", ".join(NECKS)}')
        if len(config.mean_size_hwl_m) != num_classes:
            raise ValueError(
                f'mean_size_hwl_m has {len(config.mean_size_hwl_m)} rows for {num_classes} classes'
            )
        self.config = config
        self.num_classes = num_classes
        self.backbone = Backbone(config.backbone, config.pretrained, in_channels)
        self.channels = self.backbone.channels
        self.neck = NECKS[config.neck](self.channels)
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
                name: _head(self.neck.out_channels, config.head_width, n)
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
        :return: backbone maps and the seven raw heads (B, ., H/4, W/4).
        """
        features = self.backbone(image)
        fused = self.neck(features)
        heads = {name: head(fused) for name, head in self.heads.items()}
        if self.config.virtual_focal_px:
            heads['depth'] = depth.stretch(
                heads['depth'], P[:, 0, 0] / self.config.virtual_focal_px
            )
        return Outputs(features, heads)

    def losses(self, out: Outputs, targets: Targets) -> dict[str, Tensor]:
        """
        Compare outputs with targets.

        :param out: what forward returned.
        :param targets: network pixels, metres.
        :return: unweighted scalars, one a head, keys 'det/<head>'.
        """
        h, w = out.heads['heatmap'].shape[-2:]
        ideal = encode(targets, self.mean_size_hwl_m, self.config.heading_bins, STRIDES[0], h, w)
        heat = heatmap.draw(targets, self.num_classes, STRIDES[0], h, w)
        at = {
            name: heatmap.gather_at(grid, ideal.cell).float()
            for name, grid in out.heads.items()
            if name != 'heatmap'
        }
        valid, bins = ideal.valid, self.config.heading_bins
        return {
            'det/heatmap': losses.heatmap_focal(out.heads['heatmap'].float(), heat),
            'det/offset_2d': losses.l1(at['offset_2d'], ideal.offset_2d, valid),
            'det/size_2d': losses.l1(at['size_2d'], ideal.size_2d, valid),
            'det/depth': losses.laplacian_nll(
                depth.from_logit(at['depth'][..., 0]), at['depth'][..., 1], targets.depth_m, valid
            ),
            'det/offset_3d': losses.l1(at['offset_3d'], ideal.offset_3d, valid),
            'det/size_3d': losses.dim_aware_l1(
                at['size_3d'], ideal.size_3d, targets.size_hwl_m, valid
            ),
            'det/heading': losses.multibin(
                at['heading'][..., :bins],
                at['heading'][..., bins:],
                ideal.heading_bin,
                ideal.heading_rest,
                valid,
            ),
        }

    def read(self, out: Outputs) -> dict[str, Tensor]:
        """Turn what forward returned into the fields of ImageObjects (B, K, ...)."""
        return read(out.heads, self.mean_size_hwl_m, self.config)

    def confidence(self, out: Outputs, targets: Targets) -> Tensor:
        """(B, N) certainty of depth at each target, 1 / (1 + sigma) in (0, 1]."""
        h, w = out.heads['heatmap'].shape[-2:]
        cell, _ = heatmap.cells(targets.center_px, STRIDES[0], h, w)
        return 1 / (1 + heatmap.gather_at(out.heads['depth'], cell)[..., 1].float().exp())


@dataclass(frozen=True)
class Encoded:
    """What the heads should say at each target's cell: (B, N, ...), see the module."""

    cell: Tensor
    valid: Tensor
    offset_2d: Tensor
    size_2d: Tensor
    offset_3d: Tensor
    size_3d: Tensor
    heading_bin: Tensor
    heading_rest: Tensor


def encode(
    targets: Targets, mean_size_hwl_m: Tensor, bins: int, stride: int, h: int, w: int
) -> Encoded:
    """
    Put targets into the terms of the heads.

    :param targets: network pixels, metres.
    :param mean_size_hwl_m: (C, 3).
    :param bins: A.
    :param stride: pixels a cell.
    :param h: grid height.
    :param w: grid width.
    :return: values for each slot; valid only where the centre is inside the grid.
    """
    cell, inside = heatmap.cells(targets.center_px, stride, h, w)
    corner = heatmap.cell_xy(cell, w)
    low, high = targets.box_px[..., :2] / stride, targets.box_px[..., 2:] / stride
    heading_bin, heading_rest = heatmap.encode_angle(targets.alpha, bins)
    return Encoded(
        cell=cell,
        valid=targets.valid & inside,
        offset_2d=(low + high) / 2 - corner,
        size_2d=high - low,
        offset_3d=targets.center_px / stride - corner,
        size_3d=targets.size_hwl_m - mean_size_hwl_m[targets.class_id],
        heading_bin=heading_bin,
        heading_rest=heading_rest,
    )


def read(heads: dict[str, Tensor], mean_size_hwl_m: Tensor, config: Config) -> dict[str, Tensor]:
    """
    Turn raw heads into objects.

    The score is the peak's height divided by 1 + sigma (metres): bounded, and falling with
    both doubts, whether it is there and how far.

    :param heads: the seven raw heads (B, ., h, w).
    :param mean_size_hwl_m: (C, 3).
    :param config: bins and the number of objects.
    :return: the fields of ImageObjects, (B, K, ...), by falling height of the peak.
    """
    heads = {name: grid.float() for name, grid in heads.items()}
    height, class_id, cell = heatmap.peaks(heads['heatmap'].sigmoid(), config.max_objects)
    at = {name: heatmap.gather_at(grid, cell) for name, grid in heads.items() if name != 'heatmap'}
    corner = heatmap.cell_xy(cell, heads['heatmap'].shape[-1])
    stride, bins = STRIDES[0], config.heading_bins
    middle, half = (corner + at['offset_2d']) * stride, at['size_2d'] * (stride / 2)
    chosen = at['heading'][..., :bins].argmax(-1)
    rest = at['heading'][..., bins:].gather(-1, chosen[..., None])[..., 0]
    log_sigma = at['depth'][..., 1]
    return {
        'class_id': class_id,
        'score': height / (1 + log_sigma.exp()),
        'center_px': (corner + at['offset_3d']) * stride,
        'depth_m': depth.from_logit(at['depth'][..., 0]),
        'size_hwl_m': (at['size_3d'] + mean_size_hwl_m[class_id]).clamp(min=0.01),
        'alpha': heatmap.decode_angle(chosen, rest, bins),
        'box_px': torch.cat([middle - half, middle + half], -1),
        'depth_log_sigma': log_sigma,
    }


def ideal_heads(
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
    ideal = encode(targets, mean_size_hwl_m, bins, STRIDES[0], h, w)
    depth_logit = depth.to_logit(targets.depth_m)
    one_hot = nn.functional.one_hot(ideal.heading_bin, bins)
    sure = torch.full_like(depth_logit, -5.0)  # sigma of 7 mm
    at = {
        'offset_2d': ideal.offset_2d,
        'size_2d': ideal.size_2d,
        'depth': torch.stack([depth_logit, sure], -1),
        'offset_3d': ideal.offset_3d,
        'size_3d': ideal.size_3d,
        'heading': torch.cat([one_hot, one_hot * ideal.heading_rest[..., None]], -1),
    }
    heat = heatmap.draw(targets, len(mean_size_hwl_m), STRIDES[0], h, w)
    heads = {'heatmap': torch.logit(heat, eps=1e-6)}
    for name, value in at.items():
        grid = torch.zeros(*value.shape[::2], h * w, dtype=value.dtype)
        for slot in range(value.shape[1] - 1, -1, -1):
            index = ideal.cell[:, slot, None, None].expand(-1, value.shape[2], 1)
            keep = ideal.valid[:, slot, None, None]
            old = grid.gather(2, index)
            grid.scatter_(2, index, torch.where(keep, value[:, slot, :, None], old))
        heads[name] = grid.unflatten(2, (h, w))
    return heads


def _head(in_channels: int, width: int, out_channels: int) -> nn.Sequential:
    """Build 3x3 convolution, ReLU, 1x1 convolution; outputs start near 0."""
    last = nn.Conv2d(width, out_channels, 1)
    nn.init.normal_(last.weight, std=0.001)
    nn.init.zeros_(last.bias)  # type: ignore[arg-type]
    return nn.Sequential(nn.Conv2d(in_channels, width, 3, padding=1), nn.ReLU(inplace=True), last)
