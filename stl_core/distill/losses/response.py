"""
Response distillation: the student's head outputs imitate the teacher's at objects.

response_loss is the sum of four terms, weighted by the teacher's certainty about depth:

- object_response_loss compares the predictions of both networks for each target.
- heatmap_response_loss compares the heatmaps in the objects' boxes.
- depth_response_loss compares the depth distributions in the cells of an object whose depth the
  teacher can know, see DEPTH_CELLS.
- peak_weighted_response_loss compares the other predictions in all cells of an object, weighted by
  the teacher's heatmap.

The last three need head maps of the same size from both networks, see shared_head_maps. Labels
supervise only the cell of an object's centre, but a detector reads its predictions wherever its
heatmap peaks; these terms supervise the other cells, too. The teacher's labels supervised no other
cell either: its depth far from its peaks is arbitrary, and so is the sigma that it states there.
Shapes: B batch, N object slots, C classes, A heading bins, D numbers of a prediction, h w grid.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from stl_core.distill import weighting
from stl_core.distill.losses.feature import cell_weights
from stl_core.distill.view import DistillView
from stl_core.tensors import depth_encoding
from stl_core.tensors.batch import as_image_targets
from stl_core.tensors.feature_level import FeaturePlane, ImagePlane
from stl_core.tensors.reductions import StepNormalizer, masked_mean

#: Bounds of a log sigma (metres): wider than any useful prediction, and safe in float32.
_LOG_SIGMA_BOUNDS = (math.log(1e-3), math.log(1e3))

#: Cells of an object in which depth_response_loss compares depth, and their weights.
DEPTH_CELLS = ('peaks', 'agreeing', 'all', 'none')

#: Height of the teacher's heatmap below which a cell has no weight for `peaks`: no detection is
#: read there (published detectors ignore peaks below 0.2), so no depth was ever taught there.
MIN_PEAK = 0.1

#: Teacher's sigmas by which its depth may miss the label in a cell that counts for `agreeing`.
AGREEING_SIGMAS = 2.0

#: Upper bound of the divergence of one cell, approached as g / (1 + g / bound): depth is exp of a
#: logit, so that the gradient of one wild cell could otherwise exceed those of all others. Two
#: Laplace distributions with one sigma and means five sigmas apart diverge by 6.
_DIVERGENCE_BOUND = 8.0


@dataclass(frozen=True)
class SharedHeadMaps:
    """
    Head maps of both networks on one grid, including heatmaps, and each object's cells on it.

    :param student: the student's head maps by name, (B, ., h, w).
    :param teacher: the teacher's head maps, same names and sizes.
    :param plane: plane of the maps.
    :param cells: (B, N, h, w) bool, see FeaturePlane.object_cells.
    """

    student: dict[str, Tensor]
    teacher: dict[str, Tensor]
    plane: FeaturePlane
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
    plane = view.heads_plane or ImagePlane(view.size_px[1] / w)
    cells = plane.object_cells(view.targets, student['heatmap'])
    return SharedHeadMaps(
        {n: student[n] for n in names}, {n: teacher[n] for n in names}, plane, cells
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
    weights, in_box = cell_weights(view.targets, maps.plane, teacher, weight)
    positive = teacher.sigmoid() * (F.logsigmoid(teacher) - F.logsigmoid(student))
    negative = (-teacher).sigmoid() * (F.logsigmoid(-teacher) - F.logsigmoid(-student))
    return masked_mean(weights * (positive + negative).sum(1), in_box, normalizer)


def depth_response_loss(
    view: DistillView, maps: SharedHeadMaps, config: ResponseLossConfig, normalizer: StepNormalizer
) -> Tensor | float:
    """
    Compare the depth distributions over objects: KL of the student's from the teacher's.

    :param view: the batch.
    :param maps: maps with or without depth (logit and log sigma).
    :param config: which cells count, see depth_cell_weights. The divergence g of a cell is
        bounded, g / (1 + g / 8), except for `all`.
    :param normalizer: normaliser of the step.
    :return: scalar: weighted sum over an object's cells, mean over objects; 0 without depth maps.
    """
    has_depth = 'depth' in maps.student and maps.student['depth'].shape[1] == 2
    if config.depth_cells == 'none' or not has_depth:
        return 0.0
    divergence = laplace_kl(*maps.channels_last('depth'))
    if config.depth_cells != 'all':
        divergence = divergence / (1 + divergence / _DIVERGENCE_BOUND)
    weights = depth_cell_weights(view, maps, config)
    return masked_mean(
        torch.einsum('bnhw,bhw->bn', weights, divergence), view.targets.valid, normalizer
    )


def depth_cell_weights(
    view: DistillView, maps: SharedHeadMaps, config: ResponseLossConfig
) -> Tensor:
    """
    Compute the weight of the depth of each cell in the loss of each object.

    Each weight is the product of 1 / (1 + (sigma / half)^2), with the teacher's sigma in the cell,
    and a distribution over the object's cells, which depends on `depth_cells`:

    - peaks: in proportion to the teacher's heatmap of the object's class, where it is at least
      MIN_PEAK. A detector is taught depth at the peaks of its heatmap and reads it there.
    - agreeing: equal, but 0 where the teacher's depth misses the label by more than
      AGREEING_SIGMAS of its sigma: its sigma there is wrong, too.
    - all: equal. The teacher's sigma alone decides, also where no label ever supervised it.

    :param view: the batch.
    :param maps: maps with heatmap and depth.
    :param config: cells and gate.
    :return: (B, N, h, w), without gradient; sums to at most 1 over the cells of an object.
    """
    teacher = maps.channels_last('depth')[1].detach()
    sigma_m = teacher[..., 1].clamp(*_LOG_SIGMA_BOUNDS).exp()
    gate = weighting.confidence_gate(sigma_m, config.half_sigma_m)[:, None]
    if config.depth_cells == 'peaks':
        return _peak_weights(view, maps, MIN_PEAK) * gate
    share = maps.cells / maps.cells.sum((-1, -2), keepdim=True).clamp(min=1)
    if config.depth_cells == 'agreeing':
        label_m = as_image_targets(view.targets).depth_m[..., None, None]
        error_m = (depth_encoding.from_logit(teacher[..., 0])[:, None] - label_m).abs()
        share = share * (error_m <= AGREEING_SIGMAS * sigma_m[:, None])
    return share * gate


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
    distance = torch.einsum('bnhw,bhw->bn', _peak_weights(view, maps), distances)
    return masked_mean(weight * distance, view.targets.valid, normalizer)


def _peak_weights(view: DistillView, maps: SharedHeadMaps, min_peak: float = 0.0) -> Tensor:
    """
    Return the teacher's heatmap of each object's class over the object's cells, with sum 1.

    :param min_peak: height below which a cell has weight 0.
    :return: (B, N, h, w); 0 for objects without a cell of that height.
    """
    heatmap = maps.teacher['heatmap'].detach().sigmoid()
    class_index = view.targets.class_id[..., None, None].expand(-1, -1, *heatmap.shape[-2:])
    height = heatmap.gather(1, class_index) * maps.cells
    height = torch.where(height >= min_peak, height, 0)
    return height / height.sum((-1, -2), keepdim=True).clamp(min=1e-6)


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
    :param depth_cells: cells of an object whose depth is compared, one of DEPTH_CELLS: `peaks`
        and `agreeing` where the teacher was taught depth, see depth_cell_weights; `all` in every
        cell, as before this option existed; `none` at the object's cell alone, with its other
        predictions.
    """

    half_sigma_m: float = 1.0
    depth_cells: str = 'peaks'

    def __post_init__(self) -> None:
        """Raise ValueError for a half_sigma_m not above 0 or an unknown name of cells."""
        weighting.check_positive('half_sigma_m', self.half_sigma_m)
        if self.depth_cells not in DEPTH_CELLS:
            known = ', '.join(DEPTH_CELLS)
            raise ValueError(f'depth_cells: {self.depth_cells!r} is unknown; known: {known}')


def response_loss(
    view: DistillView, config: ResponseLossConfig, normalizer: StepNormalizer
) -> Tensor:
    """
    Compute object_response_loss plus, for heatmaps of the same size, the losses over head maps.

    :param view: the batch.
    :param config: the gate from the teacher's certainty, and the cells whose depth is compared.
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
        + depth_response_loss(view, maps, config, normalizer)
        + peak_weighted_response_loss(view, maps, weight, normalizer)
    )
