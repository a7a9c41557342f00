"""
Vision-depth association, VDA (Wu et al., DK3D, TPAMI 2025): for detectors without a depth map.

Published (abstract): the student fuses depth cues with its visual features; nothing is added at
inference. The teacher's association module (models/depth_association.py) is our choice, as are the
student's side branch, formulas and weights here; we know of no other public implementation.
Shapes: B batch, N object slots, C channels, D depth bins, H W canvas, h w grid of the level.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stl_core.distill.compared_level import compared_level
from stl_core.distill.running_statistics import RunningChannelStatistics
from stl_core.distill.transfer import Transfer
from stl_core.distill.view import DistillView
from stl_core.distill.weighting import bounded_deviation
from stl_core.tensors import regions
from stl_core.tensors.depth_encoding import bin_edges
from stl_core.tensors.detector import Detector
from stl_core.tensors.reductions import StepNormalizer, masked_mean

#: Name of the module of a privileged teacher by which depth is fused into its features.
ASSOCIATION = 'depth_association'


@dataclass(frozen=True)
class VdaConfig:
    """
    Configuration of VDA.

    :param level: the map to which the teacher's association is added; '' for the detector's only
        one downstream of where given depth enters.
    :param bins: D, bins of the student's depth.
    :param max_depth_m: far edge of the last bin, at the learnt focal length; farther objects count
        as in the last bin.
    :param width: hidden channels of the student's depth head.
    :param foreground_weight: weight of a cell with given depth in the depth loss, relative to a
        background cell.
    :param depth_weight: weight of the depth loss.
    :param association_weight: weight of the association loss.
    :param warm_up_epochs: epochs in which the weight of the association loss rises from 0: what an
        untrained depth head adds to the features carries no information.
    :param momentum: weight of a step in the running statistics of the teacher's association.
    """

    level: str = ''
    bins: int = 80
    max_depth_m: float = 80.0
    width: int = 64
    foreground_weight: float = 13.0
    depth_weight: float = 1.0
    association_weight: float = 1.0
    warm_up_epochs: float = 1.0
    momentum: float = 0.01

    def __post_init__(self) -> None:
        """Raise ValueError for sizes not above 0 and negative weights or epochs."""
        for name in ('bins', 'max_depth_m', 'width', 'foreground_weight'):
            if not getattr(self, name) > 0:
                raise ValueError(f'{name}: {getattr(self, name)}; must be above 0')
        for name in ('depth_weight', 'association_weight', 'warm_up_epochs'):
            if not getattr(self, name) >= 0:
                raise ValueError(f'{name}: {getattr(self, name)}; must be at least 0')


class Vda(Transfer):
    """
    Depth loss of the student's side branch + L1(A(F_s, e(D_s)), A(F_t, e(D*))) at objects.

    The teacher's A fuses the given depth D* into its features: F_t = F + A(F, e(D*)). The student
    gets a side branch with a frozen copy of A, which reads the depth D_s of an auxiliary head on
    the student's features in place of D*. The loss asks that image and estimated depth together
    give what the teacher draws from image and true depth. The detection heads read F_s alone; the
    gradient reaches F_s through the queries of A, through D_s and through the depth loss. The
    branch is part of the training only: the model file never holds it. A compares depth with
    visual depth; the copy is given the teacher's, so that both sides agree where D_s is D*.

    The head classifies each cell: depth bins of linearly increasing width (LID), at the focal
    length at which the detector learns depth, and background last. Its loss is focal (Lin et al.,
    ICCV 2017; alpha 0.25, gamma 2) as in MonoDETR, as weighted mean over cells. D_s is the mean of
    the bins' centres under the probabilities of the bins without background: the near edge, which
    MonoDETR reads, errs by up to 1.2 m at 40 m. 1 - p(background) is how far D_s counts as known.
    Taught is the nearest given depth in a cell; a cell of an object's box without given depth,
    such as a hole of a scan, is neither object nor background and is left out. Depth of a scan is
    that of surfaces, and so is then D_s: nearer than the object's centre by up to half its length.

    The association loss is the mean over channels, each in deviations of the teacher's A over
    objects, then over an object's cells, then over objects. A stays frozen, since two moving sides
    would agree on an A that adds nothing.

    :param config: options.
    :param student: detector whose features learn.
    :param teacher: frozen detector that fuses given depth by a depth_association.
    :raises ValueError: for a teacher without depth_association, a level that a network lacks or
        that lies upstream of given depth, and for different channels, which A cannot read.
    """

    def __init__(self, config: VdaConfig, student: Detector, teacher: Detector) -> None:
        """Copy the teacher's association and build the depth head."""
        super().__init__()
        self.config = config
        association = getattr(teacher, ASSOCIATION, None)
        if not isinstance(association, nn.Module):
            raise ValueError(
                f'teacher: {type(teacher).__name__} without {ASSOCIATION}; expected a detector'
                ' that fuses given depth into its features, trained with input.given_depth'
            )
        self.level, to_level = compared_level(config.level, student, teacher)
        if self.level.channels != to_level.channels:
            raise ValueError(
                f'level {self.level.name!r}: {self.level.channels} channels in the student,'
                f' {to_level.channels} in the teacher; expected a teacher of the same architecture'
            )
        self.association = copy.deepcopy(association).requires_grad_(False).eval()
        self.depth_head = _build_depth_head(self.level.channels, config.width, config.bins)
        self.virtual_focal_px = float(getattr(student.config, 'virtual_focal_px', 0.0))
        self.statistics = RunningChannelStatistics(to_level.channels, config.momentum)
        self.edges_m: Tensor
        edges_m = bin_edges(config.bins, config.max_depth_m)
        self.register_buffer('edges_m', edges_m, persistent=False)
        self._parts: dict[str, Tensor] = {}

    def train(self, mode: bool = True) -> Vda:
        """Set the mode of all modules except the teacher's association, which stays frozen."""
        super().train(mode)
        self.association.eval()
        return self

    def forward(self, view: DistillView, normalizer: StepNormalizer) -> dict[str, Tensor]:
        """Return {'': the loss}; ValueError for a teacher that was given no depth."""
        if view.given_depth_m is None or view.teacher.given_depth_added is None:
            raise ValueError('VDA: the teacher was given no depth; set its input.given_depth')
        features = view.student.level(self.level.name).map
        logits = self.depth_head(features)
        in_box = self.level.plane.box_cells(view.targets, features).any(1)
        taught_m, given = cell_depths(view.given_depth_m, (features.shape[2], features.shape[3]))
        ratio = self._focal_ratio(view.P)[:, None, None]
        depth = depth_bin_loss(
            logits,
            taught_m / ratio,
            given,
            in_box,
            self.edges_m,
            self.config.foreground_weight,
            normalizer,
        )
        depth_m, known = expected_depth(logits, self.edges_m)
        association = self._association_loss(view, features, depth_m * ratio, known, normalizer)
        self._parts = {
            'depth': depth.detach(),
            'association': association.detach(),
            'depth_error_m': masked_mean(
                (depth_m.detach() * ratio - taught_m).abs(), given, normalizer
            ),
        }
        weight = self.config.association_weight * self._warm_up(view.epoch)
        return {'': self.config.depth_weight * depth + weight * association}

    def step_metrics(self) -> dict[str, Tensor]:
        """Return both unweighted parts, and the mean error of D_s in cells of given depth, m."""
        return self._parts

    def student_attention(self, view: DistillView) -> Tensor:
        """Return DepthAssociation.attention_weights of the student's side branch, for pictures."""
        features = view.student.level(self.level.name).map
        depth_m, known = expected_depth(self.depth_head(features), self.edges_m)
        depth_m = depth_m * self._focal_ratio(view.P)[:, None, None]
        visual_m = view.teacher.visual_depth_m
        assert visual_m is not None
        return self._attention(features, depth_m, known, visual_m, view)

    def teacher_attention(self, view: DistillView) -> Tensor:
        """Return DepthAssociation.attention_weights of the teacher to the depth it was given."""
        added, given_m = view.teacher.given_depth_added, view.given_depth_m
        visual_m = view.teacher.visual_depth_m
        assert added is not None
        assert given_m is not None
        assert visual_m is not None
        features = view.teacher.level(self.level.name).map - added  # before depth was added
        return self._attention(features, given_m, given_m > 0, visual_m, view)

    def _attention(
        self, features: Tensor, depth_m: Tensor, known: Tensor, visual_m: Tensor, view: DistillView
    ) -> Tensor:
        weights_of: Any = self.association.attention_weights
        weights: Tensor = weights_of(features, depth_m, known, visual_m, view.P, view.size_px)
        return weights

    def _association_loss(
        self,
        view: DistillView,
        features: Tensor,
        depth_m: Tensor,
        known: Tensor,
        normalizer: StepNormalizer,
    ) -> Tensor:
        """Compare what A adds on both sides, see Vda; (B, h, w) depth in true metres."""
        teacher, visual_m = view.teacher.given_depth_added, view.teacher.visual_depth_m
        assert teacher is not None
        assert visual_m is not None
        teacher = teacher.detach()
        student = self.association(features, depth_m, known, visual_m, view.P, view.size_px)
        cells = self.level.plane.object_cells(view.targets, teacher)
        statistics = self.statistics(teacher, cells, view.epoch, normalizer)
        deviation = bounded_deviation(statistics)[:, None, None]
        gap = ((student - teacher) / deviation).abs().mean(1)
        per_object = regions.mean_over_cells(cells, gap)
        return masked_mean(per_object, cells.any(-1).any(-1), normalizer)

    def _focal_ratio(self, P: Tensor) -> Tensor:
        """Return (B,) true focal length over that at which depth is learnt."""
        focal_px = P[:, 0, 0]
        return focal_px / self.virtual_focal_px if self.virtual_focal_px else focal_px * 0 + 1

    def _warm_up(self, epoch: float) -> float:
        """Return the factor of the association loss, 0 to 1."""
        epochs = self.config.warm_up_epochs
        return min(epoch / epochs, 1.0) if epochs else 1.0


def cell_depths(given_depth_m: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """
    Return the nearest given depth in every cell.

    :param given_depth_m: (B, H, W) metres, 0 where none is given.
    :param size: h and w, divisors of H and W.
    :return: (B, h, w) metres, 0 in cells without; and (B, h, w) bool, cells with given depth.
    """
    inverse = torch.where(given_depth_m > 0, 1 / given_depth_m.clamp(min=1e-3), 0.0)
    nearest = F.adaptive_max_pool2d(inverse[:, None], size)[:, 0]
    given = nearest > 0
    return torch.where(given, 1 / torch.where(given, nearest, 1.0), 0.0), given


def depth_bin_loss(
    logits: Tensor,
    depth_m: Tensor,
    given: Tensor,
    in_box: Tensor,
    edges_m: Tensor,
    foreground_weight: float,
    normalizer: StepNormalizer,
) -> Tensor:
    """
    Compute -0.25 (1 - p)^2 log p of the true class, weighted mean over cells.

    :param logits: (B, D + 1, h, w), background last.
    :param depth_m: (B, h, w) at the learnt focal length.
    :param given: (B, h, w) bool, cells with given depth: their class is its bin, the last one for
        depths beyond it, and their weight foreground_weight.
    :param in_box: (B, h, w) bool, cells of objects: without given depth they are left out. All
        other cells are background, with weight 1.
    :param edges_m: (D + 1,) bin edges.
    :param foreground_weight: see above.
    :param normalizer: normaliser of the step.
    :return: scalar.
    """
    bins = len(edges_m) - 1
    index = torch.bucketize(depth_m.contiguous(), edges_m.to(depth_m.dtype), right=True) - 1
    label = torch.where(given, index.clamp(0, bins - 1), bins)
    log_p = logits.log_softmax(1).gather(1, label[:, None])[:, 0]
    background = (~given & ~in_box).to(log_p.dtype)
    weight = torch.where(given, foreground_weight, background)
    loss = -0.25 * (1 - log_p.exp()).square() * log_p
    return (weight * loss).sum() / normalizer.total(weight)


def expected_depth(logits: Tensor, edges_m: Tensor) -> tuple[Tensor, Tensor]:
    """
    Return the depth of a cell if it shows an object, and the probability that it does.

    :param logits: (B, D + 1, h, w), background last.
    :param edges_m: (D + 1,) bin edges.
    :return: (B, h, w) metres at the learnt focal length, mean of the bins' centres; and
        (B, h, w) 1 - p(background).
    """
    centers_m = ((edges_m[:-1] + edges_m[1:]) / 2).to(logits.dtype)
    depth_m = torch.einsum('bdhw,d->bhw', logits[:, :-1].softmax(1), centers_m)
    return depth_m, 1 - logits.softmax(1)[:, -1]


def _build_depth_head(channels: int, width: int, bins: int) -> nn.Sequential:
    """Build a 3x3 convolution, ReLU and a 1x1 convolution, as the heads of CenterNet."""
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, bins + 1, 1)
    )
