"""Validators of ROS parameters: each casts a value or raises a ValueError with the reason."""

from __future__ import annotations

import math
import re
from itertools import pairwise
from typing import Any

#: Value of the parameter trigger that processes each camera as soon as its image arrives.
TRIGGER_ANY = 'any'


def as_bool(value: Any) -> bool:
    """Return a bool; refuse 1 and 'true'."""
    if not isinstance(value, bool):
        raise ValueError(f'expected true or false, got {value!r}')
    return value


def as_rectified(value: Any) -> str:
    """Return 'auto', 'true' or 'false'; YAML and the command line make a bool of the last two."""
    text = str(value).lower() if isinstance(value, (bool, str)) else ''
    if text not in ('auto', 'true', 'false'):
        raise ValueError(f'expected auto, true or false, got {value!r}')
    return text


def as_str(value: Any) -> str:
    """Return a string; YAML reads some unquoted words as numbers or booleans."""
    if not isinstance(value, str):
        raise ValueError(f'expected a string, got {value!r}; put it in quotes')
    return value


def as_str_list(value: Any) -> tuple[str, ...]:
    """Return a list of strings as a tuple."""
    return tuple(as_str(each) for each in _as_items(value, 'strings'))


def as_float(value: Any) -> float:
    """Return a finite number, integer or not, as a float; refuse booleans."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f'expected a number, got {value!r}')
    return float(value)


def as_bit_depth(value: Any) -> int:
    """Return 0 or a number of bits, 8 to 16."""
    if isinstance(value, bool) or value not in (0, *range(8, 17)):
        raise ValueError(f'expected 0 or 8 to 16 bits, got {value!r}')
    return int(value)


def as_float_list(value: Any) -> tuple[float, ...]:
    """Return a list of finite numbers as a tuple of floats."""
    return tuple(as_float(each) for each in _as_items(value, 'numbers'))


def as_distance_thresholds(value: Any) -> tuple[float, ...]:
    """Return a flat list distance, score, ...: ascending distances above 0, scores from 0 to 1."""
    values = as_float_list(value)
    if len(values) % 2:
        raise ValueError(f'expected pairs of distance and score, got {len(values)} numbers')
    if not all(near < far for near, far in pairwise((0.0, *values[::2]))):
        raise ValueError(
            f'expected ascending distances above 0, got {_format_numbers(values[::2])}'
        )
    if not all(0 <= score <= 1 for score in values[1::2]):
        raise ValueError(f'expected scores from 0 to 1, got {_format_numbers(values[1::2])}')
    return values


def as_names(value: Any) -> tuple[str, ...]:
    """Return a list of distinct names that are valid in topics and parameters."""
    names = as_str_list(value)
    for name in names:
        if not re.fullmatch('[A-Za-z][A-Za-z0-9_]*', name) or name == TRIGGER_ANY:
            raise ValueError(
                'expected names of letters, digits and _ that begin with a letter and are not '
                f'{TRIGGER_ANY!r}, got {name!r}'
            )
    if len(set(names)) < len(names):
        raise ValueError(f'expected different names, got {", ".join(names)}')
    return names


def as_device(value: Any) -> str:
    """Return a device name: auto, cpu, cuda or cuda:N."""
    device = as_str(value)
    kind, _, index = device.partition(':')
    if device not in ('auto', 'cpu', 'cuda') and not (kind == 'cuda' and index.isdigit()):
        raise ValueError(f'expected auto, cpu, cuda or cuda:N, got {device!r}')
    return device


def _as_items(value: Any, item_kind: str) -> tuple[Any, ...]:
    """Return the items of a list; ROS passes an empty list of a YAML file as None."""
    if value is None:
        return ()
    if isinstance(value, (str, bytes)) or not hasattr(value, '__iter__'):
        raise ValueError(f'expected a list of {item_kind}, got {value!r}')
    return tuple(value)


def _format_numbers(numbers: tuple[float, ...]) -> str:
    return ', '.join(f'{each:g}' for each in numbers)
