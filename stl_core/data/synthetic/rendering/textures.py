"""
Procedural textures: tileable mip-mapped noise for asphalt, leaves and walls; hashes and stripes.

Each layer is a 512 x 512 tile with all mip levels, so a pixel that covers a metre reads the mean
of that metre: no flicker, and no cue for distance that a real lens would not give.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from stl_core.types import Array

TILE_SIZE = 512
NUM_LEVELS = 10
NUM_LAYERS = 4
GRAIN, CLOUD, LEAVES, BLADES = range(NUM_LAYERS)


@lru_cache(maxsize=4)
def noise_atlas(device: torch.device) -> tuple[Tensor, ...]:
    """Return each layer with all mip levels; the level of side s starts at s * s, row-major."""
    rng = np.random.default_rng(20120616)
    layers = [
        _spectral_noise(rng, 0.35, 3.0),
        _spectral_noise(rng, 1.3, 1.0),
        np.tanh(1.6 * _spectral_noise(rng, 0.9, 6.0)),
        np.tanh(1.2 * _spectral_noise(rng, 0.6, 10.0)),
    ]
    texels = np.zeros((NUM_LAYERS, 2 * TILE_SIZE * TILE_SIZE), np.float32)
    for row, layer in zip(texels, layers, strict=True):
        for level in _mip_levels(layer):
            row[level.size : 2 * level.size] = level.ravel()
    return tuple(torch.from_numpy(texels).to(device))


def _spectral_noise(rng: np.random.Generator, power: float, min_frequency: float) -> Array:
    """Return noise with amplitude frequency ** -power above min_frequency; std 1, mean 0."""
    frequency = np.fft.fftfreq(TILE_SIZE) * TILE_SIZE
    radius = np.hypot(frequency[:, None], frequency[None])
    gain = np.where(radius < min_frequency, 0.25, 1.0) * np.maximum(radius, 1.0) ** -power
    gain[0, 0] = 0.0
    noise = np.fft.ifft2(np.fft.fft2(rng.standard_normal((TILE_SIZE, TILE_SIZE))) * gain).real
    return noise / noise.std()


def _mip_levels(layer: Array) -> list[Array]:
    levels = [layer]
    while len(levels) < NUM_LEVELS:
        a = levels[-1]
        levels.append((a[::2, ::2] + a[1::2, ::2] + a[::2, 1::2] + a[1::2, 1::2]) / 4)
    return levels


def sample_noise(
    layer: int, u: Tensor, v: Tensor, footprint: Tensor, tile_m: float, smooth: bool = False
) -> Tensor:
    """
    Sample a noise layer at the mip level of the pixel footprint.

    :param layer: GRAIN, CLOUD, LEAVES or BLADES.
    :param u: (L,) metres along the surface.
    :param v: (L,) metres across the surface.
    :param footprint: (L,) metres that a pixel covers.
    :param tile_m: size of the tile on the surface, metres.
    :param smooth: interpolate between texels, for large soft shapes at short distance.
    :return: (L,) noise of mean 0; standard deviation about 1 at short distance, 0 far away.
    """
    texels = noise_atlas(u.device)[layer]
    # floor(log2(texels per pixel) + 0.4), from the exponent bits of the floats
    wide = (footprint * (TILE_SIZE / tile_m)).clamp_(min=1.0).mul_(2**0.4)
    level = (wide.view(torch.int32) >> 23).sub_(127).clamp_(max=NUM_LEVELS - 1)
    size = torch.bitwise_right_shift(TILE_SIZE, level)
    per_m = size.float().mul_(1 / tile_m)
    u, v = u * per_m, v * per_m
    left, top, last = u.floor(), v.floor(), size - 1
    x, y = left.int(), top.int()
    texel = ((y & last).add_(size)).mul_(size)
    if not smooth:
        return texels.index_select(0, texel.add_(x.bitwise_and_(last)))
    next_row = ((y + 1).bitwise_and_(last)).add_(size).mul_(size)
    next_column = (x + 1).bitwise_and_(last)
    x.bitwise_and_(last)
    right, down = u.sub_(left), v.sub_(top)
    near = _lerp_texels(texels, texel + x, texel.add_(next_column), right)
    return near.lerp_(_lerp_texels(texels, next_row + x, next_row.add_(next_column), right), down)


def _lerp_texels(texels: Tensor, a: Tensor, b: Tensor, weight: Tensor) -> Tensor:
    return texels.index_select(0, a).lerp_(texels.index_select(0, b), weight)


def hash_random(*keys: Tensor) -> Tensor:
    """Hash integers in float tensors to (L,) numbers in [0, 1), identical on every device."""
    value = torch.zeros_like(keys[0], dtype=torch.int32)
    for key in keys:  # the mask discards overflow
        value.mul_(1103515245).add_(key.int(), alpha=12345).add_(40503).bitwise_and_(0x7FFFFFFF)
        value.bitwise_xor_(value >> 13).mul_(48271).bitwise_and_(0x7FFFFFFF)
    return value.bitwise_and_(0xFFFF).float().div_(65536.0)


def stripe_coverage(distance: Tensor, half_width: float | Tensor, px_per_m: Tensor) -> Tensor:
    """
    Return the fraction of each pixel that a line covers.

    :param distance: (L,) signed distance to the middle of the line.
    :param half_width: half the width of the line, same unit.
    :param px_per_m: (L,) pixels per unit, see pixels_per_metre.
    :return: (L,) 0 to 1.
    """
    beyond_edge = distance.abs().sub_(half_width)
    return torch.addcmul(_half_tensor(beyond_edge.device), beyond_edge, px_per_m, value=-1).clamp_(
        0, 1
    )


@lru_cache(maxsize=4)
def _half_tensor(device: torch.device) -> Tensor:
    return torch.tensor(0.5, device=device)


def pixels_per_metre(footprint: Tensor) -> Tensor:
    """Return pixels per metre, (L,), from the metres that a pixel covers, at least 1 mm."""
    return footprint.clamp(min=1e-3).reciprocal_()


def step_above(values: Tensor, limit: float) -> Tensor:
    """Return 1 where values are greater than limit, else 0; faster than bool on CPUs."""
    return (values - limit).sign_().clamp_(min=0)


def fast_remainder(values: Tensor, period: float) -> Tensor:
    """Return values % period, three times as fast."""
    return values - (values * (1 / period)).floor_().mul_(period)
