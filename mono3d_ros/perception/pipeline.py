"""
The perception itself, pure: frames and the time go in, results come out.

The node, the bag tools and the tests call the same step. It reads no clock, no topic, no
transform and no parameter; what it must know is handed in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from mono3d_ros.camera_frame import NO_POSES, UNKNOWN_POSE, CameraPose, Frame, FrameResult
from mono3d_ros.perception import cross_camera_nms, tracker
from mono3d_ros.perception.detection_filter import DetectionFilter, filter_detections
from stl_core.types import Array, Objects3D


class PredictorProtocol(Protocol):
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
        predictor: PredictorProtocol,
        detection_filter: DetectionFilter,
        timer_s: Callable[[], float],
        *,
        tracker_config: tracker.TrackerConfig | None = None,
        max_overlap_across: float = 0.2,
    ) -> None:
        """
        Join a predictor with what is passed on.

        :param predictor: the network.
        :param detection_filter: may be replaced between two steps.
        :param timer_s: seconds on any clock that runs evenly; only differences count.
        :param tracker_config: how objects are followed; None: they are not.
        :param max_overlap_across: see duplicates.once; 1 lets every camera speak for itself.
        :raises ValueError: where selection is not for the classes of the predictor, or an
            overlap is none.
        """
        if not 0 <= max_overlap_across <= 1:
            raise ValueError(f'max_overlap_across must be 0 to 1, got {max_overlap_across:g}')
        self.classes = tuple(predictor.spec.classes)
        self._predictor, self._timer_s = predictor, timer_s
        self._tracker_config, self._max_overlap_across = tracker_config, max_overlap_across
        self._tracker_state = tracker.INITIAL_STATE
        self._last_now_ns = 0
        self.detection_filter = detection_filter

    @property
    def detection_filter(self) -> DetectionFilter:
        """What is passed on."""
        return self._detection_filter

    @detection_filter.setter
    def detection_filter(self, detection_filter: DetectionFilter) -> None:
        detection_filter.check_classes(self.classes)
        self._detection_filter = detection_filter

    def step(
        self, frames: Sequence[Frame], now_ns: int, poses: Mapping[str, CameraPose] = NO_POSES
    ) -> list[FrameResult]:
        """
        Detect in the newest frames of some cameras, in one batch.

        :param frames: at most one a camera.
        :param now_ns: the time on the clock of the stamps; 0 where it is not known (yet).
        :param poses: camera -> where it is at the time of its frame.
        :return: one result for each frame that is not too old, in their order.
        """
        selection = self._detection_filter
        frames = self._drop_old(frames, now_ns, selection.max_age_s)
        if not frames:
            return []
        start_s = self._timer_s()
        found = self._predictor([frame.image for frame in frames], [frame.P for frame in frames])
        found_s = self._timer_s()
        if len(found) != len(frames):
            raise ValueError(f'the predictor answered {len(found)} of {len(frames)} frames')
        stands = [poses.get(frame.camera, UNKNOWN_POSE) for frame in frames]
        kept = cross_camera_nms.suppress_duplicates(
            [filter_detections(objects, selection) for objects in found],
            [place.vehicle_T_cam for place in stands],
            self._max_overlap_across,
        )
        results = [self._make_result(each, own) for each, own in zip(frames, kept, strict=True)]
        if self._tracker_config is not None:
            self._tracker_state, results = tracker.track_objects(
                self._tracker_state,
                results,
                [place.fixed_T_cam for place in stands],
                self._tracker_config,
            )
        timings_ms = {
            'inference': (found_s - start_s) * 1e3,
            'postprocess': (self._timer_s() - found_s) * 1e3,
        }
        return [replace(result, timings_ms=timings_ms) for result in results]

    def _drop_old(self, frames: Sequence[Frame], now_ns: int, max_age_s: float) -> Sequence[Frame]:
        """Leave out frames that are too old, unless the clock was just set back."""
        jumped_back, self._last_now_ns = now_ns < self._last_now_ns, now_ns
        if max_age_s <= 0 or now_ns <= 0 or jumped_back:
            return frames
        oldest_ns = now_ns - int(max_age_s * 1e9)
        return [frame for frame in frames if frame.stamp_ns >= oldest_ns]

    def _make_result(self, frame: Frame, objects: Objects3D) -> FrameResult:
        return FrameResult(
            camera=frame.camera,
            stamp_ns=frame.stamp_ns,
            frame_id=frame.frame_id,
            objects=objects,
            classes=self.classes,
            ids=tuple(range(len(objects))),
            timings_ms={},
        )
