"""
Write a drive into a bag: images, camera_info, LiDAR scans, transforms and the ground truth.

All messages of one frame have the same stamp. The ground truth is written on three topics:
NAMESPACE/ground_truth as markers for viewers, .../detections as Detection3DArray for ROS tools,
and .../labels as KITTI's label lines (with DontCare, occlusion and 2D boxes) for KITTI's metrics.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mono3d_ros.bags.bag_io import LATCHED_QOS, BagWriter
from mono3d_ros.camera_frame import FrameResult
from mono3d_ros.messages import detections, markers, primitives
from mono3d_ros.tf import transforms
from stl_core.data import scan_file
from stl_core.data.sources import kitti
from stl_core.data.sources.kitti_tracking import NO_TRACKS, FrameTracks
from stl_core.types import Array, Labels

POINTS_TOPIC = '/points'
LIDAR_FRAME = 'velodyne'

#: Every class that KITTI labels; DontCare is an image region, not an object.
LABELLED_CLASSES = (*kitti.CLASSES, 'Van', 'Truck', 'Person_sitting', 'Tram', 'Misc')

#: sensor_msgs/msg/PointField
POINT_FIELD_FLOAT32 = 7
POINT_FIELDS = ('x', 'y', 'z', 'intensity')


@dataclass(frozen=True)
class CameraName:
    """
    Names of a camera in a bag.

    :param namespace: namespace of its topics, such as '/front'.
    :param frame_id: its coordinate frame: x right, y down, z forward.
    """

    namespace: str
    frame_id: str


@dataclass(frozen=True)
class CameraImage:
    """
    One image of a camera.

    :param camera: names of the camera.
    :param image_path: image file.
    :param P: (3, 4) projection of the image.
    :param truth: labelled objects of the image; None without labels.
    """

    camera: CameraName
    image_path: Path
    P: Array
    truth: FrameTracks | None


@dataclass(frozen=True)
class DriveFrame:
    """
    Images, scan and transforms of one time step.

    :param stamp_ns: time stamp of all its messages.
    :param images: one image per camera.
    :param scan_path: LiDAR file; None without a scan.
    :param poses: transforms that are valid at this time.
    """

    stamp_ns: int
    images: tuple[CameraImage, ...]
    scan_path: Path | None
    poses: tuple[transforms.Pose, ...]


class ImageEncoding(NamedTuple):
    """
    Encoding of images in a bag.

    :param topic: image topic within the namespace of the camera.
    :param make_message: image file, its (H, W, 3) pixels, header, message factory -> message.
    """

    topic: str
    make_message: Callable[[Path, Array, Any, primitives.MessageFactory], Any]


def write_drive(
    bag: BagWriter,
    frames: Iterable[DriveFrame],
    static: Sequence[transforms.Pose],
    encoding: ImageEncoding,
    new: primitives.MessageFactory,
) -> None:
    """
    Write frames into a bag.

    :param bag: the open bag.
    :param frames: the frames in order of time.
    :param static: transforms that are valid for all frames, written to /tf_static.
    :param encoding: RAW or COMPRESSED.
    :param new: message factory of the bag.
    :raises DataError: for a missing or malformed file; the message names it.
    :raises BagError: if the bag cannot be written.
    """
    previous_ids: dict[str, tuple[int, ...]] = {}
    for number, frame in enumerate(frames):
        if static and number == 0:
            tf_static = transforms.make_tf_message(static, frame.stamp_ns, new)
            bag.write('/tf_static', frame.stamp_ns, tf_static, LATCHED_QOS)
        results = [_labels_as_result(image, frame.stamp_ns) for image in frame.images]
        for topic, message in _frame_messages(frame, results, previous_ids, encoding, new):
            bag.write(topic, frame.stamp_ns, message)
        previous_ids |= {each.camera: each.ids for each in results}


def parse_label_message(message: Any) -> Labels:
    """Parse the labels of one image from the String on NAMESPACE/ground_truth/labels."""
    lines = enumerate(message.data.splitlines(), 1)
    return kitti.parse_labels((f'ground_truth/labels:{number}', line) for number, line in lines)


def _frame_messages(
    frame: DriveFrame,
    results: Sequence[FrameResult],
    previous_ids: Mapping[str, tuple[int, ...]],
    encoding: ImageEncoding,
    new: primitives.MessageFactory,
) -> Iterator[tuple[str, Any]]:
    """Yield (topic, message) of a frame; previous_ids are the marker ids by camera to delete."""
    if frame.poses:
        yield '/tf', transforms.make_tf_message(frame.poses, frame.stamp_ns, new)
    for image, result in zip(frame.images, results, strict=True):
        space, pixels = image.camera.namespace, kitti.read_image(image.image_path)
        header = primitives.to_header(frame.stamp_ns, image.camera.frame_id, new)
        yield f'{space}/camera_info', _camera_info(image.P, pixels, header, new)
        yield (
            f'{space}/{encoding.topic}',
            encoding.make_message(image.image_path, pixels, header, new),
        )
        if image.truth is not None:
            topic, last_ids = f'{space}/ground_truth', previous_ids.get(result.camera, ())
            yield topic, markers.to_marker_array(result, last_ids, new, lifetime_s=0.0)
            yield f'{topic}/detections', detections.to_detection_array(result, new)
            yield f'{topic}/labels', new('std_msgs/msg/String', data=image.truth.label_lines)
    if frame.scan_path is not None:
        header = primitives.to_header(frame.stamp_ns, LIDAR_FRAME, new)
        yield POINTS_TOPIC, _point_cloud(scan_file.read_velodyne(frame.scan_path), header, new)


def _labels_as_result(image: CameraImage, stamp_ns: int) -> FrameResult:
    """Convert labels to a FrameResult, so that the same code makes the messages."""
    truth = image.truth or NO_TRACKS
    is_object = np.isin(truth.labels.name, LABELLED_CLASSES)
    return FrameResult(
        camera=f'{image.camera.namespace.strip("/")}/ground_truth',
        stamp_ns=stamp_ns,
        frame_id=image.camera.frame_id,
        objects=truth.labels.to_objects(LABELLED_CLASSES),
        classes=LABELLED_CLASSES,
        ids=tuple(id for id, kept in zip(truth.track_ids, is_object, strict=True) if kept),
        timings_ms={},
    )


def _camera_info(P: Array, pixels: Array, header: Any, new: primitives.MessageFactory) -> Any:
    return new(
        'sensor_msgs/msg/CameraInfo',
        header=header,
        width=pixels.shape[1],
        height=pixels.shape[0],
        distortion_model='plumb_bob',
        d=np.zeros(5),
        k=P[:, :3],
        r=np.eye(3),
        p=P,
    )


def _raw_image(_: Path, pixels: Array, header: Any, new: primitives.MessageFactory) -> Any:
    height, width, channels = pixels.shape
    return new(
        'sensor_msgs/msg/Image',
        header=header,
        height=height,
        width=width,
        encoding='rgb8',
        step=channels * width,
        data=pixels,
    )


def _compressed_image(path: Path, _: Array, header: Any, new: primitives.MessageFactory) -> Any:
    encoding = 'png' if path.suffix == '.png' else 'jpeg'
    return new(
        'sensor_msgs/msg/CompressedImage', header=header, format=encoding, data=path.read_bytes()
    )


def _point_cloud(points: Array, header: Any, new: primitives.MessageFactory) -> Any:
    fields = [
        new(
            'sensor_msgs/msg/PointField',
            name=name,
            offset=4 * i,
            datatype=POINT_FIELD_FLOAT32,
            count=1,
        )
        for i, name in enumerate(POINT_FIELDS)
    ]
    return new(
        'sensor_msgs/msg/PointCloud2',
        header=header,
        height=1,
        width=len(points),
        fields=fields,
        point_step=16,
        row_step=16 * len(points),
        data=points.tobytes(),
        is_dense=True,
    )


#: Decoded pixels, or the bytes of the image files.
RAW = ImageEncoding('image_raw', _raw_image)
COMPRESSED = ImageEncoding('image_raw/compressed', _compressed_image)
