"""
Draw recorded detections: pictures of images with boxes and a bird's-eye view, and a video.

No detector runs here: images come from the played bag, boxes from detection results or from
recorded markers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from mono3d_ros.bags.bag_io import BagError, BagReader
from mono3d_ros.bags.cameras.choice import find_cameras
from mono3d_ros.bags.drive_query import DriveQuery
from mono3d_ros.bags.drive_reader import DriveReader, DriveSample, Scan, decode_image, read_scan
from mono3d_ros.bags.drive_writer import LABELLED_CLASSES
from mono3d_ros.bags.recorded_boxes import NO_BOXES, RecordedBoxes
from mono3d_ros.camera_frame import Frame, FrameResult
from mono3d_ros.messages.images import ImageDecoder
from mono3d_ros.messages.markers import object_label
from mono3d_ros.messages.rectification import AUTO
from stl_core.types import Array, Labels
from stl_core.visualization import draw, style


@dataclass(frozen=True)
class LabelledBoxes:
    """
    Boxes to draw.

    :param edges_m: (M, 24, 3) end points of the edges, metres, camera frame.
    :param labels: M texts.
    :param colours: M RGB colours.
    """

    edges_m: Array
    labels: Sequence[str]
    colours: Sequence[tuple[int, int, int]]


@dataclass(frozen=True)
class Scene:
    """
    An image of the played bag with its labels and scan.

    :param frame: the image.
    :param truth: labelled boxes; None without labels.
    :param points_m: (L, 3) LiDAR points in the camera frame, metres; None without a scan.
    """

    frame: Frame
    truth: LabelledBoxes | None
    points_m: Array | None


def first_camera_topics(reader: BagReader) -> tuple[str, str]:
    """
    Find the first camera of an open bag.

    :param reader: the open bag.
    :return: topic of the images, topic of camera_info.
    :raises BagError: if the bag has no camera; the message lists its topics.
    """
    camera = find_cameras(reader, DriveQuery()).cameras[0]
    return camera.image, camera.info


def read_scenes(bag: str | Path) -> Iterator[Scene]:
    """
    Read the images of the first camera of a bag, with their labels and scans.

    :param bag: folder or file.
    :return: scenes in order of recording.
    :raises BagError: for a missing or malformed bag.
    """
    with BagReader(bag) as reader:
        image_topic, _ = first_camera_topics(reader)
        decoder = ImageDecoder()
        for sample in DriveReader(reader, DriveQuery(camera=image_topic)):
            try:
                frame = decode_image(sample, AUTO, decoder, Counter())
                frame = replace(frame, camera='camera')
            except ValueError as err:
                raise BagError(f'{image_topic} at {sample.recorded_ns} ns: {err}') from err
            yield to_scene(frame, sample)


def to_scene(frame: Frame, sample: DriveSample) -> Scene:
    """
    Combine an image with its labels and its scan in the camera frame.

    :param frame: the decoded image of the sample.
    :param sample: scan and labels.
    :return: the scene to draw.
    """
    truth = None if sample.truth is None else label_boxes(sample.truth)
    return Scene(frame, truth, scan_in_camera_frame(sample.scan, Counter()))


def label_boxes(labels: Labels) -> LabelledBoxes:
    """Return the boxes of the labelled objects, without DontCare regions."""
    objects = labels.to_objects(LABELLED_CLASSES)
    colours = [style.class_colour(LABELLED_CLASSES[i]) for i in objects.class_id]
    texts = draw.box_labels(objects, LABELLED_CLASSES)
    return LabelledBoxes(draw.box_edges(objects), texts, colours)


def result_boxes(result: FrameResult) -> LabelledBoxes:
    """Return the boxes of a result in the camera frame, with the texts of its markers."""
    objects = result.objects
    colours = [style.class_colour(result.classes[i]) for i in objects.class_id]
    texts = [object_label(result, row) for row in range(len(objects))]
    return LabelledBoxes(draw.box_edges(objects), texts, colours)


def scan_in_camera_frame(scan: Scan | None, notes: Counter[str]) -> Array | None:
    """
    Transform a scan to the camera frame.

    :param scan: scan of a sample, if it has one.
    :param notes: counts scans that cannot be read or transformed; changed in place.
    :return: (L, 3) metres; None without a usable scan.
    """
    if scan is None:
        return None
    camera_T_cloud = scan.camera_T_cloud
    if camera_T_cloud is None:
        frame_id = scan.cloud.header.frame_id
        notes[f'scans not used: no transform from {frame_id}: {scan.missing}'] += 1
        return None
    points = read_scan(scan, notes)
    if points is None:
        return None
    return points[:, :3].astype(np.float64) @ camera_T_cloud[:3, :3].T + camera_T_cloud[:3, 3]


def draw_scene(
    scene: Scene, boxes: LabelledBoxes | RecordedBoxes | None, caption: str = ''
) -> Array:
    """
    Draw the detected boxes on an image, next to a bird's-eye view.

    :param scene: image, labels and scan of the played bag.
    :param boxes: the detected boxes; None without a recorded detection message.
    :param caption: one line above the picture.
    :return: (H, W, 3) uint8 RGB.
    """
    boxes = boxes or NO_BOXES
    return draw.draw_frame(
        scene.frame.image,
        scene.frame.P,
        boxes.edges_m,
        boxes.colours,
        boxes.labels,
        truth_edges_m=scene.truth.edges_m if scene.truth else None,
        points_m=scene.points_m,
        caption=caption,
    )


def write_picture(path: str | Path, image: Array) -> None:
    """Write an RGB image as PNG; creates the folder if necessary."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    draw.write_picture(Path(path), image)


def write_video(path: str | Path, pictures: Sequence[str | Path], hold_s: float) -> None:
    """
    Write a video that shows each picture for some time; only one is in memory at a time.

    :param path: .mp4 file to write.
    :param pictures: image files; smaller ones are padded with black to the largest size.
    :param hold_s: duration of each picture, seconds.
    :raises OSError: for an unreadable picture.
    """
    sizes = [_read_picture(each).shape for each in pictures]
    height, width = (max(size[i] for size in sizes) for i in (0, 1))
    frames_each, fps = max(1, round(hold_s * 10)), 10.0
    codec = cv2.VideoWriter.fourcc(*'mp4v')
    video = cv2.VideoWriter(str(path), codec, fps, (width, height))
    for each in pictures:
        canvas = np.zeros((height, width, 3), np.uint8)
        image = _read_picture(each)
        canvas[: image.shape[0], : image.shape[1]] = image
        for _ in range(frames_each):
            video.write(canvas)
    video.release()


def _read_picture(path: str | Path) -> Array:
    """Return the (H, W, 3) uint8 BGR pixels of an image file."""
    image = cv2.imread(str(path))
    if image is None:
        raise OSError(f'{path}: not a readable picture')
    return image
