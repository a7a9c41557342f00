"""
Pictures of a trained distillation for one frame: features, attention, and the scorer's accuracy.

The student before distillation is the start model beside the trained transfers, so that both are
drawn by the same layers. Shapes: C channels, h w grid, K objects of the frame.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from stl_core.data import dataset
from stl_core.distill.compared_level import compared_level
from stl_core.distill.distiller import Distiller
from stl_core.distill.losses.tsrd import Tsrd
from stl_core.distill.losses.vda import Vda
from stl_core.distill.view import DistillView
from stl_core.experiments.inspection.trained_distiller import load_distiller, load_val_frames
from stl_core.tensors.batch import Batch, as_image_targets
from stl_core.tensors.reductions import SINGLE_PART
from stl_core.training.config import TrainConfig
from stl_core.training.config_builder import ConfigError
from stl_core.training.resolved_config import resolve_config
from stl_core.types import Array
from stl_core.visualization.attention import cell_attention_picture, object_attention_picture
from stl_core.visualization.charts import plot_curve
from stl_core.visualization.draw import write_picture
from stl_core.visualization.feature_maps import feature_picture

TEACHER, BEFORE, AFTER = 'teacher', 'student before distillation', 'student after'
#: Column of curves.csv with the accuracy of asb's scorer.
ACCURACY = 'metric/distill/asb/accuracy'


@dataclass(frozen=True)
class InspectedFrame:
    """
    A frame, seen by the teacher and by the student before and after distillation.

    :param name: id of the frame.
    :param image: (H, W, 3) uint8 RGB canvas.
    :param views: BEFORE and AFTER -> outputs of both networks.
    :param models: BEFORE and AFTER -> the networks.
    """

    name: str
    image: Array
    views: dict[str, DistillView]
    models: dict[str, Distiller]

    @property
    def after(self) -> DistillView:
        """Outputs of the teacher and of the distilled student."""
        return self.views[AFTER]


def draw_transfers(
    config: TrainConfig, out: Path, frame: str = '', level: str = ''
) -> dict[str, str]:
    """
    Draw what a finished distillation transferred, one PNG each.

    :param config: configuration of the distillation; its folder must contain last.pt.
    :param out: folder for features.png, tsrd.png, vda.png and scorer.png; it is created.
    :param frame: id of a val frame; '' is the one with the most objects among the first hundred.
    :param level: compared level; '' for that of the transfers, or of the compared features.
    :return: {file name: '' if it was written, else why not}.
    :raises ConfigError: for a run without teacher or checkpoint, an unknown frame or level, or
        without an object to draw.
    """
    inspected = _inspect_frame(config, frame)
    draw: dict[str, Callable[[], Array]] = {
        'features.png': lambda: features_of_frame(inspected, level or _level_of(config)),
        'tsrd.png': lambda: relations_of_frame(inspected),
        'vda.png': lambda: association_of_frame(inspected),
    }
    out.mkdir(parents=True, exist_ok=True)
    results = {}
    for name, picture in draw.items():
        key = name.removesuffix('.png')
        if key in inspected.models[AFTER].transfers or key == 'features':
            write_picture(out / name, picture())
            results[name] = ''
        else:
            results[name] = f'the run has no {key}'
    results['scorer.png'] = _draw_scorer(config, out / 'scorer.png')
    return results


@torch.no_grad()
def features_of_frame(inspected: InspectedFrame, level: str) -> Array:
    """
    Draw the compared map of student and teacher in the colours of the teacher's.

    :param inspected: the frame.
    :param level: name of the level; '' for the only one that given depth reaches.
    :raises ConfigError: for a level that cannot be compared.
    """
    model = inspected.models[AFTER]
    name = level
    if not name:
        try:
            name = compared_level('', model.student, model.teacher)[0].name
        except ValueError as err:
            raise ConfigError(f'--level: {err}') from err
    teacher = inspected.after.teacher.levels.get(name)
    if teacher is None:
        known = ', '.join(inspected.after.teacher.levels)
        raise ConfigError(f'--level: {name!r} is unknown; the teacher has {known}')
    maps = {}
    for title, view in inspected.views.items():
        # in the teacher's channels, if the run has layers for them
        found = view.student.levels.get(name)
        shown = view.adapted.get(name, found.map if found is not None else None)
        if shown is None or shown.shape != teacher.map.shape:
            raise ConfigError(f'--level: the student has no map like {name!r} of the teacher')
        maps[title] = shown[0].numpy()
    return feature_picture(inspected.image, maps | {TEACHER: teacher.map[0].numpy()}, TEACHER)


@torch.no_grad()
def relations_of_frame(inspected: InspectedFrame) -> Array:
    """Draw TSRD's attention among the objects, nearest first, of both students and the teacher."""
    targets = as_image_targets(inspected.after.targets)
    slots = targets.valid[0].nonzero()[:, 0]
    slots = slots[targets.depth_m[0, slots].argsort()]
    attention = {}
    for title, view in inspected.views.items():
        transfer = inspected.models[title].transfers['tsrd']
        assert isinstance(transfer, Tsrd)
        # both views must compare the same objects: those of the distilled student
        same = _with_targets_of(view, inspected.after)
        teacher, student = transfer.relations(same, SINGLE_PART)
        attention[title] = _among(student.log_attention, slots)
        attention[TEACHER] = _among(teacher.log_attention, slots)
    boxes = targets.box_px[0, slots].numpy()
    ordered = {title: attention[title] for title in (BEFORE, AFTER, TEACHER)}
    return object_attention_picture(inspected.image, boxes, ordered)


@torch.no_grad()
def association_of_frame(inspected: InspectedFrame) -> Array:
    """
    Draw from where the middle of the largest object takes depth, in the teacher and students.

    The teacher attends to given depth, the students to that of VDA's depth head.
    """
    view, targets = inspected.after, as_image_targets(inspected.after.targets)
    box = targets.box_px[0]
    area = torch.where(targets.valid[0], (box[:, 2:] - box[:, :2]).prod(-1), -1.0)
    middle = (box[area.argmax(), :2] + box[area.argmax(), 2:]) / 2
    attention = {}
    for title, each in inspected.views.items():
        transfer = inspected.models[title].transfers['vda']
        assert isinstance(transfer, Vda)
        attention[title] = _attention_at(transfer.student_attention(each), middle, view.size_px)
        attention[TEACHER] = _attention_at(transfer.teacher_attention(each), middle, view.size_px)
    ordered = {title: attention[title] for title in (BEFORE, AFTER, TEACHER)}
    x, y = middle.tolist()
    return cell_attention_picture(inspected.image, ordered, (x, y))


def _attention_at(weights: Tensor, point_px: Tensor, size_px: tuple[int, int]) -> Array:
    """Return the (h, w) attention of the cell at a point, of (1, h, w, h, w) weights."""
    h, w = weights.shape[1:3]
    column = int((float(point_px[0]) + 0.5) * w / size_px[1])
    row = int((float(point_px[1]) + 0.5) * h / size_px[0])
    cell = weights[0, min(max(row, 0), h - 1), min(max(column, 0), w - 1)]
    return np.asarray(cell)


def _among(log_attention: Tensor, slots: Tensor) -> Array:
    """Return the (K, K) attention among some slots of the first image."""
    return np.asarray(log_attention[0][slots][:, slots].exp())


def _with_targets_of(view: DistillView, other: DistillView) -> DistillView:
    return replace(view, targets=other.targets)


def _level_of(config: TrainConfig) -> str:
    """Return the map that the run's transfers or feature losses compare; '' if none is named."""
    assert config.distill is not None
    named = [getattr(each, 'level', '') for each in config.distill.losses.values()]
    levels = config.distill.layers.levels or ()
    return next((each for each in (*named, *levels) if each and each != 'queries'), '')


def _draw_scorer(config: TrainConfig, path: Path) -> str:
    """Draw the accuracy of the run's scorer over epochs; return why not, '' if it was drawn."""
    curves = Path(config.out) / 'curves.csv'
    if config.distill is None or 'asb' not in config.distill.losses:
        return 'the run has no asb'
    if not curves.exists():
        return f'{curves} is missing'
    plot_curve(
        *(curves, ACCURACY, path, "accuracy of asb's scorer"),
        lines={'separates nothing': 0.5, 'separates everything': 1.0},
    )
    return ''


def _inspect_frame(config: TrainConfig, frame: str) -> InspectedFrame:
    """Run the networks on a frame."""
    if config.distill is None:
        raise ConfigError(f'{config.out}: not a distillation')
    resolved = resolve_config(config)
    path = Path(config.out) / 'last.pt'
    models = {
        title: load_distiller(resolved, path, start=title == BEFORE) for title in (BEFORE, AFTER)
    }
    frames = load_val_frames(resolved)
    batch = dataset.collate([_find_frame(frames, frame)], config.val.max_objects)
    views = {title: _make_view(model, batch) for title, model in models.items()}
    if not bool(views[AFTER].targets.valid.any()):
        raise ConfigError(f'{batch.ids[0]}: no object that both networks detect; choose --frame')
    return InspectedFrame(batch.ids[0], batch.image[0].numpy(), views, models)


def _find_frame(frames: dataset.FrameDataset, name: str) -> dataset.Sample:
    """Return a frame by its id, or that with the most objects among the first hundred."""
    if not name:
        samples = (frames[0, index] for index in range(min(len(frames), 100)))
        return max(samples, key=lambda each: len(each.objects))
    for index, image in enumerate(frames.images):
        if image.id == name:
            return frames[0, index]
    raise ConfigError(f'--frame {name}: no such val frame; the first is {frames.images[0].id}')


@torch.no_grad()
def _make_view(model: Distiller, batch: Batch) -> DistillView:
    return model.make_view(model.student(model.student_input(batch)), batch, 0.0)
