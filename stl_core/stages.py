"""
Runs that build on each other, in one file: a teacher, a base, a student distilled from both.

The file holds what all have in common and, under `stages`, by name and in order, what each has of
its own. A stage that is done, with the same configuration and the same teacher, is not run again.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from stl_core import charts, checkpoint, learner, train
from stl_core.config import TrainConfig, build_train
from stl_core.shares import rank
from stl_core.strict import ConfigError, read

log = logging.getLogger(__name__)


def load(path: str | Path, overrides: tuple[str, ...] = ()) -> dict[str, TrainConfig]:
    """
    Read the stages of a training configuration.

    :param path: a YAML file; without `stages` it is one run, whose name is ''.
    :param overrides: 'dotted.key=value' on top: of all, or of one by stages.NAME.key=value.
    :return: {name: whole configuration}, in order.
    :raises ConfigError: naming the file and key that is wrong.
    """
    try:
        return build(read(path, overrides))
    except ConfigError as err:
        raise ConfigError(f'{path}: {err}') from err


def build(data: dict[str, Any]) -> dict[str, TrainConfig]:
    """Build the stages of plain data; ConfigError as of load, without the file."""
    common = {key: value for key, value in data.items() if key != 'stages'}
    own = data.get('stages')
    if own is None:
        return {'': build_train(common)}
    if not isinstance(own, dict) or not own:
        raise ConfigError(f'stages: expected names and what each has of its own, got {own!r}')
    built = {}
    for name, differences in own.items():
        if not isinstance(differences or {}, dict):
            raise ConfigError(f'stages.{name}: expected keys and values, got {differences!r}')
        try:
            built[str(name)] = build_train(merge(common, differences or {}))
        except ConfigError as err:
            raise ConfigError(f'stages.{name}: {err}') from err
    outs = [config.out for config in built.values()]
    for name, config in built.items():
        if outs.count(config.out) > 1:
            raise ConfigError(f'stages.{name}.out: {config.out} is that of another stage, too')
    return built


def merge(common: Any, own: Any) -> Any:
    """Put own on top of common: keys are joined, all else is replaced."""
    if not isinstance(common, dict) or not isinstance(own, dict):
        return own
    joined = {key: merge(common[key], own[key]) for key in common.keys() & own.keys()}
    return {**common, **own, **joined}


def choose(stages: dict[str, TrainConfig], names: tuple[str, ...]) -> dict[str, TrainConfig]:
    """Take some stages, in their order; all where none is named. ConfigError names the known."""
    for name in names:
        if name not in stages:
            known = ', '.join(filter(None, stages)) or 'none, it is a single run'
            raise ConfigError(f'stage {name!r}: unknown; known: {known}')
    return {name: each for name, each in stages.items() if not names or name in names}


def run(config: TrainConfig) -> dict[str, Any]:
    """
    Train one stage, unless it is done.

    :return: and raises: see train.fit.
    """
    config = learner.pinned(config)
    if not checkpoint.is_done(config):
        return train.fit(config)
    if rank():
        return {}
    log.info('%s: done before', config.out)
    metrics: dict[str, Any] = json.loads((Path(config.out) / 'metrics.json').read_text())
    return metrics


def draw(done: dict[str, TrainConfig]) -> Path:
    """Draw the losses of several stages together, beside the folder of the last; return where."""
    folders = {name: Path(config.out) for name, config in done.items()}
    *_, last = folders.values()
    path = last.parent / 'stages.png'
    charts.curves({name: folder / 'curves.csv' for name, folder in folders.items()}, path)
    return path
