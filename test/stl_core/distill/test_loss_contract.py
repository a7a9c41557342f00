"""Every loss of LOSSES keeps the same contract."""

import dataclasses
import math

import pytest
import torch
from fake_views import (
    STRIDES,
    a_view,
    evaluate,
    in_slots,
    learning,
    leaves,
    of_image,
    rebuilt,
    with_sigma,
    with_student,
    with_targets,
    with_teacher,
)

from stl_core.distill import LOSSES, distiller
from stl_core.distill.distiller import distillation_losses
from stl_core.distill.losses import feature, relation, response
from stl_core.tensors import reductions

every_loss = pytest.mark.parametrize('name', list(LOSSES))
#: plain_scene compares whole pictures, whatever is in them.
of_objects = pytest.mark.parametrize('name', [name for name in LOSSES if name != 'plain_scene'])
ours = pytest.mark.parametrize('name', ['feature', 'relation', 'response'])


@every_loss
def test_a_student_that_equals_its_teacher_loses_nothing(name):
    view = a_view('equal', (3, 2), 5)
    view = dataclasses.replace(view, student=view.teacher, adapted=view.teacher.features)
    assert float(evaluate(name, view)) == pytest.approx(0, abs=1e-6)
    assert float(evaluate(name, a_view('equal', (3, 2), 5))) > 1e-3


@of_objects
def test_without_objects_the_loss_is_zero_with_a_gradient_path(name):
    view, tensors = learning(a_view('none', (0, 0), 5))
    value = evaluate(name, view)
    assert float(value.detach()) == 0
    value.backward()
    seen = [each.grad for each in tensors.values() if each.grad is not None]
    assert seen
    assert all((grad == 0).all() for grad in seen)


@every_loss
@pytest.mark.parametrize('count', [1, 200])
def test_one_and_many_objects_give_a_finite_scalar(name, count):
    view, tensors = learning(a_view('count', (count,), 200))
    value = evaluate(name, view)
    assert value.dim() == 0
    assert value.isfinite()
    value.backward()
    assert all(each.grad.isfinite().all() for each in tensors.values() if each.grad is not None)


@every_loss
def test_gradients_reach_the_student_only(name):
    view, tensors = learning(a_view('who', (3, 2), 5))
    sigma = [side.sigma_m.detach().requires_grad_() for side in (view.student, view.teacher)]
    view = with_teacher(view, sigma_m=sigma[1])
    evaluate(name, with_student(view, sigma_m=sigma[0])).backward()
    assert any(each.grad is not None and (each.grad != 0).any() for each in tensors.values())
    assert all(each.grad is None for each in sigma)


@every_loss
def test_gradients_are_those_of_finite_differences(name):
    view = a_view('slope', (2, 1), 3, (96, 128), channels=(2, 3, 4), dtype=torch.float64)
    keys = list(leaves(view))

    def value(*tensors):
        return evaluate(name, rebuilt(view, dict(zip(keys, tensors, strict=True))))

    tensors = [each.clone().requires_grad_() for each in leaves(view).values()]
    assert torch.autograd.gradcheck(value, tensors, fast_mode=True)


@every_loss
def test_the_order_of_slots_changes_nothing(name):
    view = a_view('order', (4, 2), 6, dtype=torch.float64)
    moved = in_slots(view, torch.tensor([4, 1, 5, 0, 3, 2]))
    torch.testing.assert_close(evaluate(name, moved), evaluate(name, view))


@every_loss
def test_what_is_in_slots_that_do_not_count_changes_nothing(name):
    view, out = a_view('order', (2, 1), 6), torch.nan
    empty = ~view.targets.valid

    def spoilt(value):
        return torch.where(empty.view(*empty.shape, *[1] * (value.dim() - 2)), out, value)

    def spoilt_side(side):
        answers = {key: spoilt(each) for key, each in side.predictions.items()}
        return dataclasses.replace(side, predictions=answers, sigma_m=spoilt(side.sigma_m))

    names = ('center_px', 'depth_m', 'size_hwl_m', 'alpha', 'box_px')
    wrong = with_targets(view, **{key: spoilt(getattr(view.targets, key)) for key in names})
    wrong = with_student(wrong, **vars(spoilt_side(view.student)))
    wrong = with_teacher(wrong, **vars(spoilt_side(view.teacher)))
    torch.testing.assert_close(evaluate(name, wrong), evaluate(name, view))


@every_loss
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_large_activations_under_autocast_are_compared_in_float32(name, dtype):
    view = a_view('loud', (3, 2), 5)
    loud = {key: each * 3e4 for key, each in leaves(view).items()}
    view, tensors = learning(rebuilt(view, loud))
    chosen = {name: LOSSES[name].config()}
    (alone,) = distillation_losses(view, chosen).values()
    with torch.autocast('cpu', dtype=dtype):
        (value,) = distillation_losses(view, chosen).values()
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, alone, rtol=0, atol=0)
    value.backward()
    assert all(each.grad.isfinite().all() for each in tensors.values() if each.grad is not None)


#: The squares of plain_heads are of the size of the whole box.
@pytest.mark.parametrize('name', sorted(LOSSES.keys() - {'plain_scene', 'plain_heads'}))
def test_boxes_that_leave_the_canvas_are_cut_at_its_edge(name):
    # how far around an object is looked goes by the whole box, too
    numbers = {'around': 0.0} if name == 'feature' else {}
    view = a_view('edge', (1, 1), 1)
    over = torch.tensor([[[-300.0, -40.0, 90.0, 70.0]], [[560.0, 100.0, 900.0, 500.0]]])
    cut = torch.tensor([[[0.0, 0.0, 90.0, 70.0]], [[560.0, 100.0, 640.0, 192.0]]])
    value = evaluate(name, with_targets(view, box_px=over), **numbers)
    torch.testing.assert_close(value, evaluate(name, with_targets(view, box_px=cut), **numbers))
    assert value > 0


@pytest.mark.parametrize(
    'name', ['feature', 'feature_public', 'relation', 'relation_public', 'plain_relation']
)
def test_boxes_smaller_than_a_cell_teach_at_every_stride(name):
    view = with_sigma(a_view('small', (2,), 2), 'student', 2.0)
    corner = torch.tensor([[[101.0, 67.0], [40.0, 33.0]]])
    view = with_targets(view, box_px=torch.cat([corner, corner + 3], -1))
    view, tensors = learning(view)
    evaluate(name, view).backward()
    assert all(tensors['adapted', stride].grad.any() for stride in STRIDES)


@ours
def test_having_every_object_twice_changes_nothing(name):
    view = a_view('twice', (3, 3), 3, dtype=torch.float64)
    twice = in_slots(view, torch.tensor([0, 0, 1, 1, 2, 2]))
    torch.testing.assert_close(evaluate(name, twice), evaluate(name, view))


@pytest.mark.parametrize('name', ['feature', 'relation'])
def test_scale_and_number_of_channels_do_not_weigh(name):
    view = a_view('scale', (3, 2), 5, dtype=torch.float64)
    value = evaluate(name, view)
    loud, own = (
        {stride: each * 100 for stride, each in maps.items()}
        for maps in (view.teacher.features, view.adapted)
    )
    scaled = dataclasses.replace(with_teacher(view, features=loud), adapted=own)
    torch.testing.assert_close(evaluate(name, scaled), value)
    wide = {stride: torch.cat([each, each], 1) for stride, each in view.teacher.features.items()}
    own = {stride: torch.cat([each, each], 1) for stride, each in view.adapted.items()}
    doubled = dataclasses.replace(with_teacher(view, features=wide), adapted=own)
    torch.testing.assert_close(evaluate(name, doubled), value)


@pytest.mark.parametrize('name', ['feature', 'relation'])
def test_the_loss_is_bounded_however_far_off_the_student_is(name):
    view = a_view('bound', (3, 2), 5)
    view = with_sigma(with_sigma(view, 'student', 1e3), 'teacher', 1e-3)
    for factor in (-1.0, 1e3, -1e6):
        off = {stride: each * factor for stride, each in view.teacher.features.items()}
        assert 0 < float(evaluate(name, dataclasses.replace(view, adapted=off))) <= 2


@pytest.mark.parametrize('name', ['feature', 'relation'])
def test_what_a_channel_always_says_teaches_nothing(name):
    view = a_view('always', (3, 2), 5, dtype=torch.float64)
    value = evaluate(name, view)
    shift = {s: torch.randn(1, each.shape[1], 1, 1) for s, each in view.adapted.items()}
    ideal, own = (
        {s: each + 5 * shift[s] for s, each in maps.items()}
        for maps in (view.teacher.features, view.adapted)
    )
    moved = dataclasses.replace(with_teacher(view, features=ideal), adapted=own)
    torch.testing.assert_close(evaluate(name, moved), value, rtol=1e-3, atol=0)


@ours
def test_parts_of_a_batch_computed_in_turn_teach_as_the_whole(name):
    view = a_view('parts', (3, 1), 3)
    parts = [of_image(view, row) for row in (0, 1)]
    asked = []
    for part in parts:
        with reductions.recorded_reductions() as notes:
            evaluate(name, part)
        asked.append(notes)
    means = [torch.stack(each).mean(0) for each in zip(*asked, strict=True)]
    with_means = []
    for part in parts:
        with reductions.replayed_reductions(means, 2):
            with_means.append(evaluate(name, part))
    torch.testing.assert_close(torch.stack(with_means).mean(), evaluate(name, view))


def test_losses_that_compare_features_ask_for_some():
    view = dataclasses.replace(a_view('bare', (1,), 1), adapted={})
    for name in ('feature', 'relation', 'plain_scene', 'plain_relation'):
        with pytest.raises(ValueError, match='this loss compares features'):
            evaluate(name, view)


@pytest.mark.parametrize(
    'config',
    [feature.FeatureLossConfig, relation.RelationLossConfig, response.ResponseLossConfig],
    ids=['feature', 'rel', 'resp'],
)
def test_a_gate_without_width_is_refused(config):
    with pytest.raises(ValueError, match='half_sigma_m: 0 metres; must be above 0'):
        config(half_sigma_m=0)


@pytest.mark.parametrize(
    ('make', 'message'),
    [
        (
            lambda: feature.FeatureLossConfig(sure_sigma_m=-1.0),
            'sure_sigma_m: -1.0 metres; must be above 0',
        ),
        (
            lambda: feature.FeatureLossConfig(half_sigma_m=math.inf),
            'half_sigma_m: infinite, which would',
        ),
        (lambda: relation.RelationLossConfig(cells=0), 'cells: 0; must be at least 1'),
        (lambda: relation.PublicRelationLossConfig(cells=0), 'cells: 0; must be at least 1'),
        (
            lambda: relation.RelationLossConfig(across_images=-1.0),
            'across_images: -1.0; must be at least 0',
        ),
        (
            lambda: distiller.DistillLayersConfig(width=0),
            'width: expected at least 1 channel, got 0',
        ),
        (
            lambda: distiller.DistillLayersConfig(strides=(8, 8)),
            r'strides: expected each once, got \[8, 8\]',
        ),
    ],
)
def test_numbers_that_make_no_sense_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
