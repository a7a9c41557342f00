"""
Depth-aware selective relation distillation, DASRD (Ding et al., MonoSTL, TCSVT 2024).

The student's pairwise feature similarities should match the teacher's. Both networks' features are
pooled per object by RoIAlign; the inner products of all pairs of objects are compared between the
networks, weighted by the teacher's certainty about the depth of both objects.
Shapes: B batch, N object slots, K objects of the batch, C channels, h w grid.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import roi_align  # type: ignore[import-untyped]

from stl_core.distill import gates, weighting
from stl_core.distill.gates import check_gate
from stl_core.distill.roi_align import pool_rois
from stl_core.distill.view import DistillView
from stl_core.distill.weighting import ChannelStatistics, check_positive, confidence_gate
from stl_core.tensors import regions
from stl_core.tensors.positions import object_distances
from stl_core.tensors.reductions import StepNormalizer


@dataclass(frozen=True)
class RelationLossConfig:
    """
    Configuration of our DASRD.

    :param half_sigma_m: the teacher's depth sigma (root mean square of the two objects) at which
        a pair has half weight, metres.
    :param cells: cells per side of a pooled object.
    :param across_images: weight of a pair from two images; a pair within an image has weight 1.
        At 0 the loss does not depend on which images share a batch, but images with few objects
        have few pairs. 1 counts all pairs, as the public code does; if a step is split among
        processes or micro-batches, only pairs within a part count.
    :param gate: one of gates.GATES; None is the gate by sigma, all others are its controls.
    """

    half_sigma_m: float = 1.0
    cells: int = 7
    across_images: float = 0.0
    gate: str | None = None

    def __post_init__(self) -> None:
        """Raise ValueError for sigma, cells or weight out of range, or an unknown gate."""
        check_gate(self.gate)
        check_positive('half_sigma_m', self.half_sigma_m)
        _check_cells(self.cells)
        if not self.across_images >= 0:
            raise ValueError(f'across_images: {self.across_images}; must be at least 0')


@dataclass(frozen=True)
class PublicRelationLossConfig:
    """
    Configuration of the public code's DASRD.

    :param cells: cells per side of a pooled object.
    """

    cells: int = 7

    def __post_init__(self) -> None:
        """Raise ValueError for cells below 1."""
        _check_cells(self.cells)


def relation_loss(
    view: DistillView, config: RelationLossConfig, normalizer: StepNormalizer
) -> Tensor:
    """
    Compute our DASRD: mean over pairs of c_ij |A_s - A_t|_ij, and over levels.

    A_ij is the cosine of the pooled features of objects i and j, in [-1, 1]. Each channel is
    standardised by its mean and deviation over the teacher's objects, see
    weighting.channel_statistics: otherwise features that all objects share would make all pairs
    similar. c_ij = 1 / (1 + u / half^2) with u = (sigma_i^2 + sigma_j^2) / 2 of the teacher. An
    object with itself is no pair: its cosine is always 1, and an image with one object would only
    dilute the mean.

    :param view: the batch.
    :param config: gate, pooling and the weight of pairs across images.
    :param normalizer: normaliser of the step.
    :return: scalar, at most 2; 0 without a pair.
    """
    indices = regions.valid_indices(view.targets)
    pair_weight, gate = pair_gates(view, config, indices, normalizer)
    weight = pair_weight * gate
    total = normalizer.total(pair_weight)
    terms = []
    for level, student, teacher in view.feature_pairs():
        rois = level.plane.object_rois(view.targets, view.size_px, indices)
        statistics = weighting.channel_statistics(
            teacher, level.plane.object_cells(view.targets, student), normalizer
        )
        gap = cosine_affinity(student, rois, config.cells, statistics) - cosine_affinity(
            teacher, rois, config.cells, statistics
        )
        terms.append((weight * gap.abs()).sum() / total)
    return torch.stack(terms).mean()


def relation_metrics(
    view: DistillView, config: RelationLossConfig, normalizer: StepNormalizer
) -> dict[str, Tensor]:
    """
    Return mean and deviation of the gate over pairs, and its rank correlation with distance.

    The correlation is over objects: that of the mean weight of an object's pairs.
    """
    indices = regions.valid_indices(view.targets)
    pair_weight, gate = pair_gates(view, config, indices, normalizer)
    pairs = pair_weight.sum(1)
    of_object = (pair_weight * gate).sum(1) / torch.where(pairs > 0, pairs, 1.0)
    distance_m = object_distances(view.targets).flatten()[indices]
    # slots stay in front: without an object there would be no element
    zero = pairs.new_zeros(1)
    rank = gates.rank_correlation(
        torch.cat([zero, of_object]), torch.cat([zero, distance_m]), torch.cat([zero, pairs]) > 0
    )
    return gates.gate_metrics(gate, pair_weight, rank, normalizer)


def pair_gates(
    view: DistillView, config: RelationLossConfig, indices: Tensor, normalizer: StepNormalizer
) -> tuple[Tensor, Tensor]:
    """
    Return how much every pair of objects counts, and its gate.

    Sigma and distance of a pair are the root mean squares of its objects'; the permuted gate
    exchanges the teacher's sigmas.

    :param view: the batch.
    :param config: gate and the weight of pairs across images.
    :param indices: (K,) the valid objects, see regions.valid_indices.
    :param normalizer: of the step.
    :return: (K, K) weight of a pair in means: 1 within an image, `across_images` otherwise, 0 for
        an object with itself; and (K, K) gate.
    """
    targets, sigma_m = view.targets, view.teacher.depth_sigma_m.detach()
    image = indices.div(targets.valid.shape[1], rounding_mode='floor')
    same_image = (image[:, None] == image).to(sigma_m.dtype)
    pair_weight = same_image + (1 - same_image) * config.across_images
    pair_weight = pair_weight.fill_diagonal_(0.0)
    by_sigma = _pair_gate(sigma_m, indices, config)
    permuted = by_sigma
    if config.gate == gates.PERMUTED:
        shuffled_m = gates.permute_in_class(sigma_m, targets.class_id, targets.valid, view.epoch)
        permuted = _pair_gate(shuffled_m, indices, config)
    distance_m = pair_root_mean_square(object_distances(targets), indices)
    gate = gates.control_gate(config.gate, by_sigma, permuted, distance_m, pair_weight, normalizer)
    return pair_weight, gate


def _pair_gate(sigma_m: Tensor, indices: Tensor, config: RelationLossConfig) -> Tensor:
    """Return the (K, K) confidence in pairs of objects with (B, N) sigmas."""
    return confidence_gate(pair_root_mean_square(sigma_m, indices), config.half_sigma_m)


def pair_root_mean_square(value: Tensor, indices: Tensor) -> Tensor:
    """Return the (K, K) root mean square of (B, N) values of all pairs of K objects."""
    return (pair_sums(value.flatten()[indices].square()) / 2).sqrt()


def public_relation_loss(
    view: DistillView, config: PublicRelationLossConfig, normalizer: StepNormalizer
) -> Tensor:
    """
    Compute DASRD as the public code does (DingCodeLab/MonoSTL at 2f761c9).

    Sum over levels of 1 / (2 K^4) sum_ij |A_s - A_t|_ij / (sigma_i^2 + sigma_j^2): plain inner
    products, sigma of the teacher, all pairs of the batch, or of its part in one process or
    micro-batch. The log terms cancel and are left out. Boxes are clipped at the canvas.

    :param view: the batch.
    :param config: pooling.
    :param normalizer: not used: the public code divides by the counts of a part.
    :return: scalar; 0 when no object is valid.
    """
    indices = regions.valid_indices(view.targets)
    spread = pair_sums(view.teacher.depth_sigma_m.flatten()[indices].detach().square())
    differences = affinity_differences(view, config.cells)
    return torch.stack(
        [(gap / spread).sum() / (2 * max(len(gap), 1) ** 4) for gap in differences]
    ).sum()


def cosine_affinity(
    grid: Tensor, rois: Tensor, cells: int, statistics: ChannelStatistics
) -> Tensor:
    """
    Compute the cosine similarities of all pairs of objects on a feature map.

    :param grid: (B, C, h, w) features.
    :param rois: (K, 5), in cells, see FeaturePlane.object_rois.
    :param cells: cells per side of a pooled object.
    :param statistics: mean and deviation by which each channel is standardised.
    :return: (K, K) cosines, -1 to 1.
    """
    rows = (pool_rois(grid, rois, cells) - statistics.mean) / statistics.deviation
    return affinity_matrix(F.normalize(rows.flatten(1), eps=1e-6))


def affinity_differences(view: DistillView, cells: int) -> list[Tensor]:
    """Return for each level the (K, K) |A_s - A_t| of plain inner products over the batch."""
    indices = regions.valid_indices(view.targets)
    gaps = []
    for level, student, teacher in view.feature_pairs():
        rois = level.plane.object_rois(view.targets, view.size_px, indices)
        one, other = (
            affinity_matrix(roi_align(each, rois, cells, 1.0, aligned=True))
            for each in (student, teacher)
        )
        gaps.append((one - other).abs())
    return gaps


def affinity_matrix(rows: Tensor) -> Tensor:
    """Compute the (K, K) inner products of (K, ...) features of objects."""
    flat = rows.flatten(1)
    return flat @ flat.T


def _check_cells(cells: int) -> None:
    if cells < 1:
        raise ValueError(f'cells: {cells}; must be at least 1')


def pair_sums(value: Tensor) -> Tensor:
    """Compute the (K, K) sums of all pairs of (K,) values."""
    return value[:, None] + value
