"""
What a study's table says of a run besides its AP: what the network reads, and its teacher.

A privileged teacher reads labels, or a scan in the labels' boxes, also when it is evaluated: its
AP is no result of a camera. A student of such a teacher reads the image alone when it runs; its
row names the teacher.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePath

import numpy as np

from stl_core.data.given_depth import COMPLETE, PRIVILEGE
from stl_core.evaluation import metrics
from stl_core.evaluation.metric import PUBLISHED, MetricResults
from stl_core.experiments.study_plan import Block, StudyRun
from stl_core.experiments.study_table import (
    GATE_PREFIX,
    GIVEN_METRICS,
    GIVEN_PREFIX,
    STAGE_SUFFIX,
    Row,
)
from stl_core.inference import model_file
from stl_core.inference.model_file import ModelFileError
from stl_core.preprocessing import InputSpec
from stl_core.training.config import TrainConfig
from stl_core.training.run.run_files import CheckpointError, read_json_object

#: What a table says of a network whose input is a depth map.
READS_DEPTH = 'sees a depth map in place of the image'
#: Beginnings of columns that tables of older versions lack.
_ADDED_PREFIXES = (f'{PUBLISHED}/', GIVEN_PREFIX, GATE_PREFIX)
#: Columns of curves.csv of the gate of a loss, and their names in a table.
_GATE_COLUMN = re.compile(r'metric/distill/(\w+)/gate_(\w+)')


def reads_of(spec: InputSpec) -> str:
    """Return what a network of this input reads when it runs; '' for the image alone."""
    if spec.given_depth:
        return PRIVILEGE[spec.given_depth]
    return READS_DEPTH if spec.depth is not None else ''


def teacher_of(config: TrainConfig, stages: Iterable[StudyRun]) -> str:
    """
    Return the name of a run's teacher, and what that teacher reads.

    :param config: configuration of the run.
    :param stages: the stages that the run builds on; the teacher of another folder is named by its
        path.
    :return: such as "teacher: reads a scan in the labels' 2D boxes"; '' without a teacher.
    """
    if config.distill is None or not config.distill.teacher:
        return ''
    path = PurePath(config.distill.teacher)
    inside = [each for each in stages if PurePath(each.config.out) in (path, *path.parents)]
    if inside:
        stage = max(inside, key=lambda each: len(PurePath(each.config.out).parts))
        name, reads = stage.method.removesuffix(STAGE_SUFFIX), reads_of(stage.config.input)
    else:
        name = str(path)
        try:
            reads = reads_of(model_file.read_model_spec(Path(path)).input)
        except ModelFileError:
            reads = ''  # a row names its teacher, also after its file is gone
    return f'{name}: {reads}' if reads else name


def given_columns(results: MetricResults, class_name: str) -> dict[str, float]:
    """
    Return the AP of a privileged network without given depth and with that of other frames.

    :param results: results of the run; its AP with complete given depth has the usual columns.
    :param class_name: class of the table.
    :return: {'given/absent/3d/loose/moderate': percent, ...}; {} for other networks.
    """
    if results.given is None:
        return {}
    return {
        f'{GIVEN_PREFIX}{given}/{key}': ap.class_columns(class_name)[key]
        for given, ap in results.given.by_given.items()
        if given != COMPLETE
        for key in GIVEN_METRICS
    }


def gate_columns(out: str | Path) -> dict[str, float]:
    """
    Return mean, deviation and rank correlation with distance of the gates of a finished run.

    :param out: folder of the run.
    :return: {'gate/feature/mean': mean over the epochs of its curves.csv, ...}; {} for a run
        without curves or gates.
    """
    path = Path(out) / 'curves.csv'
    if not path.exists():
        return {}
    with path.open(newline='') as file:
        records = list(csv.DictReader(file))
    found = {}
    for name in records[0] if records else ():
        match = _GATE_COLUMN.fullmatch(name)
        values = [float(each[name] or 'nan') for each in records] if match else []
        if match and all(map(math.isfinite, values)):
            found[f'{GATE_PREFIX}{match[1]}/{match[2]}'] = float(np.mean(values))
    return found


def has_same_figures(row: Row, other: Row) -> bool:
    """
    Return whether a new row has the figures of a row of the table, to the table's decimals.

    Tables of older versions lack the columns of _ADDED_PREFIXES.
    """
    new = dict(other.metrics)
    for prefix in _ADDED_PREFIXES:
        if not any(name.startswith(prefix) for name in row.metrics):
            new = {name: value for name, value in new.items() if not name.startswith(prefix)}
    if row.metrics.keys() != new.keys():
        return False
    return not any(abs(row.metrics[name] - new[name]) > 1e-4 for name in row.metrics)


def complete_rows(rows: Sequence[Row], blocks: Iterable[Block]) -> list[Row]:
    """
    Add what older versions did not write to the rows of a table.

    What a run reads and its teacher follow from its configuration; AP with other given depth is
    read from the run's folder, if that still holds the figures of the row.

    :param rows: rows of the table.
    :param blocks: the planned runs.
    :return: the rows, in the same order; those of runs that are not planned stay as they are.
    """
    planned = {
        (run.method, run.config.seed): (run, block)
        for block in blocks
        for run in (*block.stages, *block.runs)
    }
    completed = []
    for row in rows:
        run, block = planned.get(row[:2], (None, None))
        if run is not None and block is not None:
            row = row._replace(
                reads=row.reads or reads_of(run.config.input),
                teacher=row.teacher or teacher_of(run.config, block.stages),
            )
            row = _with_given_figures(row, run.config)
        completed.append(row)
    return completed


def _with_given_figures(row: Row, config: TrainConfig) -> Row:
    """Add AP with other given depth from the folder of a run; the row itself where that fails."""
    known = any(name.startswith(GIVEN_PREFIX) for name in row.metrics)
    path = Path(config.out) / 'metrics.json'
    if known or not config.input.given_depth or not path.exists():
        return row
    try:
        results = metrics.results_from_json(read_json_object(path))
        same = has_same_figures(row, row._replace(metrics=figures_of(results, row.judged)))
    except (CheckpointError, LookupError, TypeError, ValueError, AttributeError):
        return row  # not the folder of this row
    if not same:
        return row
    return row._replace(metrics={**row.metrics, **given_columns(results, row.judged)})


def figures_of(results: MetricResults, class_name: str) -> dict[str, float]:
    """Return all columns of a run's results in a study's table."""

    def columns(each: MetricResults) -> dict[str, float]:
        return {**each.ap.class_columns(class_name), **each.extra_columns()}

    return {
        **columns(results),
        **results.published_columns(columns),
        **given_columns(results, class_name),
    }
