"""
Perception pipeline: detector, filter, cross-camera NMS and tracker in one pure step.

The node, the bag tools and the tests call the same step. It reads no clock, topic, transform or
parameter; all inputs are arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from mono3d_ros.camera_frame import NO_POSES, UNKNOWN_POSE, CameraPose, Frame, FrameResult
from mono3d_ros.params import Params
from mono3d_ros.perception import cross_camera_nms, tracker
from mono3d_ros.perception.detection_filter import DetectionFilter, filter_detections
from stl_core.types import Array, Objects3D


class PredictorProtocol(Protocol):
    """Interface of the predictors that stl_core.inference.predictor.load_predictor returns."""

    @property
    def spec(self) -> Any:
        """Return the model description; its classes is a tuple of names."""
        ...

    @property
    def device(self) -> str:
        """Return the device that the network runs on, such as 'cpu' or 'cuda:0'."""
        ...

    def __call__(self, images: Sequence[Array], Ps: Sequence[Array]) -> list[Objects3D]:
        """Detect objects in B images (H, W, 3) uint8 RGB with B (3, 4) projections."""
        ...


class Pipeline:
    """A predictor, a filter of its detections, and a tracker; keeps the state of the tracks."""

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
        Build a pipeline without tracks.

        :param predictor: the network.
        :param detection_filter: filter of detections; may be replaced between two steps.
        :param timer_s: any monotonic clock, seconds, for durations.
        :param tracker_config: configuration of the tracker; None disables tracking.
        :param max_overlap_across: max_overlap of cross_camera_nms.suppress_duplicates; 1 keeps
            the boxes of all cameras.
        :raises ValueError: if the filter does not fit the classes of the predictor, or the
            overlap is not between 0 and 1.
        """
        if not 0 <= max_overlap_across <= 1:
            raise ValueError(f'max_overlap_across must be 0 to 1, got {max_overlap_across:g}')
        self.classes = tuple(predictor.spec.classes)
        self._predictor, self._timer_s = predictor, timer_s
        self._tracker_config, self._max_overlap_across = tracker_config, max_overlap_across
        self._tracker_state = tracker.INITIAL_STATE
        self._last_now_ns = 0
        self.detection_filter = detection_filter

    @classmethod
    def from_params(
        cls, predictor: PredictorProtocol, params: Params, timer_s: Callable[[], float]
    ) -> Pipeline:
        """
        Build the pipeline that parameters describe; the node and the bag tools both use it.

        :param predictor: the network.
        :param params: parameters of the node.
        :param timer_s: any monotonic clock, seconds, for durations.
        :raises ValueError: if a parameter does not fit the classes of the predictor.
        """
        keep_all = DetectionFilter((0.0,) * len(predictor.spec.classes))
        pipeline = cls(
            predictor,
            keep_all,  # until update_params
            timer_s,
            tracker_config=tracker.TrackerConfig() if params.tracking else None,
            max_overlap_across=params.max_overlap_across,
        )
        pipeline.update_params(params)
        return pipeline

    def update_params(self, params: Params) -> None:
        """
        Apply the parameters that may change at run time; an error changes nothing.

        :param params: parameters of the node.
        :raises ValueError: if a parameter does not fit the classes of the predictor.
        """
        self.detection_filter = params.detection_filter(self.classes)

    @property
    def detection_filter(self) -> DetectionFilter:
        """Return the current filter of detections."""
        return self._detection_filter

    @detection_filter.setter
    def detection_filter(self, detection_filter: DetectionFilter) -> None:
        detection_filter.check_classes(self.classes)
        self._detection_filter = detection_filter

    def step(
        self, frames: Sequence[Frame], now_ns: int, poses: Mapping[str, CameraPose] = NO_POSES
    ) -> list[FrameResult]:
        """
        Process the newest frames of one or more cameras in one batch.

        :param frames: at most one per camera.
        :param now_ns: current time on the clock of the stamps; 0 if not known (yet).
        :param poses: camera -> its pose at the time of its frame.
        :return: one result per frame that is not too old, in their order.
        :raises ValueError: if the predictor does not return one prediction per frame.
        """
        detection_filter = self._detection_filter
        frames = self._drop_old(frames, now_ns, detection_filter.max_age_s)
        if not frames:
            return []
        start_s = self._timer_s()
        detections = self._predictor(
            [frame.image for frame in frames], [frame.P for frame in frames]
        )
        inference_end_s = self._timer_s()
        if len(detections) != len(frames):
            raise ValueError(
                f'the predictor returned {len(detections)} predictions for {len(frames)} frames'
            )
        camera_poses = [poses.get(frame.camera, UNKNOWN_POSE) for frame in frames]
        kept = cross_camera_nms.suppress_duplicates(
            [filter_detections(objects, detection_filter) for objects in detections],
            [pose.vehicle_T_cam for pose in camera_poses],
            self._max_overlap_across,
        )
        results = [
            self._make_result(frame, objects) for frame, objects in zip(frames, kept, strict=True)
        ]
        if self._tracker_config is not None:
            self._tracker_state, results = tracker.track_objects(
                self._tracker_state,
                results,
                [pose.fixed_T_cam for pose in camera_poses],
                self._tracker_config,
            )
        timings_ms = {
            'inference': (inference_end_s - start_s) * 1e3,
            'postprocess': (self._timer_s() - inference_end_s) * 1e3,
        }
        return [replace(result, timings_ms=timings_ms) for result in results]

    def _drop_old(self, frames: Sequence[Frame], now_ns: int, max_age_s: float) -> Sequence[Frame]:
        """Remove frames that are too old, unless the clock was just set back."""
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
