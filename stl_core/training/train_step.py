"""
Training step: losses, weighted sum, gradient (over micro-batches) and optimiser update.

The model is any nn.Module with model(batch, epoch, normalizer) -> {name of the loss: unweighted
scalar}. The step creates the normaliser, by which losses are means over the whole step. A model
may have two more methods: optimizer_groups(), see stl_core.training.optim, and step_metrics(),
which returns figures of the last forward pass that are no losses, such as a scorer's accuracy, as
{name: () tensor, detached, on the device}. They are logged as means over micro-batches and
processes, and enter no sum; one that is a mean over objects needs the normaliser, as a loss does.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from itertools import pairwise

import torch
from torch import Tensor, nn

from stl_core.data.dataset import split_points
from stl_core.tensors import reductions
from stl_core.tensors.batch import Batch, slice_batch
from stl_core.training import distributed
from stl_core.training.optim import MIN_LOSS_SCALE, GradientNorms, Optimizer
from stl_core.training.run.saved_buffers import save_buffers


class TrainError(RuntimeError):
    """A run that cannot start or continue; the message gives the reason."""


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
    Compute losses and gradient of a batch and update the weights.

    A gradient that is not finite, be it of an optimiser group alone, skips the step: weights,
    moments, buffers and averages stay as they were.

    :param model: SupervisedModel or Distiller, perhaps wrapped by DistributedDataParallel.
    :param batch: on the model's device.
    :param optimizer: optimiser of the trainable parameters.
    :param weights: {name of a loss: weight}.
    :param epoch: completed epochs, including the fraction of the present one.
    :param num_micro_batches: number of parts into which the batch is split, for less memory. The
        gradient is that of the whole batch, except that BatchNorm uses one part at a time.
    :return: losses, 'total', 'metric/<name>' of each of the model's step_metrics, 'grad_norm' and
        'grad_norm/<group>' before clipping (0 if not finite), 'skipped' (1 if one of them is not
        finite, else 0) and 'diverged' (1 if skipped, and fp16's loss scaling does not explain it);
        () tensors, detached, on the device, means over micro-batches.
    :raises TrainError: when the names of losses and weights differ.
    """
    micro_batches = _split_batch(batch, num_micro_batches)
    means = precompute_means(model, micro_batches, epoch) if num_micro_batches > 1 else []
    results_per_part = []
    buffers, loss_scale = save_buffers(model), optimizer.loss_scale()
    optimizer.zero_grad()
    for number, micro_batch in enumerate(micro_batches, 1):
        normalizer = _make_normalizer(means, num_micro_batches)
        last = number == num_micro_batches
        with nullcontext() if last else distributed.no_gradient_sync(model):
            losses = model(micro_batch, epoch, normalizer)
            normalizer.check_complete()
            total = weighted_sum(losses, weights)
            optimizer.backward(total / num_micro_batches)
        results_per_part.append({**losses, 'total': total, **_step_metrics(model)})
    norms = optimizer.step(buffers)
    return {**_mean_results(results_per_part), **_step_outcome(norms, loss_scale)}


def _step_metrics(model: nn.Module) -> dict[str, Tensor]:
    """Return {'metric/<name>': value} of the model's last forward pass, see the module's text."""
    method = getattr(distributed.unwrap_ddp(model), 'step_metrics', None)
    return {f'metric/{name}': value for name, value in method().items()} if method else {}


def _mean_results(results_per_part: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {
        name: torch.stack([each[name].detach() for each in results_per_part]).mean()
        for name in results_per_part[0]
    }


def _step_outcome(norms: GradientNorms, loss_scale: Tensor) -> dict[str, Tensor]:
    """Return 'grad_norm' of all parts, 'skipped' and 'diverged' of a step, see train_step."""
    named = {
        'grad_norm': norms.main,
        **{f'grad_norm/{name}': norm for name, norm in norms.groups.items()},
    }
    return {
        **{name: torch.where(norm.isfinite(), norm, 0.0) for name, norm in named.items()},
        'skipped': (~norms.finite).float(),
        'diverged': (~norms.finite & (loss_scale <= MIN_LOSS_SCALE)).float(),
    }


def _make_normalizer(means: list[Tensor], num_parts: int) -> reductions.StepNormalizer:
    """Return the normaliser of one part of a step; `means` are those of all parts together."""
    if num_parts == 1:
        return reductions.process_normalizer()
    return reductions.replaying_normalizer(means, num_parts)


def weighted_sum(losses: dict[str, Tensor], weights: dict[str, float]) -> Tensor:
    """Return the weighted sum of losses, (); TrainError if their names and the weights' differ."""
    if losses.keys() != weights.keys():
        unmatched = sorted(losses.keys() ^ weights.keys())
        raise TrainError(
            f'losses and weights differ in {", ".join(unmatched)}; losses: {", ".join(losses)}'
        )
    return torch.stack([weights[name] * loss for name, loss in losses.items()]).sum()


@torch.no_grad()
def precompute_means(
    model: nn.Module, micro_batches: Sequence[Batch], epoch: float
) -> list[Tensor]:
    """
    Compute the means over the whole step that its losses need, such as object counts.

    Losses of the first micro-batch depend on counts of the last one, so all counts are required
    before the first gradient. This costs one additional forward pass.

    :param model: its buffers and torch's random state are restored afterwards.
    :param micro_batches: the parts of the batch.
    :param epoch: completed epochs, including the fraction of the present one.
    :return: results of StepNormalizer.mean, in call order, averaged over micro-batches and
        processes.
    :raises RuntimeError: if micro-batches ask for means of different number or shapes.
    """
    saved_buffers = [buffer.clone() for buffer in model.buffers()]
    device = micro_batches[0].image.device
    recorded: list[list[Tensor]] = []
    with torch.random.fork_rng([device] if device.type == 'cuda' else []):
        for micro_batch in micro_batches:
            recorded.append([])
            model(micro_batch, epoch, reductions.recording_normalizer(recorded[-1]))
    for buffer, saved in zip(model.buffers(), saved_buffers, strict=True):
        buffer.copy_(saved)
    reductions.require_same_shapes(recorded)
    # concatenate all values, so that the processes communicate once
    empty = torch.zeros(0, device=device)
    flat = [torch.cat([empty, *map(torch.flatten, each)]) for each in recorded]
    means = reductions.all_reduce_mean(torch.stack(flat).mean(0))
    parts = means.split([value.numel() for value in recorded[0]])
    return [part.view_as(value) for part, value in zip(parts, recorded[0], strict=True)]


def _split_batch(batch: Batch, num_micro_batches: int) -> list[Batch]:
    if num_micro_batches == 1:
        return [batch]
    bounds = split_points(len(batch.ids), num_micro_batches)
    return [slice_batch(batch, slice(start, stop)) for start, stop in pairwise(bounds)]
