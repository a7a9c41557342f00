"""Key mapping from a published program's state dict to ours: rename keys, reorder rows."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

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
            raise WeightsError(f'{key!r}: not a key of {layout.program}{_prefix_hint(state)}')
        for rule, match in matches:
            name = match.expand(rule.target)
            remapped[name] = value if rule.rows is None else _take_rows(key, value, rule.rows)
            origin[name] = key
    return _check_against_detector(layout, remapped, origin)


def _prefix_hint(state: StateDict) -> str:
    """Name the first part that most keys share: a program may hold the model as an attribute."""
    part, count = Counter(key.partition('.')[0] for key in state).most_common(1)[0]
    if 2 * count < len(state):
        return ''
    return f"; {count} of {len(state)} keys start with '{part}.'"


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
            _raise_if_other_classes(layout, name, value, described)
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


def with_classes(spec: ModelSpec, classes: tuple[str, ...]) -> ModelSpec:
    """
    Return the spec of a checkpoint that was trained on other classes.

    :param spec: spec of the program's published checkpoints.
    :param classes: names of the classes in the order of the checkpoint.
    :raises WeightsError: for no, repeated or empty names, or where sizes of classes are needed.
    """
    if not classes or len(set(classes)) < len(classes) or not all(classes):
        raise WeightsError(f'classes: expected distinct names, got {", ".join(classes) or "none"}')
    options, sizes = spec.options, spec.options.get('mean_size_hwl_m')
    if sizes is not None:
        if len(set(sizes)) > 1:
            raise WeightsError(
                f'classes: the sizes of other classes than {spec.classes} are needed'
            )
        options = {**options, 'mean_size_hwl_m': tuple(sizes[:1]) * len(classes)}
    return replace(spec, classes=classes, options=options)


def _raise_if_other_classes(
    layout: CheckpointLayout, name: str, value: Tensor, described: str
) -> None:
    """Raise WeightsError if a tensor would fit with another number of classes."""
    count = len(value) if value.dim() else 0
    if not 0 < count < 1000:
        return
    spec = with_classes(layout.spec, tuple(f'class {i}' for i in range(count)))
    with torch.device('meta'):
        shape = build_detector(spec).state_dict()[name].shape
    if value.shape == shape:
        raise WeightsError(
            f'{described}: the checkpoint has {count} classes, not {len(layout.spec.classes)}'
            f' ({", ".join(layout.spec.classes)}); name them in its order with --classes NAME,...'
        )
