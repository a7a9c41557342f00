"""
Checkpoints: save and resume a training run, and detect finished runs.

Files are written atomically, so a crash at any moment leaves a complete checkpoint.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from stl_core.files import atomic_file, write_atomically
from stl_core.inference import model_file
from stl_core.training import validation
from stl_core.training.config import build_train_config
from stl_core.training.config_builder import ConfigError
from stl_core.training.optim import Optimizer
from stl_core.training.resolved_config import ResolvedConfig

log = logging.getLogger(__name__)

#: Keys that may change when a run is resumed, because they do not affect the weights. The start
#: model and the teacher are compared by SHA-256, not by path.
NOT_COMPARED = (
    'out',
    'start',
    'distill.teacher',
    'device',
    'workers',
    'save_every',
    'eval_every',
    'patience',
    'train.keep_images',
    'val.keep_images',
)
#: Key of done.json for the epochs and metric values with which the run ended.
ENDED_KEY = 'ended'


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be resumed; the message gives the reason."""


def save_checkpoint(
    path: Path, model: nn.Module, optimizer: Optimizer, resolved: ResolvedConfig, epoch: int
) -> None:
    """Write a checkpoint atomically: after a crash the file is either the old or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {
        'model': model.state_dict(),
        **optimizer.state_dict(),
        'config': dataclasses.asdict(resolved.config),
        'epoch': epoch,
    }
    with atomic_file(path) as part:
        torch.save(state, part)


def resume_from(
    path: Path, model: nn.Module, optimizer: Optimizer, resolved: ResolvedConfig
) -> int:
    """
    Restore model and optimiser from a checkpoint, if it exists.

    Random numbers depend on (seed, epoch, frame) only and schedules on the epoch only, so the
    checkpoint is the complete state: on the same device and number of threads, a resumed run is
    bit-identical to an uninterrupted one.

    :param path: checkpoint file.
    :param model: module to restore.
    :param optimizer: optimiser to restore.
    :param resolved: configuration of the run.
    :return: number of completed epochs; 0 without a checkpoint.
    :raises CheckpointError: for a checkpoint of another configuration, naming the differing keys.
    """
    if not path.exists():
        return 0
    state = torch.load(path, map_location='cpu', weights_only=True)
    try:
        differ = config_differences(resolved, state['config'])
    except ConfigError as err:
        raise CheckpointError(f'{path}: made by another version ({err})') from err
    if differ:
        raise CheckpointError(
            f'{path}: made with another {", ".join(differ[:5])}; choose another out= or remove it'
        )
    model.load_state_dict(state['model'])
    optimizer.load_state_dict(state)
    log.info('%s: resuming after epoch %d', path, state['epoch'])
    return int(state['epoch'])


def config_differences(resolved: ResolvedConfig, other: dict[str, Any]) -> list[str]:
    """
    List the dotted keys that differ between two configurations, except NOT_COMPARED.

    :param resolved: configuration of this run.
    :param other: plain data of another run's configuration; keys added since get their defaults.
    :return: sorted keys.
    :raises ConfigError: if `other` is no longer a valid configuration.
    """
    built = (build_train_config(dataclasses.asdict(resolved.config)), build_train_config(other))
    here, there = (flatten_config(dataclasses.asdict(each)) for each in built)
    differ = sorted(k for k in here.keys() | there.keys() if here.get(k) != there.get(k))
    return [key for key in differ if key not in NOT_COMPARED]


def mark_done(resolved: ResolvedConfig, epochs: int, metric_values: Sequence[float]) -> None:
    """
    Write done.json, which marks a run as finished.

    :param resolved: configuration of the run.
    :param epochs: completed epochs; fewer than config.epochs after early stopping (patience).
    :param metric_values: metric of every evaluation.
    """
    record = {
        **dataclasses.asdict(resolved.config),
        ENDED_KEY: {'epochs': epochs, 'values': list(metric_values)},
    }
    write_atomically(
        Path(resolved.config.out) / 'done.json', json.dumps(record, indent=1).encode()
    )


def is_done(resolved: ResolvedConfig) -> bool:
    """
    Return whether a run of this configuration is finished, with model file and metrics written.

    A run that stopped early counts as finished only if config.patience would stop it there, too.
    """
    config = resolved.config
    out = Path(config.out)
    model_path = out / 'student.safetensors'
    if not all(each.is_file() for each in (out / 'done.json', out / 'metrics.json', model_path)):
        return False
    try:
        record = json.loads((out / 'done.json').read_text())
        ended = record.pop(ENDED_KEY, None) or {
            # older versions did not write ENDED_KEY; the model file holds the epochs
            'epochs': model_file.read_model_spec(model_path).provenance.get('epoch'),
            'values': (),
        }
        complete = ended['epochs'] == config.epochs
        stalled = validation.is_stalled(ended['values'], config.patience)
        return (complete or stalled) and not config_differences(resolved, record)
    except (ConfigError, json.JSONDecodeError, model_file.ModelFileError):
        return False


def flatten_config(value: Any, path: str = '') -> dict[str, Any]:
    """Flatten nested dicts to {dotted path: JSON text}, equal for tuples and lists."""
    if isinstance(value, dict):
        parts = [
            flatten_config(item, f'{path}.{key}' if path else str(key))
            for key, item in value.items()
        ]
        return {key: item for part in parts for key, item in part.items()}
    return {path: json.dumps(value)}
