"""Solids for ray casting (convex polytopes and upright spheroids) and object poses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stl_core.types import Array

#: Most planes (half-spaces) of one polytope.
MAX_PLANES = 12

#: Whether each corner of a box is on the far side along each axis: (8, 3).
_CORNERS = np.array([[(i >> k) & 1 for k in range(3)] for i in range(8)], bool)


@dataclass(frozen=True)
class ObjectPose:
    """
    Pose and size of an object.

    :param bottom_m: (3,) centre of its bottom face, world.
    :param yaw: rotation about y (down), 0 = front along +x, as KITTI's rotation_y.
    :param size_hwl_m: (3,) height, width, length; texture patterns scale with it.
    :param actor_id: number of the labelled object, -1 for scenery.
    """

    bottom_m: Array
    yaw: float
    size_hwl_m: Array
    actor_id: int = -1


@dataclass(frozen=True)
class Solids:
    """
    S solids in one frame.

    :param planes: (S, MAX_PLANES, 4) outward unit normal n and offset d, inside is n.x <= d;
        unused rows are 0 0 0 1, as are all rows of spheroids.
    :param bounds: (S, 8, 3) corners of a bounding box of each solid.
    :param spheroid: (S, 5) centre, horizontal and vertical radius; radius 0 for polytopes.
    :param material: (S,) see materials.py.
    :param colour: (S, 3) linear RGB.
    :param actor_id: (S,) number of the labelled object, -1 for scenery.
    :param bottom: (S, 3) bottom centre of the object a solid belongs to.
    :param yaw: (S,) yaw of that object.
    :param size: (S, 3) height, width, length of that object.
    :param casts_shadow: (S,) whether the solid casts a shadow.
    """

    planes: Array
    bounds: Array
    spheroid: Array
    material: Array
    colour: Array
    actor_id: Array
    bottom: Array
    yaw: Array
    size: Array
    casts_shadow: Array

    def __len__(self) -> int:
        """Return the number of solids."""
        return len(self.material)

    def __getitem__(self, rows: Array) -> Solids:
        """Return the solids at an index array or boolean mask."""
        return Solids(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))

    def in_rig_frame(self, origin: Array, heading: float) -> Solids:
        """Return the solids in the frame of a rig at origin, rotated by heading about y."""
        rotation = rotation_about_y(-heading)
        normals = self.planes[..., :3] @ rotation.T
        offsets = self.planes[..., 3] - self.planes[..., :3] @ origin
        spheroid = self.spheroid.copy()
        spheroid[:, :3] = (spheroid[:, :3] - origin) @ rotation.T
        return Solids(
            planes=np.concatenate([normals, offsets[..., None]], -1),
            bounds=(self.bounds - origin) @ rotation.T,
            spheroid=spheroid,
            material=self.material,
            colour=self.colour,
            actor_id=self.actor_id,
            bottom=(self.bottom - origin) @ rotation.T,
            yaw=self.yaw - heading,
            size=self.size,
            casts_shadow=self.casts_shadow,
        )


def rotation_about_y(angle: float | Array) -> Array:
    """Return the rotation about y (down) that adds `angle` to rotation_y: (3, 3) or (3, 3, N)."""
    cos, sin = np.cos(angle), np.sin(angle)
    none, one = 0.0 * cos, 0.0 * cos + 1.0
    return np.array([[cos, none, sin], [none, one, none], [-sin, none, cos]])


def aabb_corners(low: Array, high: Array) -> Array:
    """Return the corners of axis-aligned boxes: (N, 3) lowest, (N, 3) highest -> (N, 8, 3)."""
    return np.where(_CORNERS, high[:, None], low[:, None])


def concatenate_solids(parts: Sequence[Solids]) -> Solids:
    """Concatenate collections of solids, in order."""
    return Solids(
        *(
            np.concatenate([getattr(part, name) for part in parts])
            for name in Solids.__dataclass_fields__
        )
    )
