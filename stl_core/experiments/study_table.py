"""Result table of a study: a CSV row per finished run; means, paired differences and chart."""

from __future__ import annotations

import contextlib
import csv
import io
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from stl_core.evaluation.ap_result import MIN_IOU, class_min_iou
from stl_core.evaluation.metric import PUBLISHED
from stl_core.files import write_atomically
from stl_core.training.config_builder import ConfigError
from stl_core.types import Array
from stl_core.visualization import charts

try:
    import fcntl
except ImportError:  # Windows has none; there, no lock prevents a second writer
    fcntl = None  # type: ignore[assignment]

#: Metrics of the Markdown table and the chart: AP40 at moderate difficulty.
DISPLAYED_METRICS = (
    '3d/strict/moderate',
    '3d/loose/moderate',
    'bev/strict/moderate',
    'bev/loose/moderate',
)
#: The same by the published protocol of the detector, for the runs that have them.
PUBLISHED_METRICS = tuple(f'{PUBLISHED}/3d/{criterion}/moderate' for criterion in MIN_IOU)
#: Metric whose differences from the first method are listed, too.
COMPARED_METRIC = '3d/loose/moderate'
#: Suffix of the row names of earlier stages, such as the teacher.
STAGE_SUFFIX = ' (stage)'
_COLUMNS = ('method', 'seed', 'epochs', 'config', 'judged')


class Row(NamedTuple):
    """
    Row of one finished run.

    :param method: name of the method.
    :param seed: seed of the run.
    :param epochs: number of training epochs before the evaluation.
    :param config: digest of the configuration, see study.config_digest.
    :param metrics: AP40, percent: {'3d/strict/moderate': ...}; strict is IoU 0.7 for cars. Columns
        of other metrics are 'NAME/COLUMN'; runs that did not compute them have none.
    :param judged: class that was evaluated.
    """

    method: str
    seed: int
    epochs: int
    config: str
    metrics: dict[str, float]
    judged: str = 'Car'


def read_table(path: Path) -> list[Row]:
    """
    Read a table; a missing file has no rows, and a last line cut by a crash is skipped.

    :raises ConfigError: for a run that is listed twice, since it would count as two seeds; or for
        a line that is not a row of a study.
    """
    if not path.exists():
        return []
    try:
        text = path.read_text()
    except (UnicodeDecodeError, IsADirectoryError) as err:
        raise ConfigError(f'{path}: not a text file; expected the table of a study') from err
    if text and not text.startswith('method,'):
        raise ConfigError(f'{path}: not the table of a study; choose another table=')
    lines = [line for line in text.splitlines(True) if line.endswith('\n')]
    rows: list[Row] = []
    for number, record in enumerate(csv.DictReader(lines), 2):
        try:
            figures = {
                name: float(value)
                for name, value in record.items()
                if name not in _COLUMNS and value != ''
            }
            if not all(map(math.isfinite, figures.values())):
                raise ValueError('figures that are not finite')
            # tables of older versions hold cars and lack the column of the class
            fields = int(record['seed']), int(record['epochs']), record['config'], figures
            row = Row(record['method'], *fields, record.get('judged', 'Car'))
        except (KeyError, TypeError, ValueError) as err:
            raise ConfigError(f'{path}:{number}: not a row of a study ({err!r})') from err
        _check_not_in_table(path, rows, row)
        rows.append(row)
    return rows


def append_row(path: Path, row: Row) -> None:
    """
    Append a row, after a header if the table is new; a crash leaves the old or the new file.

    :raises ConfigError: if the table has a row of that method and seed.
    """
    rows = read_table(path)
    _check_not_in_table(path, rows, row)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator='\n')
    names = dict.fromkeys(name for each in [*rows, row] for name in each.metrics)
    writer.writerow([*_COLUMNS, *names])
    for each in [*rows, row]:
        figures = [f'{each.metrics[name]:.4f}' if name in each.metrics else '' for name in names]
        writer.writerow([*each[:4], each.judged, *figures])
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, text.getvalue().encode())


def check_evaluated_class(path: Path, rows: Sequence[Row], class_name: str) -> None:
    """Raise ConfigError if the table holds the figures of another class."""
    for row in rows:
        if row.judged != class_name:
            raise ConfigError(
                f'judged: {class_name}, but {path} holds the figures of {row.judged};'
                ' choose another table= or judged='
            )


@contextlib.contextmanager
def table_lock(path: Path) -> Iterator[None]:
    """
    Hold the exclusive lock for writing a table; the system frees it however the process ends.

    :param path: path of the table; a lock file lies next to it during the lock or after a crash.
    :raises ConfigError: if another process holds the lock.
    """
    if fcntl is None:
        yield
        return
    lock = path.with_name(path.name + '.lock')
    lock.parent.mkdir(parents=True, exist_ok=True)
    with _acquire_lock(lock, f'{path}: another study is writing this table'):
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


def sort_rows(rows: Sequence[Row], method_names: Sequence[str]) -> list[Row]:
    """
    Sort rows in the order of a study; the table lists them in the order in which they finished.

    :param rows: rows of a table.
    :param method_names: methods of the study, in order.
    :return: the stages first, then the methods with seeds ascending, then all other methods.
    """

    def sort_key(row: Row) -> tuple[int, int]:
        if row.method.endswith(STAGE_SUFFIX):
            return -1, 0
        return method_names.index(row.method) if row.method in method_names else len(
            method_names
        ), row.seed

    return sorted(rows, key=sort_key)


def group_by_method(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Group rows by method, in the order in which methods appear."""
    names = dict.fromkeys(row.method for row in rows)
    return {name: [row for row in rows if row.method == name] for name in names}


def to_markdown(rows: Sequence[Row], class_name: str) -> str:
    """
    Format means and standard deviations over seeds, and of the differences seed by seed.

    :param rows: rows of a study, its first method before the others.
    :param class_name: class that was evaluated.
    :return: Markdown table; deviations are of the sample, so a single seed has none. The published
        protocol has columns if a run has it, empty for methods of which a run lacks it.
    """
    published = [key for key in PUBLISHED_METRICS if any(key in row.metrics for row in rows)]
    titles = [
        *(_metric_title(key, class_name) for key in DISPLAYED_METRICS),
        _difference_title(rows, class_name),
        *(_metric_title(key, class_name) for key in published),
    ]
    lines = [
        f'{class_name}, AP40, moderate, last epoch, protocol ours unless published is written;'
        ' mean ± standard deviation over seeds;'
        ' "vs": of the differences between runs of the same seed',
        '',
        f'| method | seeds | {" | ".join(titles)} |',
        f'|---|---|{"---|" * len(titles)}',
    ]
    against = paired_differences(rows)
    for name, group in group_by_method(rows).items():
        cells = [_format_mean_std(_metric_values(group, key)) for key in DISPLAYED_METRICS]
        cells.append(_format_mean_std(against[name], '+') if name in against else '')
        for key in published:
            have = [row for row in group if key in row.metrics]
            # a mean over some of the seeds would stand beside means over all of them
            whole = len(have) == len(group)
            cells.append(_format_mean_std(_metric_values(group, key)) if whole else '')
        lines.append(f'| {name} | {len(group)} | {" | ".join(cells)} |')
    return '\n'.join(lines)


def paired_differences(rows: Sequence[Row]) -> dict[str, Array]:
    """
    Compute every method's figures minus the first method's, seed by seed.

    Runs of all seeds share the earlier stages, and runs of one seed also the order of the frames;
    the difference removes effects that two runs have in common.

    :param rows: rows of a study, its first method before the others.
    :return: for every method except the first and the stages, (S,) percent of COMPARED_METRIC, one
        per common seed; methods without a common seed are left out.
    """
    base = {row.seed: row.metrics[COMPARED_METRIC] for row in _baseline_rows(rows)}
    paired = [row for row in rows if row.seed in base and row not in _baseline_rows(rows)]
    return {
        name: _metric_values(group, COMPARED_METRIC) - [base[row.seed] for row in group]
        for name, group in _group_without_stages(paired).items()
    }


def plot_study(rows: Sequence[Row], class_name: str, path: Path) -> None:
    """
    Draw every method's mean as a bar and its seeds as dots; titles name the earlier stages' AP.

    :param rows: rows of a study, its first method before the others.
    :param class_name: class that was evaluated.
    :param path: PNG to write.
    """
    groups = _group_without_stages(rows)
    stages = [row for row in rows if row.method.endswith(STAGE_SUFFIX)]
    panels = {}
    for key in DISPLAYED_METRICS:
        stage_texts = [
            f'{row.method.removesuffix(STAGE_SUFFIX)} {row.metrics[key]:.1f}' for row in stages
        ]
        title = f'{_metric_title(key, class_name)}\n{", ".join(stage_texts)}'
        panels[title] = {name: _metric_values(group, key) for name, group in groups.items()}
    panels[f'{_difference_title(rows, class_name)}\nseed by seed'] = paired_differences(rows)
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
    figure.supxlabel(f'{class_name}, AP40, moderate, protocol ours; dots are seeds', fontsize=8)
    charts.save_figure(figure, path)


def _check_not_in_table(path: Path, rows: Sequence[Row], row: Row) -> None:
    if any(row[:2] == each[:2] for each in rows):
        raise ConfigError(f'{path}: {row.method}, seed {row.seed}, is there already; remove one')


def _acquire_lock(path: Path, error_message: str) -> IO[str]:
    """Open and lock the file at `path`, not one that its previous holder has just removed."""
    while True:
        file = path.open('a')
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as err:
            file.close()
            raise ConfigError(error_message) from err
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        file.close()


def _group_without_stages(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Group rows by method, without the rows of stages."""
    return group_by_method([row for row in rows if not row.method.endswith(STAGE_SUFFIX)])


def _baseline_rows(rows: Sequence[Row]) -> list[Row]:
    """Return the rows of the first method; none if there are only stages."""
    return next(iter(_group_without_stages(rows).values()), [])


def _metric_title(key: str, class_name: str) -> str:
    """Return the title of a metric with the class's IoU: '3D at 0.7', 'published 3D at 0.7'."""
    *protocol, kind, criterion, _ = key.split('/')
    title = f'{kind.upper()} at {class_min_iou(class_name, kind, criterion):g}'
    return ' '.join([*protocol, title])


def _difference_title(rows: Sequence[Row], class_name: str) -> str:
    first = _baseline_rows(rows)
    return (
        f'{_metric_title(COMPARED_METRIC, class_name)} vs {first[0].method if first else "none"}'
    )


def _metric_values(group: Sequence[Row], key: str) -> Array:
    return np.array([row.metrics[key] for row in group])


def _format_mean_std(values: Array, sign: str = '') -> str:
    spread = f' ± {values.std(ddof=1):.2f}' if len(values) > 1 else ''
    return f'{values.mean():{sign}.2f}{spread}'
