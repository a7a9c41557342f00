"""
Features of teacher, control and distilled student on unseen frames, for the fresh-scorer check.

Shapes: F frames, C channels, h w grid.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from stl_core.data import dataset
from stl_core.data.worker_pool import with_progress
from stl_core.distill.compared_level import compared_level
from stl_core.distill.distiller import Distiller
from stl_core.distill.scorer import balanced_weights
from stl_core.experiments.inspection.fresh_scorer import FrozenFeatures
from stl_core.experiments.inspection.trained_distiller import load_distiller, load_val_frames
from stl_core.inference import model_file
from stl_core.tensors.batch import Batch, to_device
from stl_core.tensors.detector import Detector
from stl_core.tensors.feature_level import LevelSpec
from stl_core.training.config import TrainConfig
from stl_core.training.config_builder import ConfigError
from stl_core.training.resolved_config import resolve_config


@dataclass
class _Collected:
    """Maps of the frames so far."""

    teacher: list[Tensor] = field(default_factory=list)
    networks: dict[str, list[Tensor]] = field(default_factory=dict)
    weight: list[Tensor] = field(default_factory=list)


def freeze_features(
    config: TrainConfig, control: TrainConfig, max_frames: int, level: str, device: torch.device
) -> FrozenFeatures:
    """
    Run teacher, control and distilled student on the val frames of a distillation.

    :param config: configuration of the distillation; its folder must contain last.pt.
    :param control: configuration of the run without a teacher, which is finished.
    :param max_frames: upper limit of the frames to use.
    :param level: name of the compared level; '' for that of the run's asb or cpl, without them the
        only one that given depth reaches.
    :param device: where the networks run.
    :return: maps on the CPU: 'control' and 'student', and, if CPL projects the level, both once
        more after the student's trained projection, 'control, projected' and 'student, projected'.
    :raises ConfigError: for a run without teacher or checkpoint, a control of another input, or a
        level that cannot be compared.
    :raises ModelFileError: for a control that is not finished.
    """
    resolved = resolve_config(config)
    model = load_distiller(resolved, Path(config.out) / 'last.pt')
    without = _load_control(config, control)
    try:
        student_level, _ = compared_level(level or _level_of(config), model.student, model.teacher)
    except ValueError as err:
        raise ConfigError(f'{config.out}: {err}') from err
    for each in (model, without):
        each.to(device)
    frames = load_val_frames(resolved)
    count = min(max_frames, len(frames))
    collected = _Collected()
    for index in with_progress(range(count), count, 'frames'):
        batch = dataset.collate([frames[0, index]], config.val.max_objects)
        _collect(collected, model, without, student_level, to_device(batch, device))
    return FrozenFeatures(
        torch.cat(collected.teacher),
        {name: torch.cat(each) for name, each in collected.networks.items()},
        {name: name.replace('student', 'control') for name in collected.networks},
        torch.cat(collected.weight),
    )


def _level_of(config: TrainConfig) -> str:
    """Return the level that the run's asb or cpl names, '' if none does."""
    losses = config.distill.losses if config.distill else {}
    named = [losses[key].level for key in ('asb', 'cpl') if key in losses]
    return next(filter(None, named), '')


def _load_control(config: TrainConfig, control: TrainConfig) -> Detector:
    """Load the control's averaged weights; ConfigError unless it sees what the student sees."""
    path = Path(control.out) / 'student.safetensors'
    spec = model_file.read_model_spec(path)
    if spec.input != config.input:
        raise ConfigError(f'{path}: another input than that of {config.out}; expected equal ones')
    return model_file.load_detector(path, spec).eval()


@torch.no_grad()
def _collect(
    collected: _Collected, model: Distiller, control: Detector, level: LevelSpec, batch: Batch
) -> None:
    """Append the maps of a batch; the control's predictions need not be found at the objects."""
    inputs = model.student_input(batch)
    view = model.make_view(model.student(inputs), batch, 0.0)
    out = control(inputs)
    names = [each.name for each in control.levels]
    networks = {
        'control': out.features[names.index(level.name)],
        'student': view.student.levels[level.name].map,
    }
    for transfer in (each for _, each in model.named_transfers()):
        if transfer.projected_level == level.name:
            projected = {f'{k}, projected': transfer.project(m) for k, m in networks.items()}
            networks.update(projected)
    teacher = view.teacher.levels[level.name].map
    cells = level.plane.object_cells(view.targets, teacher)
    collected.weight.append(balanced_weights(cells).cpu())
    collected.teacher.append(teacher.cpu())
    for name, each in networks.items():
        collected.networks.setdefault(name, []).append(each.cpu())
