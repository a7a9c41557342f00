"""
The perception itself, pure: frames and the time go in, results come out.

The node, the bag tools and the tests call the same step. It reads no clock, no topic and no
parameter; what it must know is handed in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from mono3d_ros.stream import Frame, FrameResult
from stl_core.types import Array, Objects3D


class Predictor(Protocol):
    """What stl_core.predict.load returns."""

    @property
    def spec(self) -> Any:
        """Tell the classes, a tuple of names."""
        ...

    def __call__(self, images: Sequence[Array], Ps: Sequence[Array]) -> list[Objects3D]:
        """B images (H, W, 3) uint8 RGB and B (3, 4) projections -> B sets of objects."""
        ...


@dataclass(frozen=True)
class Limits:
    """
    What is kept.

    :param min_scores: one a class, 0 to 1.
    :param max_age_s: frames older than this are dropped; 0 keeps all.
    """

    min_scores: tuple[float, ...]
    max_age_s: float = 0.0


class Pipeline:
    """A predictor, what to keep of its objects, and the time it was last called at."""

    def __init__(self, predictor: Predictor, limits: Limits, timer_s: Callable[[], float]) -> None:
        """
        Join a predictor with its limits.

        :param predictor: the network.
        :param limits: may be replaced between two steps.
        :param timer_s: seconds on any clock that runs evenly; only differences count.
        :raises ValueError: where limits are not for the classes of the predictor.
        """
        self.classes = tuple(predictor.spec.classes)
        self._predictor, self._timer_s = predictor, timer_s
        self._last_now_ns = 0
        self.limits = limits

    @property
    def limits(self) -> Limits:
        """What is kept."""
        return self._limits

    @limits.setter
    def limits(self, limits: Limits) -> None:
        if len(limits.min_scores) != len(self.classes):
            raise ValueError(
                f'{len(limits.min_scores)} thresholds for {len(self.classes)} classes: '
                f'{", ".join(self.classes)}'
            )
        self._limits = limits

    def step(self, frames: Sequence[Frame], now_ns: int) -> list[FrameResult]:
        """
        Detect in the newest frames of some cameras, in one batch.

        :param frames: at most one a camera.
        :param now_ns: the time on the clock of the stamps; 0 where it is not known (yet).
        :return: one result for each frame that is not too old, in their order.
        """
        limits = self._limits
        jumped_back, self._last_now_ns = now_ns < self._last_now_ns, now_ns
        if limits.max_age_s > 0 and now_ns > 0 and not jumped_back:
            oldest_ns = now_ns - int(limits.max_age_s * 1e9)
            frames = [frame for frame in frames if frame.stamp_ns >= oldest_ns]
        if not frames:
            return []
        start_s = self._timer_s()
        found = self._predictor([frame.image for frame in frames], [frame.P for frame in frames])
        timings_ms = {'inference': (self._timer_s() - start_s) * 1e3}
        if len(found) != len(frames):
            raise ValueError(f'the predictor answered {len(found)} of {len(frames)} frames')
        kept = [_above(objects, limits.min_scores) for objects in found]
        return [
            FrameResult(
                camera=frame.camera,
                stamp_ns=frame.stamp_ns,
                frame_id=frame.frame_id,
                objects=objects,
                classes=self.classes,
                ids=tuple(range(len(objects))),
                timings_ms=timings_ms,
            )
            for frame, objects in zip(frames, kept, strict=True)
        ]


def _above(objects: Objects3D, min_scores: tuple[float, ...]) -> Objects3D:
    """Keep the objects of known classes that reach the threshold of their class."""
    objects = objects[objects.class_id >= 0]
    return objects[objects.score >= np.asarray(min_scores)[objects.class_id]]
