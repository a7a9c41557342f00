"""
Oracle AP: AP when one part of every matched detection is replaced by its label's.

Only matched detections change (see error_matching.py). Misses, false alarms, scores and, except
for 'everything', 2D boxes stay as they are, so a row shows the cost of the errors of one part. A
monocular detector predicts alpha, not rotation_y: where the centre moves, alpha stays and
rotation_y follows the new bearing. Such oracles: Ma et al., 'Delving into localization errors for
monocular 3D object detection', CVPR 2021.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from stl_core.evaluation.ap_result import ApResult
from stl_core.evaluation.average_precision import evaluate_detections
from stl_core.evaluation.error_matching import match_by_box_iou
from stl_core.geometry import backproject_pixels, project_points, wrap_angle
from stl_core.types import Array, Labels

#: Replaces P where no calibration is available: a camera at the origin of the camera frame.
#: Every K gives the same result, because only rays through the origin matter.
CAMERA_AT_ORIGIN = np.eye(3, 4)

#: Name of the table row without any replacement.
BASELINE = 'as detected'

#: Matched detections, their labels and P -> the detections with one part from the labels.
OracleFn = Callable[[Labels, Labels, Array], Labels]


def with_depth(detections: Labels, ground_truth: Labels, P: Array) -> Labels:
    """Replace depth by the labels'; the projected centre keeps its pixel."""
    center_px, _ = project_points(detections.center_m, P)
    return _move_center(detections, backproject_pixels(center_px, ground_truth.center_m[:, 2], P))


def with_projected_center(detections: Labels, ground_truth: Labels, P: Array) -> Labels:
    """Replace the pixel of the projected centre by the labels'; depth stays."""
    center_px, _ = project_points(ground_truth.center_m, P)
    return _move_center(detections, backproject_pixels(center_px, detections.center_m[:, 2], P))


def with_location(detections: Labels, ground_truth: Labels, P: Array) -> Labels:
    """Replace the centre of the box, depth and projected centre, by the labels'."""
    return _move_center(detections, ground_truth.center_m)


def with_size(detections: Labels, ground_truth: Labels, P: Array) -> Labels:
    """Replace height, width and length by the labels'; the centre of the box stays."""
    return replace(detections, size_hwl_m=ground_truth.size_hwl_m)


def with_yaw(detections: Labels, ground_truth: Labels, P: Array) -> Labels:
    """Replace rotation_y and alpha by the labels'."""
    return replace(detections, rotation_y=ground_truth.rotation_y, alpha=ground_truth.alpha)


def with_everything(detections: Labels, ground_truth: Labels, P: Array) -> Labels:
    """Return the labels themselves, 2D boxes included, with the scores of the detections."""
    return replace(ground_truth, score=detections.score)


#: Oracles by the part that they replace.
ORACLES: dict[str, OracleFn] = {
    'depth': with_depth,
    'projected centre': with_projected_center,
    'location': with_location,
    'size': with_size,
    'yaw': with_yaw,
    'everything': with_everything,
}


def oracle_table(
    ground_truth: Sequence[Labels], detections: Sequence[Labels], Ps: Sequence[Array]
) -> dict[str, ApResult]:
    """
    Evaluate detections as they are and after each of ORACLES.

    :param ground_truth: the labels of each frame, DontCare included.
    :param detections: the detections of the same frames in the same order.
    :param Ps: (3, 4) projection of each frame.
    :return: by part, BASELINE first, the results of evaluate_detections.
    :raises ValueError: when the three differ in length.
    """
    if not len(ground_truth) == len(detections) == len(Ps):
        raise ValueError(
            f'{len(ground_truth)} frames of labels but {len(detections)} of detections'
            f' and {len(Ps)} projections'
        )
    frames = list(zip(ground_truth, detections, Ps, strict=True))
    matches = [match_by_box_iou(labels, detected) for labels, detected, _ in frames]
    table = {BASELINE: evaluate_detections(ground_truth, detections)}
    for part, oracle in ORACLES.items():
        replaced = [
            _replace_rows(detected, rows, oracle(detected[rows], labels[label_rows], P))
            for (labels, detected, P), (label_rows, rows) in zip(frames, matches, strict=True)
        ]
        table[part] = evaluate_detections(ground_truth, replaced)
    return table


def _move_center(detections: Labels, center_m: Array) -> Labels:
    """Move boxes: alpha stays, and rotation_y turns with the bearing."""
    turn = _bearing(center_m) - _bearing(detections.center_m)
    return replace(
        detections, center_m=center_m, rotation_y=wrap_angle(detections.rotation_y + turn)
    )


def _bearing(center_m: Array) -> Array:
    return np.arctan2(center_m[:, 0], center_m[:, 2])


def _replace_rows(labels: Labels, rows: Array, replacement: Labels) -> Labels:
    """Return labels with rows replaced, except their names: a match has one class."""
    index = np.arange(len(labels))
    index[rows] = len(labels) + np.arange(len(replacement))
    return replace(Labels.concatenate([labels, replacement])[index], name=labels.name)
