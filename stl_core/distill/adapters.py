"""
Training-only layers between student and teacher: review fusion, and adapters to the teacher.

Feature maps are ordered finest first. Shapes: B batch, C channels, h w grid.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ReviewFusion(nn.Module):
    """
    Attention-based fusion of a backbone's feature maps (Chen et al., ReviewKD, CVPR 2021).

    From coarse to fine, each map is mixed with the fusion of the coarser maps, so that the
    teacher's fine features also train the student's coarse stages.

    :param channels: channels of the maps, finest first; the outputs have the same.
    :param width: channels in which the maps are mixed.
    """

    def __init__(self, channels: tuple[int, ...], width: int) -> None:
        """Build one block per level, and attention for all levels except the coarsest."""
        super().__init__()
        self.inward = nn.ModuleList(_conv_bn(each, width, 1) for each in channels)
        self.outward = nn.ModuleList(_conv_bn(width, each, 3) for each in channels)
        self.attention = nn.ModuleList(nn.Conv2d(2 * width, 2, 1) for _ in channels[1:])

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Fuse (B, C_i, h_i, w_i) maps, finest first; returns maps of the same shapes."""
        coarser = self.inward[-1](maps[-1])
        fused = [self.outward[-1](coarser)]
        for level in range(len(maps) - 2, -1, -1):
            current = self.inward[level](maps[level])
            coarser = F.interpolate(coarser, current.shape[-2:], mode='nearest')
            attention = self.attention[level](torch.cat([current, coarser], 1)).sigmoid()
            coarser = current * attention[:, :1] + coarser * attention[:, 1:]
            fused.append(self.outward[level](coarser))
        return fused[::-1]


def build_adapter(in_channels: int, out_channels: int, width: int) -> nn.Sequential:
    """
    Build the adapter from a fused map to the teacher's channels: 3x3 conv, ReLU, 1x1 conv.

    :param in_channels: channels of the student's map.
    :param out_channels: channels of the teacher's map.
    :param width: upper limit of the channels between the convolutions: the last map of some
        mobile backbones has a thousand channels.
    """
    middle = min(in_channels, width)
    return nn.Sequential(
        nn.Conv2d(in_channels, middle, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(middle, out_channels, 1),
    )


def _conv_bn(in_channels: int, channels: int, size: int) -> nn.Sequential:
    """Build a convolution with BatchNorm that keeps the grid size."""
    conv = nn.Conv2d(in_channels, channels, size, padding=size // 2, bias=False)
    nn.init.kaiming_uniform_(conv.weight, a=1)
    return nn.Sequential(conv, nn.BatchNorm2d(channels))
