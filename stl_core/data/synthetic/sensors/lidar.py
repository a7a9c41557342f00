"""Spinning 64-beam LiDAR: ray hits with range noise, lost pulses and reflectance."""

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
    Parameters of a spinning LiDAR.

    :param position_m: (3,) camera frame: KITTI's is 8 cm above and 27 cm behind the camera.
    :param elevation_deg: elevations of the beams, from the top: KITTI's 64 in two blocks.
    :param columns: firings per revolution.
    :param range_noise_m: standard deviation of the range.
    :param max_range_m: greatest range with a return.
    """

    position_m: tuple[float, float, float] = (-0.004, -0.076, -0.272)
    elevation_deg: tuple[float, ...] = tuple(
        np.concatenate([np.linspace(2.0, -8.33, 32), np.linspace(-8.83, -24.33, 32)]).tolist()
    )
    columns: int = 2000
    range_noise_m: float = 0.015
    max_range_m: float = 100.0

    def rays(self) -> RayGrid:
        """Return the rays of one revolution, which starts and ends behind the car."""
        bearing = -np.pi + 2 * np.pi * (np.arange(self.columns) + 0.5) / self.columns
        columns = np.stack([np.sin(bearing), np.cos(bearing)], 1)
        rows = -np.tan(np.radians(self.elevation_deg))
        return RayGrid(np.array(self.position_m), columns, rows, is_panoramic=True)


@dataclass(frozen=True)
class LidarScan:
    """
    The point cloud of one revolution.

    :param points: (N, 4) float32 x forward, y left, z up, metres, and reflectance, as in KITTI.
    :param actor_id: (N,) number of the labelled object hit, -1 for scenery.
    :param true_range_m: (N,) range without noise.
    :param hits: first hits of all rays.
    """

    points: Array
    actor_id: Array
    true_range_m: Array
    hits: Hits


def simulate_lidar(
    lidar: Lidar, solids: Solids, num_actors: int, rng: np.random.Generator
) -> LidarScan:
    """
    Simulate one revolution of a LiDAR.

    :param lidar: the sensor.
    :param solids: the solids, camera frame.
    :param num_actors: number of labelled objects.
    :param rng: generator of noise and lost pulses.
    :return: the points of the pulses that return.
    """
    rays = lidar.rays()
    hits = cast_rays(rays, solids, num_actors)
    shape = hits.inverse_distance.shape
    noise, uniform = rng.standard_normal(shape, np.float32), rng.random(shape, np.float32)
    hit_index = np.flatnonzero(hits.solid >= 0)
    noise, uniform = noise.ravel().take(hit_index), uniform.ravel().take(hit_index)
    solid, face = hits.solid.ravel().take(hit_index), hits.face.ravel().take(hit_index)
    ray, range_m = _beam_vectors(rays, hits, hit_index)
    points = [
        range_m * component + start
        for component, start in zip(ray, rays.origin.tolist(), strict=True)
    ]
    cosine = _incidence_cosine(solids, solid, face, ray, points)
    # dark, slanted and distant surfaces return fewer pulses
    reflectivity = np.array(REFLECTANCE)[solids.material] * (0.7 + 0.6 * solids.colour.mean(1))
    reflectivity = reflectivity.take(solid)
    loss = np.exp(-1000 * reflectivity * (cosine + 0.015) / range_m)
    returns = np.array(RETURN_PROBABILITY)[solids.material].take(solid) * (1 - loss)
    kept = np.flatnonzero((uniform < returns) & (range_m < lidar.max_range_m))
    reflectance = np.clip(reflectivity * (0.35 + 0.65 * cosine) + 0.03 * uniform, 0, 0.99)
    noisy_range_m = range_m + lidar.range_noise_m * noise
    x, y, z = (component * noisy_range_m for component in ray)
    cloud = np.stack([each.take(kept) for each in (z, -x, -y, reflectance)], 1).astype(np.float32)
    cloud[:, 3] = np.round(cloud[:, 3], 2)
    return LidarScan(cloud, solids.actor_id.take(solid.take(kept)), range_m.take(kept), hits)


def _beam_vectors(rays: RayGrid, hits: Hits, hit_index: Array) -> tuple[list[Array], Array]:
    """Return unit vectors, x y z (N,) each, and ranges (N,) of beams at flat indices."""
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
    """Return the cosine between beams and surface normals at their hit points, (N,) 0 to 1."""
    flat, plane = solids.planes.reshape(-1, 4).T[:3], solid * MAX_PLANES + face
    cosine = -sum(
        normal.take(plane) * direction for normal, direction in zip(flat, ray, strict=True)
    )
    on_spheroid = np.flatnonzero((solids.spheroid[:, 3] > 0).take(solid))
    spheroid = solids.spheroid[solid.take(on_spheroid)]
    direction, point = (
        np.stack([each.take(on_spheroid) for each in axes], 1) for axes in (ray, points)
    )
    normal = (point - spheroid[:, :3]) / spheroid[:, [3, 4, 3]] ** 2
    cosine[on_spheroid] = -(normal * direction).sum(1) / np.linalg.norm(normal, axis=1)
    return np.clip(cosine, 0.0, 1.0)
