"""
Normalise losses over a whole optimisation step, across processes and micro-batches.

Losses are means over objects. If every part of a step (a micro-batch of a process) divided by the
number of its objects, an image with one object would weigh as much as one with twenty, depending
on its part. Therefore every part divides by the mean count over all parts of the step: the mean of
the parts' gradients is then the gradient of the whole step. With a single part nothing changes.

Every process and every micro-batch must call these functions in the same order: no calls inside an
`if` on data.
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
    """Return the rank of this process; rank 0 writes, logs and validates."""
    return dist.get_rank() if _is_distributed() else 0


def world_size() -> int:
    """Return the number of processes of the run."""
    return dist.get_world_size() if _is_distributed() else 1


def all_reduce_mean(value: Tensor) -> Tensor:
    """Return the mean of a float tensor over the processes, without gradient if several."""
    if world_size() == 1:
        return value
    total = value.detach().clone()
    dist.all_reduce(total)
    return total / world_size()


def step_mean(value: Tensor) -> Tensor:
    """
    Return the mean of numbers over all parts of the step.

    :param value: sums or counts over this part, of the same shape in all parts; it must not depend
        on the result of an earlier call.
    :return: the mean, float32 without gradient; value itself, detached, if the step has one part.
    """
    return _CONTEXT.get().reduce(value.detach().float())


def step_normalizer(weight: Tensor) -> Tensor:
    """
    Return the total weight to divide a loss sum by: never 0.

    :param weight: bool or numbers of any shape, 1 for elements that count fully.
    :return: () the sum over this part, at least 1; if the step has several parts, the mean over
        its parts, so that the mean of the parts' losses is the loss of the whole step.
    """
    # if no element of the step counts, the divisors of all parts add up to 1
    return step_mean(weight.sum()).clamp(min=1 / num_micro_batches())


def num_micro_batches() -> int:
    """Return the number of parts of the step: processes times micro-batches of each."""
    return world_size() * _CONTEXT.get().num_parts


@contextmanager
def recorded_reductions() -> Iterator[list[Tensor]]:
    """Record the argument of each step_mean in the yielded list; step_mean returns it as it is."""
    recorded: list[Tensor] = []

    def record(value: Tensor) -> Tensor:
        recorded.append(value)
        return value

    with _use_context(_ReductionContext(record)):
        yield recorded


@contextmanager
def replayed_reductions(means: list[Tensor], num_parts: int) -> Iterator[None]:
    """Make step_mean return the given means in turn, for a step of num_parts micro-batches."""
    remaining = iter(means)
    with _use_context(_ReductionContext(lambda _: next(remaining), num_parts)):
        yield


@dataclass(frozen=True)
class _ReductionContext:
    """Implementation of step_mean, and the number of micro-batches of the step."""

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
    Return the mean of the valid elements, without a host-device synchronisation for their count.

    :param value: of any shape; NaN in invalid elements is ignored.
    :param valid: bool; its shape is the leading part of value's.
    :return: scalar, 0 with a gradient path when no element is valid.
    """
    weight = _expand_mask(valid, value)
    return torch.where(weight, value, 0.0).sum() / step_normalizer(weight)


def step_masked_mean(value: Tensor, valid: Tensor) -> Tensor:
    """Return masked_mean over all parts of the step, without gradient, for use as a factor."""
    weight = _expand_mask(valid, value)
    return step_mean(torch.where(weight, value, 0.0).sum()) / step_normalizer(weight)


def _expand_mask(valid: Tensor, value: Tensor) -> Tensor:
    """Expand a mask over the trailing dimensions of value."""
    return valid.view(valid.shape + (1,) * (value.dim() - valid.dim())).expand_as(value)
