"""
Report about one set of detections: a folder of tables (CSV and JSON) and charts.

oracle.csv .png             AP as detected and with one part taken from the labels (oracle.py)
depth_error.csv .png        depth errors by distance (reliability.py)
precision_recall.csv .png   curves as measured (average_precision.py); the chart shows 3D
score_reliability.csv .png  precision by score in 3D, moderate (reliability.py)
sigma_coverage.csv .png     depth errors within the predicted sigma; only where it is known
metric_NAME.csv             table of every chosen metric except 'kitti' (metrics/__init__.py)
figures.json                all except the curves, and notes on missing parts with the reason
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from stl_core.evaluation import report_charts
from stl_core.evaluation.ap_result import CLASSES, MIN_IOU, ApResult, class_min_iou
from stl_core.evaluation.average_precision import PrecisionRecallCurve, precision_recall_curve
from stl_core.evaluation.error_matching import ERROR_MATCHING
from stl_core.evaluation.kitti_matching import DIFFICULTIES, MODERATE
from stl_core.evaluation.metric import MetricResults
from stl_core.evaluation.oracle import BASELINE, CAMERA_AT_ORIGIN, oracle_table
from stl_core.evaluation.overlaps import JoinedFrames, pairwise_overlaps
from stl_core.evaluation.reliability import (
    DEPTH_EDGES_M,
    DepthErrors,
    DepthSamples,
    ScoreReliability,
    SigmaCoverage,
    depth_errors,
    depth_samples,
    filter_class,
    score_reliability,
    sigma_coverage,
)
from stl_core.types import Array, Labels

#: Names of the tables and charts.
TABLE_NAMES = ('oracle', 'depth_error', 'precision_recall', 'score_reliability', 'sigma_coverage')

METRIC_TABLE = 'metric_{}.csv'

NO_CALIBRATION = (
    'no calibration was given: for the oracles of depth and projected centre the camera stands at'
    " the origin of the camera frame (KITTI's left colour camera stands 6 cm beside it)"
)
NO_SIGMA = 'the detections carry no sigma of depth: sigma_coverage is left out'
NO_MATCH = 'no detection was matched with a label: sigma_coverage is left out'
NO_PROBABILITY = 'scores leave 0 to 1, so they are no probabilities: no calibration error'


@dataclass(frozen=True)
class DetectionReport:
    """
    Results about one set of detections; by class, for the classes with a detection.

    :param oracle: by part, all classes, see oracle.oracle_table.
    :param depth_errors: depth errors by distance; the last row covers all distances.
    :param curves: by metric, criterion and difficulty, such as ('3d', 'strict', 'easy').
    :param score_reliability: by criterion.
    :param sigma_coverage: empty if the detections carry no sigma, or none was matched.
    :param notes: one sentence for each missing or replaced part.
    """

    oracle: Mapping[str, ApResult]
    depth_errors: Mapping[str, Sequence[DepthErrors]]
    curves: Mapping[str, Mapping[tuple[str, str, str], PrecisionRecallCurve]]
    score_reliability: Mapping[str, Mapping[str, ScoreReliability]]
    sigma_coverage: Mapping[str, SigmaCoverage]
    notes: tuple[str, ...]


def analyse_detections(
    ground_truth: Sequence[Labels],
    detections: Sequence[Labels],
    Ps: Sequence[Array] | None = None,
    depth_sigmas_m: Sequence[Array] | None = None,
) -> DetectionReport:
    """
    Compute the report of a set of detections.

    :param ground_truth: the labels of each frame, DontCare included.
    :param detections: the detections of the same frames in the same order.
    :param Ps: (3, 4) projection of each frame, if known.
    :param depth_sigmas_m: (N,) of each frame's detections, if known.
    :return: the report.
    :raises ValueError: when the lists differ in length.
    """
    frames = pairwise_overlaps(ground_truth, detections)
    classes = [name for name in CLASSES if (frames.detections.name == name.lower()).any()]
    samples = depth_samples(ground_truth, detections, depth_sigmas_m)
    by_class = {name: filter_class(samples, name) for name in classes}
    with_sigma = by_class if depth_sigmas_m is not None else {}
    score = {name: _score_reliability(frames, name) for name in classes}
    sigma = {name: sigma_coverage(each) for name, each in with_sigma.items() if len(each.error_m)}
    notes = [f'{name}: nothing was detected' for name in CLASSES if name not in classes]
    if Ps is None:
        notes.append(NO_CALIBRATION)
    if not sigma:
        notes.append(NO_SIGMA if depth_sigmas_m is None else NO_MATCH)
    notes += [
        f'{name}: {NO_PROBABILITY}' for name in classes if not score[name]['strict'].is_probability
    ]
    return DetectionReport(
        oracle=oracle_table(
            ground_truth, detections, Ps or [CAMERA_AT_ORIGIN] * len(ground_truth)
        ),
        depth_errors={name: _depth_error_rows(each) for name, each in by_class.items()},
        curves={name: _measure_curves(frames, name) for name in classes},
        score_reliability=score,
        sigma_coverage=sigma,
        notes=tuple(notes),
    )


def write_report(
    report: DetectionReport, folder: str | Path, metrics: MetricResults | None = None
) -> None:
    """
    Write a report; deletes the tables and charts of an earlier report in the same folder.

    :param report: from analyse_detections.
    :param folder: created if it does not exist.
    :param metrics: results of which all but 'kitti' become part of the report.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    outdated = [f'{name}{suffix}' for name in TABLE_NAMES for suffix in ('.csv', '.png')]
    for path in [*(folder / name for name in outdated), *folder.glob(METRIC_TABLE.format('*'))]:
        path.unlink(missing_ok=True)
    for name, rows in _report_tables(report).items():
        if rows:
            _write_csv(folder / f'{name}.csv', rows)
    figures = _to_json(report)
    if metrics:
        figures |= metrics.extra_json()
        for name, result in metrics.extra.items():
            if table := result.rows():
                _write_csv(folder / METRIC_TABLE.format(name), table)
    (folder / 'figures.json').write_text(json.dumps(figures, indent=1) + '\n')
    if report.depth_errors:
        _draw_charts(report, folder)


def _depth_error_rows(samples: DepthSamples) -> list[DepthErrors]:
    ranges = [*pairwise(DEPTH_EDGES_M), (0.0, math.inf)]
    return [depth_errors(samples, low, high) for low, high in ranges]


def _score_reliability(frames: JoinedFrames, class_name: str) -> dict[str, ScoreReliability]:
    return {
        criterion: score_reliability(
            frames, class_name, MODERATE, class_min_iou(class_name, '3d', criterion)
        )
        for criterion in MIN_IOU
    }


def _measure_curves(
    frames: JoinedFrames, class_name: str
) -> dict[tuple[str, str, str], PrecisionRecallCurve]:
    return {
        (kind, criterion, name): precision_recall_curve(
            frames, class_name, difficulty, kind, class_min_iou(class_name, kind, criterion)
        )
        for criterion, kinds in MIN_IOU.items()
        for kind in kinds
        for name, difficulty in DIFFICULTIES.items()
    }


def _report_tables(report: DetectionReport) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of all tables by file name, without suffix."""
    return {
        'oracle': [
            {'part': part} | row for part, ap in report.oracle.items() for row in ap.rows()
        ],
        'depth_error': [
            {'class': name} | asdict(row)
            for name, rows in report.depth_errors.items()
            for row in rows
        ],
        'precision_recall': [
            {'class': name, 'metric': metric, 'criterion': criterion, 'difficulty': difficulty}
            | row
            for name, curves in report.curves.items()
            for (metric, criterion, difficulty), curve in curves.items()
            for row in _rows_from_columns(**vars(curve))
        ],
        'score_reliability': [
            {'class': name, 'criterion': criterion} | row
            for name, criteria in report.score_reliability.items()
            for criterion, each in criteria.items()
            for row in _rows_from_columns(
                from_score=each.edges[:-1],
                to_score=each.edges[1:],
                count=each.count,
                mean_score=each.mean_score,
                precision=each.precision,
            )
        ],
        'sigma_coverage': [
            {'class': name} | row
            for name, each in report.sigma_coverage.items()
            for row in _rows_from_columns(expected=each.expected, observed=each.observed)
        ],
    }


def _to_json(report: DetectionReport) -> dict[str, Any]:
    """Return everything except the curves as plain JSON; null for numbers that are not finite."""
    return {
        'notes': list(report.notes),
        'matching': ERROR_MATCHING.description,
        'oracle': {part: ap.to_json() for part, ap in report.oracle.items()},
        'depth_error': {
            name: [_finite_or_none(asdict(row)) for row in rows]
            for name, rows in report.depth_errors.items()
        },
        'score_calibration_error': {
            name: _finite_or_none(
                {criterion: each.calibration_error for criterion, each in criteria.items()}
            )
            for name, criteria in report.score_reliability.items()
        },
        'sigma': {
            name: {'count': each.count, 'mean_calibration_error': each.calibration_error}
            | {'fitting_factor': each.fitting_factor}
            for name, each in report.sigma_coverage.items()
        },
    }


def _draw_charts(report: DetectionReport, folder: Path) -> None:
    table = report.oracle[BASELINE]
    in_3d = {
        name: {key[1:]: curve for key, curve in curves.items() if key[0] == '3d'}
        for name, curves in report.curves.items()
    }
    near = {name: rows[:-1] for name, rows in report.depth_errors.items()}
    report_charts.plot_oracle_ap(report.oracle, list(report.depth_errors), folder / 'oracle.png')
    report_charts.plot_depth_errors(near, folder / 'depth_error.png')
    report_charts.plot_precision_recall(in_3d, table, folder / 'precision_recall.png')
    report_charts.plot_score_reliability(
        report.score_reliability, folder / 'score_reliability.png'
    )
    if report.sigma_coverage:
        report_charts.plot_sigma_coverage(report.sigma_coverage, folder / 'sigma_coverage.png')


def _rows_from_columns(**columns: Array) -> list[dict[str, Any]]:
    """Convert columns of equal length to rows, one dict each."""
    lists = [column.tolist() for column in columns.values()]
    return [dict(zip(columns, row, strict=True)) for row in zip(*lists, strict=True)]


def _finite_or_none(row: Mapping[str, Any]) -> dict[str, Any]:
    """Replace numbers that are not finite, which JSON cannot hold, by None."""
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in row.items()
    }


def _write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows under a heading, six digits each; empty for numbers that are not finite."""
    with path.open('w', newline='') as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator='\n')
        writer.writeheader()
        for row in map(_finite_or_none, rows):
            writer.writerow(
                {key: f'{x:.6g}' if isinstance(x, float) else x for key, x in row.items()}
            )
