"""
Registry of the evaluation metrics: METRICS maps a name to a metric.

A new metric is one file in stl_core/evaluation/metrics/ and one line in METRICS. 'kitti' is always
computed; a run's key `metric: NAME/...` and the option `--metric NAME` add others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from stl_core.evaluation.metric import KITTI, Metric, MetricResults
from stl_core.evaluation.metrics import kitti
from stl_core.types import Labels

METRICS: dict[str, Metric] = {KITTI: kitti.METRIC}


class SelectionMetric(NamedTuple):
    """
    The number that selects the best model, see parse_selection.

    :param name: key of METRICS.
    :param read: function from that metric's result to the number; greater is better.
    """

    name: str
    read: Callable[[Any], float]

    def value(self, results: MetricResults) -> float:
        """Return the number in the results of an evaluation."""
        return self.read(results.by_name[self.name])


def parse_selection(text: str, classes: tuple[str, ...]) -> SelectionMetric:
    """
    Parse the value of a run's key `metric`.

    :param text: 'NAME/EXPRESSION' of a metric in METRICS, or an expression of KITTI's grammar,
        such as 'mean/3d/AP40/strict/moderate', see kitti.parse_selection.
    :param classes: the trained classes.
    :raises ValueError: for an invalid expression.
    """
    name, _, expression = text.partition('/')
    if name in METRICS:
        return SelectionMetric(name, METRICS[name].parse_selection(expression, classes))
    try:
        return SelectionMetric(KITTI, kitti.parse_selection(text, classes))
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
    classes: tuple[str, ...],
    names: Sequence[str] = (),
) -> MetricResults:
    """
    Compute 'kitti' and other metrics.

    :param ground_truth: the labels of each frame, DontCare included.
    :param detections: the detections of the same frames in the same order.
    :param classes: classes of the detector.
    :param names: other metrics to compute, keys of METRICS.
    :return: their results.
    """
    return MetricResults(
        {
            name: METRICS[name].evaluate(ground_truth, detections, classes)
            for name in dict.fromkeys((KITTI, *names))
        }
    )


def results_from_json(data: Mapping[str, Any]) -> MetricResults:
    """Read MetricResults.to_json's data; metrics that are not in METRICS are left out."""
    extra = data.get('metrics', {})
    return MetricResults(
        {KITTI: METRICS[KITTI].from_json(data)}
        | {name: METRICS[name].from_json(extra[name]) for name in extra if name in METRICS}
    )
