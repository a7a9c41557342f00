"""
Shadows: an exact per-pixel sun shadow mask, and ambient occlusion around road users.

A shadow is long and thin and rarely fills its bounding rectangle of the image. The image is
therefore cut into tiles; the bounding box of a tile's points selects the solids that can shade it,
and only those pairs of a solid and a tile are tested point by point, in batches.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from stl_core.data.synthetic.scene.solids import Solids, rotation_about_y
from stl_core.data.synthetic.sensors.ray_caster import RayGrid, bounding_rects
from stl_core.types import Array

#: Shadows whose bounding rectangle has fewer pixels are left out.
MIN_SHADOW_PX = 24
#: Greatest length of a shadow, and greatest distance of the solids that cast one, metres.
MAX_SHADOW_M, MAX_CASTER_DISTANCE_M = 45.0, 80.0
#: Solids nearer than this along the ray to the sun cast no shadow: the surface itself, metres.
SELF_SHADOW_M = 0.05
#: Rows and columns of a tile, and pairs of a solid and a tile in one batch.
TILE_SHAPE, PAIRS_PER_BATCH = (8, 16), 512
#: Most entry planes, and most exit planes, of nearly all solids.
NUM_SIMPLE_PLANES = 3
#: Padding plane: every ray crosses it long before, or after, all others.
_NEVER_M = 1e9
#: Corners of the box round the foot of a road user of size 1, y down from the ground.
_AMBIENT_BOX = np.array(
    [[(i & 1) - 0.5, (0.12, -0.35)[i >> 2], (i >> 1 & 1) - 0.5] for i in range(8)]
)


def sunlit_mask(
    points: Tensor, hit_mask: Array, sun: Array, solids: Solids, rays: RayGrid
) -> Tensor:
    """
    Return which points of an image the sun reaches.

    :param points: (3, H, W) hit points, rig frame.
    :param hit_mask: (H, W) bool, whether the ray of a pixel hits a solid.
    :param sun: (3,) unit vector to the sun.
    :param solids: the solids, rig frame.
    :param rays: the camera's rays.
    :return: (H, W) 1 in the sun, 0 in shadow.
    """
    casters, rects = _shadow_casters(solids, sun, rays)
    enter, leave, spheroids, sun_direction, limits = (
        torch.from_numpy(x).to(points)
        for x in (*_sun_ray_crossings(casters, sun), casters.spheroid, sun, rects)
    )
    tiles = _to_tiles(points)
    down, across = tiles.shape[:2]
    tiles, boxes = tiles.flatten(0, 1), _tile_bounds(tiles, hit_mask).flatten(0, 1)
    solid, row, column = torch.from_numpy(_rect_tile_pairs(rects)).to(points.device)
    tile = row * across + column
    candidates = torch.nonzero(
        _may_shade(enter, leave, solid, boxes.index_select(0, tile))
    ).squeeze(1)
    solid, row, column, tile = (x.index_select(0, candidates) for x in (solid, row, column, tile))
    rows, columns = _inside_rects(limits.index_select(0, solid), row, column)
    shaded = points.new_zeros(len(tiles), *TILE_SHAPE)
    for kind, shade in _shade_functions(enter, leave, spheroids, sun_direction):
        members = torch.nonzero(kind.index_select(0, solid)).squeeze(1)
        for batch in members.split(PAIRS_PER_BATCH):
            tile_points = tiles.index_select(0, tile[batch])
            dark = shade(tile_points, solid[batch]).unflatten(1, TILE_SHAPE)
            dark = dark & rows[batch][:, :, None] & columns[batch][:, None]
            shaded.index_add_(0, tile[batch], dark.to(points.dtype))
    height, width = points.shape[1:]
    image = shaded.unflatten(0, (down, across)).transpose(1, 2).flatten(2).flatten(0, 1)
    return (image[:height, :width] == 0).to(points.dtype)


def _shadow_casters(solids: Solids, sun: Array, rays: RayGrid) -> tuple[Solids, Array]:
    """Return the C solids that cast visible shadows, and the shadows' rectangles, (C, 4)."""
    near = np.linalg.norm(solids.bounds.mean(1), axis=1) < MAX_CASTER_DISTANCE_M
    casters = solids[solids.casts_shadow & near]
    # a shadow ends where the ray from its top reaches the ground; long shadows of houses are cut
    floor = casters.bounds[..., 1].max(1, keepdims=True) + 1.0
    reach = np.minimum((floor - casters.bounds[..., 1]) / -sun[1], MAX_SHADOW_M)
    ends = casters.bounds - sun * reach[..., None]
    rects = bounding_rects(rays, np.concatenate([casters.bounds, ends], 1))
    area = (rects[:, 1] - rects[:, 0]) * (rects[:, 3] - rects[:, 2])
    use = area >= MIN_SHADOW_PX
    return casters[use], rects[use]


def _sun_ray_crossings(casters: Solids, sun: Array) -> tuple[Array, Array]:
    """
    Return where rays to the sun cross the planes of solids; spheroids by their bounding boxes.

    :return: entry planes and exit planes, (C, K, 4) each: the dot product with (x, y, z, 1) is the
        distance along the ray from a point to the plane, metres.
    """
    planes = casters.planes.copy()
    is_spheroid = casters.spheroid[:, 3] > 0
    if is_spheroid.any():
        center, reach = (
            casters.spheroid[is_spheroid, :3],
            casters.spheroid[is_spheroid][:, [3, 4, 3]],
        )
        faces = np.concatenate([np.eye(3), -np.eye(3)])
        offset = center @ faces.T + np.concatenate([reach, reach], 1)
        planes[is_spheroid, :6, :3], planes[is_spheroid, :6, 3] = faces, offset
    used = np.abs(planes[..., :3]).sum(-1) > 0
    slope = planes[..., :3] @ sun
    slope = np.where(np.abs(slope) < 1e-6, 1e-6, slope)
    table = planes / slope[..., None] * [-1.0, -1.0, -1.0, 1.0]
    tables = []
    for crossed, never in ((used & (slope < 0), -_NEVER_M), (used & (slope > 0), _NEVER_M)):
        first = np.argsort(~crossed, 1, kind='stable')[:, : crossed.sum(1).max(initial=1)]
        rows = np.where(crossed[..., None], table, [0.0, 0.0, 0.0, never])
        tables.append(np.take_along_axis(rows, first[..., None], 1).astype(np.float32))
    return tables[0], tables[1]


def _shade_functions(
    enter: Tensor, leave: Tensor, spheroids: Tensor, sun: Tensor
) -> list[tuple[Tensor, Callable[[Tensor, Tensor], Tensor]]]:
    """Return masks of spheroids, simple and other polytopes among C solids, and their tests."""
    is_spheroid = spheroids[:, 3] > 0
    few = (enter[:, NUM_SIMPLE_PLANES:, 3] == -_NEVER_M).all(1) & (
        leave[:, NUM_SIMPLE_PLANES:, 3] == _NEVER_M
    ).all(1)
    box = enter[:, :NUM_SIMPLE_PLANES], leave[:, :NUM_SIMPLE_PLANES]
    return [
        (
            is_spheroid,
            lambda points, solid: _spheroid_shade(points, spheroids.index_select(0, solid), sun),
        ),
        (few & ~is_spheroid, lambda points, solid: _polytope_shade(points, *box, solid)),
        (~few & ~is_spheroid, lambda points, solid: _polytope_shade(points, enter, leave, solid)),
    ]


def _to_tiles(points: Tensor) -> Tensor:
    """Cut (3, H, W) into tiles (rows, columns, 3, pixels); the last ones are padded with 0."""
    height, width = points.shape[1:]
    over = -height % TILE_SHAPE[0], -width % TILE_SHAPE[1]
    if any(over):
        points = pad(points, (0, over[1], 0, over[0]))
    parts = points.unflatten(2, (-1, TILE_SHAPE[1])).unflatten(1, (-1, TILE_SHAPE[0]))
    return parts.permute(1, 3, 0, 2, 4).flatten(3)


def _tile_bounds(tiles: Tensor, hit_mask: Array) -> Tensor:
    """
    Return the bounding boxes of the hit points of tiles.

    :param tiles: (rows, columns, 3, pixels) points.
    :param hit_mask: (H, W) bool, whether the ray of a pixel hits a solid.
    :return: (rows, columns, 7) centre, 1, half extent; negative half extent for empty tiles.
    """
    low, high = tiles.amin(3), tiles.amax(3)
    hit = _to_tiles(torch.from_numpy(hit_mask)[None])[:, :, 0]
    row, column = torch.nonzero(~hit.all(2)).T
    away = torch.where(hit[row, column], 0.0, 1e7)[:, None].to(tiles)
    row, column = row.to(tiles.device), column.to(tiles.device)
    part = tiles[row, column]
    low[row, column], high[row, column] = (part + away).amin(2), (part - away).amax(2)
    return torch.cat([(low + high) / 2, torch.ones_like(low[..., :1]), (high - low) / 2], 2)


def _rect_tile_pairs(rects: Array) -> Array:
    """Return the tiles that rectangles touch: (3, N) index of the rectangle, row and column."""
    size = np.array([TILE_SHAPE[0], TILE_SHAPE[0], TILE_SHAPE[1], TILE_SHAPE[1]])
    r0, r1, c0, c1 = ((rects + [0, TILE_SHAPE[0] - 1, 0, TILE_SHAPE[1] - 1]) // size).T
    count = (r1 - r0) * (c1 - c0)
    number = np.repeat(np.arange(len(rects)), count)
    within = np.arange(len(number)) - np.repeat(np.cumsum(count) - count, count)
    width = (c1 - c0)[number]
    return np.stack([number, r0[number] + within // width, c0[number] + within % width])


def _may_shade(enter: Tensor, leave: Tensor, solid: Tensor, boxes: Tensor) -> Tensor:
    """
    Return whether a solid can shade any point of a box, by interval arithmetic on its crossings.

    :param enter: (C, K, 4) entry crossings, see _sun_ray_crossings.
    :param leave: (C, K', 4) exit crossings.
    :param solid: (N,) index among the C solids.
    :param boxes: (N, 7), see _tile_bounds.
    :return: (N,) bool.
    """
    ranges = []
    for rows, sign in ((enter, -1.0), (leave, 1.0)):
        rows = torch.cat([rows, sign * rows[..., :3].abs()], 2)
        ranges.append(torch.bmm(rows.index_select(0, solid), boxes[..., None]).squeeze(2))
    return ranges[1].amin(1) > ranges[0].amax(1).clamp_(min=SELF_SHADOW_M)


def _inside_rects(rects: Tensor, row: Tensor, column: Tensor) -> tuple[Tensor, Tensor]:
    """Return the rows (N, TILE_SHAPE[0]) and columns of N tiles inside N rectangles, bool."""
    y, x = (
        number[:, None] * size + torch.arange(size, device=row.device)
        for number, size in zip((row, column), TILE_SHAPE, strict=True)
    )
    y0, y1, x0, x1 = rects.T[..., None]
    return (y >= y0) & (y < y1), (x >= x0) & (x < x1)


def _polytope_shade(points: Tensor, enter: Tensor, leave: Tensor, solid: Tensor) -> Tensor:
    """
    Return whether polytopes lie between points and the sun.

    :param points: (N, 3, P) points.
    :param enter: (C, K, 4) entry crossings, see _sun_ray_crossings.
    :param leave: (C, K', 4) exit crossings.
    :param solid: (N,) index among the C solids.
    :return: (N, P) bool.
    """
    first, last = enter.index_select(0, solid), leave.index_select(0, solid)
    entered = torch.baddbmm(first[..., 3:], first[..., :3], points).amax(1)
    left = torch.baddbmm(last[..., 3:], last[..., :3], points).amin(1)
    return left > entered.clamp_(min=SELF_SHADOW_M)


def _spheroid_shade(points: Tensor, spheroids: Tensor, sun: Tensor) -> Tensor:
    """Return whether spheroids (N, 5) lie between points (N, 3, P) and the sun: (N, P) bool."""
    radius = spheroids[:, [3, 4, 3]]
    q = (points - spheroids[:, :3, None]) / radius[:, :, None]
    direction = sun / radius
    a, b = (direction * direction).sum(1, keepdim=True), (q * direction[:, :, None]).sum(1)
    root = b * b - a * ((q * q).sum(1) - 1.0)
    return (root > 0) & (root.clamp(min=0).sqrt() - b > SELF_SHADOW_M)


def sky_visibility(points: Array, solids: Solids, rays: RayGrid) -> Array:
    """
    Return the fraction of the sky visible from points: ambient occlusion by road users.

    :param points: (3, H, W) hit points, rig frame.
    :param solids: the solids, rig frame.
    :param rays: the camera's rays.
    :return: (H, W) float32, 0 to 1; below 1 only near the ground next to and under road users.
    """
    visibility = np.ones(points.shape[1:], np.float32)
    _, first = np.unique(solids.actor_id, return_index=True)
    first = first[solids.actor_id[first] >= 0]
    size, bottom = solids.size[first], solids.bottom[first]
    margin = 0.22 * np.minimum(size[:, 0], 2.0)
    rotation = np.moveaxis(rotation_about_y(solids.yaw[first]), -1, 0)
    extent = size[:, None, [2, 0, 1]] + 2 * margin[:, None, None]
    extent[..., 1] = 1.0
    corners = _AMBIENT_BOX * extent
    rects = bounding_rects(rays, corners @ rotation.transpose(0, 2, 1) + bottom[:, None])
    for i in np.flatnonzero((rects[:, 0] < rects[:, 1]) & (rects[:, 2] < rects[:, 3])).tolist():
        y0, y1, x0, x1 = rects[i].tolist()
        part, (_, w, l) = (slice(y0, y1), slice(x0, x1)), size[i].tolist()
        x, y, z = (points[k][part] - bottom[i, k].item() for k in range(3))
        cos, sin = rotation[i, 0, 0].item(), rotation[i, 0, 2].item()
        along = np.abs(cos * x - sin * z) - l / 2
        out = np.maximum(along, np.abs(sin * x + cos * z) - w / 2)
        near = np.clip(1 - out / margin[i].item(), 0, 1)
        near *= np.clip((0.22 - np.abs(y)) * 10, 0, 1)
        visibility[part] *= 1 - near * (0.45 + 0.42 * np.clip(-4 * out, 0, 1))
    return visibility
