"""
Tileable noise, filtered by distance: what asphalt, leaves and walls get their grain from.

Each layer is a 512 x 512 tile with all its halvings, so that a pixel that covers a metre reads the
mean of that metre: nothing flickers and nothing gives distance away that a lens would not.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from stl_core.types import Array

SIZE = 512
LEVELS = 10
LAYERS = 4
GRAIN, CLOUD, LEAVES, BLADES = range(LAYERS)


@lru_cache(maxsize=4)
def atlas(device: torch.device) -> tuple[Tensor, ...]:
    """Return each layer with all its levels, that of side s from s * s on, row by row."""
    rng = np.random.default_rng(20120616)
    layers = [
        _spectral(rng, 0.35, 3.0),
        _spectral(rng, 1.3, 1.0),
        np.tanh(1.6 * _spectral(rng, 0.9, 6.0)),
        np.tanh(1.2 * _spectral(rng, 0.6, 10.0)),
    ]
    texels = np.zeros((LAYERS, 2 * SIZE * SIZE), np.float32)
    for row, layer in zip(texels, layers, strict=True):
        for level in _halvings(layer):
            row[level.size : 2 * level.size] = level.ravel()
    return tuple(torch.from_numpy(texels).to(device))


def _spectral(rng: np.random.Generator, power: float, lowest: float) -> Array:
    """Shape white noise: amplitude falls as frequency ** -power above lowest; std 1, mean 0."""
    frequency = np.fft.fftfreq(SIZE) * SIZE
    radius = np.hypot(frequency[:, None], frequency[None])
    gain = np.where(radius < lowest, 0.25, 1.0) * np.maximum(radius, 1.0) ** -power
    gain[0, 0] = 0.0
    noise = np.fft.ifft2(np.fft.fft2(rng.standard_normal((SIZE, SIZE))) * gain).real
    return noise / noise.std()


def _halvings(layer: Array) -> list[Array]:
    levels = [layer]
    while len(levels) < LEVELS:
        a = levels[-1]
        levels.append((a[::2, ::2] + a[1::2, ::2] + a[::2, 1::2] + a[1::2, 1::2]) / 4)
    return levels


def noise(
    layer: int, u: Tensor, v: Tensor, footprint: Tensor, tile_m: float, smooth: bool = False
) -> Tensor:
    """
    Read a layer.

    :param layer: GRAIN, CLOUD, LEAVES or BLADES.
    :param u: (L,) metres along the surface.
    :param v: (L,) metres across.
    :param footprint: (L,) metres that a pixel covers.
    :param tile_m: size of the tile on the surface.
    :param smooth: blend neighbouring texels, for large soft shapes seen closely.
    :return: (L,) mean 0, standard deviation about 1 near by, 0 far away.
    """
    texels = atlas(u.device)[layer]
    # floor(log2(texels a pixel) + 0.4), read off the exponents of the floats
    wide = (footprint * (SIZE / tile_m)).clamp_(min=1.0).mul_(2**0.4)
    level = (wide.view(torch.int32) >> 23).sub_(127).clamp_(max=LEVELS - 1)
    size = torch.bitwise_right_shift(SIZE, level)
    per_m = size.float().mul_(1 / tile_m)
    u, v = u * per_m, v * per_m
    left, top, last = u.floor(), v.floor(), size - 1
    x, y = left.int(), top.int()
    texel = ((y & last).add_(size)).mul_(size)
    if not smooth:
        return texels.index_select(0, texel.add_(x.bitwise_and_(last)))
    below = ((y + 1).bitwise_and_(last)).add_(size).mul_(size)
    beside = (x + 1).bitwise_and_(last)
    x.bitwise_and_(last)
    right, down = u.sub_(left), v.sub_(top)
    near = _blended(texels, texel + x, texel.add_(beside), right)
    return near.lerp_(_blended(texels, below + x, below.add_(beside), right), down)


def _blended(texels: Tensor, a: Tensor, b: Tensor, share: Tensor) -> Tensor:
    return texels.index_select(0, a).lerp_(texels.index_select(0, b), share)


def random_of(*keys: Tensor) -> Tensor:
    """Hash integers held in float tensors: (L,) numbers in [0, 1), the same on every device."""
    value = torch.zeros_like(keys[0], dtype=torch.int32)
    for key in keys:  # what overflows is masked away
        value.mul_(1103515245).add_(key.int(), alpha=12345).add_(40503).bitwise_and_(0x7FFFFFFF)
        value.bitwise_xor_(value >> 13).mul_(48271).bitwise_and_(0x7FFFFFFF)
    return value.bitwise_and_(0xFFFF).float().div_(65536.0)


def stripe(distance: Tensor, half_width: float | Tensor, sharp: Tensor) -> Tensor:
    """
    Return how much of each pixel a line covers.

    :param distance: (L,) to the middle of the line.
    :param half_width: of the line.
    :param sharp: (L,) pixels a unit of these, see sharpness.
    """
    outside = distance.abs().sub_(half_width)
    return torch.addcmul(_half(outside.device), outside, sharp, value=-1).clamp_(0, 1)


@lru_cache(maxsize=4)
def _half(device: torch.device) -> Tensor:
    return torch.tensor(0.5, device=device)


def sharpness(footprint: Tensor) -> Tensor:
    """Return pixels a metre, for stripe: (L,) metres that a pixel covers, at least 1 mm."""
    return footprint.clamp(min=1e-3).reciprocal_()


def over(values: Tensor, limit: float) -> Tensor:
    """Return 1 where values are greater than limit, else 0; quicker than bool on processors."""
    return (values - limit).sign_().clamp_(min=0)


def wrapped(values: Tensor, period: float) -> Tensor:
    """Return values % period, in a third of its time."""
    return values - (values * (1 / period)).floor_().mul_(period)
