"""
What one step learns from may be shared: among processes, and among parts computed in turn.

Losses are means over objects. If every share divided by its own count, an image with one object
would teach as much as one with twenty, depending on which share it fell into. So every share
divides by the mean count of all shares of the step: the mean of the shares' gradients is then the
gradient of the whole. Where nothing is shared, nothing happens here.

Every process, and every part, must ask in the same order: no asking inside an `if` on data.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor


def rank() -> int:
    """Return the number of this process among those of the run; 0 writes, logs and judges."""
    return dist.get_rank() if _several() else 0


def world() -> int:
    """Return how many processes share the run."""
    return dist.get_world_size() if _several() else 1


def over_processes(value: Tensor) -> Tensor:
    """Mean of a float tensor over the processes; carries no gradient."""
    if world() == 1:
        return value
    total = value.detach().clone()
    dist.all_reduce(total)
    return total / world()


def over_step(value: Tensor) -> Tensor:
    """
    Mean of numbers over all shares of the step.

    :param value: sums or counts over this share, of any shape that all shares have, and nothing
        that was asked for before.
    :return: the same, float32 without gradient; value itself where the step is not shared.
    """
    return _STEP.get().ask(value.detach().float())


def count(weight: Tensor) -> Tensor:
    """
    How much counts, to divide a sum by: never 0.

    :param weight: bool or numbers of any shape, 1 for what counts whole.
    :return: () the sum over this share, at least 1; where the step is shared, the mean over its
        shares, so that the mean of the shares' losses is the loss of the whole.
    """
    # where nothing counts in the whole step, the shares' divisors together are 1
    return over_step(weight.sum()).clamp(min=1 / shares())


def shares() -> int:
    """Return by how many processes, times parts, the step is shared."""
    return world() * _STEP.get().parts


@contextmanager
def noted() -> Iterator[list[Tensor]]:
    """While it lasts, over_step answers with what it is given, and notes it in the list."""
    notes: list[Tensor] = []

    def note(value: Tensor) -> Tensor:
        notes.append(value)
        return value

    with _step(_Step(note)):
        yield notes


@contextmanager
def told(means: list[Tensor], parts: int) -> Iterator[None]:
    """While it lasts, over_step answers with the next of the means over so many parts."""
    rest = iter(means)
    with _step(_Step(lambda _: next(rest), parts)):
        yield


@dataclass(frozen=True)
class _Step:
    """How over_step finds its answer, and in how many parts the step is computed."""

    ask: Callable[[Tensor], Tensor] = over_processes
    parts: int = 1


_WHOLE = _Step()
_STEP = ContextVar('_STEP', default=_WHOLE)


@contextmanager
def _step(step: _Step) -> Iterator[None]:
    token = _STEP.set(step)
    try:
        yield
    finally:
        _STEP.reset(token)


def _several() -> bool:
    return dist.is_available() and dist.is_initialized()


def masked_mean(value: Tensor, valid: Tensor) -> Tensor:
    """
    Mean of what counts, without asking how much that is: the host need not wait.

    :param value: of any shape; NaN where nothing counts is ignored.
    :param valid: bool, of a shape that value's goes on from.
    :return: scalar, 0 with a gradient path when nothing counts.
    """
    weight = _as_wide(valid, value)
    return torch.where(weight, value, 0.0).sum() / count(weight)


def whole_mean(value: Tensor, valid: Tensor) -> Tensor:
    """masked_mean over the whole step, whoever shares it; for factors: carries no gradient."""
    weight = _as_wide(valid, value)
    return over_step(torch.where(weight, value, 0.0).sum()) / count(weight)


def _as_wide(valid: Tensor, value: Tensor) -> Tensor:
    """Say the same of every number that value has behind valid's places."""
    return valid.view(valid.shape + (1,) * (value.dim() - valid.dim())).expand_as(value)
