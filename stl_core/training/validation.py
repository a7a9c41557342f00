"""
Judging a detector on labelled frames, and which of several evaluations is the best.

It is judged through the Predictor that the vehicle uses, one image at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from stl_core.data.sources import kitti
from stl_core.evaluation import average_precision
from stl_core.inference import model_file, predictor
from stl_core.inference.result_files import predict_frames
from stl_core.types import Labels

METRICS = ('bbox', 'bev', '3d', 'aos')
AP_KINDS = ('AP40', 'AP11')
DIFFICULTY_NAMES = ('easy', 'moderate', 'hard')


class ValidationSet(NamedTuple):
    """Frames, and the labels of each."""

    frames: tuple[kitti.FrameFiles, ...]
    ground_truth: list[Labels]


class ValidationResult(NamedTuple):
    """What evaluate.evaluate says, and the detections of each frame."""

    metrics: average_precision.ApResult
    detections: list[Labels]


class SelectionMetric(NamedTuple):
    """The one number, read from what evaluate.evaluate says, by which evaluations are compared."""

    classes: tuple[str, ...]
    kind: str
    points: str
    criterion: str
    difficulty_index: int

    def value(self, metrics: average_precision.ApResult) -> float:
        """Return the number: a mean over the classes."""
        found = [
            metrics[name][self.kind][self.points][self.criterion][self.difficulty_index]
            for name in self.classes
        ]
        return float(np.mean(found))


def parse_metric(text: str, classes: tuple[str, ...]) -> SelectionMetric:
    """
    Read a metric such as 'mean/3d/AP40/strict/moderate' or 'Car/bev/AP11/loose/hard'.

    :param text: class (or 'mean' over those taught), kind, points, IoU and difficulty.
    :param classes: the classes taught; KITTI's evaluation knows evaluate.CLASSES only.
    :raises ValueError: naming the part that is unknown.
    """
    evaluated = tuple(name for name in classes if name in average_precision.CLASSES)
    known = (
        ('mean', *evaluated) if evaluated else (),
        METRICS,
        AP_KINDS,
        tuple(average_precision.MIN_IOU),
        DIFFICULTY_NAMES,
    )
    parts = text.split('/')
    if len(parts) != len(known):
        raise ValueError(f'metric: expected CLASS/KIND/POINTS/IOU/DIFFICULTY, got {text!r}')
    for part, choices in zip(parts, known, strict=True):
        if part not in choices:
            choices_text = ', '.join(choices) or f'none, as of {", ".join(classes)} none is judged'
            raise ValueError(f'metric: {part!r} of {text!r} is unknown; known: {choices_text}')
    name, kind, points, criterion, level = parts
    chosen = evaluated if name == 'mean' else (name,)
    return SelectionMetric(chosen, kind, points, criterion, DIFFICULTY_NAMES.index(level))


def load_validation_set(frames: Sequence[kitti.FrameFiles]) -> ValidationSet:
    """
    Read the labels that detectors will be judged by; faults are told before hours of work.

    :raises DataError: for a frame without labels, or a malformed file.
    """
    unlabelled = [each.id for each in frames if each.label_2 is None]
    if unlabelled:
        raise kitti.DataError(f'{unlabelled[0]}: a frame without labels cannot be used to judge')
    return ValidationSet(
        tuple(frames), [kitti.read_labels(each.label_2) for each in frames if each.label_2]
    )


def validate_detector(
    detector: nn.Module,
    spec: model_file.ModelSpec,
    validation_set: ValidationSet,
    device: torch.device,
) -> ValidationResult:
    """
    Evaluate a live detector.

    :param detector: left as it was found.
    :param spec: its classes and input.
    :param validation_set: frames and labels.
    :param device: where the detector is.
    """
    was_training = detector.training
    runner = predictor.TorchRunner(detector.eval(), spec.input, device)
    detections = predict_frames(predictor.Predictor(runner, spec), validation_set.frames)
    detector.train(was_training)
    return ValidationResult(
        average_precision.evaluate_detections(validation_set.ground_truth, detections), detections
    )


def metrics_row(metrics: average_precision.ApResult, metric: SelectionMetric) -> dict[str, float]:
    """Put an evaluation into one line: the metric, and every moderate AP40 of the strict IoU."""
    moderate = {
        f'{name}/{kind}': metrics[name][kind]['AP40']['strict'][DIFFICULTY_NAMES.index('moderate')]
        for name in metrics
        for kind in METRICS
    }
    return {'metric': metric.value(metrics), **moderate}


def is_best(values: Sequence[float]) -> bool:
    """Whether the last of the values is greater than all before it."""
    return len(values) > 0 and values[-1] > max(values[:-1], default=-np.inf)


def is_stalled(values: Sequence[float], patience: int) -> bool:
    """Whether the last `patience` values brought nothing better; never for a patience of 0."""
    return 0 < patience < len(values) and int(np.argmax(values)) < len(values) - patience


def format_summary(metrics: average_precision.ApResult) -> str:
    """Say the moderate 3D AP40 of every class in one line."""
    parts = [f'{name} {each["3d"]["AP40"]["strict"][1]:.2f}' for name, each in metrics.items()]
    return '3D AP40 moderate: ' + ', '.join(parts)
