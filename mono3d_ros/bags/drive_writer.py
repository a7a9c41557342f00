"""
A recorded drive as messages: pictures, camera_info, scans, transforms and the ground truth.

Everything of one moment has one stamp. The ground truth is written three times, for three readers:
NAMESPACE/ground_truth as markers for every viewer, .../detections as numbers for tools of ROS, and
.../labels as KITTI's own lines (DontCare, occlusion and 2D boxes included) for KITTI's measures.
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
from stl_core.data.sources import kitti
from stl_core.data.sources.kitti_tracking import NO_TRACKS, FrameTracks
from stl_core.types import Array, Labels

POINTS_TOPIC = '/points'
LIDAR_FRAME = 'velodyne'

#: Every class that KITTI labels; DontCare is an area, not an object.
LABELLED_CLASSES = (*kitti.CLASSES, 'Van', 'Truck', 'Person_sitting', 'Tram', 'Misc')

#: sensor_msgs/msg/PointField
POINT_FIELD_FLOAT32 = 7
POINT_FIELDS = ('x', 'y', 'z', 'intensity')


@dataclass(frozen=True)
class CameraName:
    """
    How a bag names a camera.

    :param namespace: of its topics, such as '/front'.
    :param frame_id: its coordinate frame: x right, y down, z forward.
    """

    namespace: str
    frame_id: str


@dataclass(frozen=True)
class CameraImage:
    """
    One picture.

    :param camera: names.
    :param image_path: its file.
    :param P: (3, 4) of it.
    :param truth: what it shows; None where that is not known.
    """

    camera: CameraName
    image_path: Path
    P: Array
    truth: FrameTracks | None


@dataclass(frozen=True)
class DriveFrame:
    """
    What was recorded at one time.

    :param stamp_ns: when.
    :param images: one a camera.
    :param scan_path: LiDAR file, None where there is none.
    :param poses: transforms that hold for this moment.
    """

    stamp_ns: int
    images: tuple[CameraImage, ...]
    scan_path: Path | None
    poses: tuple[transforms.Pose, ...]


class ImageEncoding(NamedTuple):
    """
    How pictures are written.

    :param topic: within the camera's namespace.
    :param make_message: image file, its (H, W, 3) pixels, header, maker of messages -> message.
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
    Write moments into a bag.

    :param bag: the open bag.
    :param frames: in their order.
    :param static: transforms that hold for all of them.
    :param encoding: RAW or COMPRESSED.
    :param new: maker of the bag's messages.
    :raises DataError: for a file that is missing or malformed, naming it.
    :raises BagError: where the bag cannot be written.
    """
    shown: dict[str, tuple[int, ...]] = {}
    for number, moment in enumerate(frames):
        if static and number == 0:
            held = transforms.make_tf_message(static, moment.stamp_ns, new)
            bag.write('/tf_static', moment.stamp_ns, held, LATCHED_QOS)
        results = [_labels_as_result(shot, moment.stamp_ns) for shot in moment.images]
        for topic, message in _frame_messages(moment, results, shown, encoding, new):
            bag.write(topic, moment.stamp_ns, message)
        shown |= {each.camera: each.ids for each in results}


def parse_label_message(message: Any) -> Labels:
    """Read the labels of one image back from the String on NAMESPACE/ground_truth/labels."""
    lines = enumerate(message.data.splitlines(), 1)
    return kitti.parse_labels((f'ground_truth/labels:{number}', line) for number, line in lines)


def _frame_messages(
    frame: DriveFrame,
    results: Sequence[FrameResult],
    previous_ids: Mapping[str, tuple[int, ...]],
    encoding: ImageEncoding,
    new: primitives.MessageFactory,
) -> Iterator[tuple[str, Any]]:
    """Make topics and messages of a moment; shown is what each camera's markers showed last."""
    if frame.poses:
        yield '/tf', transforms.make_tf_message(frame.poses, frame.stamp_ns, new)
    for shot, result in zip(frame.images, results, strict=True):
        space, pixels = shot.camera.namespace, kitti.read_image(shot.image_path)
        header = primitives.to_header(frame.stamp_ns, shot.camera.frame_id, new)
        yield f'{space}/camera_info', _camera_info(shot.P, pixels, header, new)
        yield (
            f'{space}/{encoding.topic}',
            encoding.make_message(shot.image_path, pixels, header, new),
        )
        if shot.truth is not None:
            truth, last = f'{space}/ground_truth', previous_ids.get(result.camera, ())
            yield truth, markers.to_marker_array(result, last, new, lifetime_s=0.0)
            yield f'{truth}/detections', detections.to_detection_array(result, new)
            yield f'{truth}/labels', new('std_msgs/msg/String', data=shot.truth.label_lines)
    if frame.scan_path is not None:
        header = primitives.to_header(frame.stamp_ns, LIDAR_FRAME, new)
        yield POINTS_TOPIC, _point_cloud(kitti.read_velodyne(frame.scan_path), header, new)


def _labels_as_result(image: CameraImage, stamp_ns: int) -> FrameResult:
    """Take labels as if they were a result, so that the same code draws them."""
    truth = image.truth or NO_TRACKS
    labelled = np.isin(truth.labels.name, LABELLED_CLASSES)
    return FrameResult(
        camera=f'{image.camera.namespace.strip("/")}/ground_truth',
        stamp_ns=stamp_ns,
        frame_id=image.camera.frame_id,
        objects=truth.labels.to_objects(LABELLED_CLASSES),
        classes=LABELLED_CLASSES,
        ids=tuple(id for id, kept in zip(truth.track_ids, labelled, strict=True) if kept),
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
    kind = 'png' if path.suffix == '.png' else 'jpeg'
    return new(
        'sensor_msgs/msg/CompressedImage', header=header, format=kind, data=path.read_bytes()
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


#: Pixels, or the bytes of the image files.
RAW = ImageEncoding('image_raw', _raw_image)
COMPRESSED = ImageEncoding('image_raw/compressed', _compressed_image)
