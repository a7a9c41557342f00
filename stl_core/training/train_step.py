"""
One step of learning: named losses, their weighted sum, its gradient, new weights.

A model for the trainer is any nn.Module with model(batch, epoch) -> {name: unweighted scalar}.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from itertools import pairwise

import torch
from torch import Tensor, nn

from stl_core.data.dataset import split_points
from stl_core.tensors import reductions
from stl_core.tensors.batch import Batch, slice_batch
from stl_core.training import distributed
from stl_core.training.optim import Optimizer


class TrainError(RuntimeError):
    """A run that cannot start or go on; the message says why."""


def train_step(
    model: nn.Module,
    batch: Batch,
    optimizer: Optimizer,
    weights: dict[str, float],
    epoch: float,
    *,
    num_micro_batches: int = 1,
) -> dict[str, Tensor]:
    """
    Take one step, unless the gradient is not finite.

    :param model: teacher, student or distiller.
    :param batch: on the model's device.
    :param optimizer: of the trainable parameters.
    :param weights: weight of every loss.
    :param epoch: passes so far, with a fraction.
    :param num_micro_batches: into how many parts the batch is cut, to be computed in turn: the
        step is that of the whole batch in less memory, except that BatchNorm sees one part at a
        time.
    :return: losses, 'total', 'grad_norm' before clipping (0 where it was not finite) and
        'skipped' (1 there), detached, still on the device.
    :raises TrainError: when losses and weights differ in name.
    """
    micro_batches = _split_batch(batch, num_micro_batches)
    means = precompute_reductions(model, micro_batches, epoch) if num_micro_batches > 1 else []
    losses_per_part = []
    optimizer.zero_grad()
    for number, micro_batch in enumerate(micro_batches, 1):
        with ExitStack() as stack:
            if num_micro_batches > 1:
                stack.enter_context(reductions.replayed_reductions(means, num_micro_batches))
            if number < num_micro_batches:
                stack.enter_context(distributed.no_gradient_sync(model))
            losses = model(micro_batch, epoch)
            total = weighted_sum(losses, weights)
            optimizer.backward(total / num_micro_batches)
        losses_per_part.append({**losses, 'total': total})
    norm = optimizer.step()
    finite = norm.isfinite()
    return {
        **{
            name: torch.stack([each[name].detach() for each in losses_per_part]).mean()
            for name in losses_per_part[0]
        },
        'grad_norm': torch.where(finite, norm, 0.0),
        'skipped': (~finite).float(),
    }


def weighted_sum(losses: dict[str, Tensor], weights: dict[str, float]) -> Tensor:
    """Sum losses by weight; names must match exactly, else a TrainError tells the difference."""
    if losses.keys() != weights.keys():
        lonely = sorted(losses.keys() ^ weights.keys())
        raise TrainError(
            f'losses and weights differ in {", ".join(lonely)}; losses: {", ".join(losses)}'
        )
    return torch.stack([weights[name] * loss for name, loss in losses.items()]).sum()


@torch.no_grad()
def precompute_reductions(
    model: nn.Module, micro_batches: Sequence[Batch], epoch: float
) -> list[Tensor]:
    """
    Find what the losses of a step in parts ask of the whole step, before the first gradient.

    How many objects the last part holds, the first must know. This costs one forward pass more.

    :param model: its buffers, and torch's chance, are left as they were.
    :param micro_batches: the parts of the batch.
    :param epoch: passes so far, with a fraction.
    :return: the answers of shares.over_step, in the order of asking.
    """
    kept = [buffer.clone() for buffer in model.buffers()]
    device = micro_batches[0].image.device
    recorded: list[list[Tensor]] = []
    with torch.random.fork_rng([device] if device.type == 'cuda' else []):
        for piece in micro_batches:
            with reductions.recorded_reductions() as notes:
                model(piece, epoch)
            recorded.append(notes)
    for buffer, before in zip(model.buffers(), kept, strict=True):
        buffer.copy_(before)
    # processes are asked for all at once
    none = torch.zeros(0, device=device)
    flat = [torch.cat([none, *map(torch.flatten, each)]) for each in recorded]
    means = reductions.all_reduce_mean(torch.stack(flat).mean(0))
    parts = means.split([note.numel() for note in recorded[0]])
    return [part.view_as(note) for part, note in zip(parts, recorded[0], strict=True)]


def _split_batch(batch: Batch, num_micro_batches: int) -> list[Batch]:
    if num_micro_batches == 1:
        return [batch]
    bounds = split_points(len(batch.ids), num_micro_batches)
    return [slice_batch(batch, slice(start, stop)) for start, stop in pairwise(bounds)]
