"""
Convolutional parts of the lift-splat detector: image neck, map trunk and map neck.

Plain convolutions, norms and nearest upsampling only, so that every runtime can run them.
Shapes: B images, S samples, C channels, h w grid.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from stl_core.models.backbone import STRIDES

#: Stride of the image features that are lifted.
FEATURE_STRIDE = 16


def conv_norm_relu(
    in_channels: int, channels: int, size: int, stride: int = 1, dilation: int = 1
) -> nn.Sequential:
    """Build convolution, BatchNorm and ReLU; with stride 1 the grid keeps its size."""
    padding = dilation * (size // 2) if size % 2 else 0
    conv = nn.Conv2d(in_channels, channels, size, stride, padding, dilation, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode='fan_out', nonlinearity='relu')
    return nn.Sequential(conv, nn.BatchNorm2d(channels), nn.ReLU(inplace=True))


class ResidualBlock(nn.Module):
    """
    Two 3x3 convolutions beside a shortcut (He et al., ResNet, CVPR 2016).

    :param in_channels: channels of the input.
    :param channels: channels of the output.
    :param stride: stride of the first convolution.
    """

    def __init__(self, in_channels: int, channels: int, stride: int = 1) -> None:
        """Build the layers; the shortcut has a 1x1 convolution where the shape changes."""
        super().__init__()
        self.first = conv_norm_relu(in_channels, channels, 3, stride)
        self.second = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or in_channels != channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Return a map (B, C, h / stride, w / stride)."""
        return torch.relu(self.second(self.first(x)) + self.shortcut(x))


class ImageNeck(nn.Module):
    """
    Bring a backbone's maps to stride 16 and stack them.

    :param channels: channels of the maps at STRIDES.
    :param width: channels of each map in the stack.
    """

    def __init__(self, channels: tuple[int, ...], width: int) -> None:
        """Build a convolution per map; finer maps are reduced by as large a kernel as stride."""
        super().__init__()
        self.out_channels = width * len(channels)
        factors = [max(FEATURE_STRIDE // stride, 1) for stride in STRIDES]
        self.laterals = nn.ModuleList(
            conv_norm_relu(each, width, factor, factor)
            for each, factor in zip(channels, factors, strict=True)
        )

    def forward(self, maps: tuple[Tensor, ...]) -> Tensor:
        """Stack maps (B, C_i, H/s, W/s) at STRIDES into one map (B, out_channels, H/16, W/16)."""
        parts = [lateral(each) for lateral, each in zip(self.laterals, maps, strict=True)]
        parts[-1] = nn.functional.interpolate(parts[-1], scale_factor=2.0, mode='nearest')
        return torch.cat(parts, 1)


class BevTrunk(nn.Module):
    """
    Residual stages at strides 2, 4 and 8 of the ground map, and their fusion at its resolution.

    :param in_channels: channels of the map.
    :param width: channels of the first stage; each stage doubles them.
    :param blocks: residual blocks in a stage.
    :param out_channels: channels of the fused map.
    """

    def __init__(self, in_channels: int, width: int, blocks: int, out_channels: int) -> None:
        """Build three stages and four laterals."""
        super().__init__()
        self.out_channels = out_channels
        widths = [in_channels, width, 2 * width, 4 * width]
        self.stages = nn.ModuleList(
            nn.Sequential(
                ResidualBlock(before, after, 2),
                *(ResidualBlock(after, after) for _ in range(blocks - 1)),
            )
            for before, after in pairwise(widths)
        )
        lateral = max(out_channels // 4, 1)
        self.laterals = nn.ModuleList(conv_norm_relu(each, lateral, 1) for each in widths)
        # smooths the steps of the nearest upsampling
        self.smooth = conv_norm_relu(lateral * 4, out_channels, 3)

    def forward(self, bev: Tensor) -> Tensor:
        """Return a map (S, out_channels, Y, X) of a map (S, in_channels, Y, X)."""
        maps = [bev]
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        parts = [
            nn.functional.interpolate(lateral(each), scale_factor=float(2**level), mode='nearest')
            if level
            else lateral(each)
            for level, (lateral, each) in enumerate(zip(self.laterals, maps, strict=True))
        ]
        fused: Tensor = self.smooth(torch.cat(parts, 1))
        return fused
