"""
Whether a privileged teacher looks at the picture, or only reads the answer from its given depth.

A teacher whose AP without given depth is less than half of that of its base, the same network
trained without given depth, has unlearnt to see: its features teach a student little. The measure
is the mean over KITTI's trained classes of the 3D AP40, moderate, loose IoU (our choice: with the
strict IoU small networks score so little that a ratio says nothing).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np

from stl_core.data.given_depth import ABSENT
from stl_core.evaluation import metrics
from stl_core.evaluation.ap_result import ApResult
from stl_core.evaluation.metric import GivenDepthResults
from stl_core.inference.model_spec import ModelSpec
from stl_core.training.config_builder import ConfigError

log = logging.getLogger(__name__)

#: Key of a model's provenance: mean AP with each given depth, and of the base.
GIVEN = 'given'
#: Least AP without given depth, relative to the base's.
LEAST_SHARE = 0.5


def mean_ap(ap: ApResult, classes: tuple[str, ...]) -> float:
    """Return the mean 3D AP40, moderate, loose IoU, percent, of the trained classes; 0 if none."""
    values = [
        each.value('3d', 'AP40', 'loose', 'moderate')
        for name, each in ap.by_class.items()
        if name in classes
    ]
    return float(np.mean(values)) if values else 0.0


def base_ap(start: ModelSpec | None) -> float | None:
    """
    Return the mean AP of the network that a teacher started from.

    :param start: header of the start model. If it is itself a privileged teacher, its base counts.
    :return: percent; None without a start model, or for one without results.
    """
    if start is None:
        return None
    if start.input.given_depth:
        stored = start.provenance.get(GIVEN, {}).get('base')
        return None if stored is None else float(stored)
    if not (stored := start.provenance.get('metrics')):
        return None
    return mean_ap(metrics.results_from_json(stored).ap, start.classes)


def given_provenance(
    results: GivenDepthResults, classes: tuple[str, ...], start: ModelSpec | None
) -> dict[str, Any]:
    """
    Return what the header of a privileged teacher stores, and its run logs.

    :param results: AP with each given depth.
    :param classes: the trained classes.
    :param start: header of its start model, None without.
    :return: {'kind', 'privilege': texts, 'complete', 'absent', 'other': mean AP, 'base': mean AP
        of the start model or None}.
    """
    values = {name: round(mean_ap(ap, classes), 4) for name, ap in results.by_given.items()}
    base = base_ap(start)
    rounded = None if base is None else round(base, 4)
    return {'kind': results.kind, 'privilege': results.privilege, **values, 'base': rounded}


def describe(values: Mapping[str, Any]) -> str:
    """Return the result of given_provenance as a line for the log."""
    numbers = ', '.join(
        f'{name} {value:.2f}' for name, value in values.items() if isinstance(value, float)
    )
    return (
        f'given depth {values["kind"]} ({values["privilege"]}): mean 3D AP40 moderate, loose IoU:'
        f' {numbers}'
    )


def refuse_answer_reader(path: str, teacher: ModelSpec, student_start: ModelSpec | None) -> None:
    """
    Check that a privileged teacher still uses the picture.

    :param path: file of the teacher, for messages.
    :param teacher: its header; a teacher that is not given depth passes.
    :param student_start: header of the student's start model; its AP stands for the base's if the
        teacher's header has none.
    :raises ConfigError: if its AP without given depth is less than LEAST_SHARE of its base's, or
        its header does not say.
    """
    if not teacher.input.given_depth:
        return
    advice = 'or accept it by distill.accept_answer_reader: true'
    stored = teacher.provenance.get(GIVEN, {})
    if ABSENT not in stored:
        raise ConfigError(
            f'distill.teacher: {path} has no AP without given depth in its header; expected the'
            f' student.safetensors of a run that ended, {advice}'
        )
    base = stored.get('base')
    base = base_ap(student_start) if base is None else float(base)
    if base is None:
        log.warning(
            'warning: distill.teacher: %s and this run have no start model with results, so that'
            ' its AP without given depth, %.2f, is compared with nothing',
            *(path, stored[ABSENT]),
        )
    elif stored[ABSENT] < LEAST_SHARE * base:
        raise ConfigError(
            f'distill.teacher: {path} reads the answer, not the picture: without given depth its'
            f' AP is {stored[ABSENT]:.2f}, less than half of the {base:.2f} of its base; train it'
            f' with a greater train.augment.given_drop, {advice}'
        )
