"""
Write the report folder of evaluate_bag, for one bag or for several bags together.

figures.json   counts, AP and depth errors; deterministic
timing.json    times of the processing stages
pictures/      some images with their boxes
charts/        histograms of latency and, if boxes were checked, of LiDAR depth errors
labels/        error analysis by stl_core.evaluation.report, if there are labels
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

from mono3d_ros.bag_evaluation import label_score, lidar_check, pictures, results
from mono3d_ros.bag_evaluation.replay import ReplayResult
from stl_core.evaluation import report
from stl_core.evaluation.error_matching import ERROR_MATCHING
from stl_core.evaluation.metric import table_cells
from stl_core.types import Array
from stl_core.visualization import charts

LIDAR_CHART, LATENCY_CHART = 'charts/lidar.png', 'charts/latency.png'


def write_report(
    folder: Path,
    title: str,
    metadata: Mapping[str, Any],
    result: ReplayResult,
    metric_names: Sequence[str] = (),
) -> label_score.BoxScore | None:
    """
    Write figures.json, timing.json, charts, pictures and report.html.

    :param folder: an existing folder.
    :param title: title of the report.
    :param metadata: bags, model and options; copied to figures.json.
    :param result: results, timings and pictures.
    :param metric_names: metrics to compute next to 'kitti', keys of metrics.METRICS.
    :return: score against the labels; None without labels.
    """
    box_score, analysis = (
        results.score_against_labels(result.drive_results, metric_names),
        results.analyse_detections(result.drive_results),
    )
    figures = {**metadata, **results.to_json_dict(result.drive_results, box_score)}
    _write_json(folder / 'figures.json', figures)
    _write_json(folder / 'timing.json', summarize_timing(result.timings_ms))
    for name, picture in result.pictures.items():
        pictures.write_picture(folder / f'pictures/{name}.png', picture)
    if analysis is not None:
        report.write_report(analysis, folder / 'labels', box_score.results if box_score else None)
    _draw_charts(folder, result)
    sections = [
        _counts_section(metadata, figures),
        _labels_section(box_score, folder),
        *_metric_sections(box_score),
        _lidar_section(figures['lidar'], folder),
        _latency_section(result.timings_ms, folder),
        ReportSection('Pictures', images=[*map(to_jpeg, result.pictures.values())]),
    ]
    (folder / 'report.html').write_text(render_html(title, sections))
    return box_score


def summarize_timing(timings_ms: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """Compute median and 95th percentile of each stage (ms), and images per second."""
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
    errors_m = results.lidar_errors(result.drive_results)
    if np.isfinite(errors_m).any():
        checked_m, title = errors_m[np.isfinite(errors_m)].tolist(), 'box depth minus scan depth'
        charts.plot_histogram(checked_m, 'm', title, folder / LIDAR_CHART)
    total_ms = result.timings_ms['total']
    charts.plot_histogram(total_ms, 'ms', 'image message to detections', folder / LATENCY_CHART)


def _write_json(path: Path, figures: Mapping[str, Any]) -> None:
    """Write figures as JSON; ValueError for NaN, which JSON does not have."""
    path.write_text(json.dumps(figures, indent=1, allow_nan=False) + '\n')


def _percentiles(values: Sequence[float]) -> list[float]:
    return [round(float(each), 3) for each in np.percentile(values, [50, 95])]


def _counts_section(metadata: Mapping[str, Any], figures: Mapping[str, Any]) -> ReportSection:
    rows = [(key, str(value)) for key, value in metadata.items()]
    rows += [(f'images of {name}', str(count)) for name, count in figures['frames'].items()]
    rows += [(f'omitted: {reason}', str(count)) for reason, count in figures['skipped'].items()]
    rows += [(f'boxes: {name}', str(count)) for name, count in figures['boxes'].items()]
    return ReportSection('Evaluated data', headings=('', ''), rows=rows)


def _labels_section(box_score: label_score.BoxScore | None, folder: Path) -> ReportSection:
    title = 'Detections against labels'
    if box_score is None:
        return ReportSection(title, 'There are no labels.')
    images = [_read_png(path) for path in sorted((folder / 'labels').glob('*.png'))]
    text = (
        'AP of all detections (protocol ours), computed as in the KITTI benchmark; matches and'
        f' depth errors of the published boxes, matched by {ERROR_MATCHING.description}. '
    ) + '. '.join(box_score.notes())
    return ReportSection(title, text, label_score.TABLE_HEADINGS, box_score.table_rows(), images)


def _metric_sections(box_score: label_score.BoxScore | None) -> list[ReportSection]:
    """Return a section with the table of each metric other than 'kitti'."""
    if box_score is None:
        return []
    extra = box_score.results.extra
    tables = {name: table_cells(each.rows()) for name, each in extra.items()}
    return [
        ReportSection(f'Metric {name}', headings=headings, rows=rows)
        for name, (headings, rows) in tables.items()
    ]


def _lidar_section(lidar_figures: Mapping[str, Any], folder: Path) -> ReportSection:
    title, chart = 'Boxes against LiDAR scans, without labels', folder / LIDAR_CHART
    if not chart.is_file():
        text = (
            'No box was checked: a check needs a scan near in time, a transform from the scan to '
            'the camera and enough points.'
        )
        return ReportSection(title, text)
    headings = ('class', 'distance (m)', *lidar_check.STATISTICS_HEADINGS)
    rows = []
    for name, ranges in lidar_figures['classes'].items():
        for row in (each for each in ranges if each['boxes']):
            to_m = '' if row['to_m'] is None else f'{row["to_m"]:g}'
            numbers = list(row.values())[2:]
            rows.append((name, f'{row["from_m"]:g}-{to_m}', *map(_format_number, numbers)))
    return ReportSection(title, lidar_figures['rule'], headings, rows, [_read_png(chart)])


def _latency_section(timings_ms: Mapping[str, Sequence[float]], folder: Path) -> ReportSection:
    rows = [
        (stage, *map(_format_number, _percentiles(each))) for stage, each in timings_ms.items()
    ]
    chart = [_read_png(folder / LATENCY_CHART)]
    text = 'Time per image; a batch counts evenly for its images. No network transport.'
    return ReportSection('Latency', text, ('stage (ms)', 'median', 'p95'), rows, chart)


def _read_png(path: Path) -> ReportImage:
    return ReportImage('png', path.read_bytes())


def _format_number(number: float | None) -> str:
    return '-' if number is None else f'{number:.4g}'


#: Photographs in a report: wide enough to read labels, small enough to mail.
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
    """The bytes of an image file and its format, 'png' or 'jpeg'."""

    kind: str
    data: bytes


class ReportSection(NamedTuple):
    """
    A section of a report.

    :param title: heading.
    :param text: a paragraph under the heading.
    :param headings: headings of the table.
    :param rows: rows of the table, with as many cells as headings.
    :param images: images under the table.
    """

    title: str
    text: str = ''
    headings: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    images: Sequence[ReportImage] = ()


def render_html(title: str, sections: Sequence[ReportSection]) -> str:
    """Return a report as one HTML file; sections without content are omitted."""
    non_empty = [each for each in sections if each.text or each.rows or each.images]
    body = '\n'.join(map(_render_section, non_empty))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<title>{escape(title)}</title><style>{CSS}</style></head>\n'
        f'<body><h1>{escape(title)}</h1>\n{body}\n</body></html>\n'
    )


def to_jpeg(picture: Array) -> ReportImage:
    """Encode (H, W, 3) uint8 RGB as a JPEG of PHOTO_WIDTH_PX, keeping the aspect ratio."""
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
        encoded = base64.b64encode(data).decode()
        parts.append(f'<img alt="" src="data:image/{kind};base64,{encoded}">')
    return '\n'.join(parts)


def _render_row(cells: Sequence[str], tag: str) -> str:
    return '<tr>' + ''.join(f'<{tag}>{escape(each)}</{tag}>' for each in cells) + '</tr>'
