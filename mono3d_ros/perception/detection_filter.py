"""Filter detections by score, class and distance."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from stl_core.types import Array, Objects3D


@dataclass(frozen=True)
class DetectionFilter:
    """
    Thresholds of the detections to publish; may be replaced while the node runs.

    :param min_scores: minimum score of each class, 0 to 1.
    :param distance_thresholds: pairs of distance from the camera (metres, ascending) and minimum
        score: an object up to that distance must reach both this score and min_scores; beyond
        the last distance only min_scores applies.
    :param kept_classes: whether to keep each class; () keeps all.
    :param max_age_s: frames older than this are dropped; 0 keeps all.
    """

    min_scores: tuple[float, ...]
    distance_thresholds: tuple[tuple[float, float], ...] = ()
    kept_classes: tuple[bool, ...] = ()
    max_age_s: float = 0.0

    def __post_init__(self) -> None:
        """Raise ValueError for invalid scores, distances or ages."""
        for score in (*self.min_scores, *(score for _, score in self.distance_thresholds)):
            if not 0 <= score <= 1:
                raise ValueError(f'a minimum score must be 0 to 1, got {score:g}')
        ends = [0.0, *(distance_m for distance_m, _ in self.distance_thresholds)]
        if any(not before < after for before, after in pairwise(ends)):
            distances = ', '.join(f'{each:g}' for each in ends[1:])
            raise ValueError(f'distances must be ascending and above 0, got {distances}')
        if not 0 <= self.max_age_s < math.inf:
            raise ValueError(f'max_age_s must be 0 or more seconds, got {self.max_age_s:g}')

    def check_classes(self, classes: tuple[str, ...]) -> None:
        """Raise ValueError if this filter does not fit the classes of a model."""
        for name, values in (('thresholds', self.min_scores), ('kept flags', self.kept_classes)):
            if len(values) != len(classes) and (values or name == 'thresholds'):
                raise ValueError(
                    f'{len(values)} {name} for {len(classes)} classes: {", ".join(classes)}'
                )

    def required_scores(self, objects: Objects3D) -> Array:
        """Return the (N,) minimum score of each object; class ids must not be negative."""
        required = np.asarray(self.min_scores)[objects.class_id]
        if not self.distance_thresholds:
            return required
        ends, scores = np.array(self.distance_thresholds).T
        band = np.searchsorted(ends, np.linalg.norm(objects.center_m, axis=1))
        return np.maximum(required, np.append(scores, 0.0)[band])


def filter_detections(objects: Objects3D, detection_filter: DetectionFilter) -> Objects3D:
    """
    Return the objects that pass a filter.

    :param objects: N objects in the camera frame; those of unknown class and those without a
        finite centre are removed.
    :param detection_filter: filter for the classes of the objects.
    :return: the kept objects, in their order.
    """
    known = (objects.class_id >= 0) & np.isfinite(objects.center_m).all(1)
    if detection_filter.kept_classes:
        known[known] = np.asarray(detection_filter.kept_classes)[objects.class_id[known]]
    objects = objects[known]
    return objects[objects.score >= detection_filter.required_scores(objects)]
