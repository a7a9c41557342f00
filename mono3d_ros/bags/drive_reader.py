"""
A recorded drive, image by image, each with what else the bag knows of its moment.

Messages stand in a bag as they arrived, so what belongs together is found by the stamps of their
headers: the camera_info of the image's own stamp, or else the last before it; the scan nearest in
time; transforms at the time of image and scan. Labels (see recording.py) have no header: they
belong to the image that was recorded at the same time.
"""

from __future__ import annotations

import struct
from bisect import bisect_left, bisect_right
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from mono3d_ros.bags import drive_writer
from mono3d_ros.bags.bag_io import BagError, BagReader, Message
from mono3d_ros.camera_frame import CameraPose
from mono3d_ros.messages.primitives import header_stamp_ns
from mono3d_ros.tf.history import TransformHistory
from stl_core.data.sources.kitti import DataError
from stl_core.types import Array, Labels

IMAGE_TYPE, COMPRESSED_IMAGE_TYPE = 'sensor_msgs/msg/Image', 'sensor_msgs/msg/CompressedImage'
CAMERA_INFO_TYPE, POINT_CLOUD_TYPE = 'sensor_msgs/msg/CameraInfo', 'sensor_msgs/msg/PointCloud2'
TF_STATIC_TOPIC, TF_TOPIC = '/tf_static', '/tf'


@dataclass(frozen=True)
class CameraTopics:
    """
    Where a camera is in a bag.

    :param name: its namespace, such as 'front'; 'camera' where it has none.
    :param image: topic of the images, raw or compressed.
    :param info: topic of camera_info.
    :param labels: topic of the labels; empty where there is none.
    """

    name: str
    image: str
    info: str
    labels: str


def prefer_rectified(camera: CameraTopics) -> tuple[bool, bool]:
    """Order the image topics of one camera: rectified before others, raw before compressed."""
    base = camera.image.removesuffix('/compressed')
    return 'rect' not in base.rsplit('/', 1)[1], base != camera.image


def prefer_raw(camera: CameraTopics) -> tuple[bool, bool]:
    """Order the image topics of one camera: rectified after others, raw before compressed."""
    is_other, compressed = prefer_rectified(camera)
    return not is_other, compressed


@dataclass(frozen=True)
class DriveQuery:
    """
    What is wanted of a bag.

    :param camera: name or image topic of the only camera wanted; empty for all.
    :param topic_order: of several image topics of one camera the first is taken.
    :param cloud_topic: topic of the scans; empty for the first there is.
    :param every: of each camera the first image of so many.
    :param max_offset_s: a scan farther in time from its image is none.
    :param vehicle_frame: the frame of the vehicle, and
    :param fixed_frame: a frame that does not move, for the places of the cameras.
    """

    camera: str = ''
    topic_order: Callable[[CameraTopics], Any] = prefer_rectified
    cloud_topic: str = ''
    every: int = 1
    max_offset_s: float = 0.05
    vehicle_frame: str = 'base_link'
    fixed_frame: str = 'odom'

    def __post_init__(self) -> None:
        """Refuse numbers that choose nothing."""
        if self.every < 1:
            raise BagError(f'every {self.every}: expected 1 or more')
        if not self.max_offset_s >= 0:
            raise BagError(f'max-offset {self.max_offset_s:g}: expected 0 or more seconds')


class Scan(NamedTuple):
    """
    The scan that goes with an image.

    :param cloud: sensor_msgs PointCloud2.
    :param offset_s: how much later than the image it was taken.
    :param camera_T_cloud: (4, 4) its points into the frame of the camera, at the time of the
        image; None where no transform leads there.
    """

    cloud: Any
    offset_s: float
    camera_T_cloud: Array | None


@dataclass(frozen=True)
class DriveSample:
    """
    One image and what belongs to it.

    :param camera: which camera.
    :param image_index: of the image on its topic, from 0.
    :param recorded_ns: when the image was recorded.
    :param image: sensor_msgs Image or CompressedImage.
    :param info: sensor_msgs CameraInfo.
    :param camera_pose: where the camera was, as far as /tf and /tf_static tell.
    :param scan: None where there is none near in time.
    :param truth: the labels; None where the bag has none of this image.
    :param label_text: the same as KITTI's lines.
    """

    camera: CameraTopics
    image_index: int
    recorded_ns: int
    image: Any
    info: Any
    camera_pose: CameraPose
    scan: Scan | None
    truth: Labels | None
    label_text: str


def choose_cameras(
    topics: Mapping[str, str], query: DriveQuery, bag: str | Path
) -> tuple[CameraTopics, ...]:
    """
    Find the cameras of a bag: image topics with a camera_info beside them.

    :param topics: topic -> message type.
    :param query: which are wanted.
    :param bag: its name, for the message.
    :return: cameras in order of their names; at least one.
    :raises BagError: where there is none, naming the topics or cameras there are.
    """
    pairs = list(_find_cameras(topics))
    if not pairs:
        has = ', '.join(topics) or 'nothing'
        raise BagError(f'{bag}: no image topic with a camera_info beside it; the bag has {has}')
    found: dict[str, CameraTopics] = {}
    for each in sorted(pairs, key=query.topic_order):
        found.setdefault(each.name, each)
    if not query.camera:
        return tuple(found[name] for name in sorted(found))
    named = [each for each in pairs if each.image == query.camera]
    named += [each for name, each in found.items() if name == query.camera.strip('/')]
    if not named:
        has = ', '.join(f'{each.name} ({each.image})' for each in found.values())
        raise BagError(f'{bag}: no camera {query.camera}; the bag has {has}')
    return (named[0],)


class DriveReader:
    """The images of an open bag; it is read once to find what belongs together, then to play."""

    def __init__(self, reader: BagReader, query: DriveQuery) -> None:
        """
        Look through the bag.

        :param reader: the open bag.
        :param query: what of it.
        :raises BagError: for a camera or topic that is not there, or a bag that is damaged.
        """
        self._reader, self._query = reader, query
        self.cameras = choose_cameras(reader.topics, query, reader.path)
        self.cloud_topic = _choose_cloud_topic(reader, query.cloud_topic)
        self._camera_by_topic = {each.image: each for each in self.cameras}
        self._pose_frames = (query.vehicle_frame, query.fixed_frame)
        self._index = self._build_index()
        self._scan_by_image = self._match_scans()

    def num_images(self, camera: CameraTopics) -> int:
        """Return how many images a camera has, `every` aside."""
        return len(self._index.image_ns[camera.image])

    def __len__(self) -> int:
        """Return how many images will be played."""
        return sum(-(-len(each) // self._query.every) for each in self._index.image_ns.values())

    def __iter__(self) -> Iterator[DriveSample]:
        """Play: images in order of recording, those without any camera_info left out."""
        waiting: deque[tuple[int, Message]] = deque()
        scans: dict[int, Any] = {}
        uses, heard = Counter(self._scan_by_image.values()), Counter[str]()
        for message in self._reader.messages(self._played_topics()):
            number = heard[message.topic]
            heard[message.topic] += 1
            if message.topic == self.cloud_topic:
                if uses[number]:
                    scans[number] = self._reader.decode(message)
            elif number % self._query.every == 0:
                waiting.append((number, message))
            while waiting and self._is_scan_read(waiting[0], scans):
                number, image = waiting.popleft()
                sight = self._make_sample(number, image, scans)
                if sight is not None:
                    yield sight
                scan = self._scan_by_image.get((image.topic, number), -1)
                uses[scan] -= 1
                if uses[scan] == 0:
                    scans.pop(scan, None)

    def _played_topics(self) -> set[str]:
        return set(self._camera_by_topic) | ({self.cloud_topic} if self._scan_by_image else set())

    def _build_index(self) -> _DriveIndex:
        """Read the small messages, and of the large ones the stamps."""
        index = _DriveIndex({topic: [] for topic in self._camera_by_topic})
        infos = {each.info for each in self.cameras}
        labels = {each.labels for each in self.cameras if each.labels}
        tf = {TF_STATIC_TOPIC, TF_TOPIC} & set(self._reader.topics)
        large = {*self._camera_by_topic, self.cloud_topic} - {''}
        static: list[Any] = []
        moving: list[Any] = []
        for message in self._reader.messages({*infos, *labels, *tf, *large}):
            if message.topic in self._camera_by_topic:
                index.image_ns[message.topic].append(self._header_stamp_ns(message))
            elif message.topic == self.cloud_topic:
                index.cloud_ns.append((self._header_stamp_ns(message), len(index.cloud_ns)))
            elif message.topic in infos:
                one = (self._header_stamp_ns(message), message)
                index.infos.setdefault(message.topic, []).append(one)
            elif message.topic in labels:
                index.labels[message.topic, message.recorded_ns] = message
            else:
                to = static if message.topic == TF_STATIC_TOPIC else moving
                to.append(self._reader.decode(message))
        index.cloud_ns.sort()
        for each in index.infos.values():
            each.sort(key=_stamp_of)
        index.transforms = TransformHistory(static, moving)
        return index

    def _match_scans(self) -> dict[tuple[str, int], int]:
        """Find the scan nearest in time: (image topic, number) -> number of the scan."""
        clouds = self._index.cloud_ns
        found = {}
        for topic, stamps in self._index.image_ns.items():
            for number in range(0, len(stamps), self._query.every) if clouds else ():
                place = bisect_left(clouds, (stamps[number], 0))
                near = clouds[max(0, place - 1) : place + 1]
                off_ns, scan = min((abs(ns - stamps[number]), each) for ns, each in near)
                if off_ns <= self._query.max_offset_s * 1e9:
                    found[topic, number] = scan
        return found

    def _is_scan_read(self, image: tuple[int, Message], scans: Mapping[int, Any]) -> bool:
        """Tell whether the scan of an image, if it has one, was read."""
        scan = self._scan_by_image.get((image[1].topic, image[0]))
        return scan is None or scan in scans

    def _make_sample(
        self, image_index: int, message: Message, scans: Mapping[int, Any]
    ) -> DriveSample | None:
        camera, index = self._camera_by_topic[message.topic], self._index
        at_ns = index.image_ns[message.topic][image_index]
        infos = index.infos.get(camera.info)
        if not infos:
            return None
        place = bisect_right(infos, at_ns, key=_stamp_of) - 1
        image = self._reader.decode(message)
        info = self._reader.decode(infos[max(0, place)][1])
        own = image.header.frame_id or info.header.frame_id
        scan, labels = None, index.labels.get((camera.labels, message.recorded_ns))
        if (key := (message.topic, image_index)) in self._scan_by_image:
            cloud = scans[self._scan_by_image[key]]
            cloud_ns, frame_id = header_stamp_ns(cloud.header), cloud.header.frame_id
            way = index.transforms.lookup_between(own, at_ns, frame_id, cloud_ns)
            scan = Scan(cloud, (cloud_ns - at_ns) / 1e9, way)
        text = None if labels is None else self._reader.decode(labels)
        return DriveSample(
            camera,
            image_index,
            message.recorded_ns,
            image,
            info,
            CameraPose(
                *(
                    index.transforms.lookup_between(each, at_ns, own, at_ns)
                    for each in self._pose_frames
                )
            ),
            scan,
            truth=None if text is None else self._read_labels(text, message),
            label_text='' if text is None else text.data,
        )

    def _read_labels(self, text: Any, image: Message) -> Labels:
        try:
            return drive_writer.parse_label_message(text)
        except DataError as err:
            where = f'{self._reader.path}: labels of {image.topic} at {image.recorded_ns} ns'
            raise BagError(f'{where}: {err}') from err

    def _header_stamp_ns(self, message: Message) -> int:
        """Read the stamp of a message that begins with a header, without decoding the rest."""
        try:
            order = '<' if message.cdr[1] & 1 else '>'
            sec, nanosec = struct.unpack_from(f'{order}iI', message.cdr, 4)
        except (struct.error, IndexError) as err:
            where = f'{self._reader.path}: {message.topic} at {message.recorded_ns} ns'
            raise BagError(f'{where}: not a {message.type}') from err
        return int(sec) * 1_000_000_000 + int(nanosec)


@dataclass
class _DriveIndex:
    """
    What was found when the bag was looked through.

    :param image_ns: image topic -> stamps, in order of recording.
    :param cloud_ns: stamp and number of each scan, by stamp.
    :param infos: topic -> stamps and messages, by stamp.
    :param labels: topic and time of recording -> message.
    :param transforms: the transforms.
    """

    image_ns: dict[str, list[int]]
    cloud_ns: list[tuple[int, int]] = field(default_factory=list)
    infos: dict[str, list[tuple[int, Message]]] = field(default_factory=dict)
    labels: dict[tuple[str, int], Message] = field(default_factory=dict)
    transforms: TransformHistory = field(default_factory=lambda: TransformHistory((), ()))


def _find_cameras(topics: Mapping[str, str]) -> Iterator[CameraTopics]:
    """Return every image topic that has a camera_info beside it."""
    for topic, kind in topics.items():
        base = topic.removesuffix('/compressed')
        if kind != (IMAGE_TYPE if base == topic else COMPRESSED_IMAGE_TYPE):
            continue  # other transports, such as /compressedDepth, are no pictures
        space = base.rsplit('/', 1)[0]
        if topics.get(f'{space}/camera_info') == CAMERA_INFO_TYPE:
            labels = f'{space}/ground_truth/labels'
            name = space.strip('/') or 'camera'
            has_labels = topics.get(labels) == 'std_msgs/msg/String'
            yield CameraTopics(name, topic, f'{space}/camera_info', labels if has_labels else '')


def _choose_cloud_topic(reader: BagReader, requested: str) -> str:
    """Return the topic of the scans, empty where there is none."""
    clouds = [topic for topic, kind in reader.topics.items() if kind == POINT_CLOUD_TYPE]
    if requested and requested not in clouds:
        has = ', '.join(clouds) or 'none'
        raise BagError(f'{reader.path}: no PointCloud2 topic {requested}; the bag has {has}')
    return requested or next(iter(clouds), '')


def _stamp_of(pair: tuple[int, Any]) -> int:
    return pair[0]
