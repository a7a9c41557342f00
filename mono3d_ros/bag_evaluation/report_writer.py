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

from mono3d_ros.bag_evaluation import label_score, pictures, results
from mono3d_ros.bag_evaluation.replay import ReplayResult
from stl_core.evaluation import report
from stl_core.types import Array
from stl_core.visualization import charts

LIDAR_CHART, LATENCY_CHART = 'charts/lidar.png', 'charts/latency.png'


def write_report(
    folder: Path, title: str, metadata: Mapping[str, Any], result: ReplayResult
) -> label_score.BoxScore | None:
    """
    Write figures, charts, pictures and report.

    :param folder: must be there.
    :param title: of the report.
    :param metadata: what was examined, by what: goes into figures.json as it is.
    :param result: what came out.
    :return: how right it was; None without labels.
    """
    judged, examined = (
        results.score_against_labels(result.drive_results),
        results.analyse_detections(result.drive_results),
    )
    figures = {**metadata, **results.to_json_dict(result.drive_results, judged)}
    _write_json(folder / 'figures.json', figures)
    _write_json(folder / 'timing.json', summarize_timing(result.timings_ms))
    for name, picture in result.pictures.items():
        pictures.write_picture(folder / f'pictures/{name}.png', picture)
    if examined is not None:
        report.write_report(examined, folder / 'labels')
    _draw_charts(folder, result)
    sections = [
        _counts_section(metadata, figures),
        _labels_section(judged, folder),
        _lidar_section(figures['lidar'], folder),
        _latency_section(result.timings_ms, folder),
        ReportSection('Pictures', images=[*map(to_jpeg, result.pictures.values())]),
    ]
    (folder / 'report.html').write_text(render_html(title, sections))
    return judged


def summarize_timing(timings_ms: Mapping[str, Sequence[float]]) -> dict[str, Any]:
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


def _draw_charts(folder: Path, result: ReplayResult) -> None:
    errors = results.lidar_errors(result.drive_results)
    if np.isfinite(errors).any():
        known, title = errors[np.isfinite(errors)].tolist(), 'depth of boxes less that of the scan'
        charts.plot_histogram(known, 'm', title, folder / LIDAR_CHART)
    total_ms = result.timings_ms['total']
    charts.plot_histogram(total_ms, 'ms', 'image message to answer', folder / LATENCY_CHART)


def _write_json(path: Path, figures: Mapping[str, Any]) -> None:
    """Write figures; NaN is no JSON and would be a fault."""
    path.write_text(json.dumps(figures, indent=1, allow_nan=False) + '\n')


def _percentiles(values: Sequence[float]) -> list[float]:
    return [round(float(each), 3) for each in np.percentile(values, [50, 95])]


def _counts_section(metadata: Mapping[str, Any], figures: Mapping[str, Any]) -> ReportSection:
    rows = [(key, str(value)) for key, value in metadata.items()]
    rows += [(f'images of {name}', str(count)) for name, count in figures['frames'].items()]
    rows += [(f'left out: {why}', str(count)) for why, count in figures['skipped'].items()]
    rows += [(f'boxes: {name}', str(count)) for name, count in figures['boxes'].items()]
    return ReportSection('What was examined', headings=('', ''), rows=rows)


def _labels_section(box_score: label_score.BoxScore | None, folder: Path) -> ReportSection:
    title = 'Against the labels'
    if box_score is None:
        return ReportSection(title, 'There are no labels.')
    drawn = [_read_png(path) for path in sorted((folder / 'labels').glob('*.png'))]
    text = (
        'AP as the KITTI benchmark measures it, of everything that was found; matches and depth '
        'errors of the boxes that are sent.'
    )
    return ReportSection(title, text, label_score.TABLE_HEADINGS, box_score.table_rows(), drawn)


def _lidar_section(lidar_figures: Mapping[str, Any], folder: Path) -> ReportSection:
    title, chart = 'Against the scans, without labels', folder / LIDAR_CHART
    if not chart.is_file():
        text = (
            'No box was checked: that takes a scan near in time, a transform from it to the '
            'camera and enough points.'
        )
        return ReportSection(title, text)
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
    for name, ranges in lidar_figures['classes'].items():
        for row in (each for each in ranges if each['boxes']):
            until = '' if row['to_m'] is None else f'{row["to_m"]:g}'
            numbers = list(row.values())[2:]
            rows.append((name, f'{row["from_m"]:g}-{until}', *map(_format_number, numbers)))
    return ReportSection(title, lidar_figures['rule'], headings, rows, [_read_png(chart)])


def _latency_section(timings_ms: Mapping[str, Sequence[float]], folder: Path) -> ReportSection:
    rows = [
        (stage, *map(_format_number, _percentiles(each))) for stage, each in timings_ms.items()
    ]
    chart = [_read_png(folder / LATENCY_CHART)]
    text = 'Of images of one moment each has its share; nothing is sent over a network.'
    return ReportSection('Time', text, ('stage (ms)', 'median', 'p95'), rows, chart)


def _read_png(path: Path) -> ReportImage:
    return ReportImage('png', path.read_bytes())


def _format_number(number: float | None) -> str:
    return '-' if number is None else f'{number:.4g}'


#: Of photographs in a report: wide enough to read labels, small enough to mail.
PHOTO_WIDTH_PX, JPEG_QUALITY = 1000, 75

CSS = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 1040px;
       padding: 0 1em; color: #1c2430; }
h1 { font-size: 1.5em; } h2 { font-size: 1.15em; margin-top: 2em; }
table { border-collapse: collapse; margin: .5em 0; }
td, th { padding: .25em .8em; border-bottom: 1px solid #d8dee8; text-align: right; }
td:first-child, th:first-child { text-align: left; }
img { max-width: 100%; margin: .4em 0; } p { max-width: 46em; }
"""


class ReportImage(NamedTuple):
    """The bytes of an image file, and which kind: 'png' or 'jpeg'."""

    kind: str
    data: bytes


class ReportSection(NamedTuple):
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
    images: Sequence[ReportImage] = ()


def render_html(title: str, sections: Sequence[ReportSection]) -> str:
    """Lay out a report; sections with nothing under their heading are left out."""
    full = [each for each in sections if each.text or each.rows or each.images]
    body = '\n'.join(map(_render_section, full))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<title>{escape(title)}</title><style>{CSS}</style></head>\n'
        f'<body><h1>{escape(title)}</h1>\n{body}\n</body></html>\n'
    )


def to_jpeg(picture: Array) -> ReportImage:
    """(H, W, 3) uint8 RGB -> a JPEG of the width that reports have."""
    height = round(picture.shape[0] * PHOTO_WIDTH_PX / picture.shape[1])
    small = cv2.resize(picture, (PHOTO_WIDTH_PX, height), interpolation=cv2.INTER_AREA)
    quality = (cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY)
    data = cv2.imencode('.jpg', cv2.cvtColor(small, cv2.COLOR_RGB2BGR), quality)[1]
    return ReportImage('jpeg', data.tobytes())


def _render_section(section: ReportSection) -> str:
    parts = [f'<h2>{escape(section.title)}</h2>']
    if section.text:
        parts.append(f'<p>{escape(section.text)}</p>')
    if section.rows:
        lines = [
            _render_row(section.headings, 'th'),
            *(_render_row(row, 'td') for row in section.rows),
        ]
        parts.append('<table>' + '\n'.join(lines) + '</table>')
    for kind, data in section.images:
        coded = base64.b64encode(data).decode()
        parts.append(f'<img alt="" src="data:image/{kind};base64,{coded}">')
    return '\n'.join(parts)


def _render_row(cells: Sequence[str], tag: str) -> str:
    return '<tr>' + ''.join(f'<{tag}>{escape(each)}</{tag}>' for each in cells) + '</tr>'
