"""
Ablation study: train a grid of methods and seeds under one schedule.

A study names a plan of stages and one stage of it. Its runs differ from that stage only in the
overrides of their method and in the seed. Earlier stages, such as the teacher, are trained once.
Every finished run is appended to a table as one row, so that a stopped study can be resumed; runs
that are in the table are not repeated. Earlier stages must reproduce their figures in the table,
since runs with different teachers cannot be compared.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple

from stl_core.data.worker_pool import available_cpus, map_as_completed, with_progress
from stl_core.evaluation.ap_result import CLASSES
from stl_core.evaluation.metric import PUBLISHED, MetricResults
from stl_core.experiments import study_table
from stl_core.inference.model_file import ModelFileError
from stl_core.training import checkpoint, resolved_config, stages
from stl_core.training.config import TrainConfig, build_train_config
from stl_core.training.config_builder import ConfigError, build_typed, read_yaml

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StudyConfig:
    """
    Configuration of a study.

    :param plan: YAML file with stages.
    :param stage: stage that the methods vary; its distillation losses and their weights are left
        out, since every method names its own.
    :param methods: {name: overrides of a TrainConfig}, in the order of the table.
    :param seeds: seeds; every method is run with each.
    :param out: folder of the runs.
    :param table: CSV file of the finished runs; the chart is written next to it.
    :param judged: class of KITTI's evaluation whose figures the table holds.
    :param overrides: what the study changes in its plan, 'stages.teacher.epochs=24'.
    """

    plan: str
    stage: str
    methods: dict[str, Any]
    seeds: tuple[int, ...] = (1, 2, 3)
    out: str = 'runs/study'
    table: str = 'runs/study/table.csv'
    judged: str = 'Car'
    overrides: tuple[str, ...] = ()


class StudyRun(NamedTuple):
    """One run of a study: name of its method, and its configuration."""

    method: str
    config: TrainConfig


def load_study(path: str | Path, overrides: tuple[str, ...] = ()) -> StudyConfig:
    """Read a study; ConfigError names the file and the key that is wrong."""
    try:
        config: StudyConfig = build_typed(StudyConfig, read_yaml(path, overrides))
        if not config.methods or not config.seeds:
            raise ConfigError('methods, seeds: expected at least one of each')
        if len(set(config.seeds)) < len(config.seeds):
            raise ConfigError(f'seeds: expected each once, got {list(config.seeds)}')
        if config.judged not in CLASSES:
            known = ', '.join(CLASSES)
            raise ConfigError(f'judged: {config.judged!r} is unknown; known: {known}')
        return config
    except ConfigError as err:
        raise ConfigError(f'{path}: {err}') from err


def plan_runs(study: StudyConfig) -> tuple[list[StudyRun], list[StudyRun]]:
    """
    List the runs of a study.

    :param study: configuration of the study.
    :return: the earlier stages in the plan's order, and the runs of every method and seed; seeds
        are the outer loop, so that a stopped study has compared all methods with some seeds.
    :raises ConfigError: for an unknown stage, or a method whose overrides are invalid.
    """
    data = read_yaml(study.plan, study.overrides)
    built = stages.build_stages(data)
    if study.stage not in built:
        raise ConfigError(f'stage: {study.plan} has {", ".join(built)}, but no {study.stage!r}')
    earlier = list(built)[: list(built).index(study.stage)]
    before = [StudyRun(name + study_table.STAGE_SUFFIX, built[name]) for name in earlier]
    common = {key: value for key, value in data.items() if key != 'stages'}
    shared = _without_distill_losses(
        stages.merge_configs(common, data['stages'][study.stage] or {})
    )
    runs = []
    for seed in study.seeds:
        for name, method_config in study.methods.items():
            run_config = {'out': f'{study.out}/{name}/{seed}', 'seed': seed}
            try:
                config = build_train_config(
                    _without_unused_teacher(
                        stages.merge_configs(
                            stages.merge_configs(shared, method_config or {}), run_config
                        )
                    )
                )
            except ConfigError as err:
                raise ConfigError(f'methods.{name}: {err}') from err
            runs.append(StudyRun(name, config))
    return before, runs


def run_study(study: StudyConfig, num_jobs: int = 1) -> Path:
    """
    Train the runs that are not in the table yet.

    :param study: configuration of the study.
    :param num_jobs: parallel runs, which share the processors. This speeds up small networks on
        few processors: one thread per run wastes less time than threads that wait for each other.
    :return: path of the table.
    :raises ConfigError: if the table has a run of that name with another configuration, or the
        figures of another class or of another teacher, if another study is writing it, or for
        num_jobs below 1.
    """
    if num_jobs < 1:
        raise ConfigError(f'jobs: expected at least 1 run at a time, got {num_jobs}')
    table = Path(study.table)
    before, runs = plan_runs(study)
    with study_table.table_lock(table):
        rows = study_table.read_table(table)
        study_table.check_evaluated_class(table, rows, study.judged)
        if {_run_key(study_run) for study_run in before + runs} <= {row[:2] for row in rows}:
            _check_complete_table(table, before + runs)
            return table
        for study_run in before:
            _run_earlier_stage(study, study_run)
        pending = [each for each in map(_with_file_digests, runs) if not _find_row(table, each)]
        with contextlib.closing(_train_runs(pending, num_jobs)) as results:
            for study_run, run_results in results:
                study_table.append_row(table, _make_row(study, study_run, run_results))
    return table


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


def _check_complete_table(table: Path, study_runs: list[StudyRun]) -> None:
    """Compare a complete table with its runs, as far as the files that they start from exist."""
    try:
        for study_run in study_runs:
            _find_row(table, _with_file_digests(study_run))
    except ModelFileError as err:
        log.info('%s has every run; files that they were made from are missing: %s', table, err)


def _run_earlier_stage(study: StudyConfig, study_run: StudyRun) -> None:
    """Train an earlier stage and append its row, or check that it reproduces its row."""
    resolved = resolved_config.resolve_config(study_run.config)
    table, study_run = Path(study.table), study_run._replace(config=resolved.config)
    row = _find_row(table, study_run)
    if row and not checkpoint.is_done(resolved):
        log.info(
            '%s has %s, but %s does not: training it again; it must reproduce the same figures',
            *(table, study_run.method, study_run.config.out),
        )
    new_row = _make_row(study, study_run, stages.run_stage(resolved))
    if row is None:
        study_table.append_row(table, new_row)
    elif not _has_same_figures(row, new_row):
        raise _other_stage_error(table, study_run)


def _has_same_figures(row: study_table.Row, other: study_table.Row) -> bool:
    """
    Return whether a new row has the figures of a row of the table, to the table's decimals.

    Tables of older versions have no column of the published protocol.
    """
    added = {name for name in other.metrics if name.startswith(f'{PUBLISHED}/')}
    if not added & row.metrics.keys():
        other = other._replace(
            metrics={name: value for name, value in other.metrics.items() if name not in added}
        )
    if row.metrics.keys() != other.metrics.keys():
        return False
    return not any(abs(row.metrics[name] - other.metrics[name]) > 1e-4 for name in row.metrics)


def _train_runs(
    pending: list[StudyRun], num_jobs: int
) -> Generator[tuple[StudyRun, MetricResults | None], None, None]:
    """Train runs; yield each with its results as soon as it is finished."""
    if num_jobs == 1:
        for study_run in _log_progress(pending):
            yield study_run, _run(study_run.config)
        return
    configs = [study_run.config for study_run in pending]
    completed = map_as_completed(
        _run_in_process, configs, num_jobs, threads=max(1, available_cpus() // num_jobs)
    )
    # closed at once, not by the garbage collector, so that no run keeps training
    with (
        contextlib.closing(completed),
        contextlib.closing(with_progress(completed, len(pending), 'runs')) as results,
    ):
        for index, run_results in results:
            yield pending[index], run_results


def _run(config: TrainConfig) -> MetricResults | None:
    """Train one run; its model files must still have the digests of the start of the study."""
    return stages.run_stage(resolved_config.resolve_config(config))


def _run_in_process(config: TrainConfig) -> MetricResults | None:
    """Train one of several parallel runs; its output goes to log.txt in its folder."""
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    with (out / 'log.txt').open('a', buffering=1) as file, contextlib.redirect_stdout(file):
        with _log_to_file(file):
            try:
                return _run(config)
            except Exception:
                log.exception('the run failed')
                raise


@contextlib.contextmanager
def _log_to_file(file: IO[str]) -> Iterator[None]:
    """Log also to a file within the context: a spawned process has no logging configuration."""
    root, handler = logging.getLogger(), logging.StreamHandler(file)
    handler.setFormatter(logging.Formatter('%(asctime)s %(message)s'))
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        yield
    finally:
        root.setLevel(level)
        root.removeHandler(handler)


def _with_file_digests(study_run: StudyRun) -> StudyRun:
    return study_run._replace(config=resolved_config.with_file_digests(study_run.config))


def _run_key(study_run: StudyRun) -> tuple[str, int]:
    return study_run.method, study_run.config.seed


def _log_progress(pending: list[StudyRun]) -> Iterator[StudyRun]:
    """Yield the runs; log the name of each before it, and the estimated remaining time."""
    began = time.monotonic()
    for done, study_run in enumerate(pending):
        passed_s = time.monotonic() - began
        rest = (
            f', {passed_s / done * (len(pending) - done) / 60:.0f} minutes to go' if done else ''
        )
        log.info(
            'run %d of %d: %s, seed %d%s',
            done + 1,
            len(pending),
            *(study_run.method, study_run.config.seed),
            rest,
        )
        yield study_run


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
    study: StudyConfig, study_run: StudyRun, results: MetricResults | None
) -> study_table.Row:
    """Build the row of a finished run; a study runs in one process, so that it has results."""
    assert results is not None

    def columns(each: MetricResults) -> dict[str, float]:
        return {**each.ap.class_columns(study.judged), **each.extra_columns()}

    figures = {**columns(results), **results.published_columns(columns)}
    digest = config_digest(study_run.config)
    return study_table.Row(
        *_run_key(study_run), study_run.config.epochs, digest, figures, study.judged
    )


def _without_distill_losses(stage: dict[str, Any]) -> dict[str, Any]:
    """Return a stage without its distillation losses and their weights."""
    weights = stage.get('weights') or {}
    weights = {name: each for name, each in weights.items() if not name.startswith('distill/')}
    return {**stage, 'weights': weights, 'distill': {**(stage.get('distill') or {}), 'losses': {}}}


def _without_unused_teacher(data: dict[str, Any]) -> dict[str, Any]:
    """Return a run without its teacher if it has no distillation losses, to save time."""
    has_losses = data['distill'] and data['distill']['losses']
    return data if has_losses else {k: data[k] for k in data if k != 'distill'}
