"""ASB: the adversarial scoring block between the maps of student and teacher."""

import copy
import dataclasses
import math

import pytest
import torch
from level_views import detector, images, make_level_view, maps, with_maps

from stl_core.distill.losses.asb import Asb, AsbConfig, ramp
from stl_core.distill.losses.cpl import Cpl, CplConfig
from stl_core.tensors import reductions, regions
from stl_core.tensors.precision import autocast_to
from stl_core.tensors.reductions import SINGLE_PART


def asb(student=6, teacher=6, **options):
    torch.manual_seed(0)
    return Asb(AsbConfig(**{'width': 8, **options}), detector(student), detector(teacher))


def with_projection(view, cpl):
    """Return the view as the distiller makes it when CPL projects the level."""
    projected = {cpl.projected_level: cpl.project(maps(view)[0])}
    return dataclasses.replace(view, projected=projected)


def gradients(value, tensors):
    return torch.autograd.grad(value, tensors, retain_graph=True, allow_unused=True)


def test_both_losses_are_cross_entropies_over_objects_and_as_much_background():
    view, model = make_level_view('loop', (2, 1)), asb()
    named, accuracy = model(view, SINGLE_PART), model.step_metrics()['accuracy']
    (student, teacher), cells = maps(view), regions.object_cells(view.targets, 4, 24, 32)
    statistics = model.statistics.current()
    mean, deviation = (each[:, None, None] for each in statistics)
    conv = torch.nn.functional.conv2d
    scores = []
    for features in (student, teacher):
        hidden = (features - mean) / deviation
        for number, (weight, bias) in enumerate(model.scorer.effective_weights(view.epoch)):
            hidden = conv(hidden, weight, bias, padding=1)
            hidden = hidden if number == 2 else torch.where(hidden > 0, hidden, 0.2 * hidden)
        scores.append(hidden[:, 0])
    probability = [each.sigmoid() for each in scores]
    fooled, entropy, right = [], [], []
    for image, slot in view.targets.valid.nonzero().tolist():
        for at in (cells[image, slot], ~cells[image].any(0)):
            fooled.append(-probability[0][image][at].log().mean())
            both = (1 - probability[0][image][at]).log() + probability[1][image][at].log()
            entropy.append(-both.mean() / 2)
            hits = (scores[0][image][at] < 0).float() + (scores[1][image][at] > 0).float()
            right.append(hits.mean() / 2)
    for value, expected in (
        (named[''], fooled), (named['scorer'], entropy), (accuracy, right)
    ):  # fmt: skip
        torch.testing.assert_close(value, torch.stack(expected).mean(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize('spectral_norm', [True, False])
def test_each_loss_sends_gradients_to_its_player_only(spectral_norm):
    view, model = make_level_view('who', (2, 1)), asb(spectral_norm=spectral_norm)
    torch.manual_seed(1)
    cpl = Cpl(CplConfig(), detector(), detector())
    student, teacher = (each.requires_grad_() for each in maps(view))
    named = model(with_projection(view, cpl), SINGLE_PART)
    of_scorer = list(model.scorer.parameters())
    of_cpl = list(cpl.parameters())
    assert all(each is None for each in gradients(named[''], [*of_scorer, *of_cpl, teacher]))
    assert gradients(named[''], [student])[0].any()
    assert all(each is None for each in gradients(named['scorer'], [*of_cpl, student, teacher]))
    assert all(each.any() for each in gradients(named['scorer'], of_scorer))


def test_the_players_pull_in_opposite_directions():
    view, model = make_level_view('pull', (2, 1)), asb(spectral_norm=False).eval()
    student = maps(view)[0].requires_grad_()
    named = model(view, SINGLE_PART)
    (gradient,) = gradients(named[''], [student])
    moved = with_maps(view, (student - 0.5 * gradient / gradient.norm()).detach())
    after = model(moved, SINGLE_PART)
    assert after[''] < named['']
    assert after['scorer'] > named['scorer']


def test_the_projection_of_cpl_is_scored_where_there_is_one():
    view, model = make_level_view('proj', (2, 1)), asb().eval()
    cpl = Cpl(CplConfig(), detector(), detector())
    torch.testing.assert_close(
        model(with_projection(view, cpl), SINGLE_PART), model(view, SINGLE_PART)
    )
    torch.nn.init.normal_(cpl.projection.weight)
    by_hand = with_maps(view, cpl.projection(maps(view)[0]).detach())
    value = model(with_projection(view, cpl), SINGLE_PART)
    torch.testing.assert_close(value, model(by_hand, SINGLE_PART))
    assert not torch.equal(value[''], model(view, SINGLE_PART)[''])


def test_unequal_channels_need_cpl():
    view, model = make_level_view('wide', (2,), channels=(4, 6)), asb(4, 6)
    with pytest.raises(ValueError, match=r"level 'neck': 4 channels in the student, 6 in"):
        model(view, SINGLE_PART)
    cpl = Cpl(CplConfig(), detector(4), detector(6))
    assert model(with_projection(view, cpl), SINGLE_PART)[''].isfinite()


def test_gradients_equal_finite_differences():
    view, model = make_level_view('slope', (2, 1), size_px=(96, 96)), asb().double().eval()
    student, teacher = (each.double() for each in maps(view))
    names = [name for name, _ in model.named_parameters()]

    def value(features, *weights):
        parameters = dict(zip(names, weights, strict=True))
        arguments = (with_maps(view, features, teacher), SINGLE_PART)
        return torch.func.functional_call(model, parameters, arguments)

    weights = [each.detach().clone().requires_grad_() for each in model.parameters()]
    student.requires_grad_()
    # eval mode: the singular vectors are constants, as in backward
    assert torch.autograd.gradcheck(
        lambda each: value(each, *weights)[''], [student], fast_mode=True
    )
    assert torch.autograd.gradcheck(
        lambda *each: value(student, *each)['scorer'], weights, fast_mode=True
    )


@pytest.mark.parametrize('count', [0, 1, 200])
def test_any_number_of_objects_gives_finite_losses_and_gradients(count):
    view, model = make_level_view('count', (count,), max(count, 1)), asb().train()
    student = maps(view)[0].requires_grad_()
    named = model(view, SINGLE_PART)
    (named[''] + named['scorer']).backward()
    for tensor in (student, *model.parameters()):
        assert tensor.grad.isfinite().all()
        assert tensor.grad.any() == (count > 0)
    for value in named.values():
        assert (float(value.detach()) == 0) == (count == 0)
    if not count:
        assert float(model.step_metrics()['accuracy']) == 0.5


def test_a_dead_scorer_has_accuracy_one_half_and_the_loss_of_a_guess():
    view = make_level_view('dead', (2, 1))
    for bias in (0.0, 1.5, -2.0):
        model = asb(spectral_norm=False)
        torch.nn.init.zeros_(model.scorer.convs[2].weight)
        torch.nn.init.constant_(model.scorer.convs[2].bias, bias)
        named = model(view, SINGLE_PART)
        assert float(model.step_metrics()['accuracy']) == pytest.approx(0.5)
        if not bias:
            for value in named.values():
                assert float(value.detach()) == pytest.approx(math.log(2))


def test_the_weight_of_the_students_gradient_rises_between_two_epochs():
    assert [ramp(epoch, (1.0, 3.0)) for epoch in (0.0, 1.0, 1.5, 2.0, 3.0, 9.0)] == [
        *(0.0, 0.0, 0.25, 0.5, 1.0, 1.0)
    ]
    assert [ramp(epoch, (0.0, 0.0)) for epoch in (0.0, 1.0)] == [1.0, 1.0]
    full, values = None, []
    for epoch in (3.0, 2.0, 1.0):
        view = make_level_view('warm', (2, 1), epoch=epoch)
        student = maps(view)[0].requires_grad_()
        value = asb().eval()(view, SINGLE_PART)['']
        gradient = gradients(value, [student])[0]
        full = gradient if full is None else full
        torch.testing.assert_close(gradient, full * (epoch - 1) / 2)
        values.append(value.detach())
    # the value has no such factor: curves of different epochs can be compared
    assert values[0] == values[1] == values[2]


def test_a_scorer_learns_to_separate_two_distributions_and_a_student_to_resemble_the_teacher():
    torch.manual_seed(0)
    model = asb().train()
    optimizer = torch.optim.AdamW(model.parameters(), 5e-3)
    shift = torch.zeros(6, 1, 1, requires_grad=True)
    of_student = torch.optim.SGD([shift], 0.5)
    accuracies = []
    for step in range(160):
        view = make_level_view(f'distribution {step}', (3, 2), epoch=3 + step / 100)
        student, teacher = maps(view)
        # nothing but the mean of each channel differs
        view = with_maps(view, student + (shift if step >= 60 else shift.detach()), teacher + 0.7)
        named = model(view, SINGLE_PART)
        optimizer.zero_grad()
        of_student.zero_grad()
        sum(named.values()).backward()
        optimizer.step()
        if step >= 60:
            of_student.step()
        accuracies.append(float(model.step_metrics()['accuracy']))
    assert accuracies[0] < 0.6
    assert sum(accuracies[50:60]) / 10 > 0.8
    assert sum(accuracies[-10:]) / 10 < 0.7
    assert float(shift.detach().mean()) == pytest.approx(0.7, abs=0.25)


def test_autocast_changes_no_digit_of_float32_inputs():
    view, expected = make_level_view('bf16', (3, 1)), None
    for outer in ('fp32', 'bf16'):
        with autocast_to(outer, view.P.device), autocast_to('fp32', view.P.device):
            named = asb()(view, SINGLE_PART)
        expected = named if expected is None else expected
        for key, value in named.items():
            assert value.dtype == torch.float32
            assert torch.equal(value, expected[key])


def test_micro_batches_give_losses_gradients_and_buffers_of_the_whole_batch():
    view = make_level_view('parts', (3, 1, 0), 3)
    whole, split = asb().train(), asb().train()
    expected = whole(view, SINGLE_PART)
    sum(expected.values()).backward()
    parts = [images(view, slice(row, row + 1)) for row in range(3)]
    before = copy.deepcopy(dict(split.named_buffers()))
    recorded = []
    for part in parts:
        recorded.append([])
        split(part, reductions.recording_normalizer(recorded[-1]))
    for name, buffer in split.named_buffers():
        buffer.copy_(before[name])
    means = [torch.stack(each).mean(0) for each in zip(*recorded, strict=True)]
    accuracies = []
    for part in parts:
        named = split(part, reductions.replaying_normalizer(means, 3))
        (sum(named.values()) / 3).backward()
        accuracies.append(split.step_metrics()['accuracy'])
    accuracy = torch.stack(accuracies).mean()
    torch.testing.assert_close(accuracy, whole.step_metrics()['accuracy'])
    for one, other in zip(split.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-7)
    for one, other in zip(split.buffers(), whole.buffers(), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'level': 'c8'}, "level 'c8' of the student lies upstream of where given depth"),
        ({'warmup': (3.0, 1.0)}, r'warmup: expected 0 <= start <= end, got \[3.0, 1.0\]'),
        ({'width': 0}, 'width: expected at least 1 channel, got 0'),
        ({'lr': 0.0}, 'lr: expected more than 0, got 0.0'),
    ],
)
def test_levels_without_privilege_and_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        asb(**options)
