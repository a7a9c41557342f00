"""
What a network is given: colours, or a teacher's depth, normalised on the canvas's own device.

Shapes: B batch, H W canvas.
"""

from __future__ import annotations

import torch
from torch import Tensor

from stl_core.preprocessing import DepthSpec, InputSpec
from stl_core.tensors.batch import Batch


def network_input(batch: Batch, spec: InputSpec) -> Tensor:
    """
    Take out of a batch what a network sees.

    :param batch: with depth, where the network sees that.
    :param spec: of the network.
    :return: (B, spec.channels, H, W) float32.
    :raises ValueError: when depth is wanted and the batch has none.
    """
    if spec.depth is None:
        return normalise_input(batch.image, batch.P, spec)
    if batch.depth_m is None:
        raise ValueError('this network sees depth, but the batch was loaded without')
    return normalise_input(batch.depth_m, batch.P, spec)


def normalise_input(canvas: Tensor, P: Tensor, spec: InputSpec) -> Tensor:
    """
    Normalise canvases.

    :param canvas: (B, H, W, 3) uint8 RGB, or (B, H, W) depth in metres, 0 where unknown.
    :param P: (B, 3, 4) projections of the canvases; depth is shown as another lens would have it.
    :param spec: the network's input.
    :return: (B, spec.channels, H, W) float32.
    """
    return (
        _normalise_colour(canvas, spec)
        if spec.depth is None
        else _normalise_depth(canvas, P, spec.depth)
    )


def _normalise_colour(image: Tensor, spec: InputSpec) -> Tensor:
    """Mean 0, deviation 1; channels_last in memory, since the pixels never move."""
    # the host does not wait for so small a copy
    mean, std = (torch.tensor(each) * 255.0 for each in (spec.mean, spec.std))
    shift, scale = (each.to(image.device, non_blocking=True) for each in (mean, std))
    return ((image.float() - shift) / scale).permute(0, 3, 1, 2)


def _normalise_depth(depth_m: Tensor, P: Tensor, spec: DepthSpec) -> Tensor:
    """Mean 0 and deviation 1 where known, 0 elsewhere; and 1 where known, 0 elsewhere."""
    known = (depth_m > 0).to(depth_m.dtype)
    if spec.virtual_focal_px:
        depth_m = depth_m * (spec.virtual_focal_px / P[:, 0, 0]).to(depth_m)[:, None, None]
    pair = torch.stack([(depth_m - spec.mean_m) / spec.std_m * known, known], -1)
    return pair.permute(0, 3, 1, 2)
