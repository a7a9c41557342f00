"""
Solids that rays can meet: convex polytopes and upright spheroids, built part by part.

A part is built in the frame of its object: x along (front is +), y up from the ground, z across;
a placement turns it by the object's yaw and puts it into the world (x right, y down, z forward).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stl_core.types import Array

#: Most half-spaces of one polytope.
MAX_PLANES = 12

#: Whether each corner of a box is on the far side along each axis: (8, 3).
_CORNERS = np.array([[(i >> k) & 1 for k in range(3)] for i in range(8)], bool)

#: From and to.
Span = tuple[float, float]
Point = Array | Sequence[float]


@dataclass(frozen=True)
class Placement:
    """
    Where an object stands and how large it is.

    :param bottom_m: (3,) middle of its bottom face, world.
    :param yaw: rotation about y (down), 0 = front along +x, as KITTI's rotation_y.
    :param size_hwl_m: (3,) height, width, length; textures are laid out on it.
    :param owner: number of the labelled object, -1 for scenery.
    """

    bottom_m: Array
    yaw: float
    size_hwl_m: Array
    owner: int = -1


@dataclass(frozen=True)
class Solids:
    """
    S solids in one frame.

    :param planes: (S, MAX_PLANES, 4) outward unit normal n and offset d, inside is n.x <= d;
        rows without use are 0 0 0 1. Spheroids use none.
    :param bounds: (S, 8, 3) corners of a box round each solid.
    :param spheroid: (S, 5) centre, horizontal and vertical radius; radius 0 for polytopes.
    :param material: (S,) see shading.py.
    :param colour: (S, 3) linear RGB.
    :param owner: (S,) number of the labelled object, -1 for scenery.
    :param bottom: (S, 3) bottom centre of the object a solid belongs to.
    :param yaw: (S,) of that object.
    :param size: (S, 3) of that object.
    :param casts: (S,) whether the solid throws a shadow.
    """

    planes: Array
    bounds: Array
    spheroid: Array
    material: Array
    colour: Array
    owner: Array
    bottom: Array
    yaw: Array
    size: Array
    casts: Array

    def __len__(self) -> int:
        """Return the number of solids."""
        return len(self.material)

    def __getitem__(self, rows: Array) -> Solids:
        """Return the solids at an index array or boolean mask."""
        return Solids(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))

    def seen_from(self, origin: Array, heading: float) -> Solids:
        """Return the same solids in the frame of a rig at origin, turned by heading about y."""
        turn = turn_about_y(-heading)
        normals = self.planes[..., :3] @ turn.T
        offsets = self.planes[..., 3] - self.planes[..., :3] @ origin
        ball = self.spheroid.copy()
        ball[:, :3] = (ball[:, :3] - origin) @ turn.T
        return Solids(
            planes=np.concatenate([normals, offsets[..., None]], -1),
            bounds=(self.bounds - origin) @ turn.T,
            spheroid=ball,
            material=self.material,
            colour=self.colour,
            owner=self.owner,
            bottom=(self.bottom - origin) @ turn.T,
            yaw=self.yaw - heading,
            size=self.size,
            casts=self.casts,
        )


def turn_about_y(angle: float | Array) -> Array:
    """Return the rotation about y (down) that adds to rotation_y: (3, 3), or (3, 3, N) for N."""
    cos, sin = np.cos(angle), np.sin(angle)
    none, one = 0.0 * cos, 0.0 * cos + 1.0
    return np.array([[cos, none, sin], [none, one, none], [-sin, none, cos]])


#: Planes (K, 4), outward unit normals and offsets, and corners (V, 3), in the object's frame.
Shape = tuple[Array, Array]


@dataclass(frozen=True)
class _Part:
    shape: Shape
    ball: tuple[float, float]
    material: int
    colour: Array
    at: Placement
    casts: bool


class Builder:
    """Collects parts; solids() joins them."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self._parts: list[_Part] = []

    def polytope(
        self, at: Placement, shape: Shape, material: int, colour: Array, casts: bool = True
    ) -> None:
        """
        Add a convex polytope.

        :param at: its object.
        :param shape: in the object's frame.
        :param material: see materials.py.
        :param colour: (3,) linear RGB.
        :param casts: whether it throws a shadow.
        """
        self._parts.append(_Part(shape, (0.0, 0.0), material, colour, at, casts))

    def spheroid(
        self,
        at: Placement,
        center: Point,
        radius: tuple[float, float],
        material: int,
        colour: Array,
        casts: bool = True,
    ) -> None:
        """Add an upright spheroid: centre in its object's frame, horizontal, vertical radius."""
        (x, y, z), (wide, tall) = center, radius
        reach = [[x - wide, y - tall, z - wide], [x + wide, y + tall, z + wide]]
        shape = (np.zeros((0, 4)), np.array(reach))
        self._parts.append(_Part(shape, radius, material, colour, at, casts))

    def solids(self) -> Solids:
        """Put all parts into the world, together."""
        parts = self._parts
        planes = np.tile([0.0, 0.0, 0.0, 1.0], (len(parts), MAX_PLANES, 1))
        low, high = np.empty((len(parts), 3)), np.empty((len(parts), 3))
        for i, part in enumerate(parts):
            own, corners = part.shape
            planes[i, : len(own)] = own
            low[i], high[i] = corners.min(0), corners.max(0)
        bottom = np.array([part.at.bottom_m for part in parts], np.float64)
        yaw = np.array([part.at.yaw for part in parts], np.float64)
        turn = np.moveaxis(turn_about_y(yaw), -1, 0) * [1.0, -1.0, 1.0]  # y up -> y down
        normals = planes[..., :3] @ turn.transpose(0, 2, 1)
        used = np.abs(normals).sum(-1) > 0
        offsets = planes[..., 3] + used * (normals * bottom[:, None]).sum(-1)
        corners = np.stack([np.where(_CORNERS[i], high, low) for i in range(8)], 1)
        # a spheroid is round: its box is not turned with its object
        radius = np.array([part.ball for part in parts])
        round_ = radius[:, :1] > 0
        center = (turn @ ((low + high) / 2)[..., None])[..., 0] + bottom
        turned = corners @ turn.transpose(0, 2, 1) + bottom[:, None]
        upright = center[:, None] + (corners - ((low + high) / 2)[:, None])
        return Solids(
            planes=np.concatenate([normals, offsets[..., None]], -1),
            bounds=np.where(round_[..., None], upright, turned),
            spheroid=np.concatenate([center * round_, radius], 1),
            material=np.array([part.material for part in parts], np.int64),
            colour=np.array([part.colour for part in parts], np.float64),
            owner=np.array([part.at.owner for part in parts], np.int64),
            bottom=bottom,
            yaw=yaw,
            size=np.array([part.at.size_hwl_m for part in parts], np.float64),
            casts=np.array([part.casts for part in parts], bool),
        )


def box(x: Span, y: Span, z: Span) -> Shape:
    """Return a box given by its extents along, up and across."""
    return tapered(x, z, x, z, y)


def tapered(x: Span, z: Span, top_x: Span, top_z: Span, y: Span) -> Shape:
    """
    Cut a pyramid: a rectangle below, a rectangle above.

    :param x: extent of the lower rectangle along.
    :param z: extent of the lower rectangle across.
    :param top_x: extent of the upper rectangle along.
    :param top_z: extent of the upper rectangle across.
    :param y: heights of the two.
    """
    rise = y[1] - y[0]
    planes = [[0.0, 1.0, 0.0, y[1]], [0.0, -1.0, 0.0, -y[0]]]
    for axis, low, high in ((0, x, top_x), (2, z, top_z)):
        for side, sign in ((1, 1.0), (0, -1.0)):
            lean = high[side] - low[side]
            scale = sign / math.hypot(rise, lean)
            out, up = rise * scale, -lean * scale
            offset = out * low[side] + up * y[0]
            planes.append([out, up, 0.0, offset] if axis == 0 else [0.0, up, out, offset])
    vertices = [[a, y[0], c] for a in x for c in z] + [[a, y[1], c] for a in top_x for c in top_z]
    return np.array(planes), np.array(vertices)


def extruded(outline: Array, half_width: float, lean: float = 0.0) -> Shape:
    """
    Draw a convex outline in the plane along-up across the object.

    :param outline: (V, 2) along and up, anticlockwise (front right, up up).
    :param half_width: half extent across, at the lowest point of the outline.
    :param lean: how much narrower each side gets per metre of height.
    :return: planes in the order of the outline's edges, then right (+z) and left.
    """
    count = len(outline)
    edge = np.concatenate([outline[1:], outline[:1]]) - outline
    normal = edge[:, ::-1] * [1.0, -1.0] / np.sqrt((edge**2).sum(1, keepdims=True))
    floor = float(outline[:, 1].min())
    planes = np.zeros((count + 2, 4))
    planes[:count, :2] = normal
    planes[:count, 3] = (normal * outline).sum(1)
    length = math.hypot(1.0, lean)
    planes[count:, 1] = lean / length
    planes[count:, 2] = 1.0 / length, -1.0 / length
    planes[count:, 3] = (half_width + lean * floor) / length
    half = half_width - lean * (outline[:, 1] - floor)
    vertices = np.empty((2 * count, 3))
    vertices[:count, :2] = vertices[count:, :2] = outline
    vertices[:count, 2], vertices[count:, 2] = half, -half
    return planes, vertices


def wheel(center: tuple[float, float], radius: float, corners: int) -> Array:
    """Return the outline (corners, 2) of a regular polygon round a wheel, standing on an edge."""
    turn = 2 * np.pi * (np.arange(corners) + 0.5) / corners - np.pi / 2
    grow = 1.0 / np.cos(np.pi / corners)
    return np.array(center) + radius * grow * np.stack([np.cos(turn), np.sin(turn)], 1)


def limb(start: Point, end: Point, thick: tuple[float, float]) -> Shape:
    """
    Return a bar between two points, square in section.

    :param start: (3,) along, up, across.
    :param end: (3,) likewise.
    :param thick: side of the section at the start and at the end.
    """
    ax, ay, az = end[0] - start[0], end[1] - start[1], end[2] - start[2]
    length = math.sqrt(ax * ax + ay * ay + az * az)
    ax, ay, az = ax / length, ay / length, az / length
    # a side at right angles to the bar: its cross product with z, or with x where it runs along z
    sx, sy, sz = (ay, -ax, 0.0) if abs(az) < 0.9 else (0.0, az, -ay)
    norm = math.sqrt(sx * sx + sy * sy + sz * sz)
    sx, sy, sz = sx / norm, sy / norm, sz / norm
    third = [sy * az - sz * ay, sz * ax - sx * az, sx * ay - sy * ax]
    basis = np.array([[sx, sy, sz], [ax, ay, az], third])  # rows: x, y, z of the bar
    a, b = thick[0] / 2, thick[1] / 2
    planes, vertices = tapered((-a, a), (-a, a), (-b, b), (-b, b), (0.0, length))
    planes[:, :3] = planes[:, :3] @ basis
    planes[:, 3] += planes[:, :3] @ np.asarray(start, np.float64)
    return planes, vertices @ basis + start
