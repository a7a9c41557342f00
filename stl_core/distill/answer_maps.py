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

from stl_core import inverse_depth
from stl_core.batch import View
from stl_core.distill import answers, boxes, gate
from stl_core.distill.feature import on_cells
from stl_core.means import masked_mean

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
    gaps = sum(answers.gap(name, *maps.last(name)) for name in names)
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
