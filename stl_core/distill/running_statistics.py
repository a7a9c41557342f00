"""
Running statistics of a teacher's channels over objects, kept from step to step.

A teacher is frozen, so that its statistics are the same in every step; the objects of one step are
a small sample of them. Buffers hold averages over the last steps: a checkpoint saves them, and a
skipped step restores them as it does those of norms (training.run.saved_buffers).
Shapes: B batch, N object slots, C channels, h w grid.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stl_core.distill.weighting import ChannelStatistics, cell_weights, deviation_of_moments
from stl_core.tensors.reductions import StepNormalizer


class StepMarker(nn.Module):
    """
    Which step was the last: micro-batches of one step must not update a state several times.

    All parts of a step have the same epoch (epochs so far, with a fraction), and no other step of
    a run has it. The comparison stays on the device.
    """

    epoch: Tensor

    def __init__(self) -> None:
        """Start before the first step."""
        super().__init__()
        self.register_buffer('epoch', torch.full((), -1.0, dtype=torch.float64))

    @torch.no_grad()
    def forward(self, epoch: float) -> Tensor:
        """Return () bool, whether this is the first part of a new step; never in eval mode."""
        if not self.training:
            return torch.zeros_like(self.epoch, dtype=torch.bool)
        new = self.epoch != epoch
        self.epoch.fill_(epoch)
        return new


class RunningChannelStatistics(nn.Module):
    """
    Mean and deviation of each channel of a teacher's map over objects, averaged over steps.

    Every object has the same weight, as in weighting.channel_statistics. The averages of the
    first and second moment are exponential, and divided by the total weight of all steps so far:
    the first step alone already gives statistics of the right size. All parts of a step see the
    same moments, those of the whole step.

    :param channels: C.
    :param momentum: weight of a new step, 0 (excluded) to 1.
    """

    mean: Tensor
    square: Tensor
    weight: Tensor

    def __init__(self, channels: int, momentum: float) -> None:
        """Start without a step; ValueError for a momentum out of range."""
        super().__init__()
        if not 0 < momentum <= 1:
            raise ValueError(f'momentum: expected more than 0, at most 1, got {momentum}')
        self.momentum = momentum
        for name in ('mean', 'square'):
            self.register_buffer(name, torch.zeros(channels))
        self.register_buffer('weight', torch.zeros(()))
        self.step = StepMarker()

    @torch.no_grad()
    def forward(
        self, teacher: Tensor, cells: Tensor, epoch: float, normalizer: StepNormalizer
    ) -> ChannelStatistics:
        """
        Add a step in training mode, and return the statistics; eval mode changes nothing.

        :param teacher: (B, C, h, w) features.
        :param cells: (B, N, h, w) bool, cells of each object.
        :param epoch: epochs so far, with a fraction; parts of one step have the same.
        :param normalizer: normaliser of the step.
        :return: mean 0 and deviation 1 before the first object.
        """
        teacher = teacher.float()
        share = cell_weights(cells)
        sums = torch.stack([torch.einsum('bhw,bchw->c', share, t) for t in (teacher, teacher**2)])
        count, sums = normalizer.mean(share.sum()), normalizer.mean(sums)
        known = count > 0
        mean, square = sums / torch.where(known, count, 1.0)
        rate = torch.where(self.step(epoch) & known, self.momentum, 0.0)
        for buffer, value in (
            (self.mean, mean),
            (self.square, square),
            (self.weight, torch.ones_like(self.weight)),
        ):
            buffer.lerp_(value.to(buffer.dtype), rate.to(buffer.dtype))
        return self.current()

    def current(self) -> ChannelStatistics:
        """Return the statistics of the steps so far, (C,) each; mean 0 and deviation 1 without."""
        total = torch.where(self.weight > 0, self.weight, 1.0)
        mean = self.mean / total
        return ChannelStatistics(mean, deviation_of_moments(mean, self.square / total))
