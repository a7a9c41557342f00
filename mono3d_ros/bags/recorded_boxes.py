"""Read recorded detections: the boxes of a bag's MarkerArrays, and the latency of each image."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mono3d_ros.bags.bag_io import BagError, BagReader
from mono3d_ros.camera_frame import Frame
from mono3d_ros.messages.markers import ADD, LINE_LIST, TEXT_VIEW_FACING
from mono3d_ros.messages.primitives import header_stamp_ns
from stl_core.geometry import BOX_EDGES, project_points, wrap_angle
from stl_core.types import Array, Labels
from stl_core.visualization import style

MARKERS_TYPE = 'visualization_msgs/msg/MarkerArray'
POINTS_PER_BOX = 24
#: Index of the first of the 24 edge points that is corner i of geometry.box_corners.
CORNER_INDICES = [list(np.ravel(BOX_EDGES)).index(corner) for corner in range(8)]
FRONT_CORNERS, BACK_CORNERS = [0, 1, 4, 5], [2, 3, 6, 7]
MIN_DEPTH_M = 0.1


@dataclass(frozen=True)
class RecordedBoxes:
    """
    The boxes of one MarkerArray.

    :param edges_m: (M, 24, 3) end points of the edges, metres, in the frame of the markers.
    :param labels: M texts, such as 'Car 0.87 23.4 m'.
    """

    edges_m: Array
    labels: tuple[str, ...]

    @property
    def colours(self) -> list[tuple[int, int, int]]:
        """RGB colour of each box, by the class name at the start of its label."""
        return [style.class_colour(label.split(' ')[0]) for label in self.labels]


NO_BOXES = RecordedBoxes(np.zeros((0, POINTS_PER_BOX, 3)), ())


@dataclass(frozen=True)
class RecordedDetections:
    """
    Detections recorded while a bag was played to a detector.

    :param boxes: stamp of the image -> the boxes detected in it.
    :param latency_ms: stamp of the image -> time from sending it to receiving its markers.
    :param num_sent: number of images sent.
    """

    boxes: Mapping[int, RecordedBoxes]
    latency_ms: Mapping[int, float]
    num_sent: int

    def summary(self) -> dict[str, float | int | None]:
        """Return counts of frames and boxes, and latencies; None without a recorded latency."""
        latency = list(self.latency_ms.values())
        times = np.percentile(latency, [0, 50, 95]).round(2).tolist() if latency else [None] * 3
        return {
            'frames_in': self.num_sent,
            'frames_answered': len(self.boxes),
            'boxes': sum(len(each.labels) for each in self.boxes.values()),
            'latency_ms_min': times[0],
            'latency_ms_median': times[1],
            'latency_ms_p95': times[2],
        }


def read_recorded_detections(bag: str | Path) -> RecordedDetections:
    """
    Read a bag of detections that examples/replay_bag.py recorded.

    :param bag: folder of the bag, with sent.csv.
    :return: boxes and latencies by image stamp.
    :raises BagError: for a missing or malformed bag, one of other markers, or a sent.csv of
        another recording.
    """
    table = Path(bag) / 'sent.csv'
    if not table.is_file():
        raise BagError(f'{table}: no such file; expected the send times of the images')
    try:
        with table.open(newline='') as file:
            sent = {int(row['stamp_ns']): int(row['sent_ns']) for row in csv.DictReader(file)}
    except (ValueError, TypeError, KeyError, csv.Error) as err:
        expected = 'expected the columns stamp_ns and sent_ns with whole numbers'
        raise BagError(f'{table}: {expected} ({err!r})') from err
    if not sent:
        raise BagError(f'{table}: no line; expected the send time of each image')
    boxes, latency_ms = {}, {}
    with BagReader(bag) as reader:
        topics = [t for t, kind in reader.decodable_topics.items() if kind == MARKERS_TYPE]
        if not topics:
            raise BagError(f'{bag}: no topic of {MARKERS_TYPE}')
        for message in reader.messages(topics):
            array = reader.decode(message)
            if not array.markers:
                raise BagError(f'{bag}: {message.topic}: a MarkerArray without markers')
            stamp = header_stamp_ns(array.markers[0].header)
            try:
                boxes[stamp] = boxes_from_markers(array)
            except ValueError as err:
                raise BagError(f'{bag}: {message.topic}: {err}') from err
            if stamp in sent:
                latency_ms[stamp] = (message.recorded_ns - sent[stamp]) / 1e6
    if boxes and not latency_ms:
        raise BagError(
            f'{table}: none of its {len(sent)} stamps is one of the {len(boxes)} MarkerArrays; '
            'expected the table that was written with this bag'
        )
    return RecordedDetections(boxes, latency_ms, len(sent))


def boxes_from_markers(array: Any) -> RecordedBoxes:
    """
    Return the boxes and labels of a MarkerArray made by messages.markers.

    :raises ValueError: for markers of another origin: other edges, or a box without its label.
    """
    added = [marker for marker in array.markers if marker.action == ADD]
    boxes = {m.id: m.points for m in added if m.type == LINE_LIST}
    labels = {m.id: m.text for m in added if m.type == TEXT_VIEW_FACING}
    edges = [[(p.x, p.y, p.z) for p in points] for points in boxes.values()]
    for marker_id, points in zip(boxes, edges, strict=True):
        if len(points) != POINTS_PER_BOX or marker_id not in labels:
            raise ValueError(
                f'marker {marker_id} has {len(points)} points and the label '
                f'{labels.get(marker_id, "")!r}; expected a box of the detector: '
                f'{POINTS_PER_BOX} points, labelled'
            )
    return RecordedBoxes(
        np.array(edges).reshape(-1, POINTS_PER_BOX, 3), tuple(labels[i] for i in boxes)
    )


def boxes_to_labels(boxes: RecordedBoxes, frame: Frame) -> Labels:
    """
    Convert recorded boxes to labels with scores.

    :param boxes: edges in the camera frame, and texts such as 'Car 0.87 23.4 m'.
    :param frame: the image in which they were detected.
    :return: detections as labels; 2D boxes enclose the projected corners.
    """
    corners = boxes.edges_m[:, CORNER_INDICES]
    ahead = corners[:, FRONT_CORNERS].mean(1) - corners[:, BACK_CORNERS].mean(1)
    center = corners.mean(1)
    size = [(0, 1), (0, 4), (0, 3)]
    rotation_y = np.arctan2(-ahead[:, 2], ahead[:, 0])
    count, words = len(center), [text.split(' ') for text in boxes.labels]
    return Labels(
        name=np.array([each[0] for each in words], np.str_),
        truncated=np.full(count, -1.0),
        occluded=np.full(count, -1),
        alpha=wrap_angle(rotation_y - np.arctan2(center[:, 0], center[:, 2])),
        score=np.array([float(each[1]) for each in words]),
        center_m=center,
        size_hwl_m=np.stack(
            [np.linalg.norm(corners[:, a] - corners[:, b], axis=1) for a, b in size], 1
        ),
        rotation_y=rotation_y,
        box_px=_clipped_boxes_px(corners, frame),
    )


def _clipped_boxes_px(corners: Array, frame: Frame) -> Array:
    """Project (M, 8, 3) corners to (M, 4) 2D boxes in pixels, clipped to the image."""
    height, width = frame.image.shape[:2]
    ahead = np.concatenate([corners[..., :2], np.maximum(corners[..., 2:], MIN_DEPTH_M)], -1)
    pixels, _ = project_points(ahead, frame.P)
    box = np.concatenate([pixels.min(1), pixels.max(1)], -1)
    return np.clip(box, 0.0, [width - 1.0, height - 1.0, width - 1.0, height - 1.0])
