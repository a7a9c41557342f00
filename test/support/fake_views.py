"""Made-up views for distillation losses: tensors that depend on their name alone."""

import dataclasses
import zlib

import numpy as np
import torch

from stl_core.distill import LOSSES
from stl_core.tensors.batch import DistillView, NetworkOutputs, Targets

STRIDES = (8, 16, 32)
HEADS = {
    'heatmap': 3, 'offset_2d': 2, 'size_2d': 2, 'depth': 2, 'offset_3d': 2, 'size_3d': 3,
    'heading': 24,
}  # fmt: skip


def tensor(name, shape, dtype=torch.float32):
    """Draw a standard normal from a name: the same in any program, without a file."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    return torch.from_numpy(rng.standard_normal(shape)).to(dtype)


def some_targets(name, counts, slots, size_px, dtype=torch.float32):
    """Objects nearest first, boxes of 40 pixels a side or more inside the canvas."""
    rng = np.random.default_rng(zlib.crc32(f'{name} targets'.encode()))
    height, width = size_px
    shape, room = (len(counts), slots), np.array([width, height])
    side = rng.uniform(40, np.minimum(room / 2, 200), (*shape, 2))
    low = rng.uniform(1, room - side - 1)
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


def a_side(name, targets, channels, size_px, dtype=torch.float32):
    """One network's maps, heads at stride 4 and answers."""
    rows, (height, width) = len(targets.valid), size_px
    features = {
        stride: tensor(
            f'{name} {stride}', (rows, wide, height // stride, width // stride), dtype
        ).relu()
        for stride, wide in zip(STRIDES, channels, strict=True)
    }
    heads = {
        key: tensor(f'{name} {key}', (rows, wide, height // 4, width // 4), dtype)
        for key, wide in HEADS.items()
    }
    return answering(NetworkOutputs(features, heads, {}, heads['depth'][:, 1].flatten(1)), targets)


def answering(side, targets):
    """The same side with answers and sigma read off its heads, as MonoDLE does."""
    at = {
        key: grid.flatten(2).transpose(1, 2).gather(1, index.expand(-1, -1, grid.shape[1]))
        for key, grid in side.heads.items()
        for index in [cells(targets, grid.shape[-1])[..., None]]
        if key != 'heatmap'
    }
    sigma_m = at['depth'][..., 1].exp()
    return NetworkOutputs(
        side.features, side.heads, {**at, 'depth': at['depth'][..., :1]}, sigma_m
    )


def cells(targets, w):
    """(B, N) flat cell of each projected centre on a stride-4 grid w cells wide."""
    x, y = (targets.center_px / 4).floor().long().unbind(-1)
    return y * w + x


def a_view(
    name, counts, slots=50, size_px=(192, 640), *, channels=(8, 12, 16), dtype=torch.float32
):
    """
    Student and teacher on images of some objects.

    :param name: of the case; every tensor follows from it.
    :param counts: objects of each image.
    """
    targets = some_targets(name, counts, slots, size_px, dtype)
    student, teacher = (
        a_side(f'{name} {who}', targets, channels, size_px, dtype)
        for who in ('student', 'teacher')
    )
    adapted = {
        stride: tensor(f'{name} adapted {stride}', tuple(each.shape), dtype)
        for stride, each in teacher.features.items()
    }
    P = torch.eye(3, 4, dtype=dtype).repeat(len(counts), 1, 1)
    return DistillView(student, teacher, adapted, targets, P, size_px, 0.0)


def evaluate(name, view, **numbers):
    entry = LOSSES[name]
    return entry.loss(view, entry.config(**numbers))


def with_targets(view, **columns):
    return dataclasses.replace(view, targets=dataclasses.replace(view.targets, **columns))


def with_student(view, **parts):
    return dataclasses.replace(view, student=dataclasses.replace(view.student, **parts))


def with_teacher(view, **parts):
    return dataclasses.replace(view, teacher=dataclasses.replace(view.teacher, **parts))


def leaves(view):
    """The student's tensors that losses look at, by group and key."""
    student = view.student
    groups = {'adapted': view.adapted, 'heads': student.heads, 'answers': student.predictions}
    return {(group, key): each for group, parts in groups.items() for key, each in parts.items()}


def rebuilt(view, tensors):
    """The view with other tensors of the student."""

    def part(group):
        return {key: each for (which, key), each in tensors.items() if which == group}

    view = dataclasses.replace(view, adapted=part('adapted'))
    return with_student(view, heads=part('heads'), predictions=part('answers'))


def learning(view):
    """The view with a student that records gradients, and its tensors."""
    tensors = {key: each.clone().requires_grad_() for key, each in leaves(view).items()}
    return rebuilt(view, tensors), tensors


def in_slots(view, order):
    """The view with its objects in other slots: an index, the same for every image."""

    def moved(side):
        answers = {key: each[:, order] for key, each in side.predictions.items()}
        return dataclasses.replace(side, predictions=answers, sigma_m=side.sigma_m[:, order])

    columns = {f.name: getattr(view.targets, f.name) for f in dataclasses.fields(view.targets)}
    view = with_targets(view, **{key: each[:, order] for key, each in columns.items()})
    return dataclasses.replace(view, student=moved(view.student), teacher=moved(view.teacher))


def of_image(view, row):
    """The view of one image of the batch."""

    def cut(parts):
        return {key: each[row : row + 1] for key, each in parts.items()}

    def cut_side(side):
        return NetworkOutputs(
            cut(side.features), cut(side.heads), cut(side.predictions), side.sigma_m[row : row + 1]
        )

    view = with_targets(view, **cut(vars(view.targets)))
    view = dataclasses.replace(view, adapted=cut(view.adapted), P=view.P[row : row + 1])
    return dataclasses.replace(
        view, student=cut_side(view.student), teacher=cut_side(view.teacher)
    )


def with_sigma(view, who, sigma_m):
    side = getattr(view, who)
    side = dataclasses.replace(side, sigma_m=torch.full_like(side.sigma_m, sigma_m))
    return dataclasses.replace(view, **{who: side})
