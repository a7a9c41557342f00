"""
Answers of two networks compared all over objects, where both draw them as maps.

Labels teach the cell of an object's centre; a detector reads its answers wherever its peak is.
Shapes: B batch, N object slots, C classes, h w grid.
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
from stl_core.tensors.reductions import masked_mean

#: Bounds of a log sigma (metres): far from what a network should say, near enough for float32.
_LOG_SIGMA_BOUNDS = (math.log(1e-3), math.log(1e3))


@dataclass(frozen=True)
class SharedHeadMaps:
    """
    What both networks draw on one grid beside a heatmap, and what is each object's there.

    :param student: the student's head maps by name, (B, ., h, w).
    :param teacher: the teacher's, same names and sizes.
    :param stride: pixels a cell.
    :param cells: (B, N, h, w) bool, see boxes.own_cells.
    """

    student: dict[str, Tensor]
    teacher: dict[str, Tensor]
    stride: float
    cells: Tensor

    def channels_last(self, name: str) -> tuple[Tensor, Tensor]:
        """Take the student's and the teacher's map of one name, channels last."""
        return self.student[name].movedim(1, -1), self.teacher[name].movedim(1, -1)


def shared_head_maps(view: DistillView) -> SharedHeadMaps | None:
    """Find the head maps that both networks draw as large as their heatmaps; None without."""
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


def heatmap_response_loss(view: DistillView, maps: SharedHeadMaps, weight: Tensor) -> Tensor:
    """
    KL of the student's peaks from the teacher's in objects' boxes.

    :param view: the batch.
    :param maps: with a heatmap.
    :param weight: (B, N).
    :return: scalar: summed over classes, mean over cells.
    """
    student, teacher = maps.student['heatmap'], maps.teacher['heatmap']
    weights, in_box = cell_weights(view.targets, maps.stride, teacher, weight)
    there = teacher.sigmoid() * (F.logsigmoid(teacher) - F.logsigmoid(student))
    not_there = (-teacher).sigmoid() * (F.logsigmoid(-teacher) - F.logsigmoid(-student))
    return masked_mean(weights * (there + not_there).sum(1), in_box)


def depth_response_loss(
    view: DistillView, maps: SharedHeadMaps, half_sigma_m: float
) -> Tensor | float:
    """
    KL of the student's law of depth from the teacher's all over each object; 0 without such maps.

    :param view: the batch.
    :param maps: depth among them, or not.
    :param half_sigma_m: the teacher's sigma in a cell at which that counts half, metres.
    :return: scalar: mean over an object's cells, and over objects.
    """
    if 'depth' not in maps.student or maps.student['depth'].shape[1] != 2:
        return 0.0
    student, teacher = maps.channels_last('depth')
    weights = weighting.confidence_gate(teacher[..., 1].exp(), half_sigma_m)
    distance = regions.mean_over_cells(maps.cells, weights * laplace_kl(student, teacher))
    return masked_mean(distance, view.targets.valid)


def peak_weighted_response_loss(
    view: DistillView, maps: SharedHeadMaps, weight: Tensor
) -> Tensor | float:
    """
    Compare all answers but depth over each object, in proportion to the teacher's peak there.

    :param view: the batch.
    :param maps: with a heatmap.
    :param weight: (B, N).
    :return: scalar: summed over answers, mean over an object's cells by the height of the
        teacher's heatmap of its class, and over objects; 0 when no answer is a map.
    """
    names = [name for name in view.student.predictions if name in maps.student and name != 'depth']
    if not names:
        return 0.0
    distances = sum(head_distance(name, *maps.channels_last(name)) for name in names)
    height = maps.teacher['heatmap'].sigmoid()
    chosen = view.targets.class_id[..., None, None].expand(-1, -1, *height.shape[-2:])
    peak_share = height.gather(1, chosen) * maps.cells
    peak_share = peak_share / peak_share.sum((-1, -2), keepdim=True).clamp(min=1e-6)
    return masked_mean(
        weight * torch.einsum('bnhw,bhw->bn', peak_share, distances), view.targets.valid
    )


def laplace_kl(student: Tensor, teacher: Tensor) -> Tensor:
    """
    KL of one Laplace law of depth from another: of mean z and standard deviation sigma each.

    log(sigma_s / sigma_t) + (sigma_t exp(-sqrt(2) d / sigma_t) + sqrt(2) d) / sigma_s - 1 with
    d = |z_s - z_t|, which is the depth loss of labels where the teacher is sure.

    :param student: (..., 2) the student's depth logit and log sigma.
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


def object_response_loss(view: DistillView, weight: Tensor) -> Tensor:
    """
    Sum over the answers that both give of their weighted mean difference over objects.

    :param view: the batch.
    :param weight: (B, N).
    :return: scalar.
    :raises ValueError: when there is no common answer, or one has another size.
    """
    student, teacher = view.student.predictions, view.teacher.predictions
    names = [name for name in student if name in teacher]
    if not names:
        raise ValueError(
            f'answers: student gives {list(student)}, teacher {list(teacher)}; none common'
        )
    for name in names:
        if student[name].shape != teacher[name].shape:
            raise ValueError(
                f'answer {name}: {student[name].shape[-1]} numbers from the student, '
                f'{teacher[name].shape[-1]} from the teacher; must be the same'
            )
    distance = sum(head_distance(name, student[name], teacher[name]) for name in names)
    return masked_mean(weight * distance, view.targets.valid)


def head_distance(name: str, student: Tensor, teacher: Tensor) -> Tensor:
    """(..., D), (..., D) raw answers of one name -> (...,): L1 over D, or heading_gap."""
    return (
        heading_distance(student, teacher)
        if name == 'heading'
        else (student - teacher).abs().mean(-1)
    )


def heading_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """
    Compare headings: KL of the bins, and L1 of the remainders as far as the teacher holds a bin.

    :param student: (..., 2A) the student's bins (logits), then remainders (radians).
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
    Our response distillation.

    :param half_sigma_m: the teacher's depth sigma at which an object counts half, metres;
        infinite (.inf in YAML) makes all alike.
    """

    half_sigma_m: float = 1.0

    def __post_init__(self) -> None:
        """Refuse what cannot be divided by."""
        weighting.check_positive('half_sigma_m', self.half_sigma_m)


def response_loss(view: DistillView, config: ResponseLossConfig) -> Tensor:
    """
    Sum of answers.at_objects and, where both draw heatmaps of one size, of answer_maps.

    :param view: the batch.
    :param config: the gate, of the teacher's certainty.
    :return: scalar; 0 when no object is valid.
    """
    weight = weighting.confidence_gate(view.teacher.sigma_m, config.half_sigma_m)
    total, maps = object_response_loss(view, weight), shared_head_maps(view)
    if maps is None:
        return total
    return (
        total
        + heatmap_response_loss(view, maps, weight)
        + depth_response_loss(view, maps, config.half_sigma_m)
        + peak_weighted_response_loss(view, maps, weight)
    )
