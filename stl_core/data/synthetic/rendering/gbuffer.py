"""
G-buffer of an image: position, ray, normal and solid of every pixel, sorted by material.

In this order each material is a slice, so shading a material needs no gather or scatter.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from stl_core.data.synthetic.rendering import surfaces
from stl_core.data.synthetic.rendering.lighting import Vectors
from stl_core.data.synthetic.scene.solids import MAX_PLANES, Solids
from stl_core.data.synthetic.sensors.ray_caster import Hits, RayGrid
from stl_core.types import Array

#: Key of pixels without a solid, in place of a material.
SKY = 255


@dataclass(frozen=True)
class GBuffer:
    """
    The N pixels of an image sorted by material; the first L of them show a solid.

    :param pixel_index: (N,) flat index into the image: by material, pixels without a solid last.
    :param inverse_index: (N,) position of each image pixel in that order.
    :param slices: material or SKY -> the slice of its pixels.
    :param hit_points: (3, H, W) float32 hit points, rig frame; far away for rays without a hit.
    :param position: the hit points in sorted order, (N,) each.
    :param ray: unit vectors from the camera, (N,) each.
    :param distance: (N,) distance from the camera, metres.
    :param solid: (L,) int32 number of the solid.
    :param face: (L,) int32 number of its plane.
    :param normal: unit vectors, rig frame, (L,) each.
    """

    pixel_index: Tensor
    inverse_index: Tensor
    slices: dict[int, slice]
    hit_points: Array
    position: Vectors
    ray: Vectors
    distance: Tensor
    solid: Tensor
    face: Tensor
    normal: Vectors


def build_gbuffer(rays: RayGrid, solids: Solids, hits: Hits, device: torch.device) -> GBuffer:
    """
    Build the G-buffer of the hits of a camera's rays.

    :param rays: the camera's rays.
    :param solids: the solids that were cast, rig frame.
    :param hits: first hits of the rays.
    :param device: device of the result.
    :return: the G-buffer.
    """
    order, slices = _sort_by_material(solids, hits)
    inverse = np.empty_like(order)
    inverse[order] = np.arange(len(order))
    points, pixel = _hit_points(rays, hits.inverse_distance), torch.from_numpy(order).to(device)
    position = gather_rows(torch.from_numpy(points).to(device).flatten(1), pixel)
    x, y, z = (each - float(start) for each, start in zip(position, rays.origin, strict=True))
    distance = (x * x).addcmul_(y, y).addcmul_(z, z).sqrt_()
    ray = x.div_(distance), y.div_(distance), z.div_(distance)
    solid_pixels = order[: slices[SKY].start]
    solid, face = (
        torch.from_numpy(x.take(solid_pixels).astype(np.int32)).to(device)
        for x in (hits.solid, hits.face)
    )
    flat = torch.from_numpy(solids.planes[..., :3].reshape(-1, 3).T.astype(np.float32))
    normal = gather_rows(flat.to(device), solid * MAX_PLANES + face)
    gbuffer = GBuffer(
        pixel,
        torch.from_numpy(inverse).to(device),
        slices,
        points,
        as_vectors(position),
        ray,
        distance,
        solid,
        face,
        as_vectors(normal),
    )
    _set_spheroid_normals(solids, gbuffer)
    return gbuffer


def gather_rows(rows: Iterable[Tensor], index: Tensor) -> list[Tensor]:
    """Return the elements at `index` of each row; many times faster than one 2D gather."""
    return [row.index_select(0, index) for row in rows]


def as_vectors(components: Sequence[Tensor]) -> Vectors:
    """Return three tensors as Vectors (x, y, z)."""
    x, y, z = components
    return x, y, z


def _sort_by_material(solids: Solids, hits: Hits) -> tuple[Array, dict[int, slice]]:
    """Return flat pixel indices sorted by material, (N,), and the slice of each material."""
    ranked = [*surfaces.MATERIAL_ORDER, SKY]
    rank = np.zeros(SKY + 1, np.uint8)
    rank[ranked] = np.arange(len(ranked))
    key = rank[np.append(solids.material, SKY)].take(hits.solid.ravel())
    ends = np.cumsum(np.bincount(key, minlength=len(ranked))).tolist()
    starts = [0, *ends[:-1]]
    slices = {m: slice(a, b) for m, a, b in zip(ranked, starts, ends, strict=True)}
    return np.argsort(key, kind='stable'), slices


def _hit_points(rays: RayGrid, inverse: Array) -> Array:
    """Return the hit points of rays, (3, H, W) rig frame; far away for rays without a hit."""
    x, z = rays.columns.T.astype(np.float32)
    stretch = 1 / np.maximum(inverse, np.float32(1e-4))
    points = np.empty((3, *rays.shape), np.float32)
    for row, direction, start in zip(points, (x, rays.rows[:, None], z), rays.origin, strict=True):
        np.multiply(stretch, direction.astype(np.float32), out=row)
        row += np.float32(start)
    return points


def _set_spheroid_normals(solids: Solids, gbuffer: GBuffer) -> None:
    """Overwrite the normals of pixels on spheroids with the spheroids' normals."""
    spheroids = torch.from_numpy(solids.spheroid.T.astype(np.float32)).to(gbuffer.solid.device)
    for material in np.unique(solids.material[solids.spheroid[:, 3] > 0]).tolist():
        rows = gbuffer.slices[material]
        *center, wide, tall = gather_rows(spheroids, gbuffer.solid[rows])
        flat = wide <= 0
        wide, tall = wide.square_().reciprocal_(), tall.square_().reciprocal_()
        x, y, z = (
            (position[rows] - middle).mul_(scale)
            for position, middle, scale in zip(
                gbuffer.position, center, (wide, tall, wide), strict=True
            )
        )
        scale = (x * x).addcmul_(y, y).addcmul_(z, z).rsqrt_()
        for normal, out in zip(gbuffer.normal, (x, y, z), strict=True):
            normal[rows] = torch.where(flat, normal[rows], out.mul_(scale))
