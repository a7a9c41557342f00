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

from mono3d_ros.camera_frame import Frame, FrameResult, Place
from mono3d_ros.messages.images import to_frame
from mono3d_ros.messages.rectification import Door, Uncalibrated
from mono3d_ros.perception.image_buffer import Arrival, LatestFrames
from mono3d_ros.perception.pipeline import Pipeline

#: The worker looks this often whether it should stop.
TAKE_S = 0.5
#: A worker that does not come back from the network is given up after this.
JOIN_S = 10.0
#: What is timed of each frame, milliseconds; the last from the image's stamp to the answer.
STAGES = (
    'queue', 'decode', 'place', 'inference', 'postprocess', 'publish', 'total', 'end_to_end',
)  # fmt: skip
#: An answer later than this, or earlier than its image, is by another clock than the stamps.
ANOTHER_CLOCK_NS = 3_600_000_000_000


@dataclass(frozen=True)
class Outside:
    """
    What the worker needs of the node.

    :param now_ns: the time on the clock of the stamps; 0 where it is not known.
    :param place: tells where the camera of a frame is.
    :param strange: says what is strange about a frame's lens; '' where nothing is.
    :param publish: sends a result and what belongs to its frame.
    :param report: takes how long the stages of an answered frame took.
    :param complain: takes camera, kind of trouble and why a frame is not answered.
    """

    now_ns: Callable[[], int]
    place: Callable[[Frame], Place]
    strange: Callable[[Frame], str]
    publish: Callable[[FrameResult, Frame], None]
    report: Callable[[str, Mapping[str, float]], None]
    complain: Callable[[str, str, str], None]


class _Read(NamedTuple):
    """An image that was read, when it came, and how long it took until here."""

    frame: Frame
    received_ns: int
    timings_ms: dict[str, float]


class Worker:
    """Owns the thread, from the call to the end of stop."""

    def __init__(
        self,
        latest: LatestFrames,
        pipeline: Pipeline,
        doors: Mapping[str, Door],
        outside: Outside,
    ) -> None:
        """
        Start working.

        :param latest: where images come from.
        :param pipeline: what is done with them.
        :param doors: of each camera calibration.as_rectified or calibration.rectify.
        :param outside: where results go.
        """
        self._latest, self._pipeline, self._doors = latest, pipeline, doors
        self._outside = outside
        # a daemon, so that a network which hangs cannot keep the process alive
        self._thread = threading.Thread(target=self._work, name='detector', daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread after the frame it is working on."""
        self._latest.close()
        self._thread.join(JOIN_S)

    def _work(self) -> None:
        """Answer images until the frames are closed."""
        while not self._latest.closed:
            arrivals = self._latest.take(TAKE_S)
            read = [self._guarded(each.camera, self._read, each) for each in arrivals]
            if usable := [each for each in read if each is not None]:
                self._answer(usable)

    def _guarded(self, camera: str, stage: Callable[..., Any], *args: Any) -> Any:
        """Call a stage; whatever a frame is made of, it must not end the node."""
        try:
            return stage(*args)
        except Exception as err:
            self._outside.complain(camera, 'bad', f'{type(err).__name__}: {err}')
            return None

    def _read(self, arrival: Arrival) -> _Read | None:
        """Decode an image; None where its camera is not calibrated or not yet known."""
        start_ns, camera = time.monotonic_ns(), arrival.camera
        if arrival.info is None:
            text = 'an image, but no camera_info has come yet'
            self._outside.complain(camera, 'no_camera_info', text)
            return None
        try:
            frame = to_frame(arrival.message, arrival.info, camera, self._doors[camera])
        except Uncalibrated as err:
            self._outside.complain(camera, 'uncalibrated', f'{err}; no boxes from it')
            return None
        if text := self._outside.strange(frame):
            self._outside.complain(camera, 'unfamiliar_lens', text)
        queue_ms = (start_ns - arrival.received_ns) / 1e6
        decode_ms = (time.monotonic_ns() - start_ns) / 1e6
        return _Read(frame, arrival.received_ns, {'queue': queue_ms, 'decode': decode_ms})

    def _answer(self, usable: Sequence[_Read]) -> None:
        """Detect in one frame a camera and hand on, all together if that can be."""
        try:
            results = self._detect(usable)
        except Exception as err:
            if len(usable) == 1:
                camera = usable[0].frame.camera
                self._outside.complain(camera, 'bad', f'{type(err).__name__}: {err}')
            else:
                for each in usable:  # only one is to blame, and must not silence the others
                    self._answer([each])
            return
        for each in usable:
            if result := results.get(each.frame.camera):
                self._guarded(result.camera, self._publish, result, each)

    def _detect(self, usable: Sequence[_Read]) -> dict[str, FrameResult]:
        """Run the pipeline -> what was found, by camera; complain of frames that are too old."""
        start_ns, now_ns = time.monotonic_ns(), self._outside.now_ns()
        places = {each.frame.camera: self._outside.place(each.frame) for each in usable}
        place_ms = (time.monotonic_ns() - start_ns) / 1e6
        found = self._pipeline.step([each.frame for each in usable], now_ns, places)
        results = {result.camera: result for result in found}
        for each in usable:
            each.timings_ms['place'] = place_ms
            if each.frame.camera not in results:
                self._too_old(each.frame, now_ns)
        return results

    def _publish(self, result: FrameResult, read: _Read) -> None:
        """Hand a result on and record how long everything took."""
        start_ns = time.monotonic_ns()
        self._outside.publish(result, read.frame)
        end_ns = time.monotonic_ns()
        timings_ms = {
            **read.timings_ms,
            **result.timings_ms,
            'publish': (end_ns - start_ns) / 1e6,
            'total': (end_ns - read.received_ns) / 1e6,
        }
        age_ns = self._outside.now_ns() - result.stamp_ns
        if 0 <= age_ns < ANOTHER_CLOCK_NS:
            timings_ms['end_to_end'] = age_ns / 1e6
        self._outside.report(result.camera, timings_ms)

    def _too_old(self, frame: Frame, now_ns: int) -> None:
        age_s, most_s = (now_ns - frame.stamp_ns) / 1e9, self._pipeline.selection.max_age_s
        text = (
            f'an image {age_s:.1f} s old, more than max_age_s {most_s:g}; a bag is replayed with '
            '--clock and use_sim_time'
        )
        self._outside.complain(frame.camera, 'too_old', text)
