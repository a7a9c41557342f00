"""Sun, sky and haze."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from stl_core.data.synthetic.textures import CLOUD, noise
from stl_core.types import Array


@dataclass(frozen=True)
class Weather:
    """
    The light of one frame, linear RGB.

    :param sun: (3,) colour of direct light; small under clouds.
    :param zenith: (3,) colour of the sky above.
    :param horizon: (3,) colour of the sky low down, and of the haze.
    :param bounce: (3,) light that comes up from the ground.
    :param clouds: 0 clear to 1 closed.
    :param sight_m: distance at which haze hides all but 1 / e.
    """

    sun: Array
    zenith: Array
    horizon: Array
    bounce: Array
    clouds: float
    sight_m: float


def weather(draws: Array, sun: Array) -> Weather:
    """
    Choose the light.

    :param draws: (8,) numbers in [0, 1).
    :param sun: (3,) unit vector to the sun, y down.
    """
    clouds = float(np.clip(1.8 * draws[0] - 0.75, 0.0, 1.0))
    height = float(-sun[1])
    direct = (1 - clouds) ** 1.2 * (0.85 + 0.3 * draws[1])
    warm = np.array([1.0, 0.93, 0.80]) * (1 - height) + np.array([1.0, 0.98, 0.94]) * height
    blue = np.array([0.16, 0.30, 0.62]) * (0.75 + 0.5 * draws[2])
    grey = np.array([0.52, 0.56, 0.62]) * (0.7 + 0.5 * draws[3])
    zenith = blue * (1 - clouds) + grey * clouds
    pale = np.array([0.62, 0.72, 0.86]) * (1 - clouds) + np.array([0.72, 0.75, 0.79]) * clouds
    horizon = pale * (0.85 + 0.25 * draws[4])
    bounce = 0.13 * (direct * height * np.array([1.0, 0.95, 0.85]) + 0.5 * zenith + 0.2)
    sight_m = float(np.exp(np.log(260) + draws[5] * np.log(2600 / 260)))
    return Weather(2.6 * direct * warm, zenith, horizon, bounce, clouds, sight_m)


def column(values: Array, like: Tensor) -> Tensor:
    """(3,) -> (3, 1) tensor beside like."""
    return like.new_tensor(np.asarray(values, np.float64).tolist())[:, None]


def mirrored(rise: Tensor, light: Weather) -> Tensor:
    """Return what a glossy surface mirrors of sky and ground: (L,) sine of elevation -> (3, L)."""
    up = (rise * 2.2).clamp(0, 1)
    sky = column(light.horizon, rise) * (1 - up) + column(light.zenith, rise) * up
    built = (rise / 0.16 + 0.35).clamp(0, 1)  # houses and trees stand before the horizon
    return sky * built + column(0.35 * light.bounce + 0.02, rise) * (1 - built)


def sky(directions: Tensor, sun: Tensor, light: Weather, seed: float) -> Tensor:
    """
    Paint the sky and, low down, far hills and woods.

    :param directions: (3, L) unit vectors, world directions (y down).
    :param sun: (3,) unit vector.
    :param light: the weather.
    :param seed: 0 to 1, which clouds and hills.
    :return: (3, L) linear RGB.
    """
    rise = -directions[1]
    up = rise.clamp(min=0)
    blend = 1 - (-up * 5.0).exp()
    colour = column(light.horizon, rise) * (1 - blend) + column(light.zenith, rise) * blend
    fine = torch.full_like(rise, 0.02)
    over = (up + 0.09).reciprocal()
    u, v = directions[0] * over + 40 * seed, directions[2] * over + 13 * seed
    puffs = noise(CLOUD, u, v, fine * over, 9.0, smooth=True)
    puffs = puffs + 0.45 * noise(CLOUD, u, v, fine * over, 2.1, smooth=True)
    cover = ((puffs + 2.3 * light.clouds - 0.9) * 0.9).clamp(0, 1) * (up * 9).clamp(0, 1)
    white = column(0.55 * light.horizon + 0.35 + 0.1 * light.sun, rise)
    shade = 1 - 0.25 * (puffs - 0.4).clamp(0, 1.5) * (0.3 + light.clouds)
    colour = colour + (white * shade - colour) * (0.85 * cover)
    toward = (directions * sun[:, None]).sum(0).clamp(min=0)
    glow = 0.35 * toward**12 + 1.2 * toward**220
    colour = colour + column(light.sun, rise) * glow * (1 - 0.8 * cover)
    bearing = torch.atan2(directions[0], directions[2]) * 60 + 400 * seed
    for height, tile, shade_share in ((0.045, 90.0, 0.62), (0.022, 33.0, 0.40)):
        ridge = noise(CLOUD, bearing, bearing * 0, fine, tile)
        ridge = height * (1 + 0.45 * ridge + 0.10 * noise(CLOUD, bearing, bearing * 0, fine, 7.0))
        hill = ((ridge - rise) * 900).clamp(0, 1)
        far = column(light.horizon * shade_share + np.array([0.0, 0.015, 0.01]), rise)
        colour = colour + (far - colour) * hill
    return colour
