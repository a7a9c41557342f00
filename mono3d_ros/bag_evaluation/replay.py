"""
A bag answered as the node answers its topics, every image of it, and no clock in what comes out.

Nothing is lost here, because nothing waits: images of one moment are one batch, as when the node
waits for an anchor camera. Answers are recorded at the times of their images, so they can be
played beside them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mono3d_ros.bag_evaluation.offline_detector import (
    OfflineDetector,
    ResultCallback,
    ignore_result,
)
from mono3d_ros.bag_evaluation.results import DriveResults
from mono3d_ros.bags.bag_io import LATCHED_QOS, STORAGES, BagError, BagReader, BagWriter
from mono3d_ros.bags.drive_reader import (
    TF_STATIC_TOPIC,
    TF_TOPIC,
    DriveQuery,
    DriveReader,
    DriveSample,
)
from mono3d_ros.messages.primitives import header_stamp_ns
from mono3d_ros.messages.rectification import Rectifier
from mono3d_ros.params import Params
from mono3d_ros.perception.pipeline import PredictorProtocol
from stl_core.data.sources import kitti
from stl_core.types import Array

#: Where labels are taken from, besides a folder: the bag's own where it has some, or surely.
LABELS_AUTO, LABELS_TOPIC = 'auto', 'topic'

#: Goes through images and shows how far it is.
ProgressTracker = Callable[[Iterable[DriveSample], int], Iterable[DriveSample]]


@dataclass(frozen=True)
class EvaluationOptions:
    """
    How bags are examined.

    :param query: which images.
    :param rectifier: calibration.as_rectified or calibration.rectify.
    :param params: those of the node that also hold here: what is passed on, overlap of cameras,
        tracking and the lifetime of markers.
    :param label_source: AUTO, TOPIC or a folder of KITTI label files.
    :param num_pictures: how many are drawn.
    :param storage: a key of STORAGES.
    :param copy_inputs: whether images, scans and labels are copied beside the answers.
    """

    query: DriveQuery
    rectifier: Rectifier
    params: Params
    label_source: str = LABELS_AUTO
    num_pictures: int = 8
    storage: str = 'mcap'
    copy_inputs: bool = False


@dataclass(frozen=True)
class ReplayResult:
    """
    What came out.

    :param drive_results: the same each time.
    :param timings_ms: stage -> how long it took, image by image.
    :param pictures: name -> (H, W, 3) uint8 RGB.
    """

    drive_results: DriveResults
    timings_ms: dict[str, list[float]]
    pictures: dict[str, Array]


def replay_bag(
    bag: Path,
    out: Path,
    predictor: PredictorProtocol,
    options: EvaluationOptions,
    *,
    track_progress: ProgressTracker,
    on_result: ResultCallback = ignore_result,
) -> ReplayResult:
    """
    Answer every image of a bag.

    :param bag: folder or file.
    :param out: folder of the bag of answers.
    :param predictor: the network.
    :param options: how.
    :param track_progress: see Track.
    :param on_result: is shown every answer.
    :return: what came out.
    :raises BagError: for a bag that cannot be used.
    :raises DataError: for labels that cannot be read.
    """
    with BagReader(bag) as reader:
        playback = DriveReader(reader, options.query)
        label_files = _label_files(options.label_source, playback, bag)
        with BagWriter(out, storage=STORAGES[options.storage]) as writer:
            _copy_topics(reader, writer, playback, options)
            examiner = OfflineDetector(
                writer,
                predictor,
                options.rectifier,
                options.params,
                num_cameras=len(playback.cameras),
                drawn_indices=frozenset(_even_indices(len(playback), options.num_pictures)),
                on_result=on_result,
            )
            sights = track_progress(playback, len(playback))
            if label_files:
                sights = (_with_file_labels(sight, label_files) for sight in sights)
            for together in group_by_time(sights, options.params.max_apart_s):
                examiner.process(together)
        if not examiner.image_results:
            why = next(iter(examiner.skipped), 'no image has a camera_info')
            raise BagError(f'{bag}: no image could be answered ({why})')
    evidence = DriveResults(examiner.classes, tuple(examiner.image_results), examiner.skipped)
    return ReplayResult(evidence, examiner.timings_ms, examiner.drawn_images)


def _label_files(label_source: str, drive: DriveReader, bag: Path) -> list[Path]:
    """List the label files, one an image; none where the labels are those of the bag."""
    if label_source == LABELS_TOPIC and (
        lacking := [each for each in drive.cameras if not each.labels]
    ):
        topic = f'{lacking[0].info.rsplit("/", 1)[0]}/ground_truth/labels'
        raise BagError(f'{bag}: no labels on {topic}')
    if label_source in (LABELS_AUTO, LABELS_TOPIC):
        return []
    files = sorted(Path(label_source).glob('*.txt'))
    if len(drive.cameras) > 1:
        has = ', '.join(each.name for each in drive.cameras)
        raise BagError(f'{label_source}: labels of which camera? the bag has {has}; name one')
    count = drive.num_images(drive.cameras[0])
    if len(files) != count:
        raise BagError(f'{label_source}: {len(files)} label files, but {bag} has {count} images')
    return files


def _with_file_labels(sample: DriveSample, label_files: Sequence[Path]) -> DriveSample:
    """Give an image the labels of a file in the place of the bag's."""
    return replace(sample, truth=kitti.read_labels(label_files[sample.image_index]))


def _copy_topics(
    reader: BagReader, writer: BagWriter, drive: DriveReader, options: EvaluationOptions
) -> None:
    """Copy what viewers need to place the answers, camera_info and tf, or all that is used."""
    wanted = {each.info for each in drive.cameras} | {TF_STATIC_TOPIC, TF_TOPIC}
    if options.copy_inputs:
        wanted |= {each.image for each in drive.cameras} | {drive.cloud_topic}
        for labels in (each.labels for each in drive.cameras if each.labels):
            space = labels.removesuffix('/labels')
            wanted |= {labels, space, f'{space}/detections'}
    topics = {topic: kind for topic, kind in reader.topics.items() if topic in wanted}
    for topic, kind in topics.items():
        if topic == TF_STATIC_TOPIC:
            writer.add_topic(topic, kind, LATCHED_QOS)
        else:
            writer.add_topic(topic, kind)
    for message in reader.messages(topics):
        writer.write_cdr(message.topic, message.recorded_ns, message.cdr)


def _even_indices(count: int, num_selected: int) -> list[int]:
    """Choose evenly among so many places, the first and the last included."""
    return [int(place) for place in np.linspace(0, count - 1, min(count, num_selected)).round()]


def group_by_time(
    samples: Iterable[DriveSample], max_apart_s: float
) -> Iterator[tuple[DriveSample, ...]]:
    """
    Gather neighbours, at most one a camera.

    :param samples: in order of recording.
    :param max_apart_s: how far apart, by their stamps, images of one moment may be.
    :return: the same sights, in the same order.
    """
    gathered: list[DriveSample] = []
    for sight in samples:
        if gathered and not _belongs_to_group(sight, gathered, max_apart_s):
            yield tuple(gathered)
            gathered = []
        gathered.append(sight)
    if gathered:
        yield tuple(gathered)


def _belongs_to_group(sample: DriveSample, group: list[DriveSample], max_apart_s: float) -> bool:
    if any(sample.camera.name == other.camera.name for other in group):
        return False
    stamps = [header_stamp_ns(each.image.header) for each in (*group, sample)]
    return max(stamps) - min(stamps) <= max_apart_s * 1e9
