"""Values of parameters as ROS has them -> as we have them; a ValueError says what is wrong."""

from __future__ import annotations

import math
import re
from itertools import pairwise
from typing import Any

#: What trigger says where each camera is answered as soon as its image is there.
TRIGGER_ANY = 'any'


def as_bool(value: Any) -> bool:
    """Take true or false, not 1 or 'true'."""
    if not isinstance(value, bool):
        raise ValueError(f'expected true or false, got {value!r}')
    return value


def as_str(value: Any) -> str:
    """Take a text; YAML makes numbers and flags of some words."""
    if not isinstance(value, str):
        raise ValueError(f'expected text, got {value!r}; put it in quotes')
    return value


def as_str_list(value: Any) -> tuple[str, ...]:
    """Take a list of texts."""
    return tuple(as_str(each) for each in _as_items(value, 'texts'))


def as_float(value: Any) -> float:
    """Take a finite number, an integer too."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f'expected a number, got {value!r}')
    return float(value)


def as_float_list(value: Any) -> tuple[float, ...]:
    """Take a list of numbers."""
    return tuple(as_float(each) for each in _as_items(value, 'numbers'))


def as_distance_thresholds(value: Any) -> tuple[float, ...]:
    """Take a list of distance, score, distance, score, ... ."""
    given = as_float_list(value)
    if len(given) % 2:
        raise ValueError(f'expected pairs of distance and score, got {len(given)} numbers')
    if not all(near < far for near, far in pairwise((0.0, *given[::2]))):
        raise ValueError(
            f'expected distances that ascend from above 0, got {_format_numbers(given[::2])}'
        )
    if not all(0 <= score <= 1 for score in given[1::2]):
        raise ValueError(f'expected scores from 0 to 1, got {_format_numbers(given[1::2])}')
    return given


def as_names(value: Any) -> tuple[str, ...]:
    """Take a list of different names that topics and parameters can have."""
    given = as_str_list(value)
    for name in given:
        if not re.fullmatch('[A-Za-z][A-Za-z0-9_]*', name) or name == TRIGGER_ANY:
            raise ValueError(
                'expected names of letters, digits and _ that begin with a letter and are not '
                f'{TRIGGER_ANY!r}, got {name!r}'
            )
    if len(set(given)) < len(given):
        raise ValueError(f'expected different names, got {", ".join(given)}')
    return given


def as_device(value: Any) -> str:
    """Take auto, cpu, cuda or cuda:N."""
    given = as_str(value)
    kind, _, index = given.partition(':')
    if given not in ('auto', 'cpu', 'cuda') and not (kind == 'cuda' and index.isdigit()):
        raise ValueError(f'expected auto, cpu, cuda or cuda:N, got {given!r}')
    return given


def _as_items(value: Any, item_kind: str) -> tuple[Any, ...]:
    """Take a list; ROS hands an empty one of a YAML file over as None."""
    if value is None:
        return ()
    if isinstance(value, (str, bytes)) or not hasattr(value, '__iter__'):
        raise ValueError(f'expected a list of {item_kind}, got {value!r}')
    return tuple(value)


def _format_numbers(numbers: tuple[float, ...]) -> str:
    return ', '.join(f'{each:g}' for each in numbers)
