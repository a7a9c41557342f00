"""Distillation losses against their formulas written as loops, and the cells of objects."""

import dataclasses
from math import inf

import golden
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fake_views import (
    STRIDES,
    evaluate,
    make_view,
    maps_of,
    tensor,
    with_gradients,
    with_sigma,
    with_student,
    with_targets,
    with_teacher,
    with_teacher_maps,
)
from torchvision.ops import roi_align

from stl_core.distill import weighting
from stl_core.distill.losses import baselines, feature, relation, response
from stl_core.distill.losses.response import (
    depth_response_loss,
    laplace_kl,
    peak_weighted_response_loss,
    shared_head_maps,
)
from stl_core.models.centernet import heatmap
from stl_core.tensors import regions
from stl_core.tensors.reductions import SINGLE_PART


@pytest.mark.parametrize('case', ['few', 'crowd', 'filled'])
def test_public_losses_equal_those_of_the_public_code(case):
    expected = golden.read('monostl')[case]
    view = make_view(case, expected['objects'], expected['slots'])
    for name, value in expected['losses'].items():
        assert float(evaluate(name, view)) == pytest.approx(value, rel=1e-5), name


def test_each_cell_belongs_to_the_nearest_object_whose_box_covers_it():
    targets = make_view('own', (2,), 3).targets
    targets = dataclasses.replace(
        targets,
        box_px=torch.tensor([[[-20.0, 8.0, 24.0, 40.0], [16.0, 16.0, 64.0, 64.0], [0.0] * 4]]),
        depth_m=torch.tensor([[30.0, 10.0, 0.0]]),
    )
    owner, owned = regions.nearest_object_map(targets, 8, 8, 10)
    expected = np.full((8, 10), -1)
    expected[1:5, 0:3] = 0
    expected[2:8, 2:8] = 1  # nearer, though in a later slot
    np.testing.assert_array_equal(torch.where(owned, owner, -1)[0].numpy(), expected)


@pytest.mark.parametrize('stride', STRIDES)
@pytest.mark.parametrize(
    'box', [(100, 60, 103, 63), (-50, -50, 1, 1), (638, 190, 800, 300), (255.9, 63.9, 256.1, 64.1)]
)
def test_every_box_has_a_cell_at_every_stride(stride, box):
    targets = make_view('own', (1,), 1).targets
    targets = dataclasses.replace(targets, box_px=torch.tensor([[box]], dtype=torch.float32))
    _, owned = regions.nearest_object_map(targets, stride, 192 // stride, 640 // stride)
    assert 1 <= owned.sum() <= 4


def test_objects_outside_of_the_canvas_are_invalid():
    targets = make_view('own', (6,), 6).targets
    targets = dataclasses.replace(
        targets,
        box_px=torch.tensor(
            [[0.0, 0, 90, 90], [0, 0, 90, 90], [0, 0, 0, 90], [640, 0, 700, 90], [0, 0, 9, 9]]
            + [[-9.0, -9, 9, 9]]
        )[None],
        center_px=torch.tensor(
            [[40.0, 40], [-3, 40], [0, 40], [639, 40], [4, 192], [639.9, 191.9]]
        )[None],
    )
    assert regions.visible_targets(targets, (192, 640)).valid.tolist() == [
        [True, True, False, False, True, True]  # wherever the projected centre is
    ]


def test_gates_are_monotonic_in_sigma_and_add_up_to_one():
    sigma = torch.tensor([0.0, 0.5, 1.0, 2.0, 1e3, torch.inf])
    confidence = weighting.confidence_gate(sigma, 2.0)
    torch.testing.assert_close(confidence + weighting.uncertainty_gate(sigma, 2.0), torch.ones(6))
    assert confidence.diff().max() < 0
    assert confidence[[0, 3, 5]].tolist() == [1, 0.5, 0]
    assert weighting.confidence_gate(sigma[:5], torch.inf).tolist() == [1] * 5


@pytest.mark.parametrize(
    ('name', 'network', 'sign'),
    [
        ('feature', 'student', 1),
        ('feature', 'teacher', -1),
        ('feature_public', 'student', 1),
        ('relation', 'teacher', -1),
        ('relation_public', 'teacher', -1),
        ('response', 'teacher', -1),
    ],
)
def test_losses_rise_with_student_sigma_and_fall_with_teacher_sigma(name, network, sign):
    view = make_view('gate', (3, 2), 5)
    values = [
        float(evaluate(name, with_sigma(view, network, sigma_m)))
        for sigma_m in (1.2, 2.0, 5.0, 50.0)
    ]
    assert all(each > 0 for each in np.diff(values) * sign)


@pytest.mark.parametrize(
    ('sigma_m', 'gate'), [(0.5, 0), (1.0, 0), (1.5, 1 / 3), (2.0, 0.5), (5.0, 0.8)]
)
def test_public_feature_loss_is_zero_for_a_student_certain_to_a_metre(sigma_m, gate):
    view = with_sigma(make_view('public', (3, 2), 5), 'student', sigma_m)
    ones = {stride: torch.ones_like(each) for stride, each in view.adapted.items()}
    view = with_teacher_maps(view, ones)
    view = dataclasses.replace(view, adapted={stride: 3 * each for stride, each in ones.items()})
    # (3 - 1)^2 / 2 / 10 at each of three strides
    assert float(evaluate('feature_public', view)) == pytest.approx(gate * 3 * 2 / 10)
    assert float(evaluate('plain_feature', view)) == pytest.approx(3 * 2 / 10)


def expected_cells(view, stride, teacher):
    """Return {(image, slot): [(image, row, column), ...]} of the cells that each object owns."""
    owner, owned = regions.nearest_object_map(view.targets, stride, *teacher.shape[-2:])
    return {
        (b, n): [(b, y, x) for y, x in (owned[b] & (owner[b] == n)).nonzero().tolist()]
        for b, n in view.targets.valid.nonzero().tolist()
    }


def expected_channels(teacher, cells):
    """Compute mean and deviation of each channel, with the same weight for every object."""
    grid = teacher.movedim(1, -1).numpy()
    means = [np.mean([grid[i] for i in indices], 0) for indices in cells.values()]
    squares = [np.mean([grid[i] ** 2 for i in indices], 0) for indices in cells.values()]
    mean, square = np.mean(means, 0), np.mean(squares, 0)
    variance = square - mean**2 + 1e-6 * square.mean()
    return mean, np.sqrt(variance + 0.01 * variance.mean())


def test_feature_loss_is_the_gated_bounded_square_over_the_deviation_of_the_teacher():
    view = make_view('formula', (3, 2), 5, dtype=torch.float64)
    terms = []
    for level, student, teacher in view.feature_pairs():
        stride = level.plane.stride
        cells = {
            key: [(b, y, x) for b, y, x in indices if teacher[b, :, y, x].any()]
            for key, indices in expected_cells(view, stride, teacher).items()
        }
        _, deviation = expected_channels(teacher, cells)
        objects = []
        for (b, n), indices in cells.items():
            h = [
                np.mean(((student - teacher)[b, :, y, x].numpy() / deviation) ** 2) / 2
                for _, y, x in indices
            ]
            gap = np.mean([each / (1 + each / 2) for each in h])
            student_sigma, teacher_sigma = (
                float(each.depth_sigma_m[b, n]) for each in (view.student, view.teacher)
            )
            uncertainty = student_sigma**2 / (4 + student_sigma**2)
            confidence = 9 / (9 + teacher_sigma**2)
            objects.append(uncertainty * confidence * gap)
        terms.append(np.mean(objects))
    value = feature.feature_loss(
        view,
        feature.FeatureLossConfig(half_sigma_m=2.0, sure_sigma_m=3.0, around=0.0),
        SINGLE_PART,
    )
    assert float(value) == pytest.approx(np.mean(terms), rel=1e-5)


def test_objects_of_equal_sigma_have_equal_weight_at_any_size():
    view = with_sigma(make_view('alike', (2,), 2), 'student', 1.0)
    box = torch.tensor([[[0.0, 0, 320, 192], [400.0, 64, 432, 96]]])
    view = with_targets(view, box_px=box)
    features = {stride: torch.randn_like(each) for stride, each in view.adapted.items()}
    view = dataclasses.replace(with_teacher_maps(view, features), adapted=features)

    def loss_of_wrong_box(x, y, width, height):  # in which the student's error is extreme
        adapted = {stride: each.clone() for stride, each in features.items()}
        for stride, each in zip(STRIDES, adapted.values(), strict=True):
            rows = slice(y // stride, (y + height) // stride)
            each[:, :, rows, x // stride : (x + width) // stride] *= -1e6
        wrong = dataclasses.replace(view, adapted=adapted)
        return float(evaluate('feature', wrong, half_sigma_m=1.0, sure_sigma_m=inf, around=0.0))

    small = loss_of_wrong_box(400, 64, 32, 32)
    assert loss_of_wrong_box(0, 0, 320, 192) == pytest.approx(small, rel=1e-3)
    # the bound 2, for one of two objects, with gate 1/2
    assert small == pytest.approx(2 / 2 / 2, rel=1e-3)


def test_features_are_compared_around_an_object_as_far_as_configured():
    view = with_targets(
        make_view('around', (1,), 1), box_px=torch.tensor([[[320.0, 96, 384, 128]]])
    )
    view, tensors = with_gradients(view)
    evaluate('feature', view, around=0.5).backward()
    grad = tensors['adapted', 'c8'].grad[0].any(0)
    rows, columns = grad.nonzero().unbind(1)
    # half the width, 32 px, and half the height, 16 px, on every side
    assert (columns.min() * 8, (columns.max() + 1) * 8) == (320 - 32, 384 + 32)
    assert (rows.min() * 8, (rows.max() + 1) * 8) == (96 - 16, 128 + 16)
    with pytest.raises(ValueError, match=r'around: -0\.1 of a box; must be at least 0'):
        feature.FeatureLossConfig(around=-0.1)


def test_every_object_has_cells_even_if_a_nearer_one_covers_its_box():
    targets = make_view('crowd', (3,), 3).targets
    targets = dataclasses.replace(
        targets,
        box_px=torch.tensor([[[64.0, 64, 128, 128], [65, 65, 70, 70], [66, 66, 69, 69]]]),
        depth_m=torch.tensor([[10.0, 30.0, 40.0]]),
    )
    cells = regions.object_cells(targets, 8, 24, 80)
    assert cells.sum((-1, -2)).tolist() == [[64, 1, 1]]
    assert cells[0, 1:, 8, 8].all()


def test_a_far_car_keeps_its_cells_next_to_a_near_one():
    """Their boxes do not overlap, but the dilated box of the near car covers the far car."""
    targets = make_view('beside', (2,), 2).targets
    box_px = torch.tensor([[[304.0, 104, 424, 168], [472, 104, 512, 136]]])
    targets = dataclasses.replace(targets, box_px=box_px, depth_m=torch.tensor([[10.0, 30.0]]))
    near, far = regions.object_cells(targets, 8, 24, 80, around=1.0)[0]
    body = regions.box_cells(targets, 8, 24, 80)[0]
    assert (near & body[0]).sum() == body[0].sum() == 15 * 8
    assert (far & body[1]).sum() == body[1].sum() == 5 * 4
    assert not (near & body[1]).any()
    assert not (far & body[0]).any()
    around = near & far  # cells between the boxes belong to both
    assert around.any()
    assert not (around & body.any(0)).any()


def test_cells_where_the_teacher_has_no_feature_have_no_gradient():
    view = make_view('dead', (3, 2), 5)
    maps = {name: each.clone() for name, each in maps_of(view.teacher).items()}
    for each in maps.values():
        each[:, :, :, ::2] = 0
    view, tensors = with_gradients(with_teacher_maps(view, maps))
    evaluate('feature', view).backward()
    for stride in STRIDES:
        grad = tensors['adapted', f'c{stride}'].grad
        assert not grad[:, :, :, ::2].any()
        assert grad.any()


def expected_relation(view, is_pair, pair_weight):
    """Compute relation losses by loops: mean over levels of the sum over pairs."""
    objects = [(int(b), int(n)) for b, n in view.targets.valid.nonzero()]
    box = torch.stack(
        [torch.cat([torch.tensor([b]), view.targets.box_px[b, n]]) for b, n in objects]
    )
    terms = []
    for level, student, teacher in view.feature_pairs():
        stride = level.plane.stride
        mean, deviation = expected_channels(teacher, expected_cells(view, stride, teacher))
        affinities = []
        for grid in (student, teacher):
            roi = roi_align(grid, box, 7, 1 / stride, 2, True).movedim(1, -1).numpy()
            rows = ((roi - mean) / deviation).reshape(len(roi), -1)
            rows /= np.linalg.norm(rows, axis=1, keepdims=True)
            affinities.append(rows @ rows.T)
        gap = np.abs(np.subtract(*affinities))
        terms.append(
            sum(
                gap[i, j] * pair_weight(objects[i], objects[j])
                for i in range(len(objects))
                for j in range(len(objects))
                if is_pair(objects[i], objects[j])
            )
        )
    return np.mean(terms)


@pytest.mark.parametrize(('across', 'count'), [(0.0, 3 * 2 + 2 * 1), (1.0, 5 * 4)])
def test_relation_loss_is_the_mean_over_pairs_of_gated_differences(across, count):
    view = make_view('pairs', (3, 2), 5, dtype=torch.float64)
    sigma = view.teacher.depth_sigma_m

    def confidence(one, two):
        u = (sigma[one] ** 2 + sigma[two] ** 2) / 2
        return 1 / (1 + u / 1.5**2)

    total = expected_relation(view, lambda one, two: across or one[0] == two[0], confidence)
    value = relation.relation_loss(
        view, relation.RelationLossConfig(half_sigma_m=1.5, across_images=across), SINGLE_PART
    )
    assert float(value) == pytest.approx(total / count, rel=1e-3)


def test_an_image_with_one_object_does_not_dilute_the_relation_loss():
    view = make_view('diluted', (3, 1), 5, dtype=torch.float64)
    pairs = expected_relation(view, lambda one, two: one[0] == two[0] == 0, lambda *_: 1.0)
    config = relation.RelationLossConfig(half_sigma_m=float('inf'))
    value = relation.relation_loss(view, config, SINGLE_PART)
    assert float(value) == pytest.approx(pairs / 6, rel=1e-3)


def test_pairs_across_images_have_no_weight_by_default():
    view = make_view('within', (1, 1), 1)
    assert float(evaluate('relation', view)) == pytest.approx(0, abs=1e-4)
    everywhere = relation.relation_loss(
        view, relation.RelationLossConfig(across_images=1.0), SINGLE_PART
    )
    assert everywhere > 1e-3


def test_response_loss_is_l1_and_kl_of_heading_bins():
    view = with_student(make_view('said', (3, 2), 5, dtype=torch.float64), heads={})
    expected = expected_predictions(view, 1 / (1 + view.teacher.depth_sigma_m**2))
    assert float(evaluate('response', view)) == pytest.approx(expected)


def test_depth_maps_are_compared_by_kl_of_laplace_distributions():
    student, teacher = torch.tensor([-3.0, 0.9]), torch.tensor([-3.2, 0.4])
    (z, sigma), (z_t, sigma_t) = (
        (float(np.exp(-each[0].item())), float(each[1].exp())) for each in (student, teacher)
    )
    x = np.linspace(z_t - 60, z_t + 60, 2_000_001)
    p, q = (
        np.exp(-np.sqrt(2) * np.abs(x - mean) / s) / (np.sqrt(2) * s)
        for mean, s in ((z_t, sigma_t), (z, sigma))
    )
    divergence = np.sum(p * np.log(p / q)) * (x[1] - x[0])
    assert float(laplace_kl(student, teacher)) == pytest.approx(divergence, rel=1e-3)
    assert float(laplace_kl(teacher, teacher)) == pytest.approx(0, abs=1e-6)


def test_depth_of_all_cells_has_a_gradient_in_every_cell_of_an_object():
    view = make_view('dense', (1,), 1)
    box = torch.tensor([[[40.0, 40, 80, 64]]])
    view = with_targets(view, box_px=box)
    view, tensors = with_gradients(
        with_student(view, predictions={'depth': view.teacher.predictions['depth']})
    )
    config = response.ResponseLossConfig(half_sigma_m=torch.inf, depth_cells='all')
    value = depth_response_loss(view, shared_head_maps(view), config, SINGLE_PART)
    value.backward()
    grad = tensors['heads', 'depth'].grad[0]
    reached = grad.abs().sum(0) > 0
    expected = torch.zeros_like(reached)
    expected[10:16, 10:20] = True
    assert torch.equal(reached, expected)


def expected_predictions(view, weight):
    """Compute the loss of predictions at objects by loops: mean over objects."""
    total, objects = 0.0, view.targets.valid.nonzero().tolist()
    for b, n in objects:
        student, teacher = (
            {k: v[b, n] for k, v in s.predictions.items()} for s in (view.student, view.teacher)
        )
        q, p = (F.softmax(each['heading'][:12], -1) for each in (student, teacher))
        names = [key for key in student if key != 'heading']
        distance = sum(float((student[key] - teacher[key]).abs().mean()) for key in names)
        distance += float((p * (p / q).log()).sum())
        distance += float((p * (student['heading'][12:] - teacher['heading'][12:]).abs()).sum())
        total += float(weight[b, n]) * distance
    return total / len(objects)


def expected_peak_weighted(view, weight):
    """Compute the loss of predictions over objects, weighted by the teacher's peak, by loops."""
    student, teacher = view.student.heads, view.teacher.heads
    cells = expected_cells(view, 4, teacher['heatmap'])
    total = 0.0
    for (b, n), indices in cells.items():
        heatmap = teacher['heatmap'][b, view.targets.class_id[b, n]].sigmoid()
        weight_sum, distance = 0.0, 0.0
        for _, i, j in indices:
            gap = sum(
                float((student[key][b, :, i, j] - teacher[key][b, :, i, j]).abs().mean())
                for key in ('offset_2d', 'size_2d', 'offset_3d', 'size_3d')
            )
            (s, s_residual), (t, t_residual) = (
                heads['heading'][b, :, i, j].chunk(2) for heads in (student, teacher)
            )
            p, q = t.softmax(0), s.softmax(0)
            gap += float((p * (p / q).log()).sum() + (p * (s_residual - t_residual).abs()).sum())
            distance += float(heatmap[i, j]) * gap
            weight_sum += float(heatmap[i, j])
        total += float(weight[b, n]) * distance / weight_sum / len(cells)
    return total


def expected_heatmap(view, weight):
    """Compute the KL of heatmaps by loops: mean over the cells in boxes."""
    student, teacher = (each.heads['heatmap'].sigmoid() for each in (view.student, view.teacher))
    terms = []
    for (_, n), indices in expected_cells(view, 4, teacher).items():
        for b, i, j in indices:
            q, p = student[b, :, i, j], teacher[b, :, i, j]
            gap = (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).sum()
            terms.append(float(weight[b, n] * gap))
    return np.mean(terms)


def expected_depths(view, half_sigma_m):
    """Compute the KL of depths, weighted by the teacher's confidence in each cell, by loops."""
    student, teacher = (each.heads['depth'] for each in (view.student, view.teacher))
    terms = []
    for indices in expected_cells(view, 4, teacher).values():
        gaps = [
            float(laplace_kl(student[b, :, i, j], teacher[b, :, i, j]))
            / (1 + (float(teacher[b, 1, i, j].exp()) / half_sigma_m) ** 2)
            for b, i, j in indices
        ]
        terms.append(np.mean(gaps))
    return np.mean(terms)


def test_response_loss_is_the_sum_of_its_four_gated_terms():
    view = make_view('whole', (3, 0, 2), 5, dtype=torch.float64)
    view = with_targets(view, class_id=torch.tensor([[0, 1, 2, 0, 0], [0] * 5, [2, 2, 0, 0, 0]]))
    half = 1.5
    weight = 1 / (1 + (view.teacher.depth_sigma_m / half) ** 2)
    parts = [
        expected_predictions(view, weight),
        expected_heatmap(view, weight),
        expected_depths(view, half),
        expected_peak_weighted(view, weight),
    ]
    assert min(parts) > 0.01
    value = evaluate('response', view, half_sigma_m=half, depth_cells='all')
    assert float(value) == pytest.approx(sum(parts))


def test_predictions_over_an_object_are_weighted_by_the_peak_of_the_teacher():
    view = make_view('peaks', (3, 0, 2), 5)
    view = with_targets(view, class_id=torch.tensor([[0, 1, 2, 0, 0], [0] * 5, [2, 2, 0, 0, 0]]))
    weight = tensor('weight', (3, 5)).exp()
    value = peak_weighted_response_loss(view, shared_head_maps(view), weight, SINGLE_PART)
    assert float(value) == pytest.approx(expected_peak_weighted(view, weight), rel=1e-4)


def test_maps_are_compared_only_with_a_heatmap_of_their_size():
    view = make_view('maps', (2,), 2)
    heads = {
        'heatmap': torch.zeros(1, 3, 48, 160),
        'depth': torch.zeros(1, 2, 48, 160),
        'coarse': torch.zeros(1, 2, 24, 80),
        'edges': torch.zeros(1, 9),
    }
    view = with_teacher(with_student(view, heads=heads), heads=heads)
    assert list(shared_head_maps(view).student) == ['heatmap', 'depth']
    # (B, layers, queries, 2) of a transformer with two decoder layers is not a depth map
    queries = {'depth': torch.zeros(1, 2, 50, 2)}
    view = with_teacher(with_student(view, heads=queries), heads=queries)
    assert shared_head_maps(view) is None


def test_plain_response_is_the_ungated_response_loss():
    view = with_student(make_view('said', (3, 2), 5), heads={})
    ungated = response.response_loss(
        view, response.ResponseLossConfig(half_sigma_m=float('inf')), SINGLE_PART
    )
    torch.testing.assert_close(evaluate('plain_response', view), ungated)


def test_heatmaps_are_compared_inside_boxes_if_both_have_one():
    view, tensors = with_gradients(make_view('peaks', (2, 1), 3))
    evaluate('response', view).backward()
    grad = tensors['heads', 'heatmap'].grad
    _, owned = regions.nearest_object_map(view.targets, 4, *grad.shape[-2:])
    assert grad.any(1)[owned].all()
    assert not grad.any(1)[~owned].any()
    smaller = {'heatmap': view.teacher.heads['heatmap'][..., ::2]}
    torch.testing.assert_close(
        evaluate('response', with_teacher(view, heads=smaller)),
        evaluate('response', with_student(view, heads={})),
    )


def test_predictions_that_cannot_be_compared_are_refused():
    view = make_view('odd', (1,), 1)
    with pytest.raises(ValueError, match='none common'):
        evaluate('response', with_teacher(view, predictions={'other': torch.zeros(1, 1, 1)}))
    other_bins = {**view.teacher.predictions, 'heading': torch.zeros(1, 1, 16)}
    with pytest.raises(ValueError, match='heading: 24 numbers from the student, 16 from the'):
        evaluate('response', with_teacher(view, predictions=other_bins))
    queries = {**view.teacher.heads, 'depth': torch.zeros(1, 50, 2)}
    with pytest.raises(ValueError, match='needs the head map depth'):
        evaluate('plain_heads', with_teacher(view, heads=queries))


def test_squares_of_plain_heads_have_the_size_of_the_gaussians_of_heatmaps():
    targets = make_view('squares', (1,) * 64, 1).targets
    side = (targets.box_px[..., 2:] - targets.box_px[..., :2]) / 4
    radius = heatmap.gaussian_radius(side).floor()[:, 0]
    center = (targets.box_px[..., 2:] + targets.box_px[..., :2]) / 2
    inside = ((center > 60) & (center < torch.tensor([580.0, 132.0]))).all(-1)[:, 0]
    squares = baselines._gaussian_squares(targets, 4, 48, 160).flatten(1).sum(1)
    assert inside.sum() > 5
    torch.testing.assert_close(squares[inside].float(), (2 * radius[inside] + 1).square())
