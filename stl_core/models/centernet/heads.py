"""
CenterNet-style detection heads shared by MonoDLE and MonoCon: encode, gather, losses, decode.

Source: Zhou et al., Objects as Points (CenterNet), 2019. One cell of a stride-4 map represents an
object; the detector chooses which cell.

Shapes: B batch, N slots, K peaks, C classes, A heading bins, h w grid.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from stl_core.models import losses
from stl_core.models.backbone import STRIDES
from stl_core.models.centernet import heatmap
from stl_core.tensors import depth_encoding
from stl_core.tensors.batch import Targets
from stl_core.tensors.detector import TargetPredictions
from stl_core.tensors.reductions import StepNormalizer

STRIDE = STRIDES[0]


@dataclass(frozen=True)
class CenterNetHeads:
    """
    Raw head maps (B, channels, h, w), before any sigmoid; their channels are below.

    :param heatmap: C, logits of objects, a map per class.
    :param offset_2d: 2, from the cell to the centre of the 2D box, in cells.
    :param size_2d: 2, width and height of the 2D box, in cells.
    :param depth: 2, logit of inverse depth, and log sigma (metres).
    :param offset_3d: 2, from the cell to the projected 3D centre, in cells.
    :param size_3d: 3, height, width, length less the class mean, metres.
    :param heading: 2A, bin logits, then residuals in radians, of the observation angle alpha.
    :param keypoint_offset: 16, see monocon; None like the others unless MonoCon trains.
    :param keypoint_heatmap: 9.
    :param keypoint_rest: 2.
    """

    heatmap: Tensor
    offset_2d: Tensor
    size_2d: Tensor
    depth: Tensor
    offset_3d: Tensor
    size_3d: Tensor
    heading: Tensor
    keypoint_offset: Tensor | None = None
    keypoint_heatmap: Tensor | None = None
    keypoint_rest: Tensor | None = None

    def as_dict(self) -> dict[str, Tensor]:
        """Return the maps that were computed by name."""
        return {name: value for name, value in vars(self).items() if value is not None}


def head_channels(num_classes: int, heading_bins: int) -> dict[str, int]:
    """Return the channels of the seven heads that all CenterNet-style detectors have, by name."""
    return {
        'heatmap': num_classes,
        'offset_2d': 2,
        'size_2d': 2,
        'depth': 2,
        'offset_3d': 2,
        'size_3d': 3,
        'heading': 2 * heading_bins,
    }


@dataclass(frozen=True)
class ObjectHeads:
    """Values (B, N, channels) of the heads at the cells of objects, float32; no heatmap."""

    offset_2d: Tensor
    size_2d: Tensor
    depth: Tensor
    offset_3d: Tensor
    size_3d: Tensor
    heading: Tensor


@dataclass(frozen=True)
class HeadTargets:
    """Regression targets of the heads at each object's cell, (B, N, ...); units: see module."""

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
    Encode targets as the values that the heads regress.

    :param targets: network pixels, metres.
    :param anchor_px: (B, N, 2) the point whose cell represents the object, network pixels.
    :param mean_size_hwl_m: (C, 3) mean height, width, length per class.
    :param bins: A.
    :param hw: height and width of the grid, cells.
    :return: values for each slot; valid only where the anchor is inside the grid.
    """
    cell, inside = heatmap.flat_cells(anchor_px, STRIDE, *hw)
    cell_origin = heatmap.cell_xy(cell, hw[1])
    low, high = targets.box_px[..., :2] / STRIDE, targets.box_px[..., 2:] / STRIDE
    heading_bin, heading_residual = heatmap.encode_angle(targets.alpha, bins)
    return HeadTargets(
        cell=cell,
        valid=targets.valid & inside,
        offset_2d=(low + high) / 2 - cell_origin,
        size_2d=high - low,
        offset_3d=targets.center_px / STRIDE - cell_origin,
        size_3d=targets.size_hwl_m - mean_size_hwl_m[targets.class_id],
        heading_bin=heading_bin,
        heading_residual=heading_residual,
    )


def gather_heads(heads: CenterNetHeads, cell: Tensor) -> ObjectHeads:
    """Return the raw heads at (B, N) cells."""
    names = (field.name for field in fields(ObjectHeads))
    gathered = {name: heatmap.gather_at(getattr(heads, name), cell) for name in names}
    return ObjectHeads(**{name: value.float() for name, value in gathered.items()})


def predictions_at_anchors(
    heads: CenterNetHeads, targets: Targets, anchor_px: Tensor
) -> TargetPredictions:
    """
    Return the predictions at the cells of targets: all heads but the heatmap.

    :param heads: raw.
    :param targets: network pixels.
    :param anchor_px: (B, N, 2) the point whose cell represents the object, network pixels.
    :return: found where the anchor is inside the grid.
    """
    cell, inside = heatmap.flat_cells(anchor_px, STRIDE, *heads.heatmap.shape[-2:])
    predictions = gather_heads(heads, cell)
    logit, log_sigma = predictions.depth.split(1, -1)
    return TargetPredictions(
        predictions={**vars(predictions), 'depth': logit},
        depth_sigma_m=log_sigma[..., 0].exp(),
        found=targets.valid & inside,
    )


def box_losses(
    predicted: ObjectHeads,
    head_targets: HeadTargets,
    targets: Targets,
    normalizer: StepNormalizer,
) -> dict[str, Tensor]:
    """
    Compute the losses of 2D box, depth, 3D centre and size: all heads except heatmap, heading.

    :param predicted: (B, N, channels) from gather_heads.
    :param head_targets: from encode_targets.
    :param targets: the targets that head_targets encode.
    :param normalizer: normaliser of the step.
    :return: unweighted scalars, keys 'det/<head>'.
    """
    valid = head_targets.valid
    z, log_sigma = (
        depth_encoding.from_logit(predicted.depth[..., 0]),
        predicted.depth[..., 1],
    )
    return {
        'det/offset_2d': losses.l1_loss(
            predicted.offset_2d, head_targets.offset_2d, valid, normalizer
        ),
        'det/size_2d': losses.l1_loss(predicted.size_2d, head_targets.size_2d, valid, normalizer),
        'det/depth': losses.laplacian_nll_loss(z, log_sigma, targets.depth_m, valid, normalizer),
        'det/offset_3d': losses.l1_loss(
            predicted.offset_3d, head_targets.offset_3d, valid, normalizer
        ),
        'det/size_3d': losses.dim_aware_l1_loss(
            predicted.size_3d, head_targets.size_3d, targets.size_hwl_m, valid, normalizer
        ),
    }


def decode_heads(
    heads: CenterNetHeads, mean_size_hwl_m: Tensor, bins: int, max_objects: int
) -> dict[str, Tensor]:
    """
    Decode raw heads into objects: find heatmap peaks and read the other heads at their cells.

    The score is the peak's height divided by 1 + sigma (metres). It is in [0, 1] and falls with
    both the uncertainty of the object's presence and that of its depth.

    :param heads: raw.
    :param mean_size_hwl_m: (C, 3) mean height, width, length per class.
    :param bins: A.
    :param max_objects: K at most.
    :return: the fields of ImageObjects, (B, K, ...), in network pixels and metres, sorted by
        decreasing peak height.
    """
    height, class_id, cell = heatmap.find_peaks(heads.heatmap.float().sigmoid(), max_objects)
    predicted = gather_heads(heads, cell)
    cell_origin = heatmap.cell_xy(cell, heads.heatmap.shape[-1])
    center_2d = (cell_origin + predicted.offset_2d) * STRIDE
    half = predicted.size_2d * (STRIDE / 2)
    best_bin = predicted.heading[..., :bins].argmax(-1)
    residual = predicted.heading[..., bins:].gather(-1, best_bin[..., None])[..., 0]
    log_sigma = predicted.depth[..., 1]
    return {
        'class_id': class_id,
        'score': height / (1 + log_sigma.exp()),
        'center_px': (cell_origin + predicted.offset_3d) * STRIDE,
        'depth_m': depth_encoding.from_logit(predicted.depth[..., 0]),
        'size_hwl_m': (predicted.size_3d + mean_size_hwl_m[class_id]).clamp(min=0.01),
        'alpha': heatmap.decode_angle(best_bin, residual, bins),
        'box_px': torch.cat([center_2d - half, center_2d + half], -1),
        'depth_log_sigma': log_sigma,
    }


#: Mean height, width and length of the labelled objects of KITTI's train split, metres. Car,
#: Pedestrian and Cyclist have the values of published detectors.
MEAN_SIZE_HWL_M = {
    'Car': (1.526, 1.629, 3.884),
    'Pedestrian': (1.761, 0.660, 0.842),
    'Cyclist': (1.737, 0.597, 1.763),
    'Van': (2.187, 1.913, 5.147),
    'Truck': (3.362, 2.609, 9.205),
    'Tram': (3.529, 2.360, 15.558),
    'Person_sitting': (1.279, 0.544, 1.064),
    'Misc': (1.617, 1.242, 2.501),
    # nuScenes' train split, as rounded from the anchors of public detectors (mmdetection3d)
    'car': (1.72, 1.95, 4.61),
    'truck': (2.73, 2.46, 6.74),
    'bus': (3.47, 2.94, 11.19),
    'trailer': (3.82, 2.87, 12.01),
    'construction_vehicle': (3.13, 2.73, 6.38),
    'pedestrian': (1.76, 0.66, 0.73),
    'motorcycle': (1.44, 0.76, 2.10),
    'bicycle': (1.27, 0.60, 1.68),
    'traffic_cone': (1.06, 0.40, 0.40),
    'barrier': (0.98, 2.49, 0.49),
}
