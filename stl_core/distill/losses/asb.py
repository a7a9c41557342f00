"""
Adversarial scoring block, ASB (Wu et al., DK3D, TPAMI 2025): the distribution of features.

Published (abstract): an adversarial scoring block aligns intermediate features of student and
teacher at the level of distributions, for detectors that estimate a depth map. Scorer, cells,
loss, weight and its rise are our choice; we know of no other public implementation. On MonoDLE and
MonoCon, which estimate depth per object, ASB is our extension.
Shapes: B batch, N object slots, C channels, h w grid.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from stl_core.distill import scorer
from stl_core.distill.compared_level import compared_level
from stl_core.distill.running_statistics import RunningChannelStatistics
from stl_core.distill.transfer import Transfer
from stl_core.distill.view import DistillView
from stl_core.distill.weighting import ChannelStatistics
from stl_core.tensors.detector import Detector
from stl_core.tensors.optim_group import OptimGroupConfig
from stl_core.tensors.reductions import StepNormalizer


@dataclass(frozen=True)
class AsbConfig:
    """
    Configuration of ASB.

    :param level: name of the compared level, downstream of where given depth enters; '' for the
        detector's only one.
    :param width: channels between the scorer's convolutions.
    :param spectral_norm: whether the scorer's convolutions are divided by their largest singular
        value; without, a scorer that separates both networks perfectly has gradients of any size.
    :param warmup: epochs between which the weight of the student's gradient rises from 0 to 1: the
        gradient of an untrained scorer carries no information. Equal numbers switch it on at once.
    :param momentum: weight of a step in the running statistics of the teacher's channels.
    :param lr: the scorer's learning rate, constant.
    :param betas: the scorer's AdamW; beta1 of 0.5 follows Radford et al., DCGAN, ICLR 2016: a
        scorer whose opponent changes should soon forget old gradients.
    :param max_norm: the scorer's gradient is clipped to this norm.
    """

    level: str = ''
    width: int = 64
    spectral_norm: bool = True
    warmup: tuple[float, float] = (1.0, 3.0)
    momentum: float = 0.01
    lr: float = 2.0e-4
    betas: tuple[float, float] = (0.5, 0.999)
    max_norm: float = 10.0

    def __post_init__(self) -> None:
        """Raise ValueError for a number out of range."""
        start, end = self.warmup
        if not 0 <= start <= end:
            raise ValueError(f'warmup: expected 0 <= start <= end, got {list(self.warmup)}')
        if self.width < 1:
            raise ValueError(f'width: expected at least 1 channel, got {self.width}')
        if not self.lr > 0:
            raise ValueError(f'lr: expected more than 0, got {self.lr}')


class Asb(Transfer):
    """
    A scorer learns to separate both networks' maps; the student learns to pass for its teacher.

    '': mean of -log(scorer's probability that the student's map is the teacher's); its gradient,
    not its value, has the factor ramp(epoch), so that its curve can be compared over epochs.
    'scorer': the scorer's binary cross-entropy on both maps. Means are over cells, half of them
    background, see scorer.balanced_weights. The student's map is S, or W S if CPL projects the
    same level, without gradient to W: the student must change, not its projection. The student's
    loss sees the scorer's weights detached, the scorer's loss both maps: one backward pass of the
    sum of both serves each with its gradient, without alternating. Both maps are standardised by
    the teacher's running statistics over objects: with spectral norm, the scorer's slope is
    bounded, so that the score would otherwise depend on the scale of the features.

    step_metrics() holds the scorer's 'accuracy', 0.5 for one that separates nothing.

    :param config: options.
    :param student: detector whose features learn.
    :param teacher: frozen detector.
    :raises ValueError: for a level that a network lacks, upstream of given depth, or on another
        grid.
    """

    def __init__(self, config: AsbConfig, student: Detector, teacher: Detector) -> None:
        """Build the scorer and the statistics."""
        super().__init__()
        self.config = config
        _, self.level = compared_level(config.level, student, teacher)
        self.scorer = scorer.Scorer(self.level.channels, config.width, config.spectral_norm)
        self.statistics = RunningChannelStatistics(self.level.channels, config.momentum)
        self._accuracy: Tensor | None = None
        self.optimizer_groups = {
            'scorer': OptimGroupConfig(config.lr, config.betas, config.max_norm)
        }

    def forward(self, view: DistillView, normalizer: StepNormalizer) -> dict[str, Tensor]:
        """
        Return {'': the student's loss, 'scorer': the scorer's}; 0 when no object is valid.

        :raises ValueError: if the maps have different channels and no loss projects them.
        """
        name = self.level.name
        teacher = view.teacher.levels[name].map.detach()
        student = view.projected.get(name, view.student.levels[name].map)
        if student.shape[1] != teacher.shape[1]:
            raise ValueError(
                f'level {name!r}: {student.shape[1]} channels in the student,'
                f' {teacher.shape[1]} in the teacher; add the loss cpl, which projects them'
            )
        cells = self.level.plane.object_cells(view.targets, teacher)
        statistics = self.statistics(teacher, cells, view.epoch, normalizer)
        student, teacher = (standardise(each, statistics) for each in (student, teacher))
        weights = self.scorer.effective_weights(view.epoch)
        losses, accuracy = adversarial_losses(student, teacher, cells, weights, normalizer)
        self._accuracy = accuracy
        factor = ramp(view.epoch, self.config.warmup)
        return {**losses, '': torch.lerp(losses[''].detach(), losses[''], factor)}

    def step_metrics(self) -> dict[str, Tensor]:
        """Return the scorer's accuracy in the last forward pass."""
        return {} if self._accuracy is None else {'accuracy': self._accuracy}


def adversarial_losses(
    student: Tensor,
    teacher: Tensor,
    cells: Tensor,
    weights: tuple[scorer.ConvWeights, ...],
    normalizer: StepNormalizer,
) -> tuple[dict[str, Tensor], Tensor]:
    """
    Compute the losses of student and scorer, see Asb.

    :param student: (B, C, h, w), standardised.
    :param teacher: (B, C, h, w), standardised, without gradient.
    :param cells: (B, N, h, w) bool, cells of each object; none in empty slots.
    :param weights: the scorer's, from Scorer.effective_weights.
    :param normalizer: normaliser of the step.
    :return: {'': of the student, not ramped; 'scorer': of the scorer}, and the scorer's accuracy,
        () without gradient; without objects both losses are 0, and the accuracy is 0.5.
    """
    weight = scorer.balanced_weights(cells)
    total = normalizer.total(weight)

    def mean(grid: Tensor) -> Tensor:
        return (weight * grid).sum() / total

    of_student = scorer.score_cells(student.detach(), weights)
    of_teacher = scorer.score_cells(teacher, weights)
    entropy = scorer.entropy(of_student, of_teacher)
    frozen = tuple(each.detach() for each in weights)
    fooled = F.softplus(-scorer.score_cells(student, frozen))
    # relative to 0.5: a step without objects has the accuracy of a scorer that separates nothing
    accuracy = 0.5 + mean(scorer.right_cells(of_student, of_teacher) - 0.5)
    return {'': mean(fooled), 'scorer': mean(entropy)}, accuracy


def standardise(features: Tensor, statistics: ChannelStatistics) -> Tensor:
    """Subtract each channel's mean from a map (B, C, h, w) and divide it by its deviation."""
    mean, deviation = (each[:, None, None] for each in statistics)
    return (features - mean) / deviation


def ramp(epoch: float, warmup: tuple[float, float]) -> float:
    """Return the factor of the student's gradient: 0 until warmup[0], 1 from warmup[1] on."""
    start, end = warmup
    if epoch >= end:
        return 1.0
    return max(0.0, (epoch - start) / (end - start))
