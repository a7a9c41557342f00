"""
Between callbacks and worker: the newest image of each camera, with the camera_info of its stamp.

Callbacks put and return at once; the worker takes. An image that is not taken before the next
one of its camera comes is dropped and counted, so a slow network never works on old pictures.
"""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from stl_core.types import Array, Objects3D

#: How many camera_infos of a camera are kept to find the one of an image's stamp.
INFOS_KEPT = 20
#: How many timings of a stage the percentiles are taken over.
TIMINGS_KEPT = 200


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
    """

    camera: str
    stamp_ns: int
    frame_id: str
    objects: Objects3D
    classes: tuple[str, ...]
    ids: tuple[int, ...]
    timings_ms: Mapping[str, float]


@dataclass(frozen=True)
class Arrival:
    """
    An image message, taken by the worker.

    :param camera: our name of it.
    :param message: the image message, as it came.
    :param info: the camera_info message that belongs to it; None while there was none at all.
    :param received_ns: when it came, on the clock of LatestFrames.
    """

    camera: str
    message: Any
    info: Any
    received_ns: int


@dataclass(frozen=True)
class Snapshot:
    """
    Counters at one moment.

    :param counts: how often each thing happened.
    :param texts: the last thing said about each.
    :param latency_ms: median and 95th percentile of each stage.
    """

    counts: Mapping[str, int]
    texts: Mapping[str, str]
    latency_ms: Mapping[str, tuple[float, float]]


class Counters:
    """Counts and timings, shared by the threads of the node."""

    def __init__(self) -> None:
        """Start at nothing."""
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._texts: dict[str, str] = {}
        self._timings: dict[str, deque[float]] = {}

    def add(self, name: str, text: str = '') -> None:
        """Count something, and keep what there is to say about it."""
        with self._lock:
            self._counts[name] += 1
            self._texts[name] = text

    def record(self, timings_ms: Mapping[str, float]) -> None:
        """Keep how long the stages of a frame took."""
        with self._lock:
            for stage, ms in timings_ms.items():
                self._timings.setdefault(stage, deque(maxlen=TIMINGS_KEPT)).append(ms)

    def snapshot(self) -> Snapshot:
        """Return all of it."""
        with self._lock:
            counts, texts = dict(self._counts), dict(self._texts)
            timings = {stage: list(each) for stage, each in self._timings.items()}
        latency = {}
        for stage, each in timings.items():
            median, high = np.percentile(each, [50, 95])
            latency[stage] = (float(median), float(high))
        return Snapshot(counts, texts, latency)


@dataclass
class _Pending:
    """The newest image of a camera, and until when it may wait for its camera_info."""

    message: Any
    stamp_ns: int
    received_ns: int
    deadline_ns: int


@dataclass
class _Camera:
    """
    What is known of one camera.

    :param stamp_matched: its camera_infos carry the stamps of its images, so one is worth
        waiting for: P may differ from frame to frame.
    """

    infos: OrderedDict[int, Any] = field(default_factory=OrderedDict)
    image_stamps: deque[int] = field(default_factory=lambda: deque(maxlen=INFOS_KEPT))
    pending: _Pending | None = None
    stamp_matched: bool = False


class LatestFrames:
    """The newest image of each camera."""

    def __init__(
        self,
        counters: Counters,
        clock_ns: Callable[[], int],
        info_wait_ns: int = 50_000_000,
    ) -> None:
        """
        Start empty.

        :param counters: counts 'superseded' images.
        :param clock_ns: a clock that never jumps.
        :param info_wait_ns: how long an image may wait for the camera_info of its stamp.
        """
        self._counters, self._clock_ns, self._info_wait_ns = counters, clock_ns, info_wait_ns
        self._condition = threading.Condition()
        self._cameras: dict[str, _Camera] = {}
        self._closed = False

    def put_image(self, camera: str, stamp_ns: int, message: Any) -> None:
        """Keep an image; an older one of that camera is dropped and counted."""
        now_ns = self._clock_ns()
        deadline_ns = now_ns + self._info_wait_ns
        with self._condition:
            state = self._cameras.setdefault(camera, _Camera())
            if state.pending is not None:
                self._counters.add('superseded')
                # or images that come faster than their infos would all wait for ever
                if state.pending.stamp_ns not in state.infos:
                    deadline_ns = min(deadline_ns, state.pending.deadline_ns)
            state.pending = _Pending(message, stamp_ns, now_ns, deadline_ns)
            state.image_stamps.append(stamp_ns)
            state.stamp_matched |= stamp_ns in state.infos
            self._condition.notify()

    def put_info(self, camera: str, stamp_ns: int, info: Any) -> None:
        """Keep a camera_info; it may come before or after its image."""
        with self._condition:
            state = self._cameras.setdefault(camera, _Camera())
            state.infos[stamp_ns] = info
            state.infos.move_to_end(stamp_ns)
            while len(state.infos) > INFOS_KEPT:
                state.infos.popitem(last=False)
            state.stamp_matched |= stamp_ns in state.image_stamps
            self._condition.notify()

    def take(self, timeout_s: float) -> list[Arrival]:
        """
        Take the newest images of all cameras that are ready, waiting for one.

        :param timeout_s: how long to wait.
        :return: at most one a camera; none on timeout and after close.
        """
        end_ns = self._clock_ns() + int(timeout_s * 1e9)
        with self._condition:
            while True:
                now_ns = self._clock_ns()
                ready = self._ready(now_ns)
                if ready or self._closed or now_ns >= end_ns:
                    return ready
                deadlines = [c.pending.deadline_ns for c in self._cameras.values() if c.pending]
                self._condition.wait((min([end_ns, *deadlines]) - now_ns) / 1e9)

    @property
    def closed(self) -> bool:
        """Whether close was called."""
        return self._closed

    def close(self) -> None:
        """Let a waiting take return."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()

    def _ready(self, now_ns: int) -> list[Arrival]:
        """Take what need not wait any longer."""
        arrivals = []
        for camera, state in self._cameras.items():
            pending = state.pending
            if pending is None:
                continue
            newest = next(reversed(state.infos.values()), None)
            info = state.infos.get(pending.stamp_ns)
            if info is None and now_ns >= pending.deadline_ns:
                state.stamp_matched, info = False, newest
            elif info is None:
                if state.stamp_matched or newest is None:
                    continue
                info = newest
            state.pending = None
            arrivals.append(Arrival(camera, pending.message, info, pending.received_ns))
        return arrivals
