"""
The runs of a study: the plan's stages that its methods build on, and every method and seed.

A run differs from its stage of the plan only in the overrides of its method, the seed, the folder
and, with splits, the frames that it is evaluated on. Which stages a run builds on is read from its
configuration: every path in the folder of a stage, such as `start` or `distill.teacher`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any, NamedTuple

from stl_core.experiments.study_config import StudyConfig
from stl_core.experiments.study_table import CANDIDATE_MARK, CHOOSE, JUDGE, STAGE_SUFFIX
from stl_core.training import stages
from stl_core.training.config import TrainConfig, build_train_config
from stl_core.training.config_builder import ConfigError, build_typed, read_yaml


class StudyRun(NamedTuple):
    """
    One run of a study.

    :param method: name of its method, with STAGE_SUFFIX or a candidate after CANDIDATE_MARK.
    :param config: its configuration.
    :param split: CHOOSE or JUDGE, by the split it is evaluated on; '' in a study without splits.
    """

    method: str
    config: TrainConfig
    split: str = ''


class Block(NamedTuple):
    """
    Runs that are compared with each other, and the stages that they build on.

    :param stages: earlier stages, in the plan's order.
    :param runs: the runs; seeds are the outer loop.
    """

    stages: list[StudyRun]
    runs: list[StudyRun]


@dataclass(frozen=True)
class MethodKeys:
    """
    Keys of a method that are no overrides of its configuration.

    :param stage: stage of the plan that it varies; '' is that of the study.
    :param tuning: {label: overrides}, its candidates; {} takes the gradient shares.
    :param replicates: the replicates in which it is judged, of those of the study; None is all.
    """

    stage: str = ''
    tuning: dict[str, Any] = field(default_factory=dict)
    replicates: tuple[int, ...] | None = None


class _Plan(NamedTuple):
    """Plan of stages: what they have in common, the overrides of each, and the built stages."""

    common: dict[str, Any]
    overrides: dict[str, Any]
    built: dict[str, TrainConfig]


def plan_blocks(study: StudyConfig, chosen: Mapping[str, str] | None = None) -> list[Block]:
    """
    List the runs whose figures a study compares; those of tuning come from plan_tuning.

    :param study: configuration of the study.
    :param chosen: {method: label of the candidate that tuning chose}; methods without one are
        taken as they are written.
    :return: a block for all seeds, or one for each replicate; seeds and replicates are the outer
        loop, so that a stopped study has compared all methods with some of them.
    :raises ConfigError: for an unknown stage, or a method whose overrides are invalid.
    """
    plan, chosen = _read_plan(study), chosen or {}
    if not study.replicates:
        runs = [
            _method_run(study, plan, name, seed, f'{study.out}/{name}/{seed}')
            for seed in study.numbers
            for name in study.methods
        ]
        return [_make_block(study, plan, None, runs, JUDGE)]
    return [
        _make_block(
            study,
            plan,
            replicate,
            [
                _method_run(
                    study, plan, name, replicate, _folder(study, replicate, 'methods', name), each
                )
                for name in _methods_of(study, replicate)
                for each in [chosen.get(name, '')]
            ],
            JUDGE,
        )
        for replicate in study.replicates
    ]


def plan_tuning(study: StudyConfig) -> list[Block]:
    """
    List the tuning runs of a study: every candidate of every method, in each tuning replicate.

    :return: one block for each tuning replicate; [] without tuning.
    :raises ConfigError: as plan_blocks, and for methods with different numbers of candidates.
    """
    if study.tuning is None:
        return []
    plan, labels = _read_plan(study), candidate_labels(study)
    blocks = []
    for replicate in study.tuning.replicates:
        runs = []
        for name in study.methods:
            for label in labels[name]:
                row_name = f'{name}{CANDIDATE_MARK}{label}'
                out = _folder(study, replicate, 'tuning', row_name)
                run = _method_run(study, plan, name, replicate, out, label)
                runs.append(run._replace(method=row_name))
        blocks.append(_make_block(study, plan, replicate, runs, CHOOSE))
    return blocks


def plan_runs(study: StudyConfig) -> tuple[list[StudyRun], list[StudyRun]]:
    """Return the stages and the runs of all blocks of plan_blocks, whatever tuning will choose."""
    blocks = plan_blocks(study)
    return (
        [each for block in blocks for each in block.stages],
        [each for block in blocks for each in block.runs],
    )


def candidate_labels(study: StudyConfig) -> dict[str, list[str]]:
    """
    Return the labels of each method's candidates; none for a method with nothing to tune.

    A method without distillation losses, such as a control, has no gradient share: it has
    candidates only if it lists its own.

    :raises ConfigError: for methods with candidates in different numbers.
    """
    if study.tuning is None:
        return {name: [] for name in study.methods}
    plan, labels = _read_plan(study), {}
    for name in study.methods:
        listed = _split_method(study, name)[0].tuning
        run_config, _ = _build_method(study, plan, name)
        distils = any(key.startswith('distill/') for key in run_config.weights)
        by_share = [_share_label(each) for each in study.tuning.gradient_shares] if distils else []
        labels[name] = list(listed) if listed else by_share
    tuned = {name: each for name, each in labels.items() if each}
    for name, each in tuned.items():
        first = next(iter(tuned))
        if len(each) != len(tuned[first]):
            raise ConfigError(
                f'tuning: {first} has {len(tuned[first])} candidates, {name} {len(each)};'
                ' expected as many for every method'
            )
    return labels


def waves(runs: Sequence[StudyRun]) -> Iterator[list[StudyRun]]:
    """Yield stages in groups that can be trained together: each needs earlier groups only."""
    left = list(runs)
    while left:
        outs = {each.method: each.config.out for each in left}
        ready = [each for each in left if not _used_stages(each.config, outs) - {each.method}]
        ready = ready or left[:1]  # stages that start from each other fail when they are trained
        yield ready
        left = [each for each in left if each not in ready]


def _read_plan(study: StudyConfig) -> _Plan:
    """Read the stages of a study's plan; ConfigError if it lacks the study's stage."""
    data = read_yaml(study.plan, study.overrides)
    built = stages.build_stages(data)
    _check_stage('stage', study, study.stage, built)
    overrides = {str(name): each or {} for name, each in data['stages'].items()}
    common = {key: value for key, value in data.items() if key != 'stages'}
    return _Plan(common, overrides, built)


def _check_stage(key: str, study: StudyConfig, name: str, built: Mapping[str, Any]) -> None:
    if name not in built:
        raise ConfigError(f'{key}: {study.plan} has {", ".join(built)}, but no {name!r}')


def _folder(study: StudyConfig, replicate: int, kind: str, name: str) -> str:
    """Return the folder of a run of a replicate; a stage and a method may have one name."""
    return f'{study.out}/{replicate}/{kind}/{name}'


def _share_label(share: float) -> str:
    return f'{share:g}'


def _method_run(
    study: StudyConfig, plan: _Plan, name: str, seed: int, out: str, label: str = ''
) -> StudyRun:
    """Build the run of a method, with a candidate if `label` names one."""
    config, scale = _build_method(study, plan, name, label)
    weights = {
        key: value * scale if key.startswith('distill/') else value
        for key, value in config.weights.items()
    }
    return StudyRun(name, dataclasses.replace(config, seed=seed, out=out, weights=weights))


def _build_method(
    study: StudyConfig, plan: _Plan, name: str, label: str = ''
) -> tuple[TrainConfig, float]:
    """Build a method's configuration; return it and the factor of its distillation weights."""
    keys, method = _split_method(study, name)
    key, stage = f'methods.{name}', keys.stage or study.stage
    _check_stage(f'{key}.stage', study, stage, plan.built)
    shared = stages.merge_configs(plan.common, plan.overrides[stage])
    if not keys.stage or _names_losses(method):
        shared = _without_distill_losses(shared)
    scale = 1.0
    if label and keys.tuning:
        method = stages.merge_configs(method, keys.tuning[label] or {})
    elif label and study.tuning:
        factors = {_share_label(each): each for each in study.tuning.gradient_shares}
        scale = factors[label]
    try:
        data = stages.merge_configs(shared, method)
        return build_train_config(_without_unused_teacher(data)), scale
    except ConfigError as err:
        raise ConfigError(f'{key}: {err}') from err


def _split_method(study: StudyConfig, name: str) -> tuple[MethodKeys, dict[str, Any]]:
    """Return a method's keys of the study and its overrides; ConfigError if it has neither."""
    method = study.methods[name] or {}
    if not isinstance(method, dict):
        raise ConfigError(f'methods.{name}: expected keys and values, got {method!r}')
    known = {each.name for each in dataclasses.fields(MethodKeys)}
    given = {key: each for key, each in method.items() if key in known and each is not None}
    keys: MethodKeys = build_typed(MethodKeys, given, f'methods.{name}')
    if keys.replicates is not None and not study.replicates:
        raise ConfigError(f'methods.{name}.replicates: the study has seeds, no replicates')
    return keys, {key: each for key, each in method.items() if key not in known}


def _methods_of(study: StudyConfig, replicate: int) -> list[str]:
    """Return the methods that a replicate judges."""
    limits = {name: _split_method(study, name)[0].replicates for name in study.methods}
    return [name for name, only in limits.items() if only is None or replicate in only]


def _names_losses(method: Mapping[str, Any]) -> bool:
    """Return whether a method says which distillation losses it has, none included."""
    if 'distill' not in method:
        return False
    return method['distill'] is None or 'losses' in method['distill']


def _without_distill_losses(stage: dict[str, Any]) -> dict[str, Any]:
    """Return a stage without its distillation losses and their weights."""
    weights = stage.get('weights') or {}
    weights = {name: each for name, each in weights.items() if not name.startswith('distill/')}
    return {**stage, 'weights': weights, 'distill': {**(stage.get('distill') or {}), 'losses': {}}}


def _without_unused_teacher(data: dict[str, Any]) -> dict[str, Any]:
    """Return a run without its teacher if it has no distillation losses, to save time."""
    has_losses = data.get('distill') and data['distill'].get('losses')
    return data if has_losses else {k: data[k] for k in data if k != 'distill'}


def _make_block(
    study: StudyConfig, plan: _Plan, replicate: int | None, runs: list[StudyRun], split: str
) -> Block:
    """Add the stages that runs build on; in a replicate, all of them move to its folders."""
    outs = {name: config.out for name, config in plan.built.items()}
    needed: set[str] = set()
    added = set().union(*(_used_stages(run.config, outs) for run in runs))
    while added:
        needed |= added
        added = set().union(*(_used_stages(plan.built[name], outs) for name in added)) - needed
    earlier = [
        StudyRun(name + STAGE_SUFFIX, config)
        for name, config in plan.built.items()
        if name in needed
    ]
    if replicate is not None:
        moved = {name: _folder(study, replicate, 'stages', name) for name in outs}
        earlier = [
            each._replace(config=dataclasses.replace(each.config, seed=replicate))
            for each in earlier
        ]
        earlier, runs = ([_move(each, outs, moved) for each in part] for part in (earlier, runs))
    if not study.judge:
        return Block(earlier, runs)
    # a stage has one row: in a judged replicate it is on the judge split, also if tuning trains it
    judged = split == JUDGE or replicate in study.replicates
    return Block(
        [_evaluated_on(study, each, JUDGE if judged else CHOOSE) for each in earlier],
        [_evaluated_on(study, each, split) for each in runs],
    )


def _evaluated_on(study: StudyConfig, run: StudyRun, split: str) -> StudyRun:
    """Return a run that is evaluated on a split, once: no epoch may be chosen by it."""
    if run.config.eval_every:
        raise ConfigError(
            f'{run.method}: eval_every: {run.config.eval_every} would choose the best epoch by the'
            ' frames that judge it; expected 0 in a study with choose and judge'
        )
    path = study.judge if split == JUDGE else study.choose
    val = dataclasses.replace(run.config.val, split=path)
    return run._replace(config=dataclasses.replace(run.config, val=val), split=split)


def _used_stages(config: TrainConfig, outs: Mapping[str, str]) -> set[str]:
    """Return the stages in whose folders a path of the configuration lies, except its own."""
    used: set[str] = set()

    def find(text: str) -> str:
        used.update(filter(None, [_stage_of(text, outs)]))
        return text

    _map_texts(dataclasses.replace(config, out=''), find)
    return {name for name in used if outs[name] != config.out}


def _move(run: StudyRun, outs: Mapping[str, str], moved: Mapping[str, str]) -> StudyRun:
    """Move the paths of a run that lie in the folder of a stage to that stage's new folder."""

    def move(text: str) -> str:
        name = _stage_of(text, outs)
        if name is None:
            return text
        return str(PurePath(moved[name]) / PurePath(text).relative_to(outs[name]))

    config: TrainConfig = _map_texts(dataclasses.replace(run.config, out=''), move)
    out = run.config.out
    out = move(out) if run.method.endswith(STAGE_SUFFIX) else out
    return run._replace(config=dataclasses.replace(config, out=out))


def _stage_of(path: str, outs: Mapping[str, str]) -> str | None:
    """Return the stage whose folder a text is, or lies in; the inner one of nested folders."""
    if not path:
        return None
    folders = [PurePath(path), *PurePath(path).parents]
    by_folder = {PurePath(out): name for name, out in outs.items()}
    return next((by_folder[folder] for folder in folders if folder in by_folder), None)


def _map_texts(value: Any, function: Callable[[str], str]) -> Any:
    """Return plain data or a dataclass with every text replaced by function(text)."""
    if isinstance(value, str):
        return function(value)
    if isinstance(value, dict):
        return {key: _map_texts(each, function) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_map_texts(each, function) for each in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value) if field.init]
        new = {name: _map_texts(getattr(value, name), function) for name in names}
        return dataclasses.replace(value, **new)
    return value
