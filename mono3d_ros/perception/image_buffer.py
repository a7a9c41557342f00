"""
Between callbacks and worker: the newest image of each camera, with the camera_info of its stamp.

Callbacks put and return at once; the worker takes. An image that is not taken before the next
one of its camera comes is dropped and counted, so a slow network never works on old pictures.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mono3d_ros.monitoring.counters import Counters

#: How many camera_infos of a camera are kept to find the one of an image's stamp.
INFOS_KEPT = 20
#: How long an image may wait for its camera_info, and that of an anchor for the other cameras'.
WAIT_NS = 50_000_000


@dataclass(frozen=True)
class ReceivedImage:
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
class SyncReference:
    """
    The camera whose image lets those of all cameras go.

    :param camera: its name.
    :param max_apart_ns: images of others go with its own when stamped at most so far from it.
    """

    camera: str
    max_apart_ns: int


@dataclass(frozen=True)
class _Pending:
    """The newest image of a camera, and until when it may wait for its camera_info."""

    message: Any
    stamp_ns: int
    received_ns: int
    deadline_ns: int


@dataclass
class _CameraState:
    """
    What is known of one camera.

    :param stamp_matched: its camera_infos carry the stamps of its images, so one is worth
        waiting for: P may differ from frame to frame.
    :param in_sync: its image went with the anchor's last time, so the next is worth waiting for.
    :param due_ns: when its next image is due, where their rate is limited.
    """

    infos: OrderedDict[int, Any] = field(default_factory=OrderedDict)
    image_stamps: deque[int] = field(default_factory=lambda: deque(maxlen=INFOS_KEPT))
    pending: _Pending | None = None
    stamp_matched: bool = False
    in_sync: bool = True
    due_ns: int = 0

    def ready_image(self, now_ns: int) -> _Pending | None:
        """Return the image, where it need not wait for its camera_info any longer."""
        pending = self.pending
        if pending is None or pending.stamp_ns in self.infos or now_ns >= pending.deadline_ns:
            return pending
        return pending if self.infos and not self.stamp_matched else None

    def take_image(self, name: str, now_ns: int) -> ReceivedImage:
        """Take the image that is ready."""
        pending, self.pending = self.pending, None
        assert pending is not None, 'taken without being ready'
        info = self.infos.get(pending.stamp_ns)
        if info is None:
            self.stamp_matched &= now_ns < pending.deadline_ns
            info = next(reversed(self.infos.values()), None)
        return ReceivedImage(name, pending.message, info, pending.received_ns)


class ImageBuffer:
    """The newest image of each camera."""

    def __init__(
        self,
        counters: Mapping[str, Counters],
        clock_ns: Callable[[], int],
        *,
        wait_ns: int = WAIT_NS,
        reference: SyncReference | None = None,
    ) -> None:
        """
        Start empty.

        :param counters: of each camera; count images 'received', 'superseded' or 'rate_limited',
            and 'infos'.
        :param clock_ns: a clock that never jumps.
        :param wait_ns: how long an image may wait for the camera_info of its stamp.
        :param reference: its image lets all go; None: every image goes as soon as it is ready.
        """
        self._counters, self._clock_ns, self._wait_ns = counters, clock_ns, wait_ns
        self._reference = reference
        self._condition = threading.Condition()
        self._cameras = {camera: _CameraState() for camera in counters}
        self._closed = False
        self.max_rate_hz = 0.0  #: images of a camera, or of the anchor, a second; 0: no limit

    def put_image(self, camera: str, stamp_ns: int, message: Any) -> None:
        """Keep an image; an older one of that camera is dropped and counted."""
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
                # or images that come faster than their infos would all wait for ever
                if state.pending.stamp_ns not in state.infos:
                    deadline_ns = min(deadline_ns, state.pending.deadline_ns)
            state.pending = _Pending(message, stamp_ns, now_ns, deadline_ns)
            self._condition.notify()

    def put_info(self, camera: str, stamp_ns: int, info: Any) -> None:
        """Keep a camera_info; it may come before or after its image."""
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
        Take the newest images of all cameras that are due, waiting for one.

        :param timeout_s: how long to wait.
        :return: at most one a camera; none on timeout and after close.
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
        """Whether close was called."""
        return self._closed

    def close(self) -> None:
        """Let a waiting take return."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()

    def _exceeds_rate(self, camera: str, now_ns: int) -> bool:
        """
        Tell whether an image comes sooner than the rate allows, and count it in.

        It may come early by half a period, but the next one is due as if it had come in time:
        so a camera that trembles a little keeps its rate, and none exceeds the limit for long.
        """
        if self.max_rate_hz <= 0 or (self._reference and camera != self._reference.camera):
            return False
        state, period_ns = self._cameras[camera], int(1e9 / self.max_rate_hz)
        if now_ns < state.due_ns - period_ns // 2:
            return True
        state.due_ns = max(state.due_ns, now_ns) + period_ns
        return False

    def _due_cameras(self, now_ns: int) -> list[str]:
        """List the cameras whose images go now."""
        found = {name: state.ready_image(now_ns) for name, state in self._cameras.items()}
        ready = {name: pending for name, pending in found.items() if pending is not None}
        if self._reference is None:
            return list(ready)
        first = ready.get(self._reference.camera)
        if first is None:
            return []
        apart_ns = {name: abs(each.stamp_ns - first.stamp_ns) for name, each in ready.items()}
        near = [name for name, ns in apart_ns.items() if ns <= self._reference.max_apart_ns]
        others = [state for name, state in self._cameras.items() if name not in near]
        if now_ns < first.deadline_ns and any(state.in_sync for state in others):
            return []
        for name, state in self._cameras.items():
            state.in_sync = name in near
        return near
