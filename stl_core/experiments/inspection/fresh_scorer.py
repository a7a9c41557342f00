"""
Fresh-scorer check: whether adversarial distillation makes a student's features like the teacher's.

The scorer of a run cannot answer: it may have stopped learning. Therefore features of unseen
frames are frozen, and a new scorer, without bound on its slope, learns on half of the frames to
separate a network from the teacher; its accuracy on the other half is measured. If it separates a
student that was trained without a teacher (control), but the distilled student less well, the
distributions of the features have come closer. Shapes: F frames, C channels, h w grid.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from stl_core.distill import scorer, weighting
from stl_core.types import Array

#: Resamplings of the frames for an interval.
_RESAMPLINGS = 2000


@dataclass(frozen=True)
class ScorerTraining:
    """
    How a fresh scorer is trained.

    :param steps: optimisation steps.
    :param frames: frames of a step.
    :param lr: learning rate of AdamW, constant.
    :param weight_decay: of AdamW: a scorer must not memorise the frames of its half.
    :param width: channels between the convolutions.
    :param seeds: scorers, with different initial weights and orders of frames; accuracies are
        averaged.
    """

    steps: int = 400
    frames: int = 8
    lr: float = 1e-3
    weight_decay: float = 1e-2
    width: int = 64
    seeds: int = 3


@dataclass(frozen=True)
class FrozenFeatures:
    """
    Maps of several networks on the same frames, and where they are compared.

    :param teacher: (F, C, h, w).
    :param networks: {name: (F, C, h, w)}.
    :param control_of: {name of a network: that of the network without distillation}.
    :param cells_weight: (F, h, w) weight of each cell, see scorer.balanced_weights.
    """

    teacher: Tensor
    networks: dict[str, Tensor]
    control_of: dict[str, str]
    cells_weight: Tensor


@dataclass(frozen=True)
class Separation:
    """
    Accuracy with which fresh scorers separate a network from the teacher, on their unseen frames.

    :param name: the network.
    :param accuracy: 0.5 to 1 (less by chance), mean over scorers.
    :param interval: 95 % interval of accuracy, over frames.
    :param below_control: accuracy for its control minus this accuracy, on the same frames.
    :param below_interval: 95 % interval of below_control, over frames.
    """

    name: str
    accuracy: float
    interval: tuple[float, float]
    below_control: float
    below_interval: tuple[float, float]


def measure_separation(
    features: FrozenFeatures, training: ScorerTraining, device: torch.device
) -> list[Separation]:
    """
    Train fresh scorers on every second frame and measure them on the others.

    :param features: frozen features; frames without objects are left out.
    :param training: how the scorers are trained.
    :param device: where they are trained.
    :return: one item for each network, in order.
    :raises ValueError: if fewer than four frames have an object.
    """
    objects = features.cells_weight.sum((-1, -2))
    kept = objects.nonzero()[:, 0]
    if len(kept) < 4:
        raise ValueError(f'{len(kept)} frames with an object; expected at least 4')
    halves = kept[0::2], kept[1::2]
    weight = objects[halves[1]].numpy()
    right = {
        name: _right_of_frames(features, each, halves, training, device)
        for name, each in features.networks.items()
    }
    rows = []
    for name, each in right.items():
        accuracy, interval = bootstrap_mean(each, weight)
        below, below_interval = bootstrap_mean(right[features.control_of[name]] - each, weight)
        rows.append(Separation(name, accuracy, interval, below, below_interval))
    return rows


def to_markdown(rows: list[Separation]) -> str:
    """Return a table of networks, with 95 % intervals."""
    lines = [
        "| network | a fresh scorer's accuracy | below control |",
        '|---|---|---|',
    ]
    for each in rows:
        low, high = each.interval
        below = f'{each.below_control:+.3f} ({each.below_interval[0]:+.3f} to'
        lines.append(
            f'| {each.name} | {each.accuracy:.3f} ({low:.3f} to {high:.3f}) |'
            f' {below} {each.below_interval[1]:+.3f}) |'
        )
    return '\n'.join(lines)


def bootstrap_mean(value: Array, weight: Array) -> tuple[float, tuple[float, float]]:
    """
    Return a weighted mean over frames and its 95 % bootstrap interval (percentiles).

    :param value: (F,).
    :param weight: (F,) weight of each frame, above 0.
    """
    draws = np.random.default_rng(0).integers(0, len(value), (_RESAMPLINGS, len(value)))
    means = (value * weight)[draws].sum(1) / weight[draws].sum(1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(np.average(value, weights=weight)), (float(low), float(high))


@dataclass(frozen=True)
class _FramePairs:
    """Maps of a network and of the teacher, standardised by the teacher's statistics."""

    network: Tensor
    teacher: Tensor
    weight: Tensor
    statistics: weighting.ChannelStatistics
    device: torch.device

    def load(self, frames: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the network's and the teacher's maps, and the weights of their cells."""
        mean, deviation = (each[:, None, None] for each in self.statistics)
        network, teacher = (
            ((each[frames].float() - mean) / deviation).to(self.device)
            for each in (self.network, self.teacher)
        )
        return network, teacher, self.weight[frames].to(self.device)


def _right_of_frames(
    features: FrozenFeatures,
    network: Tensor,
    halves: tuple[Tensor, Tensor],
    training: ScorerTraining,
    device: torch.device,
) -> Array:
    """Return the accuracy on each frame of the second half, mean over scorers."""
    learn, judge = halves
    weight = features.cells_weight
    statistics = _teacher_statistics(features.teacher, weight, learn)
    pairs = _FramePairs(network, features.teacher, weight, statistics, device)
    right = []
    for seed in range(training.seeds):
        convs = _train_scorer(pairs, learn, training, seed)
        for frames in judge.split(training.frames):
            *maps, share = pairs.load(frames)
            with torch.no_grad():
                of_network, of_teacher = (scorer.score_cells(each, convs) for each in maps)
            hits = scorer.right_cells(of_network, of_teacher)
            right.append(((hits * share).sum((-1, -2)) / share.sum((-1, -2))).cpu())
    per_scorer = torch.cat(right).view(training.seeds, len(judge))
    return np.asarray(per_scorer.double().mean(0))


def _teacher_statistics(
    teacher: Tensor, weight: Tensor, frames: Tensor
) -> weighting.ChannelStatistics:
    """Return the statistics of the teacher's channels over the cells of some frames."""
    channels = teacher.shape[1]
    sums = torch.zeros(2, channels, dtype=torch.float64)
    for frame in frames.tolist():
        grid = teacher[frame].double()
        for row, each in enumerate((grid, grid.square())):
            sums[row] += (each * weight[frame]).sum((-1, -2))
    mean, square = (sums / weight[frames].double().sum()).float()
    return weighting.ChannelStatistics(mean, weighting.deviation_of_moments(mean, square))


def _train_scorer(
    pairs: _FramePairs, frames: Tensor, training: ScorerTraining, seed: int
) -> tuple[scorer.ConvWeights, ...]:
    """Train a scorer without spectral norm on some frames; returns its weights."""
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        fresh = scorer.Scorer(pairs.teacher.shape[1], training.width, spectral_norm=False)
    fresh.to(pairs.device).train()
    optimizer = torch.optim.AdamW(
        fresh.parameters(), lr=training.lr, weight_decay=training.weight_decay
    )
    generator = torch.Generator().manual_seed(seed)
    for step in range(training.steps):
        drawn = torch.randint(len(frames), (training.frames,), generator=generator)
        *maps, share = pairs.load(frames[drawn])
        convs = fresh.effective_weights(float(step))
        of_network, of_teacher = (scorer.score_cells(each, convs) for each in maps)
        loss = (scorer.entropy(of_network, of_teacher) * share).sum() / share.sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return tuple(each.detach() for each in fresh.effective_weights(float(training.steps)))
