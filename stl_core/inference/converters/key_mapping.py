"""How a checkpoint of a published program becomes a student of ours: keys renamed, rows moved."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from stl_core.inference.model_file import ModelSpec, build_detector

#: A state dict.
StateDict = Mapping[str, Tensor]


class WeightsError(ValueError):
    """Published weights that cannot be used; the message names the key or the file."""


@dataclass(frozen=True)
class KeyRule:
    r"""
    Where tensors go. A key that several moves match is copied by each of them.

    :param pattern: regular expression that the program's whole key must match.
    :param target: our key; '\1' and so on stand for the groups of the pattern.
    :param rows: entries of the first axis to take, in this order; None takes all as they are.
    """

    pattern: str
    target: str
    rows: tuple[int, ...] | None = None


@dataclass(frozen=True)
class CheckpointLayout:
    """
    What is known of a published program's checkpoints.

    :param program: repository and commit, as in 'OWNER/NAME at 1234567'.
    :param spec: the student that the weights make: detector, its options, the input, and the
        classes in the order of the program.
    :param rules: where each key goes.
    :param ignored: pattern of keys that are left out -> why.
    """

    program: str
    spec: ModelSpec
    rules: tuple[KeyRule, ...]
    ignored: Mapping[str, str]


def remap_state_dict(layout: CheckpointLayout, state: StateDict) -> dict[str, Tensor]:
    """
    Turn a program's state dict into ours.

    :param layout: the program's.
    :param state: of the program's whole model.
    :return: a state dict that fits the detector of layout.spec exactly.
    :raises WeightsError: for a key that is not known, one that is missing, or a wrong shape.
    """
    remapped: dict[str, Tensor] = {}
    origin: dict[str, str] = {}
    for key, value in state.items():
        if any(re.fullmatch(pattern, key) for pattern in layout.ignored):
            continue
        matches = [(rule, re.fullmatch(rule.pattern, key)) for rule in layout.rules]
        found = [(rule, match) for rule, match in matches if match]
        if not found:
            raise WeightsError(f'{key!r}: not a key of {layout.program}')
        for rule, match in found:
            name = match.expand(rule.target)
            remapped[name] = value if rule.rows is None else _take_rows(key, value, rule.rows)
            origin[name] = key
    return _check_against_detector(layout, remapped, origin)


def _take_rows(key: str, value: Tensor, rows: tuple[int, ...]) -> Tensor:
    """Take rows of a tensor, naming the key where it has too few."""
    if value.dim() == 0 or len(value) <= max(rows):
        raise WeightsError(
            f'{key!r}: shape {tuple(value.shape)}, expected at least {max(rows) + 1} rows'
        )
    return value[list(rows)]


def _check_against_detector(
    layout: CheckpointLayout, remapped: dict[str, Tensor], origin: dict[str, str]
) -> dict[str, Tensor]:
    """Hold moved tensors against the detector's own keys and shapes."""
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
            remapped[name] = torch.zeros_like(value, device='cpu')  # older than torch 0.4.1
        elif name not in remapped:
            raise WeightsError(f'{name!r}: no key of this checkpoint of {layout.program} gives it')
    return {name: remapped[name] for name in expected}
