"""
Depth-aware selective relation distillation, DASRD (Ding et al., MonoSTL, TCSVT 2024).

How alike two objects look to the teacher, they shall look to the student: RoIAlign's features of
each object, their inner products with each other, the difference of those between the networks,
weighted by how sure the teacher is of both objects' depth.
Shapes: B batch, N object slots, K objects of the batch, C channels, h w grid.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import roi_align  # type: ignore[import-untyped]

from stl_core.distill import regions as boxes
from stl_core.distill import weighting as channels
from stl_core.distill import weighting as gate
from stl_core.distill.roi_align import pooled
from stl_core.distill.weighting import Scale
from stl_core.tensors.batch import View
from stl_core.tensors.reductions import count


@dataclass(frozen=True)
class Config:
    """
    Our DASRD.

    :param half_sigma_m: the teacher's depth sigma (root mean square of the two objects) at which
        a pair counts half, metres.
    :param cells: an object is pooled to this many cells a side.
    :param across_images: weight of a pair from two images, where one within an image weighs 1.
        At 0 it does not matter which images share a batch. Where images show few objects there
        are few pairs then; 1 takes all, as the public code does, of those that a process or part
        of the step has: with several, each sees fewer pairs.
    """

    half_sigma_m: float = 1.0
    cells: int = 7
    across_images: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what cannot be divided by, no cell, and a weight below nothing."""
        gate.check_half('half_sigma_m', self.half_sigma_m)
        _check_cells(self.cells)
        if not self.across_images >= 0:
            raise ValueError(f'across_images: {self.across_images}; must be at least 0')


@dataclass(frozen=True)
class PublicConfig:
    """
    The public code's DASRD.

    :param cells: an object is pooled to this many cells a side.
    """

    cells: int = 7

    def __post_init__(self) -> None:
        """Refuse no cell."""
        _check_cells(self.cells)


def loss(view: View, config: Config) -> Tensor:
    """
    Mean over pairs of c_ij |A_s - A_t|_ij, and over strides.

    A_ij is the cosine of the pooled features of objects i and j, so in [-1, 1], each channel less
    its mean and by its deviation over the teacher's objects, see channels.scale: else what all
    objects have in common would make them all alike. c_ij = 1 / (1 + u / half^2) with
    u = (sigma_i^2 + sigma_j^2) / 2 of the teacher. Pairs of an object with itself count, so that
    having every object twice changes nothing.

    :param view: the batch.
    :param config: gate, pooling and the weight of pairs across images.
    :return: scalar, at most 2; 0 when no object is valid.
    """
    places = boxes.listed(view.targets)
    rois = boxes.rois(view.targets, view.size_px, places)
    u = pair_sums(view.teacher.sigma_m.flatten()[places].detach().square()) / 2
    image = rois[:, 0]
    within = (image[:, None] == image).to(u.dtype)
    counted = within + (1 - within) * config.across_images
    weight = counted * gate.certainty(u.sqrt(), config.half_sigma_m)
    total = count(counted)
    terms = []
    for stride, own, ideal in view.levels():
        scale = channels.scale(ideal, boxes.own_cells(view.targets, stride, *own.shape[-2:]))
        gap = relations(own, rois, stride, config.cells, scale) - relations(
            ideal, rois, stride, config.cells, scale
        )
        terms.append((weight * gap.abs()).sum() / total)
    return torch.stack(terms).mean()


def public_loss(view: View, config: PublicConfig) -> Tensor:
    """
    DASRD as the public code computes it (DingCodeLab/MonoSTL at 2f761c9).

    Sum over strides of 1 / (2 K^4) sum_ij |A_s - A_t|_ij / (sigma_i^2 + sigma_j^2): plain inner
    products, sigma of the teacher, all pairs of the batch, or of the share of it that a process
    or part has. Its log terms cancel and are left out. Boxes are cut at the canvas.

    :param view: the batch.
    :param config: pooling.
    :return: scalar; 0 when no object is valid.
    """
    places = boxes.listed(view.targets)
    spread = pair_sums(view.teacher.sigma_m.flatten()[places].detach().square())
    gaps = affinity_gaps(view, config.cells)
    return torch.stack([(gap / spread).sum() / (2 * max(len(gap), 1) ** 4) for gap in gaps]).sum()


def relations(grid: Tensor, rois: Tensor, stride: int, cells: int, scale: Scale) -> Tensor:
    """
    Compare the objects of a map with each other.

    :param grid: (B, C, h, w) features.
    :param rois: (K, 5), see boxes.rois.
    :param stride: pixels a cell of the grid.
    :param cells: an object is pooled to this many a side.
    :param scale: what a channel has in common, and how much it varies.
    :return: (K, K) cosines, -1 to 1.
    """
    rows = (pooled(grid, rois, stride, cells) - scale.mean) / scale.deviation
    return affinity(F.normalize(rows.flatten(1), eps=1e-6))


def affinity_gaps(view: View, cells: int) -> list[Tensor]:
    """List for each stride (K, K) |A_s - A_t| of plain inner products over the whole batch."""
    rois = boxes.rois(view.targets, view.size_px, boxes.listed(view.targets))
    return [
        (
            affinity(roi_align(own, rois, cells, 1 / stride, aligned=True))
            - affinity(roi_align(ideal, rois, cells, 1 / stride, aligned=True))
        ).abs()
        for stride, own, ideal in view.levels()
    ]


def affinity(rows: Tensor) -> Tensor:
    """(K, ...) features of objects -> (K, K) inner products."""
    flat = rows.flatten(1)
    return flat @ flat.T


def _check_cells(cells: int) -> None:
    if cells < 1:
        raise ValueError(f'cells: {cells}; must be at least 1')


def pair_sums(value: Tensor) -> Tensor:
    """(K,) -> (K, K) sums of two."""
    return value[:, None] + value
