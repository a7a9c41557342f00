"""
Depth-aware selective feature distillation, DASFD (Ding et al., MonoSTL, TCSVT 2024).

At objects the student's adapted features imitate the teacher's, the more the less the student
knows of the object's depth, and the more the teacher knows: what the student knows already it need
not learn from LiDAR, and what LiDAR does not tell is not to be learnt.
Shapes: B batch, N object slots, M cells in boxes, C channels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from stl_core.distill import regions, weighting
from stl_core.distill.weighting import check_positive, confidence_gate, uncertainty_gate
from stl_core.tensors.batch import DistillView, Targets
from stl_core.tensors.reductions import masked_mean


@dataclass(frozen=True)
class FeatureLossConfig:
    """
    Our DASFD.

    :param half_sigma_m: the student's depth sigma at which an object counts half, metres.
    :param sure_sigma_m: the teacher's at which it counts half; infinite (.inf in YAML) trusts the
        teacher in everything, as the public code does.
    :param around: how far beyond its box an object's features are compared, as share of the width
        and height of the box: the ground on which it stands, and what is beside it, tell its
        distance, too.
    """

    half_sigma_m: float = 0.5
    sure_sigma_m: float = 1.0
    around: float = 1.0

    def __post_init__(self) -> None:
        """Refuse what cannot be divided by, doubt of nothing, and less than the box."""
        check_positive('half_sigma_m', self.half_sigma_m)
        check_positive('sure_sigma_m', self.sure_sigma_m)
        if math.isinf(self.half_sigma_m):
            raise ValueError('half_sigma_m: infinite, which would teach nothing; must be finite')
        if not self.around >= 0:
            raise ValueError(f'around: {self.around} of a box; must be at least 0')


@dataclass(frozen=True)
class PublicFeatureLossConfig:
    """The public code's DASFD has no number to choose."""


def feature_loss(view: DistillView, config: FeatureLossConfig) -> Tensor:
    """
    Mean over strides and objects of g * mean over cells of h / (1 + h / 2).

    h = (1/2C) sum_c ((F_s - F_t) / d_c)^2, where d_c is how much the teacher's channel varies over
    objects, see channels.scale: neither its scale nor the number of channels weighs. What is far
    off teaches no more than 2, so that a few cells cannot own the loss.
    g is weight_of each object. An object's cells are those of its box where none is nearer, and
    those around it, see boxes.own_cells; the mean over them comes first, or the near, which fill
    the most and are known the best, would teach the most.

    :param view: the batch.
    :param config: the gates, and how far around an object is looked.
    :return: scalar, at most 2; 0 when no object is valid.
    """
    weight = object_weights(view, config)
    terms = []
    for stride, student, teacher in view.feature_pairs():
        h, w = student.shape[-2:]
        cells = regions.object_cells(view.targets, stride, h, w, config.around)
        cells = cells & (teacher != 0).any(1)[:, None]
        deviation = weighting.channel_statistics(teacher, cells).deviation
        distance = ((student - teacher).movedim(1, -1) / deviation).square().mean(-1) / 2
        gap = regions.mean_over_cells(cells, distance / (1 + distance / 2))
        terms.append(masked_mean(weight * gap, cells.any(-1).any(-1)))
    return torch.stack(terms).mean()


def object_weights(view: DistillView, config: FeatureLossConfig) -> Tensor:
    """
    How far each object is let through: the student's doubt times the teacher's certainty.

    s_s^2 / (half^2 + s_s^2) * sure^2 / (sure^2 + s_t^2), s being the sigmas of depth, metres.

    :param view: the batch.
    :param config: the gates.
    :return: (B, N) in [0, 1), without gradient.
    """
    uncertainty = uncertainty_gate(view.student.sigma_m, config.half_sigma_m)
    return uncertainty * confidence_gate(view.teacher.sigma_m, config.sure_sigma_m)


def public_feature_loss(view: DistillView, config: PublicFeatureLossConfig) -> Tensor:
    """
    DASFD as the public code computes it (DingCodeLab/MonoSTL at 2f761c9).

    1/10 of the sum over strides of the mean over cells in boxes of
    (1 - min(1, 1 / sigma)) * (1/2C) sum_c (F_s - F_t)^2: nothing at all for objects whose depth
    the student knows to a metre. Boxes are cut at the map and own one cell at least, the nearest
    winning; there, off-map boxes lose theirs, small ones vanish and the last label wins.

    :param view: the batch.
    :param config: nothing to choose.
    :return: scalar; 0 when no object is valid.
    """
    weight = 1 - (1 / view.student.sigma_m.detach()).clamp(max=1)
    return box_feature_mse(view, weight) / 10


def box_feature_mse(view: DistillView, weight: Tensor) -> Tensor:
    """Sum over strides of the mean over cells in boxes of (1/2C) sum_c dF^2, by (B, N) weights."""
    terms = []
    for stride, student, teacher in view.feature_pairs():
        weights, in_box = cell_weights(view.targets, stride, teacher, weight)
        terms.append(masked_mean(weights * (student - teacher).square().mean(1) / 2, in_box))
    return torch.stack(terms).sum()


def cell_weights(
    targets: Targets, stride: float, teacher: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor]:
    """
    Give each cell in a box the weight of its owner; without any teacher's feature it has none.

    :param targets: network pixels.
    :param stride: pixels a cell.
    :param teacher: (B, C, h, w), the teacher's map.
    :param weight: (B, N) of each object.
    :return: (B, h, w) weights, and (B, h, w) bool, which cells count.
    """
    owner, in_box = regions.nearest_object_map(targets, stride, *teacher.shape[-2:])
    weights = weight.gather(1, owner.flatten(1)).view_as(owner)
    return weights, in_box & (teacher != 0).any(1)
