"""
Image backbones from timm, and the necks DLAUp and LightUp that fuse their maps to stride 4.

Maps come finest first, at strides 4, 8, 16 and 32. Shapes: B batch, C channels, h w grid.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from stl_core.models.backbone_weights import pretrained_weights, read_weights, require_fitting

STRIDES = (4, 8, 16, 32)


class Backbone(nn.Module):
    """
    A timm feature extractor that returns four maps, at strides 4, 8, 16 and 32.

    :param name: any timm model that has feature maps at these strides, such as 'dla34'.
    :param pretrained: load timm's ImageNet weights, from its cache or over the network.
    :param in_channels: channels of the input image, 3 for RGB.
    :raises ValueError: for a name unknown to timm, a model that lacks one of the strides, or
        ImageNet weights that are neither in a cache nor on a network that answers.
    """

    def __init__(self, name: str, pretrained: bool, in_channels: int) -> None:
        """Create the timm model and store the channels of its four maps."""
        super().__init__()
        if not timm.is_model(name):
            near = ', '.join(timm.list_models(f'*{name[:5]}*')[:8])
            raise ValueError(
                f'backbone {name!r}: not a timm model; similar names: {near or "none"}'
            )
        probe = timm.create_model(name, features_only=True)
        # .info lists all stages of the model, including those that are no default outputs
        reductions = [stage['reduction'] for stage in probe.feature_info.info]
        if not set(STRIDES) <= set(reductions):
            raise ValueError(f'backbone {name!r} has strides {reductions}, needs {STRIDES}')
        self.name, self.in_channels = name, in_channels
        self._out_indices = tuple(reductions.index(stride) for stride in STRIDES)
        self.body = self._build_body(pretrained_weights(name) if pretrained else None)
        self.channels: tuple[int, ...] = tuple(self.body.feature_info.channels())

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return the maps (B, C_i, H/s, W/s) at STRIDES of a normalised image (B, C, H, W)."""
        return tuple(self.body(image))

    def load_weights(self, path: Path) -> None:
        """
        Load ImageNet weights from a file; the first layer is adapted to the number of channels.

        :param path: .safetensors file, or file of torch.save, with a state dict of the timm model.
        :raises ValueError: for a file without these weights; the message names file and key.
        """
        state = read_weights(path)
        try:
            fitting = require_fitting(self.name, state)
        except ValueError as err:
            raise ValueError(f'{path}: {err}') from err
        self.body.load_state_dict(self._build_body(fitting).state_dict())

    def _build_body(self, weights: dict[str, Tensor] | None) -> Any:
        """Build timm's feature extractor, with random or the given weights of the whole model."""
        overlay = {} if weights is None else {'pretrained_cfg_overlay': {'state_dict': weights}}
        return timm.create_model(
            self.name,
            pretrained=weights is not None,
            features_only=True,
            out_indices=self._out_indices,
            in_chans=self.in_channels,
            **overlay,
        )

    def freeze_early_stages(self) -> None:
        """
        Freeze all BatchNorm parameters and every layer up to the stride-4 map, as DETR does.

        Leaves the module in evaluation mode.
        """
        parameters = list(self.parameters())
        self.eval()
        with torch.enable_grad():
            finest = self(torch.zeros(1, self.in_channels, 64, 64))[0]
            gradients = torch.autograd.grad(finest.sum(), parameters, allow_unused=True)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.requires_grad_(gradient is None)
        for module in self.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.requires_grad_(False)


class DlaUp(nn.Module):
    """
    The DLA-up neck: iterative deep aggregation (Yu et al., Deep Layer Aggregation, CVPR 2018).

    Stages run from the second coarsest level to the finest, stride 4. The stage of level j
    projects every coarser map to level j's width, upsamples it by 2 and merges it with its finer
    neighbour. Convolutions are plain, not deformable, as in MonoDLE.

    :param channels: widths of the maps, finest first; the output has channels[0].
    """

    def __init__(self, channels: tuple[int, ...]) -> None:
        """Build len(channels) - 1 stages."""
        super().__init__()
        widths = list(channels)
        self.out_channels = channels[0]
        self.stages = nn.ModuleList()
        for level in range(len(channels) - 2, -1, -1):
            width = widths[level]
            coarser = widths[level + 1 :]
            self.stages.append(nn.ModuleList(_Merge(each, width) for each in coarser))
            widths[level + 1 :] = [width] * len(coarser)

    def forward(self, maps: tuple[Tensor, ...]) -> Tensor:
        """Fuse maps (B, C_i, h/2^i, w/2^i), finest first, into one map (B, C_0, h, w)."""
        layers = list(maps)
        for stage in self.stages:
            merges = list(stage.children())
            for level, merge in enumerate(merges, len(layers) - len(merges)):
                layers[level] = merge(layers[level - 1], layers[level])
        return layers[-1]


class LightUp(nn.Module):
    """
    A light top-down neck (FPN style) for small backbones.

    Each level has a 1x1 lateral convolution; each merge is an upsampled sum, followed by one
    depthwise-separable 3x3 convolution.

    :param channels: widths of the maps, finest first.
    :param width: channels of every lateral and of the output.
    """

    def __init__(self, channels: tuple[int, ...], width: int = 64) -> None:
        """Build one lateral convolution per level and one smoothing block per merge."""
        super().__init__()
        self.out_channels = width
        self.laterals = nn.ModuleList(_conv_bn_relu(each, width, 1) for each in channels)
        self.smooth = nn.ModuleList(
            nn.Sequential(
                _conv_bn_relu(width, width, 3, groups=width), _conv_bn_relu(width, width, 1)
            )
            for _ in channels[1:]
        )

    def forward(self, maps: tuple[Tensor, ...]) -> Tensor:
        """Fuse maps (B, C_i, h/2^i, w/2^i), finest first, into one map (B, width, h, w)."""
        top = self.laterals[-1](maps[-1])
        for level in range(len(maps) - 2, -1, -1):
            up = nn.functional.interpolate(top, scale_factor=2.0, mode='nearest')
            top = self.smooth[level](up + self.laterals[level](maps[level]))
        return top


NECKS: dict[str, type[DlaUp] | type[LightUp]] = {'dlaup': DlaUp, 'light': LightUp}


def build_neck(name: str, channels: tuple[int, ...]) -> DlaUp | LightUp:
    """
    Build a neck.

    :param name: key of NECKS.
    :param channels: widths of the backbone's maps, finest first.
    :raises ValueError: for an unknown name; the message lists the known ones.
    """
    if name not in NECKS:
        raise ValueError(f'neck {name!r}: unknown; known: {", ".join(NECKS)}')
    return NECKS[name](channels)


class _Merge(nn.Module):
    """Project a coarse map, upsample it by 2 (initially bilinear), merge it with a finer map."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.project = _conv_bn_relu(in_channels, channels, 3)
        self.up = nn.ConvTranspose2d(channels, channels, 4, 2, 1, groups=channels, bias=False)
        self.node = _conv_bn_relu(2 * channels, channels, 3)
        ramp = torch.tensor([0.25, 0.75, 0.75, 0.25])
        with torch.no_grad():
            self.up.weight.copy_((ramp[:, None] * ramp).expand_as(self.up.weight))

    def forward(self, fine: Tensor, coarse: Tensor) -> Tensor:
        return self.node(torch.cat([fine, self.up(self.project(coarse))], 1))


def _conv_bn_relu(in_channels: int, channels: int, size: int, groups: int = 1) -> nn.Sequential:
    """Build convolution, BatchNorm and ReLU; the grid keeps its size."""
    conv = nn.Conv2d(in_channels, channels, size, padding=size // 2, groups=groups, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode='fan_out', nonlinearity='relu')
    return nn.Sequential(conv, nn.BatchNorm2d(channels), nn.ReLU(inplace=True))
