"""
The thread that answers: takes the newest images, decodes, runs the pipeline, hands results on.

It knows no ROS: what it needs of the world outside is handed in as an Outside.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from mono3d_ros.calibration import Door, Uncalibrated
from mono3d_ros.messages import to_frame
from mono3d_ros.pipeline import Pipeline
from mono3d_ros.stream import Arrival, Counters, Frame, FrameResult, LatestFrames

#: The worker looks this often whether it should stop.
TAKE_S = 0.5
#: A worker that does not come back from the network is given up after this.
JOIN_S = 10.0
#: The same kind of trouble is told at most this often; what will not change is told once.
REPEAT_S = {'uncalibrated': math.inf}
REPEAT_DEFAULT_S = 5.0


@dataclass(frozen=True)
class Outside:
    """
    What the worker needs of the node.

    :param now_ns: the time on the clock of the stamps; 0 where it is not known.
    :param publish: sends a result.
    :param complain: says why a frame is not answered, each kind of trouble now and then.
    """

    now_ns: Callable[[], int]
    publish: Callable[[FrameResult], None]
    complain: Callable[[str], None]


class Worker:
    """Owns the thread, from the call to the end of stop."""

    def __init__(
        self,
        latest: LatestFrames,
        pipeline: Pipeline,
        door: Door,
        counters: Counters,
        outside: Outside,
    ) -> None:
        """
        Start working.

        :param latest: where images come from.
        :param pipeline: what is done with them.
        :param door: calibration.as_rectified or calibration.rectify.
        :param counters: counts what becomes of the images, and how long it took.
        :param outside: where results go.
        """
        self._latest, self._pipeline, self._door = latest, pipeline, door
        self._counters, self._outside = counters, outside
        self._quiet_until_s: dict[str, float] = {}
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
            read = [(arrival, self._guarded(self._read, arrival)) for arrival in arrivals]
            usable = [(arrival, frame) for arrival, frame in read if frame is not None]
            if usable:
                self._guarded(self._answer, usable)

    def _guarded(self, stage: Callable[..., Any], *args: Any) -> Any:
        """Call a stage; whatever a frame is made of, it must not end the node."""
        try:
            return stage(*args)
        except Exception as err:
            self._complain('bad', f'{type(err).__name__}: {err}')
            return None

    def _complain(self, what: str, text: str) -> None:
        """Count why a frame is not answered, and say so if it was not said just before."""
        self._counters.add(what, text)
        now_s = time.monotonic()
        if now_s >= self._quiet_until_s.get(what, now_s):
            self._quiet_until_s[what] = now_s + REPEAT_S.get(what, REPEAT_DEFAULT_S)
            self._outside.complain(f'{what.replace("_", " ")}: {text}')

    def _read(self, arrival: Arrival) -> Frame | None:
        """Decode an image; None where its camera is not calibrated or not yet known."""
        start_ns = time.monotonic_ns()
        if arrival.info is None:
            self._complain('no_camera_info', 'an image, but no camera_info has come yet')
            return None
        try:
            frame = to_frame(arrival.message, arrival.info, arrival.camera, self._door)
        except Uncalibrated as err:
            self._complain('uncalibrated', f'{err}; no boxes from {arrival.camera}')
            return None
        queue_ms = (start_ns - arrival.received_ns) / 1e6
        decode_ms = (time.monotonic_ns() - start_ns) / 1e6
        self._counters.record({'queue': queue_ms, 'decode': decode_ms})
        return frame

    def _answer(self, usable: Sequence[tuple[Arrival, Frame]]) -> None:
        """Detect and hand on."""
        now_ns = self._outside.now_ns()
        results = {
            result.camera: result
            for result in self._pipeline.step([frame for _, frame in usable], now_ns)
        }
        for arrival, frame in usable:
            if frame.camera in results:
                self._publish(results[frame.camera], arrival.received_ns)
            else:
                age_s = (now_ns - frame.stamp_ns) / 1e9
                self._complain(
                    'too_old',
                    f'an image {age_s:.1f} s old, more than max_age_s '
                    f'{self._pipeline.limits.max_age_s:g}; a bag is replayed with --clock and '
                    'use_sim_time',
                )

    def _publish(self, result: FrameResult, received_ns: int) -> None:
        """Hand a result on and record how long everything took."""
        start_ns = time.monotonic_ns()
        self._outside.publish(result)
        end_ns = time.monotonic_ns()
        self._counters.add('answered')
        timings_ms = {
            **result.timings_ms,
            'publish': (end_ns - start_ns) / 1e6,
            'total': (end_ns - received_ns) / 1e6,
        }
        if now_ns := self._outside.now_ns():
            timings_ms['end to end'] = (now_ns - result.stamp_ns) / 1e6
        self._counters.record(timings_ms)
