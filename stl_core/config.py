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

from stl_core import judge
from stl_core.data.dataset import DataConfig
from stl_core.data.kitti import CLASSES
from stl_core.images import InputSpec
from stl_core.models import DETECTORS
from stl_core.models.sizes import MEAN_SIZE_HWL_M
from stl_core.optim import OptimConfig
from stl_core.precision import PRECISIONS


class ConfigError(ValueError):
    """A configuration that cannot be used; the message names the key."""


@dataclass(frozen=True)
class DetectorConfig:
    """Which detector, and its own numbers (checked against its own Config)."""

    name: str = 'monodle'
    options: Any = field(default_factory=dict)


@dataclass(frozen=True)
class TrainConfig:
    """
    A training run.

    :param out: folder for checkpoints, curves and the student.
    :param classes: class names, in the order of class_id; objects of others are background.
    :param detector: the network; where its options give no mean_size_hwl_m, that is filled in
        from MEAN_SIZE_HWL_M.
    :param input: its canvas.
    :param train: frames to learn from.
    :param val: frames to be judged on.
    :param optim: optimiser and schedule.
    :param weights: weight of every loss, by name; must match the losses exactly. The detector's
        own where none are given.
    :param precision: what the network computes in: 'fp32', 'bf16' or 'fp16'.
    :param epochs: passes over the training frames.
    :param batch_size: images a step, at most, of all processes together.
    :param accumulate: parts in which a step's images are computed, one after the other: less
        memory, the same step (BatchNorm aside), one forward pass more.
    :param workers: loading processes, of each process.
    :param seed: root of all randomness.
    :param device: 'auto', 'cpu' or 'cuda:N'.
    :param save_every: epochs between checkpoints; there is one after every evaluation as well.
    :param eval_every: epochs between evaluations; 0 for only the last.
    :param metric: by which evaluations are compared: class (or 'mean' over those taught), bbox,
        bev, 3d or aos, AP40 or AP11, strict or loose IoU, easy, moderate or hard.
    :param patience: the run ends after so many evaluations in a row that brought nothing better;
        0 for never.
    """

    out: str = 'runs/train'
    classes: tuple[str, ...] = CLASSES
    detector: DetectorConfig = field(default_factory=DetectorConfig)
    input: InputSpec = field(default_factory=InputSpec)
    train: DataConfig = field(default_factory=DataConfig)
    val: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    weights: dict[str, float] = field(default_factory=dict)
    precision: str = 'fp32'
    epochs: int = 140
    batch_size: int = 16
    accumulate: int = 1
    workers: int = 2
    seed: int = 444
    device: str = 'auto'
    save_every: int = 1
    eval_every: int = 10
    metric: str = 'mean/3d/AP40/strict/moderate'
    patience: int = 0

    def __post_init__(self) -> None:
        """Refuse what no run can be made of."""
        if not self.classes or len(set(self.classes)) < len(self.classes):
            raise ValueError(f'classes: expected different names, got {list(self.classes)}')
        if 'DontCare' in self.classes:
            raise ValueError('classes: DontCare tells where nobody looked; it cannot be taught')
        if self.precision not in PRECISIONS:
            known = ', '.join(PRECISIONS)
            raise ValueError(f'precision: {self.precision!r} is unknown; known: {known}')
        least = dict.fromkeys(('epochs', 'batch_size', 'accumulate', 'save_every'), 1)
        for name, low in {**least, 'workers': 0, 'eval_every': 0, 'patience': 0}.items():
            if getattr(self, name) < low:
                raise ValueError(f'{name}: expected at least {low}, got {getattr(self, name)}')
        if self.eval_every:
            judge.read_metric(self.metric, self.classes)
        elif self.patience:
            raise ValueError('patience: counts evaluations, so it needs an eval_every')


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
    options = build(
        entry.config,
        _with_mean_sizes(entry.config, config.detector.options, config.classes),
        'detector.options',
    )
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


def _with_mean_sizes(kind: Any, options: Any, classes: tuple[str, ...]) -> Any:
    """Fill in the mean size of every class, for a detector that has them, where none are given."""
    wanted = any(field.name == 'mean_size_hwl_m' for field in dataclasses.fields(kind))
    if not wanted or not isinstance(options, dict):
        return options
    sizes = options.get('mean_size_hwl_m')
    if sizes is None:
        unknown = ', '.join(name for name in classes if name not in MEAN_SIZE_HWL_M)
        if unknown:
            raise ConfigError(
                f'detector.options.mean_size_hwl_m: must be given, as the size of {unknown} is'
                f' not known; known: {", ".join(MEAN_SIZE_HWL_M)}'
            )
        sizes = [MEAN_SIZE_HWL_M[name] for name in classes]
    if isinstance(sizes, (list, tuple)) and len(sizes) != len(classes):
        raise ConfigError(
            f'detector.options.mean_size_hwl_m: expected a row for each of the {len(classes)}'
            f' classes, got {len(sizes)}'
        )
    return {**options, 'mean_size_hwl_m': sizes}


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
