"""
Run the node's detection code (to_frame, Pipeline, messages) on images of a bag, without ROS.

OfflineDetector writes the detections to a bag and collects an ImageResult per image.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from mono3d_ros.bag_evaluation import lidar_check, pictures
from mono3d_ros.bag_evaluation.results import ImageResult
from mono3d_ros.bags.bag_io import BagError, BagWriter
from mono3d_ros.bags.drive_reader import DriveSample, decode_image
from mono3d_ros.bags.message_types import make_message_factory, make_typestore
from mono3d_ros.camera_frame import Frame, FrameResult
from mono3d_ros.messages import detections, markers
from mono3d_ros.messages.images import ImageDecoder
from mono3d_ros.params import Params
from mono3d_ros.perception.pipeline import Pipeline, PredictorProtocol
from stl_core.data.sources import kitti
from stl_core.types import Array, Objects3D

#: Namespace of the output topics, as of a node named detector.
NODE_NAMESPACE = '/detector'


@dataclass(frozen=True)
class ProcessedImage:
    """
    An image of a bag and its detections.

    :param sample: the image message with camera_info, camera pose, scan and labels.
    :param frame: the rectified image, input of the network.
    :param result: the published detections.
    :param points_m: (L, 3) scan in the camera frame, metres; None without a scan.
    """

    sample: DriveSample
    frame: Frame
    result: FrameResult
    points_m: Array | None


#: Called with every processed image.
ResultCallback = Callable[[ProcessedImage], None]


def ignore_result(_: ProcessedImage) -> None:
    """Do nothing; the default ResultCallback."""


def output_namespace(camera: str, num_cameras: int) -> str:
    """Return the namespace of a camera's output topics, the same as in the node."""
    return NODE_NAMESPACE if num_cameras == 1 else f'{NODE_NAMESPACE}/{camera}'


class _PredictionRecorder:
    """Keep the last predictions of a predictor, because the pipeline returns filtered ones."""

    def __init__(self, predictor: PredictorProtocol) -> None:
        self._predictor, self.spec, self.device = predictor, predictor.spec, predictor.device
        self.last_predictions: list[Objects3D] = []

    def __call__(self, images: Sequence[Array], Ps: Sequence[Array]) -> list[Objects3D]:
        self.last_predictions = self._predictor(images, Ps)
        return self.last_predictions


class _DecodedImage(NamedTuple):
    """A decoded image, its index among all images, and the decoding time."""

    image_index: int
    sample: DriveSample
    frame: Frame
    decode_ms: float


@dataclass
class OfflineDetector:
    """
    Detect objects in batches of images, record them and collect the results.

    :param writer: bag of the detections.
    :param predictor: the network.
    :param params: node parameters; rectified, detection filter, tracking, overlap and marker
        lifetime apply.
    :param num_cameras: number of cameras of the drive.
    :param drawn_indices: indices of the images to draw, from 0.
    :param on_result: called with every processed image.
    :param image_results: output, one per processed image.
    :param notes: output, doubts about the images that were processed -> number of images.
    :param image_notes: output, texts on images that are not decoded as they are described.
    :param skipped: output, reason -> number of images that could not be decoded.
    :param timings_ms: output, stage -> time per image.
    :param drawn_images: output, name -> (H, W, 3) uint8 RGB.
    """

    writer: BagWriter
    predictor: PredictorProtocol
    params: Params
    num_cameras: int
    drawn_indices: frozenset[int]
    on_result: ResultCallback = ignore_result
    image_results: list[ImageResult] = field(default_factory=list)
    notes: Counter[str] = field(default_factory=Counter)
    image_notes: list[str] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    timings_ms: dict[str, list[float]] = field(default_factory=dict)
    drawn_images: dict[str, Array] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Build the pipeline of the node around the predictor."""
        self._recorder = _PredictionRecorder(self.predictor)
        self.classes = tuple(self.predictor.spec.classes)
        self._pipeline = Pipeline.from_params(self._recorder, self.params, time.perf_counter)
        self._make_message = make_message_factory(make_typestore())
        self._decoders: dict[str, ImageDecoder] = {}
        self._previous_ids: dict[str, tuple[int, ...]] = {}
        self._next_index = 0

    def process(self, samples: Sequence[DriveSample]) -> None:
        """Detect objects in one batch of simultaneous images, at most one per camera."""
        batch = [image for image in map(self._decode, samples) if image is not None]
        if not batch:
            return
        start_s = time.perf_counter()
        poses = {image.frame.camera: image.sample.camera_pose for image in batch}
        results = self._pipeline.step([image.frame for image in batch], 0, poses)
        step_ms = (time.perf_counter() - start_s) * 1e3 / len(batch)
        predictions = self._recorder.last_predictions
        for image, result, predicted in zip(batch, results, predictions, strict=True):
            start_s = time.perf_counter()
            self._write_messages(result, image.sample.recorded_ns)
            record_ms = (time.perf_counter() - start_s) * 1e3
            per_image = {stage: ms / len(batch) for stage, ms in result.timings_ms.items()}
            total_ms = image.decode_ms + step_ms + record_ms
            for stage, ms in {'decode': image.decode_ms, **per_image, 'total': total_ms}.items():
                self.timings_ms.setdefault(stage, []).append(ms)
            self._store_result(image, result, predicted)

    def _decode(self, sample: DriveSample) -> _DecodedImage | None:
        """Decode an image; counts and skips an unreadable one, as the node does."""
        number, self._next_index = self._next_index, self._next_index + 1
        decoder = self._decoder(sample.camera.image)
        start_s = time.perf_counter()
        try:
            frame = decode_image(sample, self.params.rectified, decoder, self.notes)
        except BagError:
            raise
        except ValueError as err:
            self.skipped[f'{sample.camera.image}: {err}'] += 1
            return None
        return _DecodedImage(number, sample, frame, (time.perf_counter() - start_s) * 1e3)

    def _decoder(self, topic: str) -> ImageDecoder:
        """Return the decoder of an image topic."""
        if topic not in self._decoders:
            self._decoders[topic] = ImageDecoder(
                self.params.bit_depth, lambda text: self.image_notes.append(f'{topic}: {text}')
            )
        return self._decoders[topic]

    def _write_messages(self, result: FrameResult, recorded_ns: int) -> None:
        """Write the detections of an image to the bag."""
        space = output_namespace(result.camera, self.num_cameras)
        array = markers.to_marker_array(
            result,
            self._previous_ids.get(result.camera, ()),
            self._make_message,
            lifetime_s=self.params.marker_lifetime_s,
        )
        self._previous_ids[result.camera] = result.ids
        self.writer.write(f'{space}/markers', recorded_ns, array)
        detection_array = detections.to_detection_array(result, self._make_message)
        self.writer.write(f'{space}/detections', recorded_ns, detection_array)

    def _store_result(
        self, decoded: _DecodedImage, result: FrameResult, predicted: Objects3D
    ) -> None:
        """Append the ImageResult, call on_result, and draw the image if selected."""
        sample, frame = decoded.sample, decoded.frame
        points_m = pictures.scan_in_camera_frame(sample.scan, self.notes)
        self.image_results.append(
            ImageResult(
                camera=frame.camera,
                P=frame.P,
                all_detections=kitti.to_labels(predicted, self.classes),
                depth_sigma_m=predicted.depth_sigma_m,
                published=result.objects,
                truth=sample.truth,
                lidar_error_m=None
                if points_m is None
                else lidar_check.depth_errors(result.objects, points_m, frame.P),
            )
        )
        self.on_result(ProcessedImage(sample, frame, result, points_m))
        if decoded.image_index in self.drawn_indices:
            truth = None if sample.truth is None else pictures.label_boxes(sample.truth)
            self._draw(pictures.Scene(frame, truth, points_m), result, sample.image_index)

    def _draw(self, scene: pictures.Scene, result: FrameResult, number: int) -> None:
        boxes = pictures.result_boxes(result)
        count, camera = len(boxes.labels), scene.frame.camera
        caption = f'{camera} {number}   {count} box{"es" * (count != 1)}'
        name = f'{camera.replace("/", "_")}_{number:06d}'
        self.drawn_images[name] = pictures.draw_scene(scene, boxes, caption)
