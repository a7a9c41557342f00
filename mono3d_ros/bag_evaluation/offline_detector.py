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

from mono3d_ros.bag_evaluation import lidar_check
from mono3d_ros.bag_evaluation import pictures as report
from mono3d_ros.bag_evaluation.results import Answer
from mono3d_ros.bags import recorded_boxes as recorded_boxes_module
from mono3d_ros.bags.bag_io import BagWriter, maker, typestore
from mono3d_ros.bags.drive_reader import Sight
from mono3d_ros.camera_frame import Frame, FrameResult
from mono3d_ros.messages import detections as detections_module
from mono3d_ros.messages import images as images_module
from mono3d_ros.messages import markers as markers_module
from mono3d_ros.messages.rectification import Door
from mono3d_ros.params import Params
from mono3d_ros.perception import tracker as tracking
from mono3d_ros.perception.pipeline import Pipeline, Predictor
from stl_core.data.sources import kitti
from stl_core.types import Array, Objects3D

#: Of the topics of answers, as a node that is called detector has them.
NODE = '/detector'


@dataclass(frozen=True)
class Shown:
    """
    An answer and what it is an answer to.

    :param sight: the image and what belongs to it.
    :param frame: the image as the network saw it.
    :param result: the answer.
    :param points_m: (L, 3) scan in the camera frame; None where there is none.
    """

    sight: Sight
    frame: Frame
    result: FrameResult
    points_m: Array | None


#: Is shown every answer.
Show = Callable[[Shown], None]


def to_nobody(_: Shown) -> None:
    """Show it to nobody."""


def answer_space(camera: str, cameras: int) -> str:
    """Name where the answers to a camera of so many are, as the node does."""
    return NODE if cameras == 1 else f'{NODE}/{camera}'


class _Listener:
    """A predictor that keeps what it said last: the pipeline passes on only what is sure."""

    def __init__(self, predictor: Predictor) -> None:
        self._predictor, self.spec = predictor, predictor.spec
        self.last: list[Objects3D] = []

    def __call__(self, images: Sequence[Array], Ps: Sequence[Array]) -> list[Objects3D]:
        self.last = self._predictor(images, Ps)
        return self.last


class _Read(NamedTuple):
    """An image that was read, its number among all, and how long that took."""

    number: int
    sight: Sight
    frame: Frame
    decode_ms: float


@dataclass
class Examiner:
    """
    Answers one moment after the other, and keeps what is asked for later.

    :param writer: where answers are recorded.
    :param predictor: the network.
    :param door: calibration.as_rectified or calibration.rectify.
    :param params: those of the node that hold here too.
    :param cameras: how many there are.
    :param drawn: which images, counted from 0, are drawn.
    :param show: is shown every answer.
    """

    writer: BagWriter
    predictor: Predictor
    door: Door
    params: Params
    cameras: int
    drawn: frozenset[int]
    show: Show = to_nobody
    answers: list[Answer] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    timings_ms: dict[str, list[float]] = field(default_factory=dict)
    pictures: dict[str, Array] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Join the network with the rest of the node."""
        self._listener = _Listener(self.predictor)
        self.classes = tuple(self.predictor.spec.classes)
        self._pipeline = Pipeline(
            self._listener,
            self.params.selection(self.classes),
            time.perf_counter,
            tracker=tracking.Config() if self.params.tracking else None,
            max_overlap_across=self.params.max_overlap_across,
        )
        self._new = maker(typestore())
        self._previous_ids: dict[str, tuple[int, ...]] = {}
        self._looked_at = 0

    def look(self, sights: Sequence[Sight]) -> None:
        """Answer the images of a moment, at most one a camera, in one batch."""
        seen = [one for one in map(self._read, sights) if one is not None]
        if not seen:
            return
        start_s = time.perf_counter()
        places = {one.frame.camera: one.sight.place for one in seen}
        results = self._pipeline.step([one.frame for one in seen], 0, places)
        step_ms = (time.perf_counter() - start_s) * 1e3 / len(seen)
        for one, result, found in zip(seen, results, self._listener.last, strict=True):
            start_s = time.perf_counter()
            array = self._record(result, one.sight.recorded_ns)
            record_ms = (time.perf_counter() - start_s) * 1e3
            shares = {stage: ms / len(seen) for stage, ms in result.timings_ms.items()}
            total_ms = one.decode_ms + step_ms + record_ms
            for stage, ms in {'decode': one.decode_ms, **shares, 'total': total_ms}.items():
                self.timings_ms.setdefault(stage, []).append(ms)
            self._keep(one, result, found, array)

    def _read(self, sight: Sight) -> _Read | None:
        """Decode an image; one that cannot be read is counted and passed over, as in the node."""
        number, self._looked_at = self._looked_at, self._looked_at + 1
        start_s = time.perf_counter()
        try:
            frame = images_module.to_frame(sight.image, sight.info, sight.camera.name, self.door)
        except ValueError as err:
            self.skipped[f'{sight.camera.image}: {err}'] += 1
            return None
        return _Read(number, sight, frame, (time.perf_counter() - start_s) * 1e3)

    def _record(self, result: FrameResult, recorded_ns: int) -> Any:
        """Write the answer to an image -> its markers."""
        space = answer_space(result.camera, self.cameras)
        array = markers_module.markers(
            result,
            self._previous_ids.get(result.camera, ()),
            self._new,
            lifetime_s=self.params.marker_lifetime_s,
        )
        self._previous_ids[result.camera] = result.ids
        self.writer.write(f'{space}/markers', recorded_ns, array)
        told = detections_module.detections(result, self._new)
        self.writer.write(f'{space}/detections', recorded_ns, told)
        return array

    def _keep(self, one: _Read, result: FrameResult, found: Objects3D, array: Any) -> None:
        """Keep an answer beside what is known of its image, show it, draw it where wanted."""
        sight, frame = one.sight, one.frame
        points_m = report.in_camera(sight.scan) if sight.scan else None
        self.answers.append(
            Answer(
                camera=frame.camera,
                P=frame.P,
                found=kitti.to_labels(found, self.classes),
                depth_sigma_m=found.depth_sigma_m,
                sent=result.objects,
                truth=sight.truth,
                lidar_error_m=None
                if points_m is None
                else lidar_check.depth_errors(result.objects, points_m, frame.P),
            )
        )
        self.show(Shown(sight, frame, result, points_m))
        if one.number in self.drawn:
            boxes = None if sight.truth is None else report.label_boxes(sight.truth)
            self._draw(report.Scene(frame, boxes, points_m), array, sight.number)

    def _draw(self, scene: report.Scene, array: Any, number: int) -> None:
        boxes = recorded_boxes_module.to_boxes(array)
        count, camera = len(boxes.labels), scene.frame.camera
        caption = f'{camera} {number}   {count} box{"es" * (count != 1)}'
        name = f'{camera.replace("/", "_")}_{number:06d}'
        self.pictures[name] = report.picture(scene, boxes, caption)
