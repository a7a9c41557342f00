"""Every distillation loss says what its formula says, and boxes own the cells they should."""

import dataclasses
from math import inf

import golden
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fake_views import (
    STRIDES,
    a_view,
    evaluate,
    learning,
    tensor,
    with_sigma,
    with_student,
    with_targets,
    with_teacher,
)
from torchvision.ops import roi_align

from stl_core.distill import regions, weighting
from stl_core.distill.losses import baselines, feature, relation, response
from stl_core.distill.losses.response import (
    depth_response_loss,
    laplace_kl,
    peak_weighted_response_loss,
    shared_head_maps,
)
from stl_core.models.centernet import heatmap


@pytest.mark.parametrize('case', ['few', 'crowd', 'filled'])
def test_public_losses_say_what_the_public_code_says(case):
    told = golden.read('monostl')[case]
    view = a_view(case, told['objects'], told['slots'])
    for name, value in told['losses'].items():
        assert float(evaluate(name, view)) == pytest.approx(value, rel=1e-5), name


def test_each_cell_belongs_to_the_nearest_object_whose_box_it_is_in():
    targets = a_view('own', (2,), 3).targets
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
    targets = a_view('own', (1,), 1).targets
    targets = dataclasses.replace(targets, box_px=torch.tensor([[box]], dtype=torch.float32))
    _, owned = regions.nearest_object_map(targets, stride, 192 // stride, 640 // stride)
    assert 1 <= owned.sum() <= 4


def test_what_the_canvas_does_not_show_does_not_count():
    targets = a_view('own', (6,), 6).targets
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
        [True, *[False] * 4, True]
    ]


def test_the_gate_rises_with_doubt_between_its_bounds():
    sigma = torch.tensor([0.0, 0.5, 1.0, 2.0, 1e3, torch.inf])
    closed = weighting.confidence_gate(sigma, 2.0)
    torch.testing.assert_close(closed + weighting.uncertainty_gate(sigma, 2.0), torch.ones(6))
    assert closed.diff().max() < 0
    assert closed[[0, 3, 5]].tolist() == [1, 0.5, 0]
    assert weighting.confidence_gate(sigma[:5], torch.inf).tolist() == [1] * 5


@pytest.mark.parametrize(
    ('name', 'who', 'sign'),
    [
        ('feature', 'student', 1),
        ('feature', 'teacher', -1),
        ('feature_public', 'student', 1),
        ('relation', 'teacher', -1),
        ('relation_public', 'teacher', -1),
        ('response', 'teacher', -1),
    ],
)
def test_doubt_of_the_student_opens_and_doubt_of_the_teacher_shuts(name, who, sign):
    view = a_view('gate', (3, 2), 5)
    values = [
        float(evaluate(name, with_sigma(view, who, sigma_m))) for sigma_m in (1.2, 2.0, 5.0, 50.0)
    ]
    assert all(each > 0 for each in np.diff(values) * sign)


@pytest.mark.parametrize(
    ('sigma_m', 'share'), [(0.5, 0), (1.0, 0), (1.5, 1 / 3), (2.0, 0.5), (5.0, 0.8)]
)
def test_public_feature_loss_is_shut_for_a_student_sure_to_a_metre(sigma_m, share):
    view = with_sigma(a_view('public', (3, 2), 5), 'student', sigma_m)
    ones = {stride: torch.ones_like(each) for stride, each in view.adapted.items()}
    view = with_teacher(view, features=ones)
    view = dataclasses.replace(view, adapted={stride: 3 * each for stride, each in ones.items()})
    # half the square of 2, a tenth of it, at three strides
    assert float(evaluate('feature_public', view)) == pytest.approx(share * 3 * 2 / 10)
    assert float(evaluate('plain_feature', view)) == pytest.approx(3 * 2 / 10)


def cells_by_hand(view, stride, ideal):
    """Cells of each object, nearest first, as lists of (image, row, column)."""
    owner, owned = regions.nearest_object_map(view.targets, stride, *ideal.shape[-2:])
    return {
        (b, n): [(b, y, x) for y, x in (owned[b] & (owner[b] == n)).nonzero().tolist()]
        for b, n in view.targets.valid.nonzero().tolist()
    }


def channels_by_hand(ideal, cells):
    """Mean and deviation of each channel, every object alike."""
    grid = ideal.movedim(1, -1).numpy()
    means = [np.mean([grid[place] for place in places], 0) for places in cells.values()]
    squares = [np.mean([grid[place] ** 2 for place in places], 0) for places in cells.values()]
    mean, square = np.mean(means, 0), np.mean(squares, 0)
    variance = square - mean**2 + 1e-6 * square.mean()
    return mean, np.sqrt(variance + 0.01 * variance.mean())


def test_feature_loss_is_the_bounded_square_by_the_teachers_deviation_times_the_gate():
    view = a_view('formula', (3, 2), 5, dtype=torch.float64)
    terms = []
    for stride, own, ideal in view.feature_pairs():
        cells = {
            key: [(b, y, x) for b, y, x in places if ideal[b, :, y, x].any()]
            for key, places in cells_by_hand(view, stride, ideal).items()
        }
        _, deviation = channels_by_hand(ideal, cells)
        objects = []
        for (b, n), places in cells.items():
            h = [
                np.mean(((own - ideal)[b, :, y, x].numpy() / deviation) ** 2) / 2
                for _, y, x in places
            ]
            gap = np.mean([each / (1 + each / 2) for each in h])
            own_sigma, ideal_sigma = (
                float(side.sigma_m[b, n]) for side in (view.student, view.teacher)
            )
            doubt, certainty = own_sigma**2 / (4 + own_sigma**2), 9 / (9 + ideal_sigma**2)
            objects.append(doubt * certainty * gap)
        terms.append(np.mean(objects))
    value = feature.feature_loss(
        view, feature.FeatureLossConfig(half_sigma_m=2.0, sure_sigma_m=3.0, around=0.0)
    )
    assert float(value) == pytest.approx(np.mean(terms), rel=1e-5)


def test_objects_of_equal_doubt_weigh_alike_however_large():
    view = with_sigma(a_view('alike', (2,), 2), 'student', 1.0)
    box = torch.tensor([[[0.0, 0, 320, 192], [400.0, 64, 432, 96]]])
    view = with_targets(view, box_px=box)
    ones = {stride: torch.randn_like(each) for stride, each in view.adapted.items()}
    view = dataclasses.replace(with_teacher(view, features=ones), adapted=ones)

    def spoilt(x, y, wide, high):  # where the student is as far off as can be
        wrong = {stride: each.clone() for stride, each in ones.items()}
        for stride, each in wrong.items():
            rows = slice(y // stride, (y + high) // stride)
            each[:, :, rows, x // stride : (x + wide) // stride] *= -1e6
        wrong = dataclasses.replace(view, adapted=wrong)
        return float(evaluate('feature', wrong, half_sigma_m=1.0, sure_sigma_m=inf, around=0.0))

    assert spoilt(0, 0, 320, 192) == pytest.approx(spoilt(400, 64, 32, 32), rel=1e-3)
    # 2 is the bound, for one of two objects, half shut
    assert spoilt(400, 64, 32, 32) == pytest.approx(2 / 2 / 2, rel=1e-3)


def test_features_are_compared_around_an_object_as_far_as_is_asked():
    view = with_targets(a_view('around', (1,), 1), box_px=torch.tensor([[[320.0, 96, 384, 128]]]))
    view, tensors = learning(view)
    evaluate('feature', view, around=0.5).backward()
    grad = tensors['adapted', 8].grad[0].any(0)
    rows, columns = grad.nonzero().unbind(1)
    # half the width, 32 px, and half the height, 16 px, at every side
    assert (columns.min() * 8, (columns.max() + 1) * 8) == (320 - 32, 384 + 32)
    assert (rows.min() * 8, (rows.max() + 1) * 8) == (96 - 16, 128 + 16)
    with pytest.raises(ValueError, match=r'around: -0\.1 of a box; must be at least 0'):
        feature.FeatureLossConfig(around=-0.1)


def test_every_object_has_cells_also_where_a_nearer_one_takes_them():
    targets = a_view('crowd', (3,), 3).targets
    targets = dataclasses.replace(
        targets,
        box_px=torch.tensor([[[64.0, 64, 128, 128], [65, 65, 70, 70], [66, 66, 69, 69]]]),
        depth_m=torch.tensor([[10.0, 30.0, 40.0]]),
    )
    cells = regions.object_cells(targets, 8, 24, 80)
    assert cells.sum((-1, -2)).tolist() == [[64, 1, 1]]
    assert cells[0, 1:, 8, 8].all()


def test_a_far_car_keeps_its_body_beside_a_near_one():
    """Their boxes do not meet; what is around the near one reaches over the far one."""
    targets = a_view('beside', (2,), 2).targets
    box_px = torch.tensor([[[304.0, 104, 424, 168], [472, 104, 512, 136]]])
    targets = dataclasses.replace(targets, box_px=box_px, depth_m=torch.tensor([[10.0, 30.0]]))
    near, far = regions.object_cells(targets, 8, 24, 80, around=1.0)[0]
    body = regions.box_cells(targets, 8, 24, 80)[0]
    assert (near & body[0]).sum() == body[0].sum() == 15 * 8
    assert (far & body[1]).sum() == body[1].sum() == 5 * 4
    assert not (near & body[1]).any()
    assert not (far & body[0]).any()
    around = near & far  # the ground between is beside both
    assert around.any()
    assert not (around & body.any(0)).any()


def test_cells_without_any_feature_of_the_teacher_do_not_teach():
    view = a_view('dead', (3, 2), 5)
    alive = {stride: each.clone() for stride, each in view.teacher.features.items()}
    for each in alive.values():
        each[:, :, :, ::2] = 0
    view, tensors = learning(with_teacher(view, features=alive))
    evaluate('feature', view).backward()
    for stride in STRIDES:
        grad = tensors['adapted', stride].grad
        assert not grad[:, :, :, ::2].any()
        assert grad.any()


def by_hand(view, pairs, sigma_of):
    """Relation losses written as loops -> mean over levels of the sum over pairs."""
    where = [(int(b), int(n)) for b, n in view.targets.valid.nonzero()]
    box = torch.stack(
        [torch.cat([torch.tensor([b]), view.targets.box_px[b, n]]) for b, n in where]
    )
    terms = []
    for stride, own, ideal in view.feature_pairs():
        mean, deviation = channels_by_hand(ideal, cells_by_hand(view, stride, ideal))
        found = []
        for grid in (own, ideal):
            roi = roi_align(grid, box, 7, 1 / stride, 2, True).movedim(1, -1).numpy()
            rows = ((roi - mean) / deviation).reshape(len(roi), -1)
            rows /= np.linalg.norm(rows, axis=1, keepdims=True)
            found.append(rows @ rows.T)
        gap = np.abs(np.subtract(*found))
        terms.append(
            sum(
                gap[i, j] * sigma_of(where[i], where[j])
                for i in range(len(where))
                for j in range(len(where))
                if pairs(where[i], where[j])
            )
        )
    return np.mean(terms)


@pytest.mark.parametrize(('across', 'count'), [(0.0, 3 * 3 + 2 * 2), (1.0, 5 * 5)])
def test_relation_loss_is_the_mean_over_pairs_of_gated_gaps(across, count):
    view = a_view('pairs', (3, 2), 5, dtype=torch.float64)
    sigma = view.teacher.sigma_m

    def certainty(one, two):
        u = (sigma[one] ** 2 + sigma[two] ** 2) / 2
        return 1 / (1 + u / 1.5**2)

    total = by_hand(view, lambda one, two: across or one[0] == two[0], certainty)
    value = relation.relation_loss(
        view, relation.RelationLossConfig(half_sigma_m=1.5, across_images=across)
    )
    assert float(value) == pytest.approx(total / count, rel=1e-3)


def test_relations_stay_within_an_image():
    view = a_view('within', (1, 1), 1)
    assert float(evaluate('relation', view)) == pytest.approx(0, abs=1e-4)
    everywhere = relation.relation_loss(view, relation.RelationLossConfig(across_images=1.0))
    assert everywhere > 1e-3


def test_response_loss_is_l1_and_the_divergence_of_bins():
    view = with_student(a_view('said', (3, 2), 5, dtype=torch.float64), heads={})
    told = answers_by_hand(view, 1 / (1 + view.teacher.sigma_m**2))
    assert float(evaluate('response', view)) == pytest.approx(told)


def test_depth_maps_are_compared_by_the_divergence_of_laplace_laws():
    own, ideal = torch.tensor([-3.0, 0.9]), torch.tensor([-3.2, 0.4])
    (z, sigma), (z_t, sigma_t) = (
        (float(np.exp(-each[0].item())), float(each[1].exp())) for each in (own, ideal)
    )
    x = np.linspace(z_t - 60, z_t + 60, 2_000_001)
    p, q = (
        np.exp(-np.sqrt(2) * np.abs(x - mean) / s) / (np.sqrt(2) * s)
        for mean, s in ((z_t, sigma_t), (z, sigma))
    )
    divergence = np.sum(p * np.log(p / q)) * (x[1] - x[0])
    assert float(laplace_kl(own, ideal)) == pytest.approx(divergence, rel=1e-3)
    assert float(laplace_kl(ideal, ideal)) == pytest.approx(0, abs=1e-6)


def test_every_cell_of_an_object_says_its_depth_as_the_teacher_does():
    view = a_view('dense', (1,), 1)
    box = torch.tensor([[[40.0, 40, 80, 64]]])
    view = with_targets(view, box_px=box)
    view, tensors = learning(
        with_student(view, predictions={'depth': view.teacher.predictions['depth']})
    )
    value = depth_response_loss(view, shared_head_maps(view), torch.inf)
    value.backward()
    grad = tensors['heads', 'depth'].grad[0]
    taught = grad.abs().sum(0) > 0
    expected = torch.zeros_like(taught)
    expected[10:16, 10:20] = True
    assert torch.equal(taught, expected)


def answers_by_hand(view, weight):
    """Answers at objects, written as loops: the mean over them."""
    total, where = 0.0, view.targets.valid.nonzero().tolist()
    for b, n in where:
        own, ideal = (
            {k: v[b, n] for k, v in s.predictions.items()} for s in (view.student, view.teacher)
        )
        q, p = (F.softmax(each['heading'][:12], -1) for each in (own, ideal))
        away = sum(float((own[key] - ideal[key]).abs().mean()) for key in own if key != 'heading')
        away += float((p * (p / q).log()).sum())
        away += float((p * (own['heading'][12:] - ideal['heading'][12:]).abs()).sum())
        total += float(weight[b, n]) * away
    return total / len(where)


def peaks_by_hand(view, weight):
    """Answers all over objects by the height of the teacher's peak, written as loops."""
    own, ideal = view.student.heads, view.teacher.heads
    cells = cells_by_hand(view, 4, ideal['heatmap'])
    total = 0.0
    for (b, n), places in cells.items():
        height = ideal['heatmap'][b, view.targets.class_id[b, n]].sigmoid()
        shares, away = 0.0, 0.0
        for _, i, j in places:
            gap = sum(
                float((own[key][b, :, i, j] - ideal[key][b, :, i, j]).abs().mean())
                for key in ('offset_2d', 'size_2d', 'offset_3d', 'size_3d')
            )
            (s, s_rest), (t, t_rest) = (
                side['heading'][b, :, i, j].chunk(2) for side in (own, ideal)
            )
            p, q = t.softmax(0), s.softmax(0)
            gap += float((p * (p / q).log()).sum() + (p * (s_rest - t_rest).abs()).sum())
            away += float(height[i, j]) * gap
            shares += float(height[i, j])
        total += float(weight[b, n]) * away / shares / len(cells)
    return total


def heatmap_by_hand(view, weight):
    """Divergence of the chances of an object, cell by cell of boxes: the mean over those."""
    own, ideal = (side.heads['heatmap'].sigmoid() for side in (view.student, view.teacher))
    found = []
    for (_, n), places in cells_by_hand(view, 4, ideal).items():
        for b, i, j in places:
            q, p = own[b, :, i, j], ideal[b, :, i, j]
            gap = (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).sum()
            found.append(float(weight[b, n] * gap))
    return np.mean(found)


def depths_by_hand(view, half_sigma_m):
    """Divergence of laws of depth by the teacher's certainty in each cell, written as loops."""
    own, ideal = (side.heads['depth'] for side in (view.student, view.teacher))
    found = []
    for places in cells_by_hand(view, 4, ideal).values():
        gaps = [
            float(laplace_kl(own[b, :, i, j], ideal[b, :, i, j]))
            / (1 + (float(ideal[b, 1, i, j].exp()) / half_sigma_m) ** 2)
            for b, i, j in places
        ]
        found.append(np.mean(gaps))
    return np.mean(found)


def test_response_adds_up_answers_and_maps_each_with_its_gate():
    view = a_view('whole', (3, 0, 2), 5, dtype=torch.float64)
    view = with_targets(view, class_id=torch.tensor([[0, 1, 2, 0, 0], [0] * 5, [2, 2, 0, 0, 0]]))
    half = 1.5
    weight = 1 / (1 + (view.teacher.sigma_m / half) ** 2)
    parts = [
        answers_by_hand(view, weight),
        heatmap_by_hand(view, weight),
        depths_by_hand(view, half),
        peaks_by_hand(view, weight),
    ]
    assert min(parts) > 0.01
    assert float(evaluate('response', view, half_sigma_m=half)) == pytest.approx(sum(parts))


def test_answers_of_an_object_count_where_the_teacher_has_its_peak():
    view = a_view('peaks', (3, 0, 2), 5)
    view = with_targets(view, class_id=torch.tensor([[0, 1, 2, 0, 0], [0] * 5, [2, 2, 0, 0, 0]]))
    weight = tensor('weight', (3, 5)).exp()
    found = peak_weighted_response_loss(view, shared_head_maps(view), weight)
    assert float(found) == pytest.approx(peaks_by_hand(view, weight), rel=1e-4)


def test_maps_are_compared_only_beside_a_heatmap_of_their_size():
    view = a_view('maps', (2,), 2)
    odd = {
        'heatmap': torch.zeros(1, 3, 48, 160),
        'depth': torch.zeros(1, 2, 48, 160),
        'coarse': torch.zeros(1, 2, 24, 80),
        'edges': torch.zeros(1, 9),
    }
    both = with_teacher(with_student(view, heads=odd), heads=odd)
    assert list(shared_head_maps(both).student) == ['heatmap', 'depth']
    # (B, layers, queries, 2) of a transformer with two decoder layers is no map of depth
    queries = {'depth': torch.zeros(1, 2, 50, 2)}
    told = with_teacher(with_student(view, heads=queries), heads=queries)
    assert shared_head_maps(told) is None


def test_plain_response_is_the_ungated_one():
    view = with_student(a_view('said', (3, 2), 5), heads={})
    alike = response.response_loss(view, response.ResponseLossConfig(half_sigma_m=float('inf')))
    torch.testing.assert_close(evaluate('plain_response', view), alike)


def test_heatmaps_are_compared_inside_boxes_where_both_have_one():
    view, tensors = learning(a_view('peaks', (2, 1), 3))
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


def test_answers_that_cannot_be_compared_are_told():
    view = a_view('odd', (1,), 1)
    with pytest.raises(ValueError, match='none common'):
        evaluate('response', with_teacher(view, predictions={'other': torch.zeros(1, 1, 1)}))
    eight = {**view.teacher.predictions, 'heading': torch.zeros(1, 1, 16)}
    with pytest.raises(ValueError, match='heading: 24 numbers from the student, 16 from the'):
        evaluate('response', with_teacher(view, predictions=eight))
    queries = {**view.teacher.heads, 'depth': torch.zeros(1, 50, 2)}
    with pytest.raises(ValueError, match='needs the head map depth'):
        evaluate('plain_heads', with_teacher(view, heads=queries))


def test_squares_of_plain_heads_are_as_large_as_the_gaussians_of_heatmaps():
    targets = a_view('squares', (1,) * 64, 1).targets
    side = (targets.box_px[..., 2:] - targets.box_px[..., :2]) / 4
    radius = heatmap.gaussian_radius(side).floor()[:, 0]
    middle = (targets.box_px[..., 2:] + targets.box_px[..., :2]) / 2
    free = ((middle > 60) & (middle < torch.tensor([580.0, 132.0]))).all(-1)[:, 0]
    squares = baselines._gaussian_squares(targets, 4, 48, 160).flatten(1).sum(1)
    assert free.sum() > 5
    torch.testing.assert_close(squares[free].float(), (2 * radius[free] + 1).square())
