"""
Normalise losses over a whole optimisation step, across processes and micro-batches.

Losses are means over objects. If every part of a step (a micro-batch of a process) divided by the
number of its objects, an image with one object would weigh as much as one with twenty, depending
on its part. Therefore every part divides by the mean count over all parts of the step: the mean of
the parts' gradients is then the gradient of the whole step. With a single part nothing changes.

The training step creates a StepNormalizer and passes it to the model, and the model to its losses.
Every process and every micro-batch must call its methods in the same order: no calls inside an
`if` on data.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

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


def all_reduce_sum(value: Tensor) -> Tensor:
    """Return the sum of a float tensor over the processes, with gradient; all of them call it."""
    return value if world_size() == 1 else _AllReduceSum.apply(value)  # type: ignore[no-any-return, no-untyped-call]


class _AllReduceSum(torch.autograd.Function):
    """Sum over processes; the gradient is summed, too: every process's loss depends on the sum."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        total = value.detach().clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        total = grad.detach().clone()
        dist.all_reduce(total)
        return total


@dataclass(frozen=True)
class StepNormalizer:
    """
    Means over all parts of an optimisation step, by which losses are normalised.

    :param reduce: returns the mean of a float32 tensor without gradient over all parts.
    :param num_parts: number of parts of the step: processes times micro-batches of each.
    :param check_complete: call it after the losses of the part; raises RuntimeError if they asked
        for fewer means than other parts.
    """

    reduce: Callable[[Tensor], Tensor]
    num_parts: int = 1
    check_complete: Callable[[], None] = lambda: None

    def mean(self, value: Tensor) -> Tensor:
        """
        Return the mean of numbers over all parts of the step.

        :param value: sums or counts over this part, of the same shape in all parts; it must not
            depend on the result of an earlier call.
        :return: the mean, float32 without gradient; value itself, detached, if the step has one
            part.
        """
        return self.reduce(value.detach().float())

    def total(self, weight: Tensor) -> Tensor:
        """
        Return the total weight to divide a loss sum by: never 0.

        :param weight: bool or numbers of any shape, 1 for elements that count fully.
        :return: () the sum over this part, at least 1; if the step has several parts, the mean
            over its parts, so that the mean of the parts' losses is the loss of the whole step.
        """
        # if no element of the step counts, the divisors of all parts add up to 1
        return self.mean(weight.sum()).clamp(min=1 / self.num_parts)


#: Normaliser of a step with one part: one process, no micro-batches.
SINGLE_PART = StepNormalizer(lambda value: value)


def process_normalizer() -> StepNormalizer:
    """Return the normaliser of a step without micro-batches: it communicates at every call."""
    return StepNormalizer(all_reduce_mean, world_size())


def recording_normalizer(recorded: list[Tensor]) -> StepNormalizer:
    """
    Return a normaliser that appends the value of each mean to a list, without communication.

    Its results are those of this part alone: use them for nothing but recording.
    """

    def record(value: Tensor) -> Tensor:
        recorded.append(value)
        return value

    return StepNormalizer(record)


def replaying_normalizer(means: Sequence[Tensor], num_micro_batches: int) -> StepNormalizer:
    """
    Return the normaliser of a micro-batch, whose means are the given ones, in this order.

    :param means: means over the step of the values that recording_normalizer recorded.
    :param num_micro_batches: micro-batches of each process.
    :return: a normaliser for one pass; mean raises RuntimeError for a value of another shape than
        the recorded one, or beyond the last, and check_complete if means remain: the losses then
        depend on data in what they ask for.
    """
    remaining = iter(means)

    def replay(value: Tensor) -> Tensor:
        mean = next(remaining, None)
        if mean is None or mean.shape != value.shape:
            raise _different_means_error()
        return mean

    def check_complete() -> None:
        if next(remaining, None) is not None:
            raise _different_means_error()

    return StepNormalizer(replay, world_size() * num_micro_batches, check_complete)


def require_same_shapes(recorded: Sequence[Sequence[Tensor]]) -> None:
    """Raise RuntimeError if micro-batches recorded values of different number or shapes."""
    shapes = [[value.shape for value in values] for values in recorded]
    if any(each != shapes[0] for each in shapes):
        raise _different_means_error()


def masked_mean(value: Tensor, valid: Tensor, normalizer: StepNormalizer) -> Tensor:
    """
    Return the mean of the valid elements, without a host-device synchronisation for their count.

    :param value: of any shape; NaN in invalid elements is ignored.
    :param valid: bool; its shape is the leading part of value's.
    :param normalizer: of the step; the mean is over all of its parts.
    :return: scalar, 0 with a gradient path when no element is valid.
    """
    weight = _expand_mask(valid, value)
    return torch.where(weight, value, 0.0).sum() / normalizer.total(weight)


def step_masked_mean(value: Tensor, valid: Tensor, normalizer: StepNormalizer) -> Tensor:
    """Return masked_mean over all parts of the step, without gradient, for use as a factor."""
    weight = _expand_mask(valid, value)
    return normalizer.mean(torch.where(weight, value, 0.0).sum()) / normalizer.total(weight)


def _different_means_error() -> RuntimeError:
    return RuntimeError(
        'losses of micro-batches ask for different means; expected the same calls of the'
        ' normaliser for any data'
    )


def _is_distributed() -> bool:
    return dist.is_available() and dist.is_initialized()


def _expand_mask(valid: Tensor, value: Tensor) -> Tensor:
    """Expand a mask over the trailing dimensions of value."""
    return valid.view(valid.shape + (1,) * (value.dim() - valid.dim())).expand_as(value)
