"""
Buffer between callbacks and worker: the newest image of each camera with its camera_info.

Callbacks put messages without blocking; the worker takes them. An image that is not taken before
the next one of its camera arrives is dropped and counted, so a slow network never processes old
images.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mono3d_ros.monitoring.counters import Counters

#: Number of latest camera_infos per camera among which the one of an image's stamp is searched.
INFOS_KEPT = 20
#: Longest wait of an image for its camera_info, and of a reference image for other cameras.
WAIT_NS = 50_000_000


@dataclass(frozen=True)
class ReceivedImage:
    """
    An image message that the worker took from the buffer.

    :param camera: name of the camera.
    :param message: the image message, not decoded.
    :param info: its camera_info message; None if none was received yet.
    :param received_ns: time of arrival on the clock of the ImageBuffer.
    """

    camera: str
    message: Any
    info: Any
    received_ns: int


@dataclass(frozen=True)
class SyncReference:
    """
    The camera whose images trigger a batch of all cameras.

    :param camera: name of the reference camera.
    :param max_apart_ns: largest difference between the stamps of its image and of another image
        in the batch.
    """

    camera: str
    max_apart_ns: int


@dataclass(frozen=True)
class _Pending:
    """The newest image of a camera, and the deadline of its wait for camera_info."""

    message: Any
    stamp_ns: int
    received_ns: int
    deadline_ns: int


@dataclass
class _CameraState:
    """
    State of one camera.

    :param stamp_matched: camera_infos carry the stamps of images, so an image waits for its own:
        P may differ from frame to frame.
    :param in_sync: the last batch contained an image of this camera, so the next batch waits.
    :param due_ns: due time of the next image if the rate is limited.
    """

    infos: OrderedDict[int, Any] = field(default_factory=OrderedDict)
    image_stamps: deque[int] = field(default_factory=lambda: deque(maxlen=INFOS_KEPT))
    pending: _Pending | None = None
    stamp_matched: bool = False
    in_sync: bool = True
    due_ns: int = 0

    def ready_image(self, now_ns: int) -> _Pending | None:
        """Return the pending image if it need not wait for its camera_info any longer."""
        pending = self.pending
        if pending is None or pending.stamp_ns in self.infos or now_ns >= pending.deadline_ns:
            return pending
        return pending if self.infos and not self.stamp_matched else None

    def take_image(self, name: str, now_ns: int) -> ReceivedImage:
        """Remove and return the pending image, which must be ready."""
        pending, self.pending = self.pending, None
        assert pending is not None, 'taken without being ready'
        info = self.infos.get(pending.stamp_ns)
        if info is None:
            self.stamp_matched &= now_ns < pending.deadline_ns
            info = next(reversed(self.infos.values()), None)
        return ReceivedImage(name, pending.message, info, pending.received_ns)


class ImageBuffer:
    """Thread-safe buffer of the newest image of each camera."""

    def __init__(
        self,
        counters: Mapping[str, Counters],
        clock_ns: Callable[[], int],
        *,
        wait_ns: int = WAIT_NS,
        reference: SyncReference | None = None,
    ) -> None:
        """
        Start with an empty buffer.

        :param counters: camera -> counters of its images, 'received', 'superseded' and
            'rate_limited', and of its camera_infos, 'infos'.
        :param clock_ns: a monotonic clock.
        :param wait_ns: longest wait of an image for the camera_info of its stamp.
        :param reference: camera whose images trigger a batch; None: every image is due as soon as
            it is ready.
        """
        self._counters, self._clock_ns, self._wait_ns = counters, clock_ns, wait_ns
        self._reference = reference
        self._condition = threading.Condition()
        self._cameras = {camera: _CameraState() for camera in counters}
        self._closed = False
        self.max_rate_hz = 0.0  #: per camera, or of the reference; 0: no limit

    def put_image(self, camera: str, stamp_ns: int, message: Any) -> None:
        """Store an image; drop and count an older one of the same camera."""
        now_ns = self._clock_ns()
        deadline_ns = now_ns + self._wait_ns
        with self._condition:
            state = self._cameras[camera]
            self._counters[camera].add('received')
            state.image_stamps.append(stamp_ns)
            state.stamp_matched |= stamp_ns in state.infos
            if self._exceeds_rate(camera, now_ns):
                self._counters[camera].add('rate_limited')
                return
            if state.pending is not None:
                self._counters[camera].add('superseded')
                # else images that arrive faster than their infos would wait for ever
                if state.pending.stamp_ns not in state.infos:
                    deadline_ns = min(deadline_ns, state.pending.deadline_ns)
            state.pending = _Pending(message, stamp_ns, now_ns, deadline_ns)
            self._condition.notify()

    def put_info(self, camera: str, stamp_ns: int, info: Any) -> None:
        """Store a camera_info; it may arrive before or after its image."""
        with self._condition:
            state = self._cameras[camera]
            self._counters[camera].add('infos')
            state.infos[stamp_ns] = info
            state.infos.move_to_end(stamp_ns)
            while len(state.infos) > INFOS_KEPT:
                state.infos.popitem(last=False)
            state.stamp_matched |= stamp_ns in state.image_stamps
            self._condition.notify()

    def take(self, timeout_s: float) -> list[ReceivedImage]:
        """
        Return the newest images of all due cameras; wait until there is one.

        :param timeout_s: longest wait.
        :return: at most one image per camera; none on timeout and after close.
        """
        end_ns = self._clock_ns() + int(timeout_s * 1e9)
        with self._condition:
            while True:
                now_ns = self._clock_ns()
                due = self._due_cameras(now_ns)
                if due or self._closed or now_ns >= end_ns:
                    return [self._cameras[name].take_image(name, now_ns) for name in due]
                waiting = [each.pending for each in self._cameras.values() if each.pending]
                times = [each.deadline_ns for each in waiting if each.deadline_ns > now_ns]
                self._condition.wait((min([end_ns, *times]) - now_ns) / 1e9)

    @property
    def closed(self) -> bool:
        """Return whether close was called."""
        return self._closed

    def close(self) -> None:
        """Close the buffer; a waiting take returns."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()

    def _exceeds_rate(self, camera: str, now_ns: int) -> bool:
        """
        Return whether an image exceeds the rate limit; else schedule the next due time.

        An image may arrive half a period early, but the next one is due as if it had been on
        time: so a camera with jitter keeps its rate, and none exceeds the limit for long.
        """
        if self.max_rate_hz <= 0 or (self._reference and camera != self._reference.camera):
            return False
        state, period_ns = self._cameras[camera], int(1e9 / self.max_rate_hz)
        if now_ns < state.due_ns - period_ns // 2:
            return True
        state.due_ns = max(state.due_ns, now_ns) + period_ns
        return False

    def _due_cameras(self, now_ns: int) -> list[str]:
        """Return the names of the cameras whose images are due."""
        pending_images = {name: state.ready_image(now_ns) for name, state in self._cameras.items()}
        ready = {name: pending for name, pending in pending_images.items() if pending is not None}
        if self._reference is None:
            return list(ready)
        reference = ready.get(self._reference.camera)
        if reference is None:
            return []
        offsets_ns = {
            name: abs(each.stamp_ns - reference.stamp_ns) for name, each in ready.items()
        }
        in_batch = [name for name, ns in offsets_ns.items() if ns <= self._reference.max_apart_ns]
        missing = [state for name, state in self._cameras.items() if name not in in_batch]
        if now_ns < reference.deadline_ns and any(state.in_sync for state in missing):
            return []
        for name, state in self._cameras.items():
            state.in_sync = name in in_batch
        return in_batch
