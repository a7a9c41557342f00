"""
Depth-aware selective feature distillation, DASFD (Ding et al., MonoSTL, TCSVT 2024).

The student's adapted features at objects imitate the teacher's. The weight of an object rises with
the student's depth uncertainty and with the teacher's certainty: the student need not learn from
LiDAR what it can already estimate, and should not imitate a teacher that is uncertain itself.
Shapes: B batch, N object slots, C channels, h w grid.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from stl_core.distill import gates, weighting
from stl_core.distill.gates import check_gate
from stl_core.distill.view import DistillView
from stl_core.distill.weighting import check_positive, confidence_gate, uncertainty_gate
from stl_core.tensors import regions
from stl_core.tensors.batch import ObjectTargets
from stl_core.tensors.feature_level import FeaturePlane
from stl_core.tensors.positions import object_distances
from stl_core.tensors.reductions import StepNormalizer, masked_mean


@dataclass(frozen=True)
class FeatureLossConfig:
    """
    Configuration of our DASFD.

    :param half_sigma_m: the student's depth sigma at which an object has half weight, metres.
    :param sure_sigma_m: the teacher's depth sigma at which an object has half weight, metres;
        infinite (.inf in YAML) trusts the teacher for every object, as the public code does.
    :param around: how far beyond its box an object's features are compared, as fraction of the
        width and height of the box: the ground below an object and its neighbours also show its
        distance.
    :param gate: one of gates.GATES; None is the gate by sigma, all others are its controls.
    """

    half_sigma_m: float = 0.5
    sure_sigma_m: float = 1.0
    around: float = 1.0
    gate: str | None = None

    def __post_init__(self) -> None:
        """Raise ValueError for sigmas or around out of range, or an unknown gate."""
        check_gate(self.gate)
        check_positive('half_sigma_m', self.half_sigma_m)
        check_positive('sure_sigma_m', self.sure_sigma_m)
        if math.isinf(self.half_sigma_m):
            raise ValueError('half_sigma_m: infinite gives every object weight 0; must be finite')
        if not self.around >= 0:
            raise ValueError(f'around: {self.around} of a box; must be at least 0')


@dataclass(frozen=True)
class PublicFeatureLossConfig:
    """Configuration of the public code's DASFD; it has no options."""


def feature_loss(
    view: DistillView, config: FeatureLossConfig, normalizer: StepNormalizer
) -> Tensor:
    """
    Compute our DASFD: mean over levels and objects of g * mean over cells of h / (1 + h / 2).

    h = (1/2C) sum_c ((F_s - F_t) / d_c)^2, where d_c is the deviation of the teacher's channel
    over objects, see weighting.channel_statistics: neither the scale nor the number of channels
    matters. A cell contributes at most 2, so that a few very different cells cannot dominate.
    g is gated_weights. An object's cells are those of its box where no other object is nearer,
    and those around it, see regions.object_cells. They are averaged per object first: otherwise
    near objects, which cover the most cells and are estimated best, would dominate.

    :param view: the batch.
    :param config: the gates, and how far around an object features are compared.
    :param normalizer: normaliser of the step.
    :return: scalar, at most 2; 0 when no object is valid.
    """
    weight = gated_weights(view, config, normalizer)
    terms = []
    for level, student, teacher in view.feature_pairs():
        cells = level.plane.object_cells(view.targets, student, config.around)
        cells = cells & (teacher != 0).any(1)[:, None]
        deviation = weighting.channel_statistics(teacher, cells, normalizer).deviation
        distance = ((student - teacher).movedim(1, -1) / deviation).square().mean(-1) / 2
        gap = regions.mean_over_cells(cells, distance / (1 + distance / 2))
        terms.append(masked_mean(weight * gap, cells.any(-1).any(-1), normalizer))
    return torch.stack(terms).mean()


def feature_metrics(
    view: DistillView, config: FeatureLossConfig, normalizer: StepNormalizer
) -> dict[str, Tensor]:
    """Return mean, deviation and rank correlation with distance of the gate, over objects."""
    valid, distance_m = view.targets.valid, object_distances(view.targets)
    weight = gated_weights(view, config, normalizer)
    rank = gates.rank_correlation(weight.flatten(), distance_m.flatten(), valid.flatten())
    return gates.gate_metrics(weight, valid, rank, normalizer)


def gated_weights(
    view: DistillView, config: FeatureLossConfig, normalizer: StepNormalizer
) -> Tensor:
    """Return the (B, N) weight of each object by the gate of the configuration."""
    weight, targets = object_weights(view, config), view.targets
    permuted = weight
    if config.gate == gates.PERMUTED:
        permuted = gates.permute_in_class(weight, targets.class_id, targets.valid, view.epoch)
    return gates.control_gate(
        config.gate, weight, permuted, object_distances(targets), targets.valid, normalizer
    )


def object_weights(view: DistillView, config: FeatureLossConfig) -> Tensor:
    """
    Compute the gate by sigma: the student's uncertainty times the teacher's confidence.

    s_s^2 / (half^2 + s_s^2) * sure^2 / (sure^2 + s_t^2), where s are the sigmas of depth, metres.

    :param view: the batch.
    :param config: the gates.
    :return: (B, N) in [0, 1), without gradient.
    """
    uncertainty = uncertainty_gate(view.student.depth_sigma_m, config.half_sigma_m)
    return uncertainty * confidence_gate(view.teacher.depth_sigma_m, config.sure_sigma_m)


def public_feature_loss(
    view: DistillView, config: PublicFeatureLossConfig, normalizer: StepNormalizer
) -> Tensor:
    """
    Compute DASFD as the public code does (DingCodeLab/MonoSTL at 2f761c9).

    1/10 of the sum over levels of the mean over cells in boxes of
    (1 - min(1, 1 / sigma)) * (1/2C) sum_c (F_s - F_t)^2, with the student's sigma: 0 for objects
    whose depth it knows to a metre. Boxes are clipped at the map and cover at least one cell; the
    nearest object owns a cell. In the public code, boxes beyond the map's edge lose their cells,
    small boxes vanish and the last label owns a cell.

    :param view: the batch.
    :param config: without options.
    :param normalizer: normaliser of the step.
    :return: scalar; 0 when no object is valid.
    """
    weight = 1 - (1 / view.student.depth_sigma_m.detach()).clamp(max=1)
    return box_feature_mse(view, weight, normalizer) / 10


def box_feature_mse(view: DistillView, weight: Tensor, normalizer: StepNormalizer) -> Tensor:
    """Sum over levels the mean over cells in boxes of (1/2C) sum_c dF^2 times (B, N) weights."""
    terms = []
    for level, student, teacher in view.feature_pairs():
        weights, in_box = cell_weights(view.targets, level.plane, teacher, weight)
        distance = (student - teacher).square().mean(1)
        terms.append(masked_mean(weights * distance / 2, in_box, normalizer))
    return torch.stack(terms).sum()


def cell_weights(
    targets: ObjectTargets, plane: FeaturePlane, teacher: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor]:
    """
    Assign each cell in a box the weight of the object that owns it.

    :param targets: of the kind that the plane shows.
    :param plane: plane of the map.
    :param teacher: (B, C, h, w), the teacher's map; cells that are 0 in all channels do not count.
    :param weight: (B, N) weight of each object.
    :return: (B, h, w) weights, and (B, h, w) bool, which cells count.
    """
    owner, in_box = plane.nearest_object_map(targets, teacher)
    weights = weight.gather(1, owner.flatten(1)).view_as(owner)
    return weights, in_box & (teacher != 0).any(1)
