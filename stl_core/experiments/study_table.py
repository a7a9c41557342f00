"""Result table of a study: a CSV row per finished run; groups and paired differences of rows."""

from __future__ import annotations

import contextlib
import csv
import io
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from stl_core.files import write_atomically
from stl_core.training.config_builder import ConfigError
from stl_core.types import Array

try:
    import fcntl
except ImportError:  # Windows has none; there, no lock prevents a second writer
    fcntl = None  # type: ignore[assignment]

#: Metric whose differences from the first method are listed, too.
COMPARED_METRIC = '3d/loose/moderate'
#: Suffix of the row names of earlier stages, such as the teacher.
STAGE_SUFFIX = ' (stage)'
#: Between the names of a method and of its candidate in the row of a tuning run: 'DK3D @ 0.5'.
CANDIDATE_MARK = ' @ '
#: Splits by which a run is evaluated: tuning runs by the first, all others by the second.
CHOOSE, JUDGE = 'choose', 'judge'
#: Beginning of the columns of AP with other given depth: 'given/absent/3d/loose/moderate'.
GIVEN_PREFIX = 'given/'
#: Beginning of the columns of a loss's gate: 'gate/feature/mean'.
GATE_PREFIX = 'gate/'
#: Metrics that a table holds for other given depth.
GIVEN_METRICS = ('3d/strict/moderate', COMPARED_METRIC)
_COLUMNS = ('method', 'seed', 'epochs', 'config', 'judged')
#: Columns of texts that a table has only if one of its rows has such a text.
_TEXT_COLUMNS = ('split', 'reads', 'teacher')


class Row(NamedTuple):
    """
    Row of one finished run.

    :param method: name of the method.
    :param seed: seed of the run; in a study of replicates, the replicate.
    :param epochs: number of training epochs before the evaluation.
    :param config: digest of the configuration, see study.config_digest.
    :param metrics: AP40, percent: {'3d/strict/moderate': ...}; strict is IoU 0.7 for cars. Columns
        of other metrics are 'NAME/COLUMN'; runs that did not compute them have none. Those of a
        privileged network with other given depth begin with GIVEN_PREFIX, those of gates, which
        are no AP, with GATE_PREFIX.
    :param judged: class that was evaluated.
    :param split: CHOOSE or JUDGE; '' in a study without splits.
    :param reads: what the network reads besides the image, see run_facts.reads_of; '' for the
        image alone, and in tables of older versions.
    :param teacher: name of the teacher, and what that reads, see run_facts.teacher_of; '' without
        a teacher, and in tables of older versions.
    """

    method: str
    seed: int
    epochs: int
    config: str
    metrics: dict[str, float]
    judged: str = 'Car'
    split: str = ''
    reads: str = ''
    teacher: str = ''


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
                if name not in (*_COLUMNS, *_TEXT_COLUMNS) and value != ''
            }
            if not all(map(math.isfinite, figures.values())):
                raise ValueError('figures that are not finite')
            # tables of older versions hold cars and lack the columns of class and of texts
            fields = int(record['seed']), int(record['epochs']), record['config'], figures
            texts = (record.get(name, '') for name in _TEXT_COLUMNS)
            row = Row(record['method'], *fields, record.get('judged', 'Car'), *texts)
            if row.split not in ('', CHOOSE, JUDGE):
                raise ValueError(f'split {row.split!r}')
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
    write_table(path, [*rows, row])


def write_table(path: Path, rows: Sequence[Row]) -> None:
    """Write all rows of a table; a crash leaves the old or the new file."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator='\n')
    names = dict.fromkeys(name for each in rows for name in each.metrics)
    # without such texts, tables stay as they were
    titles = [name for name in _TEXT_COLUMNS if any(getattr(each, name) for each in rows)]
    writer.writerow([*_COLUMNS, *titles, *names])
    for each in rows:
        figures = [f'{each.metrics[name]:.4f}' if name in each.metrics else '' for name in names]
        texts = [getattr(each, name) for name in titles]
        writer.writerow([*each[:4], each.judged, *texts, *figures])
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


def check_splits(path: Path, rows: Sequence[Row], has_splits: bool) -> None:
    """Raise ConfigError if the table has rows of a study with splits, and this has none, or so."""
    for row in rows:
        if bool(row.split) != has_splits:
            where = f'on the split {row.split!r}' if row.split else 'without a split'
            expected = 'choose and judge' if has_splits else 'no splits'
            raise ConfigError(
                f'{path}: {row.method}, seed {row.seed}, was evaluated {where}, but the study has'
                f' {expected}; choose another table='
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


def judged_rows(rows: Sequence[Row]) -> list[Row]:
    """Return the rows that a study compares: all but those on the choose split."""
    return [row for row in rows if row.split != CHOOSE]


def tuning_rows(rows: Sequence[Row], method: str) -> dict[str, list[Row]]:
    """Return the tuning rows of a method by the label of their candidate, in the table's order."""
    start = method + CANDIDATE_MARK
    found = [row for row in rows if row.split == CHOOSE and row.method.startswith(start)]
    return {name.removeprefix(start): each for name, each in group_by_method(found).items()}


def group_by_method(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Group rows by method, in the order in which methods appear."""
    names = dict.fromkeys(row.method for row in rows)
    return {name: [row for row in rows if row.method == name] for name in names}


def group_without_stages(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Group rows by method, without the rows of stages."""
    return group_by_method([row for row in rows if not row.method.endswith(STAGE_SUFFIX)])


def paired_differences(rows: Sequence[Row], baseline: str = '') -> dict[str, Array]:
    """
    Compute every method's figures minus those of one method, seed by seed.

    Runs of one seed use the frames in the same order and have the same earlier stages; the
    difference removes effects that two runs have in common.

    :param rows: rows of a study, its first method before the others.
    :param baseline: method that is subtracted; '' is the first one.
    :return: for every other method, without stages, (S,) percent of COMPARED_METRIC, one per
        common seed, ascending as the rows are; methods without a common seed are left out.
    """
    groups = group_without_stages(rows)
    baseline = baseline or next(iter(groups), '')
    pairs = {name: paired_values(groups, name, baseline) for name in groups if name != baseline}
    return {name: one - other for name, (one, other) in pairs.items() if len(one)}


def common_seeds(groups: Mapping[str, Sequence[Row]], *names: str) -> list[int]:
    """Return the seeds that all of some methods have, in the order of the first one's rows."""
    others = [{row.seed for row in groups.get(name, ())} for name in names[1:]]
    seeds = [row.seed for row in groups.get(names[0], ())]
    return [seed for seed in seeds if all(seed in each for each in others)]


def paired_values(groups: Mapping[str, Sequence[Row]], *names: str) -> Array:
    """
    Return COMPARED_METRIC of some methods for their common seeds.

    :param groups: {method: its rows}.
    :param names: K methods.
    :return: (K, S) percent, in the order of common_seeds; a method without rows leaves no seed.
    """
    seeds = common_seeds(groups, *names)
    by_seed = [
        {row.seed: row.metrics[COMPARED_METRIC] for row in groups.get(name, ())} for name in names
    ]
    return np.array([[each[seed] for seed in seeds] for each in by_seed])


def metric_values(group: Sequence[Row], key: str) -> Array:
    """Return a metric of each row, (R,)."""
    return np.array([row.metrics[key] for row in group])


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
