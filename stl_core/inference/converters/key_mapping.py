"""Key mapping from a published program's state dict to ours: rename keys, reorder rows."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from stl_core.inference.model_file import build_detector
from stl_core.inference.model_spec import ModelSpec

#: State dict of a module: key -> tensor.
StateDict = Mapping[str, Tensor]


class WeightsError(ValueError):
    """A published checkpoint that cannot be used; the message names the key or the file."""


@dataclass(frozen=True)
class KeyRule:
    r"""
    A rule that renames keys. If several rules match a key, each of them copies the tensor.

    :param pattern: regular expression for the program's complete key.
    :param target: our key; '\1' and so on stand for the groups of the pattern.
    :param rows: indices along the first axis, in the new order; None takes the whole tensor.
    """

    pattern: str
    target: str
    rows: tuple[int, ...] | None = None


@dataclass(frozen=True)
class CheckpointLayout:
    """
    Layout of a published program's checkpoints.

    :param program: repository and commit, as in 'OWNER/NAME at 1234567'.
    :param spec: our equivalent model: detector, options, input, and the classes in the program's
        order.
    :param rules: mapping of keys.
    :param ignored: pattern of keys to drop -> reason.
    """

    program: str
    spec: ModelSpec
    rules: tuple[KeyRule, ...]
    ignored: Mapping[str, str]


def remap_state_dict(layout: CheckpointLayout, state: StateDict) -> dict[str, Tensor]:
    """
    Convert a program's state dict to a state dict of our detector.

    :param layout: layout of the program's checkpoints.
    :param state: state dict of the program's whole model.
    :return: a state dict that fits the detector of layout.spec exactly.
    :raises WeightsError: for an unknown key, a missing key or a wrong shape.
    """
    remapped: dict[str, Tensor] = {}
    origin: dict[str, str] = {}
    for key, value in state.items():
        if any(re.fullmatch(pattern, key) for pattern in layout.ignored):
            continue
        candidates = [(rule, re.fullmatch(rule.pattern, key)) for rule in layout.rules]
        matches = [(rule, match) for rule, match in candidates if match]
        if not matches:
            raise WeightsError(f'{key!r}: not a key of {layout.program}')
        for rule, match in matches:
            name = match.expand(rule.target)
            remapped[name] = value if rule.rows is None else _take_rows(key, value, rule.rows)
            origin[name] = key
    return _check_against_detector(layout, remapped, origin)


def _take_rows(key: str, value: Tensor, rows: tuple[int, ...]) -> Tensor:
    """Return rows of a tensor; WeightsError with the key if the tensor has too few rows."""
    if value.dim() == 0 or len(value) <= max(rows):
        raise WeightsError(
            f'{key!r}: shape {tuple(value.shape)}, expected at least {max(rows) + 1} rows'
        )
    return value[list(rows)]


def _check_against_detector(
    layout: CheckpointLayout, remapped: dict[str, Tensor], origin: dict[str, str]
) -> dict[str, Tensor]:
    """
    Compare remapped tensors with the detector's keys and shapes.

    :param layout: layout of the program's checkpoints.
    :param remapped: our keys -> tensors.
    :param origin: our key -> the program's key.
    :return: remapped in the detector's order, with missing batch counters set to 0.
    :raises WeightsError: for an unexpected or missing key, or a wrong shape.
    """
    with torch.device('meta'):
        expected = build_detector(layout.spec).state_dict()
    for name, value in remapped.items():
        described = f'{origin[name]!r} (our {name!r})'
        if name not in expected:
            raise WeightsError(
                f'{described}: detector {layout.spec.detector!r} has no such weight'
            )
        if value.shape != expected[name].shape:
            raise WeightsError(
                f'{described}: shape {tuple(value.shape)}, expected {tuple(expected[name].shape)}'
            )
    for name, value in expected.items():
        if name not in remapped and name.endswith('.num_batches_tracked'):
            # checkpoints older than torch 0.4.1 lack these counters
            remapped[name] = torch.zeros_like(value, device='cpu')
        elif name not in remapped:
            raise WeightsError(f'{name!r}: missing in this checkpoint of {layout.program}')
    return {name: remapped[name] for name in expected}
