"""Camera frames, detection results, target frames and camera poses: the types of the pipeline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np

from stl_core.types import Array, Objects3D


@dataclass(frozen=True)
class Concern:
    """
    Something doubtful about an image that is processed all the same.

    :param kind: a counter of monitoring.diagnostics.
    :param text: what, and what would be right; one line.
    :param is_error: whether its boxes are misplaced.
    """

    kind: str
    text: str
    is_error: bool = False


@dataclass(frozen=True)
class Frame:
    """
    One image of one camera, ready for the network.

    :param camera: name of the camera, such as 'front'.
    :param image: (H, W, 3) uint8 RGB, rectified.
    :param P: (3, 4) projection matrix of that image.
    :param stamp_ns: time of capture.
    :param frame_id: optical frame of the camera: x right, y down, z forward.
    :param concerns: doubts about P or the rectification.
    """

    camera: str
    image: Array
    P: Array
    stamp_ns: int
    frame_id: str
    concerns: tuple[Concern, ...] = ()


@dataclass(frozen=True)
class FrameResult:
    """
    The objects detected in one frame.

    :param camera: camera of the frame.
    :param stamp_ns: stamp of the frame.
    :param frame_id: optical frame of the frame's camera.
    :param objects: N objects in the camera frame.
    :param classes: class names, indexed by objects.class_id.
    :param ids: N ids of the objects, for markers and detection messages.
    :param timings_ms: stage -> duration.
    :param velocity_m_s: (N, 3) along the axes of the camera, over the ground, or relative to the
        camera if its pose in the fixed frame is unknown; None without tracking.
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
        """Return this result without its objects."""
        velocity = self.velocity_m_s
        return replace(
            self,
            objects=self.objects[:0],
            ids=(),
            velocity_m_s=None if velocity is None else velocity[:0],
        )


@dataclass(frozen=True)
class TargetFrame:
    """
    A coordinate frame in which results are published instead of the camera's own frame.

    :param frame_id: name of the frame.
    :param target_T_cam: (4, 4) transform from the camera frame to this frame.
    """

    frame_id: str
    target_T_cam: Array

    def __post_init__(self) -> None:
        """Raise ValueError unless target_T_cam is a finite (4, 4) matrix."""
        matrix = np.asarray(self.target_T_cam, np.float64)
        if matrix.shape != (4, 4) or not np.isfinite(matrix).all():
            raise ValueError(f'target_T_cam must be a finite (4, 4) matrix, got {matrix.shape}')
        object.__setattr__(self, 'target_T_cam', matrix)

    @property
    def rotation(self) -> Array:
        """Return the (3, 3) rotation from the camera frame to this frame."""
        return self.target_T_cam[:3, :3]

    def transform_points(self, points_m: Array) -> Array:
        """Transform (..., 3) points from the camera frame to this frame."""
        return points_m @ self.rotation.T + self.target_T_cam[:3, 3]


def identity_target(frame_id: str) -> TargetFrame:
    """Return the target frame that is the camera's own frame: an identity transform."""
    return TargetFrame(frame_id, np.eye(4))


@dataclass(frozen=True)
class CameraPose:
    """
    Pose of a camera at the time of its image.

    :param vehicle_T_cam: (4, 4) transform to the vehicle frame, z up, for suppressing duplicates
        across cameras; None if unknown.
    :param fixed_T_cam: (4, 4) transform to the fixed (non-moving) frame, z up, for tracking; None
        if unknown.
    """

    vehicle_T_cam: Array | None = None
    fixed_T_cam: Array | None = None


#: Pose of a camera without any known transform.
UNKNOWN_POSE = CameraPose()
NO_POSES: Mapping[str, CameraPose] = MappingProxyType({})
