"""Random DistillViews for tests of distillation losses; a name determines every tensor."""

import dataclasses
import zlib

import numpy as np
import torch

from stl_core.distill import LOSSES
from stl_core.distill.view import DistillView, NetworkOutputs
from stl_core.tensors.batch import Targets
from stl_core.tensors.feature_level import FeatureLevel, backbone_levels
from stl_core.tensors.reductions import SINGLE_PART

STRIDES = (8, 16, 32)
HEADS = {
    'heatmap': 3, 'offset_2d': 2, 'size_2d': 2, 'depth': 2, 'offset_3d': 2, 'size_3d': 3,
    'heading': 24,
}  # fmt: skip


def tensor(name, shape, dtype=torch.float32):
    """Draw standard normal values seeded by a name: the same in any program, without a file."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    return torch.from_numpy(rng.standard_normal(shape)).to(dtype)


def make_targets(name, counts, slots, size_px, dtype=torch.float32):
    """Make objects, nearest first, with boxes of 40 pixels or more per side within the canvas."""
    rng = np.random.default_rng(zlib.crc32(f'{name} targets'.encode()))
    height, width = size_px
    shape, canvas = (len(counts), slots), np.array([width, height])
    side = rng.uniform(40, np.minimum(canvas / 2, 200), (*shape, 2))
    low = rng.uniform(1, canvas - side - 1)
    center = low + side * rng.uniform(0.3, 0.7, (*shape, 2))
    valid = np.arange(slots) < np.array(counts)[:, None]
    columns = {
        'center_px': center,
        'depth_m': np.sort(rng.uniform(5, 60, shape), 1),
        'size_hwl_m': rng.uniform(1, 4, (*shape, 3)),
        'alpha': rng.uniform(-np.pi, np.pi, shape),
        'box_px': np.concatenate([low, low + side], -1),
    }
    for each in columns.values():
        each[~valid] = 0
    columns = {key: torch.from_numpy(each).to(dtype) for key, each in columns.items()}
    class_id = torch.zeros(shape, dtype=torch.int64)
    return Targets(class_id=class_id, valid=torch.from_numpy(valid), **columns)


def make_outputs(name, targets, channels, size_px, dtype=torch.float32):
    """Make one network's feature maps, heads at stride 4 and predictions."""
    rows, (height, width) = len(targets.valid), size_px
    levels = {
        spec.name: FeatureLevel(
            tensor(
                f'{name} {stride}', (rows, spec.channels, height // stride, width // stride), dtype
            ).relu(),
            spec,
        )
        for spec, stride in zip(backbone_levels(channels, STRIDES), STRIDES, strict=True)
    }
    heads = {
        key: tensor(f'{name} {key}', (rows, wide, height // 4, width // 4), dtype)
        for key, wide in HEADS.items()
    }
    outputs = NetworkOutputs(levels, heads, {}, heads['depth'][:, 1].flatten(1))
    return with_predictions(outputs, targets)


def with_predictions(outputs, targets):
    """Return the outputs with predictions and sigma read from the heads, as MonoDLE does."""
    predictions = {
        key: grid.flatten(2).transpose(1, 2).gather(1, index.expand(-1, -1, grid.shape[1]))
        for key, grid in outputs.heads.items()
        for index in [cells(targets, grid.shape[-1])[..., None]]
        if key != 'heatmap'
    }
    sigma_m = predictions['depth'][..., 1].exp()
    predictions = {**predictions, 'depth': predictions['depth'][..., :1]}
    return NetworkOutputs(outputs.levels, outputs.heads, predictions, sigma_m)


def cells(targets, w):
    """Return (B, N) flat cells of the projected centres on a stride-4 grid w cells wide."""
    x, y = (targets.center_px / 4).floor().long().unbind(-1)
    return y * w + x


def make_view(
    name, counts, slots=50, size_px=(192, 640), *, channels=(8, 12, 16), dtype=torch.float32
):
    """
    Make the outputs of student and teacher for a batch with random objects.

    :param name: name of the case, which determines every tensor.
    :param counts: number of objects in each image.
    """
    targets = make_targets(name, counts, slots, size_px, dtype)
    student, teacher = (
        make_outputs(f'{name} {network}', targets, channels, size_px, dtype)
        for network in ('student', 'teacher')
    )
    adapted = {
        level: tensor(f'{name} adapted {level[1:]}', tuple(each.map.shape), dtype)
        for level, each in teacher.levels.items()
    }
    P = torch.eye(3, 4, dtype=dtype).repeat(len(counts), 1, 1)
    return DistillView(student, teacher, adapted, targets, P, size_px, 0.0)


def evaluate(name, view, normalizer=SINGLE_PART, **options):
    entry = LOSSES[name]
    return entry.loss(view, entry.config(**options), normalizer)


def with_targets(view, **columns):
    return dataclasses.replace(view, targets=dataclasses.replace(view.targets, **columns))


def with_student(view, **parts):
    return dataclasses.replace(view, student=dataclasses.replace(view.student, **parts))


def with_teacher(view, **parts):
    return dataclasses.replace(view, teacher=dataclasses.replace(view.teacher, **parts))


def maps_of(outputs):
    """Return the network's maps by level."""
    return {name: each.map for name, each in outputs.levels.items()}


def with_maps(outputs, maps):
    """Return the outputs of a network with other maps."""
    levels = {name: FeatureLevel(maps[name], each.spec) for name, each in outputs.levels.items()}
    return dataclasses.replace(outputs, levels=levels)


def with_teacher_maps(view, maps):
    return dataclasses.replace(view, teacher=with_maps(view.teacher, maps))


def student_tensors(view):
    """Return the student's tensors that losses compare, by (group, key)."""
    student = view.student
    groups = {'adapted': view.adapted, 'heads': student.heads, 'predictions': student.predictions}
    return {(group, key): each for group, parts in groups.items() for key, each in parts.items()}


def with_student_tensors(view, tensors):
    """Return the view with the student's tensors replaced, see student_tensors."""

    def part(group):
        return {key: each for (which, key), each in tensors.items() if which == group}

    view = dataclasses.replace(view, adapted=part('adapted'))
    return with_student(view, heads=part('heads'), predictions=part('predictions'))


def with_gradients(view):
    """Return the view with student tensors that require gradients, and these tensors."""
    tensors = {key: each.clone().requires_grad_() for key, each in student_tensors(view).items()}
    return with_student_tensors(view, tensors), tensors


def permute_slots(view, order):
    """Return the view with its objects in other slots; `order` is the same for every image."""

    def permute(outputs):
        predictions = {key: each[:, order] for key, each in outputs.predictions.items()}
        sigma_m = outputs.depth_sigma_m[:, order]
        return dataclasses.replace(outputs, predictions=predictions, depth_sigma_m=sigma_m)

    columns = {f.name: getattr(view.targets, f.name) for f in dataclasses.fields(view.targets)}
    view = with_targets(view, **{key: each[:, order] for key, each in columns.items()})
    return dataclasses.replace(view, student=permute(view.student), teacher=permute(view.teacher))


def select_image(view, row):
    """Return the view of one image of the batch."""

    def cut(parts):
        return {key: each[row : row + 1] for key, each in parts.items()}

    def cut_outputs(outputs):
        outputs = with_maps(outputs, cut(maps_of(outputs)))
        heads, predictions = cut(outputs.heads), cut(outputs.predictions)
        return NetworkOutputs(
            outputs.levels, heads, predictions, outputs.depth_sigma_m[row : row + 1]
        )

    view = with_targets(view, **cut(vars(view.targets)))
    view = dataclasses.replace(view, adapted=cut(view.adapted), P=view.P[row : row + 1])
    return dataclasses.replace(
        view, student=cut_outputs(view.student), teacher=cut_outputs(view.teacher)
    )


def with_sigma(view, network, sigma_m):
    outputs = getattr(view, network)
    outputs = dataclasses.replace(
        outputs, depth_sigma_m=torch.full_like(outputs.depth_sigma_m, sigma_m)
    )
    return dataclasses.replace(view, **{network: outputs})
