"""Which of a detector's objects are passed on: by score, class and distance, and how old."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from stl_core.types import Array, Objects3D


@dataclass(frozen=True)
class DetectionFilter:
    """
    What of the answers is passed on; all may change while the node runs.

    :param min_scores: least score of each class, 0 to 1.
    :param distance_thresholds: distance from the camera up to which, metres, ascending, and the
        least score there: objects of a band must reach both that and min_scores, beyond the last
        band min_scores alone.
    :param kept_classes: whether a class is passed on at all, one a class; () keeps all.
    :param max_age_s: frames older than this are dropped; 0 keeps all.
    """

    min_scores: tuple[float, ...]
    distance_thresholds: tuple[tuple[float, float], ...] = ()
    kept_classes: tuple[bool, ...] = ()
    max_age_s: float = 0.0

    def __post_init__(self) -> None:
        """Refuse scores and bands that cannot be meant."""
        for score in (*self.min_scores, *(score for _, score in self.distance_thresholds)):
            if not 0 <= score <= 1:
                raise ValueError(f'a least score must be 0 to 1, got {score:g}')
        ends = [0.0, *(distance_m for distance_m, _ in self.distance_thresholds)]
        if any(not before < after for before, after in pairwise(ends)):
            told = ', '.join(f'{each:g}' for each in ends[1:])
            raise ValueError(f'distances of bands must ascend from above 0, got {told}')
        if not 0 <= self.max_age_s < math.inf:
            raise ValueError(f'max_age_s must be 0 or more seconds, got {self.max_age_s:g}')

    def check_classes(self, classes: tuple[str, ...]) -> None:
        """Raise ValueError where this is not for the classes of a network."""
        for what, given in (('thresholds', self.min_scores), ('kept flags', self.kept_classes)):
            if len(given) != len(classes) and (given or what == 'thresholds'):
                raise ValueError(
                    f'{len(given)} {what} for {len(classes)} classes: {", ".join(classes)}'
                )

    def required_scores(self, objects: Objects3D) -> Array:
        """(N,) the score that each object must reach; all classes must be known."""
        least = np.asarray(self.min_scores)[objects.class_id]
        if not self.distance_thresholds:
            return least
        ends, scores = np.array(self.distance_thresholds).T
        band = np.searchsorted(ends, np.linalg.norm(objects.center_m, axis=1))
        return np.maximum(least, np.append(scores, 0.0)[band])


def filter_detections(objects: Objects3D, detection_filter: DetectionFilter) -> Objects3D:
    """
    Keep what is passed on.

    :param objects: N objects in the camera frame; those of unknown class, and those that a
        network gave no finite place, are left out.
    :param detection_filter: for the classes of the objects.
    :return: those that are kept, in their order.
    """
    known = (objects.class_id >= 0) & np.isfinite(objects.center_m).all(1)
    if detection_filter.kept_classes:
        known[known] = np.asarray(detection_filter.kept_classes)[objects.class_id[known]]
    objects = objects[known]
    return objects[objects.score >= detection_filter.required_scores(objects)]
