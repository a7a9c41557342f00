"""
Objects as ROS has boxes: axes x along the length, y to the left, z up, and sizes in that order.

So a box stays the usual box whatever frame it is told in: its pose is turned, its size is not.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from mono3d_ros.fields import Target
from mono3d_ros.uncertainty import depth_covariance
from stl_core.types import Array, Objects3D


@dataclass(frozen=True)
class RosBoxes:
    """
    N boxes in the frame of a target.

    :param center_m: (N, 3).
    :param turn_xyzw: (N, 4) quaternions of the boxes' axes.
    :param size_lwh_m: (N, 3) along these axes.
    :param covariance: (N, 3, 3) of the centres, by what is told of their depth.
    :param velocity_m_s: (N, 3) along the axes of the frame; None where it is not known.
    """

    center_m: Array
    turn_xyzw: Array
    size_lwh_m: Array
    covariance: Array
    velocity_m_s: Array | None


def ros_boxes(objects: Objects3D, target: Target, velocities_mps: Array | None = None) -> RosBoxes:
    """
    Bring objects into the frame of a target.

    :param objects: N objects, camera frame.
    :param target: the frame.
    :param velocities_mps: (N, 3) camera frame; None where they are not known.
    :return: N boxes.
    """
    turn, known = target.turn, velocities_mps
    quaternion = Rotation.from_matrix(turn).as_quat()
    return RosBoxes(
        center_m=target.place(objects.center_m),
        turn_xyzw=_product(quaternion, _upright(objects.rotation_y)),
        size_lwh_m=objects.size_hwl_m[:, ::-1],
        covariance=turn @ depth_covariance(objects) @ turn.T,
        velocity_m_s=None if known is None else known @ turn.T,
    )


def _upright(rotation_y: Array) -> Array:
    """(N,) -> (N, 4) quaternions that turn the axes of a box into the camera's frame."""
    # a quarter turn about x brings z up to -y; the turn about y follows
    sin, cos = (np.sqrt(0.5) * each(rotation_y / 2) for each in (np.sin, np.cos))
    return np.stack([cos, sin, -sin, cos], 1)


def _product(a: Array, b: Array) -> Array:
    """(4,) and (N, 4) quaternions x y z w -> (N, 4): the turn b, then the turn a."""
    x, y, z, w = a
    by_a = np.array([[w, -z, y, x], [z, w, -x, y], [-y, x, w, z], [-x, -y, -z, w]])
    return b @ by_a.T
