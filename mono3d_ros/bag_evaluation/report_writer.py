"""
The folder that evaluate_bag writes of one bag, or of several taken together.

figures.json   counts, AP, depth errors: the same bytes each time
timing.json    how long the stages took, and where
pictures/      some images with their boxes; charts/, labels/ (a dossier) where there is something
report.html    all of it in one file
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from mono3d_ros.bag_evaluation import label_score as score
from mono3d_ros.bag_evaluation import pictures as report
from mono3d_ros.bag_evaluation import results as evidence
from mono3d_ros.bag_evaluation.replay import Findings
from stl_core.evaluation import report as dossier
from stl_core.types import Array
from stl_core.visualization import charts

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
        Section('Pictures', images=[*map(photograph, found.pictures.values())]),
    ]
    (folder / 'report.html').write_text(html(title, sections))
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


def _counts(about: Mapping[str, Any], figures: Mapping[str, Any]) -> Section:
    rows = [(key, str(value)) for key, value in about.items()]
    rows += [(f'images of {name}', str(count)) for name, count in figures['frames'].items()]
    rows += [(f'left out: {why}', str(count)) for why, count in figures['skipped'].items()]
    rows += [(f'boxes: {name}', str(count)) for name, count in figures['boxes'].items()]
    return Section('What was examined', headings=('', ''), rows=rows)


def _labels(judged: score.Score | None, folder: Path) -> Section:
    title = 'Against the labels'
    if judged is None:
        return Section(title, 'There are no labels.')
    drawn = [_png(path) for path in sorted((folder / 'labels').glob('*.png'))]
    text = (
        'AP as the KITTI benchmark measures it, of everything that was found; matches and depth '
        'errors of the boxes that are sent.'
    )
    return Section(title, text, score.HEADINGS, judged.rows(), drawn)


def _lidar(told: Mapping[str, Any], folder: Path) -> Section:
    title, chart = 'Against the scans, without labels', folder / LIDAR_CHART
    if not chart.is_file():
        text = (
            'No box was checked: that takes a scan near in time, a transform from it to the '
            'camera and enough points.'
        )
        return Section(title, text)
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
    return Section(title, told['rule'], headings, rows, [_png(chart)])


def _latency(timings_ms: Mapping[str, Sequence[float]], folder: Path) -> Section:
    rows = [(stage, *map(_shown, _percentiles(each))) for stage, each in timings_ms.items()]
    chart = [_png(folder / LATENCY_CHART)]
    text = 'Of images of one moment each has its share; nothing is sent over a network.'
    return Section('Time', text, ('stage (ms)', 'median', 'p95'), rows, chart)


def _png(path: Path) -> Image:
    return Image('png', path.read_bytes())


def _shown(number: float | None) -> str:
    return '-' if number is None else f'{number:.4g}'


#: Of photographs in a report: wide enough to read labels, small enough to mail.
PICTURE_WIDTH_PX, JPEG_QUALITY = 1000, 75

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 1040px;
       padding: 0 1em; color: #1c2430; }
h1 { font-size: 1.5em; } h2 { font-size: 1.15em; margin-top: 2em; }
table { border-collapse: collapse; margin: .5em 0; }
td, th { padding: .25em .8em; border-bottom: 1px solid #d8dee8; text-align: right; }
td:first-child, th:first-child { text-align: left; }
img { max-width: 100%; margin: .4em 0; } p { max-width: 46em; }
"""


class Image(NamedTuple):
    """The bytes of an image file, and which kind: 'png' or 'jpeg'."""

    kind: str
    data: bytes


class Section(NamedTuple):
    """
    A part of a report.

    :param title: heading.
    :param text: a paragraph under it.
    :param headings: of the table.
    :param rows: of the table, as long as headings.
    :param images: under the table.
    """

    title: str
    text: str = ''
    headings: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    images: Sequence[Image] = ()


def html(title: str, sections: Sequence[Section]) -> str:
    """Lay out a report; sections with nothing under their heading are left out."""
    full = [each for each in sections if each.text or each.rows or each.images]
    body = '\n'.join(map(_section, full))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<title>{escape(title)}</title><style>{STYLE}</style></head>\n'
        f'<body><h1>{escape(title)}</h1>\n{body}\n</body></html>\n'
    )


def photograph(picture: Array) -> Image:
    """(H, W, 3) uint8 RGB -> a JPEG of the width that reports have."""
    height = round(picture.shape[0] * PICTURE_WIDTH_PX / picture.shape[1])
    small = cv2.resize(picture, (PICTURE_WIDTH_PX, height), interpolation=cv2.INTER_AREA)
    quality = (cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY)
    data = cv2.imencode('.jpg', cv2.cvtColor(small, cv2.COLOR_RGB2BGR), quality)[1]
    return Image('jpeg', data.tobytes())


def _section(section: Section) -> str:
    parts = [f'<h2>{escape(section.title)}</h2>']
    if section.text:
        parts.append(f'<p>{escape(section.text)}</p>')
    if section.rows:
        lines = [_line(section.headings, 'th'), *(_line(row, 'td') for row in section.rows)]
        parts.append('<table>' + '\n'.join(lines) + '</table>')
    for kind, data in section.images:
        coded = base64.b64encode(data).decode()
        parts.append(f'<img alt="" src="data:image/{kind};base64,{coded}">')
    return '\n'.join(parts)


def _line(cells: Sequence[str], tag: str) -> str:
    return '<tr>' + ''.join(f'<{tag}>{escape(each)}</{tag}>' for each in cells) + '</tr>'
