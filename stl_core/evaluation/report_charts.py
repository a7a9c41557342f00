"""Charts of the detection report: oracle AP, depth errors, precision and recall, calibration."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.ticker import MaxNLocator

from stl_core.evaluation.ap_result import ApResult, class_min_iou
from stl_core.evaluation.average_precision import PrecisionRecallCurve
from stl_core.evaluation.reliability import DepthErrors, ScoreReliability, SigmaCoverage
from stl_core.visualization import charts
from stl_core.visualization.style import chart_colour

#: Light to dark with increasing difficulty.
DIFFICULTY_COLOURS = {'easy': '#7fb8e0', 'moderate': '#2f7fc1', 'hard': '#0b2f5c'}
CRITERION_COLOURS = {'strict': 'tab:blue', 'loose': '#8cc0e6'}
CRITERION_LINESTYLES = {'strict': '-', 'loose': ':'}
PANEL_WIDTH_IN = 4.2
SUPTITLE_STYLE: Mapping[str, Any] = {'fontsize': 10, 'x': 0.01, 'ha': 'left'}
#: Legend next to the title of its panel, for panels without free space.
LEGEND_ABOVE: Mapping[str, Any] = {
    'loc': 'lower right',
    'bbox_to_anchor': (1.0, 1.0),
    'ncol': 2,
    'frameon': False,
}


def plot_oracle_ap(table: Mapping[str, ApResult], classes: Sequence[str], path: Path) -> None:
    """
    Draw the moderate 3D AP40 as detected and with each part taken from the labels.

    :param table: from oracle.oracle_table.
    :param classes: one panel for each.
    :param path: PNG to write.
    """
    figure, panels = _make_panels(classes, 1, 3.4)
    for axes, name in zip(panels[0], classes, strict=True):
        for shift, criterion in ((-0.2, 'strict'), (0.2, 'loose')):
            ap = [part[name].value('3d', 'AP40', criterion, 'moderate') for part in table.values()]
            label = f'{criterion}, IoU {class_min_iou(name, "3d", criterion):g}'
            positions = [row + shift for row in range(len(ap))]
            colour = CRITERION_COLOURS[criterion]
            bars = axes.barh(positions, ap, height=0.38, color=colour, label=label)
            axes.bar_label(bars, fmt='%.1f', fontsize=7, padding=2)
        axes.set_yticks(range(len(table)), list(table))
        axes.invert_yaxis()
        axes.set_xlim(0, 112)
        axes.set_xticks(range(0, 101, 20))
        axes.axhline(0.5, color='black', lw=0.6)
        _style_axes(axes, name, 'AP40 moderate, %', '')
        axes.legend(fontsize=7, **LEGEND_ABOVE)
    figure.suptitle(
        '3D AP with one part of each matched detection taken from its label', **SUPTITLE_STYLE
    )
    charts.save_figure(figure, path)


def plot_depth_errors(errors: Mapping[str, Sequence[DepthErrors]], path: Path) -> None:
    """
    Draw depth errors by true depth: metres in the upper row, fraction within 5 % in the lower row.

    :param errors: by class, a row for each range.
    :param path: PNG to write.
    """
    figure, panels = _make_panels(list(errors), 2, 2.7)
    for column, (name, rows) in enumerate(errors.items()):
        upper, lower = panels[0][column], panels[1][column]
        positions = range(len(rows))
        mean_abs = [row.mean_abs_m for row in rows]
        upper.bar(positions, mean_abs, color='#b5d3ea', label='mean absolute')
        upper.plot(
            positions, [row.median_abs_m for row in rows], '_', ms=18, mew=2, color='tab:blue'
        )
        upper.plot([], [], '-', lw=2, color='tab:blue', label='median absolute')
        upper.plot(positions, [row.bias_m for row in rows], 'o', ms=4, color='tab:red')
        upper.plot([], [], 'o', ms=4, color='tab:red', label='bias (detected less true)')
        upper.axhline(0, color='black', lw=0.6)
        upper.set_xticks(positions, [''] * len(rows))
        _style_axes(
            upper, f'{name}: {sum(row.count for row in rows)} matched', '', 'depth error, m'
        )
        upper.legend(fontsize=7, loc='best')
        lower.bar(positions, [100 * row.within_5_percent for row in rows], color='tab:blue')
        lower.set_ylim(0, 105)
        ranges = [f'{row.from_m:g}-{row.to_m:g}\nn {row.count}' for row in rows]
        lower.set_xticks(positions, ranges)
        for axes in (upper, lower):
            axes.set_xlim(-0.6, len(rows) - 0.4)  # ranges without a match keep their width
        _style_axes(lower, '', 'true depth, m; n matched detections', 'within 5 %, % of n')
    figure.suptitle('Depth of matched detections against their labels', **SUPTITLE_STYLE)
    charts.save_figure(figure, path)


def plot_precision_recall(
    curves: Mapping[str, Mapping[tuple[str, str], PrecisionRecallCurve]],
    table: ApResult,
    path: Path,
) -> None:
    """
    Draw precision over recall in 3D.

    :param curves: by class, then by criterion and difficulty, such as ('strict', 'easy').
    :param table: AP for the legend, from evaluate_detections.
    :param path: PNG to write.
    """
    figure, panels = _make_panels(list(curves), 1, 3.6)
    for axes, (name, class_curves) in zip(panels[0], curves.items(), strict=True):
        for (criterion, difficulty), curve in class_curves.items():
            ap = table[name].value('3d', 'AP40', criterion, difficulty)
            axes.plot(
                curve.recall,
                curve.precision,
                CRITERION_LINESTYLES[criterion],
                color=DIFFICULTY_COLOURS[difficulty],
                lw=1.5,
                label=f'{difficulty}, IoU {class_min_iou(name, "3d", criterion):g}: AP40 {ap:.1f}',
            )
        axes.set_xlim(0, 1.02)
        axes.set_ylim(0, 1.03)
        _style_axes(axes, name, 'recall', 'precision')
        axes.legend(fontsize=7, loc='lower left')
    figure.suptitle(
        '3D precision and recall as measured, at the scores of true positives', **SUPTITLE_STYLE
    )
    charts.save_figure(figure, path)


def plot_score_reliability(bins: Mapping[str, Mapping[str, ScoreReliability]], path: Path) -> None:
    """
    Draw 3D precision by score, and the number of detections.

    :param bins: by class, then by criterion.
    :param path: PNG to write.
    """
    figure, panels = _make_panels(list(bins), 2, 2.7)
    for column, (name, criteria) in enumerate(bins.items()):
        upper, lower = panels[0][column], panels[1][column]
        for criterion, each in criteria.items():
            _plot_bins(upper, each, f'IoU {class_min_iou(name, "3d", criterion):g}', criterion)
        strict = criteria['strict']
        if strict.is_probability:
            upper.plot([0, 1], [0, 1], '--', color='grey', lw=0.8, label='score = precision')
        upper.set_ylim(0, 1.03)
        _style_axes(upper, name, '', 'precision')
        upper.legend(fontsize=7, loc='best')
        edges, count = strict.edges, strict.count
        lower.bar(edges[:-1], count, np.diff(edges), align='edge', ec='white', color='tab:blue')
        lower.yaxis.set_major_locator(MaxNLocator(integer=True))
        _style_axes(lower, '', 'score', f'detections (of {count.sum()})')
        for axes in (upper, lower):
            axes.set_xlim(edges[0], edges[-1])
    figure.suptitle('Precision of detections by score, 3D, moderate', **SUPTITLE_STYLE)
    charts.save_figure(figure, path)


def plot_sigma_coverage(coverages: Mapping[str, SigmaCoverage], path: Path) -> None:
    """
    Draw the observed over the expected fraction of depth errors within multiples of sigma.

    :param coverages: by class.
    :param path: PNG to write.
    """
    figure = charts.new_figure(5.2, 4.8)
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], '--', color='grey', lw=0.8, label='right sigma')
    for name, each in coverages.items():
        gap, factor = each.calibration_error, each.fitting_factor
        label = f'{name}: n {each.count}, mean gap {gap:.3f}, sigma x {factor:.2f} fits'
        axes.plot(each.expected, each.observed, color=chart_colour(name), lw=1.5, label=label)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.set_aspect('equal')
    title = (
        'Depth errors within reach of the predicted sigma\nbelow the diagonal sigma is too small'
    )
    _style_axes(axes, title, 'fraction expected (Laplace)', 'fraction observed')
    axes.legend(fontsize=7, loc='best')
    charts.save_figure(figure, path)


def _plot_bins(axes: Any, bins: ScoreReliability, label: str, criterion: str) -> None:
    """Draw precision over mean score of the bins that are not empty."""
    full = bins.count > 0
    if not math.isnan(bins.calibration_error):
        label += f': calibration error {bins.calibration_error:.3f}'
    style = {'ms': 4, 'lw': 1.2, 'color': CRITERION_COLOURS[criterion], 'label': label}
    axes.plot(bins.mean_score[full], bins.precision[full], 'o-', **style)


def _make_panels(
    classes: Sequence[str], rows: int, height_in: float
) -> tuple[Any, list[list[Any]]]:
    """Create a figure with a column for each class; return it and its axes, row by row."""
    columns = len(classes)
    figure = charts.new_figure(max(6.0, PANEL_WIDTH_IN * columns), height_in * rows + 0.3)
    grid = [
        [
            figure.add_subplot(rows, columns, row * columns + column + 1)
            for column in range(columns)
        ]
        for row in range(rows)
    ]
    return figure, grid


def _style_axes(axes: Any, title: str, xlabel: str, ylabel: str) -> None:
    """Set title and axis labels, in the text sizes of all report charts."""
    axes.set_title(title, fontsize=9, loc='left')
    axes.set_xlabel(xlabel, fontsize=8)
    axes.set_ylabel(ylabel, fontsize=8)
    axes.tick_params(labelsize=7)
    axes.grid(alpha=0.25)
    axes.set_axisbelow(True)
