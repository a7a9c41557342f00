"""
Score detections of a drive against labels: KITTI's AP, other metrics, and depth errors.

AP uses the benchmark's matching, depth errors use error_matching.ERROR_MATCHING, as the error
analysis of stl_core.evaluation.report does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stl_core.evaluation.ap_result import CLASSES, ApResult
from stl_core.evaluation.metric import MetricResults
from stl_core.evaluation.metrics import evaluate_metrics
from stl_core.evaluation.reliability import depth_samples, filter_class
from stl_core.types import Labels

#: Headings of BoxScore.table_rows.
TABLE_HEADINGS = (
    'class',
    '3D AP40 (easy/moderate/hard), strict',
    '3D AP40 (easy/moderate/hard), loose',
    'matched',
    'median depth error (m)',
)


@dataclass(frozen=True)
class BoxScore:
    """
    Score of a detector against labels.

    :param results: results of metrics.evaluate_metrics.
    :param depth_error_m: class name -> absolute depth errors of the detections that
        error_matching.ERROR_MATCHING matches with a label, metres.
    """

    results: MetricResults
    depth_error_m: dict[str, list[float]]

    def notes(self) -> list[str]:
        """Return a line on all that was compared, then on classes that score 0 or nothing."""
        counts = self.results.counts
        if counts is None:
            return []
        objects = ', '.join(
            f'{name} {each.labels} ({"/".join(map(str, each.valid))} counted, {each.detections}'
            ' detections)'
            for name, each in counts.by_class.items()
            if each.labels or each.detections
        )
        first = f'{counts.frames} labelled images; labels: {objects or "none"}'
        return [first, *filter(None, [counts.fault()]), *self.results.notes()]

    @property
    def ap(self) -> ApResult:
        """Return KITTI's AP."""
        return self.results.ap

    def table_rows(self) -> list[tuple[str, ...]]:
        """Return a row per class: name, 3D AP40 at strict and loose IoU, matches, depth error."""
        rows = []
        for name, class_ap in self.ap.by_class.items():
            levels = (class_ap.by_difficulty('3d', 'AP40', each) for each in ('strict', 'loose'))
            errors = self.depth_error_m.get(name, [])
            median = f'{np.median(errors):.2f}' if errors else '-'
            cells = ('/'.join(f'{value:.1f}' for value in each) for each in levels)
            rows.append((name, *cells, str(len(errors)), median))
        return rows


def score_boxes(
    truth: Sequence[Labels],
    detections: Sequence[Labels],
    *,
    published: Sequence[Labels] | None = None,
    classes: tuple[str, ...] = CLASSES,
    metric_names: Sequence[str] = (),
) -> BoxScore:
    """
    Compute AP, other metrics and depth errors, from one Labels per frame.

    :param truth: labels.
    :param detections: all detections: metrics evaluate precision at every score.
    :param published: detections whose depth errors are measured; None for all.
    :param classes: classes of the detector.
    :param metric_names: metrics to compute next to 'kitti', keys of metrics.METRICS.
    :return: the score.
    """
    return BoxScore(
        evaluate_metrics(truth, detections, classes, metric_names),
        depth_errors(truth, detections if published is None else published),
    )


def depth_errors(truth: Sequence[Labels], detections: Sequence[Labels]) -> dict[str, list[float]]:
    """Compute BoxScore.depth_error_m: class name -> absolute depth errors of matches, metres."""
    samples = depth_samples(truth, detections)
    return {name: np.abs(filter_class(samples, name).error_m).tolist() for name in CLASSES}
