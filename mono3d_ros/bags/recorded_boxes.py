"""Read recorded detections: the boxes of a bag's MarkerArrays, and the latency of each image."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mono3d_ros.bags.bag_io import BagError, BagReader
from mono3d_ros.messages.markers import ADD, LINE_LIST, TEXT_VIEW_FACING
from mono3d_ros.messages.primitives import header_stamp_ns
from stl_core.types import Array
from stl_core.visualization import style

POINTS_PER_BOX = 24


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
    :raises BagError: for a missing or malformed bag.
    """
    table = Path(bag) / 'sent.csv'
    if not table.is_file():
        raise BagError(f'{table}: no such file; expected the send times of the images')
    with table.open(newline='') as file:
        sent = {int(row['stamp_ns']): int(row['sent_ns']) for row in csv.DictReader(file)}
    boxes, latency_ms = {}, {}
    with BagReader(bag) as reader:
        for message in reader.messages():
            array = reader.decode(message)
            if not array.markers:
                raise BagError(f'{bag}: {message.topic}: a MarkerArray without markers')
            stamp = header_stamp_ns(array.markers[0].header)
            boxes[stamp] = boxes_from_markers(array)
            if stamp in sent:
                latency_ms[stamp] = (message.recorded_ns - sent[stamp]) / 1e6
    return RecordedDetections(boxes, latency_ms, len(sent))


def boxes_from_markers(array: Any) -> RecordedBoxes:
    """Return the boxes and labels of a MarkerArray made by messages.markers."""
    added = [marker for marker in array.markers if marker.action == ADD]
    boxes = {m.id: m.points for m in added if m.type == LINE_LIST}
    labels = {m.id: m.text for m in added if m.type == TEXT_VIEW_FACING}
    edges = [[(p.x, p.y, p.z) for p in points] for points in boxes.values()]
    return RecordedBoxes(
        np.array(edges).reshape(-1, POINTS_PER_BOX, 3), tuple(labels.get(i, '') for i in boxes)
    )
