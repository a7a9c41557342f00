"""
Every parameter of the node, once: default, range and meaning.

node.py declares them by looping over the fields; config/detector.yaml is held against them by a
test. YAML writes 1 where it means 1.0, so numbers are cast here and refused with a clear word.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f'expected true or false, got {value!r}')
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f'expected text, got {value!r}; put it in quotes')
    return value


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f'expected a number, got {value!r}')
    return float(value)


def _numbers(value: Any) -> tuple[float, ...]:
    """Cast a list; ROS hands an empty list of a YAML file over as None."""
    if value is None:
        return ()
    if isinstance(value, (str, bytes)) or not hasattr(value, '__iter__'):
        raise ValueError(f'expected a list of numbers, got {value!r}')
    return tuple(_number(each) for each in value)


def _device(value: Any) -> str:
    device = _text(value)
    kind, _, index = device.partition(':')
    if device not in ('auto', 'cpu', 'cuda') and not (kind == 'cuda' and index.isdigit()):
        raise ValueError(f'expected auto, cpu, cuda or cuda:N, got {device!r}')
    return device


def _param(
    default: Any,
    cast: Callable[[Any], Any],
    description: str,
    *,
    live: bool = False,
    limits: tuple[float, float] | None = None,
    choices: tuple[str, ...] = (),
) -> Any:
    """
    Describe one parameter.

    :param cast: value as ROS has it -> value as we have it; ValueError for a wrong one.
    :param live: may be changed while the node runs.
    :param limits: lowest and highest number.
    :param choices: the words it may be.
    """
    about = {'cast': cast, 'description': description, 'live': live}
    return field(default=default, metadata={**about, 'limits': limits, 'choices': choices})


@dataclass(frozen=True)
class Params:
    """Every parameter of the node; metadata of the fields says what they mean."""

    model: str = _param(
        'synthetic_mobile.safetensors',
        _text,
        'Student file: a path (also with ~ or $VAR), package://PACKAGE/PATH, or the name of a '
        'student that comes with the package.',
    )
    device: str = _param('auto', _device, 'Where the network runs: auto, cpu, cuda or cuda:N.')
    require_cuda: bool = _param(
        False, _flag, 'Refuse to start without a GPU, instead of running slowly on the CPU.'
    )
    camera_name: str = _param('camera', _text, 'Name of the camera, first part of marker names.')
    image_topic: str = _param('image_raw', _text, 'Topic of the images.')
    camera_info_topic: str = _param(
        '', _text, 'Topic of camera_info; empty: camera_info beside the image topic.'
    )
    transport: str = _param(
        'auto',
        _text,
        'Which images to take: raw (IMAGE_TOPIC), compressed (IMAGE_TOPIC/compressed) or auto '
        '(both topics, whichever arrives).',
        choices=('raw', 'compressed', 'auto'),
    )
    rectified: bool = _param(
        True,
        _flag,
        'The images are rectified, so P of camera_info holds; false: rectify them with K and D.',
    )
    reliability: str = _param(
        'best_effort',
        _text,
        'QoS of the image and camera_info subscriptions; best_effort hears every publisher.',
        choices=('best_effort', 'reliable'),
    )
    score_threshold: float = _param(
        0.1, _number, 'Objects with a lower score are not sent.', live=True, limits=(0.0, 1.0)
    )
    class_thresholds: tuple[float, ...] = _param(
        (),
        _numbers,
        'One score threshold a class, in the order of the model; empty: score_threshold for all.',
        live=True,
        limits=(0.0, 1.0),
    )
    max_age_s: float = _param(
        0.0,
        _number,
        'Images older than this are dropped, seconds; 0 keeps all. The clock of the node must be '
        'that of the stamps: replay bags with --clock and use_sim_time.',
        live=True,
        limits=(0.0, 3600.0),
    )
    marker_lifetime_s: float = _param(
        0.3,
        _number,
        'A viewer takes boxes away by itself after this, seconds; 0: never.',
        live=True,
        limits=(0.0, 3600.0),
    )
    autostart: bool = _param(
        True, _flag, 'Configure and activate at start; false: leave it to a lifecycle manager.'
    )

    def __post_init__(self) -> None:
        """Cast every value and refuse wrong ones by name."""
        for each in fields(self):
            try:
                value = each.metadata['cast'](getattr(self, each.name))
                _check(value, each.metadata['limits'], each.metadata['choices'])
            except ValueError as err:
                raise ValueError(f'parameter {each.name}: {err}') from None
            object.__setattr__(self, each.name, value)

    def min_scores(self, classes: tuple[str, ...]) -> tuple[float, ...]:
        """
        Return the score threshold of each class.

        :raises ValueError: where class_thresholds has another length than the classes.
        """
        if not self.class_thresholds:
            return (self.score_threshold,) * len(classes)
        if len(self.class_thresholds) != len(classes):
            raise ValueError(
                f'parameter class_thresholds: expected {len(classes)} numbers, for '
                f'{", ".join(classes)}, or none, got {len(self.class_thresholds)}'
            )
        return self.class_thresholds


def _check(value: Any, limits: tuple[float, float] | None, choices: tuple[str, ...]) -> None:
    """Refuse a value out of its range or list."""
    if limits is not None:
        low, high = limits
        for number in value if isinstance(value, tuple) else (value,):
            if not low <= number <= high:
                raise ValueError(f'expected {low:g} to {high:g}, got {number:g}')
    if choices and value not in choices:
        raise ValueError(f'expected one of {", ".join(choices)}, got {value!r}')
