"""
Where the cameras are at the times of their images, as far as tf says.

What is missing is a complaint, never an error: boxes are then told in the camera's own frame.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mono3d_ros.camera_frame import Frame, Place, Target
from mono3d_ros.tf.buffer import MissingTransform, Transforms
from stl_core.types import Array

#: A transform that is only late is waited for so long. Where that was in vain, the next is not
#: waited for, until one is there in time again.
LATE_S, POLL_S = 0.03, 0.002

#: (camera, kind of trouble, text), see complaints.Complaints.add.
Complain = Callable[[str, str, str], None]


@dataclass(frozen=True)
class Frames:
    """Names of the frames that cameras are placed in; '' where that is not asked for."""

    target: str = ''
    vehicle: str = ''
    fixed: str = ''

    @property
    def wanted(self) -> bool:
        """Whether anything is asked for."""
        return bool(self.target or self.vehicle or self.fixed)


class Placing:
    """Asks tf for what the pipeline and the messages need; for one thread."""

    def __init__(self, tf: Transforms, frames: Frames, complain: Complain) -> None:
        """
        Join tf with what is asked of it.

        :param tf: where frames stand in each other.
        :param frames: what is asked for.
        :param complain: called where a transform is missing.
        """
        self._tf, self._frames, self._complain = tf, frames, complain
        self._in_vain: set[tuple[str, str]] = set()

    def place(self, frame: Frame) -> Place:
        """Tell where the camera of a frame was when it was taken."""
        return Place(
            vehicle_T_cam=self._find(self._frames.vehicle, frame),
            fixed_T_cam=self._find(self._frames.fixed, frame),
        )

    def target(self, frame: Frame) -> Target | None:
        """Return the frame to tell the objects of a frame in; None for the camera's own."""
        target_T_cam = self._find(self._frames.target, frame)
        return None if target_T_cam is None else Target(self._frames.target, target_T_cam)

    def _find(self, target: str, frame: Frame) -> Array | None:
        """Return (4, 4); None where it is not asked for or not known, which is complained of."""
        if not target:
            return None
        if target == frame.frame_id:
            return np.eye(4)
        way, end_s = (target, frame.frame_id), time.monotonic() + LATE_S
        while True:
            try:
                found = self._tf.find(target, frame.frame_id, frame.stamp_ns)
            except MissingTransform as err:
                if err.late and way not in self._in_vain and time.monotonic() < end_s:
                    time.sleep(POLL_S)
                    continue
                if err.late:
                    self._in_vain.add(way)
                self._complain(frame.camera, 'no_transform', str(err))
                return None
            self._in_vain.discard(way)
            return found
