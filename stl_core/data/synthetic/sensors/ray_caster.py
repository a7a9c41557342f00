"""
Ray caster for camera and LiDAR: first hits of a grid of rays with polytopes and spheroids.

A sensor's rays form a grid, ray(i, j) = column j (x and z) + row i (y), for a camera as for a
spinning LiDAR. The inverse distance w at which such a ray meets a plane is affine in the ray,
w = n.ray / (d - n.origin), so a ray enters a convex polytope at the least w of the planes that
face the sensor, if that is not below the greatest w of the others: a few additions and minima on
the solid's bounding rectangle of the grid, and no division. Rectangles are many and mostly small,
so the overhead of a call dominates: this module uses NumPy, whatever device the shading uses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stl_core.data.synthetic.scene.solids import MAX_PLANES, Solids
from stl_core.types import Array

NEAR_M = 0.2
#: Trimming the rows of a rectangle pays off from this many pixels.
LARGE_PX = 2000
#: Rectangle of a grid: first row, row after the last, first column, column after the last.
Rect = tuple[int, int, int, int]


@dataclass(frozen=True)
class RayGrid:
    """
    A grid of H x W rays in the rig's frame (x right, y down, z forward).

    :param origin: (3,) origin of all rays.
    :param columns: (W, 2) x and z of each column.
    :param rows: (H,) y of each row, ascending.
    :param heading: rotation about y of the middle column, the optical axis of a camera; radians.
    :param is_panoramic: whether the columns cover 360 degrees at equal steps, as a LiDAR's do.
    """

    origin: Array
    columns: Array
    rows: Array
    heading: float = 0.0
    is_panoramic: bool = False

    @property
    def shape(self) -> tuple[int, int]:
        """H and W."""
        return len(self.rows), len(self.columns)


@dataclass(frozen=True)
class Hits:
    """
    First hits of the rays of a grid.

    :param inverse_distance: (H, W) float32, 1 / the factor that scales the ray to the hit; 0 for
        no hit.
    :param solid: (H, W) int32 index of the solid, -1 for none.
    :param face: (H, W) int8 index of its plane.
    :param num_unoccluded: (num_actors,) rays that would hit an object if it were alone.
    :param extent_px: (num_actors, 4) first column, first row, last column, last row of those rays.
    :param num_visible: (num_actors,) rays that hit the object first.
    """

    inverse_distance: Array
    solid: Array
    face: Array
    num_unoccluded: Array
    extent_px: Array
    num_visible: Array


#: Hits so far: inverse distance, and the code of the solid and its plane, -1 for none.
Layers = tuple[Array, Array]
#: A code holds the solid's index and, in the lowest bits, its plane among those facing the sensor.
PLANE_BITS = 4
#: Hits of one solid, (h, w) each: inverse distances to the planes that face the sensor, inverse
#: distance to the solid, and whether the ray hits the solid before all earlier hits.
PrimitiveHits = tuple[Sequence[Array] | Array, Array, Array]


def cast_rays(rays: RayGrid, solids: Solids, num_actors: int) -> Hits:
    """
    Find the first hit of every ray.

    :param rays: the grid.
    :param solids: S solids, rig frame.
    :param num_actors: number of labelled objects.
    :return: the hits.
    """
    layers = _empty_layers(rays.shape)
    painter = _Painter(rays, solids)
    num_unoccluded, extent_px = np.zeros(num_actors, np.int64), np.zeros((num_actors, 4), np.int64)
    for actor in range(-1, num_actors):
        numbers = np.flatnonzero((solids.actor_id == actor) & painter.can_be_hit)
        if not len(numbers):
            continue
        if actor < 0:
            painter.paint(numbers, layers, (0, 0))
            continue
        y0, y1, x0, x1 = painter.enclosing_rect(numbers)
        actor_layers = _empty_layers((y1 - y0, x1 - x0))
        painter.paint(numbers, actor_layers, (y0, x0))
        num_unoccluded[actor], extent_px[actor] = _count_and_extent(actor_layers[0], y0, x0)
        first = actor_layers[0] > layers[0][y0:y1, x0:x1]
        for layer, piece in zip(layers, actor_layers, strict=True):
            np.copyto(layer[y0:y1, x0:x1], piece, where=first)
    inverse, code = layers
    solid, plane = code >> PLANE_BITS, code & ((1 << PLANE_BITS) - 1)
    face = painter.plane_order.ravel()[solid * MAX_PLANES + plane]
    hits_per_solid = np.bincount(solid.ravel() + 1, minlength=len(solids) + 1)[1:]
    num_visible = np.zeros(num_actors + 1, np.int64)
    np.add.at(num_visible, solids.actor_id, hits_per_solid)  # the last row counts the scenery
    return Hits(inverse, solid, face, num_unoccluded, extent_px, num_visible[:-1])


def _empty_layers(shape: tuple[int, int]) -> Layers:
    """Return layers without hits."""
    return np.zeros(shape, np.float32), np.full(shape, -1, np.int32)


class _Painter:
    """The solids prepared for one grid of rays, to be painted into layers one by one."""

    def __init__(self, rays: RayGrid, solids: Solids) -> None:
        """Sort each solid's planes, those facing the sensor first; compute its rectangle."""
        self.columns = np.ascontiguousarray(rays.columns.T, np.float32)
        self.rows = rays.rows.astype(np.float32)
        self.squared_components = (self.columns**2).sum(0), self.rows**2
        normals, offsets = solids.planes[..., :3], solids.planes[..., 3]
        distance = offsets - normals @ rays.origin
        used = np.abs(normals).sum(-1) > 0
        rank = np.where(used, np.where(distance < 0, 0, 1), 2)
        self.plane_order = np.argsort(rank, 1, kind='stable').astype(np.int8)
        self.num_front_planes, self.num_planes = (rank == 0).sum(1), used.sum(1)
        distance = np.where(np.abs(distance) < 1e-9, 1e-9, distance)
        slope = np.take_along_axis(normals / distance[..., None], self.plane_order[..., None], 1)
        self.across = slope[..., [0, 2]].astype(np.float32)
        self.down = slope[..., 1:2].astype(np.float32)
        spheroids = solids.spheroid.copy()
        spheroids[:, :3] -= rays.origin
        self.spheroids = spheroids.tolist()
        rects = bounding_rects(rays, solids.bounds)
        if not rays.is_panoramic:
            large = _rect_area(rects) >= LARGE_PX
            rects[large] = _trim_rows(
                rects[large],
                rays,
                slope[large],
                self.num_front_planes[large],
                self.num_planes[large],
            )
        self.can_be_hit = (_rect_area(rects) > 0) & (
            (self.num_front_planes > 0) | (spheroids[:, 3] > 0)
        )
        self.rects = rects.tolist()

    def wrapped_rects(self, number: int) -> list[Rect]:
        """Return the rectangle of a solid, split in two if it crosses the seam of a panorama."""
        y0, y1, x0, x1 = self.rects[number]
        width = self.columns.shape[1]
        rects = [(y0, y1, max(x0, 0), min(x1, width))]
        if x0 < 0:
            rects.append((y0, y1, max(x0 + width, 0), width))
        if x1 > width:
            rects.append((y0, y1, 0, min(x1 - width, width)))
        return rects

    def enclosing_rect(self, numbers: Array) -> Rect:
        """Return the bounding rectangle of several solids."""
        y0, y1, x0, x1 = zip(
            *(piece for k in numbers for piece in self.wrapped_rects(k)), strict=True
        )
        return min(y0), max(y1), min(x0), max(x1)

    @np.errstate(invalid='ignore')
    def paint(self, numbers: Array, layers: Layers, corner: tuple[int, int]) -> None:
        """Write the hits of solids into layers that start at corner (row, column) of the grid."""
        i, j = corner
        for number in numbers.tolist():
            intersect = self._hit_polytope if self.num_front_planes[number] else self._hit_spheroid
            for y0, y1, x0, x1 in self.wrapped_rects(number):
                part = slice(y0 - i, y1 - i), slice(x0 - j, x1 - j)
                inverse, code = layers[0][part], layers[1][part]
                facing, near, hit = intersect(number, slice(y0, y1), slice(x0, x1), inverse)
                if not hit.any():
                    continue
                np.copyto(inverse, near, where=hit)
                np.copyto(code, number << PLANE_BITS, where=hit)
                for k in range(1, len(facing)):
                    np.copyto(code, number << PLANE_BITS | k, where=hit & (facing[k] == near))

    def _hit_polytope(
        self, number: int, rows: slice, columns: slice, nearest: Array
    ) -> PrimitiveHits:
        """Intersect rays with a polytope: the entry is at the last plane facing the sensor."""
        front, count = self.num_front_planes[number], self.num_planes[number]
        across = self.across[number, :count] @ self.columns[:, columns]
        inverse = across[:, None] + (self.down[number, :count] * self.rows[rows])[..., None]
        near = np.minimum.reduce(inverse[:front])
        hit = near >= np.maximum.reduce(inverse[front:])
        hit &= near > nearest
        return inverse[:front], near, hit

    def _hit_spheroid(
        self, number: int, rows: slice, columns: slice, nearest: Array
    ) -> PrimitiveHits:
        """Intersect rays with a spheroid."""
        x, y, z, wide, tall = self.spheroids[number]
        c = (x * x + z * z) / wide**2 + y * y / tall**2 - 1.0
        if c <= 0:  # the sensor is inside
            return (), nearest, np.zeros(nearest.shape, bool)
        across, down = self.columns[:, columns], self.rows[rows]
        a = (
            self.squared_components[0][columns] / wide**2
            + (self.squared_components[1][rows] / tall**2)[:, None]
        )
        b = (across[0] * x + across[1] * z) / wide**2 + (down * y / tall**2)[:, None]
        near = (b + np.sqrt(b * b - a * c)) / c  # NaN for rays that miss
        return (), near, near > nearest


def _rect_area(rects: Array) -> Array:
    """Return the number of pixels of rectangles (S, 4)."""
    return np.maximum(rects[:, 1] - rects[:, 0], 0) * np.maximum(rects[:, 3] - rects[:, 2], 0)


def _trim_rows(
    rects: Array, rays: RayGrid, slope: Array, num_front_planes: Array, num_planes: Array
) -> Array:
    """
    Remove rows of rectangles in which no ray can hit the polytope.

    A hit requires w >= w' for every plane that faces the sensor (w) and every other plane (w').
    Both are affine in column and row: in any column that bounds the rows from one side, and along
    the columns of a camera the bound is linear, so its values in the first and last column are
    enough.
    Bounding boxes of long, horizontal solids are much looser: a slab of the ground is 300 m long
    and rotated against the view.
    """
    x0, x1 = np.clip(rects[:, 2:].T, [[0], [1]], [[len(rays.columns) - 1], [len(rays.columns)]])
    number = np.arange(slope.shape[1])
    facing = (number < num_front_planes[:, None])[:, :, None]
    other = ((number >= num_front_planes[:, None]) & (number < num_planes[:, None]))[:, None, :]
    step = slope[:, :, None, 1] - slope[:, None, :, 1]
    limit = []
    for column in (x0, x1 - 1):
        across = (slope[..., [0, 2]] * rays.columns[column][:, None]).sum(-1)
        with np.errstate(divide='ignore', invalid='ignore'):
            limit.append((across[:, None, :] - across[:, :, None]) / step)
    least = np.where(facing & other & (step > 1e-9), np.minimum(*limit), -np.inf).max((1, 2))
    most = np.where(facing & other & (step < -1e-9), np.maximum(*limit), np.inf).min((1, 2))
    slack = 0.1 * np.abs(np.diff(rays.rows)).min()  # tolerance for float32 rounding
    y0 = np.maximum(rects[:, 0], np.searchsorted(rays.rows, least - slack))
    y1 = np.minimum(rects[:, 1], np.searchsorted(rays.rows, most + slack))
    return np.stack([y0, y1, rects[:, 2], rects[:, 3]], 1)


def _count_and_extent(inverse: Array, y0: int, x0: int) -> tuple[int, tuple[int, int, int, int]]:
    """Return the number of rays with a hit, and their extent x0 y0 x1 y1 in the grid."""
    mask = inverse > 0
    columns, rows = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
    if not len(rows):
        return 0, (0, 0, -1, -1)
    extent = (columns[0] + x0, rows[0] + y0, columns[-1] + x0, rows[-1] + y0)
    return int(mask.sum()), extent


def bounding_rects(rays: RayGrid, bounds: Array) -> Array:
    """
    Return the rectangle of a grid in which rays can hit each solid.

    :param rays: the grid.
    :param bounds: (S, V, 3) points whose convex hull contains each solid.
    :return: (S, 4) rectangles, possibly empty. In a panoramic grid they may begin before the first
        column or end after the last one.
    """
    cos, sin = np.cos(rays.heading), np.sin(rays.heading)
    offset = bounds - rays.origin
    right = cos * offset[..., 0] - sin * offset[..., 2]
    ahead = sin * offset[..., 0] + cos * offset[..., 2]
    if rays.is_panoramic:
        return _panoramic_rects(rays, right, ahead, offset[..., 1])
    return _pinhole_rects(rays, right, ahead, offset[..., 1])


def _pinhole_rects(rays: RayGrid, right: Array, ahead: Array, down: Array) -> Array:
    """Return rectangles of a pinhole grid; edges are clipped at NEAR_M ahead of the sensor."""
    valid = ahead >= NEAR_M
    low, high = [], []
    part = valid.any(1) & ~valid.all(1)
    i, j = np.tril_indices(ahead.shape[1], -1)
    start, step = ahead[part][:, j], ahead[part][:, i] - ahead[part][:, j]
    crosses = valid[part][:, i] != valid[part][:, j]
    t = np.where(crosses, (NEAR_M - start) / np.where(step == 0, 1.0, step), 0.0)
    for value in (right, down):
        corner = value / np.maximum(ahead, NEAR_M)
        least, most = (
            np.where(valid, corner, np.inf).min(1),
            np.where(valid, corner, -np.inf).max(1),
        )
        start = value[part][:, j]
        edge = (start + t * (value[part][:, i] - start)) / NEAR_M
        least[part] = np.minimum(least[part], np.where(crosses, edge, np.inf).min(1))
        most[part] = np.maximum(most[part], np.where(crosses, edge, -np.inf).max(1))
        low.append(least)
        high.append(most)
    cos, sin = np.cos(rays.heading), np.sin(rays.heading)
    columns = cos * rays.columns[:, 0] - sin * rays.columns[:, 1]
    rect, overlaps = [], np.full(len(ahead), True)
    for axis, least, most in zip((rays.rows, columns), low[::-1], high[::-1], strict=True):
        rect.append(np.maximum(np.searchsorted(axis, least) - 1, 0))
        rect.append(np.minimum(np.searchsorted(axis, most) + 1, len(axis)))
        overlaps &= (least < axis[-1]) & (most > axis[0])
    return np.where(overlaps[:, None], np.stack(rect, 1), 0)


def _panoramic_rects(rays: RayGrid, right: Array, ahead: Array, down: Array) -> Array:
    """Return rectangles of a panoramic grid from bearings, heights and horizontal distances."""
    width = len(rays.columns)
    middle = np.arctan2(right.mean(1), ahead.mean(1))
    apart = np.arctan2(right, ahead) - middle[:, None]
    apart = (apart + np.pi) % (2 * np.pi) - np.pi
    i, j = np.tril_indices(ahead.shape[1], -1)
    edge = np.stack([right[:, i] - right[:, j], ahead[:, i] - ahead[:, j]], -1)
    start = np.stack([right[:, j], ahead[:, j]], -1)
    t = -(start * edge).sum(-1) / np.maximum((edge**2).sum(-1), 1e-12)
    nearest = np.linalg.norm(start + np.clip(t, 0, 1)[..., None] * edge, axis=-1).min(1)
    low, high = down.min(1), down.max(1)
    farthest = np.hypot(right, ahead).max(1)
    top = np.where(low < 0, low / np.maximum(nearest, 1e-3), low / farthest)
    bottom = np.where(high > 0, high / np.maximum(nearest, 1e-3), high / farthest)
    y0 = np.maximum(np.searchsorted(rays.rows, top) - 1, 0)
    y1 = np.minimum(np.searchsorted(rays.rows, bottom) + 1, len(rays.rows))
    surrounds = (
        apart.max(1) - apart.min(1) > np.pi
    )  # the solid may contain the sensor's vertical axis
    first = np.floor((middle + apart.min(1) + np.pi) / (2 * np.pi) * width).astype(int) - 1
    last = np.ceil((middle + apart.max(1) + np.pi) / (2 * np.pi) * width).astype(int) + 2
    first, last = np.where(surrounds, 0, first), np.where(surrounds, width, last)
    return np.stack([y0, y1, first, last], 1)
