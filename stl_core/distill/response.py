"""
Response distillation: at each object, and all over it, the student answers as the teacher does.

Shapes: B batch, N object slots, D numbers of an answer, A heading bins, M cells in boxes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from stl_core import inverse_depth
from stl_core.batch import View
from stl_core.distill import boxes, gate
from stl_core.distill.feature import cells_in_boxes
from stl_core.distill.means import mean

#: Bounds of a log sigma (metres): far from what a network should say, near enough for float32.
_LOG_SIGMA = (math.log(1e-3), math.log(1e3))


@dataclass(frozen=True)
class Config:
    """
    Our response distillation.

    :param half_sigma_m: the teacher's depth sigma at which an object counts half, metres;
        infinite (.inf in YAML) makes all alike.
    """

    half_sigma_m: float = 1.0

    def __post_init__(self) -> None:
        """Refuse what cannot be divided by."""
        gate.check_half(self.half_sigma_m)


def loss(view: View, config: Config) -> Tensor:
    """
    Answers at objects; and heatmaps and maps of depth where both networks have them, one size.

    :param view: the batch.
    :param config: the gate, of the teacher's certainty.
    :return: scalar; 0 when no object is valid.
    """
    weight = gate.certainty(view.teacher.sigma_m, config.half_sigma_m)
    depth_maps = at_depth_map(view, config.half_sigma_m)
    return at_objects(view, weight) + at_heatmap(view, weight) + depth_maps


def at_objects(view: View, weight: Tensor) -> Tensor:
    """
    Sum over the answers that both give of their weighted mean difference over objects.

    :param view: the batch.
    :param weight: (B, N).
    :return: scalar.
    :raises ValueError: when there is no common answer, or one has another size.
    """
    own, ideal = view.student.answers, view.teacher.answers
    both = [name for name in own if name in ideal]
    if not both:
        raise ValueError(f'answers: student gives {list(own)}, teacher {list(ideal)}; none common')
    for name in both:
        if own[name].shape != ideal[name].shape:
            raise ValueError(
                f'answer {name}: {own[name].shape[-1]} numbers from the student, '
                f'{ideal[name].shape[-1]} from the teacher; must be the same'
            )
    away = sum(
        heading_gap(own[name], ideal[name])
        if name == 'heading'
        else (own[name] - ideal[name]).abs().mean(-1)
        for name in both
    )
    return mean((weight * away)[view.targets.valid])


def heading_gap(own: Tensor, ideal: Tensor) -> Tensor:
    """
    Compare headings: KL of the bins, and L1 of the remainders as far as the teacher holds a bin.

    :param own: (B, N, 2A) the student's bins (logits), then remainders (radians).
    :param ideal: (B, N, 2A) the teacher's.
    :return: (B, N).
    """
    (own_bins, own_rest), (bins, rest) = own.chunk(2, -1), ideal.chunk(2, -1)
    log_p = bins.log_softmax(-1)
    kl = F.kl_div(own_bins.log_softmax(-1), log_p, reduction='none', log_target=True)
    return kl.sum(-1) + (log_p.exp() * (own_rest - rest).abs()).sum(-1)


def at_heatmap(view: View, weight: Tensor) -> Tensor | float:
    """
    KL of the student's peaks from the teacher's in objects' boxes; 0 without common heatmap.

    :param view: the batch.
    :param weight: (B, N).
    :return: scalar: summed over classes, mean over cells.
    """
    maps = _common_maps(view, 'heatmap')
    if maps is None:
        return 0.0
    stride, own, ideal = maps
    own, ideal, opened = cells_in_boxes(view.targets, (stride, own, ideal), weight)
    there = ideal.sigmoid() * (F.logsigmoid(ideal) - F.logsigmoid(own))
    not_there = (-ideal).sigmoid() * (F.logsigmoid(-ideal) - F.logsigmoid(-own))
    return mean(opened * (there + not_there).sum(-1))


def at_depth_map(view: View, half_sigma_m: float) -> Tensor | float:
    """
    KL of the student's law of depth from the teacher's all over each object; 0 without such maps.

    Labels teach depth in one cell of an object, and a detector reads it wherever its peak is.

    :param view: the batch.
    :param half_sigma_m: the teacher's sigma in a cell at which that counts half, metres.
    :return: scalar: mean over an object's cells, see boxes.own_cells, and over objects.
    """
    maps = _common_maps(view, 'depth')
    if maps is None or maps[1].shape[1] != 2:
        return 0.0
    stride, own, ideal = maps
    opened = gate.certainty(ideal[:, 1].exp(), half_sigma_m)
    gap = opened * laplace_gap(own.movedim(1, -1), ideal.movedim(1, -1))
    cells = boxes.own_cells(view.targets, stride, *gap.shape[1:])
    return mean(boxes.mean_over(cells, gap)[view.targets.valid])


def laplace_gap(own: Tensor, ideal: Tensor) -> Tensor:
    """
    KL of one Laplace law of depth from another: of mean z and standard deviation sigma each.

    log(sigma_s / sigma_t) + (sigma_t exp(-sqrt(2) d / sigma_t) + sqrt(2) d) / sigma_s - 1 with
    d = |z_s - z_t|, which is the depth loss of labels where the teacher is sure.

    :param own: (..., 2) the student's depth logit and log sigma.
    :param ideal: (..., 2) the teacher's.
    :return: (...,), 0 where they agree.
    """
    (mean_s, log_s), (mean_t, log_t) = (
        (inverse_depth.from_logit(each[..., 0]), each[..., 1].clamp(*_LOG_SIGMA))
        for each in (own, ideal)
    )
    away = math.sqrt(2) * (mean_s - mean_t).abs()
    inner = log_t.exp() * torch.exp(-away / log_t.exp()) + away
    return log_s - log_t + inner / log_s.exp() - 1


def _common_maps(view: View, name: str) -> tuple[float, Tensor, Tensor] | None:
    """Find a head's maps, and their stride, where both networks have them in one size."""
    own, ideal = (side.heads.get(name) for side in (view.student, view.teacher))
    if own is None or ideal is None or own.shape != ideal.shape or own.dim() != 4:
        return None
    return view.size_px[1] / own.shape[-1], own, ideal
