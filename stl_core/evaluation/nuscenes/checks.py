"""
What nuScenes' figures hide: height, and conventions of width, length and yaw.

The devkit matches boxes by the distance of their centres on the ground. Neither AP nor NDS knows
z, and AP knows neither yaw nor size: boxes 100 m under the ground score the same.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from stl_core.types import Array

#: Greatest distance on the ground between matched boxes, metres, as for the devkit's errors.
MAX_DISTANCE_M = 2.0
#: A mean orientation error as near to a quarter turn is suspicious, radians.
QUARTER_TURN_MARGIN = 0.1
#: A median height error above this part of the objects' median height is suspicious.
HEIGHT_MARGIN = 0.25


@dataclass(frozen=True)
class SampleBoxes:
    """
    Boxes of one sample, detected or true.

    :param name: (N,) class.
    :param score: (N,).
    :param center_m: (N, 3) global frame.
    :param size_wlh_m: (N, 3) width, length, height.
    """

    name: Array
    score: Array
    center_m: Array
    size_wlh_m: Array


@dataclass(frozen=True)
class HeightErrors:
    """
    z of matched boxes.

    :param matches: number of matched boxes.
    :param median_m: median of detected less true z; nan without a match.
    :param median_size_m: median true height of these boxes.
    """

    matches: int
    median_m: float
    median_size_m: float


def height_errors(
    truth: Mapping[str, SampleBoxes], found: Mapping[str, SampleBoxes]
) -> HeightErrors:
    """
    Match boxes on the ground, greedily by score as the devkit does, and compare their z.

    :param truth: true boxes by sample.
    :param found: detections by sample.
    """
    errors, heights = [], []
    for token, boxes in truth.items():
        if token in found:
            for at, to in _match(boxes, found[token]):
                errors.append(found[token].center_m[to, 2] - boxes.center_m[at, 2])
                heights.append(boxes.size_wlh_m[at, 2])
    if not errors:
        return HeightErrors(0, float('nan'), float('nan'))
    return HeightErrors(len(errors), float(np.median(errors)), float(np.median(heights)))


def _match(truth: SampleBoxes, found: SampleBoxes) -> list[tuple[int, int]]:
    """Return pairs (true, detected) of boxes: the best score takes the nearest free one."""
    distance = np.linalg.norm(truth.center_m[:, None, :2] - found.center_m[None, :, :2], axis=2)
    distance = np.where(truth.name[:, None] == found.name[None], distance, np.inf)
    pairs = []
    for to in np.argsort(-found.score, kind='stable'):
        if len(distance) and distance[:, to].min() <= MAX_DISTANCE_M:
            at = int(distance[:, to].argmin())
            pairs.append((at, int(to)))
            distance[at] = np.inf
    return pairs


def suspicions(orientation_error: float, heights: HeightErrors) -> list[str]:
    """
    Name conventions that a result seems to violate.

    :param orientation_error: mean over the present classes, radians.
    :param heights: from height_errors.
    """
    found = []
    if abs(orientation_error - np.pi / 2) <= QUARTER_TURN_MARGIN:
        found.append(
            f'the mean orientation error is {orientation_error:.2f}, a quarter turn: are width and'
            ' length swapped, or is yaw taken from another axis?'
        )
    if heights.matches and abs(heights.median_m) > HEIGHT_MARGIN * heights.median_size_m:
        side = 'below' if heights.median_m < 0 else 'above'
        found.append(
            f'boxes lie {abs(heights.median_m):.2f} m {side} the true ones (median; half of their'
            f' height is {heights.median_size_m / 2:.2f} m), which NDS does not see: is the middle'
            ' of the box taken for its bottom, or the reverse?'
        )
    return found


def boxes_by_sample(
    rows: Sequence[tuple[str, str, float, Sequence[float], Sequence[float]]],
) -> dict[str, SampleBoxes]:
    """Group rows (sample token, class, score, translation, size w l h) by sample."""
    grouped = defaultdict(list)
    for row in rows:
        grouped[row[0]].append(row)
    return {
        token: SampleBoxes(
            np.array([row[1] for row in each], np.str_),
            np.array([row[2] for row in each], np.float64),
            np.array([row[3] for row in each], np.float64),
            np.array([row[4] for row in each], np.float64),
        )
        for token, each in grouped.items()
    }
