"""
Registry of the evaluation metrics: METRICS maps a name to a metric.

A new metric is one file in stl_core/evaluation/metrics/ and one line in METRICS. 'kitti' is always
computed; a run's key `metric: NAME/...` and the option `--metric NAME` add others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from stl_core.evaluation.ap_result import CLASSES
from stl_core.evaluation.counts import EvaluationCounts, count_objects
from stl_core.evaluation.metric import (
    KITTI,
    OURS,
    PUBLISHED,
    GivenDepthResults,
    JudgedSamples,
    Metric,
    MetricResult,
    MetricResults,
    ProtocolDetections,
)
from stl_core.evaluation.metrics import kitti, nuscenes
from stl_core.types import Labels

METRICS: dict[str, Metric] = {KITTI: kitti.METRIC, 'nuscenes': nuscenes.METRIC}


class SelectionMetric(NamedTuple):
    """
    The number that selects the best model, see parse_selection.

    :param name: key of METRICS.
    :param read: function from that metric's result to the number; greater is better.
    :param protocol: protocol whose results it reads, one of metric.PROTOCOLS.
    """

    name: str
    read: Callable[[Any], float]
    protocol: str = OURS

    def value(self, results: MetricResults) -> float:
        """
        Return the number in the results of an evaluation.

        :raises ValueError: for the published protocol, if the results lack it.
        """
        chosen = results.published if self.protocol == PUBLISHED else results
        if chosen is None:
            raise ValueError('metric: these results have no published protocol')
        return self.read(chosen.by_name[self.name])


def parse_selection(text: str, classes: tuple[str, ...], protocol: str = OURS) -> SelectionMetric:
    """
    Parse the value of a run's key `metric`.

    :param text: 'NAME/EXPRESSION' of a metric in METRICS, or an expression of KITTI's grammar,
        such as 'mean/3d/AP40/strict/moderate', see kitti.parse_selection.
    :param classes: the trained classes.
    :param protocol: protocol that selects, one of metric.PROTOCOLS.
    :raises ValueError: for an invalid expression.
    """
    name, _, expression = text.partition('/')
    if name in METRICS:
        if METRICS[name].evaluate_samples and protocol != OURS:
            raise ValueError(f'metric {name}: has the protocol {OURS!r} only, not {protocol!r}')
        return SelectionMetric(name, METRICS[name].parse_selection(expression, classes), protocol)
    try:
        return SelectionMetric(KITTI, kitti.parse_selection(text, classes), protocol)
    except ValueError as err:
        if name in ('mean', *classes):
            raise
        names = ', '.join(METRICS)
        raise ValueError(f'{err}; or NAME/EXPRESSION with NAME of {names}') from err


def selected_metrics(text: str) -> tuple[str, ...]:
    """Return the metrics to compute for a run's key `metric`: 'kitti' and the one it names."""
    name = text.partition('/')[0]
    return (KITTI, name) if name in METRICS and name != KITTI else (KITTI,)


def evaluate_metrics(
    ground_truth: Sequence[Labels],
    detections: Sequence[Labels],
    classes: tuple[str, ...] | None,
    names: Sequence[str] = (),
    samples: JudgedSamples | None = None,
) -> MetricResults:
    """
    Compute 'kitti' and other metrics, and count what goes into them.

    :param ground_truth: the labels of each frame, DontCare included.
    :param detections: the detections of the same frames in the same order.
    :param classes: classes of the detector; None if they are unknown, as for result files.
    :param names: other metrics to compute, keys of METRICS.
    :param samples: detections around the vehicle, for metrics of whole samples.
    :return: their results, without a protocol.
    :raises ValueError: for a metric of whole samples without samples.
    """

    def evaluate(name: str) -> MetricResult:
        evaluate_samples = METRICS[name].evaluate_samples
        if evaluate_samples is None:
            known = CLASSES if classes is None else classes
            return METRICS[name].evaluate(ground_truth, detections, known)
        if samples is None:
            raise ValueError(
                f'metric {name}: expected frames of one nuScenes source with a split, whose devkit'
                ' judges them'
            )
        return evaluate_samples(samples)

    return MetricResults(
        {name: evaluate(name) for name in dict.fromkeys((KITTI, *names))},
        count_objects(ground_truth, detections, classes),
    )


def evaluate_protocols(
    ground_truth: Sequence[Labels],
    detections: ProtocolDetections,
    classes: tuple[str, ...],
    names: Sequence[str] = (),
    samples: JudgedSamples | None = None,
) -> MetricResults:
    """
    Compute 'kitti' and other metrics by our protocol and, if there is one, by the published one.

    :param ground_truth: the labels of each frame, DontCare included.
    :param detections: the detections of the same frames in the same order.
    :param classes: classes of the detector.
    :param names: other metrics to compute, keys of METRICS.
    :param samples: detections around the vehicle by our protocol, for metrics of whole samples.
    :return: results by our protocol; `published` holds those by the published one.
    """

    def evaluate(frames: Sequence[Labels], protocol: str) -> MetricResults:
        of_images = [name for name in names if not METRICS[name].evaluate_samples]
        computed = names if protocol == OURS else of_images
        results = evaluate_metrics(ground_truth, frames, classes, computed, samples)
        return replace(results, protocol=protocol)

    ours = evaluate(detections.ours, OURS)
    assert ours.counts is not None
    counts = replace(ours.counts, not_finite=detections.num_not_finite)
    published = None
    if detections.published is not None:
        published = evaluate(detections.published, PUBLISHED)
    return replace(ours, counts=counts, published=published)


def results_from_json(data: Mapping[str, Any]) -> MetricResults:
    """
    Read MetricResults.to_json's data, of one evaluation by our protocol.

    Metrics that are not in METRICS are left out, and so are a published protocol and counts that
    an older version did not write.
    """
    extra = data.get('metrics', {})
    published, counts, given = (data.get(name) for name in (PUBLISHED, 'counts', 'given'))
    return MetricResults(
        {KITTI: METRICS[KITTI].from_json(data)}
        | {name: METRICS[name].from_json(extra[name]) for name in extra if name in METRICS},
        counts=counts and EvaluationCounts.from_json(counts),
        protocol=OURS,
        published=published and replace(results_from_json(published), protocol=PUBLISHED),
        given=given and GivenDepthResults.from_json(given),
    )
