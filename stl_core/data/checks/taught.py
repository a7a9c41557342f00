"""Which labelled objects a run teaches, and why it leaves out the others."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from stl_core.data.checks.label_faults import find_faults
from stl_core.data.checks.label_table import LabelTable
from stl_core.geometry import project_each
from stl_core.preprocessing import InputSpec, letterbox_affine
from stl_core.types import Array

CLASS, IMPOSSIBLE, DEPTH, HEIGHT = 'class', 'impossible', 'depth', 'height'
TRUNCATION, OCCLUSION, MAX_OBJECTS, CANVAS = 'truncation', 'occlusion', 'max_objects', 'canvas'
#: Why an object is not taught; of several reasons the first counts.
REASONS = (CLASS, IMPOSSIBLE, DEPTH, HEIGHT, TRUNCATION, OCCLUSION, MAX_OBJECTS, CANVAS)


class ObjectLimits(Protocol):
    """Limits of the objects that a run teaches; see DataConfig."""

    @property
    def min_depth_m(self) -> float:
        """Taught objects are farther than this, metres."""

    @property
    def max_depth_m(self) -> float:
        """Taught objects are at most this far, metres."""

    @property
    def min_height_px(self) -> float:
        """Least height of the 2D box, image pixels."""

    @property
    def max_occluded(self) -> int:
        """Highest occlusion level."""

    @property
    def max_truncated(self) -> float:
        """Greatest fraction outside the image."""

    @property
    def max_objects(self) -> int:
        """Most objects of an image; the nearest are taught."""


def why_left_out(table: LabelTable, limits: ObjectLimits, classes: tuple[str, ...]) -> Array:
    """
    Return why each object is no target, whatever the augmentation.

    :param table: N objects of some images.
    :param limits: limits of the run.
    :param classes: the taught classes.
    :return: (N,) str, one of REASONS except CANVAS; '' for targets.
    """
    labels = table.labels
    z, height = labels.center_m[:, 2], labels.box_px[:, 3] - labels.box_px[:, 1]
    reasons = np.full(len(labels), '', 'U11')
    for reason, applies in reversed(
        (
            (CLASS, ~np.isin(labels.name, classes)),
            (IMPOSSIBLE, find_faults(labels) != ''),
            (DEPTH, ~((z > limits.min_depth_m) & (z <= limits.max_depth_m))),
            (HEIGHT, height < limits.min_height_px),
            (TRUNCATION, labels.truncated > limits.max_truncated),
            (OCCLUSION, labels.occluded > limits.max_occluded),
        )
    ):
        reasons[applies] = reason
    (targets,) = np.nonzero(reasons == '')
    nearest_first = targets[np.lexsort((z[targets], table.image[targets]))]
    image = table.image[nearest_first]
    number_in_image = np.arange(len(image)) - np.searchsorted(image, image)
    reasons[nearest_first[number_in_image >= limits.max_objects]] = MAX_OBJECTS
    return reasons


def is_off_canvas(
    table: LabelTable, Ps: Array, sizes_px: Array, spec: InputSpec, center_within: str
) -> Array:
    """
    Return which objects the canvas does not show, so that a detector cannot learn them from it.

    Without augmentation: zoom and shift bring some of these onto the canvas, and others off it.

    :param table: N objects of M images; those with impossible numbers get any result.
    :param Ps: (M, 3, 4) projections of the images.
    :param sizes_px: (M, 2) width and height of the images.
    :param spec: the canvas.
    :param center_within: where the projected centre must be besides: on the 'canvas', in the 'box'
        on the canvas, or 'anywhere'; see models.DetectorEntry.
    :return: (N,) bool.
    """
    canvas = {
        (width, height): letterbox_affine(width, height, spec)
        for width, height in np.unique(sizes_px, axis=0).tolist()
    }
    A = np.array([canvas[width, height] for width, height in sizes_px.tolist()]).reshape(-1, 3, 3)
    # the letterbox scales and shifts: boxes keep their order
    scale, shift = A[:, [0, 1], [0, 1]][table.image], A[:, :2, 2][table.image]
    with np.errstate(over='ignore', invalid='ignore'):
        box = table.labels.box_px * np.tile(scale, 2) + np.tile(shift, 2)
        center, _ = project_each(table.labels.center_m, (A @ Ps)[table.image])
    last = np.array([spec.width_px, spec.height_px]) - 1.0
    low = np.maximum(box[:, :2], np.maximum(shift, 0.0))
    high = np.minimum(box[:, 2:], (sizes_px[table.image] - 1) * scale + shift)
    high = np.minimum(high, last)
    seen = np.all(high > low, 1)
    if center_within != 'anywhere':
        seen &= np.all((center >= 0) & (center < [spec.width_px, spec.height_px]), 1)
    if center_within == 'box':
        seen &= np.all((center >= low) & (center <= high), 1)
    return ~seen
