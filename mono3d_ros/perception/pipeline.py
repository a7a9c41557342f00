"""
The perception itself, pure: frames and the time go in, results come out.

The node, the bag tools and the tests call the same step. It reads no clock, no topic, no
transform and no parameter; what it must know is handed in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from mono3d_ros.camera_frame import NO_PLACES, NOWHERE, Frame, FrameResult, Place
from mono3d_ros.perception import cross_camera_nms as duplicates
from mono3d_ros.perception import tracker as tracking
from mono3d_ros.perception.detection_filter import Selection, select
from stl_core.types import Array, Objects3D


class Predictor(Protocol):
    """What stl_core.inference.predictor.load returns."""

    @property
    def spec(self) -> Any:
        """Tell the classes, a tuple of names."""
        ...

    def __call__(self, images: Sequence[Array], Ps: Sequence[Array]) -> list[Objects3D]:
        """B images (H, W, 3) uint8 RGB and B (3, 4) projections -> B sets of objects."""
        ...


class Pipeline:
    """A predictor, what is passed on of its objects, and the tracks they are."""

    def __init__(
        self,
        predictor: Predictor,
        selection: Selection,
        timer_s: Callable[[], float],
        *,
        tracker: tracking.Config | None = None,
        max_overlap_across: float = 0.2,
    ) -> None:
        """
        Join a predictor with what is passed on.

        :param predictor: the network.
        :param selection: may be replaced between two steps.
        :param timer_s: seconds on any clock that runs evenly; only differences count.
        :param tracker: how objects are followed; None: they are not.
        :param max_overlap_across: see duplicates.once; 1 lets every camera speak for itself.
        :raises ValueError: where selection is not for the classes of the predictor, or an
            overlap is none.
        """
        if not 0 <= max_overlap_across <= 1:
            raise ValueError(f'max_overlap_across must be 0 to 1, got {max_overlap_across:g}')
        self.classes = tuple(predictor.spec.classes)
        self._predictor, self._timer_s = predictor, timer_s
        self._tracker, self._max_overlap_across = tracker, max_overlap_across
        self._memory = tracking.NO_MEMORY
        self._last_now_ns = 0
        self.selection = selection

    @property
    def selection(self) -> Selection:
        """What is passed on."""
        return self._selection

    @selection.setter
    def selection(self, selection: Selection) -> None:
        selection.check(self.classes)
        self._selection = selection

    def step(
        self, frames: Sequence[Frame], now_ns: int, places: Mapping[str, Place] = NO_PLACES
    ) -> list[FrameResult]:
        """
        Detect in the newest frames of some cameras, in one batch.

        :param frames: at most one a camera.
        :param now_ns: the time on the clock of the stamps; 0 where it is not known (yet).
        :param places: camera -> where it is at the time of its frame.
        :return: one result for each frame that is not too old, in their order.
        """
        selection = self._selection
        frames = self._fresh(frames, now_ns, selection.max_age_s)
        if not frames:
            return []
        start_s = self._timer_s()
        found = self._predictor([frame.image for frame in frames], [frame.P for frame in frames])
        found_s = self._timer_s()
        if len(found) != len(frames):
            raise ValueError(f'the predictor answered {len(found)} of {len(frames)} frames')
        stands = [places.get(frame.camera, NOWHERE) for frame in frames]
        kept = duplicates.once(
            [select(objects, selection) for objects in found],
            [place.vehicle_T_cam for place in stands],
            self._max_overlap_across,
        )
        results = [self._result(each, own) for each, own in zip(frames, kept, strict=True)]
        if self._tracker is not None:
            self._memory, results = tracking.follow(
                self._memory, results, [place.fixed_T_cam for place in stands], self._tracker
            )
        timings_ms = {
            'inference': (found_s - start_s) * 1e3,
            'postprocess': (self._timer_s() - found_s) * 1e3,
        }
        return [replace(result, timings_ms=timings_ms) for result in results]

    def _fresh(self, frames: Sequence[Frame], now_ns: int, max_age_s: float) -> Sequence[Frame]:
        """Leave out frames that are too old, unless the clock was just set back."""
        jumped_back, self._last_now_ns = now_ns < self._last_now_ns, now_ns
        if max_age_s <= 0 or now_ns <= 0 or jumped_back:
            return frames
        oldest_ns = now_ns - int(max_age_s * 1e9)
        return [frame for frame in frames if frame.stamp_ns >= oldest_ns]

    def _result(self, frame: Frame, objects: Objects3D) -> FrameResult:
        return FrameResult(
            camera=frame.camera,
            stamp_ns=frame.stamp_ns,
            frame_id=frame.frame_id,
            objects=objects,
            classes=self.classes,
            ids=tuple(range(len(objects))),
            timings_ms={},
        )
