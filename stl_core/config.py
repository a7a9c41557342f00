"""
Strict configuration: frozen dataclasses hold every default, YAML holds differences only.

`load(TrainConfig, path, overrides)` refuses what it does not know, naming the path and the known
keys. `${NAME:-default}` in a string is filled from the environment.
"""

from __future__ import annotations

import dataclasses
import os
import re
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from stl_core.data.dataset import DataConfig
from stl_core.data.kitti import CLASSES
from stl_core.images import InputSpec
from stl_core.models import DETECTORS


class ConfigError(ValueError):
    """A configuration that cannot be used; the message names the key."""


@dataclass(frozen=True)
class DetectorConfig:
    """Which detector, and its own numbers (checked against its own Config)."""

    name: str = 'monodle'
    options: Any = field(default_factory=dict)


@dataclass(frozen=True)
class OptimConfig:
    """
    AdamW and its learning rate.

    :param lr: peak learning rate.
    :param weight_decay: on weights; biases and norms are free of it.
    :param warmup_epochs: rise linearly from lr / 100.
    :param schedule: key of train.SCHEDULES, 'step' or 'cosine'.
    :param drops: for 'step': fractions of the run after which lr falls tenfold.
    :param max_norm: gradients are clipped to this norm.
    :param freeze_norm_at: fraction of the run after which BatchNorm uses its running statistics,
        so that what is learnt last is what will be run; 1 for never.
    """

    lr: float = 1.25e-3
    weight_decay: float = 1.0e-5
    warmup_epochs: float = 5.0
    schedule: str = 'step'
    drops: tuple[float, ...] = (0.64, 0.86)
    max_norm: float = 35.0
    freeze_norm_at: float = 1.0


@dataclass(frozen=True)
class TrainConfig:
    """
    A training run.

    :param out: folder for checkpoints, curves and the student.
    :param classes: class names, in the order of class_id.
    :param detector: the network.
    :param input: its canvas.
    :param train: frames to learn from.
    :param val: frames to be judged on.
    :param optim: optimiser and schedule.
    :param weights: weight of every loss, by name; must match the losses exactly. The detector's
        own where none are given.
    :param epochs: passes over the training frames.
    :param batch_size: images a step.
    :param workers: loading processes.
    :param seed: root of all randomness.
    :param device: 'auto', 'cpu' or 'cuda:N'.
    :param save_every: epochs between checkpoints.
    :param eval_every: epochs between evaluations; 0 for only the last.
    """

    out: str = 'runs/train'
    classes: tuple[str, ...] = CLASSES
    detector: DetectorConfig = field(default_factory=DetectorConfig)
    input: InputSpec = field(default_factory=InputSpec)
    train: DataConfig = field(default_factory=DataConfig)
    val: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    weights: dict[str, float] = field(default_factory=dict)
    epochs: int = 140
    batch_size: int = 16
    workers: int = 2
    seed: int = 444
    device: str = 'auto'
    save_every: int = 1
    eval_every: int = 10


def load(path: str | Path, overrides: tuple[str, ...] = ()) -> TrainConfig:
    """
    Read a training configuration.

    :param path: a YAML file of differences from the defaults.
    :param overrides: 'dotted.key=value' on top, values as YAML.
    :return: the whole configuration.
    :raises ConfigError: naming the file and key that is wrong.
    """
    try:
        data = yaml.safe_load(Path(path).read_text()) or {}
    except FileNotFoundError as err:
        raise ConfigError(f'{path}: no such file; expected a YAML configuration') from err
    except (yaml.YAMLError, UnicodeDecodeError, IsADirectoryError) as err:
        raise ConfigError(f'{path}: not YAML ({str(err).splitlines()[0]})') from err
    if not isinstance(data, dict):
        raise ConfigError(f'{path}: expected keys and values, got {type(data).__name__}')
    for override in overrides:
        _override(data, override)
    try:
        return build_train(data)
    except ConfigError as err:
        raise ConfigError(f'{path}: {err}') from err


def build_train(data: dict[str, Any]) -> TrainConfig:
    """Build a TrainConfig from plain data; the detector's options become its own Config."""
    config: TrainConfig = build(TrainConfig, data)
    name = config.detector.name
    if name not in DETECTORS:
        raise ConfigError(f'detector.name: {name!r} is unknown; known: {", ".join(DETECTORS)}')
    entry = DETECTORS[name]
    options = build(entry.config, config.detector.options, 'detector.options')
    weights = config.weights or dict(entry.weights)
    return dataclasses.replace(config, detector=DetectorConfig(name, options), weights=weights)


def build(kind: Any, value: Any, path: str = '') -> Any:
    """
    Turn plain data into a type, strictly.

    :param kind: a dataclass, tuple, dict, Optional or plain type.
    :param value: what YAML gave.
    :param path: where we are, for messages.
    :return: the value, of that type.
    :raises ConfigError: for an unknown or missing key, a wrong type or length.
    """
    where = path or 'configuration'
    if kind is Any:
        return value
    if dataclasses.is_dataclass(kind):
        return _build_dataclass(kind, value, path)
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        rest = [each for each in args if each is not type(None)]
        return None if value is None else build(rest[0], value, path)
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise ConfigError(f'{where}: expected a list, got {value!r}')
        if args[-1] is not Ellipsis and len(value) != len(args):
            raise ConfigError(f'{where}: expected {len(args)} values, got {len(value)}')
        kinds = args[:1] * len(value) if args[-1] is Ellipsis else args
        pairs = enumerate(zip(kinds, value, strict=True))
        return tuple(build(each, item, f'{where}[{i}]') for i, (each, item) in pairs)
    if origin is dict:
        if not isinstance(value, dict):
            raise ConfigError(f'{where}: expected keys and values, got {value!r}')
        return {str(key): build(args[1], item, f'{where}.{key}') for key, item in value.items()}
    return _build_plain(kind, value, where)


def _build_dataclass(kind: Any, value: Any, path: str) -> Any:
    if dataclasses.is_dataclass(value):
        return value
    if not isinstance(value, dict):
        raise ConfigError(f'{path or "configuration"}: expected keys and values, got {value!r}')
    hints = typing.get_type_hints(kind)
    known = {f.name: f for f in dataclasses.fields(kind)}
    prefix = f'{path}.' if path else ''
    for key in value:
        if key not in known:
            raise ConfigError(f'{prefix}{key}: unknown key; known: {", ".join(sorted(known))}')
    for key, each in known.items():
        required = each.default is dataclasses.MISSING
        if required and each.default_factory is dataclasses.MISSING and key not in value:
            raise ConfigError(f'{prefix}{key}: missing')
    built = {key: build(hints[key], item, f'{prefix}{key}') for key, item in value.items()}
    try:
        return kind(**built)
    except ConfigError:
        raise
    except ValueError as err:
        raise ConfigError(f'{path or "configuration"}: {err}') from err


def _build_plain(kind: type, value: Any, where: str) -> Any:
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind in (float, int) and isinstance(value, str) and _number(value):
        hint = '; YAML reads 1e-5 as text, write 1.0e-5' if 'e' in value.lower() else ''
        raise ConfigError(f'{where}: expected {kind.__name__}, got the text {value!r}{hint}')
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ConfigError(f'{where}: expected {kind.__name__}, got {value!r}')
    return expand(value) if isinstance(value, str) else value


def expand(text: str) -> str:
    """Fill ${NAME:-default} and ${NAME} from the environment; ConfigError where neither is."""

    def fill(match: re.Match[str]) -> str:
        name, default = match.group(1), match.group(2)
        found = os.environ.get(name) or default
        if found is None:
            raise ConfigError(f'{text!r}: the environment variable {name} is not set')
        return found

    return re.sub(r'\$\{(\w+)(?::-([^}]*))?\}', fill, text)


def _number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _override(data: dict[str, Any], override: str) -> None:
    """Set one dotted key of freshly read YAML."""
    key, sign, text = override.partition('=')
    if not sign:
        raise ConfigError(f'{override!r}: expected key=value')
    *parents, last = key.split('.')
    for parent in parents:
        data = data.setdefault(parent, {})
        if not isinstance(data, dict):
            raise ConfigError(f'{override!r}: {parent} is not a group of keys')
    data[last] = yaml.safe_load(text)
