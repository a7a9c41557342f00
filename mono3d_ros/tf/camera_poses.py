"""
Where the cameras are at the times of their images, as far as tf says.

What is missing is a complaint, never an error: boxes are then told in the camera's own frame.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mono3d_ros.camera_frame import CameraPose, Frame, TargetFrame
from mono3d_ros.tf.buffer import TransformSource, TransformUnavailableError
from stl_core.types import Array

#: A transform that is only late is waited for so long. Where that was in vain, the next is not
#: waited for, until one is there in time again.
MAX_WAIT_S, POLL_S = 0.03, 0.002

#: (camera, kind of trouble, text), see complaints.Complaints.add.
ReportIssue = Callable[[str, str, str], None]


@dataclass(frozen=True)
class FrameNames:
    """Names of the frames that cameras are placed in; '' where that is not asked for."""

    target: str = ''
    vehicle: str = ''
    fixed: str = ''

    @property
    def any_requested(self) -> bool:
        """Whether anything is asked for."""
        return bool(self.target or self.vehicle or self.fixed)


class CameraPoseLookup:
    """Asks tf for what the pipeline and the messages need; for one thread."""

    def __init__(self, tf: TransformSource, frames: FrameNames, report_issue: ReportIssue) -> None:
        """
        Join tf with what is asked of it.

        :param tf: where frames stand in each other.
        :param frames: what is asked for.
        :param report_issue: called where a transform is missing.
        """
        self._tf, self._frames, self._report_issue = tf, frames, report_issue
        self._timed_out: set[tuple[str, str]] = set()

    def camera_pose(self, frame: Frame) -> CameraPose:
        """Tell where the camera of a frame was when it was taken."""
        return CameraPose(
            vehicle_T_cam=self._lookup(self._frames.vehicle, frame),
            fixed_T_cam=self._lookup(self._frames.fixed, frame),
        )

    def target_frame(self, frame: Frame) -> TargetFrame | None:
        """Return the frame to tell the objects of a frame in; None for the camera's own."""
        target_T_cam = self._lookup(self._frames.target, frame)
        return None if target_T_cam is None else TargetFrame(self._frames.target, target_T_cam)

    def _lookup(self, target: str, frame: Frame) -> Array | None:
        """Return (4, 4); None where it is not asked for or not known, which is complained of."""
        if not target:
            return None
        if target == frame.frame_id:
            return np.eye(4)
        way, end_s = (target, frame.frame_id), time.monotonic() + MAX_WAIT_S
        while True:
            try:
                found = self._tf.lookup(target, frame.frame_id, frame.stamp_ns)
            except TransformUnavailableError as err:
                if err.retryable and way not in self._timed_out and time.monotonic() < end_s:
                    time.sleep(POLL_S)
                    continue
                if err.retryable:
                    self._timed_out.add(way)
                self._report_issue(frame.camera, 'no_transform', str(err))
                return None
            self._timed_out.discard(way)
            return found
