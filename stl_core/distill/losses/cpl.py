"""
Channel-wise projection layer, CPL (Wu et al., DK3D, TPAMI 2025): features, cell by cell.

Published (abstract): a channel-wise projection layer aligns intermediate features of student and
teacher at pixel level, for detectors that estimate a depth map. Level, formula, weight and
initialisation are our choice; we know of no other public implementation. On MonoDLE and MonoCon,
which estimate depth per object, CPL is our extension.
Shapes: B batch, N object slots, C channels, h w grid.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from stl_core.distill.compared_level import compared_level
from stl_core.distill.running_statistics import RunningChannelStatistics
from stl_core.distill.transfer import Transfer
from stl_core.distill.view import DistillView
from stl_core.distill.weighting import ChannelStatistics
from stl_core.tensors import regions
from stl_core.tensors.detector import Detector
from stl_core.tensors.reductions import StepNormalizer, masked_mean


@dataclass(frozen=True)
class CplConfig:
    """
    Configuration of CPL.

    :param level: name of the compared level, downstream of where given depth enters; '' for the
        detector's only one.
    :param around: how far beyond its box an object's features are compared, as fraction of the
        width and height of the box.
    :param momentum: weight of a step in the running statistics of the teacher's channels.
    """

    level: str = ''
    around: float = 0.0
    momentum: float = 0.01

    def __post_init__(self) -> None:
        """Raise ValueError for a negative around."""
        if not self.around >= 0:
            raise ValueError(f'around: {self.around} of a box; must be at least 0')


class Cpl(Transfer):
    """
    Mean over objects of the mean over cells of smooth L1((W S - T) / d), channels averaged.

    W is a 1x1 convolution without bias and norm, which learns with the student and is dropped
    after training: the student need only hold the teacher's information, not in the same
    channels. It starts as the identity, so that equal features start with loss 0; with unequal
    numbers of channels it starts with orthonormal rows or columns: a truncated identity would send
    no gradient from the teacher's other channels to the student. d is the running deviation of
    the teacher's channel over objects, so that neither the scale nor the number of channels
    matters. T is detached. An object's cells are averaged first: otherwise near objects, which
    have the most cells, would dominate.

    :param config: options.
    :param student: detector whose features learn.
    :param teacher: frozen detector.
    :raises ValueError: for a level that a network lacks, upstream of given depth, or on another
        grid.
    """

    def __init__(self, config: CplConfig, student: Detector, teacher: Detector) -> None:
        """Build the projection and the statistics."""
        super().__init__()
        self.config = config
        self.level, to_level = compared_level(config.level, student, teacher)
        self.projected_level = self.level.name
        self.projection = nn.Conv2d(self.level.channels, to_level.channels, 1, bias=False)
        weight = self.projection.weight
        if self.level.channels == to_level.channels:
            nn.init.dirac_(weight)
        else:
            nn.init.orthogonal_(weight)
        self.statistics = RunningChannelStatistics(to_level.channels, config.momentum)

    def project(self, features: Tensor) -> Tensor:
        """Return W S (B, C_teacher, h, w) of a student's map S; no gradient reaches W."""
        return F.conv2d(features, self.projection.weight.detach())

    def forward(self, view: DistillView, normalizer: StepNormalizer) -> dict[str, Tensor]:
        """Return {'': the loss}; 0 when no object is valid."""
        name = self.level.name
        teacher = view.teacher.levels[name].map.detach()
        cells = self.level.plane.object_cells(view.targets, teacher, self.config.around)
        statistics = self.statistics(teacher, cells, view.epoch, normalizer)
        projected = self.projection(view.student.levels[name].map)
        loss = projection_loss(projected, teacher, cells, statistics, normalizer)
        return {'': loss}


def projection_loss(
    projected: Tensor,
    teacher: Tensor,
    cells: Tensor,
    statistics: ChannelStatistics,
    normalizer: StepNormalizer,
) -> Tensor:
    """
    Compute CPL's loss of a projected map, see Cpl.

    :param projected: (B, C, h, w) W S.
    :param teacher: (B, C, h, w) T, without gradient.
    :param cells: (B, N, h, w) bool, cells of each object; none in empty slots.
    :param statistics: of the teacher's channels.
    :param normalizer: normaliser of the step.
    :return: scalar; 0 without objects.
    """
    deviation = statistics.deviation[:, None, None]
    difference = F.smooth_l1_loss(projected / deviation, teacher / deviation, reduction='none')
    per_object = regions.mean_over_cells(cells, difference.mean(1))
    return masked_mean(per_object, cells.any(-1).any(-1), normalizer)
