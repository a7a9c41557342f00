"""
Look up camera poses in tf at the times of their images.

A missing transform is reported, never raised: boxes then stay in the camera's own frame, or are
not published.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mono3d_ros.camera_frame import CameraPose, Frame, TargetFrame
from mono3d_ros.tf.buffer import TransformSource, TransformUnavailableError
from stl_core.types import Array

#: Longest wait for a late transform by default, and poll interval, seconds. After a timeout, later
#: lookups of the same frames do not wait again until one has succeeded.
MAX_WAIT_S, POLL_S = 0.03, 0.002

#: (camera, kind of issue, text), see throttled_log.IssueLog.add.
ReportIssue = Callable[[str, str, str], None]


@dataclass(frozen=True)
class FrameNames:
    """Names of the frames in which camera poses are requested; '' requests none."""

    target: str = ''
    vehicle: str = ''
    fixed: str = ''

    @property
    def any_requested(self) -> bool:
        """Return whether any frame is requested."""
        return bool(self.target or self.vehicle or self.fixed)


class CameraPoseLookup:
    """Looks up the transforms that pipeline and messages need; not thread-safe."""

    def __init__(
        self,
        tf: TransformSource,
        frames: FrameNames,
        report_issue: ReportIssue,
        max_wait_s: float = MAX_WAIT_S,
    ) -> None:
        """
        Store the transform source and the requested frames.

        :param tf: source of transforms.
        :param frames: requested frames.
        :param report_issue: called if a transform is missing.
        :param max_wait_s: longest wait for a late transform, seconds.
        """
        self._tf, self._frames, self._report_issue = tf, frames, report_issue
        self._max_wait_s = max_wait_s
        self._timed_out: set[tuple[str, str]] = set()

    def camera_pose(self, frame: Frame) -> CameraPose:
        """Return the camera pose at the time of a frame."""
        return CameraPose(
            vehicle_T_cam=self._lookup(self._frames.vehicle, frame),
            fixed_T_cam=self._lookup(self._frames.fixed, frame),
        )

    def target_frame(self, frame: Frame) -> TargetFrame | None:
        """Return the frame in which to publish the objects; None for the camera's own."""
        target_T_cam = self._lookup(self._frames.target, frame)
        return None if target_T_cam is None else TargetFrame(self._frames.target, target_T_cam)

    def _lookup(self, target: str, frame: Frame) -> Array | None:
        """Return the (4, 4) camera pose; None if not requested, or missing and reported."""
        if not target:
            return None
        if target == frame.frame_id:
            return np.eye(4)
        frames, end_s = (target, frame.frame_id), time.monotonic() + self._max_wait_s
        while True:
            try:
                target_T_cam = self._tf.lookup(target, frame.frame_id, frame.stamp_ns)
            except TransformUnavailableError as err:
                if err.retryable and frames not in self._timed_out and time.monotonic() < end_s:
                    time.sleep(POLL_S)
                    continue
                if err.retryable:
                    self._timed_out.add(frames)
                hint = '; see tf_wait_s and late_tf' if err.retryable else ''
                self._report_issue(frame.camera, 'no_transform', f'{err}{hint}')
                return None
            self._timed_out.discard(frames)
            return target_T_cam
