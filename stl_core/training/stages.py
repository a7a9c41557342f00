"""
Multi-stage training from one YAML file, such as teacher, base model and distilled student.

The top level of the file holds the configuration common to all stages; `stages` maps the name of
each stage, in order, to its overrides. A finished stage is skipped. A stage whose folder holds a
run of another configuration, teacher or start model raises an error; choose another `out` or
remove the folder.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

from stl_core.evaluation import metrics
from stl_core.evaluation.metric import MetricResults
from stl_core.tensors.reductions import rank
from stl_core.training import checkpoint, trainer
from stl_core.training.checkpoint import RESUME_ONLY, ResumeOptions
from stl_core.training.config import TrainConfig, build_train_config
from stl_core.training.config_builder import ConfigError, apply_overrides, read_yaml
from stl_core.training.resolved_config import ResolvedConfig
from stl_core.training.run.run_files import CheckpointError, read_json_object
from stl_core.visualization import charts

log = logging.getLogger(__name__)


def load_stages(path: str | Path, overrides: tuple[str, ...] = ()) -> dict[str, TrainConfig]:
    """
    Read the stages of a training configuration file.

    :param path: YAML file; a file without `stages` is a single run named ''.
    :param overrides: 'dotted.key=value' applies to every stage and also replaces the stages'
        values; 'stages.NAME.key=value' applies to one stage and has the highest priority.
    :return: {name: complete configuration}, in order.
    :raises ConfigError: naming the file and the invalid key.
    """
    try:
        return build_stages(read_yaml(path), overrides)
    except ConfigError as err:
        raise ConfigError(f'{path}: {err}') from err


def build_stages(data: dict[str, Any], overrides: tuple[str, ...] = ()) -> dict[str, TrainConfig]:
    """Build the stages from plain data, see load_stages; ConfigError does not name the file."""
    stage_overrides = tuple(each for each in overrides if re.match(r'stages[.=]', each))
    common_overrides = tuple(each for each in overrides if each not in stage_overrides)
    _check_overrides(data.get('stages'), stage_overrides)
    common = apply_overrides({key: data[key] for key in data if key != 'stages'}, common_overrides)
    stage_data = data.get('stages')
    if isinstance(stage_data, dict):
        stage_data = {
            name: _without_overridden(each, common_overrides) for name, each in stage_data.items()
        }
    stage_data = apply_overrides({'stages': stage_data}, stage_overrides)['stages']
    if stage_data is None:
        return {'': build_train_config(common)}
    if not isinstance(stage_data, dict) or not stage_data:
        raise ConfigError(
            f'stages: expected a mapping of stage names to overrides, got {stage_data!r}'
        )
    if len(stage_data) > 1 and any(each.startswith('out=') for each in common_overrides):
        raise ConfigError(
            f'out: stages cannot share a folder; give stages.{next(iter(stage_data))}.out='
        )
    built = {}
    for name, overriding in stage_data.items():
        if not isinstance(overriding or {}, dict):
            raise ConfigError(f'stages.{name}: expected keys and values, got {overriding!r}')
        try:
            built[str(name)] = build_train_config(merge_configs(common, overriding or {}))
        except ConfigError as err:
            raise ConfigError(f'stages.{name}: {err}') from err
    outs = [config.out for config in built.values()]
    for name, config in built.items():
        if outs.count(config.out) > 1:
            raise ConfigError(f'stages.{name}.out: {config.out} is also the out of another stage')
    return built


def _check_overrides(stage_data: Any, stage_overrides: tuple[str, ...]) -> None:
    """Raise ConfigError for an override of an unknown stage, which would create a new stage."""
    known = [str(name) for name in stage_data] if isinstance(stage_data, dict) else []
    for each in stage_overrides:
        parts = each.partition('=')[0].split('.')
        if len(parts) > 1 and parts[1] not in known:
            raise ConfigError(
                f'{each!r}: no such stage; known: {", ".join(known) or "none, it is a single run"}'
            )


def _without_overridden(stage_data: Any, overrides: tuple[str, ...]) -> Any:
    """Return a stage's data without the keys that overrides set for all stages."""
    for each in overrides:
        stage_data = _without_key(stage_data, each.partition('=')[0].split('.'))
    return stage_data


def _without_key(data: Any, keys: list[str]) -> Any:
    """Return data without one nested key; data itself if the key is missing."""
    key, *rest = keys
    if not isinstance(data, dict) or key not in data:
        return data
    if rest and isinstance(data[key], dict):
        return {**data, key: _without_key(data[key], rest)}
    return {name: value for name, value in data.items() if name != key}


def merge_configs(common: Any, overriding: Any) -> Any:
    """Merge two nested configurations: combine mappings, otherwise `overriding` wins."""
    if not isinstance(common, dict) or not isinstance(overriding, dict):
        return overriding
    joined = {
        key: merge_configs(common[key], overriding[key])
        for key in common.keys() & overriding.keys()
    }
    return {**common, **overriding, **joined}


def select_stages(
    stages: dict[str, TrainConfig], names: tuple[str, ...]
) -> dict[str, TrainConfig]:
    """
    Return the named stages in file order; all stages if no name is given.

    :raises ConfigError: for an unknown name, listing the known ones.
    """
    for name in names:
        if name not in stages:
            known = ', '.join(filter(None, stages)) or 'none, it is a single run'
            raise ConfigError(f'stage {name!r}: unknown; known: {known}')
    return {name: each for name, each in stages.items() if not names or name in names}


def run_stage(
    resolved: ResolvedConfig, options: ResumeOptions = RESUME_ONLY
) -> MetricResults | None:
    """
    Train one stage, unless it is already finished.

    :param resolved: configuration of the stage, from resolve_config when the stage starts: earlier
        stages write its model files.
    :param options: what a resumed run may do that is refused otherwise.
    :return: results on the val frames, as trainer.fit.
    :raises: the errors of trainer.fit.
    """
    if not checkpoint.is_done(resolved, options):
        return trainer.fit(resolved, options=options)
    if rank():
        return None
    out = resolved.config.out
    log.info('%s: already finished, skipped', out)
    return _read_results(Path(out) / 'metrics.json')


def _read_results(path: Path) -> MetricResults:
    """Read the metrics of a finished run; CheckpointError for a torn or foreign file."""
    content = read_json_object(path)
    try:
        results = metrics.results_from_json(content)
        if not results.ap.by_class:
            raise LookupError('no class')
        return results
    except (LookupError, TypeError, ValueError, AttributeError) as err:
        raise CheckpointError(
            f'{path}: not the metrics of a run ({err!r}); remove it and run again: last.pt has the'
            ' weights'
        ) from err


def plot_stage_losses(finished_stages: dict[str, TrainConfig]) -> Path:
    """Plot the loss curves of several stages into one PNG next to the last folder; return it."""
    folders = {name: Path(config.out) for name, config in finished_stages.items()}
    *_, last = folders.values()
    path = last.parent / 'stages.png'
    charts.plot_loss_curves(
        {name: folder / 'curves.csv' for name, folder in folders.items()}, path
    )
    return path
