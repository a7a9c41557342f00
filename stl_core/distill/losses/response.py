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

from stl_core.distill import regions as boxes
from stl_core.distill import weighting as gate
from stl_core.distill.losses.feature import on_cells
from stl_core.tensors import depth_encoding as inverse_depth
from stl_core.tensors.batch import View
from stl_core.tensors.reductions import masked_mean

#: Bounds of a log sigma (metres): far from what a network should say, near enough for float32.
_LOG_SIGMA = (math.log(1e-3), math.log(1e3))


@dataclass(frozen=True)
class Maps:
    """
    What both networks draw on one grid beside a heatmap, and what is each object's there.

    :param own: the student's head maps by name, (B, ., h, w).
    :param ideal: the teacher's, same names and sizes.
    :param stride: pixels a cell.
    :param cells: (B, N, h, w) bool, see boxes.own_cells.
    """

    own: dict[str, Tensor]
    ideal: dict[str, Tensor]
    stride: float
    cells: Tensor

    def last(self, name: str) -> tuple[Tensor, Tensor]:
        """Take the student's and the teacher's map of one name, channels last."""
        return self.own[name].movedim(1, -1), self.ideal[name].movedim(1, -1)


def common_maps(view: View) -> Maps | None:
    """Find the head maps that both networks draw as large as their heatmaps; None without."""
    own, ideal = view.student.heads, view.teacher.heads
    if 'heatmap' not in own or 'heatmap' not in ideal:
        return None
    h, w = own['heatmap'].shape[-2:]
    both = [
        name
        for name in own
        if name in ideal
        and own[name].shape == ideal[name].shape
        and own[name].dim() == 4
        and own[name].shape[-2:] == (h, w)
    ]
    if 'heatmap' not in both:
        return None
    stride = view.size_px[1] / w
    cells = boxes.own_cells(view.targets, stride, h, w)
    return Maps({n: own[n] for n in both}, {n: ideal[n] for n in both}, stride, cells)


def at_heatmap(view: View, maps: Maps, weight: Tensor) -> Tensor:
    """
    KL of the student's peaks from the teacher's in objects' boxes.

    :param view: the batch.
    :param maps: with a heatmap.
    :param weight: (B, N).
    :return: scalar: summed over classes, mean over cells.
    """
    own, ideal = maps.own['heatmap'], maps.ideal['heatmap']
    opened, owned = on_cells(view.targets, maps.stride, ideal, weight)
    there = ideal.sigmoid() * (F.logsigmoid(ideal) - F.logsigmoid(own))
    not_there = (-ideal).sigmoid() * (F.logsigmoid(-ideal) - F.logsigmoid(-own))
    return masked_mean(opened * (there + not_there).sum(1), owned)


def at_depth_map(view: View, maps: Maps, half_sigma_m: float) -> Tensor | float:
    """
    KL of the student's law of depth from the teacher's all over each object; 0 without such maps.

    :param view: the batch.
    :param maps: depth among them, or not.
    :param half_sigma_m: the teacher's sigma in a cell at which that counts half, metres.
    :return: scalar: mean over an object's cells, and over objects.
    """
    if 'depth' not in maps.own or maps.own['depth'].shape[1] != 2:
        return 0.0
    own, ideal = maps.last('depth')
    opened = gate.certainty(ideal[..., 1].exp(), half_sigma_m)
    gap = boxes.mean_over(maps.cells, opened * laplace_gap(own, ideal))
    return masked_mean(gap, view.targets.valid)


def at_peaks(view: View, maps: Maps, weight: Tensor) -> Tensor | float:
    """
    Compare all answers but depth over each object, in proportion to the teacher's peak there.

    :param view: the batch.
    :param maps: with a heatmap.
    :param weight: (B, N).
    :return: scalar: summed over answers, mean over an object's cells by the height of the
        teacher's heatmap of its class, and over objects; 0 when no answer is a map.
    """
    names = [name for name in view.student.answers if name in maps.own and name != 'depth']
    if not names:
        return 0.0
    gaps = sum(gap(name, *maps.last(name)) for name in names)
    height = maps.ideal['heatmap'].sigmoid()
    chosen = view.targets.class_id[..., None, None].expand(-1, -1, *height.shape[-2:])
    place = height.gather(1, chosen) * maps.cells
    place = place / place.sum((-1, -2), keepdim=True).clamp(min=1e-6)
    return masked_mean(weight * torch.einsum('bnhw,bhw->bn', place, gaps), view.targets.valid)


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
    away = sum(gap(name, own[name], ideal[name]) for name in both)
    return masked_mean(weight * away, view.targets.valid)


def gap(name: str, own: Tensor, ideal: Tensor) -> Tensor:
    """(..., D), (..., D) raw answers of one name -> (...,): L1 over D, or heading_gap."""
    return heading_gap(own, ideal) if name == 'heading' else (own - ideal).abs().mean(-1)


def heading_gap(own: Tensor, ideal: Tensor) -> Tensor:
    """
    Compare headings: KL of the bins, and L1 of the remainders as far as the teacher holds a bin.

    :param own: (..., 2A) the student's bins (logits), then remainders (radians).
    :param ideal: (..., 2A) the teacher's.
    :return: (...,).
    """
    (own_bins, own_rest), (bins, rest) = own.chunk(2, -1), ideal.chunk(2, -1)
    log_p = bins.log_softmax(-1)
    kl = F.kl_div(own_bins.log_softmax(-1), log_p, reduction='none', log_target=True)
    return kl.sum(-1) + (log_p.exp() * (own_rest - rest).abs()).sum(-1)


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
        gate.check_half('half_sigma_m', self.half_sigma_m)


def loss(view: View, config: Config) -> Tensor:
    """
    Sum of answers.at_objects and, where both draw heatmaps of one size, of answer_maps.

    :param view: the batch.
    :param config: the gate, of the teacher's certainty.
    :return: scalar; 0 when no object is valid.
    """
    weight = gate.certainty(view.teacher.sigma_m, config.half_sigma_m)
    total, maps = at_objects(view, weight), common_maps(view)
    if maps is None:
        return total
    return (
        total
        + at_heatmap(view, maps, weight)
        + at_depth_map(view, maps, config.half_sigma_m)
        + at_peaks(view, maps, weight)
    )
