"""Whether the 2D boxes of a data set's labels are the projections of their 3D boxes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from stl_core.data.checks.label_faults import DONT_CARE, find_faults
from stl_core.data.checks.label_table import LabelTable
from stl_core.data.frame_source import DataError, SourceImage
from stl_core.geometry import box_corners, project_each
from stl_core.types import Array

#: Corners nearer than this project to no useful box, metres.
MIN_DEPTH_M = 0.5
#: Only boxes with at least this share of their projection in the picture are compared.
MIN_SHARE_IN_PICTURE = 0.7
#: Median IoU below which labels and P contradict each other, and below which they are a warning.
#: KITTI's median is 0.97.
CONTRADICTION_IOU, WARNING_IOU = 0.35, 0.65
#: More than this share of 2D boxes beyond the picture by more than this share of its size is a
#: contradiction; a cropped picture may cut boxes.
MAX_SHARE_BEYOND, BEYOND = 0.2, 1.1


class ComparedBoxes(NamedTuple):
    """
    Boxes of N labelled objects.

    :param labelled: (N, 4) the 2D boxes, pixels.
    :param projected: (N, 4) the projections of the 3D boxes, pixels.
    :param last: (N, 4) greatest coordinates of a box in its picture.
    :param row: (N,) index of the object in its table.
    """

    labelled: Array
    projected: Array
    last: Array
    row: Array


def check_boxes(images: Sequence[SourceImage], table: LabelTable, sizes_px: Array) -> str:
    """
    Hold the 2D boxes of labels against the pictures and the projections of the 3D boxes.

    :param images: M labelled images.
    :param table: their labels.
    :param sizes_px: (M, 2) width and height of each.
    :return: a warning, '' without one.
    :raises DataError: if the labels of the set cannot belong to its pictures and projections.
    """
    boxes = _collect_boxes(images, table, sizes_px)
    if not len(boxes.labelled):
        return ''
    beyond = (boxes.labelled > BEYOND * (boxes.last + 1)).any(1)
    if beyond.mean() > MAX_SHARE_BEYOND:
        first = int(np.flatnonzero(beyond)[0])
        where, (width, height) = (
            table.location(images, boxes.row[first]),
            boxes.last[first, :2] + 1,
        )
        raise DataError(
            f'{where}: the 2D box ends at {_text(boxes.labelled[first, 2:])}, outside the picture'
            f' of {width:.0f}x{height:.0f}, as {beyond.mean():.0%} of the boxes do; are labels and'
            ' calibration those of larger pictures?'
        )
    compared = _in_picture(boxes)
    if not compared.any():
        return ''
    ious = _iou(boxes.labelled, boxes.projected, boxes.last)
    median = float(np.median(ious[compared]))
    if median >= WARNING_IOU:
        return ''
    worst = int(np.flatnonzero(compared)[np.argmin(ious[compared])])
    text = (
        f'{table.location(images, boxes.row[worst])}: the 2D box {_text(boxes.labelled[worst])} is'
        f' not where P2 projects the 3D box, {_text(boxes.projected[worst])}; the median IoU'
        f' of {compared.sum()} objects is {median:.2f}{_hint(boxes, compared)}'
    )
    if median < CONTRADICTION_IOU:
        raise DataError(text)
    return text


def _collect_boxes(
    images: Sequence[SourceImage], table: LabelTable, sizes_px: Array
) -> ComparedBoxes:
    """Return the boxes of the possible objects that lie in front of the camera."""
    possible = (find_faults(table.labels) == '') & (np.char.lower(table.labels.name) != DONT_CARE)
    rows = np.flatnonzero(possible)
    labels = table.labels[rows]
    corners = box_corners(labels.center_m, labels.size_hwl_m, labels.rotation_y)
    in_front = np.all(corners[..., 2] > MIN_DEPTH_M, 1)
    rows, corners = rows[in_front], corners[in_front]
    image = table.image[rows]
    Ps = np.array([each.P for each in images]).reshape(-1, 3, 4)
    pixels, _ = project_each(corners, Ps[image])
    return ComparedBoxes(
        table.labels.box_px[rows],
        np.concatenate([pixels.min(1), pixels.max(1)], 1),
        np.tile(sizes_px[image] - 1.0, 2),
        rows,
    )


def _in_picture(boxes: ComparedBoxes) -> Array:
    """Return which projections lie in their picture for the most part."""
    clipped = np.clip(boxes.projected, 0, boxes.last)
    return _area(clipped) >= MIN_SHARE_IN_PICTURE * np.maximum(_area(boxes.projected), 1e-9)


def _iou(a: Array, b: Array, last: Array) -> Array:
    """Return the (N,) IoU of pairs of boxes within their pictures."""
    a, b = np.clip(a, 0, last), np.clip(b, 0, last)
    shared = np.concatenate([np.maximum(a[:, :2], b[:, :2]), np.minimum(a[:, 2:], b[:, 2:])], 1)
    intersection = _area(shared)
    return intersection / np.maximum(_area(a) + _area(b) - intersection, 1e-9)


def _area(boxes: Array) -> Array:
    return np.prod(np.maximum(boxes[:, 2:] - boxes[:, :2], 0), 1)


def _hint(boxes: ComparedBoxes, compared: Array) -> str:
    """Return what would make the boxes agree, if a simple change does."""
    labelled, projected, last = (
        each[compared] for each in (boxes.labelled, boxes.projected, boxes.last)
    )
    as_sides = np.concatenate([labelled[:, :2], labelled[:, :2] + labelled[:, 2:]], 1)
    factor = float(np.median(projected[:, 2:] / np.maximum(labelled[:, 2:], 1e-9)))
    for hint, changed in (
        ('boxes given as x y w h? expected x0 y0 x1 y1', as_sides),
        (f'boxes of a picture {1 / max(factor, 1e-9):.2g} times as large?', labelled * factor),
    ):
        if np.median(_iou(changed, projected, last)) >= WARNING_IOU:
            return f'; {hint}'
    return '; do labels, calibration and picture belong together?'


def _text(box: Array) -> str:
    return ' '.join(f'{value:.0f}' for value in box)
