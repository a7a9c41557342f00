"""The metric 'nuscenes': mAP and NDS of nuScenes' benchmark, judged by its devkit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from stl_core.evaluation.metric import JudgedSamples, Metric
from stl_core.evaluation.nuscenes.devkit import Devkit
from stl_core.evaluation.nuscenes.names import CLASSES
from stl_core.evaluation.nuscenes.result import NuscenesResult
from stl_core.evaluation.nuscenes.results import build_results
from stl_core.types import Labels

#: Expressions that select a model, and the number of the result that each stands for.
SELECTIONS: dict[str, Callable[[NuscenesResult], float]] = {
    'NDS': lambda result: result.nds,
    'mAP': lambda result: result.mean_ap,
    'mAP_present': lambda result: result.present_mean_ap,
}


def parse_selection(text: str, classes: tuple[str, ...]) -> Callable[[NuscenesResult], float]:
    """
    Parse 'NDS', 'mAP', 'mAP_present' (over the classes with labels) or 'AP/CLASS'.

    :param text: the expression.
    :param classes: the trained classes; a CLASS is one of them and of nuScenes.
    :raises ValueError: listing the known expressions.
    """
    if text in SELECTIONS:
        return SELECTIONS[text]
    name = text.removeprefix('AP/')
    if text.startswith('AP/') and name in classes and name in CLASSES:
        return lambda result: result.by_class[name].ap
    known = ', '.join([*SELECTIONS, *(f'AP/{each}' for each in classes if each in CLASSES)])
    raise ValueError(f'metric: {text!r} of nuscenes is unknown; known: {known}')


def evaluate_samples(samples: JudgedSamples) -> NuscenesResult:
    """
    Judge the detections of a split.

    :raises DevkitError: without the devkit; ResultsError for samples that are not the split's.
    """
    results, counts = build_results(samples.detections, samples.classes, samples.attributes)
    devkit = Devkit(samples.root, samples.version)
    return devkit.evaluate(results, samples.split, tuple(counts.notes()))


def _refuse_images(
    ground_truth: Sequence[Labels], detections: Sequence[Labels], classes: tuple[str, ...]
) -> Any:
    raise ValueError('metric nuscenes: judges samples of nuScenes, not single images')


METRIC = Metric(_refuse_images, parse_selection, NuscenesResult.from_json, evaluate_samples)
