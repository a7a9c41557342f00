"""
The thread that answers: takes the newest images, decodes, runs the pipeline, hands results on.

It knows no ROS: what it needs of the world outside is handed in as an Outside.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from mono3d_ros.camera_frame import CameraPose, Frame, FrameResult
from mono3d_ros.messages.images import to_frame
from mono3d_ros.messages.rectification import Rectifier, UncalibratedError
from mono3d_ros.perception.image_buffer import ImageBuffer, ReceivedImage
from mono3d_ros.perception.pipeline import Pipeline

#: The worker looks this often whether it should stop.
POLL_S = 0.5
#: A worker that does not come back from the network is given up after this.
JOIN_TIMEOUT_S = 10.0
#: What is timed of each frame, milliseconds; the last from the image's stamp to the answer.
STAGES = (
    'queue', 'decode', 'place', 'inference', 'postprocess', 'publish', 'total', 'end_to_end',
)  # fmt: skip
#: An answer later than this, or earlier than its image, is by another clock than the stamps.
MAX_PLAUSIBLE_AGE_NS = 3_600_000_000_000


@dataclass(frozen=True)
class WorkerCallbacks:
    """
    What the worker needs of the node.

    :param now_ns: the time on the clock of the stamps; 0 where it is not known.
    :param camera_pose: tells where the camera of a frame is.
    :param check_lens: says what is strange about a frame's lens; '' where nothing is.
    :param publish: sends a result and what belongs to its frame.
    :param report_timings: takes how long the stages of an answered frame took.
    :param report_issue: takes camera, kind of trouble and why a frame is not answered.
    """

    now_ns: Callable[[], int]
    camera_pose: Callable[[Frame], CameraPose]
    check_lens: Callable[[Frame], str]
    publish: Callable[[FrameResult, Frame], None]
    report_timings: Callable[[str, Mapping[str, float]], None]
    report_issue: Callable[[str, str, str], None]


class _DecodedImage(NamedTuple):
    """An image that was read, when it came, and how long it took until here."""

    frame: Frame
    received_ns: int
    timings_ms: dict[str, float]


class Worker:
    """Owns the thread, from the call to the end of stop."""

    def __init__(
        self,
        buffer: ImageBuffer,
        pipeline: Pipeline,
        rectifiers: Mapping[str, Rectifier],
        callbacks: WorkerCallbacks,
    ) -> None:
        """
        Start working.

        :param buffer: where images come from.
        :param pipeline: what is done with them.
        :param rectifiers: of each camera calibration.as_rectified or calibration.rectify.
        :param callbacks: where results go.
        """
        self._buffer, self._pipeline, self._rectifiers = buffer, pipeline, rectifiers
        self._callbacks = callbacks
        # a daemon, so that a network which hangs cannot keep the process alive
        self._thread = threading.Thread(target=self._run, name='detector', daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread after the frame it is working on."""
        self._buffer.close()
        self._thread.join(JOIN_TIMEOUT_S)

    def _run(self) -> None:
        """Answer images until the frames are closed."""
        while not self._buffer.closed:
            arrivals = self._buffer.take(POLL_S)
            read = [self._guarded(each.camera, self._decode, each) for each in arrivals]
            if usable := [each for each in read if each is not None]:
                self._process(usable)

    def _guarded(self, camera: str, stage: Callable[..., Any], *args: Any) -> Any:
        """Call a stage; whatever a frame is made of, it must not end the node."""
        try:
            return stage(*args)
        except Exception as err:
            self._callbacks.report_issue(camera, 'bad', f'{type(err).__name__}: {err}')
            return None

    def _decode(self, received: ReceivedImage) -> _DecodedImage | None:
        """Decode an image; None where its camera is not calibrated or not yet known."""
        start_ns, camera = time.monotonic_ns(), received.camera
        if received.info is None:
            text = 'an image, but no camera_info has come yet'
            self._callbacks.report_issue(camera, 'no_camera_info', text)
            return None
        try:
            frame = to_frame(received.message, received.info, camera, self._rectifiers[camera])
        except UncalibratedError as err:
            self._callbacks.report_issue(camera, 'uncalibrated', f'{err}; no boxes from it')
            return None
        if text := self._callbacks.check_lens(frame):
            self._callbacks.report_issue(camera, 'unfamiliar_lens', text)
        queue_ms = (start_ns - received.received_ns) / 1e6
        decode_ms = (time.monotonic_ns() - start_ns) / 1e6
        return _DecodedImage(frame, received.received_ns, {'queue': queue_ms, 'decode': decode_ms})

    def _process(self, decoded: Sequence[_DecodedImage]) -> None:
        """Detect in one frame a camera and hand on, all together if that can be."""
        try:
            results = self._detect(decoded)
        except Exception as err:
            if len(decoded) == 1:
                camera = decoded[0].frame.camera
                self._callbacks.report_issue(camera, 'bad', f'{type(err).__name__}: {err}')
            else:
                for each in decoded:  # only one is to blame, and must not silence the others
                    self._process([each])
            return
        for each in decoded:
            if result := results.get(each.frame.camera):
                self._guarded(result.camera, self._publish, result, each)

    def _detect(self, decoded: Sequence[_DecodedImage]) -> dict[str, FrameResult]:
        """Run the pipeline -> what was found, by camera; complain of frames that are too old."""
        start_ns, now_ns = time.monotonic_ns(), self._callbacks.now_ns()
        places = {each.frame.camera: self._callbacks.camera_pose(each.frame) for each in decoded}
        place_ms = (time.monotonic_ns() - start_ns) / 1e6
        found = self._pipeline.step([each.frame for each in decoded], now_ns, places)
        results = {result.camera: result for result in found}
        for each in decoded:
            each.timings_ms['place'] = place_ms
            if each.frame.camera not in results:
                self._report_too_old(each.frame, now_ns)
        return results

    def _publish(self, result: FrameResult, decoded: _DecodedImage) -> None:
        """Hand a result on and record how long everything took."""
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
        age_s, most_s = (now_ns - frame.stamp_ns) / 1e9, self._pipeline.detection_filter.max_age_s
        text = (
            f'an image {age_s:.1f} s old, more than max_age_s {most_s:g}; a bag is replayed with '
            '--clock and use_sim_time'
        )
        self._callbacks.report_issue(frame.camera, 'too_old', text)
