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

from stl_core.data.dataset import cuts
from stl_core.tensors import reductions as shares
from stl_core.tensors.batch import Batch, rows
from stl_core.training import distributed as parallel
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
    parts: int = 1,
) -> dict[str, Tensor]:
    """
    Take one step, unless the gradient is not finite.

    :param model: teacher, student or distiller.
    :param batch: on the model's device.
    :param optimizer: of the trainable parameters.
    :param weights: weight of every loss.
    :param epoch: passes so far, with a fraction.
    :param parts: into how many parts the batch is cut, to be computed in turn: the step is that
        of the whole batch in less memory, except that BatchNorm sees one part at a time.
    :return: losses, 'total', 'grad_norm' before clipping (0 where it was not finite) and
        'skipped' (1 there), detached, still on the device.
    :raises TrainError: when losses and weights differ in name.
    """
    pieces = _cut(batch, parts)
    means = rehearse(model, pieces, epoch) if parts > 1 else []
    found = []
    optimizer.zero_grad()
    for number, piece in enumerate(pieces, 1):
        with ExitStack() as stack:
            if parts > 1:
                stack.enter_context(shares.told(means, parts))
            if number < parts:
                stack.enter_context(parallel.apart(model))
            losses = model(piece, epoch)
            total = weighted_sum(losses, weights)
            optimizer.backward(total / parts)
        found.append({**losses, 'total': total})
    norm = optimizer.step()
    finite = norm.isfinite()
    return {
        **{name: torch.stack([each[name].detach() for each in found]).mean() for name in found[0]},
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
def rehearse(model: nn.Module, pieces: Sequence[Batch], epoch: float) -> list[Tensor]:
    """
    Find what the losses of a step in parts ask of the whole step, before the first gradient.

    How many objects the last part holds, the first must know. This costs one forward pass more.

    :param model: its buffers, and torch's chance, are left as they were.
    :param pieces: the parts of the batch.
    :param epoch: passes so far, with a fraction.
    :return: the answers of shares.over_step, in the order of asking.
    """
    kept = [buffer.clone() for buffer in model.buffers()]
    device = pieces[0].image.device
    asked: list[list[Tensor]] = []
    with torch.random.fork_rng([device] if device.type == 'cuda' else []):
        for piece in pieces:
            with shares.noted() as notes:
                model(piece, epoch)
            asked.append(notes)
    for buffer, before in zip(model.buffers(), kept, strict=True):
        buffer.copy_(before)
    # processes are asked for all at once
    none = torch.zeros(0, device=device)
    flat = [torch.cat([none, *map(torch.flatten, each)]) for each in asked]
    means = shares.over_processes(torch.stack(flat).mean(0))
    parts = means.split([note.numel() for note in asked[0]])
    return [part.view_as(note) for part, note in zip(parts, asked[0], strict=True)]


def _cut(batch: Batch, parts: int) -> list[Batch]:
    if parts == 1:
        return [batch]
    places = cuts(len(batch.ids), parts)
    return [rows(batch, slice(start, stop)) for start, stop in pairwise(places)]
