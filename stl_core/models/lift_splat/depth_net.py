"""
Camera-aware depth: a categorical distribution over depth bins, and the features to be lifted.

After BEVDepth (Li et al., AAAI 2023): the same picture means another depth behind another lens, so
a code of the camera scales the channels. Without its deformable convolution, whose place is taken
by plain ones.
Shapes: B images, D depth bins, C channels, H W canvas, h w grid of the image features.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stl_core.models.lift_splat.grid import DepthBins
from stl_core.models.lift_splat.layers import ResidualBlock, conv_norm_relu
from stl_core.tensors.precision import in_float32

#: Numbers of camera_code.
CODE = 8
#: Dilations of the parallel convolutions, which see a wide surrounding of a cell.
_DILATIONS = (1, 3, 6)
#: Height of a camera that is coded as 1, metres.
_HEIGHT_M = 2.0


def camera_code(P: Tensor, vehicle_T_cam: Tensor, size_px: tuple[int, int]) -> Tensor:
    """
    Return the numbers of a camera on which depth in its picture depends.

    Focal lengths and principal point relative to the canvas, the direction of the vehicle's z axis
    in the camera frame, and the height of the camera. Rotation, flip and scale of the ground map
    change none of them, nor does the direction in which the camera looks; of a mirrored picture
    they are those of the camera that would take it.

    :param P: (B, 3, 4) projections to network pixels.
    :param vehicle_T_cam: (B, 4, 4).
    :param size_px: height and width of the canvas.
    :return: (B, 8), of the order of 1.
    """
    height, width = size_px
    up = vehicle_T_cam[:, 2, :3]
    scale = torch.linalg.vector_norm(up, dim=1, keepdim=True)
    upright = torch.ones_like(P[:, 0, 0])
    mirror = torch.stack([P[:, 0, 0].sign(), upright, upright], 1)
    lens = [
        P[:, 0, 0].abs() / width,
        P[:, 1, 1] / height,
        (P[:, 0, 2] + 0.5) / width - 0.5,
        (P[:, 1, 2] + 0.5) / height - 0.5,
    ]
    above = vehicle_T_cam[:, 2, 3:] / (scale * _HEIGHT_M)
    return torch.cat([torch.stack(lens, 1), up * mirror / scale, above], 1)


class DepthNet(nn.Module):
    """
    Predict the depth distribution and the features of image cells.

    :param in_channels: channels of the image features.
    :param width: channels between the layers.
    :param bins: D.
    :param context: C, channels of the features that are lifted.
    :param blocks: residual blocks before the distribution.
    """

    def __init__(self, in_channels: int, width: int, bins: int, context: int, blocks: int) -> None:
        """Build the layers."""
        super().__init__()
        self.reduce = conv_norm_relu(in_channels, width, 3)
        self.depth_gate, self.context_gate = (_gate(width) for _ in range(2))
        self.blocks = nn.Sequential(*(ResidualBlock(width, width) for _ in range(blocks)))
        self.surroundings = nn.ModuleList(
            conv_norm_relu(width, max(width // 4, 1), 3, dilation=each) for each in _DILATIONS
        )
        wide = width + len(_DILATIONS) * max(width // 4, 1)
        self.mix = conv_norm_relu(wide, width, 1)
        self.bins = nn.Conv2d(width, bins, 1)
        self.context = nn.Conv2d(width, context, 1)

    def forward(self, features: Tensor, code: Tensor) -> tuple[Tensor, Tensor]:
        """
        Predict depth and features.

        :param features: (B, in_channels, h, w).
        :param code: (B, 8) from camera_code.
        :return: (B, D, h, w) logits, float32 also under autocast, and (B, C, h, w) features.
        """
        reduced = self.reduce(features)
        depth_gate, context_gate = (
            2 * gate(code).sigmoid()[..., None, None]
            for gate in (self.depth_gate, self.context_gate)
        )
        depth = self.blocks(reduced * depth_gate)
        around = [layer(depth) for layer in self.surroundings]
        depth = self.mix(torch.cat([depth, *around], 1))
        return in_float32(self.bins, depth), self.context(reduced * context_gate)


def _gate(width: int) -> nn.Sequential:
    """Build the layers from a camera's code to a factor per channel, which starts near 1."""
    last = nn.Linear(width, width)
    nn.init.normal_(last.weight, std=0.01)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Linear(CODE, width), nn.ReLU(inplace=True), last)


def nearest_in_cells(depth_m: Tensor, hw: tuple[int, int]) -> Tensor:
    """
    Return the least depth in each cell.

    A mean of an object's depth and that of its background would lie on neither; BEVDepth and our
    MonoDETR take the nearest, too.

    :param depth_m: (B, H, W) metres, 0 where unknown.
    :param hw: height and width of the grid, which divide H and W.
    :return: (B, h, w) metres, infinite in cells without any.
    """
    stride = (depth_m.shape[1] // hw[0], depth_m.shape[2] // hw[1])
    far_m = torch.where(depth_m > 0, depth_m, torch.inf)[:, None]
    return -nn.functional.max_pool2d(-far_m, stride, stride)[:, 0]


def insert_given_depth(probability: Tensor, given_m: Tensor, bins: DepthBins) -> Tensor:
    """
    Replace the distribution of cells in which a privileged teacher is given depth by a one-hot.

    DK3D's abstract gives the teacher true depth but not where it enters; in place of the predicted
    distribution is our choice. The bin's centre stands for its depth, so that given depth is
    wrong by at most half a bin.

    :param probability: (B, D, h, w) predicted.
    :param given_m: (B, H, W) metres, 0 where nothing is given.
    :param bins: the bins.
    :return: (B, D, h, w), unchanged in cells without given depth, or with one beyond the bins; no
        gradient reaches the predicted distribution of the others.
    """
    h, w = probability.shape[2:]
    index, given = bins.index(nearest_in_cells(given_m, (h, w)))
    one_hot = nn.functional.one_hot(index, bins.count).movedim(-1, 1).to(probability.dtype)
    return torch.where(given[:, None], one_hot, probability)
