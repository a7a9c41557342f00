"""
Validation during training: KITTI AP of the detector, model selection and early stopping.

The detector runs through the Predictor that the ROS node uses, one image at a time; a multi-view
detector through the RigPredictor, one sample at a time, and its objects count in every image that
shows them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch

from stl_core.data import given_depth
from stl_core.data.frame_source import SourceImage, SourceSample, require_labels
from stl_core.evaluation import average_precision, metrics
from stl_core.evaluation.ap_result import CLASSES, class_min_iou
from stl_core.evaluation.kitti_matching import MODERATE
from stl_core.evaluation.metric import GivenDepthResults, MetricResults, ProtocolDetections
from stl_core.inference.judged_samples import judge_samples, merge_samples
from stl_core.inference.model_spec import SCORE_THRESHOLDS, ModelSpec
from stl_core.inference.predictor import Predictor
from stl_core.inference.result_files import as_protocol_detections, predict_detections
from stl_core.inference.rig_predictor import RigPredictor
from stl_core.inference.rig_samples import predict_samples
from stl_core.inference.runtimes.torch_rig_runner import TorchRigRunner
from stl_core.inference.runtimes.torch_runner import TorchRunner
from stl_core.models import published_protocol
from stl_core.tensors.detector import Detector
from stl_core.types import Labels
from stl_core.vehicle_types import VehicleObjects


class ValidationSet(NamedTuple):
    """Validation frames, the labels of each, and the samples whose images they are, in order."""

    frames: tuple[SourceImage, ...]
    ground_truth: list[Labels]
    samples: tuple[SourceSample, ...] = ()


class ValidationResult(NamedTuple):
    """
    Results of an evaluation, see metrics.evaluate_metrics, and the detections per frame.

    :param objects: detections around the vehicle of each sample, of multi-view detectors and of
        samples that a benchmark judges; of others none.
    """

    results: MetricResults
    detections: list[Labels]
    objects: tuple[VehicleObjects, ...] = ()


def load_validation_set(
    frames: Sequence[SourceImage], samples: Sequence[SourceSample] = ()
) -> ValidationSet:
    """
    Collect the labels of the validation frames, so that missing labels fail before training.

    :param frames: the frames.
    :param samples: the samples that they belong to.
    :raises DataError: for a frame without labels.
    """
    return ValidationSet(tuple(frames), require_labels(frames), tuple(samples))


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
    detections, objects = _detect(detector.eval(), spec, validation_set, device, given)
    detector.train(was_training)
    samples = judge_samples(validation_set.samples, objects, spec)
    results = metrics.evaluate_protocols(
        validation_set.ground_truth, detections, spec.classes, metric_names, samples
    )
    return ValidationResult(results, list(detections.ours), objects)


def _detect(
    detector: Detector,
    spec: ModelSpec,
    validation_set: ValidationSet,
    device: torch.device,
    given: str,
) -> tuple[ProtocolDetections, tuple[VehicleObjects, ...]]:
    """Return the detections of each frame, and of each sample of a benchmark of samples."""
    if spec.multi_view:
        runner = TorchRigRunner(detector, spec.input, device)
        found = predict_samples(RigPredictor(runner, spec), validation_set.samples, given)
        in_images = ProtocolDetections(found.labels, num_not_finite=found.num_not_finite)
        return in_images, tuple(found.objects)
    predictor = Predictor(TorchRunner(detector, spec.input, device), spec)
    published = published_protocol(spec.detector)
    detections = predict_detections(predictor, validation_set.frames, published, given)
    objects: tuple[VehicleObjects, ...] = ()
    if any(sample.benchmark for sample in validation_set.samples):
        merged = merge_samples(validation_set.samples, [each.ours for each in detections])
        objects = tuple(merged)
    return as_protocol_detections(detections, spec.classes), objects


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
    count = len(validation_set.samples if spec.multi_view else validation_set.frames)
    others = (given_depth.ABSENT, given_depth.OTHER)[:count]
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
