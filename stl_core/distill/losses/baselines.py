"""
Baseline distillation losses, to compare MonoSTL with: ungated ones, and MonoDistill's.

plain_feature, plain_scene, plain_relation and plain_heads are ablations and parts of the public
code (DingCodeLab/MonoSTL at 2f761c9; scene and heads come from MonoDistill, Chong et al., ICLR
2022), with its scale: if a step is split among processes or micro-batches, plain_scene and
plain_relation divide by the counts of their part, as relation_public does. A run without any of
the losses is the baseline without distillation.
Shapes: B batch, N object slots, K objects of the batch, C channels, A heading bins, h w grid.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from stl_core.distill.losses.feature import box_feature_mse
from stl_core.distill.losses.relation import affinity_differences
from stl_core.distill.losses.response import object_response_loss
from stl_core.distill.view import DistillView, NetworkOutputs
from stl_core.tensors.batch import Targets, as_image_targets
from stl_core.tensors.reductions import StepNormalizer, masked_mean

#: Head maps compared by L1, and the number of compared channels.
_COMPARED_CHANNELS = {'offset_2d': 2, 'size_2d': 2, 'offset_3d': 2, 'size_3d': 3, 'depth': 1}


@dataclass(frozen=True)
class BaselineConfig:
    """Configuration of a baseline; it has no options."""


def plain_response_loss(
    view: DistillView, config: BaselineConfig, normalizer: StepNormalizer
) -> Tensor:
    """Compute object_response_loss with the same weight for every object, without heatmaps."""
    return object_response_loss(view, torch.ones_like(view.teacher.depth_sigma_m), normalizer)


def plain_feature_loss(
    view: DistillView, config: BaselineConfig, normalizer: StepNormalizer
) -> Tensor:
    """Compute 1/10 sum over levels of mean over cells in boxes of (1/2C) sum_c dF^2, ungated."""
    return box_feature_mse(view, torch.ones_like(view.teacher.depth_sigma_m), normalizer) / 10


def plain_scene_loss(
    view: DistillView, config: BaselineConfig, normalizer: StepNormalizer
) -> Tensor:
    """
    Compare the affinities of map cells instead of objects, as MonoDistill does.

    Every level is resized to the coarsest; A = F F^T over the cells of an image. The loss is the
    sum over levels of mean |A_s - A_t| / B. It does not use the objects.
    """
    levels = view.feature_pairs()
    h, w = levels[-1][1].shape[-2:]
    terms = []
    for _, *both in levels:
        small = (F.interpolate(each, (h, w), mode='bilinear').flatten(2) for each in both)
        student, teacher = (each.transpose(1, 2) @ each for each in small)
        terms.append((student - teacher).abs().mean() / len(student))
    return torch.stack(terms).sum()


def plain_relation_loss(
    view: DistillView, config: BaselineConfig, normalizer: StepNormalizer
) -> Tensor:
    """Compute the ungated DASRD: sum over levels of 1 / K^4 sum_ij |A_s - A_t|_ij."""
    differences = affinity_differences(view, cells=7)
    return torch.stack([gap.sum() / max(len(gap), 1) ** 4 for gap in differences]).sum()


def plain_heads_loss(
    view: DistillView, config: BaselineConfig, normalizer: StepNormalizer
) -> Tensor:
    """
    Compare head maps around box centres by L1, and headings at objects by KL and L1.

    The maps are compared in a square of the size of CenterNet's Gaussian; depth is compared as a
    logit. Only valid objects count; the public code also counts padding slots.

    :param view: the batch; both networks must have MonoDLE's head maps.
    :param config: without options.
    :param normalizer: normaliser of the step.
    :return: scalar; 0 when no object is valid.
    :raises ValueError: for a network without those maps.
    """
    for name in _COMPARED_CHANNELS:
        if not (_has_map(view.student, name) and _has_map(view.teacher, name)):
            raise ValueError(f'plain_heads: needs the head map {name} of student and teacher')
    h, w = view.student.heads['depth'].shape[-2:]
    near = _gaussian_squares(as_image_targets(view.targets), view.size_px[1] / w, h, w)
    total = _heading_loss(view, normalizer)
    for name, channels in _COMPARED_CHANNELS.items():
        student, teacher = (
            side.heads[name][:, :channels] for side in (view.student, view.teacher)
        )
        total = total + masked_mean((student - teacher).abs().movedim(1, -1), near, normalizer)
    return total


def _has_map(side: NetworkOutputs, name: str) -> bool:
    """Return whether a network has the head `name`, and it is a (B, C, h, w) map."""
    return name in side.heads and side.heads[name].dim() == 4


def _gaussian_squares(targets: Targets, stride: float, h: int, w: int) -> Tensor:
    """
    Return the cells in the squares that the objects' Gaussians fill.

    Of CornerNet's three radii for an overlap of 0.7, the third is always the smallest with
    CenterNet's roots; for s = width + height it is 0.7 (sqrt(s^2 + 12/7 width height) - s).

    :return: (B, h, w) bool, union over the valid objects.
    """
    box = targets.box_px / stride
    side = box[..., 2:] - box[..., :2]
    side_sum = side.sum(-1)
    radius = 0.7 * ((side_sum.square() + 12 / 7 * side.prod(-1)).sqrt() - side_sum)
    radius = radius.floor().clamp(min=0)[..., None]
    x, y = ((box[..., 2:] + box[..., :2]) / 2).floor().unbind(-1)
    columns = (torch.arange(w, device=box.device) - x[..., None]).abs() <= radius
    rows = (torch.arange(h, device=box.device) - y[..., None]).abs() <= radius
    rows = rows & targets.valid[..., None]
    return (rows[..., :, None] & columns[..., None, :]).any(1)


def _heading_loss(view: DistillView, normalizer: StepNormalizer) -> Tensor:
    """Compute KL, mean over objects and bins, plus mean L1 of the true bin's residual."""
    valid = view.targets.valid
    student, teacher = (side.predictions['heading'] for side in (view.student, view.teacher))
    (student_bins, student_residual), (teacher_bins, teacher_residual) = (
        student.chunk(2, -1),
        teacher.chunk(2, -1),
    )
    log_p = teacher_bins.log_softmax(-1)
    kl = F.kl_div(student_bins.log_softmax(-1), log_p, reduction='none', log_target=True)
    bin_width = 2 * math.pi / teacher_bins.shape[-1]
    alpha = as_image_targets(view.targets).alpha
    alpha = torch.where(valid, alpha, 0)  # empty slots may hold any number
    true = torch.remainder(torch.round(alpha / bin_width), teacher_bins.shape[-1])
    gap = (student_residual - teacher_residual).abs().gather(-1, true.long()[..., None])
    return masked_mean(kl, valid, normalizer) + masked_mean(gap, valid, normalizer)
