"""CPL: the channel-wise projection layer between the maps of student and teacher."""

import copy
import dataclasses

import pytest
import torch
from level_views import detector, images, make_level_view, maps, with_maps

from stl_core.distill.losses.cpl import Cpl, CplConfig
from stl_core.distill.running_statistics import RunningChannelStatistics
from stl_core.distill.weighting import VARIANCE_FLOOR
from stl_core.tensors import reductions, regions
from stl_core.tensors.feature_level import ImagePlane, LevelSpec
from stl_core.tensors.precision import autocast_to
from stl_core.tensors.reductions import SINGLE_PART
from stl_core.training.run.saved_buffers import save_buffers


def cpl(student=6, teacher=6, **options):
    torch.manual_seed(0)
    return Cpl(CplConfig(**options), detector(student), detector(teacher))


def cells_of(view):
    return regions.object_cells(view.targets, 4, *maps(view)[1].shape[-2:])


def test_equal_maps_start_with_loss_zero():
    view = make_level_view('equal', (3, 2))
    view = with_maps(view, student=maps(view)[1])
    assert float(cpl()(view, SINGLE_PART)[''].detach()) == 0
    other = make_level_view('equal', (3, 2))
    assert float(cpl()(other, SINGLE_PART)[''].detach()) > 0.1


def test_the_loss_is_its_formula_written_out():
    view, model = make_level_view('loop', (3, 2), channels=(4, 6)), cpl(4)
    value = model(view, SINGLE_PART)['']
    student, teacher = maps(view)
    weight, per_object, moments = model.projection.weight[:, :, 0, 0], [], []
    cells = cells_of(view)
    for image, slot in view.targets.valid.nonzero().tolist():
        at = cells[image, slot]
        moments.append(
            torch.stack([teacher[image][:, at].mean(1), teacher[image][:, at].square().mean(1)])
        )
    mean, square = torch.stack(moments).mean(0)
    variance = square - mean.square()
    deviation = (variance + VARIANCE_FLOOR * variance.mean()).sqrt()
    for image, slot in view.targets.valid.nonzero().tolist():
        at = cells[image, slot]
        gap = weight @ student[image][:, at] - teacher[image][:, at]
        gaps = (gap / deviation[:, None]).abs()
        per_object.append(torch.where(gaps < 1, gaps**2 / 2, gaps - 0.5).mean())
    torch.testing.assert_close(value, torch.stack(per_object).mean(), rtol=1e-4, atol=0)


def test_gradients_equal_finite_differences_and_reach_student_and_projection_only():
    view, model = make_level_view('slope', (2, 1), size_px=(96, 96)), cpl().double().eval()
    student, teacher = (each.double() for each in maps(view))

    def value(features, weight):
        parameters = {'projection.weight': weight}
        with_student = with_maps(view, features, teacher)
        return torch.func.functional_call(model, parameters, (with_student, SINGLE_PART))['']

    weight = model.projection.weight.detach().clone()
    inputs = [each.requires_grad_() for each in (student, weight + 0.1)]
    assert torch.autograd.gradcheck(value, inputs, fast_mode=True)
    teacher.requires_grad_()
    value(student, weight.requires_grad_()).backward()
    assert student.grad.any()
    assert weight.grad.any()
    assert teacher.grad is None


@pytest.mark.parametrize('count', [0, 1, 200])
def test_any_number_of_objects_gives_a_finite_loss_and_gradient(count):
    model = cpl().train()
    view = make_level_view('count', (count,), max(count, 1))
    student = maps(view)[0].requires_grad_()
    value = model(view, SINGLE_PART)['']
    value.backward()
    assert value.isfinite()
    assert (float(value.detach()) == 0) == (count == 0)
    assert student.grad.isfinite().all()
    assert student.grad.any() == (count > 0)
    assert model.projection.weight.grad.isfinite().all()


def test_scale_and_order_of_channels_change_nothing():
    view = make_level_view('scale', (3, 2))
    value = cpl()(view, SINGLE_PART)['']
    scale, order = torch.logspace(-2, 3, 6)[:, None, None], torch.tensor([3, 1, 0, 5, 2, 4])
    for change in (lambda each: each * 50, lambda each: each[:, order]):
        changed = with_maps(view, *map(change, maps(view)))
        torch.testing.assert_close(cpl()(changed, SINGLE_PART)[''], value, rtol=1e-4, atol=0)
    changed = with_maps(view, *(each * scale for each in maps(view)))
    # the floor of the variance, which belongs to all channels, mutes the small ones
    assert 0 < cpl()(changed, SINGLE_PART)[''] < value


def test_unequal_channels_start_with_orthonormal_rows_and_reach_every_channel():
    weight = cpl(4, 6).projection.weight[:, :, 0, 0]
    torch.testing.assert_close(weight.T @ weight, torch.eye(4), rtol=0, atol=1e-5)
    model, view = cpl(6, 4), make_level_view('wide', (3,), channels=(6, 4))
    student = maps(view)[0].requires_grad_()
    model(view, SINGLE_PART)[''].backward()
    assert student.grad.abs().sum((0, 2, 3)).gt(0).all()
    projected = model.project(student)
    assert projected.shape[1] == 4
    projected.sum().backward()
    assert model.projection.weight.grad is not None


def test_the_projection_for_other_losses_sends_no_gradient_to_the_weights():
    model, view = cpl(), make_level_view('frozen', (2,))
    student = maps(view)[0].requires_grad_()
    projected = model.project(student)
    projected.square().sum().backward()
    assert student.grad.any()
    assert model.projection.weight.grad is None
    torch.testing.assert_close(projected, model.projection(student))


def test_autocast_changes_no_digit_of_float32_inputs():
    view, expected = make_level_view('bf16', (3, 1)), None
    for outer in ('fp32', 'bf16'):
        with autocast_to(outer, view.P.device), autocast_to('fp32', view.P.device):
            value = cpl()(view, SINGLE_PART)['']
        expected = value if expected is None else expected
        assert value.dtype == torch.float32
        assert torch.equal(value, expected)


def test_micro_batches_give_loss_gradient_and_statistics_of_the_whole_batch():
    view = make_level_view('parts', (3, 1, 0), 3)
    whole, split = cpl(), cpl()
    expected = whole(view, SINGLE_PART)['']
    expected.backward()
    parts = [images(view, slice(row, row + 1)) for row in range(3)]
    before = copy.deepcopy(dict(split.named_buffers()))
    recorded = []
    for part in parts:
        recorded.append([])
        split(part, reductions.recording_normalizer(recorded[-1]))
    for name, buffer in split.named_buffers():
        buffer.copy_(before[name])
    means = [torch.stack(each).mean(0) for each in zip(*recorded, strict=True)]
    values = [split(part, reductions.replaying_normalizer(means, 3))[''] for part in parts]
    mean = torch.stack(values).mean()
    mean.backward()
    torch.testing.assert_close(mean, expected)
    torch.testing.assert_close(split.projection.weight.grad, whole.projection.weight.grad)
    for one, other in zip(split.buffers(), whole.buffers(), strict=True):
        torch.testing.assert_close(one, other)


def test_running_statistics_converge_to_those_of_all_objects_and_skip_empty_steps():
    statistics = RunningChannelStatistics(2, momentum=0.05).train()
    generator, cells = torch.Generator().manual_seed(0), torch.ones(1, 1, 8, 8, dtype=torch.bool)
    wide, offset = torch.tensor([3.0, 0.5])[:, None, None], torch.tensor([10.0, -1.0])
    for step in range(200):
        noise = torch.randn(1, 2, 8, 8, generator=generator)
        statistics(noise * wide + offset[:, None, None], cells, float(step), SINGLE_PART)
    expected = torch.tensor([9.0, 0.25])
    expected = (expected + VARIANCE_FLOOR * expected.mean()).sqrt()
    torch.testing.assert_close(statistics.current().deviation, expected, rtol=0.03, atol=0)
    torch.testing.assert_close(statistics.current().mean, offset, rtol=0.03, atol=0)
    before = [each.clone() for each in (statistics.mean, statistics.square, statistics.weight)]
    statistics(noise, cells & False, 1000.0, SINGLE_PART)
    statistics.eval()(noise, cells, 1001.0, SINGLE_PART)
    after = (statistics.mean, statistics.square, statistics.weight)
    assert all(torch.equal(*pair) for pair in zip(before, after, strict=True))


def test_a_skipped_step_leaves_the_statistics_as_they_were():
    model = cpl()
    model(make_level_view('first', (3,), epoch=0.1), SINGLE_PART)
    saved, before = save_buffers(model), copy.deepcopy(model.state_dict())
    model(make_level_view('second', (3,), epoch=0.2), SINGLE_PART)
    assert not torch.equal(model.statistics.mean, before['statistics.mean'])
    saved.restore_unless(torch.tensor(False))
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_the_state_of_a_checkpoint_continues_the_statistics():
    one, other = cpl(), cpl()
    views = [make_level_view(f'step {step}', (2, 1), epoch=step / 4) for step in range(4)]
    for view in views[:2]:
        one(view, SINGLE_PART)
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    for view in views[2:]:
        pair = [model(view, SINGLE_PART)[''] for model in (one, other)]
        assert torch.equal(*pair)


def test_levels_without_privilege_or_on_another_grid_are_refused_by_name():
    with pytest.raises(ValueError, match="level 'c8' of the student lies upstream"):
        cpl(level='c8')
    with pytest.raises(ValueError, match="student: level 'bev': unknown; this detector has"):
        cpl(level='bev')
    with pytest.raises(ValueError, match=r"level 'neck': ImagePlane\(stride=4\) in the st"):
        Cpl(CplConfig(), detector(), detector(stride=8))
    bare = detector(levels=(LevelSpec('c8', 4, ImagePlane(8)),))
    with pytest.raises(ValueError, match='level: SimpleNamespace has 0 levels that given'):
        Cpl(CplConfig(), bare, bare)
    with pytest.raises(ValueError, match=r'around: -1.0 of a box; must be at least 0'):
        CplConfig(around=-1.0)
    with pytest.raises(ValueError, match='momentum: expected more than 0, at most 1, got 0'):
        cpl(momentum=0)


def test_only_cells_of_objects_matter():
    view = make_level_view('cells', (2,))
    covered = cells_of(view).any(1, keepdim=True)
    student, teacher = maps(view)
    noise = with_maps(view, torch.where(covered, student, student + 7), teacher)
    torch.testing.assert_close(cpl()(noise, SINGLE_PART), cpl()(view, SINGLE_PART))
    wide = cpl(around=1.0)
    assert not torch.equal(wide(noise, SINGLE_PART)[''], wide(view, SINGLE_PART)[''])
    invalid = dataclasses.replace(view.targets, valid=view.targets.valid & False)
    empty = dataclasses.replace(view, targets=invalid)
    assert float(cpl()(empty, SINGLE_PART)[''].detach()) == 0
