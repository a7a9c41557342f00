"""
Build configuration dataclasses from YAML, with strict checks.

Unknown keys, missing keys and wrong types raise ConfigError with the path of the key and the
expected value. Environment variables fill `${NAME}` and `${NAME:-default}` in strings.
"""

from __future__ import annotations

import dataclasses
import math
import os
import re
import types
import typing
from pathlib import Path
from typing import Any

import yaml

from stl_core.data.frame_source import SourceConfig
from stl_core.data.sources import DEFAULT_FORMAT, SOURCES


class ConfigError(ValueError):
    """An invalid configuration; the message names the key."""


class _UniqueKeyLoader(yaml.SafeLoader):
    """PyYAML's safe loader, except that a key given twice is an error: the first would be lost."""

    def compose_mapping_node(self, anchor: Any) -> Any:
        """Compose a mapping; raise ConfigError for a repeated key. Merges (<<) may repeat keys."""
        node = super().compose_mapping_node(anchor)
        lines: dict[str, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode) or key.value == '<<':
                continue
            if key.value in lines:
                raise ConfigError(
                    f'line {line}: {key.value} is given twice, first in line {lines[key.value]};'
                    ' keep one'
                )
            lines[key.value] = line
        return node


def read_yaml(path: str | Path, overrides: tuple[str, ...] = ()) -> dict[str, Any]:
    """
    Read a YAML file of keys and values, and apply overrides.

    :param path: YAML file.
    :param overrides: 'dotted.key=value', values in YAML syntax.
    :return: nested dicts, lists and scalars.
    :raises ConfigError: for a missing or invalid file, a key that a mapping has twice, or an
        invalid override.
    """
    try:
        data = yaml.load(Path(path).read_text('utf-8-sig'), _UniqueKeyLoader) or {}
    except ConfigError:
        raise
    except FileNotFoundError as err:
        raise ConfigError('no such file; expected a YAML configuration') from err
    except (yaml.YAMLError, ValueError, RecursionError, IsADirectoryError) as err:
        raise ConfigError(f'not YAML ({str(err).splitlines()[0]})') from err
    if not isinstance(data, dict):
        raise ConfigError(f'expected keys and values, got {type(data).__name__}')
    return apply_overrides(data, overrides)


def apply_overrides(data: dict[str, Any], overrides: tuple[str, ...]) -> dict[str, Any]:
    """
    Return plain data with some values replaced.

    :param data: not modified; keys that share a value (YAML anchors) can be overridden separately.
    :param overrides: 'dotted.key=value', values in YAML syntax; the last one for a key wins.
    :return: a copy of the data with the overrides.
    :raises ConfigError: naming the override without '=', with invalid YAML, or with a key below a
        value that is not a mapping.
    """
    for override in overrides:
        key, sign, text = override.partition('=')
        if not sign:
            raise ConfigError(f'{override!r}: expected key=value')
        try:
            value = yaml.load(text, _UniqueKeyLoader)
        except (yaml.YAMLError, ValueError, RecursionError) as err:
            reason = str(err).splitlines()[0]
            raise ConfigError(f'{override!r}: the value is not YAML ({reason})') from err
        data = _set_key(data, key.split('.'), value, override)
    return data


def build_typed(kind: Any, value: Any, key_path: str = '') -> Any:
    """
    Convert plain data to a type, with strict checks.

    :param kind: a dataclass, tuple, dict, Optional, plain type, SourceConfig or Any.
    :param value: plain data.
    :param key_path: dotted path of the value, for messages.
    :return: the value, of that type.
    :raises ConfigError: for an unknown or missing key, a wrong type or a wrong length.
    """
    where = key_path or 'configuration'
    if kind is Any:
        return value
    if kind is SourceConfig:
        return _build_source(value, where)
    if dataclasses.is_dataclass(kind):
        return _build_dataclass(kind, value, key_path)
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        rest = [each for each in args if each is not type(None)]
        return None if value is None else build_typed(rest[0], value, key_path)
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise ConfigError(f'{where}: expected a list, got {value!r}')
        if args[-1] is not Ellipsis and len(value) != len(args):
            raise ConfigError(f'{where}: expected {len(args)} values, got {len(value)}')
        kinds = args[:1] * len(value) if args[-1] is Ellipsis else args
        pairs = enumerate(zip(kinds, value, strict=True))
        return tuple(build_typed(each, item, f'{where}[{i}]') for i, (each, item) in pairs)
    if origin is dict:
        if not isinstance(value, dict):
            raise ConfigError(f'{where}: expected keys and values, got {value!r}')
        return {
            str(key): build_typed(args[1], item, f'{where}.{key}') for key, item in value.items()
        }
    return _build_plain(kind, value, where)


def _build_dataclass(kind: Any, value: Any, key_path: str) -> Any:
    if dataclasses.is_dataclass(value):
        return value
    if not isinstance(value, dict):
        raise ConfigError(
            f'{key_path or "configuration"}: expected keys and values, got {value!r}'
        )
    hints = typing.get_type_hints(kind)
    known = {f.name: f for f in dataclasses.fields(kind)}
    prefix = f'{key_path}.' if key_path else ''
    for key in value:
        if key not in known:
            raise ConfigError(f'{prefix}{key}: unknown key; known: {", ".join(sorted(known))}')
    for key, each in known.items():
        required = each.default is dataclasses.MISSING
        if required and each.default_factory is dataclasses.MISSING and key not in value:
            raise ConfigError(f'{prefix}{key}: missing')
    built = {key: build_typed(hints[key], item, f'{prefix}{key}') for key, item in value.items()}
    try:
        return kind(**built)
    except ConfigError:
        raise
    except ValueError as err:
        raise ConfigError(f'{key_path or "configuration"}: {err}') from err


def _build_source(value: Any, where: str) -> Any:
    """Build the configuration of a data set: the key `format` selects its dataclass."""
    if not isinstance(value, dict):
        return _build_dataclass(SourceConfig, value, where)
    name = build_typed(str, value.get('format', DEFAULT_FORMAT), f'{where}.format')
    if name not in SOURCES:
        raise ConfigError(f'{where}.format: {name!r} is unknown; known: {", ".join(SOURCES)}')
    kind = SOURCES[name].config
    fields = {field.name for field in dataclasses.fields(kind)}
    for key in value:
        if key not in fields | {'format'}:
            known = ', '.join(sorted(fields | {'format'}))
            raise ConfigError(f'{where}.{key}: unknown key; known: {known}')
    # KITTI has no field `format`: the checkpoints of older versions have no such key
    return _build_dataclass(kind, {k: v for k, v in value.items() if k in fields}, where)


def _build_plain(kind: Any, value: Any, where: str) -> Any:
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = _as_float(value)
    if kind in (float, int) and isinstance(value, str) and _is_number(value):
        hint = '; YAML reads 1e-5 as text, write 1.0e-5' if 'e' in value.lower() else ''
        raise ConfigError(f'{where}: expected {kind.__name__}, got the text {value!r}{hint}')
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ConfigError(f'{where}: expected {kind.__name__}, got {value!r}')
    # a loss may have an infinite limit; elsewhere infinity ends in weights that are not numbers
    if isinstance(value, float) and not (
        math.isfinite(value) or _is_limit_of_a_loss(value, where)
    ):
        raise ConfigError(f'{where}: expected a finite number, got {value}')
    return expand_env(value) if isinstance(value, str) else value


def _as_float(value: int) -> float:
    """Convert an integer; one beyond the range of floats becomes infinity."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def _is_limit_of_a_loss(value: float, where: str) -> bool:
    return math.isinf(value) and where.startswith('distill.losses.')


def expand_env(text: str) -> str:
    """Replace ${NAME} and ${NAME:-default}; ConfigError for an unset NAME without default."""

    def fill(match: re.Match[str]) -> str:
        name, default = match.group(1), match.group(2)
        value = os.environ.get(name) or default
        if value is None:
            raise ConfigError(f'{text!r}: the environment variable {name} is not set')
        return value

    return re.sub(r'\$\{(\w+)(?::-([^}]*))?\}', fill, text)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _set_key(data: dict[str, Any], keys: list[str], value: Any, override: str) -> dict[str, Any]:
    """Return data with one nested key set; copies only the mappings along its path."""
    key, *rest = keys
    if not rest:
        return {**data, key: value}
    inner = {} if data.get(key) is None else data[key]
    if not isinstance(inner, dict):
        raise ConfigError(f'{override!r}: {key} is not a group of keys')
    return {**data, key: _set_key(inner, rest, value, override)}
