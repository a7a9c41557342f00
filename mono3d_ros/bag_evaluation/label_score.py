"""
Score recorded boxes against labels: KITTI's AP and depth errors of a detector's markers topic.

Boxes are read back from the lines of the markers, so that the score is that of the published
message.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from mono3d_ros.bags.recorded_boxes import RecordedBoxes
from mono3d_ros.camera_frame import Frame
from stl_core.evaluation import average_precision
from stl_core.geometry import BOX_EDGES, project_points, wrap_angle
from stl_core.types import Array, Labels

#: Index of the first of the 24 edge points that is corner i of geometry.box_corners.
CORNER_INDICES = [list(np.ravel(BOX_EDGES)).index(corner) for corner in range(8)]
FRONT_CORNERS, BACK_CORNERS = [0, 1, 4, 5], [2, 3, 6, 7]
MIN_DEPTH_M = 0.1

#: Headings of BoxScore.table_rows.
TABLE_HEADINGS = (
    'class',
    '3D AP40 (easy/moderate/hard), strict',
    '3D AP40 (easy/moderate/hard), loose',
    'matched',
    'median depth error (m)',
)


@dataclass(frozen=True)
class BoxScore:
    """
    Score of a detector against labels.

    :param ap: result of average_precision.evaluate_detections.
    :param depth_error_m: class name -> absolute depth errors of the matched labels, metres. A
        label matches the nearest box of its class whose 2D centre lies in the label's 2D box.
    """

    ap: average_precision.ApResult
    depth_error_m: dict[str, list[float]]

    def table_rows(self) -> list[tuple[str, ...]]:
        """Return a row per class: name, 3D AP40 at strict and loose IoU, matches, depth error."""
        rows = []
        for name, metrics in self.ap.items():
            strict, loose = (metrics['3d']['AP40'][each] for each in ('strict', 'loose'))
            errors = self.depth_error_m.get(name, [])
            median = f'{np.median(errors):.2f}' if errors else '-'
            cells = ('/'.join(f'{value:.1f}' for value in each) for each in (strict, loose))
            rows.append((name, *cells, str(len(errors)), median))
        return rows


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


def score_boxes(truth: Iterable[Labels], predictions: Iterable[Labels]) -> BoxScore:
    """Compute AP and depth errors of predictions, one Labels per frame, against the labels."""
    truth, predictions = list(truth), list(predictions)
    return BoxScore(
        average_precision.evaluate_detections(truth, predictions), depth_errors(truth, predictions)
    )


def depth_errors(truth: Iterable[Labels], predictions: Iterable[Labels]) -> dict[str, list[float]]:
    """Compute BoxScore.depth_error_m: class name -> absolute depth errors of matched labels."""
    errors: dict[str, list[float]] = {}
    for labels, detections in zip(truth, predictions, strict=True):
        for name in average_precision.CLASSES:
            of_class = labels[labels.name == name], detections[detections.name == name]
            errors.setdefault(name, []).extend(_depth_errors(*of_class))
    return errors


def _depth_errors(truth: Labels, predictions: Labels) -> list[float]:
    """Match each label with the box nearest in the image; return the absolute depth errors."""
    errors = []
    for i in range(len(truth)):
        low, high = truth.box_px[i, :2], truth.box_px[i, 2:]
        center_px = (predictions.box_px[:, :2] + predictions.box_px[:, 2:]) / 2
        offset = np.abs(center_px - (low + high) / 2) / np.maximum(high - low, 1.0)
        distance = offset.max(1)
        if len(distance) and distance.min() < 0.5:
            nearest = int(distance.argmin())
            errors.append(float(abs(predictions.center_m[nearest, 2] - truth.center_m[i, 2])))
    return errors


def _clipped_boxes_px(corners: Array, frame: Frame) -> Array:
    """Project (M, 8, 3) corners to (M, 4) 2D boxes in pixels, clipped to the image."""
    height, width = frame.image.shape[:2]
    ahead = np.concatenate([corners[..., :2], np.maximum(corners[..., 2:], MIN_DEPTH_M)], -1)
    pixels, _ = project_points(ahead, frame.P)
    box = np.concatenate([pixels.min(1), pixels.max(1)], -1)
    return np.clip(box, 0.0, [width - 1.0, height - 1.0, width - 1.0, height - 1.0])
