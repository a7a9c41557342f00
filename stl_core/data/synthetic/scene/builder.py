"""
Build solids from parts: frusta, bars, prisms and spheroids, converted to planes in one batch.

A part is defined in the frame of its object: x along (front is +), y up from the ground, z across;
the object's pose rotates it by yaw and moves it into the world (x right, y down, z forward).
A world has hundreds of parts: add() only stores them, and solids() converts all parts of a kind to
planes and corners together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from stl_core.data.synthetic.scene.solids import (
    MAX_PLANES,
    ObjectPose,
    Solids,
    aabb_corners,
    rotation_about_y,
)
from stl_core.types import Array

#: Lower and upper end.
Span = tuple[float, float]
Point = Array | Sequence[float]

#: Signs of the normals of a frustum: far and near side along, far and near side across.
_SIDES = np.array([1.0, -1.0, 1.0, -1.0])


class Frustum(NamedTuple):
    """The hull of a rectangle (x, z) at height y[0] and another (top_x, top_z) at y[1]."""

    x: Span
    z: Span
    top_x: Span
    top_z: Span
    y: Span


class Bar(NamedTuple):
    """A bar from start to end, (3,) each, of square section; thickness at both ends."""

    start: Point
    end: Point
    thickness: tuple[float, float]


class Prism(NamedTuple):
    """
    A convex outline in the plane along-up, extruded across the object.

    :param outline: V times along and up, anticlockwise (front right, up up).
    :param half_width: half extent across, at the lowest point of the outline.
    :param lean: how much narrower each side gets per metre of height.
    """

    outline: Sequence[tuple[float, float]] | Array
    half_width: float
    lean: float = 0.0


class Spheroid(NamedTuple):
    """An upright spheroid: centre (3,), horizontal and vertical radius."""

    center: Point
    radius: tuple[float, float]


Shape = Frustum | Bar | Prism | Spheroid


class Builder:
    """Collects parts; solids() converts them to Solids."""

    def __init__(self) -> None:
        """Create an empty builder."""
        self._shapes: list[Shape] = []
        self._poses: list[ObjectPose] = []
        self._materials: list[int] = []
        self._colours: list[Array] = []
        self._casts_shadow: list[bool] = []

    def add(
        self,
        pose: ObjectPose,
        shape: Shape,
        material: int,
        colour: Array,
        casts_shadow: bool = True,
    ) -> None:
        """
        Add a part.

        :param pose: pose of its object.
        :param shape: shape in the object's frame.
        :param material: see materials.py.
        :param colour: (3,) linear RGB.
        :param casts_shadow: whether it casts a shadow.
        """
        self._shapes.append(shape)
        self._poses.append(pose)
        self._materials.append(material)
        self._colours.append(colour)
        self._casts_shadow.append(casts_shadow)

    def solids(self) -> Solids:
        """Return all parts as Solids, world frame, in the order they were added."""
        poses = self._poses
        planes, low, high, radius = carve_shapes(self._shapes)
        bottom = np.array([pose.bottom_m for pose in poses], np.float64).reshape(-1, 3)
        yaw = np.array([pose.yaw for pose in poses], np.float64)
        rotation = np.moveaxis(rotation_about_y(yaw), -1, 0) * [1.0, -1.0, 1.0]  # y up -> y down
        normals = planes[..., :3] @ rotation.transpose(0, 2, 1)
        used = np.abs(normals).sum(-1) > 0
        offsets = planes[..., 3] + used * (normals * bottom[:, None]).sum(-1)
        corners = aabb_corners(low, high)
        # a spheroid is round: its bounding box is not rotated with its object
        is_spheroid = radius[:, :1] > 0
        middle = (low + high) / 2
        center = (rotation @ middle[..., None])[..., 0] + bottom
        turned = corners @ rotation.transpose(0, 2, 1) + bottom[:, None]
        upright = center[:, None] + (corners - middle[:, None])
        return Solids(
            planes=np.concatenate([normals, offsets[..., None]], -1),
            bounds=np.where(is_spheroid[..., None], upright, turned),
            spheroid=np.concatenate([center * is_spheroid, radius], 1),
            material=np.array(self._materials, np.int64),
            colour=np.array(self._colours, np.float64).reshape(-1, 3),
            actor_id=np.array([pose.actor_id for pose in poses], np.int64),
            bottom=bottom,
            yaw=yaw,
            size=np.array([pose.size_hwl_m for pose in poses], np.float64).reshape(-1, 3),
            casts_shadow=np.array(self._casts_shadow, bool),
        )


def box_shape(x: Span, y: Span, z: Span) -> Frustum:
    """Return a box given by its extents along, up and across."""
    return Frustum(x, z, x, z, y)


def wheel_outline(center: tuple[float, float], radius: float, corners: int) -> Array:
    """Return the regular polygon round a wheel, (corners, 2), that stands on an edge."""
    turn = 2 * np.pi * (np.arange(corners) + 0.5) / corners - np.pi / 2
    grow = 1.0 / np.cos(np.pi / corners)
    return np.array(center) + radius * grow * np.stack([np.cos(turn), np.sin(turn)], 1)


def carve_shapes(shapes: Sequence[Shape]) -> tuple[Array, Array, Array, Array]:
    """
    Compute planes and extents of shapes, each in the frame of its object.

    :param shapes: S shapes.
    :return: planes (S, MAX_PLANES, 4) as Solids has them, least and greatest corner (S, 3) each,
        radii (S, 2), 0 for polytopes.
    """
    count = len(shapes)
    planes = np.tile([0.0, 0.0, 0.0, 1.0], (count, MAX_PLANES, 1))
    low, high, radius = np.zeros((count, 3)), np.zeros((count, 3)), np.zeros((count, 2))
    kinds: dict[tuple[type, int], list[int]] = {}
    for number, shape in enumerate(shapes):
        corners = len(shape.outline) if isinstance(shape, Prism) else 0
        kinds.setdefault((type(shape), corners), []).append(number)
    for (kind, _), rows in kinds.items():
        fields = zip(*(shapes[i] for i in rows), strict=True)
        columns = [np.array(field, np.float64) for field in fields]
        if kind is Spheroid:
            center, radius[rows] = columns
            reach = radius[rows][:, [0, 1, 0]]
            low[rows], high[rows] = center - reach, center + reach
            continue
        shape_planes, vertices = CARVERS[kind](*columns)
        planes[rows, : shape_planes.shape[1]] = shape_planes
        low[rows], high[rows] = vertices.min(1), vertices.max(1)
    return planes, low, high, radius


def carve_frusta(x: Array, z: Array, top_x: Array, top_z: Array, y: Array) -> tuple[Array, Array]:
    """Return planes (N, 6, 4) and vertices (N, 8, 3) of N Frustum, fields (N, 2) each."""
    count = len(y)
    rise = (y[:, 1] - y[:, 0])[:, None]
    below = np.stack([x[:, 1], x[:, 0], z[:, 1], z[:, 0]], 1)
    above = np.stack([top_x[:, 1], top_x[:, 0], top_z[:, 1], top_z[:, 0]], 1)
    lean = above - below
    scale = _SIDES / np.hypot(rise, lean)
    planes = np.zeros((count, 6, 4))
    planes[:, 0, 1], planes[:, 0, 3] = 1.0, y[:, 1]
    planes[:, 1, 1], planes[:, 1, 3] = -1.0, -y[:, 0]
    planes[:, 2:4, 0], planes[:, 4:, 2] = (rise * scale)[:, :2], (rise * scale)[:, 2:]
    planes[:, 2:, 1] = -lean * scale
    planes[:, 2:, 3] = rise * scale * below - lean * scale * y[:, :1]
    vertices = np.empty((count, 2, 2, 2, 3))  # below or above, along, across
    for level, (along, across) in enumerate(((x, z), (top_x, top_z))):
        vertices[:, level, ..., 0] = along[:, :, None]
        vertices[:, level, ..., 1] = y[:, level, None, None]
        vertices[:, level, ..., 2] = across[:, None]
    return planes, vertices.reshape(count, 8, 3)


def carve_bars(start: Array, end: Array, thickness: Array) -> tuple[Array, Array]:
    """Return planes (N, 6, 4) and vertices (N, 8, 3) of N Bar, fields (N, 3), (N, 3), (N, 2)."""
    length = np.sqrt(((end - start) ** 2).sum(1))
    along = (end - start) / length[:, None]
    # a side perpendicular to the bar: its cross product with z, or with x if it runs along z
    near_z = np.abs(along[:, 2:]) >= 0.9
    none = np.zeros(len(start))
    side = np.where(
        near_z,
        np.stack([none, along[:, 2], -along[:, 1]], 1),
        np.stack([along[:, 1], -along[:, 0], none], 1),
    )
    side /= np.sqrt((side**2).sum(1, keepdims=True))
    basis = np.stack([side, along, np.cross(side, along)], 1)  # rows: x, y, z of the bar
    a, b = thickness[:, :1] * [-0.5, 0.5], thickness[:, 1:] * [-0.5, 0.5]
    planes, vertices = carve_frusta(a, a, b, b, np.stack([none, length], 1))
    planes[..., :3] = planes[..., :3] @ basis
    planes[..., 3] += (planes[..., :3] * start[:, None]).sum(-1)
    return planes, vertices @ basis + start[:, None]


def carve_prisms(outline: Array, half_width: Array, lean: Array) -> tuple[Array, Array]:
    """
    Return planes and vertices of N Prism with V corners each, fields (N, V, 2), (N,), (N,).

    :return: planes (N, V + 2, 4) in the order of the outline's edges, then right (+z) and left,
        and vertices (N, 2 V, 3).
    """
    count, corners = outline.shape[:2]
    edge = np.roll(outline, -1, 1) - outline
    normal = edge[..., ::-1] * [1.0, -1.0] / np.sqrt((edge**2).sum(-1, keepdims=True))
    floor = outline[..., 1].min(1)
    planes = np.zeros((count, corners + 2, 4))
    planes[:, :corners, :2] = normal
    planes[:, :corners, 3] = (normal * outline).sum(-1)
    length = np.hypot(1.0, lean)
    planes[:, corners:, 1] = (lean / length)[:, None]
    planes[:, corners:, 2] = [1.0, -1.0] / length[:, None]
    planes[:, corners:, 3] = ((half_width + lean * floor) / length)[:, None]
    half = half_width[:, None] - lean[:, None] * (outline[..., 1] - floor[:, None])
    vertices = np.empty((count, 2, corners, 3))
    vertices[..., :2] = outline[:, None]
    vertices[:, 0, :, 2], vertices[:, 1, :, 2] = half, -half
    return planes, vertices.reshape(count, 2 * corners, 3)


#: Function of each polytope kind: arrays of its fields -> planes and vertices.
CARVERS: dict[type, Callable[..., tuple[Array, Array]]] = {
    Frustum: carve_frusta,
    Bar: carve_bars,
    Prism: carve_prisms,
}
