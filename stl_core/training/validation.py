"""
Validation during training: KITTI AP of the detector, model selection and early stopping.

The detector runs through the Predictor that the ROS node uses, one image at a time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch

from stl_core.data import given_depth
from stl_core.data.frame_source import SourceImage, require_labels
from stl_core.evaluation import average_precision, metrics
from stl_core.evaluation.ap_result import CLASSES, class_min_iou
from stl_core.evaluation.kitti_matching import MODERATE
from stl_core.evaluation.metric import GivenDepthResults, MetricResults
from stl_core.inference.model_spec import SCORE_THRESHOLDS, ModelSpec
from stl_core.inference.predictor import Predictor
from stl_core.inference.result_files import predict_protocols
from stl_core.inference.runtimes.torch_runner import TorchRunner
from stl_core.models import published_protocol
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
    given: str = given_depth.COMPLETE,
) -> ValidationResult:
    """
    Evaluate a detector in memory on the validation set.

    :param detector: the network; its train or eval mode is restored afterwards.
    :param spec: classes and input of the detector.
    :param validation_set: frames and labels.
    :param device: device of the detector.
    :param metric_names: metrics to compute, keys of metrics.METRICS; 'kitti' always is.
    :param given: given depth of a privileged teacher, one of given_depth.GIVEN_CHOICES.
    :return: results of the metrics, and detections.
    """
    was_training = detector.training
    runner = TorchRunner(detector.eval(), spec.input, device)
    published = published_protocol(spec.detector)
    predictor = Predictor(runner, spec)
    detections = predict_protocols(predictor, validation_set.frames, published, given)
    detector.train(was_training)
    results = metrics.evaluate_protocols(
        validation_set.ground_truth, detections, spec.classes, metric_names
    )
    return ValidationResult(results, list(detections.ours))


def validate_given_depths(
    detector: Detector,
    spec: ModelSpec,
    validation_set: ValidationSet,
    device: torch.device,
    complete: ValidationResult,
) -> ValidationResult:
    """
    Evaluate a privileged teacher without given depth, too, and with that of other frames.

    :param detector: the network.
    :param spec: its header.
    :param validation_set: frames and labels; a single frame has no other one.
    :param device: device of the detector.
    :param complete: result of validate_detector with given depth complete.
    :return: `complete`, its results with the entry `given`.
    """
    kind = spec.input.given_depth
    others = (given_depth.ABSENT, given_depth.OTHER)[: len(validation_set.frames)]
    results = {given_depth.COMPLETE: complete.results.ap}
    for given in others:
        judged = validate_detector(detector, spec, validation_set, device, (), given)
        results[given] = judged.results.ap
    entry = GivenDepthResults(kind, given_depth.PRIVILEGE[kind], results)
    return complete._replace(results=replace(complete.results, given=entry))


def model_provenance(validation_set: ValidationSet, result: ValidationResult) -> dict[str, Any]:
    """
    Return what the header of a model file stores of its validation.

    :param validation_set: frames and labels.
    :param result: result of validate_detector on them.
    :return: number of frames, metrics, and by class the score with the best F1 of 2D boxes at
        moderate difficulty, from which detections should be shown; none without a true positive.
    """
    best = {
        name: average_precision.best_threshold(
            *(validation_set.ground_truth, result.detections, name, MODERATE),
            class_min_iou(name, 'bbox', 'strict'),
            kind='bbox',
        )
        for name in CLASSES
    }
    return {
        'frames_judged': len(result.detections),
        'metrics': replace(result.results, given=None).to_json(),
        SCORE_THRESHOLDS: {
            name: round(each.min_score, 4) for name, each in best.items() if each.recall
        },
    }


def metrics_row(results: MetricResults, metric: metrics.SelectionMetric) -> dict[str, float]:
    """Return a row of val.csv: the selection metric, and the columns of all metrics."""

    def columns(each: MetricResults) -> dict[str, float]:
        return {**each.ap.columns(), **each.extra_columns()}

    return {
        'metric': metric.value(results),
        **columns(results),
        **results.published_columns(columns),
    }


def is_best(values: Sequence[float]) -> bool:
    """Return whether the last value is greater than all values before it."""
    return len(values) > 0 and values[-1] > max(values[:-1], default=-np.inf)


def is_stalled(values: Sequence[float], patience: int) -> bool:
    """Return whether the last `patience` values contain no new maximum; False for patience 0."""
    return 0 < patience < len(values) and int(np.argmax(values)) < len(values) - patience


def format_summary(results: MetricResults) -> str:
    """
    Format the moderate 3D AP40 (strict IoU) of every class, and other metrics, in one line.

    Columns of other metrics follow a semicolon: they are not AP40. The published protocol follows
    after another one.
    """
    parts = [_format_columns(_moderate_ap(results)), _format_columns(results.extra_columns())]
    published = _format_columns(results.published_columns(_moderate_ap))
    return '3D AP40 moderate: ' + '; '.join(filter(None, [*parts, published]))


def _moderate_ap(results: MetricResults) -> dict[str, float]:
    """Return the moderate 3D AP40 (strict IoU) of every class."""
    return {
        name: each.value('3d', 'AP40', 'strict', 'moderate')
        for name, each in results.ap.by_class.items()
    }


def _format_columns(columns: Mapping[str, float]) -> str:
    return ', '.join(f'{name} {value:.2f}' for name, value in columns.items())
