"""
The one ray caster: camera image, dense depth, masks, shadows and LiDAR all come from here.

A sensor's rays form a grid, ray(i, j) = column j (x and z) + row i (y): a camera and a spinning
LiDAR alike. Along such rays the inverse distance w at which a plane is met is affine in the ray,
w = n.ray / (d - n.origin), so a convex polytope is met at the least w of the planes that face the
sensor, where that is not below the greatest w of the others: a handful of additions and minima on
the solid's own rectangle of the grid, and no division.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from stl_core.data.synthetic.shapes import Solids
from stl_core.types import Array

NEAR_M = 0.2
#: Rectangle of a grid: first and last-but-one row, first and last-but-one column.
Rect = tuple[int, int, int, int]


@dataclass(frozen=True)
class Rays:
    """
    A grid of H x W rays in the rig's frame (x right, y down, z forward).

    :param origin: (3,) where they start.
    :param columns: (W, 2) x and z of each column.
    :param rows: (H,) y of each row, ascending.
    :param heading: about y, of the middle column; a camera's optical axis.
    :param round_about: whether the columns go all the way round, at even steps, as a LiDAR's do.
    """

    origin: Array
    columns: Array
    rows: Array
    heading: float = 0.0
    round_about: bool = False

    @property
    def shape(self) -> tuple[int, int]:
        """H and W."""
        return len(self.rows), len(self.columns)

    def grids(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return the columns as (2, W) and the rows as (H,), float32."""
        columns = torch.as_tensor(self.columns.T.copy(), dtype=torch.float32, device=device)
        return columns, torch.as_tensor(self.rows, dtype=torch.float32, device=device)


@dataclass(frozen=True)
class Hits:
    """
    What the rays of a grid meet first.

    :param inverse: (H, W) float32, 1 / the factor that stretches the ray to the hit; 0 for none.
    :param solid: (H, W) int64 number of the solid, -1 for none.
    :param face: (H, W) int64 number of its plane.
    :param alone: (owners,) rays that would meet an object if nothing else were there.
    :param extent: (owners, 4) first column, first row, last column, last row of those rays.
    :param visible: (owners,) rays that meet it first.
    """

    inverse: Tensor
    solid: Tensor
    face: Tensor
    alone: Array
    extent: Array
    visible: Array


Layers = tuple[Tensor, Tensor, Tensor]


def cast(rays: Rays, solids: Solids, owners: int, device: torch.device) -> Hits:
    """
    Find the first hit of every ray.

    :param rays: the grid.
    :param solids: S solids in the rig's frame.
    :param owners: number of labelled objects.
    :param device: where to compute.
    :return: the hits.
    """
    layers = (
        torch.zeros(rays.shape, device=device),
        torch.full(rays.shape, -1, dtype=torch.int32, device=device),
        torch.zeros(rays.shape, dtype=torch.int32, device=device),
    )
    painter = _Painter(rays, solids, device)
    alone, extent = np.zeros(owners, np.int64), np.zeros((owners, 4), np.int64)
    for owner in range(-1, owners):
        numbers = np.flatnonzero((solids.owner == owner) & painter.met)
        if not len(numbers):
            continue
        if owner < 0:
            painter.paint(numbers, layers, (0, 0))
            continue
        y0, y1, x0, x1 = painter.around(numbers)
        views = [layer[y0:y1, x0:x1] for layer in layers]
        own = (torch.zeros_like(views[0]), torch.zeros_like(views[1]), torch.zeros_like(views[2]))
        painter.paint(numbers, own, (y0, x0))
        alone[owner], extent[owner] = _measure(own[0], y0, x0)
        first = own[0] > views[0]
        for view, piece in zip(views, own, strict=True):
            view.copy_(torch.where(first, piece, view))
    inverse, solid, face = layers[0], layers[1].long(), layers[2].long()
    of = torch.as_tensor(np.append(solids.owner, -1), device=device)[solid]
    visible = torch.bincount(of[of >= 0], minlength=owners).cpu().numpy()
    face = painter.order.flatten()[(solid.clamp(min=0) * painter.order.shape[1] + face)]
    return Hits(inverse, solid, face, alone, extent, visible)


class _Painter:
    """The solids as one grid sees them, ready to be painted one after the other."""

    def __init__(self, rays: Rays, solids: Solids, device: torch.device) -> None:
        """Sort each solid's planes, those that face the sensor first, and find its rectangle."""
        self.columns, self.rows = rays.grids(device)
        normals, offsets = solids.planes[..., :3], solids.planes[..., 3]
        room = offsets - normals @ rays.origin
        used = np.abs(normals).sum(-1) > 0
        rank = np.where(used, np.where(room < 0, 0, 1), 2)
        order = np.argsort(rank, 1, kind='stable')
        self.front, self.planes = (rank == 0).sum(1), used.sum(1)
        room = np.where(np.abs(room) < 1e-9, 1e-9, room)
        slope = np.take_along_axis(normals / room[..., None], order[..., None], 1)
        slope = slope[..., [0, 2, 1]]
        self.across = torch.as_tensor(slope[..., :2].copy(), dtype=torch.float32, device=device)
        self.down = torch.as_tensor(slope[..., 2:].copy(), dtype=torch.float32, device=device)
        self.order = torch.as_tensor(order, device=device)
        ball = solids.spheroid.copy()
        ball[:, :3] -= rays.origin
        self.balls = ball
        self.rects = rectangles(rays, solids.bounds)
        self.met = np.array([bool(each) for each in self.rects], bool)
        self.met &= (self.front > 0) | (ball[:, 3] > 0)

    def around(self, numbers: Array) -> Rect:
        """Return one rectangle round those of several solids."""
        found = np.array([rect for number in numbers for rect in self.rects[number]])
        low, high = found.min(0), found.max(0)
        return int(low[0]), int(high[1]), int(low[2]), int(high[3])

    def paint(self, numbers: Array, layers: Layers, corner: tuple[int, int]) -> None:
        """Paint solids into layers whose top left is corner (row, column) of the grid."""
        for number in numbers.tolist():
            for y0, y1, x0, x1 in self.rects[number]:
                columns, rows = self.columns[:, x0:x1], self.rows[y0:y1]
                if self.balls[number, 3] > 0:
                    near, face, hit = self._ball(number, columns, rows)
                else:
                    near, face, hit = self._polytope(number, columns, rows)
                i, j = corner
                inverse, solid, faces = (x[y0 - i : y1 - i, x0 - j : x1 - j] for x in layers)
                hit &= near > inverse
                inverse.copy_(torch.where(hit, near, inverse))
                solid.masked_fill_(hit, number)
                if face is None:
                    faces.masked_fill_(hit, 0)
                else:
                    faces.copy_(torch.where(hit, face, faces))

    def _polytope(self, number: int, columns: Tensor, rows: Tensor) -> tuple:
        """Return where the rays enter a polytope, (h, w) each: inverse, plane, whether at all."""
        front, count = int(self.front[number]), int(self.planes[number])
        across = (self.across[number, :count] @ columns)[:, None, :]
        all_planes = across + (self.down[number, :count] * rows)[:, :, None]
        near, face = all_planes[:front].min(0) if front > 1 else (all_planes[0], None)
        hit = near >= all_planes[front:].amax(0)
        return near, face.int() if face is not None else face, hit

    def _ball(self, number: int, columns: Tensor, rows: Tensor) -> tuple:
        """Return where the rays meet a spheroid, likewise."""
        x, y, z, wide, tall = self.balls[number].tolist()
        a = ((columns**2).sum(0) / wide**2)[None] + (rows**2 / tall**2)[:, None]
        b = ((columns[0] * x + columns[1] * z) / wide**2)[None] + (rows * y / tall**2)[:, None]
        c = (x * x + z * z) / wide**2 + y * y / tall**2 - 1.0
        if c <= 0:
            return b, None, torch.zeros_like(b, dtype=torch.bool)
        root = b * b - a * c
        return (b + root.clamp(min=0).sqrt()) / c, None, (root >= 0) & (b > 0)


def _measure(inverse: Tensor, y0: int, x0: int) -> tuple[int, tuple[int, int, int, int]]:
    """Count the rays that hit and find the columns and rows between which they lie."""
    mask = (inverse > 0).cpu().numpy()
    columns, rows = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
    if not len(rows):
        return 0, (0, 0, -1, -1)
    extent = (columns[0] + x0, rows[0] + y0, columns[-1] + x0, rows[-1] + y0)
    return int(mask.sum()), extent


def rectangles(rays: Rays, bounds: Array) -> list[list[Rect]]:
    """
    Find the part of a grid where each solid can be met.

    :param rays: the grid.
    :param bounds: (S, V, 3) points whose hull holds each solid.
    :return: for each solid no, one or (where the columns close the circle) two rectangles.
    """
    cos, sin = np.cos(rays.heading), np.sin(rays.heading)
    away = bounds - rays.origin
    right = cos * away[..., 0] - sin * away[..., 2]
    ahead = sin * away[..., 0] + cos * away[..., 2]
    if rays.round_about:
        return list(_all_round(rays, right, ahead, away[..., 1]))
    return list(_pinhole(rays, right, ahead, away[..., 1], cos, sin))


def _pinhole(
    rays: Rays, right: Array, ahead: Array, down: Array, cos: float, sin: float
) -> Iterator[list[Rect]]:
    """Project the corners, those behind replaced by where the edges come to the front."""
    i, j = np.tril_indices(ahead.shape[1], -1)
    step = ahead[:, i] - ahead[:, j]
    crosses = (ahead[:, i] < NEAR_M) != (ahead[:, j] < NEAR_M)
    t = np.where(crosses, (NEAR_M - ahead[:, j]) / np.where(step == 0, 1.0, step), 0.0)
    spread = []
    for value in (right, down):
        crossing = (value[:, j] + t * (value[:, i] - value[:, j])) / NEAR_M
        corner = value / np.maximum(ahead, NEAR_M)
        both = np.concatenate([corner, crossing], 1)
        valid = np.concatenate([ahead >= NEAR_M, crosses], 1)
        low, high = np.where(valid, both, np.inf).min(1), np.where(valid, both, -np.inf).max(1)
        spread.append((low, high))
    columns = cos * rays.columns[:, 0] - sin * rays.columns[:, 1]
    x0, x1 = (np.searchsorted(columns, edge) for edge in spread[0])
    y0, y1 = (np.searchsorted(rays.rows, edge) for edge in spread[1])
    x0, y0 = np.maximum(x0 - 1, 0), np.maximum(y0 - 1, 0)
    x1, y1 = np.minimum(x1 + 1, len(columns)), np.minimum(y1 + 1, len(rays.rows))
    some = (spread[0][0] < columns[-1]) & (spread[0][1] > columns[0])
    some &= (spread[1][0] < rays.rows[-1]) & (spread[1][1] > rays.rows[0])
    for rect, use in zip(np.stack([y0, y1, x0, x1], 1).tolist(), some.tolist(), strict=True):
        yield [tuple(rect)] if use else []


def _all_round(rays: Rays, right: Array, ahead: Array, down: Array) -> Iterator[list[Rect]]:
    """Find the bearings a solid spans, and its heights over the least horizontal distance."""
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
    inside = apart.max(1) - apart.min(1) > np.pi  # it may hold the sensor's own axis
    first = np.floor((middle + apart.min(1) + np.pi) / (2 * np.pi) * width).astype(int) - 1
    last = np.ceil((middle + apart.max(1) + np.pi) / (2 * np.pi) * width).astype(int) + 2
    first, last = np.where(inside, 0, first), np.where(inside, width, last)
    for a, b, c, d in np.stack([y0, y1, first, last], 1).tolist():
        if a >= b:
            yield []
        elif c < 0:
            yield [(a, b, 0, min(d, width)), (a, b, max(c + width, 0), width)]
        elif d > width:
            yield [(a, b, c, width), (a, b, 0, d - width)]
        else:
            yield [(a, b, c, d)]


def in_shadow(
    points: Tensor, sun: Array, solids: Solids, rects: list[list[Rect]], device: torch.device
) -> Tensor:
    """
    Find what solids keep the sun off.

    :param points: (3, H, W) points seen, rig frame.
    :param sun: (3,) unit vector to the sun.
    :param solids: S solids in the rig's frame that throw shadows.
    :param rects: for each where its shadow can be seen.
    :param device: where to compute.
    :return: (H, W) bool.
    """
    dark = torch.zeros(points.shape[1:], dtype=torch.bool, device=device)
    for number, found in enumerate(rects):
        ball, planes = solids.spheroid[number], solids.planes[number]
        for y0, y1, x0, x1 in found:
            view = points[:, y0:y1, x0:x1].reshape(3, -1)
            round_ = ball[3] > 0
            shade = _ball_shade(view, sun, ball) if round_ else _shade(view, sun, planes)
            dark[y0:y1, x0:x1] |= shade.view(y1 - y0, x1 - x0)
    return dark


def _shade(points: Tensor, sun: Array, planes: Array) -> Tensor:
    """(3, L) points, the sun, a polytope's planes -> (L,) whether it stands between."""
    planes = planes[np.abs(planes[:, :3]).sum(1) > 0]
    slope = planes[:, :3] @ sun
    slope = np.where(np.abs(slope) < 1e-6, 1e-6, slope)
    order = np.argsort(slope > 0)
    table = planes[order] / slope[order, None] * [-1.0, -1.0, -1.0, 1.0]
    rows = torch.as_tensor(table, dtype=torch.float32, device=points.device)
    when = torch.addmm(rows[:, 3:], rows[:, :3], points)
    entering = int((slope < 0).sum())
    leave = when[entering:].amin(0)
    return (leave > when[:entering].amax(0)) & (leave > 0.05)


def _ball_shade(points: Tensor, sun: Array, ball: Array) -> Tensor:
    """(3, L) points, the sun, a spheroid -> (L,) whether it stands between."""
    x, y, z, wide, tall = ball.tolist()
    sx, sy, sz = sun[0] / wide, sun[1] / tall, sun[2] / wide
    qx, qy, qz = (points[0] - x) / wide, (points[1] - y) / tall, (points[2] - z) / wide
    a = sx * sx + sy * sy + sz * sz
    b = qx * sx + qy * sy + qz * sz
    c = qx * qx + qy * qy + qz * qz - 1.0
    root = b * b - a * c
    return (root > 0) & (root.clamp(min=0).sqrt() - b > 0.05)
