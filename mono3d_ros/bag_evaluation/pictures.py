"""
What a detector answered to a bag, as a person wants to see it: table, pictures, video.

Nothing is detected here: images come from the bag that was played, boxes from the markers that
were recorded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from mono3d_ros.bags.bag_io import BagError, BagReader
from mono3d_ros.bags.drive_reader import DriveQuery, DriveReader, DriveSample, Scan, choose_cameras
from mono3d_ros.bags.drive_writer import LABELLED_CLASSES
from mono3d_ros.bags.recorded_boxes import NO_BOXES, RecordedBoxes
from mono3d_ros.camera_frame import Frame
from mono3d_ros.messages.images import to_frame
from mono3d_ros.messages.point_cloud import read_points
from mono3d_ros.messages.rectification import passthrough_image
from stl_core.types import Array, Labels
from stl_core.visualization import draw


@dataclass(frozen=True)
class Scene:
    """
    What the played bag holds of one moment.

    :param frame: the image.
    :param truth: labelled boxes; None where the bag has none.
    :param points_m: (L, 3) LiDAR points in the camera frame; None likewise.
    """

    frame: Frame
    truth: RecordedBoxes | None
    points_m: Array | None


def first_camera_topics(topics: Mapping[str, str], bag: str | Path) -> tuple[str, str]:
    """
    Find the first camera of a bag: an image topic and the camera_info beside it.

    :param topics: topic -> message type.
    :param bag: its name, for the message.
    :return: topic of the images, topic of camera_info.
    :raises BagError: where there is no such pair, naming the topics there are.
    """
    camera = choose_cameras(topics, DriveQuery(), bag)[0]
    return camera.image, camera.info


def read_scenes(bag: str | Path) -> Iterator[Scene]:
    """
    Read the images of the first camera of a bag, each with what else it holds of their moment.

    :param bag: folder or file.
    :return: scenes in order of recording.
    :raises BagError: for a bag that is missing or malformed.
    """
    with BagReader(bag) as reader:
        image_topic, _ = first_camera_topics(reader.topics, bag)
        for sight in DriveReader(reader, DriveQuery(camera=image_topic)):
            try:
                frame = to_frame(sight.image, sight.info, 'camera', passthrough_image)
            except ValueError as err:
                raise BagError(f'{image_topic} at {sight.recorded_ns} ns: {err}') from err
            yield to_scene(frame, sight)


def to_scene(frame: Frame, sample: DriveSample) -> Scene:
    """
    Gather what is drawn of a moment.

    :param frame: the image of the sight.
    :param sample: its scan and labels.
    """
    truth = None if sample.truth is None else label_boxes(sample.truth)
    return Scene(frame, truth, scan_in_camera_frame(sample.scan) if sample.scan else None)


def label_boxes(labels: Labels) -> RecordedBoxes:
    """Return the boxes of the labelled objects; DontCare has none."""
    objects = labels.to_objects(LABELLED_CLASSES)
    return RecordedBoxes(
        draw.box_edges(objects), tuple(draw.box_labels(objects, LABELLED_CLASSES))
    )


def scan_in_camera_frame(scan: Scan) -> Array | None:
    """Bring a scan into the camera frame, (L, 3) metres; None where no transform leads there."""
    if scan.camera_T_cloud is None:
        return None
    try:
        points = read_points(scan.cloud)[:, :3].astype(np.float64)
    except ValueError:
        return None
    return points @ scan.camera_T_cloud[:3, :3].T + scan.camera_T_cloud[:3, 3]


def draw_scene(scene: Scene, boxes: RecordedBoxes | None, caption: str = '') -> Array:
    """
    Draw one moment: the boxes found on the image, beside the view from above.

    :param scene: from the bag that was played.
    :param boxes: the answer; None where there was none.
    :param caption: one line above.
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
    """Write an RGB picture as PNG."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))


def write_video(path: str | Path, pictures: Sequence[str | Path], hold_s: float) -> None:
    """
    Write a video that shows each picture for a while; only one is in memory at a time.

    :param path: .mp4 to write.
    :param pictures: image files; smaller ones are set on black to the size of the largest.
    :param hold_s: how long each is shown.
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
    """Read a picture as OpenCV has it, BGR."""
    image = cv2.imread(str(path))
    if image is None:
        raise OSError(f'{path}: not a readable picture')
    return image
