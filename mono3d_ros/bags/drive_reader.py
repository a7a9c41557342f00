"""
Read a recorded drive from a bag: every image with its camera_info, scan, transforms and labels.

A bag stores messages in order of arrival, so DriveReader associates them by header stamps: the
camera_info with the stamp of the image, or else the last one before it; the scan nearest in time;
the transforms at the times of image and scan; labels, which have no header, see label_match.py.
"""

from __future__ import annotations

import contextlib
import struct
from bisect import bisect_left, bisect_right
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from mono3d_ros.bags import drive_writer
from mono3d_ros.bags.bag_io import BagError, BagReader, Message
from mono3d_ros.bags.cameras.choice import find_cameras
from mono3d_ros.bags.cameras.label_match import match_labels
from mono3d_ros.bags.drive_query import CameraTopics, DriveQuery, choose_cloud_topic
from mono3d_ros.camera_frame import CameraPose, Frame
from mono3d_ros.messages.images import ImageDecoder, to_frame, to_intrinsics
from mono3d_ros.messages.point_cloud import read_points
from mono3d_ros.messages.primitives import header_stamp_ns
from mono3d_ros.messages.rectification import Rectifier, is_same_rectified
from mono3d_ros.tf.history import TransformHistory
from stl_core.data.frame_source import DataError
from stl_core.types import Array, Labels

TF_STATIC_TOPIC, TF_TOPIC = '/tf_static', '/tf'
#: Place of the header in a serialised message that begins with one, and of the header of the first
#: marker in a MarkerArray that is not empty, bytes.
HEADER_OFFSET, FIRST_MARKER_OFFSET = 4, 8
MARKERS_TYPE = 'visualization_msgs/msg/MarkerArray'


class Scan(NamedTuple):
    """
    The LiDAR scan of an image.

    :param cloud: sensor_msgs PointCloud2.
    :param offset_s: stamp of the scan minus that of the image, seconds.
    :param camera_T_cloud: (4, 4) transform of its points to the camera frame at the time of the
        image; None if the bag has no such transform.
    :param missing: why there is no transform; empty if there is one.
    """

    cloud: Any
    offset_s: float
    camera_T_cloud: Array | None
    missing: str = ''


@dataclass(frozen=True)
class DriveSample:
    """
    One image with its camera_info, camera pose, scan and labels.

    :param camera: topics of the camera.
    :param image_index: index of the image on its topic, from 0.
    :param recorded_ns: time of recording of the image.
    :param image: sensor_msgs Image or CompressedImage.
    :param info: sensor_msgs CameraInfo.
    :param camera_pose: pose of the camera, from /tf and /tf_static.
    :param scan: the scan nearest in time; None if there is none within max_offset_s.
    :param truth: the labels; None if the bag has none for this image.
    :param label_text: the labels as KITTI's lines; empty without labels.
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


def decode_image(
    sample: DriveSample, rectified: str, decoder: ImageDecoder, notes: Counter[str]
) -> Frame:
    """
    Decode and rectify the image of a sample, as the node does.

    :param sample: image and camera_info.
    :param rectified: the parameter `rectified` of the node: auto, true or false.
    :param decoder: decoder of the sample's image topic.
    :param notes: counts images that are rectified, and doubts about them; changed in place.
    :return: the frame; its camera is the name of the sample's camera.
    :raises BagError: if the images are said to be rectified, but are not.
    :raises ValueError: for an image or a camera_info that cannot be used.
    """
    rectifier = Rectifier(rectified, sample.camera.image)
    frame = to_frame(sample.image, sample.info, sample.camera.name, rectifier, decoder)
    if errors := [each.text for each in frame.concerns if each.is_error]:
        raise BagError('; '.join(errors))
    intrinsics = to_intrinsics(sample.info)
    if rectifier.rectifies(intrinsics) and not is_same_rectified(intrinsics):
        notes[f'images rectified: {sample.camera.image}'] += 1
    notes.update(f'images: {each.text}' for each in frame.concerns)
    return frame


def read_scan(scan: Scan | None, notes: Counter[str]) -> Array | None:
    """
    Return the points of a scan in its frame.

    :param scan: scan of a sample, if it has one.
    :param notes: counts scans that cannot be read; changed in place.
    :return: (L, 4) float32, see read_points; None without a scan or if it cannot be read.
    """
    if scan is None:
        return None
    try:
        return read_points(scan.cloud)
    except ValueError as err:
        notes[f'scans skipped: {err}'] += 1
        return None


class DriveReader:
    """
    Iterate over the images of an open bag; a first pass associates the messages by stamps.

    Scans and transforms that cannot be used are counted in `notes` and never cost an image.
    """

    def __init__(self, reader: BagReader, query: DriveQuery) -> None:
        """
        Index the bag: its cameras, stamps, camera_info, transforms and labels.

        :param reader: the open bag.
        :param query: which part of the bag to read.
        :raises BagError: for a camera or topic that the bag does not have, or a damaged bag.
        """
        self._reader, self._query = reader, query
        self.notes = Counter[str]()
        self.choice = find_cameras(reader, query)
        self.cameras = self.choice.cameras
        self.cloud_topic = choose_cloud_topic(reader.decodable_topics, query, reader.path)
        self._camera_by_topic = {each.image: each for each in self.cameras}
        self._pose_frames = (query.vehicle_frame, query.fixed_frame)
        self._index = self._build_index()
        self._labels_by_stamp = self._match_labels()
        self._scan_by_image = self._match_scans()

    def num_images(self, camera: CameraTopics) -> int:
        """Return the number of images of a camera, ignoring `every`."""
        return len(self._index.image_ns[camera.image])

    def __len__(self) -> int:
        """Return the number of images of all cameras, after `every`."""
        return sum(-(-len(each) // self._query.every) for each in self._index.image_ns.values())

    def __iter__(self) -> Iterator[DriveSample]:
        """Yield images in order of recording; images without any camera_info are omitted."""
        waiting: deque[tuple[int, Message]] = deque()
        scans: dict[int, Any] = {}
        uses, num_read = Counter(self._scan_by_image.values()), Counter[str]()
        for message in self._reader.messages(self._played_topics()):
            number = num_read[message.topic]
            num_read[message.topic] += 1
            if message.topic == self.cloud_topic:
                if uses[number]:
                    scans[number] = self._decode_optional(message)
            elif number % self._query.every == 0:
                waiting.append((number, message))
            while waiting and self._is_scan_read(waiting[0], scans):
                number, image = waiting.popleft()
                sample = self._make_sample(number, image, scans)
                if sample is not None:
                    yield sample
                scan = self._scan_by_image.get((image.topic, number), -1)
                uses[scan] -= 1
                if uses[scan] == 0:
                    scans.pop(scan, None)

    def _played_topics(self) -> set[str]:
        return set(self._camera_by_topic) | ({self.cloud_topic} if self._scan_by_image else set())

    def _build_index(self) -> _DriveIndex:
        """Read small messages as a whole, and of images and scans only the stamps."""
        index = _DriveIndex({topic: [] for topic in self._camera_by_topic})
        infos = {each.info for each in self.cameras}
        labels = {each.labels for each in self.cameras if each.labels}
        types = self._reader.decodable_topics
        spaces = {each.removesuffix('/labels') for each in labels}
        arrays = {each for each in spaces if types.get(each) == MARKERS_TYPE}
        tf = {TF_STATIC_TOPIC, TF_TOPIC} & set(types)
        large = {*self._camera_by_topic, self.cloud_topic} - {''}
        static: list[Any] = []
        moving: list[Any] = []
        num_clouds = 0
        for message in self._reader.messages({*infos, *labels, *arrays, *tf, *large}):
            if message.topic in self._camera_by_topic:
                index.image_ns[message.topic].append(self._header_stamp_ns(message))
            elif message.topic == self.cloud_topic:
                with contextlib.suppress(BagError):  # the second pass counts it if it is needed
                    index.cloud_ns.append((self._header_stamp_ns(message), num_clouds))
                num_clouds += 1
            elif message.topic in infos:
                stamped = (self._header_stamp_ns(message), message)
                index.infos.setdefault(message.topic, []).append(stamped)
            elif message.topic in labels:
                index.labels.setdefault(message.topic, []).append((message.recorded_ns, message))
            elif message.topic in arrays:
                with contextlib.suppress(BagError):  # empty: match_labels counts the others
                    stamp_ns = self._header_stamp_ns(message, FIRST_MARKER_OFFSET)
                    index.array_ns.setdefault(message.topic, []).append(stamp_ns)
            else:
                transforms = static if message.topic == TF_STATIC_TOPIC else moving
                if (decoded := self._decode_optional(message)) is not None:
                    transforms.append(decoded)
        index.cloud_ns.sort()
        for each in index.infos.values():
            each.sort(key=_stamp_of)
        index.transforms = TransformHistory(static, moving)
        self.notes.update({f'transforms: {text}': n for text, n in index.transforms.notes.items()})
        return index

    def _match_labels(self) -> dict[str, dict[int, Message]]:
        """Return image topic -> stamp of an image -> its labels."""
        index, matches = self._index, {}
        for camera in self.cameras:
            arrays = index.array_ns.get(camera.labels.removesuffix('/labels'), [])
            try:
                matches[camera.image] = match_labels(
                    index.labels.get(camera.labels, []), arrays, index.image_ns[camera.image]
                )
            except ValueError as err:
                raise BagError(f'{self._reader.path}: {camera.labels}: {err}') from err
        return matches

    def _match_scans(self) -> dict[tuple[str, int], int]:
        """Find the scan nearest in time: (image topic, image index) -> index of the scan."""
        clouds = self._index.cloud_ns
        matches = {}
        for topic, stamps in self._index.image_ns.items():
            for number in range(0, len(stamps), self._query.every) if clouds else ():
                position = bisect_left(clouds, (stamps[number], 0))
                neighbours = clouds[max(0, position - 1) : position + 1]
                offset_ns, scan = min((abs(ns - stamps[number]), each) for ns, each in neighbours)
                if offset_ns <= self._query.max_offset_s * 1e9:
                    matches[topic, number] = scan
        return matches

    def _is_scan_read(self, image: tuple[int, Message], scans: Mapping[int, Any]) -> bool:
        """Return whether the scan of an image was read; True for an image without a scan."""
        scan = self._scan_by_image.get((image[1].topic, image[0]))
        return scan is None or scan in scans

    def _make_sample(
        self, image_index: int, message: Message, scans: Mapping[int, Any]
    ) -> DriveSample | None:
        camera, index = self._camera_by_topic[message.topic], self._index
        stamp_ns = index.image_ns[message.topic][image_index]
        infos = index.infos.get(camera.info)
        if not infos:
            return None
        position = bisect_right(infos, stamp_ns, key=_stamp_of) - 1
        image = self._reader.decode(message)
        info = self._reader.decode(infos[max(0, position)][1])
        camera_frame = image.header.frame_id or info.header.frame_id
        scan, labels = None, self._labels_by_stamp[message.topic].get(stamp_ns)
        number = self._scan_by_image.get((message.topic, image_index))
        if number is not None and (cloud := scans[number]) is not None:
            scan = self._place_scan(cloud, camera_frame, stamp_ns)
        text = None if labels is None else self._reader.decode(labels)
        return DriveSample(
            camera,
            image_index,
            message.recorded_ns,
            image,
            info,
            CameraPose(*(self._place(each, stamp_ns, camera_frame) for each in self._pose_frames)),
            scan,
            truth=None if text is None else self._read_labels(text, message),
            label_text='' if text is None else text.data,
        )

    def _place(self, target: str, at_ns: int, camera_frame: str) -> Array | None:
        """Return the (4, 4) from the camera to a frame; None, counted if tf knows the frame."""
        transforms = self._index.transforms
        target_T_camera = transforms.lookup_between(target, at_ns, camera_frame, at_ns)
        if target_T_camera is None and transforms.is_known(target):
            reason = transforms.explain_missing(target, at_ns, camera_frame, at_ns)
            self.notes[f'images without a pose in {target}: {reason}'] += 1
        return target_T_camera

    def _place_scan(self, cloud: Any, camera_frame: str, stamp_ns: int) -> Scan:
        """Look up the transform of a scan to the camera at the time of an image."""
        cloud_ns = header_stamp_ns(cloud.header)
        query = (camera_frame, stamp_ns, cloud.header.frame_id, cloud_ns)
        camera_T_cloud = self._index.transforms.lookup_between(*query)
        missing = ''
        if camera_T_cloud is None:
            missing = self._index.transforms.explain_missing(*query)
        return Scan(cloud, (cloud_ns - stamp_ns) / 1e9, camera_T_cloud, missing)

    def _decode_optional(self, message: Message) -> Any:
        """Decode a message that an image can do without; None if it is damaged, counted."""
        try:
            return self._reader.decode(message)
        except BagError:
            self.notes[f'messages of {message.topic} skipped: not a {message.type}'] += 1
            return None

    def _read_labels(self, text: Any, image: Message) -> Labels:
        try:
            return drive_writer.parse_label_message(text)
        except DataError as err:
            where = f'{self._reader.path}: labels of {image.topic} at {image.recorded_ns} ns'
            raise BagError(f'{where}: {err}') from err

    def _header_stamp_ns(self, message: Message, offset: int = HEADER_OFFSET) -> int:
        """Read the stamp of a message with a header at an offset, without decoding it."""
        try:
            order = '<' if message.cdr[1] & 1 else '>'
            sec, nanosec = struct.unpack_from(f'{order}iI', message.cdr, offset)
        except (struct.error, IndexError) as err:
            where = f'{self._reader.path}: {message.topic} at {message.recorded_ns} ns'
            raise BagError(f'{where}: not a {message.type}') from err
        return int(sec) * 1_000_000_000 + int(nanosec)


@dataclass
class _DriveIndex:
    """
    Stamps and small messages of a bag, from the first pass over it.

    :param image_ns: image topic -> stamps, in order of recording.
    :param cloud_ns: stamp and index of each scan, sorted by stamp.
    :param infos: topic -> stamps and messages, sorted by stamp.
    :param labels: topic -> times of recording and messages, in order of recording.
    :param array_ns: topic of the same labels as markers -> stamps, in order of recording.
    :param transforms: all of /tf and /tf_static.
    """

    image_ns: dict[str, list[int]]
    cloud_ns: list[tuple[int, int]] = field(default_factory=list)
    infos: dict[str, list[tuple[int, Message]]] = field(default_factory=dict)
    labels: dict[str, list[tuple[int, Message]]] = field(default_factory=dict)
    array_ns: dict[str, list[int]] = field(default_factory=dict)
    transforms: TransformHistory = field(default_factory=lambda: TransformHistory((), ()))


def _stamp_of(pair: tuple[int, Any]) -> int:
    return pair[0]
