"""
Inspect a trained distillation: object weights, and affinities of teacher and student.

Shapes: M objects of all frames, K objects of one frame.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stl_core.data import dataset
from stl_core.data.worker_pool import with_progress
from stl_core.distill import weighting
from stl_core.distill.distiller import Distiller
from stl_core.distill.losses import feature, relation
from stl_core.distill.view import DistillView
from stl_core.distill.weighting import confidence_gate
from stl_core.experiments.inspection.trained_distiller import load_distiller, load_val_frames
from stl_core.tensors import regions
from stl_core.tensors.batch import Batch
from stl_core.tensors.feature_level import ImagePlane, LevelSpec
from stl_core.tensors.positions import object_distances
from stl_core.tensors.reductions import SINGLE_PART
from stl_core.training.config import TrainConfig
from stl_core.training.config_builder import ConfigError
from stl_core.training.resolved_config import resolve_config
from stl_core.types import Array


@dataclass(frozen=True)
class ObjectWeights:
    """
    Weights of objects in the distillation losses, and the depth uncertainties behind them.

    :param depth_m: (M,) labelled depth.
    :param student_sigma_m: (M,) the distilled student's depth sigma.
    :param teacher_sigma_m: (M,) the teacher's depth sigma.
    :param feature_weight: (M,) weight in DASFD, 0 to 1.
    :param relation_weight: (M,) weight in DASRD of a pair of two objects of this sigma, 0 to 1.
    """

    depth_m: Array
    student_sigma_m: Array
    teacher_sigma_m: Array
    feature_weight: Array
    relation_weight: Array


@dataclass(frozen=True)
class Affinities:
    """
    Feature similarities of the objects of one frame, nearest first, at one stride.

    Channel statistics are those of this frame's objects; training uses those of a step's objects.

    :param frame: id of the frame.
    :param stride: stride of the feature maps.
    :param depth_m: (K,) labelled depth.
    :param teacher: (K, K) cosine of two objects' features, -1 to 1, see relation.cosine_affinity.
    :param student_before: (K, K) of the student before distillation, with the trained layers.
    :param student_after: (K, K) of the student after distillation.
    """

    frame: str
    stride: float
    depth_m: Array
    teacher: Array
    student_before: Array
    student_after: Array


@dataclass(frozen=True)
class DistillationSnapshot:
    """
    Object weights and affinities of a distillation, before and after training.

    :param object_weights: weights of all objects.
    :param affinities: affinities of the frame with the most objects.
    :param mean_difference_before: mean |A_s - A_t| over pairs of different objects of an image,
        then over images, before distillation; 0 if no image has two objects.
    :param mean_difference_after: the same after distillation.
    """

    object_weights: ObjectWeights
    affinities: Affinities
    mean_difference_before: float
    mean_difference_after: float


def inspect_distillation(
    config: TrainConfig, max_frames: int, stride: int
) -> DistillationSnapshot:
    """
    Compute the object weights and affinities of a finished distillation on its val frames.

    :param config: configuration of the run; its folder must contain last.pt.
    :param max_frames: upper limit of the frames to use.
    :param stride: stride at which affinities are computed.
    :return: object weights and affinities.
    :raises ConfigError: for a run without teacher, checkpoint, that stride, or without objects,
        and for a checkpoint of another configuration; only the val settings may differ.
    """
    path = Path(config.out) / 'last.pt'
    if config.distill is None:
        raise ConfigError(f'{config.out}: not a distillation of features at stride {stride}')
    if not path.exists():
        raise ConfigError(f'{path}: no such checkpoint; train this stage first')
    resolved = resolve_config(config)
    models = [load_distiller(resolved, path, start=start) for start in (True, False)]
    level = _level_at_stride(models[0], stride)
    if level is None:
        raise ConfigError(f'{config.out}: not a distillation of features at stride {stride}')
    data = load_val_frames(resolved)
    weights: list[ObjectWeights] = []
    affinities: list[Affinities] = []
    cells = config.distill.losses.get('relation', relation.RelationLossConfig()).cells
    count = min(max_frames, len(data))
    for index in with_progress(range(count), count, 'frames'):
        batch = dataset.collate([data[0, index]], config.val.max_objects)
        before, after = (_make_view(model, batch) for model in models)
        weights.append(_object_weights(after, config.distill.losses))
        affinities.append(_affinities(before, after, level, cells, batch.ids[0]))
    pairs = [each for each in affinities if len(each.depth_m)]
    if not pairs:
        raise ConfigError(f'{config.out}: no object in {len(affinities)} val frames')
    columns = {
        name: np.concatenate([getattr(each, name) for each in weights])
        for name in ObjectWeights.__dataclass_fields__
    }
    return DistillationSnapshot(
        ObjectWeights(**columns),
        max(pairs, key=lambda each: len(each.depth_m)),
        _mean_difference([(each.student_before, each.teacher) for each in pairs]),
        _mean_difference([(each.student_after, each.teacher) for each in pairs]),
    )


def _mean_difference(pairs: list[tuple[Array, Array]]) -> float:
    """Average |A - B| of (K, K) matrices without the diagonal, on which every cosine is 1."""
    gaps = [np.abs(one - other)[~np.eye(len(one), dtype=bool)] for one, other in pairs]
    return float(np.mean([each.mean() for each in gaps if len(each)] or [0.0]))


@torch.no_grad()
def _make_view(model: Distiller, batch: Batch) -> DistillView:
    out = model.student(model.student_input(batch))
    return model.make_view(out, batch, 0.0)


def _object_weights(view: DistillView, losses: dict[str, Any]) -> ObjectWeights:
    """Compute the weights with the run's loss options, or the defaults where it lacks a loss."""
    valid = view.targets.valid
    columns = (
        object_distances(view.targets),
        view.student.depth_sigma_m,
        view.teacher.depth_sigma_m,
        feature.gated_weights(
            view, losses.get('feature', feature.FeatureLossConfig()), SINGLE_PART
        ),
        confidence_gate(
            view.teacher.depth_sigma_m,
            losses.get('relation', relation.RelationLossConfig()).half_sigma_m,
        ),
    )
    return ObjectWeights(*(each[valid].numpy() for each in columns))


def _level_at_stride(model: Distiller, stride: int) -> LevelSpec | None:
    """Return the teacher's compared level of a stride, None without."""
    plane = ImagePlane(stride)
    return next((each for each in model.teacher_levels if each.plane == plane), None)


def _affinities(
    before: DistillView, after: DistillView, level: LevelSpec, cells: int, frame: str
) -> Affinities:
    """Compute the affinity matrices of one frame."""
    indices = regions.valid_indices(after.targets)
    rois = level.plane.object_rois(after.targets, after.size_px, indices)
    teacher_features = after.teacher.levels[level.name].map
    object_cells = level.plane.object_cells(after.targets, teacher_features)
    statistics = weighting.channel_statistics(teacher_features, object_cells, SINGLE_PART)
    maps = (teacher_features, before.adapted[level.name], after.adapted[level.name])
    matrices = (
        relation.cosine_affinity(each.detach(), rois, cells, statistics).numpy() for each in maps
    )
    depth_m = object_distances(after.targets)[after.targets.valid].numpy()
    assert isinstance(level.plane, ImagePlane)  # see _level_at_stride
    return Affinities(frame, level.plane.stride, depth_m, *matrices)
