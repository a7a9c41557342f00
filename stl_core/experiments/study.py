"""
A grid of methods and seeds under one schedule: every claim beside its controls.

A study names a plan of stages and one of them: the runs differ from that stage by what their
method says and by the seed, and in nothing else. The stages before it, such as the teacher, are
trained once. Every finished run is one row of a table that is appended to, so that a study can be
stopped and gone on with, and what is in the table is not run again. The stages before must come to
the figures that the table has of them: runs of two teachers are no comparison.
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

from stl_core.data.worker_pool import cores, finished, tracked
from stl_core.evaluation import average_precision as evaluate
from stl_core.experiments import study_table
from stl_core.inference.model_file import StudentError
from stl_core.training import checkpoint, stages
from stl_core.training import model_builder as learner
from stl_core.training.config import TrainConfig, build_train
from stl_core.training.config_builder import ConfigError, build, read

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StudyConfig:
    """
    A study.

    :param plan: YAML file with stages.
    :param stage: the one that is varied; its losses and their weights are left out, the methods
        bring their own.
    :param methods: {name: differences of a TrainConfig}, in the order of the table.
    :param seeds: every method is run with each.
    :param out: folder of the runs.
    :param table: CSV file of the finished runs; the chart lies beside it.
    :param judged: whose figures are the table's: a class of KITTI's evaluation.
    """

    plan: str
    stage: str
    methods: dict[str, Any]
    seeds: tuple[int, ...] = (1, 2, 3)
    out: str = 'runs/study'
    table: str = 'runs/study/table.csv'
    judged: str = 'Car'


class Work(NamedTuple):
    """One run of a study."""

    method: str
    config: TrainConfig


def load(path: str | Path, overrides: tuple[str, ...] = ()) -> StudyConfig:
    """Read a study; ConfigError names the file and key that is wrong."""
    try:
        config: StudyConfig = build(StudyConfig, read(path, overrides))
        if not config.methods or not config.seeds:
            raise ConfigError('methods, seeds: expected at least one of each')
        if len(set(config.seeds)) < len(config.seeds):
            raise ConfigError(f'seeds: expected each once, got {list(config.seeds)}')
        if config.judged not in evaluate.CLASSES:
            known = ', '.join(evaluate.CLASSES)
            raise ConfigError(f'judged: {config.judged!r} is unknown; known: {known}')
        return config
    except ConfigError as err:
        raise ConfigError(f'{path}: {err}') from err


def lay_out(study: StudyConfig) -> tuple[list[Work], list[Work]]:
    """
    List the runs.

    :param study: what is studied.
    :return: the stages before, by name, and the runs of every method and seed, seeds outermost,
        so that a stopped study has compared all methods once.
    :raises ConfigError: for an unknown stage, or a method that no run can be made of.
    """
    data = read(study.plan)
    built = stages.build(data)
    if study.stage not in built:
        raise ConfigError(f'stage: {study.plan} has {", ".join(built)}, but no {study.stage!r}')
    earlier = list(built)[: list(built).index(study.stage)]
    before = [Work(name + study_table.STAGE, built[name]) for name in earlier]
    common = {key: value for key, value in data.items() if key != 'stages'}
    shared = _without_losses(stages.merge(common, data['stages'][study.stage] or {}))
    runs = []
    for seed in study.seeds:
        for name, own in study.methods.items():
            place = {'out': f'{study.out}/{name}/{seed}', 'seed': seed}
            try:
                config = build_train(_bare(stages.merge(stages.merge(shared, own or {}), place)))
            except ConfigError as err:
                raise ConfigError(f'methods.{name}: {err}') from err
            runs.append(Work(name, config))
    return before, runs


def run(study: StudyConfig, jobs: int = 1) -> Path:
    """
    Train what is not in the table yet.

    :param study: what is studied.
    :param jobs: runs at a time, which share the processors. Small networks on few processors gain:
        threads that wait for each other learn less than as many runs of one thread each.
    :return: the table.
    :raises ConfigError: when the table has a run of that name with another configuration, or the
        figures of another class or of another teacher, when another study is writing it, or for no
        job at a time.
    """
    if jobs < 1:
        raise ConfigError(f'jobs: expected at least 1 run at a time, got {jobs}')
    table = Path(study.table)
    before, runs = lay_out(study)
    with study_table.writing(table):
        rows = study_table.read(table)
        study_table.check_class(table, rows, study.judged)
        if {_name(work) for work in before + runs} <= {row[:2] for row in rows}:
            _compare(table, before + runs)
            return table
        for work in before:
            _run_before(study, work)
        left = [each for each in map(_pinned, runs) if not _known(table, each)]
        with contextlib.closing(_train(left, jobs)) as results:
            for work, metrics in results:
                study_table.append(table, _row(study, work, metrics))
    return table


def digest(config: TrainConfig) -> str:
    """
    Tell a run's configuration, teacher included, in 12 characters.

    Where the run lies is no part of it, nor is what is None or empty, so that a table outlives
    new options that are; nor is the code: after a loss has changed, its rows are to be removed.
    """
    flat = checkpoint.flatten(_filled(dataclasses.asdict(config)))
    told = {key: value for key, value in flat.items() if key not in checkpoint.FREE}
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:12]


def _filled(value: Any) -> Any:
    """Leave out of plain data what is None or ''."""
    if isinstance(value, dict):
        return {key: _filled(each) for key, each in value.items() if each not in (None, '')}
    return [_filled(each) for each in value] if isinstance(value, (list, tuple)) else value


def _compare(table: Path, works: list[Work]) -> None:
    """Compare a table that is complete with its runs, as far as there are files to tell them."""
    try:
        for work in works:
            _known(table, _pinned(work))
    except StudentError as err:
        log.info('%s has every run; what they were made from is not here: %s', table, err)


def _run_before(study: StudyConfig, work: Work) -> None:
    """Train a stage before the methods, or see that it is the one that the table tells of."""
    table, work = Path(study.table), _pinned(work)
    row = _known(table, work)
    if row and not checkpoint.is_done(work.config):
        log.info(
            '%s has %s, but %s does not: it is trained again, and must come to the same figures',
            *(table, work.method, work.config.out),
        )
    made = _row(study, work, stages.run(work.config))
    if row is None:
        study_table.append(table, made)
    elif any(abs(row.figures[name] - made.figures[name]) > 1e-4 for name in made.figures):
        raise _other_stage(table, work)


def _train(left: list[Work], jobs: int) -> Generator[tuple[Work, dict[str, Any]], None, None]:
    """Train runs; each with its figures as soon as it is finished."""
    if jobs == 1:
        for work in _told(left):
            yield work, stages.run(work.config)
        return
    configs = [work.config for work in left]
    made = finished(_run_aside, configs, jobs, threads=max(1, cores() // jobs))
    # closed at once, not when the garbage is collected: so nothing trains on
    with contextlib.closing(made), contextlib.closing(tracked(made, len(left), 'runs')) as results:
        for place, metrics in results:
            yield left[place], metrics


def _run_aside(config: TrainConfig) -> dict[str, Any]:
    """Run one of several: what it has to say goes to a file in its folder."""
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    with (out / 'log.txt').open('a', buffering=1) as file, contextlib.redirect_stdout(file):
        with _logged(file):
            try:
                return stages.run(config)
            except Exception:
                log.exception('the run failed')
                raise


@contextlib.contextmanager
def _logged(file: IO[str]) -> Iterator[None]:
    """Log to a file, too, while it lasts: nobody has configured a spawned process."""
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


def _pinned(work: Work) -> Work:
    return work._replace(config=learner.pinned(work.config))


def _name(work: Work) -> tuple[str, int]:
    return work.method, work.config.seed


def _told(left: list[Work]) -> Iterator[Work]:
    """Say before each run which it is, and how long the rest will take."""
    began = time.monotonic()
    for done, work in enumerate(left):
        passed_s = time.monotonic() - began
        rest = f', {passed_s / done * (len(left) - done) / 60:.0f} minutes to go' if done else ''
        log.info(
            'run %d of %d: %s, seed %d%s',
            done + 1,
            len(left),
            *(work.method, work.config.seed),
            rest,
        )
        yield work


def _known(table: Path, work: Work) -> study_table.Row | None:
    """Find the row of a run; ConfigError where it was another of the same name and seed."""
    for row in study_table.read(table):
        if row[:2] == _name(work):
            if row.config == digest(work.config):
                return row
            if work.method.endswith(study_table.STAGE):
                raise _other_stage(table, work)
            raise ConfigError(
                f'{table}: {row.method}, seed {row.seed}, was run with another configuration,'
                ' teacher or start; choose another table= and out=, or remove the row'
            )
    return None


def _other_stage(table: Path, work: Work) -> ConfigError:
    stage = work.method.removesuffix(study_table.STAGE)
    return ConfigError(
        f'{table}: {work.method}, seed {work.config.seed}: the table was made with another {stage}'
        f' than {work.config.out}; choose another table= and out=, or remove the row and those of'
        ' the runs that build on it'
    )


def _row(study: StudyConfig, work: Work, metrics: dict[str, Any]) -> study_table.Row:
    """Make the row of a finished run."""
    told = metrics[study.judged]
    figures = {
        f'{kind}/{criterion}/{level}': told[kind]['AP40'][criterion][place]
        for kind in ('3d', 'bev')
        for criterion in ('strict', 'loose')
        for place, level in enumerate(study_table.LEVELS)
    }
    told_by = digest(work.config)
    return study_table.Row(*_name(work), work.config.epochs, told_by, figures, study.judged)


def _without_losses(stage: dict[str, Any]) -> dict[str, Any]:
    """Leave out of a stage what it learns from its teacher."""
    weights = stage.get('weights') or {}
    weights = {name: each for name, each in weights.items() if not name.startswith('distill/')}
    return {**stage, 'weights': weights, 'distill': {**(stage.get('distill') or {}), 'losses': {}}}


def _bare(data: dict[str, Any]) -> dict[str, Any]:
    """Leave the teacher out of a run without distillation losses: it would only cost time."""
    learns = data['distill'] and data['distill']['losses']
    return data if learns else {k: data[k] for k in data if k != 'distill'}
