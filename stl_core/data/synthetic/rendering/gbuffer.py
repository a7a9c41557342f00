"""
What a camera sees, pixel by pixel, in order of what the pixels show.

In that order each material is a slice: nothing has to be picked out or put back for it.
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

#: In place of a material for pixels without a solid.
SKY = 255


@dataclass(frozen=True)
class GBuffer:
    """
    N pixels of a picture, L of which show a solid.

    :param pixel_index: (N,) flat index into the picture: by material, those without a solid last.
    :param inverse_index: (N,) where each pixel of the picture is in that order.
    :param slices: which of them show a material, or SKY.
    :param hit_points: (3, H, W) float32 what rays meet, rig frame; far away where they meet
        nothing.
    :param position: these points, (N,) each.
    :param ray: unit vectors from the eye, (N,) each.
    :param distance: (N,) metres.
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
    Put what rays have met in order.

    :param rays: the camera's.
    :param solids: in the rig's frame, as cast.
    :param hits: what the rays meet.
    :param device: where the view is wanted.
    """
    order, slices = _sort_by_material(solids, hits)
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    points, pixel = _hit_points(rays, hits.inverse_distance), torch.from_numpy(order).to(device)
    at = gather_rows(torch.from_numpy(points).to(device).flatten(1), pixel)
    x, y, z = (each - float(start) for each, start in zip(at, rays.origin, strict=True))
    distance = (x * x).addcmul_(y, y).addcmul_(z, z).sqrt_()
    ray = x.div_(distance), y.div_(distance), z.div_(distance)
    shown = order[: slices[SKY].start]
    solid, face = (
        torch.from_numpy(x.take(shown).astype(np.int32)).to(device)
        for x in (hits.solid, hits.face)
    )
    flat = torch.from_numpy(solids.planes[..., :3].reshape(-1, 3).T.astype(np.float32))
    normal = gather_rows(flat.to(device), solid * MAX_PLANES + face)
    view = GBuffer(
        pixel,
        torch.from_numpy(place).to(device),
        slices,
        points,
        as_vectors(at),
        ray,
        distance,
        solid,
        face,
        as_vectors(normal),
    )
    _set_spheroid_normals(solids, view)
    return view


def gather_rows(rows: Iterable[Tensor], index: Tensor) -> list[Tensor]:
    """Return elements of rows: one row after the other, many times faster than of all at once."""
    return [row.index_select(0, index) for row in rows]


def as_vectors(components: Sequence[Tensor]) -> Vectors:
    """Take three tensors for x, y and z."""
    x, y, z = components
    return x, y, z


def _sort_by_material(solids: Solids, hits: Hits) -> tuple[Array, dict[int, slice]]:
    """Return flat indices of pixels in order of material, (N,), and the slice of each material."""
    ranked = [*surfaces.MATERIAL_ORDER, SKY]
    rank = np.zeros(SKY + 1, np.uint8)
    rank[ranked] = np.arange(len(ranked))
    key = rank[np.append(solids.material, SKY)].take(hits.solid.ravel())
    ends = np.cumsum(np.bincount(key, minlength=len(ranked))).tolist()
    starts = [0, *ends[:-1]]
    slices = {m: slice(a, b) for m, a, b in zip(ranked, starts, ends, strict=True)}
    return np.argsort(key, kind='stable'), slices


def _hit_points(rays: RayGrid, inverse: Array) -> Array:
    """Return the points that rays meet, (3, H, W) rig frame; far away where they meet nothing."""
    x, z = rays.columns.T.astype(np.float32)
    stretch = 1 / np.maximum(inverse, np.float32(1e-4))
    points = np.empty((3, *rays.shape), np.float32)
    for row, way, start in zip(points, (x, rays.rows[:, None], z), rays.origin, strict=True):
        np.multiply(stretch, way.astype(np.float32), out=row)
        row += np.float32(start)
    return points


def _set_spheroid_normals(solids: Solids, gbuffer: GBuffer) -> None:
    """Give spheroids the normals they have."""
    balls = torch.from_numpy(solids.spheroid.T.astype(np.float32)).to(gbuffer.solid.device)
    for material in np.unique(solids.material[solids.spheroid[:, 3] > 0]).tolist():
        rows = gbuffer.slices[material]
        *center, wide, tall = gather_rows(balls, gbuffer.solid[rows])
        flat = wide <= 0
        wide, tall = wide.square_().reciprocal_(), tall.square_().reciprocal_()
        x, y, z = (
            (at[rows] - middle).mul_(scale)
            for at, middle, scale in zip(gbuffer.position, center, (wide, tall, wide), strict=True)
        )
        scale = (x * x).addcmul_(y, y).addcmul_(z, z).rsqrt_()
        for normal, out in zip(gbuffer.normal, (x, y, z), strict=True):
            normal[rows] = torch.where(flat, normal[rows], out.mul_(scale))
