"""VDA: the student's side branch with a frozen copy of the teacher's depth association."""

import copy
import dataclasses
import math
from types import SimpleNamespace

import pytest
import torch
from fake_views import permute_slots, tensor
from level_views import detector, images, make_level_view, maps, with_maps
from sync_recorder import SyncRecorder

from stl_core.distill.losses.vda import (
    Vda,
    VdaConfig,
    cell_depths,
    depth_bin_loss,
    expected_depth,
)
from stl_core.distill.weighting import bounded_deviation
from stl_core.models.depth_association import DepthAssociation
from stl_core.tensors import reductions, regions
from stl_core.tensors.depth_encoding import bin_edges
from stl_core.tensors.precision import autocast_to
from stl_core.tensors.reductions import SINGLE_PART

FOCAL_PX = 360.0


def networks(channels=8, virtual_focal_px=720.0):
    """Return a student, and a teacher whose association adds something."""
    torch.manual_seed(0)
    association = DepthAssociation(channels, 16, 2, virtual_focal_px=virtual_focal_px)
    torch.nn.init.normal_(association.output.weight)
    config = SimpleNamespace(virtual_focal_px=virtual_focal_px)
    levels = detector(channels).levels
    student = SimpleNamespace(levels=levels, config=config)
    return student, SimpleNamespace(levels=levels, config=config, depth_association=association)


def vda(**options):
    nets = networks()
    torch.manual_seed(1)
    return Vda(VdaConfig(**{'bins': 10, 'width': 8, **options}), *nets)


def make_view(name, counts, slots=4, size_px=(96, 128), epoch=3.0):
    """Make a view with depth painted into boxes and the teacher's association of it."""
    view = make_level_view(name, counts, slots, size_px, channels=(8, 8), epoch=epoch)
    height, width = size_px
    P = torch.tensor([[FOCAL_PX, 0, width / 2, 0], [0, FOCAL_PX, height / 2, 0], [0, 0, 1, 0]])
    P = P.repeat(len(counts), 1, 1)
    given_m = torch.zeros(len(counts), height, width)
    targets = view.targets
    for image, slot in reversed(targets.valid.nonzero().tolist()):  # nearest last
        left, top, right, bottom = targets.box_px[image, slot].int().tolist()
        given_m[image, top:bottom, left:right] = targets.depth_m[image, slot]
    association = networks()[1].depth_association.requires_grad_(False)
    visual_m = torch.full(maps(view)[1][:, 0].shape, 20.0)
    added = association(maps(view)[1], given_m, given_m > 0, visual_m, P, size_px)
    teacher = dataclasses.replace(view.teacher, given_depth_added=added, visual_depth_m=visual_m)
    return dataclasses.replace(view, teacher=teacher, P=P, given_depth_m=given_m)


def loss_of(model, view):
    return model(view, SINGLE_PART)['']


def test_cells_get_the_nearest_depth_given_in_them():
    given_m = torch.zeros(2, 4, 6)
    given_m[0, 0, 0], given_m[0, 1, 1], given_m[1, 3, 5] = 30.0, 12.5, 7.0
    depth_m, given = cell_depths(given_m, (2, 3))
    expected = torch.zeros(2, 2, 3)
    expected[0, 0, 0], expected[1, 1, 2] = 12.5, 7.0
    torch.testing.assert_close(depth_m, expected)
    assert torch.equal(given, expected > 0)


def test_the_depth_loss_is_its_formula_cell_by_cell():
    edges_m = bin_edges(4, 40.0)  # widths 4, 8, 12, 16
    logits = tensor('logits', (1, 5, 2, 2))
    depth_m = torch.tensor([[[5.0, 70.0], [0.0, 0.0]]])
    given = depth_m > 0
    in_box = torch.tensor([[[True, True], [True, False]]])
    value = depth_bin_loss(logits, depth_m, given, in_box, edges_m, 13.0, SINGLE_PART)
    p = logits[0].softmax(0)
    # 5 m lies in the second bin; 70 m counts as in the last; a hole of a box is left out
    cells = [(13, p[1, 0, 0]), (13, p[3, 0, 1]), (1, p[4, 1, 1])]
    expected = sum(-0.25 * w * (1 - q) ** 2 * q.log() for w, q in cells) / 27
    torch.testing.assert_close(value, expected)


def test_the_soft_depth_is_the_mean_of_bin_centres_without_background():
    logits = torch.full((1, 4, 1, 1), -50.0)
    logits[0, 1] = logits[0, 2] = 1.0
    logits[0, 3] = 1.0 + math.log(2)
    depth_m, known = expected_depth(logits, torch.tensor([0.0, 6.0, 18.0, 36.0]))
    assert float(depth_m) == pytest.approx((12 + 27) / 2)
    assert float(known) == pytest.approx(0.5)


def test_the_association_loss_is_its_formula_object_by_object():
    view, model = make_view('formula', (3, 2)), vda()
    model(view, SINGLE_PART)
    value = model.step_metrics()['association']
    logits = model.depth_head(maps(view)[0])
    depth_m, known = expected_depth(logits, model.edges_m)
    # the head predicts the depth at 720 px; at 360 px it is half of that
    inputs = (depth_m / 2, known, view.teacher.visual_depth_m, view.P, view.size_px)
    added = model.association(maps(view)[0], *inputs)
    deviation = bounded_deviation(model.statistics.current())
    cells = regions.object_cells(view.targets, 4, 24, 32)
    gaps = [
        ((added - view.teacher.given_depth_added)[i][:, cells[i, slot]] / deviation[:, None])
        .abs()
        .mean()
        for i, slot in view.targets.valid.nonzero().tolist()
    ]
    torch.testing.assert_close(value, torch.stack(gaps).mean().detach(), rtol=1e-4, atol=0)


class TrueDepth(torch.nn.Module):
    """Logits of the given depth, shared between the two bins whose centres enclose it."""

    def __init__(self, given_m, edges_m):
        super().__init__()
        depth_m, given = cell_depths(given_m, (24, 32))
        centers_m = (edges_m[:-1] + edges_m[1:]) / 2
        z = (depth_m * 720 / FOCAL_PX).clamp(float(centers_m[0]), float(centers_m[-1]))
        upper = torch.bucketize(z, centers_m).clamp(min=1)
        low_m, high_m = centers_m[upper - 1], centers_m[upper]
        far_part = (z - low_m) / (high_m - low_m)
        bins = torch.zeros(len(z), len(centers_m) + 1, *z.shape[1:])
        bins.scatter_(1, upper[:, None] - 1, 1 - far_part[:, None])
        bins.scatter_(1, upper[:, None], far_part[:, None])
        bins[:, :-1] *= given[:, None]
        bins[:, -1:] = 1.0 * ~given[:, None]
        self.logits = (bins + 1e-12).log()

    def forward(self, features):
        return self.logits


def test_a_student_of_equal_features_that_knows_the_depth_has_association_loss_zero():
    view, model = make_view('true', (3,)), vda()
    boxes = view.targets.box_px.div(4).round().mul(4)  # whole cells
    given_m = torch.zeros_like(view.given_depth_m)
    for slot in (2, 1, 0):
        left, top, right, bottom = boxes[0, slot].int().tolist()
        given_m[0, top:bottom, left:right] = 8.0 + 9 * slot
    inputs = (given_m, given_m > 0, view.teacher.visual_depth_m, view.P, view.size_px)
    added = model.association(maps(view)[1], *inputs)
    view = with_maps(view, student=maps(view)[1])
    view = dataclasses.replace(
        view,
        targets=dataclasses.replace(view.targets, box_px=boxes),
        teacher=dataclasses.replace(view.teacher, given_depth_added=added),
        given_depth_m=given_m,
    )
    assert float(association_loss(model, view)) > 0.1
    model.depth_head = TrueDepth(given_m, model.edges_m)
    assert float(association_loss(model, view)) < 1e-2
    assert float(model.step_metrics()['depth_error_m']) < 1e-3


def association_loss(model, view):
    model(view, SINGLE_PART)
    return model.step_metrics()['association']


def test_the_association_is_a_frozen_copy_that_passes_gradients():
    nets, view = networks(), make_view('frozen', (3, 2))
    model = Vda(VdaConfig(bins=10, width=8, depth_weight=0.0), *nets).train()
    original = nets[1].depth_association
    assert model.association is not original
    assert all(map(torch.equal, model.association.parameters(), original.parameters()))
    assert not any(each.requires_grad for each in model.association.parameters())
    assert not model.association.training
    student = maps(view)[0].requires_grad_()
    loss_of(model, view).backward()
    assert all(each.grad is None for each in model.association.parameters())
    assert student.grad.any()
    # through the depth that A reads, also to the depth head
    assert all(each.grad.any() for each in model.depth_head.parameters())


@pytest.mark.parametrize('path', ['queries', 'depth', 'bins'])
def test_each_path_sends_a_gradient_to_the_features(path):
    """Cut the other paths: the features reach the loss by A's queries, D_s and the bins."""
    view = make_view('path', (3, 2))
    weights = {'depth_weight': float(path == 'bins'), 'association_weight': float(path != 'bins')}
    model = vda(**weights)
    if path == 'queries':
        model.depth_head.register_forward_hook(lambda module, inputs, output: output.detach())
    if path == 'depth':
        model.association.register_forward_pre_hook(
            lambda module, inputs: (inputs[0].detach(), *inputs[1:])
        )
    student = maps(view)[0].requires_grad_()
    loss_of(model, view).backward()
    assert student.grad.any()


def test_gradients_equal_finite_differences_and_reach_no_teacher():
    view, model = make_view('slope', (2, 1), size_px=(96, 96)), vda().double().eval()
    student, teacher, added = (
        each.double() for each in (*maps(view), view.teacher.given_depth_added)
    )
    view = dataclasses.replace(
        with_maps(view, student, teacher),
        P=view.P.double(),
        given_depth_m=view.given_depth_m.double(),
    )
    view = dataclasses.replace(
        view, teacher=dataclasses.replace(view.teacher, given_depth_added=added)
    )

    def value(features, weight):
        parameters = {'depth_head.0.weight': weight}
        inputs = (with_maps(view, features), SINGLE_PART)
        return torch.func.functional_call(model, parameters, inputs)['']

    weight = model.depth_head[0].weight.detach().clone()
    inputs = [each.requires_grad_() for each in (student, weight)]
    assert torch.autograd.gradcheck(value, inputs, fast_mode=True, eps=1e-7)
    added.requires_grad_()
    value(student, weight).backward()
    assert added.grad is None


@pytest.mark.parametrize('count', [0, 1, 200])
def test_any_number_of_objects_gives_a_finite_loss_and_gradient(count):
    model, view = vda().train(), make_view('count', (count,), max(count, 1))
    student = maps(view)[0].requires_grad_()
    value = loss_of(model, view)
    value.backward()
    assert value.isfinite()
    assert student.grad.isfinite().all()
    assert (float(model.step_metrics()['association']) > 0) == (count > 0)
    # without objects, all cells are background and teach the head that nothing is known
    assert float(model.step_metrics()['depth']) > 0


def test_order_and_content_of_slots_change_nothing():
    view, model = make_view('order', (3, 2), 4), vda()
    value = loss_of(model, view)
    permuted = permute_slots(view, torch.tensor([3, 1, 0, 2]))
    torch.testing.assert_close(loss_of(vda(), permuted), value)
    targets, valid = view.targets, view.targets.valid
    filled = dataclasses.replace(
        targets,
        box_px=torch.where(valid[..., None], targets.box_px, math.nan),
        depth_m=torch.where(valid, targets.depth_m, math.nan),
    )
    torch.testing.assert_close(loss_of(vda(), dataclasses.replace(view, targets=filled)), value)


def test_a_lens_of_twice_the_focal_length_shows_the_same_scene_at_twice_the_depth():
    """Depth is learnt at one focal length: the taught bins do not change."""
    view = make_view('lens', (3, 2))
    model = vda()
    model(view, SINGLE_PART)
    near = model.step_metrics()
    P = view.P.clone()
    P[:, 0, 0] *= 2
    P[:, 1, 1] *= 2
    far = dataclasses.replace(view, P=P, given_depth_m=view.given_depth_m * 2)
    model(far, SINGLE_PART)
    torch.testing.assert_close(model.step_metrics()['depth'], near['depth'])
    error = model.step_metrics()['depth_error_m']
    torch.testing.assert_close(error, near['depth_error_m'] * 2)


def test_the_association_loss_warms_up():
    values = [
        float(loss_of(vda(warm_up_epochs=2.0), make_view('warm', (2,), epoch=epoch)).detach())
        for epoch in (0.0, 1.0, 2.0, 4.0)
    ]
    assert values[1] - values[0] == pytest.approx((values[2] - values[0]) / 2)
    assert values[2] == values[3]
    assert values[0] > 0


def test_autocast_changes_no_digit_of_float32_inputs():
    view, values = make_view('bf16', (3, 1)), []
    for outer in ('fp32', 'bf16'):
        with autocast_to(outer, view.P.device), autocast_to('fp32', view.P.device):
            values.append(loss_of(vda(), view))
    assert values[1].dtype == torch.float32
    assert torch.equal(*values)


def part_of(view, rows):
    names = ('given_depth_added', 'visual_depth_m')
    given = {name: getattr(view.teacher, name)[rows] for name in names}
    part = images(view, rows)
    part = dataclasses.replace(part, given_depth_m=view.given_depth_m[rows])
    return dataclasses.replace(part, teacher=dataclasses.replace(part.teacher, **given))


def test_micro_batches_give_loss_and_gradient_of_the_whole_batch():
    view = make_view('parts', (3, 1, 0), 3)
    student = maps(view)[0].requires_grad_()
    expected = loss_of(vda(), view)
    (gradient,) = torch.autograd.grad(expected, student)
    parts = [part_of(view, slice(row, row + 1)) for row in range(3)]
    split, recorded = vda(), []
    before = copy.deepcopy(dict(split.named_buffers()))
    for part in parts:
        recorded.append([])
        split(part, reductions.recording_normalizer(recorded[-1]))
    for name, buffer in split.named_buffers():
        buffer.copy_(before[name])
    means = [torch.stack(each).mean(0) for each in zip(*recorded, strict=True)]
    values = [split(part, reductions.replaying_normalizer(means, 3))[''] for part in parts]
    torch.testing.assert_close(torch.stack(values).mean(), expected)
    (found,) = torch.autograd.grad(torch.stack(values).mean(), student)
    torch.testing.assert_close(found, gradient)


def test_the_host_never_waits_for_the_device():
    view, model = make_view('waits', (3, 0)), vda().train()
    maps(view)[0].requires_grad_()
    with SyncRecorder() as recorder:
        loss_of(model, view).backward()
    assert recorder.operations == []


def test_what_cannot_be_compared_is_refused_by_name():
    student, teacher = networks()
    plain = SimpleNamespace(levels=teacher.levels, depth_association=None)
    with pytest.raises(ValueError, match='teacher: SimpleNamespace without depth_association'):
        Vda(VdaConfig(), student, plain)
    with pytest.raises(ValueError, match="level 'c8' of the student lies upstream"):
        vda(level='c8')
    with pytest.raises(ValueError, match="level 'neck': 6 channels in the student, 8 in the te"):
        Vda(VdaConfig(), SimpleNamespace(levels=detector(6).levels, config=None), teacher)
    view = make_view('no depth', (1,))
    with pytest.raises(ValueError, match='the teacher was given no depth'):
        vda()(dataclasses.replace(view, given_depth_m=None), SINGLE_PART)
    with pytest.raises(ValueError, match='bins: 0; must be above 0'):
        VdaConfig(bins=0)
    with pytest.raises(ValueError, match='depth_weight: -1; must be at least 0'):
        VdaConfig(depth_weight=-1)
