"""The table of a study: a row for each finished run; means, deviations and a chart of them."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from stl_core import charts
from stl_core.types import Array

LEVELS = ('easy', 'moderate', 'hard')

#: What the text shows: AP40 at moderate difficulty.
SHOWN = {
    '3D at 0.7': '3d/strict/moderate',
    '3D at 0.5': '3d/loose/moderate',
    'BEV at 0.7': 'bev/strict/moderate',
    'BEV at 0.5': 'bev/loose/moderate',
}
#: What the names of rows end with that are stages before the methods, such as the teacher.
STAGE = ' (stage)'
_KEYS = ('method', 'seed', 'epochs', 'config')


class Row(NamedTuple):
    """
    One finished run.

    :param method: its name.
    :param seed: its seed.
    :param epochs: it was judged after.
    :param config: digest of its configuration.
    :param figures: AP40, percent: {'3d/strict/moderate': ...}; strict is IoU 0.7 for cars.
    """

    method: str
    seed: int
    epochs: int
    config: str
    figures: dict[str, float]


def read(path: Path) -> list[Row]:
    """Read a table; no row where there is none. A line torn by a crash is left out."""
    if not path.exists():
        return []
    lines = [line for line in path.read_text().splitlines(True) if line.endswith('\n')]
    rows = []
    for told in csv.DictReader(lines):
        figures = {name: float(value) for name, value in told.items() if name not in _KEYS}
        numbers = int(told['seed']), int(told['epochs'])
        rows.append(Row(told['method'], *numbers, told['config'], figures))
    return rows


def append(path: Path, row: Row) -> None:
    """Add a row, the header before the first; a line torn by a crash is dropped."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and not path.read_text().endswith('\n'):
        whole = path.read_text()
        path.write_text(whole[: whole.rfind('\n') + 1])
    fresh = not path.exists() or not path.stat().st_size
    with path.open('a', newline='') as file:
        writer = csv.writer(file, lineterminator='\n')
        if fresh:
            writer.writerow([*_KEYS, *row.figures])
        writer.writerow([*row[:4], *(f'{value:.4f}' for value in row.figures.values())])


def methods(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Group rows by method, in the order in which methods appear."""
    names = dict.fromkeys(row.method for row in rows)
    return {name: [row for row in rows if row.method == name] for name in names}


def text(rows: Sequence[Row], judged: str) -> str:
    """
    Lay out means and standard deviations over seeds.

    :param rows: of a study.
    :param judged: class whose figures they are.
    :return: a Markdown table; the deviation is of the sample, so a single seed has none.
    """
    lines = [
        f'{judged}, AP40, moderate, last epoch; mean ± standard deviation over seeds',
        '',
        f'| method | seeds | {" | ".join(SHOWN)} |',
        f'|---|---|{"---|" * len(SHOWN)}',
    ]
    for name, group in methods(rows).items():
        cells = [_told(_values(group, key)) for key in SHOWN.values()]
        lines.append(f'| {name} | {len(group)} | {" | ".join(cells)} |')
    return '\n'.join(lines)


def chart(rows: Sequence[Row], judged: str, path: Path) -> None:
    """
    Draw every method's mean as a bar, its seeds as dots; the stages before are told in words.

    :param rows: of a study.
    :param judged: class whose figures they are.
    :param path: PNG to write.
    """
    groups = {n: group for n, group in methods(rows).items() if not n.endswith(STAGE)}
    stages = [row for row in rows if row.method.endswith(STAGE)]
    figure = charts.new_figure(11, 1.2 + 0.34 * len(groups))
    for place, (title, key) in enumerate(SHOWN.items(), 1):
        axes = figure.add_subplot(1, len(SHOWN), place)
        for height, group in enumerate(groups.values()):
            values = _values(group, key)
            axes.barh(height, values.mean(), color='tab:blue', alpha=0.35)
            axes.plot(values, np.full(len(values), height), 'o', ms=3.5, color='tab:blue')
            axes.annotate(f' {values.mean():.1f}', (values.max(), height), va='center', fontsize=7)
        axes.set_yticks(range(len(groups)), groups if place == 1 else [''] * len(groups))
        axes.invert_yaxis()
        axes.margins(x=0.15)
        told = [f'{row.method.removesuffix(STAGE)} {row.figures[key]:.1f}' for row in stages]
        axes.set_title('\n'.join([title, ', '.join(told)]), fontsize=8, loc='left')
        axes.tick_params(labelsize=7)
        axes.grid(alpha=0.25, axis='x')
    figure.supxlabel(f'{judged}, AP40, moderate; dots are seeds', fontsize=8)
    charts.save(figure, path)


def _values(group: Sequence[Row], key: str) -> Array:
    return np.array([row.figures[key] for row in group])


def _told(values: Array) -> str:
    spread = f' ± {values.std(ddof=1):.2f}' if len(values) > 1 else ''
    return f'{values.mean():.2f}{spread}'
