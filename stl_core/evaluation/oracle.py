"""
What a perfect part would be worth: AP when one part of every matched detection is the label's.

Only matched detections change (see matching.py). Misses, false alarms, scores and, but for
'everything', 2D boxes stay as they are, so a row tells what the errors of that one part cost.
A monocular detector sees alpha, not rotation_y: where the centre moves, alpha stays and rotation_y
follows the new bearing. Oracles of this kind: Ma et al., 'Delving into localization errors for
monocular 3D object detection', CVPR 2021.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from stl_core.evaluation.average_precision import Result, evaluate
from stl_core.evaluation.error_matching import match
from stl_core.geometry import backproject, project, wrap_angle
from stl_core.types import Array, Labels

#: Stands in for P where no calibration is at hand: a camera at the origin of the camera frame.
#: Any K gives the same, for only rays through the origin count.
CAMERA_AT_ORIGIN = np.eye(3, 4)

#: The row of a table in which nothing is replaced.
AS_DETECTED = 'as detected'

#: Matched detections, their labels and P -> the detections with that part of the labels.
Replace = Callable[[Labels, Labels, Array], Labels]


def with_depth(found: Labels, truth: Labels, P: Array) -> Labels:
    """Take depth from the labels; the projected centre keeps its pixel."""
    center_px, _ = project(found.center_m, P)
    return _move(found, backproject(center_px, truth.center_m[:, 2], P))


def with_projected_center(found: Labels, truth: Labels, P: Array) -> Labels:
    """Take the pixel of the projected centre from the labels; depth stays."""
    center_px, _ = project(truth.center_m, P)
    return _move(found, backproject(center_px, found.center_m[:, 2], P))


def with_location(found: Labels, truth: Labels, P: Array) -> Labels:
    """Take the centre of the box from the labels: depth and projected centre."""
    return _move(found, truth.center_m)


def with_size(found: Labels, truth: Labels, P: Array) -> Labels:
    """Take height, width and length from the labels; the centre of the box stays."""
    return replace(found, size_hwl_m=truth.size_hwl_m)


def with_yaw(found: Labels, truth: Labels, P: Array) -> Labels:
    """Take rotation_y, and alpha with it, from the labels."""
    return replace(found, rotation_y=truth.rotation_y, alpha=truth.alpha)


def with_everything(found: Labels, truth: Labels, P: Array) -> Labels:
    """Take the labels themselves, 2D boxes included; scores stay."""
    return replace(truth, score=found.score)


#: What can be taken from the labels.
PARTS: dict[str, Replace] = {
    'depth': with_depth,
    'projected centre': with_projected_center,
    'location': with_location,
    'size': with_size,
    'yaw': with_yaw,
    'everything': with_everything,
}


def oracle_table(
    ground_truth: Sequence[Labels], detections: Sequence[Labels], Ps: Sequence[Array]
) -> dict[str, Result]:
    """
    Evaluate detections as they are and with each of PARTS replaced.

    :param ground_truth: the labels of each frame, DontCare included.
    :param detections: the detections of the same frames in the same order.
    :param Ps: (3, 4) projection of each frame.
    :return: by part, AS_DETECTED first, what evaluate.evaluate gives.
    :raises ValueError: when the three differ in length.
    """
    if not len(ground_truth) == len(detections) == len(Ps):
        raise ValueError(
            f'{len(ground_truth)} frames of labels but {len(detections)} of detections'
            f' and {len(Ps)} projections'
        )
    frames = list(zip(ground_truth, detections, Ps, strict=True))
    rows = [match(truth, found) for truth, found, _ in frames]
    table = {AS_DETECTED: evaluate(ground_truth, detections)}
    for part, take in PARTS.items():
        replaced = [
            _put(found, at[1], take(found[at[1]], truth[at[0]], P))
            for (truth, found, P), at in zip(frames, rows, strict=True)
        ]
        table[part] = evaluate(ground_truth, replaced)
    return table


def _move(found: Labels, center_m: Array) -> Labels:
    """Put boxes elsewhere: alpha stays, and rotation_y turns with the bearing."""
    turn = _bearing(center_m) - _bearing(found.center_m)
    return replace(found, center_m=center_m, rotation_y=wrap_angle(found.rotation_y + turn))


def _bearing(center_m: Array) -> Array:
    return np.arctan2(center_m[:, 0], center_m[:, 2])


def _put(labels: Labels, rows: Array, new: Labels) -> Labels:
    """Return labels with the given rows exchanged."""
    columns = {}
    for name in Labels.WIDTHS:
        columns[name] = getattr(labels, name).copy()
        if name != 'name':  # a match is of one class, and new names may be longer than old ones
            columns[name][rows] = getattr(new, name)
    return Labels(**columns)
