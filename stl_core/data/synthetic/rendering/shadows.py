"""
What keeps light off the points of a picture: exact shadows of the sun, and what stands close by.

A shadow is long and thin and seldom fills its rectangle of the picture. So the picture is cut into
tiles, the box round the points of a tile tells which solids can shade it at all, and only those
pairs of a solid and a tile are looked at point by point, many of them together.
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

#: Shadows of things smaller than this many pixels of the picture are left out.
MIN_SHADOW_PX = 24
#: How far a shadow is followed, and how far away the things that throw one may be, metres.
MAX_SHADOW_M, MAX_CASTER_DISTANCE_M = 45.0, 80.0
#: What is nearer than this along the way to the sun does not shade, metres: a surface itself.
SELF_SHADOW_M = 0.05
#: Rows and columns of a tile, and pairs of a solid and a tile that are looked at together.
TILE_SHAPE, PAIRS_PER_BATCH = (8, 16), 512
#: Most planes on either side, where rays come in or go out, of nearly all solids.
NUM_SIMPLE_PLANES = 3
#: In place of a plane: one that every ray crosses long before, or after, all others.
_NEVER_M = 1e9
#: Corners of the space round the foot of a road user of size 1, y down from where it stands.
_AMBIENT_BOX = np.array(
    [[(i & 1) - 0.5, (0.12, -0.35)[i >> 2], (i >> 1 & 1) - 0.5] for i in range(8)]
)


def sunlit_mask(
    points: Tensor, hit_mask: Array, sun: Array, solids: Solids, rays: RayGrid
) -> Tensor:
    """
    Find what the sun reaches.

    :param points: (3, H, W) points seen, rig frame.
    :param hit_mask: (H, W) bool, whether there is anything to be seen.
    :param sun: (3,) unit vector to the sun.
    :param solids: in the rig's frame.
    :param rays: the camera's.
    :return: (H, W) 1 in the sun, 0 in shadow.
    """
    casters, rects = _shadow_casters(solids, sun, rays)
    enter, leave, balls, way, limits = (
        torch.from_numpy(x).to(points)
        for x in (*_sun_ray_crossings(casters, sun), casters.spheroid, sun, rects)
    )
    tiles = _to_tiles(points)
    down, across = tiles.shape[:2]
    tiles, boxes = tiles.flatten(0, 1), _tile_bounds(tiles, hit_mask).flatten(0, 1)
    solid, row, column = torch.from_numpy(_rect_tile_pairs(rects)).to(points.device)
    tile = row * across + column
    near = torch.nonzero(_may_shade(enter, leave, solid, boxes.index_select(0, tile))).squeeze(1)
    solid, row, column, tile = (x.index_select(0, near) for x in (solid, row, column, tile))
    rows, columns = _inside_rects(limits.index_select(0, solid), row, column)
    shaded = points.new_zeros(len(tiles), *TILE_SHAPE)
    for kind, shade in _shade_functions(enter, leave, balls, way):
        own = torch.nonzero(kind.index_select(0, solid)).squeeze(1)
        for some in own.split(PAIRS_PER_BATCH):
            at = tiles.index_select(0, tile[some])
            dark = shade(at, solid[some]).unflatten(1, TILE_SHAPE)
            dark = dark & rows[some][:, :, None] & columns[some][:, None]
            shaded.index_add_(0, tile[some], dark.to(points.dtype))
    height, width = points.shape[1:]
    picture = shaded.unflatten(0, (down, across)).transpose(1, 2).flatten(2).flatten(0, 1)
    return (picture[:height, :width] == 0).to(points.dtype)


def _shadow_casters(solids: Solids, sun: Array, rays: RayGrid) -> tuple[Solids, Array]:
    """Return what throws shadows that can be seen, and rectangles round these, (C, 4)."""
    near = np.linalg.norm(solids.bounds.mean(1), axis=1) < MAX_CASTER_DISTANCE_M
    casters = solids[solids.casts_shadow & near]
    # a shadow ends where the ray from its top comes down; houses' long ones are cut
    floor = casters.bounds[..., 1].max(1, keepdims=True) + 1.0
    reach = np.minimum((floor - casters.bounds[..., 1]) / -sun[1], MAX_SHADOW_M)
    ends = casters.bounds - sun * reach[..., None]
    rects = bounding_rects(rays, np.concatenate([casters.bounds, ends], 1))
    area = (rects[:, 1] - rects[:, 0]) * (rects[:, 3] - rects[:, 2])
    use = area >= MIN_SHADOW_PX
    return casters[use], rects[use]


def _sun_ray_crossings(casters: Solids, sun: Array) -> tuple[Array, Array]:
    """
    Tell when rays to the sun enter and leave solids; spheroids by the boxes round them.

    :return: for the planes that rays come in through, and for the others, (C, K, 4) each: the dot
        product with (x, y, z, 1) is how far the ray of a point goes to the plane, metres.
    """
    planes = casters.planes.copy()
    balls = casters.spheroid[:, 3] > 0
    if balls.any():
        center, reach = casters.spheroid[balls, :3], casters.spheroid[balls][:, [3, 4, 3]]
        faces = np.concatenate([np.eye(3), -np.eye(3)])
        offset = center @ faces.T + np.concatenate([reach, reach], 1)
        planes[balls, :6, :3], planes[balls, :6, 3] = faces, offset
    used = np.abs(planes[..., :3]).sum(-1) > 0
    slope = planes[..., :3] @ sun
    slope = np.where(np.abs(slope) < 1e-6, 1e-6, slope)
    table = planes / slope[..., None] * [-1.0, -1.0, -1.0, 1.0]
    found = []
    for own, never in ((used & (slope < 0), -_NEVER_M), (used & (slope > 0), _NEVER_M)):
        first = np.argsort(~own, 1, kind='stable')[:, : own.sum(1).max(initial=1)]
        rows = np.where(own[..., None], table, [0.0, 0.0, 0.0, never])
        found.append(np.take_along_axis(rows, first[..., None], 1).astype(np.float32))
    return found[0], found[1]


def _shade_functions(
    enter: Tensor, leave: Tensor, spheroids: Tensor, sun: Tensor
) -> list[tuple[Tensor, Callable[[Tensor, Tensor], Tensor]]]:
    """Tell which of C solids are balls, boxes and other polytopes, and how each kind shades."""
    round_ = spheroids[:, 3] > 0
    few = (enter[:, NUM_SIMPLE_PLANES:, 3] == -_NEVER_M).all(1) & (
        leave[:, NUM_SIMPLE_PLANES:, 3] == _NEVER_M
    ).all(1)
    box = enter[:, :NUM_SIMPLE_PLANES], leave[:, :NUM_SIMPLE_PLANES]
    return [
        (round_, lambda at, solid: _spheroid_shade(at, spheroids.index_select(0, solid), sun)),
        (few & ~round_, lambda at, solid: _polytope_shade(at, *box, solid)),
        (~few & ~round_, lambda at, solid: _polytope_shade(at, enter, leave, solid)),
    ]


def _to_tiles(points: Tensor) -> Tensor:
    """(3, H, W) -> (rows, columns, 3, pixels) of tiles; the last ones filled up with 0."""
    height, width = points.shape[1:]
    over = -height % TILE_SHAPE[0], -width % TILE_SHAPE[1]
    if any(over):
        points = pad(points, (0, over[1], 0, over[0]))
    parts = points.unflatten(2, (-1, TILE_SHAPE[1])).unflatten(1, (-1, TILE_SHAPE[0]))
    return parts.permute(1, 3, 0, 2, 4).flatten(3)


def _tile_bounds(tiles: Tensor, hit_mask: Array) -> Tensor:
    """
    Find the boxes round what is seen in tiles.

    :param tiles: (rows, columns, 3, pixels) points.
    :param hit_mask: (H, W) bool, whether there is anything.
    :return: (rows, columns, 7) middle, 1, half extent; this less than 0 where there is nothing.
    """
    low, high = tiles.amin(3), tiles.amax(3)
    seen = _to_tiles(torch.from_numpy(hit_mask)[None])[:, :, 0]
    row, column = torch.nonzero(~seen.all(2)).T
    away = torch.where(seen[row, column], 0.0, 1e7)[:, None].to(tiles)
    row, column = row.to(tiles.device), column.to(tiles.device)
    part = tiles[row, column]
    low[row, column], high[row, column] = (part + away).amin(2), (part - away).amax(2)
    return torch.cat([(low + high) / 2, torch.ones_like(low[..., :1]), (high - low) / 2], 2)


def _rect_tile_pairs(rects: Array) -> Array:
    """List the tiles that rectangles touch: (3, N) number of the rectangle, row and column."""
    size = np.array([TILE_SHAPE[0], TILE_SHAPE[0], TILE_SHAPE[1], TILE_SHAPE[1]])
    r0, r1, c0, c1 = ((rects + [0, TILE_SHAPE[0] - 1, 0, TILE_SHAPE[1] - 1]) // size).T
    count = (r1 - r0) * (c1 - c0)
    number = np.repeat(np.arange(len(rects)), count)
    within = np.arange(len(number)) - np.repeat(np.cumsum(count) - count, count)
    width = (c1 - c0)[number]
    return np.stack([number, r0[number] + within // width, c0[number] + within % width])


def _may_shade(enter: Tensor, leave: Tensor, solid: Tensor, boxes: Tensor) -> Tensor:
    """
    Tell by the range of its crossings whether a solid can shade any point of a box.

    :param enter: (C, K, 4) crossings, see _crossings.
    :param leave: (C, K', 4) likewise.
    :param solid: (N,) which of the C.
    :param boxes: (N, 7), see _boxes.
    :return: (N,) bool.
    """
    ranges = []
    for rows, sign in ((enter, -1.0), (leave, 1.0)):
        rows = torch.cat([rows, sign * rows[..., :3].abs()], 2)
        ranges.append(torch.bmm(rows.index_select(0, solid), boxes[..., None]).squeeze(2))
    return ranges[1].amin(1) > ranges[0].amax(1).clamp_(min=SELF_SHADOW_M)


def _inside_rects(rects: Tensor, row: Tensor, column: Tensor) -> tuple[Tensor, Tensor]:
    """Tell which rows and columns of N tiles lie in N rectangles: (N, TILE[0]), (N, TILE[1])."""
    y, x = (
        number[:, None] * size + torch.arange(size, device=row.device)
        for number, size in zip((row, column), TILE_SHAPE, strict=True)
    )
    y0, y1, x0, x1 = rects.T[..., None]
    return (y >= y0) & (y < y1), (x >= x0) & (x < x1)


def _polytope_shade(points: Tensor, enter: Tensor, leave: Tensor, solid: Tensor) -> Tensor:
    """
    Tell whether polytopes stand between points and the sun.

    :param points: (N, 3, P) points.
    :param enter: (C, K, 4) crossings, see _crossings.
    :param leave: (C, K', 4) likewise.
    :param solid: (N,) which of the C.
    :return: (N, P) bool.
    """
    first, last = enter.index_select(0, solid), leave.index_select(0, solid)
    entered = torch.baddbmm(first[..., 3:], first[..., :3], points).amax(1)
    left = torch.baddbmm(last[..., 3:], last[..., :3], points).amin(1)
    return left > entered.clamp_(min=SELF_SHADOW_M)


def _spheroid_shade(points: Tensor, spheroids: Tensor, sun: Tensor) -> Tensor:
    """Tell whether spheroids (N, 5) stand between points (N, 3, P) and the sun: (N, P) bool."""
    radius = spheroids[:, [3, 4, 3]]
    q = (points - spheroids[:, :3, None]) / radius[:, :, None]
    way = sun / radius
    a, b = (way * way).sum(1, keepdim=True), (q * way[:, :, None]).sum(1)
    root = b * b - a * ((q * q).sum(1) - 1.0)
    return (root > 0) & (root.clamp(min=0).sqrt() - b > SELF_SHADOW_M)


def sky_visibility(points: Array, solids: Solids, rays: RayGrid) -> Array:
    """
    Find how much of the sky a point near the ground sees beside and under road users.

    :param points: (3, H, W) points seen, rig frame.
    :param solids: in the rig's frame.
    :param rays: the camera's.
    :return: (H, W) float32, 0 to 1.
    """
    found = np.ones(points.shape[1:], np.float32)
    _, first = np.unique(solids.actor_id, return_index=True)
    first = first[solids.actor_id[first] >= 0]
    size, bottom = solids.size[first], solids.bottom[first]
    margin = 0.22 * np.minimum(size[:, 0], 2.0)
    turn = np.moveaxis(rotation_about_y(solids.yaw[first]), -1, 0)
    spread = size[:, None, [2, 0, 1]] + 2 * margin[:, None, None]
    spread[..., 1] = 1.0
    around = _AMBIENT_BOX * spread
    rects = bounding_rects(rays, around @ turn.transpose(0, 2, 1) + bottom[:, None])
    for i in np.flatnonzero((rects[:, 0] < rects[:, 1]) & (rects[:, 2] < rects[:, 3])).tolist():
        y0, y1, x0, x1 = rects[i].tolist()
        part, (_, w, l) = (slice(y0, y1), slice(x0, x1)), size[i].tolist()
        x, y, z = (points[k][part] - bottom[i, k].item() for k in range(3))
        cos, sin = turn[i, 0, 0].item(), turn[i, 0, 2].item()
        along = np.abs(cos * x - sin * z) - l / 2
        out = np.maximum(along, np.abs(sin * x + cos * z) - w / 2)
        near = np.clip(1 - out / margin[i].item(), 0, 1)
        near *= np.clip((0.22 - np.abs(y)) * 10, 0, 1)
        found[part] *= 1 - near * (0.45 + 0.42 * np.clip(-4 * out, 0, 1))
    return found
