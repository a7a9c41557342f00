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
def atlas(device: torch.device) -> tuple[Tensor, Tensor]:
    """Return all layers and levels, (layers * texels,), and where each level starts, (LEVELS,)."""
    rng = np.random.default_rng(20120616)
    layers = [
        _spectral(rng, 0.35, 3.0),
        _spectral(rng, 1.3, 1.0),
        np.tanh(1.6 * _spectral(rng, 0.9, 6.0)),
        np.tanh(1.2 * _spectral(rng, 0.6, 10.0)),
    ]
    texels = np.concatenate([level.ravel() for layer in layers for level in _halvings(layer)])
    sizes = (SIZE >> np.arange(LEVELS)) ** 2
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    return (
        torch.as_tensor(texels, dtype=torch.float32, device=device),
        torch.as_tensor(starts, device=device),
    )


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
    texels, starts = atlas(u.device)
    scale = SIZE / tile_m
    level = (footprint * scale).clamp(min=1.0).log2().add_(0.4).clamp_(max=LEVELS - 1).long()
    size = SIZE >> level
    per = scale / (1 << level)
    start = starts[level] + layer * (len(texels) // LAYERS)
    u, v = u * per, v * per
    left, top = u.floor(), v.floor()
    x, y = left.long() & (size - 1), start + (top.long() & (size - 1)) * size
    if not smooth:
        return texels[y + x]
    beside, below = (x + 1) & (size - 1), start + ((top.long() + 1) & (size - 1)) * size
    above = torch.lerp(texels[y + x], texels[y + beside], u - left)
    return torch.lerp(
        above, torch.lerp(texels[below + x], texels[below + beside], u - left), v - top
    )


def random_of(*keys: Tensor) -> Tensor:
    """Hash integers held in float tensors: (L,) numbers in [0, 1), the same on every device."""
    value = torch.zeros_like(keys[0], dtype=torch.int64)
    for key in keys:
        value = (value * 1103515245 + key.long() * 12345 + 40503) & 0x7FFFFFFF
        value = ((value >> 13) ^ value) * 48271 & 0x7FFFFFFF
    return (value & 0xFFFF).float() / 65536.0


def stripe(distance: Tensor, half_width: float | Tensor, footprint: Tensor) -> Tensor:
    """Return how much of each pixel a line covers: distances to its middle, both in metres."""
    return ((half_width - distance.abs()) / footprint.clamp(min=1e-3) + 0.5).clamp(0, 1)
