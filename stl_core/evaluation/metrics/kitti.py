"""The metric 'kitti': AP of the KITTI object benchmark, see average_precision.py."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stl_core.evaluation.ap_result import (
    CLASSES,
    DIFFICULTY_NAMES,
    KINDS,
    MIN_IOU,
    POINTS,
    ApResult,
)
from stl_core.evaluation.average_precision import evaluate_detections
from stl_core.evaluation.metric import Metric
from stl_core.types import Labels


@dataclass(frozen=True)
class ApSelection:
    """
    One AP, or its mean over several classes; see parse_selection.

    :param classes: classes to average over.
    :param kind: one of KINDS.
    :param points: one of POINTS.
    :param criterion: key of MIN_IOU: 'strict' or 'loose'.
    :param difficulty: one of DIFFICULTY_NAMES.
    """

    classes: tuple[str, ...]
    kind: str
    points: str
    criterion: str
    difficulty: str

    def __call__(self, ap: ApResult) -> float:
        """Return the AP in percent, averaged over the classes."""
        key = (self.kind, self.points, self.criterion, self.difficulty)
        return float(np.mean([ap[name].value(*key) for name in self.classes]))


def parse_selection(text: str, classes: tuple[str, ...]) -> ApSelection:
    """
    Parse an expression such as 'mean/3d/AP40/strict/moderate' or 'Car/bev/AP11/loose/hard'.

    :param text: class (or 'mean' over the trained classes), kind, points, IoU and difficulty.
    :param classes: the trained classes; KITTI's evaluation covers CLASSES only.
    :return: the selection.
    :raises ValueError: naming the unknown part.
    """
    evaluated = tuple(name for name in classes if name in CLASSES)
    known = (
        ('mean', *evaluated) if evaluated else (),
        KINDS,
        POINTS,
        tuple(MIN_IOU),
        DIFFICULTY_NAMES,
    )
    parts = text.split('/')
    if len(parts) != len(known):
        raise ValueError(f'metric: expected CLASS/KIND/POINTS/IOU/DIFFICULTY, got {text!r}')
    for part, choices in zip(parts, known, strict=True):
        if part not in choices:
            choices_text = ', '.join(choices) or f'none for {", ".join(classes)}'
            raise ValueError(f'metric: {part!r} of {text!r} is unknown; known: {choices_text}')
    name, kind, points, criterion, difficulty = parts
    chosen = evaluated if name == 'mean' else (name,)
    return ApSelection(chosen, kind, points, criterion, difficulty)


def _evaluate(
    ground_truth: Sequence[Labels], detections: Sequence[Labels], classes: tuple[str, ...]
) -> ApResult:
    """Compute the AP of all of KITTI's classes, whichever the detector has."""
    return evaluate_detections(ground_truth, detections)


METRIC = Metric(_evaluate, parse_selection, ApResult.from_json)
