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
from stl_core.evaluation import metrics
from stl_core.evaluation.metric import MetricResults
from stl_core.inference.model_spec import ModelSpec
from stl_core.inference.predictor import Predictor
from stl_core.inference.result_files import predict_frames
from stl_core.inference.runtimes.torch_runner import TorchRunner
from stl_core.tensors.detector import Detector
from stl_core.types import Labels


class ValidationSet(NamedTuple):
    """Validation frames and the labels of each."""

    frames: tuple[SourceImage, ...]
    ground_truth: list[Labels]


class ValidationResult(NamedTuple):
    """Results of an evaluation, see metrics.evaluate_metrics, and the detections per frame."""

    results: MetricResults
    detections: list[Labels]


def load_validation_set(frames: Sequence[SourceImage]) -> ValidationSet:
    """
    Collect the labels of the validation frames, so that missing labels fail before training.

    :raises DataError: for a frame without labels.
    """
    return ValidationSet(tuple(frames), require_labels(frames))


def validate_detector(
    detector: Detector,
    spec: ModelSpec,
    validation_set: ValidationSet,
    device: torch.device,
    metric_names: Sequence[str],
) -> ValidationResult:
    """
    Evaluate a detector in memory on the validation set.

    :param detector: the network; its train or eval mode is restored afterwards.
    :param spec: classes and input of the detector.
    :param validation_set: frames and labels.
    :param device: device of the detector.
    :param metric_names: metrics to compute, keys of metrics.METRICS; 'kitti' always is.
    :return: results of the metrics, and detections.
    """
    was_training = detector.training
    runner = TorchRunner(detector.eval(), spec.input, device)
    detections = predict_frames(Predictor(runner, spec), validation_set.frames)
    detector.train(was_training)
    ground_truth = validation_set.ground_truth
    results = metrics.evaluate_metrics(ground_truth, detections, spec.classes, metric_names)
    return ValidationResult(results, detections)


def metrics_row(results: MetricResults, metric: metrics.SelectionMetric) -> dict[str, float]:
    """Return a row of val.csv: the selection metric, and the columns of all metrics."""
    return {'metric': metric.value(results), **results.ap.columns(), **results.extra_columns()}


def is_best(values: Sequence[float]) -> bool:
    """Return whether the last value is greater than all values before it."""
    return len(values) > 0 and values[-1] > max(values[:-1], default=-np.inf)


def is_stalled(values: Sequence[float], patience: int) -> bool:
    """Return whether the last `patience` values contain no new maximum; False for patience 0."""
    return 0 < patience < len(values) and int(np.argmax(values)) < len(values) - patience


def format_summary(results: MetricResults) -> str:
    """
    Format the moderate 3D AP40 (strict IoU) of every class, and other metrics, in one line.

    Columns of other metrics follow a semicolon: they are not AP40.
    """
    ap = {
        name: each.value('3d', 'AP40', 'strict', 'moderate')
        for name, each in results.ap.by_class.items()
    }
    parts = [
        ', '.join(f'{name} {value:.2f}' for name, value in columns.items())
        for columns in (ap, results.extra_columns())
    ]
    return '3D AP40 moderate: ' + '; '.join(filter(None, parts))
