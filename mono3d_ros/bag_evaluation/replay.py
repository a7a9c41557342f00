"""
Run a detector on every image of a bag, as the node would, with deterministic output.

No image is dropped, because processing does not run in real time. Images taken at the same time
are one batch, as in a node whose parameter trigger names a camera. Detections are recorded at the
times of their images, so that both bags can be played together.
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
from mono3d_ros.bags.bag_topics import BagReport
from mono3d_ros.bags.drive_query import DriveQuery
from mono3d_ros.bags.drive_reader import TF_STATIC_TOPIC, TF_TOPIC, DriveReader, DriveSample
from mono3d_ros.messages.primitives import header_stamp_ns
from mono3d_ros.params import Params
from mono3d_ros.perception.pipeline import PredictorProtocol
from stl_core.data.sources import kitti
from stl_core.types import Array

#: Sources of labels other than a folder: the bag if it has labels, or the bag, required.
LABELS_AUTO, LABELS_TOPIC = 'auto', 'topic'

#: Wraps samples in a progress display: (samples, total) -> the same samples.
ProgressTracker = Callable[[Iterable[DriveSample], int], Iterable[DriveSample]]


@dataclass(frozen=True)
class EvaluationOptions:
    """
    Options of a bag evaluation.

    :param query: which images to read.
    :param params: node parameters; rectified, detection filter, overlap of cameras, tracking and
        marker lifetime apply.
    :param label_source: LABELS_AUTO, LABELS_TOPIC or a folder of KITTI label files.
    :param num_pictures: number of images to draw.
    :param storage: a key of STORAGES.
    :param copy_inputs: whether to copy images, scans and labels into the bag of detections.
    :param metric_names: metrics to compute next to 'kitti', keys of metrics.METRICS.
    """

    query: DriveQuery
    params: Params
    label_source: str = LABELS_AUTO
    num_pictures: int = 8
    storage: str = 'mcap'
    copy_inputs: bool = False
    metric_names: tuple[str, ...] = ()


@dataclass(frozen=True)
class ReplayResult:
    """
    Results of a bag.

    :param drive_results: detections and labels; deterministic.
    :param timings_ms: stage -> time of each image.
    :param pictures: name -> (H, W, 3) uint8 RGB.
    :param reports: of each bag, the numbers of messages read and the topics skipped.
    """

    drive_results: DriveResults
    timings_ms: dict[str, list[float]]
    pictures: dict[str, Array]
    reports: tuple[BagReport, ...] = ()


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
    Detect objects in every image of a bag and write them to a new bag.

    :param bag: folder or file.
    :param out: folder of the new bag of detections.
    :param predictor: the network.
    :param options: images, parameters and labels.
    :param track_progress: see ProgressTracker.
    :param on_result: called with every processed image.
    :return: results, timings and pictures.
    :raises BagError: for a bag that cannot be used.
    :raises DataError: for labels that cannot be read.
    """
    with BagReader(bag) as reader:
        drive = DriveReader(reader, options.query)
        label_files = _label_files(options.label_source, drive, bag)
        with BagWriter(out, storage=STORAGES[options.storage]) as writer:
            _copy_topics(reader, writer, drive, options)
            detector = OfflineDetector(
                writer,
                predictor,
                options.params,
                num_cameras=len(drive.cameras),
                drawn_indices=frozenset(_even_indices(len(drive), options.num_pictures)),
                on_result=on_result,
            )
            samples = track_progress(drive, len(drive))
            if label_files:
                samples = (_with_file_labels(sample, label_files) for sample in samples)
            for group in group_by_time(samples, options.params.max_apart_s):
                detector.process(group)
        if not detector.image_results:
            has = '; '.join(each.reason for each in drive.cameras)
            reason = next(iter(detector.skipped), f'no image has a camera_info; {has}')
            raise BagError(f'{bag}: no image could be processed ({reason})')
        report = reader.report((*drive.choice.lines(), *detector.image_notes))
    notes = detector.notes + drive.notes
    image_results = tuple(detector.image_results)
    drive_results = DriveResults(detector.classes, image_results, detector.skipped, notes)
    return ReplayResult(drive_results, detector.timings_ms, detector.drawn_images, (report,))


def _label_files(label_source: str, drive: DriveReader, bag: Path) -> list[Path]:
    """Return the label files, one per image; an empty list if labels come from the bag."""
    if label_source == LABELS_TOPIC and (
        unlabelled := [each for each in drive.cameras if not each.labels]
    ):
        images = unlabelled[0].image.removesuffix('/compressed')
        topic = f'{images.rsplit("/", 1)[0]}/ground_truth/labels'
        raise BagError(f'{bag}: no labels on {topic}')
    if label_source in (LABELS_AUTO, LABELS_TOPIC):
        return []
    files = sorted(Path(label_source).glob('*.txt'))
    if len(drive.cameras) > 1:
        has = ', '.join(each.name for each in drive.cameras)
        raise BagError(f'{label_source}: several cameras ({has}); choose one with --camera')
    count = drive.num_images(drive.cameras[0])
    if len(files) != count:
        raise BagError(f'{label_source}: {len(files)} label files, but {bag} has {count} images')
    return files


def _with_file_labels(sample: DriveSample, label_files: Sequence[Path]) -> DriveSample:
    """Return the sample with the labels of its file instead of those of the bag."""
    return replace(sample, truth=kitti.read_labels(label_files[sample.image_index]))


def _copy_topics(
    reader: BagReader, writer: BagWriter, drive: DriveReader, options: EvaluationOptions
) -> None:
    """Copy camera_info and tf, which viewers need, and with copy_inputs all topics in use."""
    selected = {each.info for each in drive.cameras} | {TF_STATIC_TOPIC, TF_TOPIC}
    if options.copy_inputs:
        selected |= {each.image for each in drive.cameras} | {drive.cloud_topic}
        for labels in (each.labels for each in drive.cameras if each.labels):
            space = labels.removesuffix('/labels')
            selected |= {labels, space, f'{space}/detections'}
    topics = {topic: kind for topic, kind in reader.decodable_topics.items() if topic in selected}
    for topic, kind in topics.items():
        if topic == TF_STATIC_TOPIC:
            writer.add_topic(topic, kind, LATCHED_QOS)
        else:
            writer.add_topic(topic, kind)
    for message in reader.messages(topics):
        writer.write_cdr(message.topic, message.recorded_ns, message.cdr)


def _even_indices(count: int, num_selected: int) -> list[int]:
    """Return evenly spaced indices below count, including the first and the last."""
    return [int(index) for index in np.linspace(0, count - 1, min(count, num_selected)).round()]


def group_by_time(
    samples: Iterable[DriveSample], max_apart_s: float
) -> Iterator[tuple[DriveSample, ...]]:
    """
    Group consecutive images of different cameras by their stamps.

    :param samples: samples in order of recording.
    :param max_apart_s: maximum difference of the header stamps in a group, seconds.
    :return: groups of the same samples in the same order, at most one sample per camera.
    """
    group: list[DriveSample] = []
    for sample in samples:
        if group and not _belongs_to_group(sample, group, max_apart_s):
            yield tuple(group)
            group = []
        group.append(sample)
    if group:
        yield tuple(group)


def _belongs_to_group(sample: DriveSample, group: list[DriveSample], max_apart_s: float) -> bool:
    if any(sample.camera.name == other.camera.name for other in group):
        return False
    stamps = [header_stamp_ns(each.image.header) for each in (*group, sample)]
    return max(stamps) - min(stamps) <= max_apart_s * 1e9
