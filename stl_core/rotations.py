"""
Rotations in space: quaternions as nuScenes and ROS write poses, matrices, headings.

Quaternions are w x y z, as nuScenes stores them (ROS stores x y z w). A transform a_T_b is (4, 4)
and maps points of frame b to frame a.
"""

from __future__ import annotations

import numpy as np

from stl_core.types import Array

#: Rounding may change the length of a stored quaternion by this.
_MAX_LENGTH_ERROR = 1e-3


def quaternion_to_matrix(quaternion: Array) -> Array:
    """
    Return the rotation matrices of quaternions.

    :param quaternion: (..., 4) w x y z of unit length; small errors are removed.
    :return: (..., 3, 3).
    :raises ValueError: for a quaternion that is not finite or not of unit length.
    """
    q = np.asarray(quaternion, np.float64)
    length = np.sqrt((q * q).sum(-1, keepdims=True))
    if q.shape[-1:] != (4,) or not (np.abs(length - 1) < _MAX_LENGTH_ERROR).all():
        raise ValueError(f'quaternion w x y z of unit length expected, got {quaternion}')
    w, x, y, z = np.moveaxis(q / length, -1, 0)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return np.moveaxis(np.array(rows), (0, 1), (-2, -1))


def matrix_to_quaternion(rotation: Array) -> Array:
    """
    Return the quaternions of rotation matrices, w not negative.

    Each row of the symmetric matrix 4 q q^T is a multiple of q; the one with the greatest diagonal
    element is used, which loses no digits.

    :param rotation: (..., 3, 3).
    :return: (..., 4) w x y z.
    """
    R = np.asarray(rotation, np.float64)
    m = [[R[..., i, j] for j in range(3)] for i in range(3)]
    trace = m[0][0] + m[1][1] + m[2][2]
    wx, wy, wz = m[2][1] - m[1][2], m[0][2] - m[2][0], m[1][0] - m[0][1]
    xy, xz, yz = m[0][1] + m[1][0], m[0][2] + m[2][0], m[1][2] + m[2][1]
    xx, yy, zz = (1 + 2 * m[i][i] - trace for i in range(3))
    outer = np.array(
        [[1 + trace, wx, wy, wz], [wx, xx, xy, xz], [wy, xy, yy, yz], [wz, xz, yz, zz]]
    )
    outer = np.moveaxis(outer, (0, 1), (-2, -1))
    best = np.diagonal(outer, axis1=-2, axis2=-1).argmax(-1)
    q = np.take_along_axis(outer, best[..., None, None], -2)[..., 0, :]
    q = q / np.sqrt((q * q).sum(-1, keepdims=True))
    return np.where(q[..., :1] < 0, -q, q)


def yaw_to_quaternion(yaw: Array) -> Array:
    """Return the (..., 4) quaternions of turns about z by (...,) angles, radians."""
    half = np.asarray(yaw, np.float64) / 2
    zero = np.zeros_like(half)
    return np.stack([np.cos(half), zero, zero, np.sin(half)], -1)


def rigid_transform(quaternion: Array, translation_m: Array) -> Array:
    """Return the (4, 4) transform of a quaternion (4,) and a translation (3,)."""
    transform = np.eye(4)
    transform[:3, :3] = quaternion_to_matrix(quaternion)
    transform[:3, 3] = translation_m
    return transform


def invert_rigid(transform: Array) -> Array:
    """Return the inverse of a rigid transform (..., 4, 4)."""
    inverse = np.zeros_like(transform)
    rotation = np.swapaxes(transform[..., :3, :3], -1, -2)
    inverse[..., :3, :3] = rotation
    inverse[..., :3, 3] = -(rotation @ transform[..., :3, 3, None])[..., 0]
    inverse[..., 3, 3] = 1.0
    return inverse


def move_points(transform: Array, points_m: Array) -> Array:
    """Return points (..., 3) transformed by a (4, 4)."""
    moved: Array = points_m @ transform[:3, :3].T + transform[:3, 3]
    return moved
