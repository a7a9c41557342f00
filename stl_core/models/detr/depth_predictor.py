"""
MonoDETR's foreground depth map: one of D depth bins, or background, per stride-16 cell.

Bins are those of depth_encoding.bin_edges. Labels come from boxes, not LiDAR: all cells of a
2D box have the depth of the object's centre; where boxes overlap, the nearest object wins.
Shapes: B batch, N slots, C channels, D bins, h w grid at stride 16.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stl_core.models.detr import box_coding
from stl_core.models.detr.query_heads import QueryHeads
from stl_core.tensors import depth_encoding
from stl_core.tensors.batch import Targets
from stl_core.tensors.depth_encoding import bin_edges, depth_to_bins
from stl_core.tensors.reductions import StepNormalizer, masked_mean

STRIDE = 16
#: Loss weight of an object's cell relative to a background cell.
FOREGROUND_WEIGHT = 13.0


class DepthPredictor(nn.Module):
    """Predict depth and the depth encoder's input features from maps at strides 8, 16 and 32."""

    def __init__(self, width: int, bins: int, max_depth_m: float) -> None:
        """
        Build the layers.

        :param width: C of the maps.
        :param bins: D.
        :param max_depth_m: far edge of the last bin.
        """
        super().__init__()
        self.down = _conv_gn(width, 3, 2)
        self.keep = _conv_gn(width, 1, 1)
        self.up = _conv_gn(width, 1, 1)
        self.body = nn.Sequential(
            _conv_gn(width, 3, 1), nn.ReLU(), _conv_gn(width, 3, 1), nn.ReLU()
        )
        self.bins = nn.Conv2d(width, bins + 1, 1)
        self.edges_m: Tensor
        self.register_buffer('edges_m', bin_edges(bins, max_depth_m), persistent=False)

    def forward(self, maps: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, Tensor]:
        """
        Predict the depth map.

        :param maps: (B, C, height, width) at strides 8, 16, 32.
        :return: (B, D + 1, h, w) bin logits, background last; (B, h, w) expected depth in metres,
            a bin counting as its near edge; (B, C, h, w) features.
        """
        fine, middle, coarse = maps
        size = middle.shape[-2:]
        coarse = nn.functional.interpolate(coarse, size, mode='bilinear')
        fused = (self.down(fine) + self.keep(middle) + self.up(coarse)) / 3
        features = self.body(fused)
        logits = self.bins(features)
        probability = logits.float().softmax(1)
        return logits, (probability * self.edges_m[:, None, None]).sum(1), features


def insert_given_depth(depth_m: Tensor, given_m: Tensor, focal_ratio: Tensor) -> Tensor:
    """
    Replace the expected depth of the cells in which a privileged teacher is given depth.

    DK3D's abstract gives a teacher ground-truth depth, but not where; in place of the expected
    depth, which the depth tokens and the output read, is our choice. Of several depths in a cell
    the nearest counts, as in paint_depth.

    :param depth_m: (B, h, w) expected depth, at the focal length at which depth is learnt.
    :param given_m: (B, H, W) true metres in network pixels, 0 where no depth is given.
    :param focal_ratio: (B,) true focal length / that at which depth is learnt.
    :return: (B, h, w) given depth / focal_ratio, and depth_m where none is given; its gradient
        does not reach the cells with given depth.
    """
    far_m = torch.where(given_m > 0, given_m.to(depth_m.dtype), torch.inf)
    nearest_m = -nn.functional.max_pool2d(-far_m, STRIDE)
    at_trained_m = nearest_m / focal_ratio[:, None, None].to(depth_m.dtype)
    return torch.where(torch.isfinite(nearest_m), at_trained_m, depth_m)


def paint_depth(targets: Targets, valid: Tensor, h: int, w: int) -> Tensor:
    """
    Paint each object's depth over the cells that its 2D box touches; the nearest wins.

    :param targets: network pixels.
    :param valid: (B, N) bool, the objects to paint.
    :param h: grid height, cells.
    :param w: grid width, cells.
    :return: (B, h, w) metres, inf where there is no object.
    """
    low = torch.floor(targets.box_px[..., :2] / STRIDE)
    high = torch.ceil(targets.box_px[..., 2:] / STRIDE)
    columns = _in_range(low[..., 0], high[..., 0], w)
    rows = _in_range(low[..., 1], high[..., 1], h)
    inside = rows[..., :, None] & columns[..., None, :] & valid[..., None, None]
    depth_m = torch.where(inside, targets.depth_m[..., None, None], torch.inf)
    background = torch.full_like(depth_m[:, :1], torch.inf)  # amin fails without slots
    return torch.cat([depth_m, background], 1).amin(1)


def depth_map_focal_loss(
    logits: Tensor, depth_m: Tensor, edges_m: Tensor, normalizer: StepNormalizer
) -> Tensor:
    """
    Compute the focal loss over depth bins (Lin et al., ICCV 2017; alpha 0.25, gamma 2).

    Cells of objects weigh FOREGROUND_WEIGHT times as much as background cells.

    :param logits: (B, D + 1, h, w).
    :param depth_m: (B, h, w) from paint_depth.
    :param edges_m: (B, D + 1) bin edges of each image.
    :param normalizer: normaliser of the step.
    :return: scalar, mean over cells.
    """
    log_p = logits.float().log_softmax(1).gather(1, depth_to_bins(depth_m, edges_m)[:, None])[:, 0]
    weight = torch.where(torch.isfinite(depth_m), FOREGROUND_WEIGHT, 1.0)
    loss = -0.25 * weight * (1 - log_p.exp()) ** 2 * log_p
    return masked_mean(loss, torch.ones_like(loss, dtype=torch.bool), normalizer)


def _in_range(low: Tensor, high: Tensor, count: int) -> Tensor:
    """Return (B, N, count) bool, low <= cell < high, for bounds (B, N)."""
    cell = torch.arange(count, device=low.device)
    return (cell >= low[..., None]) & (cell < high[..., None])


def _conv_gn(width: int, size: int, stride: int) -> nn.Sequential:
    """Build convolution and GroupNorm of 32 groups; input and output have `width` channels."""
    conv = nn.Conv2d(width, width, size, stride, padding=size // 2)
    return nn.Sequential(conv, nn.GroupNorm(32, width))


def mean_depth(
    heads: QueryHeads, depth_m: Tensor, trained_focal_px: Tensor, focal_ratio: Tensor
) -> Tensor:
    """
    Average three depth estimates: the query's regression, f h / h_px, and the depth map.

    :param heads: as regressed by the queries: depth is a logit.
    :param depth_m: (B, h, w) expected depth of the depth map, at the trained focal length.
    :param trained_focal_px: (B,) focal length at which depth is learnt, network pixels.
    :param focal_ratio: (B,) true focal length / trained focal length.
    :return: (B, L, Q, 2) depth in metres, log sigma.
    """
    box, predicted = heads.box.float().sigmoid(), heads.depth.float()
    height_px = (box_coding.box_width_height(box)[..., 1] * depth_m.shape[1] * STRIDE).clamp(min=1)
    from_height = heads.size_3d[..., 0].float() * trained_focal_px[:, None, None] / height_px
    # align_corners as in the public code: image edges map to the centres of the outermost cells
    from_map = nn.functional.grid_sample(
        depth_m[:, None], 2 * box[..., :2].detach() - 1, align_corners=True
    )[:, 0]
    mean_m = (depth_encoding.from_logit(predicted[..., 0]) + from_height + from_map) / 3
    focal_ratio = focal_ratio[:, None, None]
    return torch.stack([mean_m * focal_ratio, predicted[..., 1] + focal_ratio.log()], -1)
