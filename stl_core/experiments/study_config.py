"""Configuration of a study: methods, seeds or replicates, splits, tuning and primary tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stl_core.evaluation.ap_result import CLASSES
from stl_core.experiments.statistics import MAX_PAIRS
from stl_core.experiments.study_table import CANDIDATE_MARK, STAGE_SUFFIX
from stl_core.training.config_builder import ConfigError, build_typed, read_yaml

#: Seeds of a study that names neither seeds nor replicates.
DEFAULT_SEEDS = (1, 2, 3)


@dataclass(frozen=True)
class TuningConfig:
    """
    Runs that choose the strength of every method on the choose split (YAML key `tuning`).

    :param replicates: replicates in which the candidates are trained. Replicates that are not
        judged are the better choice: the best of a few runs is in part the luckiest one, and the
        judged run of the same replicate would repeat its luck.
    :param gradient_shares: factors of the weights of a method's distillation losses; each is a
        candidate. A method states its weights for the share 1, at which its gradient on the
        backbone is as large as that of the detection losses (bench/weights.py measures it).
    """

    replicates: tuple[int, ...]
    gradient_shares: tuple[float, ...] = (0.25, 0.5, 1.0)

    def __post_init__(self) -> None:
        """Raise ValueError for no or repeated replicates or gradient_shares."""
        for name, values in (
            ('replicates', self.replicates),
            ('gradient_shares', self.gradient_shares),
        ):
            if not values or len(set(values)) < len(values):
                raise ValueError(f'{name}: expected one or more, each once, got {list(values)}')
        if min(self.gradient_shares) <= 0:
            raise ValueError(
                f'gradient_shares: expected more than 0, got {min(self.gradient_shares)}'
            )


@dataclass(frozen=True)
class StudyConfig:
    """
    Configuration of a study.

    :param plan: YAML file with stages.
    :param stage: stage that the methods vary; its distillation losses and their weights are left
        out, since every method names its own.
    :param methods: {name: overrides of a TrainConfig}, in the order of the table. Three more keys:
        `stage`, another stage of the plan that this method varies; it keeps that stage's losses
        unless it names `distill.losses` or `distill: null`. `tuning`, {label: overrides}, its
        candidates in place of the gradient shares. `replicates`, those in which it is judged, for
        methods of less weight; None is all.
    :param seeds: seeds; every method is run with each. The stages that they build on, such as the
        teacher, are trained once. None is 1, 2, 3.
    :param replicates: instead of seeds: seeds with which every stage that a method builds on is
        trained, too, each replicate in folders of its own. Differences between replicates include
        those between teachers; methods are compared within a replicate.
    :param out: folder of the runs.
    :param table: CSV file of the finished runs; the chart is written next to it.
    :param judged: class of KITTI's evaluation whose figures the table holds.
    :param overrides: what the study changes in its plan, 'stages.teacher.epochs=24'.
    :param choose: split file of the frames on which tuning runs are evaluated; '' without splits.
    :param judge: split file of the frames on which all other runs are evaluated. Learn (the plan's
        training frames), choose and judge must not share a frame.
    :param tuning: candidates of every method; None takes the methods as they are written.
    :param baseline: method from which the others are subtracted; '' is the first one.
    :param primary: the tests that the study was made for, corrected for their number: a method and
        the one that it must differ from, or several, above each of which it must be.
    """

    plan: str
    stage: str
    methods: dict[str, Any]
    seeds: tuple[int, ...] | None = None
    out: str = 'runs/study'
    table: str = 'runs/study/table.csv'
    judged: str = 'Car'
    overrides: tuple[str, ...] = ()
    replicates: tuple[int, ...] = ()
    choose: str = ''
    judge: str = ''
    tuning: TuningConfig | None = None
    baseline: str = ''
    primary: tuple[tuple[str, ...], ...] = ()

    @property
    def numbers(self) -> tuple[int, ...]:
        """The seeds or replicates that are compared."""
        return self.replicates or (DEFAULT_SEEDS if self.seeds is None else self.seeds)

    @property
    def unit(self) -> str:
        """Name of one of the numbers in texts: 'seed' or 'replicate'."""
        return 'replicate' if self.replicates else 'seed'

    @property
    def reference(self) -> str:
        """Method from which the others are subtracted."""
        return self.baseline or next(iter(self.methods))

    @property
    def has_statistics(self) -> bool:
        """Whether differences are printed with intervals and tests: older studies have none."""
        return bool(self.replicates or self.primary or self.baseline)


def load_study(path: str | Path, overrides: tuple[str, ...] = ()) -> StudyConfig:
    """Read a study; ConfigError names the file and the key that is wrong."""
    try:
        config: StudyConfig = build_typed(StudyConfig, read_yaml(path, overrides))
        _check_numbers(config)
        _check_splits(config)
        _check_tests(config)
        if config.judged not in CLASSES:
            known = ', '.join(CLASSES)
            raise ConfigError(f'judged: {config.judged!r} is unknown; known: {known}')
        return config
    except ConfigError as err:
        raise ConfigError(f'{path}: {err}') from err


def _check_numbers(config: StudyConfig) -> None:
    """Check methods, seeds and replicates."""
    if config.replicates and config.seeds is not None:
        raise ConfigError('seeds, replicates: expected one of the two')
    if not config.methods or not config.numbers:
        raise ConfigError('methods, seeds: expected at least one of each')
    if len(set(config.numbers)) < len(config.numbers):
        raise ConfigError(f'{config.unit}s: expected each once, got {list(config.numbers)}')
    if config.has_statistics and len(config.numbers) > MAX_PAIRS:
        raise ConfigError(f'{config.unit}s: expected at most {MAX_PAIRS} for exact tests')
    for name in config.methods if config.replicates else ():
        if CANDIDATE_MARK in name or name.endswith(STAGE_SUFFIX):
            raise ConfigError(
                f'methods.{name}: {CANDIDATE_MARK!r} and {STAGE_SUFFIX!r} mark tuning runs and'
                ' stages in the table; choose another name'
            )


def _check_splits(config: StudyConfig) -> None:
    """Check that splits are complete, and that tuning has what it needs."""
    if bool(config.choose) != bool(config.judge):
        raise ConfigError('choose, judge: expected both split files or none')
    if config.tuning and not (config.choose and config.replicates):
        raise ConfigError('tuning: requires choose, judge and replicates')


def _check_tests(config: StudyConfig) -> None:
    """Check that the compared methods exist."""
    if config.baseline:
        _check_methods('baseline', [config.baseline], config.methods)
    for index, names in enumerate(config.primary):
        key = f'primary[{index}]'
        if len(names) < 2 or len(set(names)) < len(names):
            raise ConfigError(
                f'{key}: expected a method and one or more others, got {list(names)}'
            )
        _check_methods(key, names, config.methods)


def _check_methods(key: str, names: Sequence[str], methods: dict[str, Any]) -> None:
    for name in names:
        if name not in methods:
            raise ConfigError(f'{key}: {name!r} is no method; known: {", ".join(methods)}')
