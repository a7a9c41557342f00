"""What flows through the node: frames, what was found in them, and the counts of both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np

from stl_core.types import Array, Objects3D


@dataclass(frozen=True)
class Frame:
    """
    One image of one camera, ready for the network.

    :param camera: our name of it, such as 'front'.
    :param image: (H, W, 3) uint8 RGB, rectified.
    :param P: (3, 4) projection of that image.
    :param stamp_ns: when it was taken.
    :param frame_id: coordinate frame of the camera: x right, y down, z forward.
    """

    camera: str
    image: Array
    P: Array
    stamp_ns: int
    frame_id: str


@dataclass(frozen=True)
class FrameResult:
    """
    What was found in one frame.

    :param camera: of the frame.
    :param stamp_ns: of the frame.
    :param frame_id: of the frame.
    :param objects: N objects in the camera frame.
    :param classes: names that objects.class_id counts into.
    :param ids: N numbers that markers are drawn under.
    :param timings_ms: how long the stages took.
    :param velocity_m_s: (N, 3) along the axes of the camera, over the ground or, where the way
        of the camera is not known, relative to it; None where objects are not tracked.
    """

    camera: str
    stamp_ns: int
    frame_id: str
    objects: Objects3D
    classes: tuple[str, ...]
    ids: tuple[int, ...]
    timings_ms: Mapping[str, float]
    velocity_m_s: Array | None = None

    def without_objects(self) -> FrameResult:
        """Return the same answer with nothing in it."""
        known = self.velocity_m_s
        return replace(
            self,
            objects=self.objects[:0],
            ids=(),
            velocity_m_s=None if known is None else known[:0],
        )


@dataclass(frozen=True)
class TargetFrame:
    """
    The frame that results are told in instead of the camera's.

    :param frame_id: its name.
    :param target_T_cam: (4, 4) takes points of the camera to it.
    """

    frame_id: str
    target_T_cam: Array

    def __post_init__(self) -> None:
        """Refuse what is no transform."""
        matrix = np.asarray(self.target_T_cam, np.float64)
        if matrix.shape != (4, 4) or not np.isfinite(matrix).all():
            raise ValueError(f'target_T_cam must be a finite (4, 4) matrix, got {matrix.shape}')
        object.__setattr__(self, 'target_T_cam', matrix)

    @property
    def rotation(self) -> Array:
        """(3, 3) takes directions of the camera to the frame."""
        return self.target_T_cam[:3, :3]

    def transform_points(self, points_m: Array) -> Array:
        """(..., 3) points in the camera frame -> (..., 3) in this one."""
        return points_m @ self.rotation.T + self.target_T_cam[:3, 3]


def identity_target(frame_id: str) -> TargetFrame:
    """Return the frame of a camera as the target."""
    return TargetFrame(frame_id, np.eye(4))


@dataclass(frozen=True)
class CameraPose:
    """
    Where a camera is at the time of its image.

    :param vehicle_T_cam: (4, 4) in the vehicle, z up, for objects that two cameras see; None
        where that is not known.
    :param fixed_T_cam: (4, 4) in a frame that does not move, z up, for tracks; None likewise.
    """

    vehicle_T_cam: Array | None = None
    fixed_T_cam: Array | None = None


#: Of a camera that nothing is known of.
UNKNOWN_POSE = CameraPose()
NO_POSES: Mapping[str, CameraPose] = MappingProxyType({})
