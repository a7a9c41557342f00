"""Which labelled objects around a vehicle a run teaches, and why it leaves out the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from stl_core.data.checks.taught import ObjectLimits
from stl_core.types import Array
from stl_core.vehicle_types import VehicleLabels

CLASS, IMPOSSIBLE, RANGE, POINTS, MAX_OBJECTS = (
    'class',
    'impossible',
    'range',
    'points',
    'max_objects',
)
#: Why an object is not taught; of several reasons the first counts.
REASONS = (CLASS, IMPOSSIBLE, RANGE, POINTS, MAX_OBJECTS)


def why_left_out(labels: VehicleLabels, limits: ObjectLimits, classes: tuple[str, ...]) -> Array:
    """
    Return why each object of a sample is no target, whatever the augmentation.

    :param labels: N objects, vehicle frame.
    :param limits: min_depth_m and max_depth_m limit the horizontal distance, max_objects the
        number; the others are those of single images.
    :param classes: the taught classes.
    :return: (N,) str, one of REASONS; '' for targets. POINTS: an object in which LiDAR and radar
        have no point, which nuScenes does not evaluate, either.
    """
    range_m = np.hypot(labels.center_m[:, 0], labels.center_m[:, 1])
    numbers = np.column_stack([labels.center_m, labels.size_hwl_m, labels.yaw])
    possible = np.isfinite(numbers).all(1) & (labels.size_hwl_m > 0).all(1)
    reasons = np.full(len(labels), '', 'U11')
    for reason, applies in reversed(
        (
            (CLASS, ~np.isin(labels.name, classes)),
            (IMPOSSIBLE, ~possible),
            (RANGE, ~((range_m > limits.min_depth_m) & (range_m <= limits.max_depth_m))),
            (POINTS, labels.num_points == 0),
        )
    ):
        reasons[applies] = reason
    (targets,) = np.nonzero(reasons == '')
    nearest_first = targets[np.argsort(range_m[targets], kind='stable')]
    reasons[nearest_first[limits.max_objects :]] = MAX_OBJECTS
    return reasons


def count_taught(
    labels: Sequence[VehicleLabels], reasons: Sequence[Array], classes: tuple[str, ...]
) -> dict[str, Any]:
    """Return the taught objects by class, and the others of these classes by reason."""
    taught: Counter[str] = Counter()
    left_out: Counter[str] = Counter()
    for each, why in zip(labels, reasons, strict=True):
        taught.update(str(name) for name in each.name[why == ''])
        left_out.update(str(reason) for reason in why if reason)
    return {
        'samples': len(labels),
        'taught': {name: taught[name] for name in classes},
        'left_out': {reason: left_out[reason] for reason in REASONS if left_out[reason]},
    }
