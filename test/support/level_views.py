"""Views of one feature level, and detectors that have nothing but levels, for losses on levels."""

import dataclasses
from types import SimpleNamespace

import torch
from fake_views import make_targets, tensor

from stl_core.distill.view import DistillView, NetworkOutputs
from stl_core.tensors.feature_level import FeatureLevel, ImagePlane, LevelSpec


def detector(channels=6, stride=4, **options):
    """Return a detector with a backbone map, and one downstream of given depth."""
    levels = (
        LevelSpec('neck', channels, ImagePlane(stride), after_given_depth=True),
        LevelSpec('c8', 5, ImagePlane(8)),
    )
    return SimpleNamespace(levels=options.get('levels', levels))


def make_level_view(name, counts, slots=4, size_px=(96, 128), *, channels=(6, 6), epoch=3.0):
    """Make the level 'neck' of two networks; `channels` are the student's and the teacher's."""
    targets = make_targets(name, counts, slots, size_px)
    height, width = size_px
    outputs = []
    for role, wide in zip(('student', 'teacher'), channels, strict=True):
        values = tensor(f'{name} {role}', (len(counts), wide, height // 4, width // 4))
        level = FeatureLevel(values, detector(wide).levels[0])
        sigma = torch.ones(targets.valid.shape)
        outputs.append(NetworkOutputs({'neck': level}, {}, {}, sigma))
    P = torch.eye(3, 4).repeat(len(counts), 1, 1)
    return DistillView(*outputs, {}, targets, P, size_px, epoch)


def with_maps(view, student=None, teacher=None):
    """Return the view with other maps of the level 'neck'."""
    for role, values in (('student', student), ('teacher', teacher)):
        if values is not None:
            outputs = getattr(view, role)
            level = outputs.levels['neck']._replace(map=values)
            outputs = dataclasses.replace(outputs, levels={'neck': level})
            view = dataclasses.replace(view, **{role: outputs})
    return view


def maps(view):
    """Return the student's and the teacher's map."""
    return view.student.levels['neck'].map, view.teacher.levels['neck'].map


def images(view, rows):
    """Return the view of a slice of its images."""
    targets = view.targets
    columns = {
        each.name: getattr(targets, each.name)[rows] for each in dataclasses.fields(targets)
    }
    view = with_maps(view, *(each[rows] for each in maps(view)))
    targets = dataclasses.replace(targets, **columns)
    return dataclasses.replace(view, targets=targets, P=view.P[rows])
