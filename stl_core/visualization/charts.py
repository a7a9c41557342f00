"""Charts drawn without a display: loss curves over epochs, histograms."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter

from stl_core.types import Array

#: Columns of curves.csv that are not losses.
NON_LOSS_COLUMNS = ('epoch', 'total', 'grad_norm', 'skipped', 'lr', 'images_per_s')
#: Beginning of the columns of gradient norms of optimiser groups, which are not drawn either, and
#: of metrics, such as an accuracy, which are drawn on a linear axis.
GROUP_NORM_PREFIX, METRIC_PREFIX = 'grad_norm/', 'metric/'


def plot_loss_curves(tables: Mapping[str, str | Path], path: str | Path) -> None:
    """
    Draw the losses of training runs as small multiples over a shared epoch axis.

    :param tables: run name -> its curves.csv, as trainer.fit writes it.
    :param path: PNG to write.
    """
    runs = {name: _read_columns(table) for name, table in tables.items()}
    losses = dict.fromkeys(
        key
        for run in runs.values()
        for key in run
        if key not in NON_LOSS_COLUMNS and not key.startswith(GROUP_NORM_PREFIX)
    )
    columns = ['total', *losses, 'lr']
    num_rows = -(-len(columns) // 3)
    figure = new_figure(11, 2.3 * num_rows)
    for panel, key in enumerate(columns, 1):
        axes = figure.add_subplot(num_rows, 3, panel)
        series = {name: run[key] for name, run in runs.items() if key in run}
        for index, name in enumerate(runs):
            if name in series:
                axes.plot(runs[name]['epoch'], series[name], lw=1.2, color=f'C{index}', label=name)
        axes.set_title(key, fontsize=9, loc='left')
        axes.tick_params(labelsize=7)
        axes.grid(alpha=0.25)
        linear = key.startswith(METRIC_PREFIX)
        if not linear and min(values.min() for values in series.values()) > 0:
            axes.set_yscale('log')
            set_plain_log_ticks(axes.yaxis)
        if panel == 1 and len(runs) > 1:
            axes.legend(fontsize=7)
    figure.supxlabel('epoch', fontsize=9)
    save_figure(figure, path)


def plot_curve(
    table: str | Path,
    column: str,
    path: str | Path,
    title: str,
    lines: Mapping[str, float] | None = None,
) -> None:
    """
    Draw one column of a curves.csv over epochs.

    :param table: curves.csv.
    :param column: name of the column; KeyError if the table lacks it.
    :param path: PNG to write.
    :param title: title of the chart.
    :param lines: {label: value} of horizontal lines.
    """
    columns = _read_columns(table)
    figure = new_figure(7, 3)
    axes = figure.add_subplot()
    axes.plot(columns['epoch'], columns[column], lw=1.4, marker='o', ms=3)
    for label, value in (lines or {}).items():
        axes.axhline(value, color='black', lw=0.8, ls=':')
        axes.annotate(f' {label}', (columns['epoch'][0], value), fontsize=8, va='bottom')
    axes.set_xlabel('epoch')
    axes.set_title(title, fontsize=10, loc='left')
    axes.grid(alpha=0.25)
    save_figure(figure, path)


def set_plain_log_ticks(axis: Any) -> None:
    """Label a logarithmic axis plainly: at 1, 2 and 5 of each decade, at more on a short axis."""
    low, high = axis.get_view_interval()
    subs = (1.0, 2.0, 5.0) if high > 8 * low else (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0)
    axis.set_major_locator(LogLocator(subs=subs))
    axis.set_major_formatter(FormatStrFormatter('%g'))
    axis.set_minor_formatter(NullFormatter())


def _read_columns(table: str | Path) -> dict[str, Array]:
    with Path(table).open(newline='') as file:
        rows = list(csv.DictReader(file))
    return {name: np.array([float(row[name]) for row in rows]) for name in rows[0]}


def plot_histogram(values: Sequence[float], unit: str, title: str, path: str | Path) -> None:
    """
    Draw a histogram with its median and 95th percentile.

    :param values: at least one number.
    :param unit: unit of the values, such as 'ms'.
    :param title: title of the chart.
    :param path: PNG to write.
    """
    median, high = np.percentile(values, [50, 95])
    figure = new_figure(7, 3)
    axes = figure.add_subplot()
    axes.hist(values, bins=min(40, max(8, len(values) // 4)), color='tab:blue', alpha=0.75)
    for value, name in ((median, 'median'), (high, 'p95')):
        axes.axvline(value, color='black', lw=1)
        top = axes.get_ylim()[1]
        axes.annotate(f' {name} {value:.1f} {unit}', (value, 0.94 * top), fontsize=8)
    axes.set_xlabel(unit)
    axes.set_ylabel('count')
    axes.set_title(title, fontsize=10, loc='left')
    axes.grid(alpha=0.25)
    save_figure(figure, path)


def new_figure(width_in: float, height_in: float) -> Figure:
    """Return an empty figure that needs no display."""
    figure = Figure(figsize=(width_in, height_in), layout='constrained', dpi=110)
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure as PNG, and create its folder if needed."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(str(path))
