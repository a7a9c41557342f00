"""
A grid of methods and seeds under one schedule: every claim beside its controls.

A study names a plan of stages and one of them: the runs differ from that stage by what their
method says and by the seed, and in nothing else. The stages before it, such as the teacher, are
trained once. Every finished run is one row of a table that is appended to, so that a study can be
stopped and gone on with, and what is in the table is not run again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from stl_core import checkpoint, learner, stages, study_table
from stl_core.config import TrainConfig, build_train
from stl_core.data.workers import cores, spread, tracked
from stl_core.strict import ConfigError, build, read

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
    shared = _without_losses(stages.merge(common, data['stages'][study.stage]))
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
    :raises ConfigError: when the table has a run of that name with another configuration, or for
        no job at a time.
    """
    if jobs < 1:
        raise ConfigError(f'jobs: expected at least 1 run at a time, got {jobs}')
    table = Path(study.table)
    before, runs = lay_out(study)
    for work in before:
        config = learner.pinned(work.config)
        if not _is_known(table, Work(work.method, config)):
            _add(study, Work(work.method, config), stages.run(config))
    left = [each for each in _pinned(runs) if not _is_known(table, each)]
    if jobs > 1:
        configs = [work.config for work in left]
        done = spread(_run_aside, configs, jobs, threads=max(1, cores() // jobs))
        results: Iterable[dict[str, Any]] = tracked(done, len(left), 'runs')
    else:
        results = (stages.run(work.config) for work in _told(left))
    for work, metrics in zip(left, results, strict=True):
        _add(study, work, metrics)
    return table


def digest(config: TrainConfig) -> str:
    """Tell a run's configuration, teacher included, in 12 characters; where it lies is no part."""
    flat = checkpoint.flatten(dataclasses.asdict(config))
    told = {key: value for key, value in flat.items() if key not in checkpoint.FREE}
    # where they lie; what they are is in their own digests
    for place in ('distill.teacher', 'start'):
        told.pop(place, None)
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:12]


def _run_aside(config: TrainConfig) -> dict[str, Any]:
    """Run one of several: what it has to say goes to a file in its folder."""
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    with (out / 'log.txt').open('a') as file, contextlib.redirect_stdout(file):
        return stages.run(config)


def _pinned(runs: list[Work]) -> Iterator[Work]:
    for work in runs:
        yield work._replace(config=learner.pinned(work.config))


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


def _is_known(table: Path, work: Work) -> bool:
    """Whether the table has a run; ConfigError where it has another of the same name and seed."""
    for row in study_table.read(table):
        if (row.method, row.seed) == (work.method, work.config.seed):
            if row.config != digest(work.config):
                raise ConfigError(
                    f'{table}: {row.method}, seed {row.seed}, was run with another configuration;'
                    ' choose another table= and out=, or remove the row'
                )
            return True
    return False


def _add(study: StudyConfig, work: Work, metrics: dict[str, Any]) -> None:
    """Write the row of a finished run."""
    told = metrics[study.judged]
    figures = {
        f'{kind}/{criterion}/{level}': told[kind]['AP40'][criterion][place]
        for kind in ('3d', 'bev')
        for criterion in ('strict', 'loose')
        for place, level in enumerate(study_table.LEVELS)
    }
    row = study_table.Row(
        work.method, work.config.seed, work.config.epochs, digest(work.config), figures
    )
    study_table.append(Path(study.table), row)


def _without_losses(stage: dict[str, Any]) -> dict[str, Any]:
    """Leave out of a stage what it learns from its teacher."""
    weights = stage.get('weights', {})
    weights = {name: each for name, each in weights.items() if not name.startswith('distill/')}
    return {**stage, 'weights': weights, 'distill': {**stage.get('distill', {}), 'losses': {}}}


def _bare(data: dict[str, Any]) -> dict[str, Any]:
    """Leave the teacher out of a run without distillation losses: it would only cost time."""
    return data if data['distill']['losses'] else {k: data[k] for k in data if k != 'distill'}
