"""
The folder that evaluate_bag writes of one bag, or of several taken together.

figures.json   counts, AP, depth errors: the same bytes each time
timing.json    how long the stages took, and where
pictures/      some images with their boxes; charts/, labels/ (a dossier) where there is something
report.html    all of it in one file
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mono3d_ros import evidence, page, report, score
from mono3d_ros.examination import Findings
from stl_core import charts, dossier

LIDAR_CHART, LATENCY_CHART = 'charts/lidar.png', 'charts/latency.png'


def write(
    folder: Path, title: str, about: Mapping[str, Any], found: Findings
) -> score.Score | None:
    """
    Write figures, charts, pictures and report.

    :param folder: must be there.
    :param title: of the report.
    :param about: what was examined, by what: goes into figures.json as it is.
    :param found: what came out.
    :return: how right it was; None without labels.
    """
    judged, examined = evidence.judge(found.evidence), evidence.examine(found.evidence)
    figures = {**about, **evidence.figures(found.evidence, judged)}
    _write_json(folder / 'figures.json', figures)
    _write_json(folder / 'timing.json', timing(found.timings_ms))
    for name, picture in found.pictures.items():
        report.write_picture(folder / f'pictures/{name}.png', picture)
    if examined is not None:
        dossier.write(examined, folder / 'labels')
    _draw_charts(folder, found)
    sections = [
        _counts(about, figures),
        _labels(judged, folder),
        _lidar(figures['lidar'], folder),
        _latency(found.timings_ms, folder),
        page.Section('Pictures', images=[*map(page.photograph, found.pictures.values())]),
    ]
    (folder / 'report.html').write_text(page.html(title, sections))
    return judged


def timing(timings_ms: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """Tell median and 95th percentile of each stage, and images a second."""
    total_s = sum(timings_ms['total']) / 1e3
    return {
        'images': len(timings_ms['total']),
        'images_per_s': round(len(timings_ms['total']) / total_s, 2),
        'stages_ms': {
            stage: dict(zip(('median', 'p95'), _percentiles(each), strict=True))
            for stage, each in timings_ms.items()
        },
    }


def _draw_charts(folder: Path, found: Findings) -> None:
    errors = evidence.lidar_errors(found.evidence)
    if np.isfinite(errors).any():
        known, title = errors[np.isfinite(errors)].tolist(), 'depth of boxes less that of the scan'
        charts.histogram(known, 'm', title, folder / LIDAR_CHART)
    total_ms = found.timings_ms['total']
    charts.histogram(total_ms, 'ms', 'image message to answer', folder / LATENCY_CHART)


def _write_json(path: Path, figures: Mapping[str, Any]) -> None:
    """Write figures; NaN is no JSON and would be a fault."""
    path.write_text(json.dumps(figures, indent=1, allow_nan=False) + '\n')


def _percentiles(values: Sequence[float]) -> list[float]:
    return [round(float(each), 3) for each in np.percentile(values, [50, 95])]


def _counts(about: Mapping[str, Any], figures: Mapping[str, Any]) -> page.Section:
    rows = [(key, str(value)) for key, value in about.items()]
    rows += [(f'images of {name}', str(count)) for name, count in figures['frames'].items()]
    rows += [(f'left out: {why}', str(count)) for why, count in figures['skipped'].items()]
    rows += [(f'boxes: {name}', str(count)) for name, count in figures['boxes'].items()]
    return page.Section('What was examined', headings=('', ''), rows=rows)


def _labels(judged: score.Score | None, folder: Path) -> page.Section:
    title = 'Against the labels'
    if judged is None:
        return page.Section(title, 'There are no labels.')
    drawn = [_png(path) for path in sorted((folder / 'labels').glob('*.png'))]
    text = (
        'AP as the KITTI benchmark measures it, of everything that was found; matches and depth '
        'errors of the boxes that are sent.'
    )
    return page.Section(title, text, score.HEADINGS, judged.rows(), drawn)


def _lidar(told: Mapping[str, Any], folder: Path) -> page.Section:
    title, chart = 'Against the scans, without labels', folder / LIDAR_CHART
    if not chart.is_file():
        text = (
            'No box was checked: that takes a scan near in time, a transform from it to the '
            'camera and enough points.'
        )
        return page.Section(title, text)
    headings = (
        'class',
        'metres',
        'boxes',
        'checked',
        'median',
        'median off',
        '90% within',
        '<1 m',
    )
    rows = []
    for name, ranges in told['classes'].items():
        for row in (each for each in ranges if each['boxes']):
            until = '' if row['to_m'] is None else f'{row["to_m"]:g}'
            numbers = list(row.values())[2:]
            rows.append((name, f'{row["from_m"]:g}-{until}', *map(_shown, numbers)))
    return page.Section(title, told['rule'], headings, rows, [_png(chart)])


def _latency(timings_ms: Mapping[str, Sequence[float]], folder: Path) -> page.Section:
    rows = [(stage, *map(_shown, _percentiles(each))) for stage, each in timings_ms.items()]
    chart = [_png(folder / LATENCY_CHART)]
    text = 'Of images of one moment each has its share; nothing is sent over a network.'
    return page.Section('Time', text, ('stage (ms)', 'median', 'p95'), rows, chart)


def _png(path: Path) -> page.Image:
    return page.Image('png', path.read_bytes())


def _shown(number: float | None) -> str:
    return '-' if number is None else f'{number:.4g}'
