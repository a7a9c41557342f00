"""
Answers the images of a bag with the code of the node: to_frame, Pipeline and messages.

Whatever is answered is kept, beside what is known of the image, as evidence.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from mono3d_ros.bag_evaluation import lidar_check, pictures
from mono3d_ros.bag_evaluation.results import ImageResult
from mono3d_ros.bags import recorded_boxes
from mono3d_ros.bags.bag_io import BagWriter, make_message_factory, make_typestore
from mono3d_ros.bags.drive_reader import DriveSample
from mono3d_ros.camera_frame import Frame, FrameResult
from mono3d_ros.messages import detections, markers
from mono3d_ros.messages.images import to_frame
from mono3d_ros.messages.rectification import Rectifier
from mono3d_ros.params import Params
from mono3d_ros.perception import tracker
from mono3d_ros.perception.pipeline import Pipeline, PredictorProtocol
from stl_core.data.sources import kitti
from stl_core.types import Array, Objects3D

#: Of the topics of answers, as a node that is called detector has them.
NODE_NAMESPACE = '/detector'


@dataclass(frozen=True)
class ProcessedImage:
    """
    An answer and what it is an answer to.

    :param sample: the image and what belongs to it.
    :param frame: the image as the network saw it.
    :param result: the answer.
    :param points_m: (L, 3) scan in the camera frame; None where there is none.
    """

    sample: DriveSample
    frame: Frame
    result: FrameResult
    points_m: Array | None


#: Is shown every answer.
ResultCallback = Callable[[ProcessedImage], None]


def ignore_result(_: ProcessedImage) -> None:
    """Show it to nobody."""


def output_namespace(camera: str, num_cameras: int) -> str:
    """Name where the answers to a camera of so many are, as the node does."""
    return NODE_NAMESPACE if num_cameras == 1 else f'{NODE_NAMESPACE}/{camera}'


class _PredictionRecorder:
    """A predictor that keeps what it said last: the pipeline passes on only what is sure."""

    def __init__(self, predictor: PredictorProtocol) -> None:
        self._predictor, self.spec = predictor, predictor.spec
        self.last_predictions: list[Objects3D] = []

    def __call__(self, images: Sequence[Array], Ps: Sequence[Array]) -> list[Objects3D]:
        self.last_predictions = self._predictor(images, Ps)
        return self.last_predictions


class _DecodedImage(NamedTuple):
    """An image that was read, its number among all, and how long that took."""

    image_index: int
    sample: DriveSample
    frame: Frame
    decode_ms: float


@dataclass
class OfflineDetector:
    """
    Answers one moment after the other, and keeps what is asked for later.

    :param writer: where answers are recorded.
    :param predictor: the network.
    :param rectifier: calibration.as_rectified or calibration.rectify.
    :param params: those of the node that hold here too.
    :param num_cameras: how many there are.
    :param drawn_indices: which images, counted from 0, are drawn.
    :param on_result: is shown every answer.
    """

    writer: BagWriter
    predictor: PredictorProtocol
    rectifier: Rectifier
    params: Params
    num_cameras: int
    drawn_indices: frozenset[int]
    on_result: ResultCallback = ignore_result
    image_results: list[ImageResult] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    timings_ms: dict[str, list[float]] = field(default_factory=dict)
    drawn_images: dict[str, Array] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Join the network with the rest of the node."""
        self._recorder = _PredictionRecorder(self.predictor)
        self.classes = tuple(self.predictor.spec.classes)
        self._pipeline = Pipeline(
            self._recorder,
            self.params.detection_filter(self.classes),
            time.perf_counter,
            tracker_config=tracker.TrackerConfig() if self.params.tracking else None,
            max_overlap_across=self.params.max_overlap_across,
        )
        self._make_message = make_message_factory(make_typestore())
        self._previous_ids: dict[str, tuple[int, ...]] = {}
        self._next_index = 0

    def process(self, samples: Sequence[DriveSample]) -> None:
        """Answer the images of a moment, at most one a camera, in one batch."""
        seen = [one for one in map(self._decode, samples) if one is not None]
        if not seen:
            return
        start_s = time.perf_counter()
        places = {one.frame.camera: one.sample.camera_pose for one in seen}
        results = self._pipeline.step([one.frame for one in seen], 0, places)
        step_ms = (time.perf_counter() - start_s) * 1e3 / len(seen)
        for one, result, found in zip(seen, results, self._recorder.last_predictions, strict=True):
            start_s = time.perf_counter()
            array = self._write_messages(result, one.sample.recorded_ns)
            record_ms = (time.perf_counter() - start_s) * 1e3
            shares = {stage: ms / len(seen) for stage, ms in result.timings_ms.items()}
            total_ms = one.decode_ms + step_ms + record_ms
            for stage, ms in {'decode': one.decode_ms, **shares, 'total': total_ms}.items():
                self.timings_ms.setdefault(stage, []).append(ms)
            self._store_result(one, result, found, array)

    def _decode(self, sample: DriveSample) -> _DecodedImage | None:
        """Decode an image; one that cannot be read is counted and passed over, as in the node."""
        number, self._next_index = self._next_index, self._next_index + 1
        start_s = time.perf_counter()
        try:
            frame = to_frame(sample.image, sample.info, sample.camera.name, self.rectifier)
        except ValueError as err:
            self.skipped[f'{sample.camera.image}: {err}'] += 1
            return None
        return _DecodedImage(number, sample, frame, (time.perf_counter() - start_s) * 1e3)

    def _write_messages(self, result: FrameResult, recorded_ns: int) -> Any:
        """Write the answer to an image -> its markers."""
        space = output_namespace(result.camera, self.num_cameras)
        array = markers.to_marker_array(
            result,
            self._previous_ids.get(result.camera, ()),
            self._make_message,
            lifetime_s=self.params.marker_lifetime_s,
        )
        self._previous_ids[result.camera] = result.ids
        self.writer.write(f'{space}/markers', recorded_ns, array)
        told = detections.to_detection_array(result, self._make_message)
        self.writer.write(f'{space}/detections', recorded_ns, told)
        return array

    def _store_result(
        self, decoded: _DecodedImage, result: FrameResult, detections_found: Objects3D, array: Any
    ) -> None:
        """Keep an answer beside what is known of its image, show it, draw it where wanted."""
        sight, frame = decoded.sample, decoded.frame
        points_m = pictures.scan_in_camera_frame(sight.scan) if sight.scan else None
        self.image_results.append(
            ImageResult(
                camera=frame.camera,
                P=frame.P,
                all_detections=kitti.to_labels(detections_found, self.classes),
                depth_sigma_m=detections_found.depth_sigma_m,
                published=result.objects,
                truth=sight.truth,
                lidar_error_m=None
                if points_m is None
                else lidar_check.depth_errors(result.objects, points_m, frame.P),
            )
        )
        self.on_result(ProcessedImage(sight, frame, result, points_m))
        if decoded.image_index in self.drawn_indices:
            boxes = None if sight.truth is None else pictures.label_boxes(sight.truth)
            self._draw(pictures.Scene(frame, boxes, points_m), array, sight.image_index)

    def _draw(self, scene: pictures.Scene, array: Any, number: int) -> None:
        boxes = recorded_boxes.boxes_from_markers(array)
        count, camera = len(boxes.labels), scene.frame.camera
        caption = f'{camera} {number}   {count} box{"es" * (count != 1)}'
        name = f'{camera.replace("/", "_")}_{number:06d}'
        self.drawn_images[name] = pictures.draw_scene(scene, boxes, caption)
