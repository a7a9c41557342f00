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

from mono3d_ros.bags.bag_io import LATCHED, BagWriter
from mono3d_ros.camera_frame import FrameResult
from mono3d_ros.messages import detections as detections_module
from mono3d_ros.messages import markers as markers_module
from mono3d_ros.messages import primitives as primitives_module
from mono3d_ros.tf import transforms
from stl_core.data.sources import kitti
from stl_core.data.sources.kitti_tracking import NO_TRACKS, Tracks
from stl_core.types import Array, Labels

POINTS = '/points'
LIDAR_FRAME = 'velodyne'

#: Every class that KITTI labels; DontCare is an area, not an object.
LABELLED = (*kitti.CLASSES, 'Van', 'Truck', 'Person_sitting', 'Tram', 'Misc')

#: sensor_msgs/msg/PointField
FLOAT32 = 7
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
class Shot:
    """
    One picture.

    :param camera: names.
    :param image: its file.
    :param P: (3, 4) of it.
    :param truth: what it shows; None where that is not known.
    """

    camera: CameraName
    image: Path
    P: Array
    truth: Tracks | None


@dataclass(frozen=True)
class Moment:
    """
    What was recorded at one time.

    :param stamp_ns: when.
    :param shots: one a camera.
    :param scan: LiDAR file, None where there is none.
    :param poses: transforms that hold for this moment.
    """

    stamp_ns: int
    shots: tuple[Shot, ...]
    scan: Path | None
    poses: tuple[transforms.Pose, ...]


class ImageForm(NamedTuple):
    """
    How pictures are written.

    :param topic: within the camera's namespace.
    :param make: image file, its (H, W, 3) pixels, header, maker of messages -> message.
    """

    topic: str
    make: Callable[[Path, Array, Any, primitives_module.New], Any]


def write(
    bag: BagWriter,
    moments: Iterable[Moment],
    static: Sequence[transforms.Pose],
    image: ImageForm,
    new: primitives_module.New,
) -> None:
    """
    Write moments into a bag.

    :param bag: the open bag.
    :param moments: in their order.
    :param static: transforms that hold for all of them.
    :param image: RAW or COMPRESSED.
    :param new: maker of the bag's messages.
    :raises DataError: for a file that is missing or malformed, naming it.
    :raises BagError: where the bag cannot be written.
    """
    shown: dict[str, tuple[int, ...]] = {}
    for number, moment in enumerate(moments):
        if static and number == 0:
            held = transforms.to_message(static, moment.stamp_ns, new)
            bag.write('/tf_static', moment.stamp_ns, held, LATCHED)
        results = [_result(shot, moment.stamp_ns) for shot in moment.shots]
        for topic, message in _messages(moment, results, shown, image, new):
            bag.write(topic, moment.stamp_ns, message)
        shown |= {each.camera: each.ids for each in results}


def to_labels(message: Any) -> Labels:
    """Read the labels of one image back from the String on NAMESPACE/ground_truth/labels."""
    lines = enumerate(message.data.splitlines(), 1)
    return kitti.parse_labels((f'ground_truth/labels:{number}', line) for number, line in lines)


def _messages(
    moment: Moment,
    results: Sequence[FrameResult],
    shown: Mapping[str, tuple[int, ...]],
    image: ImageForm,
    new: primitives_module.New,
) -> Iterator[tuple[str, Any]]:
    """Make topics and messages of a moment; shown is what each camera's markers showed last."""
    if moment.poses:
        yield '/tf', transforms.to_message(moment.poses, moment.stamp_ns, new)
    for shot, result in zip(moment.shots, results, strict=True):
        space, pixels = shot.camera.namespace, kitti.read_image(shot.image)
        header = primitives_module.to_header(moment.stamp_ns, shot.camera.frame_id, new)
        yield f'{space}/camera_info', _camera_info(shot.P, pixels, header, new)
        yield f'{space}/{image.topic}', image.make(shot.image, pixels, header, new)
        if shot.truth is not None:
            truth, last = f'{space}/ground_truth', shown.get(result.camera, ())
            yield truth, markers_module.markers(result, last, new, lifetime_s=0.0)
            yield f'{truth}/detections', detections_module.detections(result, new)
            yield f'{truth}/labels', new('std_msgs/msg/String', data=shot.truth.text)
    if moment.scan is not None:
        header = primitives_module.to_header(moment.stamp_ns, LIDAR_FRAME, new)
        yield POINTS, _cloud(kitti.read_velodyne(moment.scan), header, new)


def _result(shot: Shot, stamp_ns: int) -> FrameResult:
    """Take labels as if they were a result, so that the same code draws them."""
    truth = shot.truth or NO_TRACKS
    labelled = np.isin(truth.labels.name, LABELLED)
    return FrameResult(
        camera=f'{shot.camera.namespace.strip("/")}/ground_truth',
        stamp_ns=stamp_ns,
        frame_id=shot.camera.frame_id,
        objects=truth.labels.select(LABELLED),
        classes=LABELLED,
        ids=tuple(id for id, kept in zip(truth.ids, labelled, strict=True) if kept),
        timings_ms={},
    )


def _camera_info(P: Array, pixels: Array, header: Any, new: primitives_module.New) -> Any:
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


def _raw(_: Path, pixels: Array, header: Any, new: primitives_module.New) -> Any:
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


def _compressed(path: Path, _: Array, header: Any, new: primitives_module.New) -> Any:
    kind = 'png' if path.suffix == '.png' else 'jpeg'
    return new(
        'sensor_msgs/msg/CompressedImage', header=header, format=kind, data=path.read_bytes()
    )


def _cloud(points: Array, header: Any, new: primitives_module.New) -> Any:
    fields = [
        new('sensor_msgs/msg/PointField', name=name, offset=4 * i, datatype=FLOAT32, count=1)
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
RAW = ImageForm('image_raw', _raw)
COMPRESSED = ImageForm('image_raw/compressed', _compressed)
