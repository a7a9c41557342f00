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

from mono3d_ros.bag_evaluation.offline_detector import Examiner, Show, to_nobody
from mono3d_ros.bag_evaluation.results import Evidence
from mono3d_ros.bags.bag_io import LATCHED, STORAGES, BagError, BagReader, BagWriter
from mono3d_ros.bags.drive_reader import MOVING, STATIC, Playback, Sight, Wish
from mono3d_ros.messages.primitives import stamp_ns
from mono3d_ros.messages.rectification import Door
from mono3d_ros.params import Params
from mono3d_ros.perception.pipeline import Predictor
from stl_core.data.sources import kitti
from stl_core.types import Array

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
    :param params: those of the node that also hold here: what is passed on, overlap of cameras,
        tracking and the lifetime of markers.
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


def examine(
    bag: Path,
    out: Path,
    predictor: Predictor,
    plan: Plan,
    *,
    track: Track,
    show: Show = to_nobody,
) -> Findings:
    """
    Answer every image of a bag.

    :param bag: folder or file.
    :param out: folder of the bag of answers.
    :param predictor: the network.
    :param plan: how.
    :param track: see Track.
    :param show: is shown every answer.
    :return: what came out.
    :raises BagError: for a bag that cannot be used.
    :raises DataError: for labels that cannot be read.
    """
    with BagReader(bag) as reader:
        playback = Playback(reader, plan.wish)
        label_files = _label_files(plan.labels, playback, bag)
        with BagWriter(out, storage=STORAGES[plan.storage]) as writer:
            _copy(reader, writer, playback, plan)
            examiner = Examiner(
                writer,
                predictor,
                plan.door,
                plan.params,
                cameras=len(playback.cameras),
                drawn=frozenset(_spread(len(playback), plan.pictures)),
                show=show,
            )
            sights = track(playback, len(playback))
            if label_files:
                sights = (_labelled(sight, label_files) for sight in sights)
            for together in moments(sights, plan.params.max_apart_s):
                examiner.look(together)
        if not examiner.answers:
            why = next(iter(examiner.skipped), 'no image has a camera_info')
            raise BagError(f'{bag}: no image could be answered ({why})')
    evidence = Evidence(examiner.classes, tuple(examiner.answers), examiner.skipped)
    return Findings(evidence, examiner.timings_ms, examiner.pictures)


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


def _labelled(sight: Sight, label_files: Sequence[Path]) -> Sight:
    """Give an image the labels of a file in the place of the bag's."""
    return replace(sight, truth=kitti.read_labels(label_files[sight.number]))


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


def moments(sights: Iterable[Sight], max_apart_s: float) -> Iterator[tuple[Sight, ...]]:
    """
    Gather neighbours, at most one a camera.

    :param sights: in order of recording.
    :param max_apart_s: how far apart, by their stamps, images of one moment may be.
    :return: the same sights, in the same order.
    """
    gathered: list[Sight] = []
    for sight in sights:
        if gathered and not _belongs(sight, gathered, max_apart_s):
            yield tuple(gathered)
            gathered = []
        gathered.append(sight)
    if gathered:
        yield tuple(gathered)


def _belongs(sight: Sight, gathered: list[Sight], max_apart_s: float) -> bool:
    if any(sight.camera.name == other.camera.name for other in gathered):
        return False
    stamps = [stamp_ns(each.image.header) for each in (*gathered, sight)]
    return max(stamps) - min(stamps) <= max_apart_s * 1e9
