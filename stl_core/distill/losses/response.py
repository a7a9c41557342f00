"""
Response distillation: the student's head outputs imitate the teacher's at objects.

response_loss is the sum of four terms, weighted by the teacher's certainty about depth:

- object_response_loss compares the predictions of both networks for each target.
- heatmap_response_loss compares the heatmaps in the objects' boxes.
- depth_response_loss compares the depth distributions in all cells of an object.
- peak_weighted_response_loss compares the other predictions in all cells of an object, weighted by
  the teacher's heatmap.

The last three need head maps of the same size from both networks, see shared_head_maps. Labels
supervise only the cell of an object's centre, but a detector reads its predictions wherever its
heatmap peaks; these terms supervise the other cells, too.
Shapes: B batch, N object slots, C classes, A heading bins, D numbers of a prediction, h w grid.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from stl_core.distill import regions, weighting
from stl_core.distill.losses.feature import cell_weights
from stl_core.tensors import depth_encoding
from stl_core.tensors.batch import DistillView
from stl_core.tensors.reductions import StepNormalizer, masked_mean

#: Bounds of a log sigma (metres): wider than any useful prediction, and safe in float32.
_LOG_SIGMA_BOUNDS = (math.log(1e-3), math.log(1e3))


@dataclass(frozen=True)
class SharedHeadMaps:
    """
    Head maps of both networks on one grid, including heatmaps, and each object's cells on it.

    :param student: the student's head maps by name, (B, ., h, w).
    :param teacher: the teacher's head maps, same names and sizes.
    :param stride: pixels per cell.
    :param cells: (B, N, h, w) bool, see regions.object_cells.
    """

    student: dict[str, Tensor]
    teacher: dict[str, Tensor]
    stride: float
    cells: Tensor

    def channels_last(self, name: str) -> tuple[Tensor, Tensor]:
        """Return the student's and the teacher's map of one name, channels last."""
        return self.student[name].movedim(1, -1), self.teacher[name].movedim(1, -1)


def shared_head_maps(view: DistillView) -> SharedHeadMaps | None:
    """Return the maps that both networks have in the heatmap's size; None without heatmaps."""
    student, teacher = view.student.heads, view.teacher.heads
    if 'heatmap' not in student or 'heatmap' not in teacher:
        return None
    h, w = student['heatmap'].shape[-2:]
    names = [
        name
        for name in student
        if name in teacher
        and student[name].shape == teacher[name].shape
        and student[name].dim() == 4
        and student[name].shape[-2:] == (h, w)
    ]
    if 'heatmap' not in names:
        return None
    stride = view.size_px[1] / w
    cells = regions.object_cells(view.targets, stride, h, w)
    return SharedHeadMaps(
        {n: student[n] for n in names}, {n: teacher[n] for n in names}, stride, cells
    )


def heatmap_response_loss(
    view: DistillView, maps: SharedHeadMaps, weight: Tensor, normalizer: StepNormalizer
) -> Tensor:
    """
    Compute the KL divergence of the student's heatmap from the teacher's in objects' boxes.

    :param view: the batch.
    :param maps: maps including the heatmap.
    :param weight: (B, N) weight of each object.
    :param normalizer: normaliser of the step.
    :return: scalar: sum over classes, mean over cells in boxes.
    """
    student, teacher = maps.student['heatmap'], maps.teacher['heatmap']
    weights, in_box = cell_weights(view.targets, maps.stride, teacher, weight)
    positive = teacher.sigmoid() * (F.logsigmoid(teacher) - F.logsigmoid(student))
    negative = (-teacher).sigmoid() * (F.logsigmoid(-teacher) - F.logsigmoid(-student))
    return masked_mean(weights * (positive + negative).sum(1), in_box, normalizer)


def depth_response_loss(
    view: DistillView, maps: SharedHeadMaps, half_sigma_m: float, normalizer: StepNormalizer
) -> Tensor | float:
    """
    Compute the KL divergence of the student's depth distribution from the teacher's over objects.

    :param view: the batch.
    :param maps: maps with or without depth (logit and log sigma).
    :param half_sigma_m: the teacher's sigma at which a cell has half weight, metres.
    :param normalizer: normaliser of the step.
    :return: scalar: mean over an object's cells, then over objects; 0 without depth maps.
    """
    if 'depth' not in maps.student or maps.student['depth'].shape[1] != 2:
        return 0.0
    student, teacher = maps.channels_last('depth')
    weights = weighting.confidence_gate(teacher[..., 1].exp(), half_sigma_m)
    distance = regions.mean_over_cells(maps.cells, weights * laplace_kl(student, teacher))
    return masked_mean(distance, view.targets.valid, normalizer)


def peak_weighted_response_loss(
    view: DistillView, maps: SharedHeadMaps, weight: Tensor, normalizer: StepNormalizer
) -> Tensor | float:
    """
    Compare all predictions except depth over each object, weighted by the teacher's heatmap.

    :param view: the batch.
    :param maps: maps including the heatmap.
    :param weight: (B, N) weight of each object.
    :param normalizer: normaliser of the step.
    :return: scalar: sum over predictions; mean over an object's cells, weighted by the teacher's
        heatmap of the object's class, then over objects; 0 when no prediction is a map.
    """
    names = [name for name in view.student.predictions if name in maps.student and name != 'depth']
    if not names:
        return 0.0
    distances = sum(head_distance(name, *maps.channels_last(name)) for name in names)
    heatmap = maps.teacher['heatmap'].sigmoid()
    class_index = view.targets.class_id[..., None, None].expand(-1, -1, *heatmap.shape[-2:])
    peak_weight = heatmap.gather(1, class_index) * maps.cells
    peak_weight = peak_weight / peak_weight.sum((-1, -2), keepdim=True).clamp(min=1e-6)
    distance = torch.einsum('bnhw,bhw->bn', peak_weight, distances)
    return masked_mean(weight * distance, view.targets.valid, normalizer)


def laplace_kl(student: Tensor, teacher: Tensor) -> Tensor:
    """
    Compute the KL divergence of the student's Laplace distribution of depth from the teacher's.

    For means z and standard deviations sigma, it is
    log(sigma_s / sigma_t) + (sigma_t exp(-sqrt(2) d / sigma_t) + sqrt(2) d) / sigma_s - 1 with
    d = |z_s - z_t|. For a certain teacher this is the depth loss from labels, up to a constant.

    :param student: (..., 2) the student's depth logit and log sigma (metres).
    :param teacher: (..., 2) the teacher's.
    :return: (...,), 0 where they agree.
    """
    (mean_s, log_s), (mean_t, log_t) = (
        (depth_encoding.from_logit(each[..., 0]), each[..., 1].clamp(*_LOG_SIGMA_BOUNDS))
        for each in (student, teacher)
    )
    distance = math.sqrt(2) * (mean_s - mean_t).abs()
    inner = log_t.exp() * torch.exp(-distance / log_t.exp()) + distance
    return log_s - log_t + inner / log_s.exp() - 1


def object_response_loss(view: DistillView, weight: Tensor, normalizer: StepNormalizer) -> Tensor:
    """
    Sum the weighted mean differences over objects of all predictions that both networks have.

    :param view: the batch.
    :param weight: (B, N) weight of each object.
    :param normalizer: normaliser of the step.
    :return: scalar; 0 when no object is valid.
    :raises ValueError: if the networks have no prediction in common, or one differs in size.
    """
    student, teacher = view.student.predictions, view.teacher.predictions
    names = [name for name in student if name in teacher]
    if not names:
        raise ValueError(
            f'predictions: student has {list(student)}, teacher {list(teacher)}; none common'
        )
    for name in names:
        if student[name].shape != teacher[name].shape:
            raise ValueError(
                f'prediction {name}: {student[name].shape[-1]} numbers from the student, '
                f'{teacher[name].shape[-1]} from the teacher; must be the same'
            )
    distance = sum(head_distance(name, student[name], teacher[name]) for name in names)
    return masked_mean(weight * distance, view.targets.valid, normalizer)


def head_distance(name: str, student: Tensor, teacher: Tensor) -> Tensor:
    """Compare (..., D) raw predictions of one name -> (...,): mean L1, or heading_distance."""
    return (
        heading_distance(student, teacher)
        if name == 'heading'
        else (student - teacher).abs().mean(-1)
    )


def heading_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """
    Compute KL of the heading bins plus L1 of the residuals, weighted by the teacher's bins.

    :param student: (..., 2A) the student's bins (logits), then residuals (radians).
    :param teacher: (..., 2A) the teacher's.
    :return: (...,).
    """
    (student_bins, student_residual), (teacher_bins, teacher_residual) = (
        student.chunk(2, -1),
        teacher.chunk(2, -1),
    )
    log_p = teacher_bins.log_softmax(-1)
    kl = F.kl_div(student_bins.log_softmax(-1), log_p, reduction='none', log_target=True)
    return kl.sum(-1) + (log_p.exp() * (student_residual - teacher_residual).abs()).sum(-1)


@dataclass(frozen=True)
class ResponseLossConfig:
    """
    Configuration of our response distillation.

    :param half_sigma_m: the teacher's depth sigma at which an object or cell has half weight,
        metres; infinite (.inf in YAML) gives all the same weight.
    """

    half_sigma_m: float = 1.0

    def __post_init__(self) -> None:
        """Raise ValueError unless half_sigma_m is above 0."""
        weighting.check_positive('half_sigma_m', self.half_sigma_m)


def response_loss(
    view: DistillView, config: ResponseLossConfig, normalizer: StepNormalizer
) -> Tensor:
    """
    Compute object_response_loss plus, for heatmaps of the same size, the losses over head maps.

    :param view: the batch.
    :param config: the gate from the teacher's certainty.
    :param normalizer: normaliser of the step.
    :return: scalar; 0 when no object is valid.
    """
    weight = weighting.confidence_gate(view.teacher.depth_sigma_m, config.half_sigma_m)
    total, maps = object_response_loss(view, weight, normalizer), shared_head_maps(view)
    if maps is None:
        return total
    return (
        total
        + heatmap_response_loss(view, maps, weight, normalizer)
        + depth_response_loss(view, maps, config.half_sigma_m, normalizer)
        + peak_weighted_response_loss(view, maps, weight, normalizer)
    )
