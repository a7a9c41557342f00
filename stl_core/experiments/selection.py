"""
What a distillation selects: gates of objects, and relations of teacher and student.

Shapes: M objects of all frames, K objects of one frame.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stl_core.data import augmentation as augment
from stl_core.data import dataset
from stl_core.data.worker_pool import tracked
from stl_core.distill import regions as boxes
from stl_core.distill import weighting as channels
from stl_core.distill import weighting as gate
from stl_core.distill.losses import feature, relation
from stl_core.tensors.batch import Batch, View
from stl_core.training import checkpoint
from stl_core.training import model_builder as learner
from stl_core.training.config import TrainConfig
from stl_core.training.config_builder import ConfigError
from stl_core.types import Array


@dataclass(frozen=True)
class Gates:
    """
    How objects count.

    :param depth_m: (M,) as labelled.
    :param student_sigma_m: (M,) the distilled student's depth sigma.
    :param teacher_sigma_m: (M,) the teacher's.
    :param feature: (M,) weight in DASFD, 0 to 1.
    :param relation: (M,) weight of the object with itself in DASRD, 0 to 1.
    """

    depth_m: Array
    student_sigma_m: Array
    teacher_sigma_m: Array
    feature: Array
    relation: Array


@dataclass(frozen=True)
class Relations:
    """
    Relations of the objects of one frame, nearest first, at one stride.

    Channels are measured over that frame's objects; training measures them over a step's.

    :param frame: its id.
    :param stride: of the maps.
    :param depth_m: (K,).
    :param teacher: (K, K) cosine of two objects' features, -1 to 1, see relation.relations.
    :param before: (K, K) the student's before distillation, through the layers it left.
    :param after: (K, K) after it.
    """

    frame: str
    stride: int
    depth_m: Array
    teacher: Array
    before: Array
    after: Array


@dataclass(frozen=True)
class Selection:
    """
    What was seen.

    :param gates: of all objects.
    :param relations: of the frame with most objects.
    :param gap_before: mean |A_s - A_t| over pairs of two objects of an image, and over images; 0
        where no image has two.
    :param gap_after: the same after distillation.
    """

    gates: Gates
    relations: Relations
    gap_before: float
    gap_after: float


def observe(config: TrainConfig, frames: int, stride: int) -> Selection:
    """
    Look at a distillation that was run, on its val frames.

    :param config: of the run; its last.pt is there.
    :param frames: at most so many.
    :param stride: at which relations are shown.
    :return: gates and relations.
    :raises ConfigError: for a run without teacher, checkpoint, that stride, or without objects,
        and for a checkpoint of another configuration; only the val frames may be others.
    """
    path = Path(config.out) / 'last.pt'
    if config.distill is None:
        raise ConfigError(f'{config.out}: not a distillation of features at stride {stride}')
    if not path.exists():
        raise ConfigError(f'{path}: no such checkpoint; train this stage first')
    models = _before_and_after(learner.pinned(config), path)
    if stride not in models[0].strides:
        raise ConfigError(f'{config.out}: not a distillation of features at stride {stride}')
    still = augment.Config(flip=0.0, crop=0.0, colour=0.0)
    data = dataset.Frames(
        replace(config.val, augment=still, keep_images=False),
        config.input,
        config.classes,
        config.seed,
        learner.eyes(config),
    )
    gates: list[Gates] = []
    seen: list[Relations] = []
    cells = config.distill.losses.get('relation', relation.Config()).cells
    count = min(frames, len(data))
    for index in tracked(range(count), count, 'looking'):
        batch = dataset.collate([data[0, index]], config.val.max_objects)
        before, after = (_look(model, batch) for model in models)
        gates.append(_gates(after, config.distill.losses))
        seen.append(_relations(before, after, stride, cells, batch.ids[0]))
    pairs = [each for each in seen if len(each.depth_m)]
    if not pairs:
        raise ConfigError(f'{config.out}: no object in {len(seen)} val frames')
    columns = {
        name: np.concatenate([getattr(each, name) for each in gates])
        for name in Gates.__dataclass_fields__
    }
    return Selection(
        Gates(**columns),
        max(pairs, key=lambda each: len(each.depth_m)),
        _gap([(each.before, each.teacher) for each in pairs]),
        _gap([(each.after, each.teacher) for each in pairs]),
    )


def _gap(pairs: list[tuple[Array, Array]]) -> float:
    """Mean difference of (K, K) matrices off the diagonal: of itself an object says nothing."""
    gaps = [np.abs(one - other)[~np.eye(len(one), dtype=bool)] for one, other in pairs]
    return float(np.mean([each.mean() for each in gaps if len(each)] or [0.0]))


def _before_and_after(config: TrainConfig, path: Path) -> list[Any]:
    """
    Build the distiller as training left it, with the student as it was found, and as it was left.

    Both students are seen through the same layers, the trained ones: random layers would tell
    nothing of the student behind them.
    """
    state = torch.load(path, map_location='cpu', weights_only=True)
    differ = checkpoint.differences(config, state['config'])
    differ = [key for key in differ if not key.startswith('val.')]
    if differ:
        raise ConfigError(f"{path}: made with another {', '.join(differ[:5])}; give that run's")
    models = []
    for found in (True, False):
        torch.manual_seed(config.seed)
        model: Any = learner.build(config)
        student = {key: each.clone() for key, each in model.student.state_dict().items()}
        model.load_state_dict(state['model'])
        if found:
            model.student.load_state_dict(student)
        elif 'mean' in state:  # what is judged and saved is the mean of the weights
            model.student.load_state_dict(state['mean']['module'])
        models.append(model.eval())
    return models


@torch.no_grad()
def _look(model: Any, batch: Batch) -> View:
    out = model.student(model.student_input(batch), batch.P)
    view: View = model.look(out, batch, 0.0)
    return view


def _gates(view: View, losses: dict[str, Any]) -> Gates:
    """Read the gates by the run's own numbers, or the defaults where it lacks a loss."""
    valid = view.targets.valid
    columns = (
        view.targets.depth_m,
        view.student.sigma_m,
        view.teacher.sigma_m,
        feature.weight_of(view, losses.get('feature', feature.Config())),
        gate.certainty(
            view.teacher.sigma_m, losses.get('relation', relation.Config()).half_sigma_m
        ),
    )
    return Gates(*(each[valid].numpy() for each in columns))


def _relations(before: View, after: View, stride: int, cells: int, frame: str) -> Relations:
    """Compute the matrices of one frame."""
    rois = boxes.rois(after.targets, after.size_px, boxes.listed(after.targets))
    ideal = after.teacher.features[stride]
    shown = boxes.own_cells(after.targets, stride, *ideal.shape[-2:])
    scale = channels.scale(ideal, shown)
    maps = (ideal, before.adapted[stride], after.adapted[stride])
    matrices = (
        relation.relations(each.detach(), rois, stride, cells, scale).numpy() for each in maps
    )
    depth_m = after.targets.depth_m[after.targets.valid].numpy()
    return Relations(frame, stride, depth_m, *matrices)
