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
from stl_core.evaluation import average_precision as evaluate
from stl_core.inference import model_file as model_file_module
from stl_core.inference import predictor as predict
from stl_core.inference.result_files import detect
from stl_core.types import Labels

KINDS = ('bbox', 'bev', '3d', 'aos')
POINTS = ('AP40', 'AP11')
LEVELS = ('easy', 'moderate', 'hard')


class Exam(NamedTuple):
    """Frames, and the labels of each."""

    frames: tuple[kitti.FrameFiles, ...]
    truth: list[Labels]


class Judgement(NamedTuple):
    """What evaluate.evaluate says, and the detections of each frame."""

    metrics: evaluate.Result
    found: list[Labels]


class Metric(NamedTuple):
    """The one number, read from what evaluate.evaluate says, by which evaluations are compared."""

    classes: tuple[str, ...]
    kind: str
    points: str
    criterion: str
    level: int

    def of(self, metrics: evaluate.Result) -> float:
        """Return the number: a mean over the classes."""
        found = [
            metrics[name][self.kind][self.points][self.criterion][self.level]
            for name in self.classes
        ]
        return float(np.mean(found))


def read_metric(text: str, classes: tuple[str, ...]) -> Metric:
    """
    Read a metric such as 'mean/3d/AP40/strict/moderate' or 'Car/bev/AP11/loose/hard'.

    :param text: class (or 'mean' over those taught), kind, points, IoU and difficulty.
    :param classes: the classes taught; KITTI's evaluation knows evaluate.CLASSES only.
    :raises ValueError: naming the part that is unknown.
    """
    judged = tuple(name for name in classes if name in evaluate.CLASSES)
    known = (('mean', *judged) if judged else (), KINDS, POINTS, tuple(evaluate.MIN_IOU), LEVELS)
    parts = text.split('/')
    if len(parts) != len(known):
        raise ValueError(f'metric: expected CLASS/KIND/POINTS/IOU/DIFFICULTY, got {text!r}')
    for part, choices in zip(parts, known, strict=True):
        if part not in choices:
            told = ', '.join(choices) or f'none, as of {", ".join(classes)} none is judged'
            raise ValueError(f'metric: {part!r} of {text!r} is unknown; known: {told}')
    name, kind, points, criterion, level = parts
    chosen = judged if name == 'mean' else (name,)
    return Metric(chosen, kind, points, criterion, LEVELS.index(level))


def set_exam(frames: Sequence[kitti.FrameFiles]) -> Exam:
    """
    Read the labels that detectors will be judged by; faults are told before hours of work.

    :raises DataError: for a frame without labels, or a malformed file.
    """
    bare = [each.id for each in frames if each.label_2 is None]
    if bare:
        raise kitti.DataError(f'{bare[0]}: a frame without labels cannot be used to judge')
    return Exam(
        tuple(frames), [kitti.read_labels(each.label_2) for each in frames if each.label_2]
    )


def judge(
    detector: nn.Module, spec: model_file_module.StudentSpec, exam: Exam, device: torch.device
) -> Judgement:
    """
    Evaluate a live detector.

    :param detector: left as it was found.
    :param spec: its classes and input.
    :param exam: frames and labels.
    :param device: where the detector is.
    """
    was_training = detector.training
    run = predict.TorchRun(detector.eval(), spec.input, device)
    found = detect(predict.Predictor(run, spec), exam.frames)
    detector.train(was_training)
    return Judgement(evaluate.evaluate(exam.truth, found), found)


def row(metrics: evaluate.Result, metric: Metric) -> dict[str, float]:
    """Put an evaluation into one line: the metric, and every moderate AP40 of the strict IoU."""
    moderate = {
        f'{name}/{kind}': metrics[name][kind]['AP40']['strict'][LEVELS.index('moderate')]
        for name in metrics
        for kind in KINDS
    }
    return {'metric': metric.of(metrics), **moderate}


def is_best(values: Sequence[float]) -> bool:
    """Whether the last of the values is greater than all before it."""
    return len(values) > 0 and values[-1] > max(values[:-1], default=-np.inf)


def is_stalled(values: Sequence[float], patience: int) -> bool:
    """Whether the last `patience` values brought nothing better; never for a patience of 0."""
    return 0 < patience < len(values) and int(np.argmax(values)) < len(values) - patience


def summary(metrics: evaluate.Result) -> str:
    """Say the moderate 3D AP40 of every class in one line."""
    parts = [f'{name} {each["3d"]["AP40"]["strict"][1]:.2f}' for name, each in metrics.items()]
    return '3D AP40 moderate: ' + ', '.join(parts)
