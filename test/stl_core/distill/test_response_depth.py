"""Depth is distilled in the cells where the teacher was taught depth, and nowhere else."""

import numpy as np
import pytest
import torch
from fake_views import (
    evaluate,
    make_view,
    with_gradients,
    with_student,
    with_targets,
    with_teacher,
)

from stl_core.distill.losses import response
from stl_core.distill.losses.response import ResponseLossConfig, depth_response_loss
from stl_core.tensors import regions
from stl_core.tensors.reductions import SINGLE_PART

#: One object whose box covers rows 10 to 15 and columns 10 to 19 of the grid of stride 4.
BOX_PX = (40.0, 40.0, 80.0, 64.0)
#: Cell of its centre, where labels supervise depth, and one at the border of its box.
TAUGHT, UNTAUGHT = (13, 15), (10, 10)
LABEL_M = 20.0


def one_object(wild_logit):
    """
    Make a view of one object, found by the teacher; its depth is right except in one cell.

    The teacher states a sigma of 0.5 m everywhere: also in UNTAUGHT, where its logit is wild.
    """
    view = make_view('one', (1,), 1, dtype=torch.float64)
    view = with_targets(
        view,
        box_px=torch.tensor([[BOX_PX]], dtype=torch.float64),
        center_px=torch.tensor([[[62.0, 54.0]]], dtype=torch.float64),
        depth_m=torch.tensor([[LABEL_M]], dtype=torch.float64),
    )
    heatmap = torch.full_like(view.teacher.heads['heatmap'], -6.0)
    heatmap[0, 0, TAUGHT[0] - 1 : TAUGHT[0] + 2, TAUGHT[1] - 1 : TAUGHT[1] + 2] = 0.0
    heatmap[0, 0, TAUGHT[0], TAUGHT[1]] = 3.0
    depth = torch.zeros_like(view.teacher.heads['depth'])
    depth[:, 0], depth[:, 1] = -np.log(LABEL_M), np.log(0.5)
    depth[0, 0, UNTAUGHT[0], UNTAUGHT[1]] = wild_logit
    return with_teacher(view, heads={**view.teacher.heads, 'heatmap': heatmap, 'depth': depth})


def depth_gradient(view, config):
    """Return value and gradient (2, h, w) of the depth term with respect to the student's map."""
    view, tensors = with_gradients(view)
    maps = response.shared_head_maps(view)
    value = depth_response_loss(view, maps, config, SINGLE_PART)
    value.backward()
    return float(value.detach()), tensors['heads', 'depth'].grad[0]


@pytest.mark.parametrize('cells', ['peaks', 'agreeing'])
@pytest.mark.parametrize('wild_logit', [-14.0, 6.0])
def test_an_untaught_cell_with_wild_depth_has_no_gradient(cells, wild_logit):
    view = one_object(wild_logit)
    value, grad = depth_gradient(view, ResponseLossConfig(depth_cells=cells))
    assert (grad[(slice(None), *UNTAUGHT)] == 0).all()
    assert (grad[(slice(None), *TAUGHT)] != 0).all()
    # the wild depth of the teacher changes nothing at all
    assert value == depth_gradient(one_object(-9.0), ResponseLossConfig(depth_cells=cells))[0]
    _, old = depth_gradient(view, ResponseLossConfig(depth_cells='all'))
    assert (old[(slice(None), *UNTAUGHT)] != 0).all()


def test_the_default_is_to_compare_depth_at_the_peaks():
    assert ResponseLossConfig().depth_cells == 'peaks'
    view = one_object(-14.0)
    assert evaluate('response', view) == evaluate('response', view, depth_cells='peaks')
    assert evaluate('response', view) != evaluate('response', view, depth_cells='all')


@pytest.mark.parametrize('cells', response.DEPTH_CELLS)
def test_the_term_equals_its_formula(cells):
    """Compare with loops over cells, for a teacher that is right in about half of the cells."""
    half, view = 1.5, make_view('formula', (3, 0, 2), 5, dtype=torch.float64)
    view = with_targets(view, class_id=torch.tensor([[0, 1, 2, 0, 0], [0] * 5, [2, 2, 0, 0, 0]]))
    depth = view.teacher.heads['depth'].clone()
    depth[:, 0] = -view.targets.depth_m[:, :1, None].clamp(min=5).log() + 0.1 * depth[:, 0]
    view = with_teacher(view, heads={**view.teacher.heads, 'depth': depth})
    maps = response.shared_head_maps(view)
    config = ResponseLossConfig(half_sigma_m=half, depth_cells=cells)
    value = float(depth_response_loss(view, maps, config, SINGLE_PART))
    assert value == pytest.approx(expected_term(view, cells, half))
    assert value > 0.01 or cells == 'none'


def expected_term(view, cells, half_sigma_m):
    """Compute the depth term by loops, from the definition of each choice of cells."""
    student, teacher = (each.heads['depth'] for each in (view.student, view.teacher))
    cells_of = regions.object_cells(view.targets, 4, *teacher.shape[-2:])
    terms = []
    for b, n in view.targets.valid.nonzero().tolist():
        heatmap = view.teacher.heads['heatmap'][b, view.targets.class_id[b, n]].sigmoid()
        divergences, fractions = [], []
        for i, j in cells_of[b, n].nonzero().tolist():
            (z_s, s_s), (z_t, s_t) = (
                (1 / (float(each[b, 0, i, j].sigmoid()) + 1e-6) - 1, float(each[b, 1, i, j].exp()))
                for each in (student, teacher)
            )
            d = np.sqrt(2) * abs(z_s - z_t)
            g = np.log(s_s / s_t) + (s_t * np.exp(-d / s_t) + d) / s_s - 1
            gate = 1 / (1 + (s_t / half_sigma_m) ** 2)
            divergences.append(gate * (g if cells == 'all' else g / (1 + g / 8)))
            height, wrong = float(heatmap[i, j]), abs(z_t - float(view.targets.depth_m[b, n]))
            fractions.append(
                {
                    'peaks': height if height >= 0.1 else 0.0,
                    'agreeing': float(wrong <= 2 * s_t),
                    'all': 1.0,
                    'none': 0.0,
                }[cells]
            )
        count = sum(fractions) if cells == 'peaks' else len(fractions)
        terms.append(np.dot(divergences, fractions) / max(count, 1e-6))
    return np.mean(terms)


def test_gradients_equal_finite_differences_for_every_choice_of_cells():
    view = make_view('slope', (2, 1), 3, (96, 128), channels=(2, 3, 4), dtype=torch.float64)
    for cells in response.DEPTH_CELLS:

        def value(depth, cells=cells):
            heads = {**view.student.heads, 'depth': depth}
            return evaluate('response', with_student(view, heads=heads), depth_cells=cells)

        depth = view.student.heads['depth'].clone().requires_grad_()
        assert torch.autograd.gradcheck(value, (depth,), fast_mode=True), cells


@pytest.mark.parametrize('cells', ['peaks', 'agreeing'])
def test_one_wild_cell_of_the_student_contributes_a_bounded_term(cells):
    view = one_object(-np.log(LABEL_M))
    depth = view.teacher.heads['depth'].clone()
    depth[0, 0, TAUGHT[0], TAUGHT[1]] = -13.0  # exp(13) = 442 km
    view = with_student(view, heads={**view.student.heads, 'depth': depth})
    value, grad = depth_gradient(view, ResponseLossConfig(depth_cells=cells))
    assert 0 < value <= 8
    assert grad.abs().max() <= 8 / 4  # g / (1 + g / 8) rises by at most 8 / 4 per unit of log g
    _, old = depth_gradient(view, ResponseLossConfig(depth_cells='all'))
    assert old.abs().max() > 1000


def test_an_object_that_the_teacher_does_not_find_has_no_depth_term_at_its_peaks():
    view = one_object(-14.0)
    heads = {**view.teacher.heads, 'heatmap': torch.full_like(view.teacher.heads['heatmap'], -6.0)}
    value, grad = depth_gradient(with_teacher(view, heads=heads), ResponseLossConfig())
    assert value == 0
    assert not grad.any()


def test_unknown_cells_are_refused():
    with pytest.raises(ValueError, match="depth_cells: 'center' is unknown; known: peaks, agree"):
        ResponseLossConfig(depth_cells='center')
