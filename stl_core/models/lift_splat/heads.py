"""
Centre heads on the ground map: encode targets, losses, decoding (Yin et al., CenterPoint, 2021).

One heatmap per class, and one set of the other heads for all classes. CenterPoint has a set for
each of six groups of classes, because two objects whose centres share a cell would share a
prediction; on the ground that needs overlapping boxes, and six sets of heads at the resolution of
the map would cost more than the rest of the network after the splat.

Shapes: S samples, N slots, K peaks, C classes, A attributes, D depth bins, Y X grid of the ground,
h w grid of image features.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from stl_core.models import losses
from stl_core.models.centernet import heatmap
from stl_core.models.lift_splat.grid import BevGrid
from stl_core.models.lift_splat.layers import conv_norm_relu
from stl_core.models.lift_splat.range_sigma import strongest_cells
from stl_core.tensors.precision import in_float32
from stl_core.tensors.reductions import StepNormalizer, masked_mean
from stl_core.tensors.rig import RigTargets

#: Overlap of CenterNet's Gaussian radius, and the least radius in cells, of the published configs.
_MIN_OVERLAP, _MIN_RADIUS = 0.1, 2.0
#: Limits of decoded log sizes: exp of a wild number must not overflow.
_LOG_SIZE_LIMITS = (math.log(0.01), math.log(100.0))


@dataclass(frozen=True)
class LiftSplatHeads:
    """
    Raw outputs: maps of the ground (S, channels, Y, X), and the depth of all images.

    :param heatmap: C, logits of objects, a map per class.
    :param offset: 2, from the corner of the cell to the centre along x and y, in cells.
    :param height: 1, z of the centre, metres.
    :param size: 3, logarithms of height, width and length in metres.
    :param yaw: 2, sine and cosine, not normalised.
    :param velocity: 2, along x and y, m/s. One set of pictures shows no motion: a guess from the
        look of objects and of the road.
    :param range: 1, log sigma (metres) of the distance from the vehicle, see range_sigma.
    :param depth_bins: (B, D, h, w), logits of depth, not of the ground.
    :param attribute: A logits; None for a detector without attributes.
    """

    heatmap: Tensor
    offset: Tensor
    height: Tensor
    size: Tensor
    yaw: Tensor
    velocity: Tensor
    range: Tensor
    depth_bins: Tensor
    attribute: Tensor | None = None

    def as_dict(self) -> dict[str, Tensor]:
        """Return the heads that were computed by name."""
        return {name: value for name, value in vars(self).items() if value is not None}


def head_channels(num_classes: int, num_attributes: int) -> dict[str, int]:
    """Return the channels of the maps of the ground by name."""
    channels = {
        'heatmap': num_classes,
        'offset': 2,
        'height': 1,
        'size': 3,
        'yaw': 2,
        'velocity': 2,
        'range': 1,
    }
    return channels | ({'attribute': num_attributes} if num_attributes else {})


class CenterHeads(nn.Module):
    """
    The heads: a 3x3 convolution, norm, ReLU and a 1x1 convolution each, the last in float32.

    :param in_channels: channels of the ground map.
    :param width: hidden channels of each head.
    :param channels: from head_channels.
    """

    def __init__(self, in_channels: int, width: int, channels: dict[str, int]) -> None:
        """Build the heads; outputs start near 0, and the heatmap near a tenth."""
        super().__init__()
        self.heads = nn.ModuleDict(
            {
                name: nn.Sequential(conv_norm_relu(in_channels, width, 3), _last(width, count))
                for name, count in channels.items()
            }
        )
        nn.init.constant_(self.heads['heatmap'][-1].bias, -2.19)  # type: ignore

    def forward(self, bev: Tensor) -> dict[str, Tensor]:
        """Return the raw maps of a ground map (S, in_channels, Y, X) by name, float32."""
        maps = {}
        for name, head in self.heads.items():
            hidden, last = head.children()
            maps[name] = in_float32(last, hidden(bev))
        return maps


def _last(width: int, channels: int) -> nn.Conv2d:
    layer = nn.Conv2d(width, channels, 1)
    nn.init.normal_(layer.weight, std=0.01)
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return layer


def gather_heads(heads: LiftSplatHeads, cell: Tensor) -> dict[str, Tensor]:
    """Return the raw maps (S, N, channels), except the heatmap, at flat cells (S, N)."""
    maps = heads.as_dict()
    return {
        name: heatmap.gather_at(value, cell).float()
        for name, value in maps.items()
        if name not in ('heatmap', 'depth_bins')
    }


def target_cells(targets: RigTargets, grid: BevGrid) -> tuple[Tensor, Tensor]:
    """Return (S, N) flat cells of the centres, and (S, N) bool, valid and inside the grid."""
    cell, inside = grid.cell_of(torch.where(targets.valid[..., None], targets.center_m, 0.0))
    return cell[..., 1] * grid.columns + cell[..., 0], inside & targets.valid


def draw_heatmap(targets: RigTargets, num_classes: int, grid: BevGrid) -> Tensor:
    """
    Draw a Gaussian at the centre of every valid object, on the map of its class.

    :param targets: vehicle frame.
    :param num_classes: C.
    :param grid: the grid.
    :return: (S, C, Y, X) in [0, 1]; exactly 1 at the cell of every valid object in the grid.
    """
    footprint = targets.size_hwl_m[..., 1:].clamp(min=0) / grid.cell_m
    radius = heatmap.gaussian_radius(footprint, _MIN_OVERLAP).clamp(min=_MIN_RADIUS)
    points = grid.position(targets.center_m)[:, :, None].expand(-1, -1, num_classes, -1)
    masks = heatmap.class_masks(targets, num_classes)
    return heatmap.draw_gaussians(points, radius, masks, grid.rows, grid.columns)


def center_losses(
    heads: LiftSplatHeads,
    targets: RigTargets,
    num_classes: int,
    grid: BevGrid,
    normalizer: StepNormalizer,
) -> dict[str, Tensor]:
    """
    Compute the losses of the heads on the ground map: focal, L1, cross-entropy, Laplacian NLL.

    Velocities that are unknown (nan), and attributes that are, teach nothing.

    :param heads: raw, float32.
    :param targets: vehicle frame.
    :param num_classes: C.
    :param grid: the grid.
    :param normalizer: normaliser of the step.
    :return: unweighted scalars, keys 'det/<head>'.
    """
    cell, valid = target_cells(targets, grid)
    predicted = gather_heads(heads, cell)
    drawn = draw_heatmap(targets, num_classes, grid)
    encoded = _encode(targets, grid)
    found = {'det/heatmap': losses.heatmap_focal_loss(heads.heatmap, drawn, normalizer)}
    for name, (value, known) in encoded.items():
        found[f'det/{name}'] = losses.l1_loss(predicted[name], value, valid & known, normalizer)
    found['det/attribute'] = _attribute_loss(predicted, targets, valid, normalizer)
    peak = strongest_cells(heads.heatmap, targets.class_id, cell, grid)
    position = cell_position(peak, heatmap.gather_at(heads.offset, peak), grid)
    log_sigma = heatmap.gather_at(heads.range, peak)[..., 0]
    found['det/range'] = losses.laplacian_nll_loss(
        torch.linalg.vector_norm(position, dim=-1),
        *(log_sigma, torch.where(valid, targets.range_m, 0.0), valid, normalizer),
    )
    return found


def _encode(targets: RigTargets, grid: BevGrid) -> dict[str, tuple[Tensor, Tensor]]:
    """Return (S, N, channels) regression targets of the heads, and (S, N) where they are known."""
    position = grid.position(targets.center_m)
    moving = targets.velocity_mps.isfinite().all(-1)
    values = {
        'offset': position - position.floor(),
        'height': targets.center_m[..., 2:],
        'size': targets.size_hwl_m.clamp(min=0.01).log(),
        'yaw': torch.stack([targets.yaw.sin(), targets.yaw.cos()], -1),
    }
    known = torch.ones_like(targets.valid)
    encoded = {name: (value, known) for name, value in values.items()}
    # a masked NaN would still be a NaN in the gradient
    velocity = torch.where(moving[..., None], targets.velocity_mps, 0.0)
    return encoded | {'velocity': (velocity, moving)}


def _attribute_loss(
    predicted: dict[str, Tensor], targets: RigTargets, valid: Tensor, normalizer: StepNormalizer
) -> Tensor:
    """Compute the cross-entropy of the attributes; 0 for a detector without."""
    known = valid & (targets.attribute_id >= 0)
    if 'attribute' not in predicted:
        return masked_mean(predicted['height'][..., 0] * 0, known, normalizer)
    logits = predicted['attribute']
    index = targets.attribute_id.clamp(0, logits.shape[-1] - 1)
    entropy = nn.functional.cross_entropy(logits.flatten(0, 1), index.flatten(), reduction='none')
    return masked_mean(entropy.view_as(index), known, normalizer)


def cell_position(cell: Tensor, offset: Tensor, grid: BevGrid) -> Tensor:
    """Return x and y (S, N, 2) in metres of flat cells (S, N) and offsets (S, N, 2) in cells."""
    position = (heatmap.cell_xy(cell, grid.columns) + offset) * grid.cell_m
    low = (grid.x_range_m[0], grid.y_range_m[0])
    return torch.stack([position[..., i] + low[i] for i in (0, 1)], -1)


def decode_heads(
    heads: LiftSplatHeads, grid: BevGrid, max_objects: int, peak_ratio: float
) -> dict[str, Tensor]:
    """
    Decode raw heads: find heatmap peaks and read the other heads at their cells.

    The score is the height of the peak.

    :param heads: raw.
    :param grid: the grid.
    :param max_objects: K at most.
    :param peak_ratio: see LiftSplatConfig.
    :return: the fields of VehicleObjects, (S, K, ...), sorted by decreasing score; attribute_id is
        -1 for a detector without attributes.
    """
    height = heads.heatmap.float().sigmoid()
    score, class_id, cell = heatmap.find_peaks(height, max_objects, peak_ratio)
    predicted = gather_heads(heads, cell)
    attribute_id = torch.full_like(class_id, -1)
    if 'attribute' in predicted:
        attribute_id = predicted['attribute'].argmax(-1)
    return {
        'class_id': class_id,
        'score': score,
        'center_m': torch.cat(
            [cell_position(cell, predicted['offset'], grid), predicted['height']], -1
        ),
        'size_hwl_m': predicted['size'].clamp(*_LOG_SIZE_LIMITS).exp(),
        'yaw': torch.atan2(*predicted['yaw'].unbind(-1)),
        'velocity_mps': predicted['velocity'],
        'attribute_id': attribute_id,
        'range_sigma_m': predicted['range'][..., 0].exp(),
    }
