"""
What detectors share that put an object into one cell of a stride-4 map (CenterNet, 2019).

Raw heads by name (B, ., h, w): heatmap C, offset_2d 2, size_2d 2, depth 2 (logit of inverse
depth, log sigma), offset_3d 2, size_3d 3 (less the class mean), heading 2A (bins, remainders).
offset_3d points from the object's cell to its projected 3D centre, offset_2d to the middle of its
2D box; both and size_2d count in cells. Which cell is the detector's choice.
Shapes: B batch, N slots, K peaks, C classes, A heading bins, h w grid.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from stl_core.models import losses
from stl_core.models.backbone import STRIDES
from stl_core.models.centernet import heatmap
from stl_core.tensors import depth_encoding
from stl_core.tensors.batch import Targets

STRIDE = STRIDES[0]
#: Heads that are read at an object's cell.
OBJECT_HEADS = ('offset_2d', 'size_2d', 'depth', 'offset_3d', 'size_3d', 'heading')


@dataclass(frozen=True)
class HeadTargets:
    """What the heads should say at each target's cell: (B, N, ...), see the module."""

    cell: Tensor
    valid: Tensor
    offset_2d: Tensor
    size_2d: Tensor
    offset_3d: Tensor
    size_3d: Tensor
    heading_bin: Tensor
    heading_residual: Tensor


def encode_targets(
    targets: Targets, anchor_px: Tensor, mean_size_hwl_m: Tensor, bins: int, hw: tuple[int, int]
) -> HeadTargets:
    """
    Put targets into the terms of the heads.

    :param targets: network pixels, metres.
    :param anchor_px: (B, N, 2) the point whose cell is the object's.
    :param mean_size_hwl_m: (C, 3).
    :param bins: A.
    :param hw: height and width of the grid.
    :return: values for each slot; valid only where that point is inside the grid.
    """
    cell, inside = heatmap.flat_cells(anchor_px, STRIDE, *hw)
    corner = heatmap.cell_xy(cell, hw[1])
    low, high = targets.box_px[..., :2] / STRIDE, targets.box_px[..., 2:] / STRIDE
    heading_bin, heading_residual = heatmap.encode_angle(targets.alpha, bins)
    return HeadTargets(
        cell=cell,
        valid=targets.valid & inside,
        offset_2d=(low + high) / 2 - corner,
        size_2d=high - low,
        offset_3d=targets.center_px / STRIDE - corner,
        size_3d=targets.size_hwl_m - mean_size_hwl_m[targets.class_id],
        heading_bin=heading_bin,
        heading_residual=heading_residual,
    )


def gather_heads(heads: Mapping[str, Tensor], cell: Tensor) -> dict[str, Tensor]:
    """Raw heads and (B, N) cells -> {name: (B, N, .)} of AT_OBJECTS, what each says there."""
    return {name: heatmap.gather_at(heads[name], cell) for name in OBJECT_HEADS}


def predictions_at_cells(heads: Mapping[str, Tensor], cell: Tensor) -> dict[str, Tensor]:
    """Say what gather does, but of depth its logit alone."""
    at = gather_heads(heads, cell)
    return {**at, 'depth': at['depth'][..., :1]}


def box_losses(
    predicted: Mapping[str, Tensor], head_targets: HeadTargets, targets: Targets
) -> dict[str, Tensor]:
    """
    Compare what heads say at targets, but for whether they are there and where they head.

    :param predicted: (B, N, .) of gather.
    :param head_targets: what they should say.
    :param targets: what that was made of.
    :return: unweighted scalars, keys 'det/<head>'.
    """
    valid = head_targets.valid
    z, log_sigma = (
        depth_encoding.from_logit(predicted['depth'][..., 0]),
        predicted['depth'][..., 1],
    )
    return {
        'det/offset_2d': losses.l1_loss(predicted['offset_2d'], head_targets.offset_2d, valid),
        'det/size_2d': losses.l1_loss(predicted['size_2d'], head_targets.size_2d, valid),
        'det/depth': losses.laplacian_nll_loss(z, log_sigma, targets.depth_m, valid),
        'det/offset_3d': losses.l1_loss(predicted['offset_3d'], head_targets.offset_3d, valid),
        'det/size_3d': losses.dim_aware_l1_loss(
            predicted['size_3d'], head_targets.size_3d, targets.size_hwl_m, valid
        ),
    }


def depth_confidence(heads: Mapping[str, Tensor], cell: Tensor) -> Tensor:
    """Certainty of depth at (B, N) cells, 1 / (1 + sigma) in (0, 1]."""
    return 1 / (1 + heatmap.gather_at(heads['depth'], cell)[..., 1].float().exp())


def decode_heads(
    heads: Mapping[str, Tensor], mean_size_hwl_m: Tensor, bins: int, max_objects: int
) -> dict[str, Tensor]:
    """
    Turn raw heads into objects.

    The score is the peak's height divided by 1 + sigma (metres): bounded, and falling with
    both doubts, whether it is there and how far.

    :param heads: see the module.
    :param mean_size_hwl_m: (C, 3).
    :param bins: A.
    :param max_objects: K at most.
    :return: the fields of ImageObjects, (B, K, ...), by falling height of the peak.
    """
    height, class_id, cell = heatmap.find_peaks(heads['heatmap'].float().sigmoid(), max_objects)
    at = {name: value.float() for name, value in gather_heads(heads, cell).items()}
    corner = heatmap.cell_xy(cell, heads['heatmap'].shape[-1])
    middle, half = (corner + at['offset_2d']) * STRIDE, at['size_2d'] * (STRIDE / 2)
    chosen = at['heading'][..., :bins].argmax(-1)
    residual = at['heading'][..., bins:].gather(-1, chosen[..., None])[..., 0]
    log_sigma = at['depth'][..., 1]
    return {
        'class_id': class_id,
        'score': height / (1 + log_sigma.exp()),
        'center_px': (corner + at['offset_3d']) * STRIDE,
        'depth_m': depth_encoding.from_logit(at['depth'][..., 0]),
        'size_hwl_m': (at['size_3d'] + mean_size_hwl_m[class_id]).clamp(min=0.01),
        'alpha': heatmap.decode_angle(chosen, residual, bins),
        'box_px': torch.cat([middle - half, middle + half], -1),
        'depth_log_sigma': log_sigma,
    }


#: Mean height, width and length of the labelled objects of KITTI's train split. Car, Pedestrian
#: and Cyclist are as published detectors have them.
MEAN_SIZE_HWL_M = {
    'Car': (1.526, 1.629, 3.884),
    'Pedestrian': (1.761, 0.660, 0.842),
    'Cyclist': (1.737, 0.597, 1.763),
    'Van': (2.187, 1.913, 5.147),
    'Truck': (3.362, 2.609, 9.205),
    'Tram': (3.529, 2.360, 15.558),
    'Person_sitting': (1.279, 0.544, 1.064),
    'Misc': (1.617, 1.242, 2.501),
}
