"""Properties that every distillation loss of LOSSES must have."""

import dataclasses
import math

import pytest
import torch
from fake_views import (
    STRIDES,
    evaluate,
    make_view,
    maps_of,
    permute_slots,
    select_image,
    student_tensors,
    with_gradients,
    with_sigma,
    with_student,
    with_student_tensors,
    with_targets,
    with_teacher,
    with_teacher_maps,
)

from stl_core.distill import LOSSES, distiller
from stl_core.distill.distiller import distillation_losses
from stl_core.distill.losses import feature, relation, response
from stl_core.tensors import reductions
from stl_core.tensors.reductions import SINGLE_PART

#: Losses without weights; each Transfer has a test file of its own.
FUNCTIONS = [name for name, entry in LOSSES.items() if entry.loss]
every_loss = pytest.mark.parametrize('name', FUNCTIONS)
#: plain_scene compares whole images, without regard to objects.
of_objects = pytest.mark.parametrize('name', [name for name in FUNCTIONS if name != 'plain_scene'])
ours = pytest.mark.parametrize('name', ['feature', 'relation', 'response'])


@every_loss
def test_the_loss_is_zero_for_a_student_that_equals_its_teacher(name):
    view = make_view('equal', (3, 2), 5)
    view = dataclasses.replace(view, student=view.teacher, adapted=maps_of(view.teacher))
    assert float(evaluate(name, view)) == pytest.approx(0, abs=1e-6)
    assert float(evaluate(name, make_view('equal', (3, 2), 5))) > 1e-3


@of_objects
def test_without_objects_the_loss_is_zero_with_a_gradient_path(name):
    view, tensors = with_gradients(make_view('none', (0, 0), 5))
    value = evaluate(name, view)
    assert float(value.detach()) == 0
    value.backward()
    grads = [each.grad for each in tensors.values() if each.grad is not None]
    assert grads
    assert all((grad == 0).all() for grad in grads)


@every_loss
@pytest.mark.parametrize('count', [1, 200])
def test_one_and_many_objects_give_a_finite_scalar(name, count):
    view, tensors = with_gradients(make_view('count', (count,), 200))
    value = evaluate(name, view)
    assert value.dim() == 0
    assert value.isfinite()
    value.backward()
    assert all(each.grad.isfinite().all() for each in tensors.values() if each.grad is not None)


@every_loss
def test_gradients_reach_the_student_only(name):
    view, tensors = with_gradients(make_view('who', (3, 2), 5))
    sigma = [each.depth_sigma_m.detach().requires_grad_() for each in (view.student, view.teacher)]
    view = with_teacher(view, depth_sigma_m=sigma[1])
    evaluate(name, with_student(view, depth_sigma_m=sigma[0])).backward()
    assert any(each.grad is not None and (each.grad != 0).any() for each in tensors.values())
    assert all(each.grad is None for each in sigma)


@every_loss
def test_gradients_equal_finite_differences(name):
    view = make_view('slope', (2, 1), 3, (96, 128), channels=(2, 3, 4), dtype=torch.float64)
    keys = list(student_tensors(view))

    def value(*tensors):
        return evaluate(name, with_student_tensors(view, dict(zip(keys, tensors, strict=True))))

    tensors = [each.clone().requires_grad_() for each in student_tensors(view).values()]
    assert torch.autograd.gradcheck(value, tensors, fast_mode=True)


@every_loss
def test_the_order_of_slots_changes_nothing(name):
    view = make_view('order', (4, 2), 6, dtype=torch.float64)
    permuted = permute_slots(view, torch.tensor([4, 1, 5, 0, 3, 2]))
    torch.testing.assert_close(evaluate(name, permuted), evaluate(name, view))


@every_loss
def test_the_content_of_empty_slots_changes_nothing(name):
    view = make_view('order', (2, 1), 6)
    empty = ~view.targets.valid

    def fill(value):
        return torch.where(empty.view(*empty.shape, *[1] * (value.dim() - 2)), torch.nan, value)

    def fill_outputs(outputs):
        predictions = {key: fill(each) for key, each in outputs.predictions.items()}
        sigma_m = fill(outputs.depth_sigma_m)
        return dataclasses.replace(outputs, predictions=predictions, depth_sigma_m=sigma_m)

    names = ('center_px', 'depth_m', 'size_hwl_m', 'alpha', 'box_px')
    filled = with_targets(view, **{key: fill(getattr(view.targets, key)) for key in names})
    filled = with_student(filled, **vars(fill_outputs(view.student)))
    filled = with_teacher(filled, **vars(fill_outputs(view.teacher)))
    torch.testing.assert_close(evaluate(name, filled), evaluate(name, view))


@every_loss
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_large_activations_under_autocast_are_compared_in_float32(name, dtype):
    view = make_view('loud', (3, 2), 5)
    large = {key: each * 3e4 for key, each in student_tensors(view).items()}
    view, tensors = with_gradients(with_student_tensors(view, large))
    losses = {name: LOSSES[name].config()}
    (expected,) = distillation_losses(view, losses, SINGLE_PART).values()
    with torch.autocast('cpu', dtype=dtype):
        (value,) = distillation_losses(view, losses, SINGLE_PART).values()
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, expected, rtol=0, atol=0)
    value.backward()
    assert all(each.grad.isfinite().all() for each in tensors.values() if each.grad is not None)


#: plain_heads compares squares whose size depends on the whole box.
@pytest.mark.parametrize('name', sorted({*FUNCTIONS} - {'plain_scene', 'plain_heads'}))
def test_boxes_beyond_the_canvas_are_clipped_at_its_edge(name):
    # the region around an object depends on the whole box, too
    options = {'feature': {'around': 0.0}, 'relation': {'across_images': 1.0}}.get(name, {})
    view = make_view('edge', (1, 1), 1)
    beyond = torch.tensor([[[-300.0, -40.0, 90.0, 70.0]], [[560.0, 100.0, 900.0, 500.0]]])
    clipped = torch.tensor([[[0.0, 0.0, 90.0, 70.0]], [[560.0, 100.0, 640.0, 192.0]]])
    value = evaluate(name, with_targets(view, box_px=beyond), **options)
    expected = evaluate(name, with_targets(view, box_px=clipped), **options)
    torch.testing.assert_close(value, expected)
    assert value > 0


@pytest.mark.parametrize(
    'name', ['feature', 'feature_public', 'relation', 'relation_public', 'plain_relation']
)
def test_boxes_smaller_than_a_cell_have_gradients_at_every_stride(name):
    view = with_sigma(make_view('small', (2,), 2), 'student', 2.0)
    corner = torch.tensor([[[101.0, 67.0], [40.0, 33.0]]])
    view = with_targets(view, box_px=torch.cat([corner, corner + 3], -1))
    view, tensors = with_gradients(view)
    evaluate(name, view).backward()
    assert all(tensors['adapted', f'c{stride}'].grad.any() for stride in STRIDES)


@pytest.mark.parametrize('name', ['feature', 'response'])
def test_duplicating_every_object_changes_nothing(name):
    view = make_view('twice', (3, 3), 3, dtype=torch.float64)
    twice = permute_slots(view, torch.tensor([0, 0, 1, 1, 2, 2]))
    torch.testing.assert_close(evaluate(name, twice), evaluate(name, view))


@pytest.mark.parametrize('name', ['feature', 'relation'])
def test_scale_and_number_of_channels_change_nothing(name):
    view = make_view('scale', (3, 2), 5, dtype=torch.float64)
    value = evaluate(name, view)
    teacher, student = (
        {stride: each * 100 for stride, each in maps.items()}
        for maps in (maps_of(view.teacher), view.adapted)
    )
    scaled = dataclasses.replace(with_teacher_maps(view, teacher), adapted=student)
    torch.testing.assert_close(evaluate(name, scaled), value)
    teacher, student = (
        {stride: torch.cat([each, each], 1) for stride, each in maps.items()}
        for maps in (maps_of(view.teacher), view.adapted)
    )
    doubled = dataclasses.replace(with_teacher_maps(view, teacher), adapted=student)
    torch.testing.assert_close(evaluate(name, doubled), value)


@pytest.mark.parametrize('name', ['feature', 'relation'])
def test_the_loss_is_bounded_for_any_student(name):
    view = make_view('bound', (3, 2), 5)
    view = with_sigma(with_sigma(view, 'student', 1e3), 'teacher', 1e-3)
    for factor in (-1.0, 1e3, -1e6):
        student = {stride: each * factor for stride, each in maps_of(view.teacher).items()}
        assert 0 < float(evaluate(name, dataclasses.replace(view, adapted=student))) <= 2


@pytest.mark.parametrize('name', ['feature', 'relation'])
def test_a_constant_offset_of_a_channel_changes_nothing(name):
    view = make_view('always', (3, 2), 5, dtype=torch.float64)
    value = evaluate(name, view)
    shift = {s: torch.randn(1, each.shape[1], 1, 1) for s, each in view.adapted.items()}
    teacher, student = (
        {s: each + 5 * shift[s] for s, each in maps.items()}
        for maps in (maps_of(view.teacher), view.adapted)
    )
    shifted = dataclasses.replace(with_teacher_maps(view, teacher), adapted=student)
    torch.testing.assert_close(evaluate(name, shifted), value, rtol=1e-3, atol=0)


@ours
def test_micro_batches_give_the_loss_of_the_whole_batch(name):
    view = make_view('parts', (3, 1), 3)
    parts = [select_image(view, row) for row in (0, 1)]
    recorded = []
    for part in parts:
        recorded.append([])
        evaluate(name, part, reductions.recording_normalizer(recorded[-1]))
    means = [torch.stack(each).mean(0) for each in zip(*recorded, strict=True)]
    with_means = [
        evaluate(name, part, reductions.replaying_normalizer(means, 2)) for part in parts
    ]
    torch.testing.assert_close(torch.stack(with_means).mean(), evaluate(name, view))


def test_losses_that_compare_features_refuse_views_without():
    view = dataclasses.replace(make_view('bare', (1,), 1), adapted={})
    for name in ('feature', 'relation', 'plain_scene', 'plain_relation'):
        with pytest.raises(ValueError, match='this loss compares features'):
            evaluate(name, view)


@pytest.mark.parametrize(
    'config',
    [feature.FeatureLossConfig, relation.RelationLossConfig, response.ResponseLossConfig],
    ids=['feature', 'rel', 'resp'],
)
def test_a_half_sigma_of_zero_is_refused(config):
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
            'half_sigma_m: infinite gives every object weight 0',
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
def test_invalid_options_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
