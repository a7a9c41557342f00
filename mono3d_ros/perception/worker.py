"""
Worker thread: takes the newest images, decodes them, runs the pipeline and publishes results.

Independent of ROS: it calls the functions of WorkerCallbacks.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from mono3d_ros.camera_frame import CameraPose, Frame, FrameResult
from mono3d_ros.messages.images import ImageDecoder, to_frame
from mono3d_ros.messages.intrinsics import CameraInfoError
from mono3d_ros.messages.rectification import Rectifier
from mono3d_ros.perception.header_check import header_fault
from mono3d_ros.perception.image_buffer import ImageBuffer, ReceivedImage
from mono3d_ros.perception.pipeline import Pipeline

#: Interval at which the worker checks whether to stop.
POLL_S = 0.5
#: Longest wait for a worker that hangs in the network.
JOIN_TIMEOUT_S = 10.0
#: Timed stages of a frame, milliseconds; the last one from the stamp of the image to publication.
STAGES = (
    'queue', 'decode', 'place', 'inference', 'postprocess', 'publish', 'total', 'end_to_end',
)  # fmt: skip
#: A result that is older than this, or older than its image, indicates another clock than that of
#: the stamps.
MAX_PLAUSIBLE_AGE_NS = 3_600_000_000_000
#: Time that the first camera_info of a camera may take after its first image: both publishers are
#: discovered one after the other.
INFO_GRACE_NS = 3_000_000_000
#: Time between two images of a camera that are decoded while nobody wants results.
CHECK_PERIOD_NS = 1_000_000_000


@dataclass(frozen=True)
class WorkerCallbacks:
    """
    Functions that the worker calls on the node.

    :param now_ns: returns the current time on the clock of the stamps; 0 if unknown.
    :param is_wanted: returns whether anybody wants results; otherwise the network does not run,
        and only one image per CHECK_PERIOD_NS and camera is decoded.
    :param camera_pose: returns the pose of the camera at the time of a frame.
    :param check_lens: returns a warning, or '' if the focal length is in range.
    :param publish: publishes a result and the annotated image of its frame.
    :param report_timings: receives camera and durations of the stages of a processed frame.
    :param report_issue: receives camera, kind of issue and text.
    """

    now_ns: Callable[[], int]
    is_wanted: Callable[[], bool]
    camera_pose: Callable[[Frame], CameraPose]
    check_lens: Callable[[Frame], str]
    publish: Callable[[FrameResult, Frame], None]
    report_timings: Callable[[str, Mapping[str, float]], None]
    report_issue: Callable[[str, str, str], None]


class _DecodedImage(NamedTuple):
    """A decoded image, its time of arrival, and the durations of its stages so far."""

    frame: Frame
    received_ns: int
    timings_ms: dict[str, float]


class Worker:
    """Owner of the worker thread, from construction to stop."""

    def __init__(
        self,
        buffer: ImageBuffer,
        pipeline: Pipeline,
        rectifiers: Mapping[str, Rectifier],
        callbacks: WorkerCallbacks,
        bit_depths: Mapping[str, int] | None = None,
        *,
        info_grace_ns: int = INFO_GRACE_NS,
    ) -> None:
        """
        Start the thread.

        :param buffer: source of images.
        :param pipeline: pipeline that processes them.
        :param rectifiers: camera -> whether to rectify its images.
        :param callbacks: functions of the node.
        :param bit_depths: camera -> significant bits of its 16-bit images; 0 or absent: found
            from the values.
        :param info_grace_ns: time that the first camera_info of a camera may take.
        """
        self._buffer, self._pipeline, self._rectifiers = buffer, pipeline, rectifiers
        self._callbacks = callbacks
        self._decoders = {
            camera: ImageDecoder(
                (bit_depths or {}).get(camera, 0),
                partial(callbacks.report_issue, camera, 'image_note'),
            )
            for camera in rectifiers
        }
        self._info_grace_ns = info_grace_ns
        self._first_uninformed_ns: dict[str, int] = {}
        self._last_check_ns: dict[str, int] = {}
        # a daemon thread, so that a network that hangs does not keep the process alive
        self._thread = threading.Thread(target=self._run, name='detector', daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread after its current frame."""
        self._buffer.close()
        self._thread.join(JOIN_TIMEOUT_S)

    def _run(self) -> None:
        """Process images until the buffer is closed."""
        while not self._buffer.closed:
            received = self._buffer.take(POLL_S)
            is_wanted = not received or self._is_wanted(received[0].camera)
            due = received if is_wanted else self._due_for_check(received)
            decoded = [self._guarded(each.camera, self._decode, each) for each in due]
            if is_wanted and (valid := [each for each in decoded if each is not None]):
                self._process(valid)

    def _is_wanted(self, camera: str) -> bool:
        """Return whether anybody wants results; yes if that cannot be found out."""
        return self._guarded(camera, self._callbacks.is_wanted) is not False

    def _due_for_check(self, unwanted: Sequence[ReceivedImage]) -> list[ReceivedImage]:
        """Count images that nobody wants; return those to decode all the same, for diagnostics."""
        due = []
        for each in unwanted:
            self._callbacks.report_issue(each.camera, 'unwanted', '')
            last_ns = self._last_check_ns.get(each.camera, -CHECK_PERIOD_NS)
            if each.received_ns - last_ns >= CHECK_PERIOD_NS:
                self._last_check_ns[each.camera] = each.received_ns
                due.append(each)
        return due

    def _guarded(self, camera: str, stage: Callable[..., Any], *args: Any) -> Any:
        """Call a stage; report an exception, so that no frame can end the node."""
        try:
            return stage(*args)
        except Exception as err:
            self._callbacks.report_issue(camera, 'bad', f'{type(err).__name__}: {err}')
            return None

    def _decode(self, received: ReceivedImage) -> _DecodedImage | None:
        """Decode an image; None if its camera is uncalibrated or has no camera_info yet."""
        start_ns, camera = time.monotonic_ns(), received.camera
        if received.info is None:
            self._report_no_info(received)
            return None
        try:
            frame = to_frame(
                received.message,
                received.info,
                camera,
                self._rectifiers[camera],
                self._decoders[camera],
            )
        except CameraInfoError as err:
            self._callbacks.report_issue(
                camera, 'uncalibrated', f'{err}; its images are not processed'
            )
            return None
        if text := header_fault(frame.stamp_ns, frame.frame_id, self._callbacks.now_ns()):
            self._callbacks.report_issue(camera, 'odd_header', text)
        for concern in frame.concerns:
            self._callbacks.report_issue(camera, concern.kind, concern.text)
        if text := self._callbacks.check_lens(frame):
            self._callbacks.report_issue(camera, 'unfamiliar_lens', text)
        queue_ms = (start_ns - received.received_ns) / 1e6
        decode_ms = (time.monotonic_ns() - start_ns) / 1e6
        return _DecodedImage(frame, received.received_ns, {'queue': queue_ms, 'decode': decode_ms})

    def _report_no_info(self, received: ReceivedImage) -> None:
        """Report an image without camera_info: as a fault only after the grace period."""
        camera = received.camera
        first_ns = self._first_uninformed_ns.setdefault(camera, received.received_ns)
        is_early = received.received_ns - first_ns < self._info_grace_ns
        kind = 'early' if is_early else 'no_camera_info'
        self._callbacks.report_issue(camera, kind, 'image received, but no camera_info yet')

    def _process(self, decoded: Sequence[_DecodedImage]) -> None:
        """Detect in all frames as one batch and publish; retry one by one if the batch fails."""
        try:
            results = self._detect(decoded)
        except Exception as err:
            if len(decoded) == 1:
                camera = decoded[0].frame.camera
                self._callbacks.report_issue(camera, 'bad', f'{type(err).__name__}: {err}')
            else:
                for each in decoded:  # one frame is the cause and must not block the others
                    self._process([each])
            return
        for each in decoded:
            if result := results.get(each.frame.camera):
                self._guarded(result.camera, self._publish, result, each)

    def _detect(self, decoded: Sequence[_DecodedImage]) -> dict[str, FrameResult]:
        """Run the pipeline and return results by camera; report frames that are too old."""
        start_ns, now_ns = time.monotonic_ns(), self._callbacks.now_ns()
        poses = {each.frame.camera: self._callbacks.camera_pose(each.frame) for each in decoded}
        pose_ms = (time.monotonic_ns() - start_ns) / 1e6
        step_results = self._pipeline.step([each.frame for each in decoded], now_ns, poses)
        results = {result.camera: result for result in step_results}
        for each in decoded:
            each.timings_ms['place'] = pose_ms
            if each.frame.camera not in results:
                self._report_too_old(each.frame, now_ns)
        return results

    def _publish(self, result: FrameResult, decoded: _DecodedImage) -> None:
        """Publish a result and report the durations of all stages."""
        start_ns = time.monotonic_ns()
        self._callbacks.publish(result, decoded.frame)
        end_ns = time.monotonic_ns()
        timings_ms = {
            **decoded.timings_ms,
            **result.timings_ms,
            'publish': (end_ns - start_ns) / 1e6,
            'total': (end_ns - decoded.received_ns) / 1e6,
        }
        age_ns = self._callbacks.now_ns() - result.stamp_ns
        if 0 <= age_ns < MAX_PLAUSIBLE_AGE_NS:
            timings_ms['end_to_end'] = age_ns / 1e6
        self._callbacks.report_timings(result.camera, timings_ms)

    def _report_too_old(self, frame: Frame, now_ns: int) -> None:
        age_s, max_age_s = (
            (now_ns - frame.stamp_ns) / 1e9,
            self._pipeline.detection_filter.max_age_s,
        )
        text = (
            f'the image is {age_s:.1f} s old, more than max_age_s {max_age_s:g}; replay bags with '
            '--clock and use_sim_time'
        )
        self._callbacks.report_issue(frame.camera, 'too_old', text)
