"""MonoSTL's and DK3D's losses on a map of the ground: the same code as on maps of the image."""

import dataclasses

import pytest
import torch
from rig_targets import HW, bev_detector, bev_targets, bev_view

from stl_core.distill import LOSSES
from stl_core.distill.losses import baselines
from stl_core.tensors.reductions import SINGLE_PART

FUNCTIONS = ('feature', 'relation', 'plain_relation')
TRANSFERS = ('cpl', 'asb', 'tsrd')


def loss_of(name, view, **options):
    entry = LOSSES[name]
    config = entry.config(**options)
    if entry.build is None:
        return entry.loss(view, config, SINGLE_PART)
    torch.manual_seed(0)
    return entry.build(config, bev_detector(), bev_detector())(view, SINGLE_PART)['']


@pytest.mark.parametrize('name', [*FUNCTIONS, *TRANSFERS])
@pytest.mark.parametrize('counts', [(4, 3), (0, 1), (0, 0)])
def test_a_loss_in_birds_eye_view_is_finite_and_teaches_the_student(name, counts):
    view = bev_view(name, counts)
    for each in (*view.adapted.values(), view.student.levels['bev'].map):
        each.requires_grad_(True)
    loss = loss_of(name, view)
    assert loss.dim() == 0
    assert loss.isfinite()
    loss.backward()
    grads = [view.adapted['bev'].grad, view.student.levels['bev'].map.grad]
    has_pairs = max(counts) > 1 or name not in ('relation', 'plain_relation')
    if sum(counts) and has_pairs:
        assert any(grad is not None and grad.abs().max() > 0 for grad in grads)


@pytest.mark.parametrize('name', ['feature', 'cpl', 'tsrd', 'asb'])
def test_an_empty_slot_changes_nothing(name):
    view = bev_view(name, (3, 2))
    empty = ~view.targets.valid
    filled = dataclasses.replace(
        view.targets,
        center_m=torch.where(empty[..., None], torch.nan, view.targets.center_m),
        yaw=torch.where(empty, 3.0, view.targets.yaw),
    )
    changed = dataclasses.replace(view, targets=filled)
    torch.testing.assert_close(loss_of(name, view), loss_of(name, changed))


def test_equal_maps_have_no_feature_loss():
    view = bev_view('equal', (4,))
    view = dataclasses.replace(view, adapted={'bev': view.teacher.levels['bev'].map})
    assert float(loss_of('feature', view)) == 0
    assert float(loss_of('relation', view)) == pytest.approx(0, abs=1e-6)


def test_cpl_compares_the_cells_of_footprints_alone():
    view = bev_view('cells', (3,))
    plane = view.student.levels['bev'].spec.plane
    inside = plane.object_cells(view.targets, torch.zeros(1, 1, *HW)).any(1, keepdim=True)
    level = view.student.levels['bev']
    moved = level._replace(map=torch.where(inside, level.map, level.map + 100))
    changed = dataclasses.replace(
        view, student=dataclasses.replace(view.student, levels={'bev': moved})
    )
    torch.testing.assert_close(loss_of('cpl', view), loss_of('cpl', changed))


def test_a_loss_on_heads_in_the_image_refuses_targets_around_a_vehicle():
    with pytest.raises(ValueError, match='objects in single images'):
        baselines.as_image_targets(bev_targets([1]))


def test_response_distillation_compares_heatmaps_on_the_ground():
    view = bev_view('response', (4, 2))
    heads = {role: {'heatmap': torch.randn(2, 3, *HW)} for role in ('student', 'teacher')}
    heads['student']['heatmap'].requires_grad_(True)
    offset = {'offset': torch.randn(*view.targets.valid.shape, 2)}
    sides = {
        role: dataclasses.replace(getattr(view, role), heads=heads[role], predictions=offset)
        for role in ('student', 'teacher')
    }
    loss = loss_of('response', dataclasses.replace(view, **sides))
    loss.backward()
    grad = heads['student']['heatmap'].grad.abs().sum(1)
    plane = view.heads_plane
    inside = plane.object_cells(view.targets, torch.zeros(2, 1, *HW)).any(1)
    assert (grad[inside] > 0).all()
    assert (grad[~inside] == 0).all()
