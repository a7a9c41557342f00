"""
The state of a run on disk: checkpoints that a crash at any moment leaves whole.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from stl_core.files import write_atomically
from stl_core.inference import model_file
from stl_core.training import validation
from stl_core.training.config import TrainConfig, build_train_config
from stl_core.training.config_builder import ConfigError
from stl_core.training.optim import Optimizer

log = logging.getLogger(__name__)

#: What may differ between a run and its continuation: none of it touches the weights. Of files
#: that it learns from, their digests are compared, not where they lie.
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
#: Key of done.json under which it says how the run ended.
ENDED_KEY = 'ended'


class CheckpointError(RuntimeError):
    """A checkpoint that a run cannot go on from; the message says why."""


def save_checkpoint(
    path: Path, model: nn.Module, optimizer: Optimizer, config: TrainConfig, epoch: int
) -> None:
    """Write a checkpoint atomically: after a crash the file is the old one or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + '.part')
    torch.save(
        {
            'model': model.state_dict(),
            **optimizer.state_dict(),
            'config': dataclasses.asdict(config),
            'epoch': epoch,
        },
        part,
    )
    with part.open('rb') as file:
        os.fsync(file.fileno())
    part.replace(path)


def resume_from(path: Path, model: nn.Module, optimizer: Optimizer, config: TrainConfig) -> int:
    """
    Go on from a checkpoint where there is one.

    Chance depends on (seed, epoch, frame) alone, and the schedules on the epoch, so what is saved
    is all the state there is: on the same device and number of threads the run goes on bit for
    bit.

    :return: epochs done.
    :raises CheckpointError: for a checkpoint of another configuration, naming the difference.
    """
    if not path.exists():
        return 0
    state = torch.load(path, map_location='cpu', weights_only=True)
    try:
        differ = config_differences(config, state['config'])
    except ConfigError as err:
        raise CheckpointError(f'{path}: made by another version ({err})') from err
    if differ:
        raise CheckpointError(
            f'{path}: made with another {", ".join(differ[:5])}; choose another out= or remove it'
        )
    model.load_state_dict(state['model'])
    optimizer.load_state_dict(state)
    log.info('%s: going on after epoch %d', path, state['epoch'])
    return int(state['epoch'])


def config_differences(config: TrainConfig, other: dict[str, Any]) -> list[str]:
    """
    List the keys that differ and matter.

    :param config: of this run.
    :param other: plain data of another, built anew so that younger keys have their defaults.
    :raises ConfigError: when that is no configuration today.
    """
    built = (build_train_config(dataclasses.asdict(config)), build_train_config(other))
    ours, theirs = (flatten_config(dataclasses.asdict(each)) for each in built)
    differ = sorted(k for k in ours.keys() | theirs.keys() if ours.get(k) != theirs.get(k))
    return [key for key in differ if key not in NOT_COMPARED]


def mark_done(config: TrainConfig, epochs: int, metric_values: Sequence[float]) -> None:
    """
    Note in the folder of a run that it is at its end.

    :param config: of the run.
    :param epochs: how many it has done: fewer than it was to do where patience ended it.
    :param metric_values: the metric of every evaluation.
    """
    record = {
        **dataclasses.asdict(config),
        ENDED_KEY: {'epochs': epochs, 'values': list(metric_values)},
    }
    write_atomically(Path(config.out) / 'done.json', json.dumps(record, indent=1).encode())


def is_done(config: TrainConfig) -> bool:
    """
    Whether a run of this configuration is at its end, student and figures written.

    A run that its patience ended is at its end only where the patience of today ends it, too.
    """
    out = Path(config.out)
    model_path = out / 'student.safetensors'
    if not all(each.is_file() for each in (out / 'done.json', out / 'metrics.json', model_path)):
        return False
    try:
        record = json.loads((out / 'done.json').read_text())
        ended = record.pop(ENDED_KEY, None) or {
            # written by an older version: the student knows
            'epochs': model_file.read_model_spec(model_path).provenance.get('epoch'),
            'values': (),
        }
        complete = ended['epochs'] == config.epochs
        stalled = validation.is_stalled(ended['values'], config.patience)
        return (complete or stalled) and not config_differences(config, record)
    except (ConfigError, json.JSONDecodeError, model_file.ModelFileError):
        return False


def flatten_config(value: Any, path: str = '') -> dict[str, Any]:
    """Turn nested dicts into {dotted path: value}; tuples and lists compare alike."""
    if isinstance(value, dict):
        parts = [
            flatten_config(item, f'{path}.{key}' if path else str(key))
            for key, item in value.items()
        ]
        return {key: item for part in parts for key, item in part.items()}
    return {path: json.dumps(value)}
