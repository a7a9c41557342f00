"""
The state of a run on disk: checkpoints that a crash at any moment leaves whole.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

from stl_core.config import ConfigError, TrainConfig, build_train
from stl_core.optim import Optimizer

log = logging.getLogger(__name__)

#: What may differ between a run and its continuation: none of it touches the weights.
FREE = (
    'out',
    'device',
    'workers',
    'save_every',
    'eval_every',
    'patience',
    'train.keep_images',
    'val.keep_images',
)


class CheckpointError(RuntimeError):
    """A checkpoint that a run cannot go on from; the message says why."""


def save(
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


def resume(path: Path, model: nn.Module, optimizer: Optimizer, config: TrainConfig) -> int:
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
    try:  # built anew, so that keys younger than the checkpoint have their defaults
        built = [build_train(each) for each in (dataclasses.asdict(config), state['config'])]
    except ConfigError as err:
        raise CheckpointError(f'{path}: made by another version ({err})') from err
    ours, theirs = (flatten(dataclasses.asdict(each)) for each in built)
    differ = sorted(k for k in ours.keys() | theirs.keys() if ours.get(k) != theirs.get(k))
    differ = [key for key in differ if key not in FREE]
    if differ:
        raise CheckpointError(
            f'{path}: made with another {", ".join(differ[:5])}; choose another out= or remove it'
        )
    model.load_state_dict(state['model'])
    optimizer.load_state_dict(state)
    log.info('%s: going on after epoch %d', path, state['epoch'])
    return int(state['epoch'])


def flatten(value: Any, path: str = '') -> dict[str, Any]:
    """Turn nested dicts into {dotted path: value}; tuples and lists compare alike."""
    if isinstance(value, dict):
        parts = [
            flatten(item, f'{path}.{key}' if path else str(key)) for key, item in value.items()
        ]
        return {key: item for part in parts for key, item in part.items()}
    return {path: json.dumps(value)}


def write_atomically(path: Path, data: bytes) -> None:
    """Replace a file in one step."""
    part = path.with_name(path.name + '.part')
    part.write_bytes(data)
    part.replace(path)
