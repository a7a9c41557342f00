"""A spinning LiDAR with 64 beams: true hits of its rays, range noise, lost pulses, reflectance."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stl_core.data.synthetic.scene.materials import REFLECTANCE, RETURN_PROBABILITY
from stl_core.data.synthetic.scene.solids import MAX_PLANES, Solids
from stl_core.data.synthetic.sensors.ray_caster import Hits, RayGrid, cast_rays
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

    def rays(self) -> RayGrid:
        """Return the grid of a turn, which starts and ends behind the car."""
        bearing = -np.pi + 2 * np.pi * (np.arange(self.columns) + 0.5) / self.columns
        columns = np.stack([np.sin(bearing), np.cos(bearing)], 1)
        rows = -np.tan(np.radians(self.elevation_deg))
        return RayGrid(np.array(self.position_m), columns, rows, is_panoramic=True)


@dataclass(frozen=True)
class LidarScan:
    """
    One turn.

    :param points: (N, 4) float32 x forward, y left, z up, metres, and reflectance, as KITTI's.
    :param actor_id: (N,) labelled object hit, -1 for scenery.
    :param true_range_m: (N,) range without noise.
    :param hits: what the rays met.
    """

    points: Array
    actor_id: Array
    true_range_m: Array
    hits: Hits


def simulate_lidar(
    lidar: Lidar, solids: Solids, num_actors: int, rng: np.random.Generator
) -> LidarScan:
    """
    Make one turn.

    :param lidar: the sensor.
    :param solids: in the camera's frame.
    :param num_actors: number of labelled objects.
    :param rng: noise and lost pulses.
    :return: the points that come back.
    """
    rays = lidar.rays()
    hits = cast_rays(rays, solids, num_actors)
    shape = hits.inverse_distance.shape
    noise, luck = rng.standard_normal(shape, np.float32), rng.random(shape, np.float32)
    met = np.flatnonzero(hits.solid >= 0)
    noise, luck = noise.ravel().take(met), luck.ravel().take(met)
    solid, face = hits.solid.ravel().take(met), hits.face.ravel().take(met)
    ray, exact = _beam_vectors(rays, hits, met)
    at = [exact * way + start for way, start in zip(ray, rays.origin.tolist(), strict=True)]
    straight = _incidence_cosine(solids, solid, face, ray, at)
    # what is dark, seen at a slant or far away comes back less often
    back = np.array(REFLECTANCE)[solids.material] * (0.7 + 0.6 * solids.colour.mean(1))
    back = back.take(solid)
    weak = np.exp(-1000 * back * (straight + 0.015) / exact)
    returns = np.array(RETURN_PROBABILITY)[solids.material].take(solid) * (1 - weak)
    kept = np.flatnonzero((luck < returns) & (exact < lidar.max_range_m))
    reflectance = np.clip(back * (0.35 + 0.65 * straight) + 0.03 * luck, 0, 0.99)
    ranged = exact + lidar.range_noise_m * noise
    x, y, z = (way * ranged for way in ray)
    cloud = np.stack([each.take(kept) for each in (z, -x, -y, reflectance)], 1).astype(np.float32)
    cloud[:, 3] = np.round(cloud[:, 3], 2)
    return LidarScan(cloud, solids.actor_id.take(solid.take(kept)), exact.take(kept), hits)


def _beam_vectors(rays: RayGrid, hits: Hits, hit_index: Array) -> tuple[list[Array], Array]:
    """Return unit vectors, x y z (N,) each, and ranges (N,) of the beams at flat indices met."""
    row, column = np.divmod(hit_index, len(rays.columns))
    length = np.hypot(1.0, rays.rows)  # the columns are unit vectors
    flat, range_m = (
        (1 / length).take(row),
        length.take(row) / hits.inverse_distance.ravel().take(hit_index),
    )
    x, z = (rays.columns[:, k].take(column) * flat for k in (0, 1))
    return [x, (rays.rows / length).take(row), z], range_m


def _incidence_cosine(
    solids: Solids, solid: Array, face: Array, ray: list[Array], points: list[Array]
) -> Array:
    """Return the cosine between beams and the surfaces they meet at points, (N,) 0 to 1."""
    flat, plane = solids.planes.reshape(-1, 4).T[:3], solid * MAX_PLANES + face
    cosine = -sum(normal.take(plane) * way for normal, way in zip(flat, ray, strict=True))
    on_ball = np.flatnonzero((solids.spheroid[:, 3] > 0).take(solid))
    ball = solids.spheroid[solid.take(on_ball)]
    way, point = (np.stack([each.take(on_ball) for each in axes], 1) for axes in (ray, points))
    normal = (point - ball[:, :3]) / ball[:, [3, 4, 3]] ** 2
    cosine[on_ball] = -(normal * way).sum(1) / np.linalg.norm(normal, axis=1)
    return np.clip(cosine, 0.0, 1.0)
