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
    return dist.get_rank() if _is_distributed() else 0


def world_size() -> int:
    """Return how many processes share the run."""
    return dist.get_world_size() if _is_distributed() else 1


def all_reduce_mean(value: Tensor) -> Tensor:
    """Mean of a float tensor over the processes; carries no gradient."""
    if world_size() == 1:
        return value
    total = value.detach().clone()
    dist.all_reduce(total)
    return total / world_size()


def step_mean(value: Tensor) -> Tensor:
    """
    Mean of numbers over all shares of the step.

    :param value: sums or counts over this share, of any shape that all shares have, and nothing
        that was asked for before.
    :return: the same, float32 without gradient; value itself where the step is not shared.
    """
    return _CONTEXT.get().reduce(value.detach().float())


def step_normalizer(weight: Tensor) -> Tensor:
    """
    How much counts, to divide a sum by: never 0.

    :param weight: bool or numbers of any shape, 1 for what counts whole.
    :return: () the sum over this share, at least 1; where the step is shared, the mean over its
        shares, so that the mean of the shares' losses is the loss of the whole.
    """
    # where nothing counts in the whole step, the shares' divisors together are 1
    return step_mean(weight.sum()).clamp(min=1 / num_micro_batches())


def num_micro_batches() -> int:
    """Return by how many processes, times parts, the step is shared."""
    return world_size() * _CONTEXT.get().num_parts


@contextmanager
def recorded_reductions() -> Iterator[list[Tensor]]:
    """While it lasts, over_step answers with what it is given, and notes it in the list."""
    notes: list[Tensor] = []

    def note(value: Tensor) -> Tensor:
        notes.append(value)
        return value

    with _use_context(_ReductionContext(note)):
        yield notes


@contextmanager
def replayed_reductions(means: list[Tensor], num_parts: int) -> Iterator[None]:
    """While it lasts, over_step answers with the next of the means over so many parts."""
    rest = iter(means)
    with _use_context(_ReductionContext(lambda _: next(rest), num_parts)):
        yield


@dataclass(frozen=True)
class _ReductionContext:
    """How over_step finds its answer, and in how many parts the step is computed."""

    reduce: Callable[[Tensor], Tensor] = all_reduce_mean
    num_parts: int = 1


_WHOLE_STEP = _ReductionContext()
_CONTEXT = ContextVar('_STEP', default=_WHOLE_STEP)


@contextmanager
def _use_context(context: _ReductionContext) -> Iterator[None]:
    token = _CONTEXT.set(context)
    try:
        yield
    finally:
        _CONTEXT.reset(token)


def _is_distributed() -> bool:
    return dist.is_available() and dist.is_initialized()


def masked_mean(value: Tensor, valid: Tensor) -> Tensor:
    """
    Mean of what counts, without asking how much that is: the host need not wait.

    :param value: of any shape; NaN where nothing counts is ignored.
    :param valid: bool, of a shape that value's goes on from.
    :return: scalar, 0 with a gradient path when nothing counts.
    """
    weight = _expand_mask(valid, value)
    return torch.where(weight, value, 0.0).sum() / step_normalizer(weight)


def step_masked_mean(value: Tensor, valid: Tensor) -> Tensor:
    """masked_mean over the whole step, whoever shares it; for factors: carries no gradient."""
    weight = _expand_mask(valid, value)
    return step_mean(torch.where(weight, value, 0.0).sum()) / step_normalizer(weight)


def _expand_mask(valid: Tensor, value: Tensor) -> Tensor:
    """Say the same of every number that value has behind valid's places."""
    return valid.view(valid.shape + (1,) * (value.dim() - valid.dim())).expand_as(value)
