"""Lighting: weather, sky, diffuse and specular reflection, haze."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import threshold

from stl_core.data.synthetic.rendering.textures import CLOUD, sample_noise
from stl_core.types import Array

#: x, y, z, each (L,).
Vectors = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class Weather:
    """
    The light of one frame, linear RGB.

    :param sun: (3,) colour of direct sunlight; small under clouds.
    :param zenith: (3,) colour of the sky at the zenith.
    :param horizon: (3,) colour of the sky at the horizon, and of the haze.
    :param ground_bounce: (3,) light reflected up from the ground.
    :param cloud_cover: 0 clear to 1 overcast.
    :param visibility_m: distance at which the haze transmits 1 / e.
    """

    sun: Array
    zenith: Array
    horizon: Array
    ground_bounce: Array
    cloud_cover: float
    visibility_m: float


@dataclass(frozen=True)
class ShadingPoints:
    """
    Geometry and illumination of L surface points, rig frame.

    :param ray: unit vectors from the camera.
    :param normal: unit surface normals.
    :param sunlit: (L,) 1 in the sun, 0 in shadow.
    :param sky_visibility: (L,) fraction of the sky not hidden by nearby objects.
    """

    ray: Vectors
    normal: Vectors
    sunlit: Tensor
    sky_visibility: Tensor

    def __getitem__(self, rows: slice) -> ShadingPoints:
        """Return a slice of the points."""
        ray, normal = ((x[rows], y[rows], z[rows]) for x, y, z in (self.ray, self.normal))
        return ShadingPoints(ray, normal, self.sunlit[rows], self.sky_visibility[rows])


def weather_from_draws(draws: Array, sun: Array) -> Weather:
    """
    Compute the weather of a frame from random draws.

    :param draws: (8,) random numbers in [0, 1).
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
    visibility_m = float(np.exp(np.log(260) + draws[5] * np.log(2600 / 260)))
    return Weather(2.6 * direct * warm, zenith, horizon, bounce, clouds, visibility_m)


def as_column(values: Array, like: Tensor) -> Tensor:
    """Return (3,) values as a (3, 1) tensor with dtype and device of `like`."""
    return like.new_tensor(np.asarray(values, np.float64).tolist())[:, None]


def dot_direction(vectors: Vectors, direction: Array) -> Tensor:
    """Return the dot products of vectors, x y z (L,) each, with a direction (3,): (L,)."""
    x, y, z = np.asarray(direction, np.float64).tolist()
    return (vectors[0] * x).add_(vectors[1], alpha=y).add_(vectors[2], alpha=z)


def reflected_environment(elevation_sine: Tensor, weather: Weather) -> Tensor:
    """Return the sky and ground light that a mirror reflects: (L,) sine of elevation -> (3, L)."""
    up = (elevation_sine * 2.2).clamp_(0, 1)
    horizon, zenith = (
        as_column(weather.horizon, elevation_sine),
        as_column(weather.zenith, elevation_sine),
    )
    # houses and trees hide the horizon
    built = (elevation_sine / 0.16).add_(0.35).clamp_(0, 1)
    dark = as_column(0.35 * weather.ground_bounce + 0.02, elevation_sine)
    above = torch.addcmul(horizon, zenith - horizon, up).sub_(dark)
    return above.mul_(built).add_(dark)


def horizon_ridges(bearing: Tensor, seed: float) -> Tensor:
    """Return the skylines of far hills and nearer woods: (W,) bearings -> (2, W) elevations."""
    u = bearing * 60 + 400 * seed
    fine, v = torch.full_like(u, 0.02), torch.zeros_like(u)
    small = sample_noise(CLOUD, u, v, fine, 7.0).mul_(0.10).add_(1)
    outlines = (
        sample_noise(CLOUD, u, v, fine, tile).mul_(0.45).add_(small).mul_(height)
        for height, tile in ((0.045, 90.0), (0.022, 33.0))
    )
    return torch.stack(list(outlines))


def render_sky(
    directions: Vectors, hills: Sequence[Tensor], sun: Array, weather: Weather, seed: float
) -> Tensor:
    """
    Render the sky and, near the horizon, far hills and woods.

    :param directions: x, y, z of unit vectors, (L,) each, world frame (y down).
    :param hills: elevation of both skylines in these directions, (L,) each, see horizon_ridges.
    :param sun: (3,) unit vector to the sun, world frame.
    :param weather: the weather.
    :param seed: random number from 0 to 1 that selects the clouds.
    :return: (3, L) linear RGB.
    """
    x, y, z = directions
    rise, up = -y, (-y).clamp_(min=0)
    horizon, zenith = as_column(weather.horizon, y), as_column(weather.zenith, y)
    colour = torch.addcmul(zenith, horizon - zenith, (up * -5.0).exp_())
    far = (up + 0.09).reciprocal_()
    u, v, wide = x * far + 40 * seed, z * far + 13 * seed, far.mul_(0.02)
    puffs = sample_noise(CLOUD, u, v, wide, 2.1, smooth=True).mul_(0.45)
    puffs.add_(sample_noise(CLOUD, u, v, wide, 9.0, smooth=True))
    cover = (puffs + (2.3 * weather.cloud_cover - 0.9)).mul_(0.9).clamp_(0, 1)
    cover.mul_(up.mul_(9).clamp_(max=1))
    shade = 1 - puffs.sub_(0.4).clamp_(0, 1.5).mul_(0.25 * (0.3 + weather.cloud_cover))
    white = as_column(0.55 * weather.horizon + 0.35 + 0.1 * weather.sun, y)
    colour.addcmul_(white * shade - colour, 0.85 * cover)
    toward = dot_direction(directions, sun).clamp_(min=0)
    glow = (
        integer_power(toward, 12)
        .mul_(0.35)
        .add_(integer_power(toward.clamp_(min=0.7), 220), alpha=1.2)
    )
    colour.addcmul_(as_column(weather.sun, y), glow.mul_(1 - 0.8 * cover))
    for ridge, brightness in zip(hills, (0.62, 0.40), strict=True):
        hidden = (ridge - rise).mul_(900).clamp_(0, 1)
        tone = as_column(weather.horizon * brightness + np.array([0.0, 0.015, 0.01]), y)
        colour.addcmul_(tone - colour, hidden)
    return colour


def apply_diffuse(colour: Tensor, points: ShadingPoints, sun: Array, weather: Weather) -> None:
    """Multiply the colour of points, (3, L), by sunlight and ambient light, in place."""
    direct = (
        dot_direction(points.normal, sun)
        .clamp_(min=0)
        .mul_(points.sunlit)
        .mul_(0.75 * points.sky_visibility + 0.25)
    )
    up = points.normal[1].mul(-0.5).add_(0.5)
    above = weather.zenith * 0.55 + weather.horizon * 0.35
    for channel, a, b, straight in zip(
        colour, above, weather.ground_bounce, weather.sun, strict=True
    ):
        ambient = (up * float(a - b)).add_(1.35 * float(b)).mul_(points.sky_visibility)
        channel.mul_(ambient.add_(direct, alpha=float(straight)))


def apply_specular(
    colour: Tensor, gloss: Tensor, points: ShadingPoints, sun: Array, weather: Weather
) -> None:
    """Blend reflections of sun, sky and ground into the light of points, (3, L), in place."""
    reflectance = threshold(gloss, 0.005, 0.0)
    cosine = torch.zeros_like(reflectance)
    for a, b in zip(points.ray, points.normal, strict=True):
        cosine.addcmul_(a, b)
    # mirrored ray = ray - 2 * cosine * normal: its dot product with the sun, and its elevation
    toward, rise = dot_direction(points.ray, sun), -points.ray[1]
    toward.addcmul_(cosine, dot_direction(points.normal, sun), value=-2)
    rise.addcmul_(cosine, points.normal[1], value=2)
    glint = integer_power(toward.clamp_(min=0.65), 180).mul_(points.sunlit).mul_(9.0)
    slant = integer_power(cosine.add_(1).clamp_(0, 1), 5).mul_((reflectance * 18).clamp_(max=1))
    fresnel = torch.addcmul(reflectance, 1 - reflectance, slant)
    image = reflected_environment(rise, weather).addcmul_(as_column(weather.sun, glint), glint)
    image.mul_(0.6 * points.sky_visibility + 0.4)
    colour.addcmul_(image.sub_(colour, alpha=0.6), fresnel)


def apply_haze(colour: Tensor, distance: Tensor, weather: Weather) -> None:
    """Blend the light of points, (3, L), with the haze by distance, in place."""
    clear = (distance * (-1 / weather.visibility_m)).exp_()
    horizon = as_column(weather.horizon, clear)
    colour.sub_(horizon).mul_(clear).add_(horizon)


def integer_power(base: Tensor, exponent: int) -> Tensor:
    """
    Raise to an integer power by repeated squaring, several times faster than **.

    Clamp small bases first: denormal results are invisible but slow to compute.
    """
    squares = [base]
    while exponent >> len(squares):
        squares.append(squares[-1].square())
    used = [square for i, square in enumerate(squares) if exponent >> i & 1]
    return math.prod(used[1:], start=used[0].clone())
