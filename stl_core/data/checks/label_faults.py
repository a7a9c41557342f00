"""Numbers of a label that no object can have: named, left out of training, never counted."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from stl_core.types import Array, Labels

#: Greatest height, width or length, and distance from the camera along an axis, metres.
MAX_SIZE_M, MAX_POSITION_M = 100.0, 1000.0
#: Greatest coordinate of a 2D box, pixels.
MAX_PIXEL = 1e6
#: rotation_y may count from -pi to pi or from 0 to 2 pi.
MAX_ROTATION = 2 * math.pi + 0.01
DONT_CARE = 'dontcare'


class Fault(NamedTuple):
    """
    A kind of impossible numbers.

    :param find: function of labels that returns (N,) bool.
    :param text: (labels, index) -> the numbers.
    :param expected: the numbers that are expected, and what else may be meant.
    """

    find: Callable[[Labels], Array]
    text: Callable[[Labels, int], str]
    expected: str


def _wrong_size(labels: Labels) -> Array:
    return np.any((labels.size_hwl_m <= 0) | (labels.size_hwl_m > MAX_SIZE_M), 1)


def _wrong_position(labels: Labels) -> Array:
    return np.any(np.abs(labels.center_m) > MAX_POSITION_M, 1)


def _wrong_box(labels: Labels) -> Array:
    far = np.any(np.abs(labels.box_px) > MAX_PIXEL, 1)
    return far | np.any(labels.box_px[:, 2:] <= labels.box_px[:, :2], 1)


def _wrong_truncation(labels: Labels) -> Array:
    return (labels.truncated > 1) | ((labels.truncated < 0) & (labels.truncated != -1))


def _wrong_rotation(labels: Labels) -> Array:
    return np.abs(labels.rotation_y) > MAX_ROTATION


#: Kind of fault -> how to find and describe it; an object has the first one that fits.
FAULTS = {
    'size': Fault(
        _wrong_size,
        lambda labels, i: f'height width length {_numbers(labels.size_hwl_m[i])}',
        'expected metres, more than 0; are these labels without 3D boxes?',
    ),
    'position': Fault(
        _wrong_position,
        lambda labels, i: f'position {_numbers(labels.center_m[i])}',
        'expected metres in the camera frame, x right, y down, z forward',
    ),
    'box': Fault(
        _wrong_box,
        lambda labels, i: f'2D box {_numbers(labels.box_px[i])}',
        'expected x0 y0 x1 y1 with x0 < x1, y0 < y1; x y w h, or labels without 2D boxes?',
    ),
    'truncation': Fault(
        _wrong_truncation,
        lambda labels, i: f'truncated {labels.truncated[i]:g}',
        'expected a fraction, 0 to 1; is it in percent?',
    ),
    'rotation': Fault(
        _wrong_rotation,
        lambda labels, i: f'rotation_y {labels.rotation_y[i]:g}',
        'expected radians, -pi to pi; is it in degrees?',
    ),
}


def find_faults(labels: Labels) -> Array:
    """
    Return the kind of impossible numbers of each object, a key of FAULTS.

    :return: (N,) str; '' for possible objects and for DontCare, whose numbers mean nothing.
    """
    kinds = np.full(len(labels), '', 'U10')
    for kind, fault in reversed(FAULTS.items()):
        kinds[fault.find(labels)] = kind
    kinds[np.char.lower(labels.name) == DONT_CARE] = ''
    return kinds


def describe_fault(labels: Labels, index: int) -> str:
    """Describe the impossible numbers of an object and the expected ones; '' if it has none."""
    kind = str(find_faults(labels[index])[0])
    return f'{FAULTS[kind].text(labels, index)}; {FAULTS[kind].expected}' if kind else ''


def warn_of_faults(labels_by_frame: Sequence[Labels], locations: Sequence[Sequence[str]]) -> str:
    """
    Return a warning of objects with impossible numbers: how many, and the first.

    :param labels_by_frame: labels of each frame.
    :param locations: where each label of each frame is, such as 'FILE:3'.
    :return: the warning, '' if there is no such object.
    """
    count, first = 0, ''
    for labels, where in zip(labels_by_frame, locations, strict=True):
        indices = np.flatnonzero(find_faults(labels) != '')
        if len(indices) and not count:
            first = f'{where[indices[0]]}: {describe_fault(labels, int(indices[0]))}'
        count += len(indices)
    total = sum(map(len, labels_by_frame))
    return f'{count} of {total} labelled objects have impossible numbers: {first}' * (count > 0)


def _numbers(values: Array) -> str:
    return ' '.join(f'{value:g}' for value in values)
