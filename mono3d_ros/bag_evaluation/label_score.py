"""
Recorded boxes against labels: what a detector said on its topic, measured as KITTI measures.

Boxes are read back from the lines of the markers, so nothing but the published message counts.
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

#: Where corner i of geometry.corners stands first among the 24 edge points.
CORNER_INDICES = [list(np.ravel(BOX_EDGES)).index(corner) for corner in range(8)]
FRONT_CORNERS, BACK_CORNERS = [0, 1, 4, 5], [2, 3, 6, 7]
MIN_DEPTH_M = 0.1

#: Of Score.rows.
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
    How right a detector was.

    :param ap: what evaluate.evaluate gives.
    :param depth_error_m: by class name, for each label that a box of its class was found for
        (its middle within the label's 2D box), the absolute difference in depth.
    """

    ap: average_precision.ApResult
    depth_error_m: dict[str, list[float]]

    def table_rows(self) -> list[tuple[str, ...]]:
        """One row a class: name, 3D AP40 at strict and loose IoU, matches, depth error."""
        rows = []
        for name, metrics in self.ap.items():
            strict, loose = (metrics['3d']['AP40'][each] for each in ('strict', 'loose'))
            errors = self.depth_error_m.get(name, [])
            median = f'{np.median(errors):.2f}' if errors else '-'
            shown = ('/'.join(f'{value:.1f}' for value in each) for each in (strict, loose))
            rows.append((name, *shown, str(len(errors)), median))
        return rows


def boxes_to_labels(boxes: RecordedBoxes, frame: Frame) -> Labels:
    """
    Read boxes and scores back from a recorded answer.

    :param boxes: lines and texts such as 'Car 0.87 23.4 m'.
    :param frame: the image they were found in.
    :return: detections as labels; 2D boxes are those of the projected corners.
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


def score_boxes(truth: Iterable[Labels], found: Iterable[Labels]) -> BoxScore:
    """Compare the labels of each frame with what was found in it."""
    truth, found = list(truth), list(found)
    return BoxScore(
        average_precision.evaluate_detections(truth, found), depth_errors(truth, found)
    )


def depth_errors(truth: Iterable[Labels], found: Iterable[Labels]) -> dict[str, list[float]]:
    """Measure depth_error_m of Score."""
    errors: dict[str, list[float]] = {}
    for labels, detections in zip(truth, found, strict=True):
        for name in average_precision.CLASSES:
            here, there = labels[labels.name == name], detections[detections.name == name]
            errors.setdefault(name, []).extend(_depth_errors(here, there))
    return errors


def _depth_errors(truth: Labels, found: Labels) -> list[float]:
    """Match each label with the box nearest in the image; differences in depth."""
    errors = []
    for i in range(len(truth)):
        low, high = truth.box_px[i, :2], truth.box_px[i, 2:]
        middle = (found.box_px[:, :2] + found.box_px[:, 2:]) / 2
        away = np.abs(middle - (low + high) / 2) / np.maximum(high - low, 1.0)
        near = away.max(1)
        if len(near) and near.min() < 0.5:
            nearest = int(near.argmin())
            errors.append(float(abs(found.center_m[nearest, 2] - truth.center_m[i, 2])))
    return errors


def _clipped_boxes_px(corners: Array, frame: Frame) -> Array:
    """(M, 8, 3) corners -> (M, 4) 2D boxes, cut at the edges of the image."""
    height, width = frame.image.shape[:2]
    ahead = np.concatenate([corners[..., :2], np.maximum(corners[..., 2:], MIN_DEPTH_M)], -1)
    pixels, _ = project_points(ahead, frame.P)
    box = np.concatenate([pixels.min(1), pixels.max(1)], -1)
    return np.clip(box, 0.0, [width - 1.0, height - 1.0, width - 1.0, height - 1.0])
