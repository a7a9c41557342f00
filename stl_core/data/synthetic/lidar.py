"""A spinning LiDAR with 64 beams: true hits of its rays, range noise, lost pulses, reflectance."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from stl_core.data.synthetic.caster import Hits, Rays, cast
from stl_core.data.synthetic.materials import REFLECTANCE, RETURNS
from stl_core.data.synthetic.shapes import Solids
from stl_core.types import Array


@dataclass(frozen=True)
class Lidar:
    """
    The sensor.

    :param position_m: (3,) in the camera's frame: KITTI's stands 8 cm above and 27 cm behind.
    :param elevation_deg: of the beams, from the top: KITTI's 64 in two blocks.
    :param columns: firings a turn.
    :param range_noise_m: standard deviation.
    :param max_range_m: no return from farther.
    """

    position_m: tuple[float, float, float] = (-0.004, -0.076, -0.272)
    elevation_deg: tuple[float, ...] = tuple(
        np.concatenate([np.linspace(2.0, -8.33, 32), np.linspace(-8.83, -24.33, 32)]).tolist()
    )
    columns: int = 2000
    range_noise_m: float = 0.015
    max_range_m: float = 100.0

    def rays(self) -> Rays:
        """Return the grid of a turn, which starts and ends behind the car."""
        bearing = -np.pi + 2 * np.pi * (np.arange(self.columns) + 0.5) / self.columns
        columns = np.stack([np.sin(bearing), np.cos(bearing)], 1)
        rows = -np.tan(np.radians(self.elevation_deg))
        return Rays(np.array(self.position_m), columns, rows, round_about=True)


@dataclass(frozen=True)
class Scan:
    """
    One turn.

    :param points: (N, 4) float32 x forward, y left, z up, metres, and reflectance, as KITTI's.
    :param owner: (N,) labelled object hit, -1 for scenery.
    :param exact_m: (N,) range without noise.
    :param hits: what the rays met.
    """

    points: Array
    owner: Array
    exact_m: Array
    hits: Hits


def scan(
    lidar: Lidar, solids: Solids, owners: int, rng: np.random.Generator, device: torch.device
) -> Scan:
    """
    Make one turn.

    :param lidar: the sensor.
    :param solids: in the camera's frame.
    :param owners: number of labelled objects.
    :param rng: noise and lost pulses.
    :param device: where rays are cast.
    :return: the points that come back.
    """
    rays = lidar.rays()
    hits = cast(rays, solids, owners, device)
    inverse, solid = hits.inverse.cpu().numpy(), hits.solid.cpu().numpy()
    face = hits.face.cpu().numpy()
    shape = inverse.shape
    noise, luck = rng.standard_normal(shape, np.float32), rng.random(shape, np.float32)
    row, column = np.nonzero(solid >= 0)
    solid, face = solid[row, column], face[row, column]
    ray = np.stack([rays.columns[column, 0], rays.rows[row], rays.columns[column, 1]], 1)
    length = np.linalg.norm(ray, axis=1)
    ray /= length[:, None]
    exact = length / inverse[row, column]
    normal = _normals(solids, solid, face, exact[:, None] * ray + rays.origin)
    straight = np.clip(-(normal * ray).sum(1), 0.0, 1.0)
    material = solids.material[solid]
    back = np.array(REFLECTANCE)[material] * (0.7 + 0.6 * solids.colour[solid].mean(1))
    # what is dark, seen at a slant or far away comes back less often
    weak = np.exp(-1000 * back * (straight + 0.015) / exact)
    kept = luck[row, column] < np.array(RETURNS)[material] * (1 - weak)
    kept &= exact < lidar.max_range_m
    ranged = exact + lidar.range_noise_m * noise[row, column]
    reflectance = np.clip(back * (0.35 + 0.65 * straight) + 0.03 * luck[row, column], 0, 0.99)
    at = ray * ranged[:, None]
    cloud = np.stack([at[:, 2], -at[:, 0], -at[:, 1], reflectance], 1).astype(np.float32)
    cloud[:, 3] = np.round(cloud[:, 3], 2)
    return Scan(cloud[kept], solids.owner[solid][kept], exact[kept], hits)


def _normals(solids: Solids, solid: Array, face: Array, at: Array) -> Array:
    """Return the surface's normals at points (N, 3) of numbered solids and planes."""
    ball = solids.spheroid[solid]
    out = (at - ball[:, :3]) / np.maximum(ball[:, [3, 4, 3]], 1e-3) ** 2
    out /= np.linalg.norm(out, axis=1, keepdims=True) + 1e-12
    return np.where(ball[:, 3:4] > 0, out, solids.planes[solid, face, :3])
