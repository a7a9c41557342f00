"""
Normalise network inputs on the device: RGB images, or depth maps for a teacher.

Shapes: B batch, H W canvas.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stl_core.preprocessing import DepthSpec, InputSpec
from stl_core.tensors.batch import Batch, NetworkInput


def network_input(batch: Batch, spec: InputSpec) -> NetworkInput:
    """
    Return what a network sees of a batch.

    :param batch: with depth_m, if the network has depth input; with given_depth_m, if it is given
        depth.
    :param spec: input of the network.
    :return: normalised images, (B, spec.channels, H, W) float32, the projections, the given depth
        of a network that is given some, and the batch's rig.
    :raises ValueError: when the network has depth input or is given depth, and the batch has none.
    """
    given_m = batch.given_depth_m if spec.given_depth else None
    if spec.given_depth and given_m is None:
        raise ValueError('this network is given depth, but the batch was loaded without it')
    if spec.depth is None:
        image = normalise_input(batch.image, batch.P, spec)
        return NetworkInput(image, batch.P, given_m, batch.rig)
    if batch.depth_m is None:
        raise ValueError('this network has depth input, but the batch was loaded without depth')
    depth = normalise_input(batch.depth_m, batch.P, spec)
    return NetworkInput(depth, batch.P, given_m, batch.rig)


def normalise_input(canvas: Tensor, P: Tensor, spec: InputSpec) -> Tensor:
    """
    Normalise canvases.

    :param canvas: (B, H, W, 3) uint8 RGB, or (B, H, W) depth in metres, 0 where unknown.
    :param P: (B, 3, 4) projections of the canvases; depth is scaled by virtual_focal_px / P[:, 0,
        0].
    :param spec: the network's input.
    :return: (B, spec.channels, H, W) float32.
    """
    if spec.depth is not None:
        return _normalise_depth(canvas, P, spec.depth)
    # asynchronous copies: the host does not wait
    mean, std = (each.to(canvas.device, non_blocking=True) for each in _colour_constants(spec))
    return _normalise_colour(canvas, mean, std)


class InputNormalization(nn.Module):
    """normalise_input as the first layer of a network, its colour constants as buffers."""

    mean: Tensor
    std: Tensor

    def __init__(self, spec: InputSpec) -> None:
        """
        Register the constants, which no state dict contains.

        :param spec: the network's input.
        """
        super().__init__()
        self.depth = spec.depth
        for name, value in zip(('mean', 'std'), _colour_constants(spec), strict=True):
            self.register_buffer(name, value, persistent=False)

    def forward(self, canvas: Tensor, P: Tensor) -> Tensor:
        """Normalise canvases (B, H, W, 3), or (B, H, W) depth, as normalise_input does."""
        if self.depth is not None:
            return _normalise_depth(canvas, P, self.depth)
        return _normalise_colour(canvas, self.mean, self.std)


def _colour_constants(spec: InputSpec) -> tuple[Tensor, Tensor]:
    """Return the mean and standard deviation of uint8 RGB, (3,) float32 each, on the CPU."""
    return torch.tensor(spec.mean) * 255.0, torch.tensor(spec.std) * 255.0


def _normalise_colour(image: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Normalise RGB to mean 0, deviation 1; the result stays channels_last in memory."""
    return ((image.float() - mean) / std).permute(0, 3, 1, 2)


def _normalise_depth(depth_m: Tensor, P: Tensor, spec: DepthSpec) -> Tensor:
    """Return normalised depth, 0 where unknown, and the mask: 1 where known, 0 elsewhere."""
    known = (depth_m > 0).to(depth_m.dtype)
    if spec.virtual_focal_px:
        depth_m = depth_m * (spec.virtual_focal_px / P[:, 0, 0]).to(depth_m)[:, None, None]
    pair = torch.stack([(depth_m - spec.mean_m) / spec.std_m * known, known], -1)
    return pair.permute(0, 3, 1, 2)
