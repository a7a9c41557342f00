"""
Validation during training: KITTI AP of the detector, model selection and early stopping.

The detector runs through the Predictor that the ROS node uses, one image at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from stl_core.data.frame_source import SourceImage, require_labels
from stl_core.evaluation import average_precision
from stl_core.inference import model_file, predictor
from stl_core.inference.result_files import predict_frames
from stl_core.tensors.detector import Detector
from stl_core.types import Labels

METRICS = ('bbox', 'bev', '3d', 'aos')
AP_KINDS = ('AP40', 'AP11')
DIFFICULTY_NAMES = ('easy', 'moderate', 'hard')


class ValidationSet(NamedTuple):
    """Validation frames and the labels of each."""

    frames: tuple[SourceImage, ...]
    ground_truth: list[Labels]


class ValidationResult(NamedTuple):
    """AP of an evaluation, see average_precision.evaluate_detections, and detections per frame."""

    metrics: average_precision.ApResult
    detections: list[Labels]


class SelectionMetric(NamedTuple):
    """
    The scalar metric that selects the best model, see parse_metric.

    :param classes: classes to average over.
    :param kind: one of METRICS.
    :param points: one of AP_KINDS.
    :param criterion: key of average_precision.MIN_IOU: 'strict' or 'loose'.
    :param difficulty_index: index into DIFFICULTY_NAMES.
    """

    classes: tuple[str, ...]
    kind: str
    points: str
    criterion: str
    difficulty_index: int

    def value(self, metrics: average_precision.ApResult) -> float:
        """Return the AP in percent, averaged over the classes."""
        values = [
            metrics[name][self.kind][self.points][self.criterion][self.difficulty_index]
            for name in self.classes
        ]
        return float(np.mean(values))


def parse_metric(text: str, classes: tuple[str, ...]) -> SelectionMetric:
    """
    Parse a metric such as 'mean/3d/AP40/strict/moderate' or 'Car/bev/AP11/loose/hard'.

    :param text: class (or 'mean' over the trained classes), kind, points, IoU and difficulty.
    :param classes: the trained classes; KITTI's evaluation covers average_precision.CLASSES only.
    :return: the metric.
    :raises ValueError: naming the unknown part.
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
            choices_text = ', '.join(choices) or f'none for {", ".join(classes)}'
            raise ValueError(f'metric: {part!r} of {text!r} is unknown; known: {choices_text}')
    name, kind, points, criterion, level = parts
    chosen = evaluated if name == 'mean' else (name,)
    return SelectionMetric(chosen, kind, points, criterion, DIFFICULTY_NAMES.index(level))


def load_validation_set(frames: Sequence[SourceImage]) -> ValidationSet:
    """
    Collect the labels of the validation frames, so that missing labels fail before training.

    :raises DataError: for a frame without labels.
    """
    return ValidationSet(tuple(frames), require_labels(frames))


def validate_detector(
    detector: Detector,
    spec: model_file.ModelSpec,
    validation_set: ValidationSet,
    device: torch.device,
) -> ValidationResult:
    """
    Evaluate a detector in memory on the validation set.

    :param detector: the network; its train or eval mode is restored afterwards.
    :param spec: classes and input of the detector.
    :param validation_set: frames and labels.
    :param device: device of the detector.
    :return: AP and detections.
    """
    was_training = detector.training
    runner = predictor.TorchRunner(detector.eval(), spec.input, device)
    detections = predict_frames(predictor.Predictor(runner, spec), validation_set.frames)
    detector.train(was_training)
    return ValidationResult(
        average_precision.evaluate_detections(validation_set.ground_truth, detections), detections
    )


def metrics_row(metrics: average_precision.ApResult, metric: SelectionMetric) -> dict[str, float]:
    """Return a row of val.csv: the metric, and every moderate AP40 at the strict IoU."""
    moderate = {
        f'{name}/{kind}': metrics[name][kind]['AP40']['strict'][DIFFICULTY_NAMES.index('moderate')]
        for name in metrics
        for kind in METRICS
    }
    return {'metric': metric.value(metrics), **moderate}


def is_best(values: Sequence[float]) -> bool:
    """Return whether the last value is greater than all values before it."""
    return len(values) > 0 and values[-1] > max(values[:-1], default=-np.inf)


def is_stalled(values: Sequence[float], patience: int) -> bool:
    """Return whether the last `patience` values contain no new maximum; False for patience 0."""
    return 0 < patience < len(values) and int(np.argmax(values)) < len(values) - patience


def format_summary(metrics: average_precision.ApResult) -> str:
    """Format the moderate 3D AP40 (strict IoU) of every class in one line."""
    parts = [f'{name} {each["3d"]["AP40"]["strict"][1]:.2f}' for name, each in metrics.items()]
    return '3D AP40 moderate: ' + ', '.join(parts)
