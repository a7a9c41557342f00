"""
Ablation study: train a grid of methods and seeds under one schedule.

A study names a plan of stages and one stage of it. Its runs differ from that stage only in the
overrides of their method and in the seed, see study_plan. With seeds, earlier stages such as the
teacher are trained once; with replicates, once in each. Every finished run is appended to a table
as one row, so that a stopped study can be resumed; runs that are in the table are not repeated.
Earlier stages must reproduce their figures in the table, since runs with different teachers cannot
be compared; a replicate is therefore run whole on one machine.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stl_core.evaluation.metric import MetricResults
from stl_core.experiments import run_facts, study_plan, study_splits, study_table, study_tuning
from stl_core.experiments.run_queue import train_runs
from stl_core.experiments.study_config import StudyConfig
from stl_core.experiments.study_plan import Block, StudyRun
from stl_core.inference.model_file import ModelFileError
from stl_core.training import checkpoint, resolved_config
from stl_core.training.config import TrainConfig
from stl_core.training.config_builder import ConfigError

log = logging.getLogger(__name__)


def run_study(study: StudyConfig, num_jobs: int = 1) -> Path:
    """
    Train the runs that are not in the table yet: those of tuning first, if there are any.

    :param study: configuration of the study.
    :param num_jobs: parallel runs, which share the processors. This speeds up small networks on
        few processors: one thread per run wastes less time than threads that wait for each other.
    :return: path of the table.
    :raises ConfigError: if the table has a run of that name with another configuration, or the
        figures of another class or of another teacher, if another study is writing it, if splits
        have common frames, if methods have unequal numbers of tuning rows, or for num_jobs below
        1.
    """
    if num_jobs < 1:
        raise ConfigError(f'jobs: expected at least 1 run at a time, got {num_jobs}')
    table = Path(study.table)
    tuning, judged = study_plan.plan_tuning(study), study_plan.plan_blocks(study)
    with study_table.table_lock(table):
        rows = study_table.read_table(table)
        study_table.check_evaluated_class(table, rows, study.judged)
        study_table.check_splits(table, rows, bool(study.judge))
        if not all(_is_complete(table, block) for block in [*tuning, *judged]):
            runs = [run for block in [*tuning, *judged] for run in (*block.stages, *block.runs)]
            study_splits.check_disjoint_splits(study, runs)
        for block in tuning:
            _run_block(study, block, num_jobs)
        for block in _chosen_blocks(study, table):
            _run_block(study, block, num_jobs)
        rows = study_table.read_table(table)
        completed = run_facts.complete_rows(rows, [*tuning, *judged])
        if completed != rows:
            study_table.write_table(table, completed)
    return table


def read_completed_rows(study: StudyConfig) -> list[study_table.Row]:
    """Return the rows of a study's table; those of older versions, too, say what a run reads."""
    rows = study_table.read_table(Path(study.table))
    planned = [*study_plan.plan_tuning(study), *study_plan.plan_blocks(study)] if rows else []
    return run_facts.complete_rows(rows, planned)


def chosen_candidates(study: StudyConfig, rows: Sequence[study_table.Row]) -> dict[str, str]:
    """Return {method: label of its best candidate} of the tuning rows in a table."""
    return study_tuning.choose_candidates(rows, study_plan.candidate_labels(study))


def _chosen_blocks(study: StudyConfig, table: Path) -> list[Block]:
    """Plan the judged runs with the candidates that tuning chose; refuse unequal budgets."""
    rows, labels = study_table.read_table(table), study_plan.candidate_labels(study)
    if study.judge:
        study_tuning.check_equal_budgets(table, rows, labels)
    chosen = study_tuning.choose_candidates(rows, labels)
    for name, label in chosen.items():
        log.info('%s: tuning chose %s', name, label)
    return study_plan.plan_blocks(study, chosen)


def _is_complete(table: Path, block: Block) -> bool:
    """Return whether a table has all runs of a block."""
    keys = {_run_key(study_run) for study_run in (*block.stages, *block.runs)}
    return keys <= {row[:2] for row in study_table.read_table(table)}


def _run_block(study: StudyConfig, block: Block, num_jobs: int) -> None:
    """Train the stages and runs of a block that the table lacks."""
    table = Path(study.table)
    if _is_complete(table, block):
        _check_complete_block(table, [*block.stages, *block.runs])
        return
    # without replicates one stage at a time, as ever, with all threads: their number changes
    # figures in the last digits, and stages must reproduce those of older tables
    stage_jobs = num_jobs if study.replicates else 1
    for wave in study_plan.waves(block.stages):
        _run_stages(study, wave, block.stages, stage_jobs)
    pending = [each for each in map(_with_file_digests, block.runs) if not _find_row(table, each)]
    with contextlib.closing(train_runs(pending, num_jobs)) as results:
        for study_run, run_results in results:
            study_table.append_row(table, _make_row(study, study_run, run_results, block.stages))


def config_digest(config: TrainConfig) -> str:
    """
    Return a 12-character hash of a run's configuration, including the teacher.

    The hash leaves out the run's folder, and values that are None or '', so that a table stays
    valid when such options are added. It does not cover the code: remove the rows of a loss after
    changing it.
    """
    flat = checkpoint.flatten_config(_without_empty(dataclasses.asdict(config)))
    compared = {key: value for key, value in flat.items() if key not in checkpoint.NOT_COMPARED}
    return hashlib.sha256(json.dumps(compared, sort_keys=True).encode()).hexdigest()[:12]


def _without_empty(value: Any) -> Any:
    """Return plain data without the entries of dictionaries that are None or ''."""
    if isinstance(value, dict):
        return {key: _without_empty(each) for key, each in value.items() if each not in (None, '')}
    return [_without_empty(each) for each in value] if isinstance(value, (list, tuple)) else value


def _check_complete_block(table: Path, study_runs: list[StudyRun]) -> None:
    """Compare a complete table with its runs, as far as the files that they start from exist."""
    try:
        for study_run in study_runs:
            _find_row(table, _with_file_digests(study_run))
    except ModelFileError as err:
        log.info('%s has every run; files that they were made from are missing: %s', table, err)


def _run_stages(
    study: StudyConfig, wave: Sequence[StudyRun], earlier: Sequence[StudyRun], num_jobs: int
) -> None:
    """Train stages and append their rows, or check that they reproduce their rows."""
    table, resolved_runs = Path(study.table), []
    for study_run in wave:
        resolved = resolved_config.resolve_config(study_run.config)
        study_run = study_run._replace(config=resolved.config)
        if _find_row(table, study_run) and not checkpoint.is_done(resolved):
            log.info(
                '%s has %s, but %s does not: training it again; it must reproduce the same'
                ' figures',
                *(table, study_run.method, study_run.config.out),
            )
        resolved_runs.append(study_run)
    with contextlib.closing(train_runs(resolved_runs, num_jobs)) as results:
        for study_run, run_results in results:
            row = _find_row(table, study_run)
            new_row = _make_row(study, study_run, run_results, earlier)
            if row is None:
                study_table.append_row(table, new_row)
            elif not run_facts.has_same_figures(row, new_row):
                raise _other_stage_error(table, study_run)


def _with_file_digests(study_run: StudyRun) -> StudyRun:
    return study_run._replace(config=resolved_config.with_file_digests(study_run.config))


def _run_key(study_run: StudyRun) -> tuple[str, int]:
    return study_run.method, study_run.config.seed


def _find_row(table: Path, study_run: StudyRun) -> study_table.Row | None:
    """Return the row of a run, or None; ConfigError if its configuration was another."""
    for row in study_table.read_table(table):
        if row[:2] == _run_key(study_run):
            if row.config == config_digest(study_run.config):
                return row
            if study_run.method.endswith(study_table.STAGE_SUFFIX):
                raise _other_stage_error(table, study_run)
            raise ConfigError(
                f'{table}: {row.method}, seed {row.seed}, was run with another configuration,'
                ' teacher or start; choose another table= and out=, or remove the row'
            )
    return None


def _other_stage_error(table: Path, study_run: StudyRun) -> ConfigError:
    stage = study_run.method.removesuffix(study_table.STAGE_SUFFIX)
    return ConfigError(
        f'{table}: {study_run.method}, seed {study_run.config.seed}: the table was made with'
        f' another {stage} than {study_run.config.out}; choose another table= and out=, or remove'
        ' the row and those of the runs that build on it'
    )


def _make_row(
    study: StudyConfig,
    study_run: StudyRun,
    results: MetricResults | None,
    earlier: Sequence[StudyRun],
) -> study_table.Row:
    """Build the row of a finished run; a study runs in one process, so that it has results."""
    assert results is not None
    config = study_run.config
    return study_table.Row(
        *_run_key(study_run),
        config.epochs,
        config_digest(config),
        run_facts.figures_of(results, study.judged) | run_facts.gate_columns(config.out),
        study.judged,
        study_run.split,
        run_facts.reads_of(config.input),
        run_facts.teacher_of(config, earlier),
    )
