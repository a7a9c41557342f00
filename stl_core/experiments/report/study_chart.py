"""Chart of a study: bars of means, dots of seeds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from stl_core.experiments.report.study_text import (
    DISPLAYED_METRICS,
    difference_title,
    metric_title,
)
from stl_core.experiments.study_table import (
    STAGE_SUFFIX,
    Row,
    group_by_method,
    group_without_stages,
    metric_values,
    paired_differences,
)
from stl_core.visualization import charts


def plot_study(
    rows: Sequence[Row], class_name: str, path: Path, unit: str = 'seed', baseline: str = ''
) -> None:
    """
    Draw every method's mean as a bar and its seeds as dots; titles name the earlier stages' AP.

    :param rows: rows of a study, its first method before the others.
    :param class_name: class that was evaluated.
    :param path: PNG to write.
    :param unit: name of what a row's seed is, 'seed' or 'replicate'.
    :param baseline: method that is subtracted in the differences; '' is the first one.
    """
    groups = group_without_stages(rows)
    stages = group_by_method([row for row in rows if row.method.endswith(STAGE_SUFFIX)])
    panels = {}
    for key in DISPLAYED_METRICS:
        stage_texts = [
            f'{name.removesuffix(STAGE_SUFFIX)} {metric_values(group, key).mean():.1f}'
            for name, group in stages.items()
        ]
        title = f'{metric_title(key, class_name)}\n{", ".join(stage_texts)}'
        panels[title] = {name: metric_values(group, key) for name, group in groups.items()}
    panels[f'{difference_title(rows, class_name, baseline)}\n{unit} by {unit}'] = (
        paired_differences(rows, baseline)
    )
    figure = charts.new_figure(13, 1.2 + 0.34 * len(groups))
    for column, (title, bars) in enumerate(panels.items(), 1):
        axes = figure.add_subplot(1, len(panels), column)
        for name, values in bars.items():
            height = list(groups).index(name)
            axes.barh(height, values.mean(), color='tab:blue', alpha=0.35)
            axes.plot(values, np.full(len(values), height), 'o', ms=3.5, color='tab:blue')
            right = max(values.max(), 0)
            axes.annotate(f' {values.mean():.1f}', (right, height), va='center', fontsize=7)
        axes.set_ylim(max(len(groups), 1) - 0.5, -0.5)
        axes.set_yticks(range(len(groups)), groups if column == 1 else [''] * len(groups))
        axes.margins(x=0.15)
        axes.set_title(title, fontsize=8, loc='left')
        axes.tick_params(labelsize=7)
        axes.grid(alpha=0.25, axis='x')
    figure.supxlabel(f'{class_name}, AP40, moderate, protocol ours; dots are {unit}s', fontsize=8)
    charts.save_figure(figure, path)
