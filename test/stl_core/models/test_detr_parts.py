"""Building blocks of MonoDETR, each compared with a formula, loops or an exhaustive search."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from small_detectors import batch

from stl_core.models.detr import (
    box_coding,
    criterion,
    deformable_attention,
    depth_predictor,
    matcher,
)
from stl_core.tensors.reductions import SINGLE_PART


def bilinear(grid, x, y):
    """Sample an (h, w) grid at x, y in cells; cell centres are integers; 0 outside."""
    h, w = grid.shape
    total = 0.0
    for row in (int(np.floor(y)), int(np.floor(y)) + 1):
        for column in (int(np.floor(x)), int(np.floor(x)) + 1):
            if 0 <= row < h and 0 <= column < w:
                total += grid[row, column] * (1 - abs(x - column)) * (1 - abs(y - row))
    return total


def test_deformable_attention_equals_loops():
    rng = np.random.default_rng(0)
    spatial_shapes = [(4, 6), (2, 3)]
    values = rng.standard_normal((2, 30, 2, 3))
    locations = rng.uniform(-0.2, 1.2, (2, 5, 2, 2, 4, 2))
    weights = rng.uniform(0, 1, (2, 5, 2, 2, 4))
    output = deformable_attention.multi_scale_deformable_attn(
        *map(torch.from_numpy, (values, locations, weights)), spatial_shapes
    )
    maps = [values[:, :24].reshape(2, 4, 6, 2, 3), values[:, 24:].reshape(2, 2, 3, 2, 3)]
    for b, t, head, channel in np.ndindex(2, 5, 2, 3):
        expected = 0.0
        for level, point in np.ndindex(2, 4):
            h, w = spatial_shapes[level]
            x, y = locations[b, t, head, level, point] * [w, h] - 0.5
            grid = maps[level][b, :, :, head, channel]
            expected += weights[b, t, head, level, point] * bilinear(grid, x, y)
        assert float(output[b, t, 3 * head + channel]) == pytest.approx(expected, abs=1e-12)


def test_initial_sampling_points_lie_on_rings_of_one_to_four_units():
    attention = deformable_attention.DeformableAttention(32, 8, 4, 4)
    ring = attention.offsets(torch.randn(1, 1, 32)).detach().view(8, 4, 4, 2)
    for head, level, point in np.ndindex(8, 4, 4):
        assert float(ring[head, level, point].abs().max()) == pytest.approx(point + 1)
    assert float(ring.mean()) == pytest.approx(0, abs=1e-6)


def test_generalized_iou_of_known_boxes():
    a = torch.tensor([0.0, 0.0, 2.0, 2.0])
    cases = {
        (0, 0, 2, 2): 1.0,
        (1, 0, 3, 2): 1 / 3,  # intersection 2, union 6, enclosing box 6
        (4, 0, 6, 2): -4 / 12,  # intersection 0, union 8, enclosing box 12
        (0, 0, 1, 1): 1 / 4,
    }
    for b, expected in cases.items():
        giou = box_coding.generalized_box_iou(a, torch.tensor(b).float())
        assert float(giou) == pytest.approx(expected)
    empty = torch.zeros(4, requires_grad=True)
    box_coding.generalized_box_iou(empty, torch.zeros(4)).backward()
    assert torch.isfinite(empty.grad).all()


def test_encoded_boxes_have_the_corners_and_sizes_of_the_targets():
    _, _, targets = batch(2)
    size_px = (96, 320)
    box = box_coding.encode_boxes(targets, size_px)
    corners = box_coding.to_pixels(box_coding.box_cxcylrtb_to_xyxy(box), size_px)
    torch.testing.assert_close(corners, targets.box_px, atol=1e-4, rtol=0)
    size = targets.box_px[..., 2:] - targets.box_px[..., :2]
    box_size = box_coding.to_pixels(box_coding.box_width_height(box), size_px)
    torch.testing.assert_close(box_size, size, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ('box', 'expected'),
    [
        ((0.0, 0.5, 0.0, 0.1, 0.1, 0.1), True),
        ((0.5, 0.5, -0.01, 0.1, 0.1, 0.1), False),  # the centre is left of its box
        ((1.0, 0.5, 0.1, 0.1, 0.1, 0.1), False),
        ((0.5, -0.01, 0.1, 0.1, 0.1, 0.1), False),
    ],
)
def test_representable_boxes_have_their_centre_on_the_canvas_and_inside(box, expected):
    assert bool(box_coding.is_representable(torch.tensor(box))) is expected


def test_hungarian_matches_have_the_minimum_cost():
    rng = np.random.default_rng(0)
    cost = torch.from_numpy(rng.uniform(size=(2, 2, 10, 4)))
    valid = torch.tensor([[True, False, True, True], [False] * 4])
    matches = matcher.hungarian_match(cost, valid, groups=2)
    assert not matches.matched[1].any()
    assert torch.equal(matches.matched[0], valid[0].expand(2, 2, 4))
    columns = [0, 2, 3]
    for layer, group in np.ndindex(2, 2):
        group_cost = cost[0, layer, group * 5 : group * 5 + 5].numpy()
        minimum = min(
            sum(group_cost[q, c] for q, c in zip(queries, columns, strict=True))
            for queries in itertools.permutations(range(5), 3)
        )
        query = matches.query[0, layer, group, columns]
        assert len(set(query.tolist())) == 3
        total = sum(float(cost[0, layer, q, c]) for q, c in zip(query, columns, strict=True))
        assert total == pytest.approx(minimum)


def test_surplus_targets_stay_unmatched():
    cost = torch.tensor([[[[1.0, 0.0, 3.0], [1.0, 5.0, 0.5]]]])
    matches = matcher.hungarian_match(cost, torch.ones(1, 3, dtype=torch.bool), groups=1)
    assert matches.matched.tolist() == [[[[False, True, True]]]]
    assert matches.query.tolist() == [[[[0, 0, 1]]]]


def test_nan_costs_still_give_matches():
    cost = torch.full((1, 1, 3, 2), torch.nan)
    assert matcher.hungarian_match(
        cost, torch.ones(1, 2, dtype=torch.bool), groups=1
    ).matched.all()


def test_class_focal_loss_equals_the_formula():
    rng = np.random.default_rng(1)
    logits = rng.standard_normal((1, 3, 2))
    one_hot = np.zeros((3, 2))
    one_hot[2, 1] = 1  # the target of class 1 has query 2; the second slot is unmatched
    p = 1 / (1 + np.exp(-logits[0]))
    terms = np.where(one_hot == 1, 0.25 * (1 - p) ** 2 * np.log(p), 0.75 * p**2 * np.log(1 - p))
    loss = criterion.class_focal_loss(
        torch.from_numpy(logits),
        torch.tensor([[1, 0]]),
        torch.tensor([[2, 0]]),
        torch.tensor([[True, False]]),
        SINGLE_PART,
    )
    assert float(loss) == pytest.approx(-terms.sum())


def test_bin_widths_increase_linearly_up_to_the_maximum_depth():
    edges = depth_predictor.bin_edges(80, 60.0).double().numpy()
    widths = np.diff(edges)
    assert float(edges[0]) == pytest.approx(1e-3)
    assert float(edges[-1]) == pytest.approx(60.0)
    np.testing.assert_allclose(widths, widths[0] * np.arange(1, 81), rtol=2e-3)


def test_depth_to_bins_returns_the_enclosing_bin():
    edges = depth_predictor.bin_edges(80, 60.0)
    depth = torch.cat([(edges[:-1] + edges[1:]) / 2, torch.tensor([0.0, 60.0, 61.0, torch.inf])])
    bins = depth_predictor.depth_to_bins(depth[None, None], edges[None])
    assert bins[0, 0].tolist() == [*range(80), 80, 80, 80, 80]


def test_paint_depth_keeps_the_nearest_box_and_clips_to_the_grid():
    """The public code paints nothing for a box that begins left of or above the canvas."""
    _, _, targets = batch(1, 3)
    boxes = torch.tensor([[-40.0, -40, 30, 20], [20, 0, 50, 33], [300, 80, 400, 200]])
    targets = dataclasses.replace(
        targets,
        box_px=torch.cat([boxes[None], targets.box_px[:, 3:]], 1),
        depth_m=torch.cat([torch.tensor([[10.0, 20.0, 30.0]]), targets.depth_m[:, 3:]], 1),
    )
    painted = depth_predictor.paint_depth(targets, targets.valid, 6, 20)[0]
    expected = torch.full((6, 20), torch.inf)
    expected[0:3, 1:4] = 20.0
    expected[0:2, 0:2] = 10.0
    expected[5, 18:] = 30.0
    assert torch.equal(painted, expected)
    unpainted = depth_predictor.paint_depth(targets, torch.zeros_like(targets.valid), 6, 20)
    assert torch.isinf(unpainted).all()


def test_depth_map_loss_weights_foreground_cells_thirteen_times():
    logits = torch.zeros(1, 81, 1, 2, requires_grad=True)
    depth_m = torch.tensor([[[5.0, torch.inf]]])
    loss = depth_predictor.depth_map_focal_loss(
        logits, depth_m, depth_predictor.bin_edges(80, 60.0)[None], SINGLE_PART
    )
    cell_loss = 0.25 * (1 - 1 / 81) ** 2 * np.log(81)
    assert float(loss.detach()) == pytest.approx((13 + 1) * cell_loss / 2, rel=1e-5)
