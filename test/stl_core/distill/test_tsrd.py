"""TSRD: attention among the objects of an image, of student and teacher."""

import copy
import dataclasses
import math
from types import SimpleNamespace

import pytest
import torch
from fake_views import permute_slots, tensor
from level_views import detector, images, make_level_view, maps, with_maps
from sync_recorder import SyncRecorder
from torchvision.ops import roi_align

from stl_core.distill.losses.tsrd import Tsrd, TsrdConfig, relate, relation_loss, response_loss
from stl_core.tensors import reductions
from stl_core.tensors.positions import lift_centers, sinusoidal_encoding
from stl_core.tensors.precision import autocast_to
from stl_core.tensors.reductions import SINGLE_PART


def tsrd(channels=6, **options):
    return Tsrd(TsrdConfig(**options), detector(channels), detector(channels))


def loss_of(model, view):
    return model(view, SINGLE_PART)['']


def of_two(cosine, lengths=(1.0, 2.0)):
    """Return (1, 2, 2) tokens of two objects with this cosine."""
    sine = math.sqrt(1 - cosine**2)
    return torch.tensor([[[lengths[0], 0.0], [lengths[1] * cosine, lengths[1] * sine]]])


def test_two_objects_follow_the_formula_by_hand():
    valid = torch.ones(1, 2, dtype=torch.bool)
    teacher, student = (relate(of_two(each), valid, 0.5) for each in (0.8, 0.0))
    # softmax over (1, cos) / 0.5
    a_t, a_s = (1 / (1 + math.exp((c - 1) / 0.5)) for c in (0.8, 0.0))
    attention = teacher.log_attention.exp()[0]
    torch.testing.assert_close(attention, torch.tensor([[a_t, 1 - a_t], [1 - a_t, a_t]]))
    # r_1 = a u_1 + (1 - a) u_2 with u_1 = (1, 0), u_2 = 2 (0.8, 0.6)
    first = torch.tensor([a_t + (1 - a_t) * 1.6, (1 - a_t) * 1.2])
    torch.testing.assert_close(teacher.response[0, 0], first)
    divergence = a_t * math.log(a_t / a_s) + (1 - a_t) * math.log((1 - a_t) / (1 - a_s))
    assert float(relation_loss(student, teacher, valid, SINGLE_PART)) == pytest.approx(divergence)
    gaps = [
        abs(a_t + (1 - a_t) * 1.6 - a_s), abs((1 - a_t) * 1.2 - (1 - a_s) * 2),
        abs((1 - a_t) + a_t * 1.6 - (1 - a_s)), abs(a_t * 1.2 - a_s * 2),
    ]  # fmt: skip
    value = float(response_loss(student, teacher, valid, SINGLE_PART))
    assert value == pytest.approx(sum(gaps) / 4)


def test_three_objects_follow_the_formula_by_hand():
    valid = torch.ones(1, 3, dtype=torch.bool)
    # the first two are equal, the third is orthogonal to both
    tokens = torch.tensor([[[3.0, 0.0], [3.0, 0.0], [0.0, 1.0]]])
    attention = relate(tokens, valid, 1.0).log_attention.exp()[0]
    e = math.e
    pair, alone = (e / (2 * e + 1), 1 / (2 * e + 1)), (1 / (2 + e), e / (2 + e))
    expected = [[pair[0], pair[0], pair[1]]] * 2 + [[alone[0], alone[0], alone[1]]]
    torch.testing.assert_close(attention, torch.tensor(expected))
    student = relate(torch.ones(1, 3, 2), valid, 1.0)  # all equal: a = 1/3
    rows = [sum(a * math.log(3 * a) for a in row) for row in expected]
    value = relation_loss(student, relate(tokens, valid, 1.0), valid, SINGLE_PART)
    assert float(value) == pytest.approx(sum(rows) / 3)


def test_the_loss_is_its_formula_written_out_object_by_object():
    view, model = make_level_view('loop', (3, 2, 1)), tsrd(response_weight=0.5)
    value = loss_of(model, view)
    targets, temperature = view.targets, 0.1
    deviation = model.statistics.current().deviation
    kl, gaps = [], []
    for image in range(3):
        slots = targets.valid[image].nonzero()[:, 0]
        center = lift_centers(targets, view.P)[image, slots]
        boxes = torch.cat([torch.full((len(slots), 1), image), targets.box_px[image, slots]], 1)
        u = []
        for each in maps(view):
            token = roi_align(each, boxes, 7, 1 / 4, 2, True).mean((2, 3))
            u.append(token / deviation + sinusoidal_encoding(center, 6))
        a = [
            (torch.cosine_similarity(each[:, None], each[None], -1) / temperature).softmax(1)
            for each in u
        ]
        if len(slots) > 1:
            kl += [(a[1] * (a[1] / a[0]).log()).sum(1)]
        gaps += [(a[1] @ u[1] - a[0] @ u[0]).abs().mean(1)]
    expected = torch.cat(kl).mean() + 0.5 * torch.cat(gaps).mean()
    torch.testing.assert_close(value, expected, rtol=1e-4, atol=0)
    metrics = model.step_metrics()
    torch.testing.assert_close(metrics['relation'] + 0.5 * metrics['response'], value.detach())


def test_equal_networks_have_loss_zero():
    view = make_level_view('equal', (3, 2))
    assert float(loss_of(tsrd(), with_maps(view, student=maps(view)[1])).detach()) < 1e-6
    assert float(loss_of(tsrd(), view).detach()) > 0.1


def test_gradients_equal_finite_differences_and_reach_the_student_only():
    view, model = make_level_view('slope', (3, 1), size_px=(96, 96)), tsrd().double().eval()
    student, teacher = (each.double() for each in maps(view))
    targets = {
        name: getattr(view.targets, name).double() for name in ('center_px', 'depth_m', 'box_px')
    }
    targets = dataclasses.replace(view.targets, **targets)
    view = dataclasses.replace(view, targets=targets, P=view.P.double())

    def value(features):
        return loss_of(model, with_maps(view, features, teacher))

    assert torch.autograd.gradcheck(value, student.requires_grad_(), fast_mode=True)
    teacher.requires_grad_()
    value(student).backward()
    assert student.grad.any()
    assert teacher.grad is None


@pytest.mark.parametrize('part', ['relation_weight', 'response_weight'])
def test_each_part_sends_a_gradient_to_the_student(part):
    weights = {'relation_weight': 0.0, 'response_weight': 0.0, part: 1.0}
    view = make_level_view('part', (3, 2))
    student = maps(view)[0].requires_grad_()
    loss_of(tsrd(**weights), view).backward()
    assert student.grad.any()


@pytest.mark.parametrize('count', [0, 1, 200])
def test_any_number_of_objects_gives_a_finite_loss_and_gradient(count):
    model, view = tsrd().train(), make_level_view('count', (count,), max(count, 1))
    student = maps(view)[0].requires_grad_()
    value = loss_of(model, view)
    value.backward()
    assert value.isfinite()
    assert (float(value.detach()) == 0) == (count == 0)
    assert student.grad.isfinite().all()
    assert student.grad.any() == (count > 0)
    # a lone object has no relation; its response is its token
    assert (float(model.step_metrics()['relation']) > 0) == (count > 1)


def test_images_without_slots_give_zero():
    view = make_level_view('no slots', (0, 0), 0)
    assert float(loss_of(tsrd(), view)) == 0


def test_the_order_of_slots_changes_nothing():
    view = make_level_view('order', (4, 2), 6)
    permuted = permute_slots(view, torch.tensor([4, 1, 5, 0, 3, 2]))
    torch.testing.assert_close(loss_of(tsrd(), permuted), loss_of(tsrd(), view))


def test_the_content_and_number_of_empty_slots_change_nothing():
    view = make_level_view('empty', (2, 1), 3)
    expected = loss_of(tsrd(), view)
    wide = make_level_view('empty', (2, 1), 3).targets
    columns = {}
    for each in dataclasses.fields(wide):
        column = getattr(wide, each.name)
        fill = column.new_full((2, 4, *column.shape[2:]), 0)
        if column.is_floating_point():
            column = torch.where(
                wide.valid.view(2, 3, *[1] * (column.dim() - 2)), column, math.nan
            )
            fill.fill_(math.nan)
        columns[each.name] = torch.cat([column, fill], 1)
    filled = dataclasses.replace(view, targets=dataclasses.replace(wide, **columns))
    student = maps(filled)[0].requires_grad_()
    value = loss_of(tsrd(), filled)
    torch.testing.assert_close(value, expected)
    value.backward()
    assert student.grad.isfinite().all()


def test_objects_of_other_images_do_not_matter():
    view = make_level_view('alone', (3, 2))
    models = [tsrd().train() for _ in range(2)]
    for model in models:
        loss_of(model, view)
        model.eval()
    both = models[0].relations(view, SINGLE_PART)[1]
    single = models[1].relations(images(view, slice(1, 2)), SINGLE_PART)[1]
    torch.testing.assert_close(both.response[1:], single.response)


def test_the_scale_of_the_maps_changes_nothing_and_far_objects_attend_less():
    view = make_level_view('scale', (3, 2))
    scaled = with_maps(view, *(each * 50 for each in maps(view)))
    torch.testing.assert_close(loss_of(tsrd(), scaled), loss_of(tsrd(), view), rtol=1e-4, atol=0)
    # maps without content leave the position
    view = with_maps(view, *(torch.zeros_like(each) for each in maps(view)))
    valid = view.targets.valid
    near, far = (
        dataclasses.replace(view.targets, depth_m=torch.tensor([[10.0, 12, z, 0], [5, 6, 0, 0]]))
        for z in (13.0, 60.0)
    )
    attention = [
        tsrd(temperature=1.0)
        .relations(dataclasses.replace(view, targets=each), SINGLE_PART)[0]
        .log_attention[0, 0, 2]
        for each in (near, far)
    ]
    assert attention[0] > attention[1]
    assert valid[0, 2]


def test_queries_are_compared_where_detectors_have_them():
    net = SimpleNamespace(levels=detector().levels, token_channels=8)
    model = Tsrd(TsrdConfig(level='queries'), net, net)
    view = make_level_view('queries', (3, 0))
    tokens = {role: tensor(f'{role} tokens', (2, 4, 8)) for role in ('student', 'teacher')}
    tokens['student'][:, 3] = math.nan  # an empty slot
    tokens['student'].requires_grad_()
    outputs = {
        role: dataclasses.replace(getattr(view, role), tokens=each)
        for role, each in tokens.items()
    }
    value = loss_of(model, dataclasses.replace(view, **outputs))
    value.backward()
    assert value.isfinite()
    assert tokens['student'].grad[0, :3].any()
    assert not tokens['student'].grad[1].any()
    half = {
        role: dataclasses.replace(getattr(view, role), tokens=each.detach().bfloat16())
        for role, each in tokens.items()
    }
    coarse = loss_of(model.eval(), dataclasses.replace(view, **half))
    assert coarse.dtype == torch.float32
    torch.testing.assert_close(coarse, value, rtol=0.05, atol=0)


def test_autocast_changes_no_digit_of_float32_inputs():
    view, values = make_level_view('bf16', (3, 1)), []
    for outer in ('fp32', 'bf16'):
        with autocast_to(outer, view.P.device), autocast_to('fp32', view.P.device):
            values.append(loss_of(tsrd(), view))
    assert values[1].dtype == torch.float32
    assert torch.equal(*values)


def test_micro_batches_give_loss_and_gradient_of_the_whole_batch():
    view = make_level_view('parts', (3, 1, 0), 3)
    student = maps(view)[0].requires_grad_()
    expected = loss_of(tsrd(), view)
    (gradient,) = torch.autograd.grad(expected, student)
    parts = [images(view, slice(row, row + 1)) for row in range(3)]
    split, recorded = tsrd(), []
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
    view, model = make_level_view('waits', (3, 0)), tsrd().train()
    maps(view)[0].requires_grad_()
    with SyncRecorder() as recorder:
        loss_of(model, view).backward()
    assert recorder.operations == []


def test_what_cannot_be_compared_is_refused_by_name():
    with pytest.raises(ValueError, match="level 'c8' of the student lies upstream"):
        tsrd(level='c8')
    with pytest.raises(ValueError, match="level 'queries': SimpleNamespace has no queries"):
        tsrd(level='queries')
    with pytest.raises(ValueError, match="level 'neck': 6 channels in the student, 8 in the te"):
        Tsrd(TsrdConfig(), detector(6), detector(8))
    with pytest.raises(ValueError, match='temperature: 0; must be above 0'):
        TsrdConfig(temperature=0)
    with pytest.raises(ValueError, match='cells: 0; must be at least 1'):
        TsrdConfig(cells=0)
    with pytest.raises(ValueError, match='relation_weight: -1; must be at least 0'):
        TsrdConfig(relation_weight=-1)
