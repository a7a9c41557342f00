"""
A bag answered as the node answers its topics, every image of it, and no clock in what comes out.

The same to_frame, Pipeline and messages as in the node; only nothing is lost here, because nothing
waits. Answers are recorded at the times of their images, so they can be played beside them.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mono3d_ros import lidar_check, messages, report
from mono3d_ros.bag import LATCHED, STORAGES, BagError, BagReader, BagWriter, maker, typestore
from mono3d_ros.calibration import Door
from mono3d_ros.evidence import Answer, Evidence
from mono3d_ros.params import Params
from mono3d_ros.pipeline import Limits, Pipeline, Predictor
from mono3d_ros.playback import MOVING, STATIC, Playback, Sight, Wish
from mono3d_ros.stream import FrameResult
from stl_core.data import kitti
from stl_core.types import Array, Labels, Objects3D

#: Of the topics of answers, as a node that is called detector has them.
NODE = '/detector'

#: Where labels are taken from, besides a folder: the bag's own where it has some, or surely.
AUTO, TOPIC = 'auto', 'topic'

#: Goes through images and shows how far it is.
Track = Callable[[Iterable[Sight], int], Iterable[Sight]]


@dataclass(frozen=True)
class Plan:
    """
    How bags are examined.

    :param wish: which images.
    :param door: calibration.as_rectified or calibration.rectify.
    :param params: those of the node that also hold here: thresholds and marker lifetime.
    :param labels: AUTO, TOPIC or a folder of KITTI label files.
    :param pictures: how many are drawn.
    :param storage: a key of STORAGES.
    :param copied: whether images, scans and labels are copied beside the answers.
    """

    wish: Wish
    door: Door
    params: Params
    labels: str = AUTO
    pictures: int = 8
    storage: str = 'mcap'
    copied: bool = False


@dataclass(frozen=True)
class Findings:
    """
    What came out.

    :param evidence: the same each time.
    :param timings_ms: stage -> how long it took, image by image.
    :param pictures: name -> (H, W, 3) uint8 RGB.
    """

    evidence: Evidence
    timings_ms: dict[str, list[float]]
    pictures: dict[str, Array]


def examine(bag: Path, out: Path, predictor: Predictor, plan: Plan, track: Track) -> Findings:
    """
    Answer every image of a bag.

    :param bag: folder or file.
    :param out: folder of the bag of answers.
    :param predictor: the network.
    :param plan: how.
    :param track: see Track.
    :return: what came out.
    :raises BagError: for a bag that cannot be used.
    :raises DataError: for labels that cannot be read.
    """
    with BagReader(bag) as reader:
        playback = Playback(reader, plan.wish)
        label_files = _label_files(plan.labels, playback, bag)
        with BagWriter(out, storage=STORAGES[plan.storage]) as writer:
            _copy(reader, writer, playback, plan)
            examiner = _Examiner(writer, predictor, plan)
            drawn = set(_spread(len(playback), plan.pictures))
            for place, sight in enumerate(track(playback, len(playback))):
                truth = kitti.read_labels(label_files[sight.number]) if label_files else None
                examiner.look(sight, sight.truth if truth is None else truth, place in drawn)
        if not examiner.answers:
            why = next(iter(examiner.skipped), 'no image has a camera_info')
            raise BagError(f'{bag}: no image could be answered ({why})')
    evidence = Evidence(examiner.classes, tuple(examiner.answers), examiner.skipped)
    return Findings(evidence, examiner.timings_ms, examiner.pictures)


class _Listener:
    """A predictor that keeps what it said last: the pipeline passes on only what is sure."""

    def __init__(self, predictor: Predictor) -> None:
        self._predictor, self.spec = predictor, predictor.spec
        self.last: list[Objects3D] = []

    def __call__(self, images: Sequence[Array], Ps: Sequence[Array]) -> list[Objects3D]:
        self.last = self._predictor(images, Ps)
        return self.last


@dataclass
class _Examiner:
    """Answers one image after the other, and keeps what is asked for later."""

    writer: BagWriter
    predictor: Predictor
    plan: Plan
    answers: list[Answer] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    timings_ms: dict[str, list[float]] = field(default_factory=dict)
    pictures: dict[str, Array] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._listener = _Listener(self.predictor)
        self.classes = tuple(self.predictor.spec.classes)
        limits = Limits(self.plan.params.min_scores(self.classes))
        self._pipeline = Pipeline(self._listener, limits, time.perf_counter)
        self._new = maker(typestore())
        self._previous_ids: dict[str, tuple[int, ...]] = {}

    def look(self, sight: Sight, truth: Labels | None, drawn: bool) -> None:
        """Answer an image; one that cannot be read is counted and passed over, as in the node."""
        start_s = time.perf_counter()
        try:
            frame = messages.to_frame(sight.image, sight.info, sight.camera.name, self.plan.door)
        except ValueError as err:
            self.skipped[f'{sight.camera.image}: {err}'] += 1
            return
        decode_ms = (time.perf_counter() - start_s) * 1e3
        (result,) = self._pipeline.step([frame], 0)
        (found,) = self._listener.last
        array = self._record(result, sight.recorded_ns)
        total_ms = (time.perf_counter() - start_s) * 1e3
        for stage, ms in {'decode': decode_ms, **result.timings_ms, 'total': total_ms}.items():
            self.timings_ms.setdefault(stage, []).append(ms)
        points_m = report.in_camera(sight.scan) if sight.scan else None
        self.answers.append(
            Answer(
                camera=frame.camera,
                P=frame.P,
                found=kitti.to_labels(found, self.classes),
                depth_sigma_m=found.depth_sigma_m,
                sent=result.objects,
                truth=truth,
                lidar_error_m=None
                if points_m is None
                else lidar_check.depth_errors(result.objects, points_m, frame.P),
            )
        )
        if drawn:
            boxes = None if truth is None else report.label_boxes(truth)
            self._draw(report.Scene(frame, boxes, points_m), array, sight.number)

    def _record(self, result: FrameResult, recorded_ns: int) -> Any:
        """Write the answer to an image -> its markers."""
        space, before = f'{NODE}/{result.camera}', self._previous_ids.get(result.camera, ())
        lifetime_s = self.plan.params.marker_lifetime_s
        array = messages.markers(result, before, self._new, lifetime_s=lifetime_s)
        self._previous_ids[result.camera] = result.ids
        self.writer.write(f'{space}/markers', recorded_ns, array)
        self.writer.write(
            f'{space}/detections', recorded_ns, messages.detections(result, self._new)
        )
        return array

    def _draw(self, scene: report.Scene, array: Any, number: int) -> None:
        boxes = report.to_boxes(array)
        count, camera = len(boxes.labels), scene.frame.camera
        caption = f'{camera} {number}   {count} box{"es" * (count != 1)}'
        name = f'{camera.replace("/", "_")}_{number:06d}'
        self.pictures[name] = report.picture(scene, boxes, caption)


def _label_files(labels: str, playback: Playback, bag: Path) -> list[Path]:
    """List the label files, one an image; none where the labels are those of the bag."""
    if labels == TOPIC and (lacking := [each for each in playback.cameras if not each.labels]):
        topic = f'{lacking[0].info.rsplit("/", 1)[0]}/ground_truth/labels'
        raise BagError(f'{bag}: no labels on {topic}')
    if labels in (AUTO, TOPIC):
        return []
    files = sorted(Path(labels).glob('*.txt'))
    if len(playback.cameras) > 1:
        has = ', '.join(each.name for each in playback.cameras)
        raise BagError(f'{labels}: labels of which camera? the bag has {has}; name one')
    count = playback.count(playback.cameras[0])
    if len(files) != count:
        raise BagError(f'{labels}: {len(files)} label files, but {bag} has {count} images')
    return files


def _copy(reader: BagReader, writer: BagWriter, playback: Playback, plan: Plan) -> None:
    """Copy what viewers need to place the answers, camera_info and tf, or all that is used."""
    wanted = {each.info for each in playback.cameras} | {STATIC, MOVING}
    if plan.copied:
        wanted |= {each.image for each in playback.cameras} | {playback.cloud_topic}
        for labels in (each.labels for each in playback.cameras if each.labels):
            space = labels.removesuffix('/labels')
            wanted |= {labels, space, f'{space}/detections'}
    topics = {topic: kind for topic, kind in reader.topics.items() if topic in wanted}
    for topic, kind in topics.items():
        if topic == STATIC:
            writer.add_topic(topic, kind, LATCHED)
        else:
            writer.add_topic(topic, kind)
    for message in reader.messages(topics):
        writer.write_cdr(message.topic, message.stamp_ns, message.cdr)


def _spread(count: int, wanted: int) -> list[int]:
    """Choose evenly among so many places, the first and the last included."""
    return [int(place) for place in np.linspace(0, count - 1, min(count, wanted)).round()]
