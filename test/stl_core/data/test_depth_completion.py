"""Completion bridges surfaces, keeps edges, and is silent where no ray is near."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import maximum_filter

from stl_core.data.depth_completion import (
    CompletionConfig,
    complete_depth,
    occluded_rays,
    ray_spacing,
)

WIDTH, HEIGHT = 1242, 375
FOCAL, MIDDLE = 721.5, 172.9


def grid(down, across=3, top=100):
    """Where the rays of a scan fall, every other beam half a step to the side."""
    seen = np.zeros((HEIGHT, WIDTH), bool)
    for number, row in enumerate(range(top, HEIGHT, down)):
        seen[row, (number % 2) * (across // 2) :: across] = True
    return seen


def road():
    """z of flat ground 1.65 m below a camera, 0 above 80 m."""
    rows = np.arange(HEIGHT)[:, None] - MIDDLE
    z = np.where(rows > 0, FOCAL * 1.65 / np.maximum(rows, 1e-6), 0)
    return np.broadcast_to(np.where(z < 80, z, 0), (HEIGHT, WIDTH)).astype(np.float32)


@pytest.mark.parametrize('down', [5, 10, 20])
def test_a_road_comes_out_flat_however_few_the_beams(down):
    true = road()
    seen = grid(down) & (true > 0)
    found = complete_depth(np.where(seen, true, 0))
    rows = np.flatnonzero(seen.any(1))
    assert found[rows[0] : rows[-1] + 1].all()
    near = (true < 40) & (np.arange(HEIGHT) <= rows[-1])[:, None] & (true > 0)
    error = np.abs(found - true)[near] / true[near]
    assert (error < 0.02).all()
    assert np.median(error) < 1e-5


def test_a_wall_at_a_slant_comes_out_flat():
    columns = np.arange(WIDTH)[None] - 100.0
    true = np.broadcast_to(FOCAL * 6 / (columns + 250), (HEIGHT, WIDTH)).astype(np.float32)
    found = complete_depth(np.where(grid(6), true, 0))
    inner = np.s_[106:-10, 5:-5]
    np.testing.assert_allclose(found[inner], true[inner], rtol=0.005)


@pytest.mark.parametrize('down', [5, 10, 20])
def test_no_depth_is_between_a_car_and_what_is_behind_it(down):
    true = np.full((HEIGHT, WIDTH), 42.0, np.float32)
    true[160:260, 500:700] = 14.0
    found = complete_depth(np.where(grid(down), true, 0))
    known = found > 0
    assert (np.isclose(found, 14.0) | np.isclose(found, 42.0))[known].all()
    wrong = np.argwhere(known & ~np.isclose(found, true))
    outside = np.maximum([160, 500] - wrong, wrong - [259, 699]).max(1)
    assert np.abs(outside - 0.5).max() <= down / 2 + 1
    assert known[105:-20].mean() > 0.97


def test_a_car_on_a_road_keeps_its_edges():
    true = road().copy()
    true[150:232, 560:680] = FOCAL * 1.65 / (231.5 - MIDDLE)  # its wheels stand on the road
    true[:150] = 0
    found = complete_depth(np.where(grid(5), true, 0))
    body = found[153:228, 563:677]
    np.testing.assert_allclose(body[body > 0], true[200, 600], rtol=0.02)
    assert (body > 0).mean() > 0.99
    beside = np.s_[190:365, 700:800]
    np.testing.assert_allclose(found[beside], true[beside], rtol=0.01)


def test_nothing_is_known_above_the_scan_or_far_from_rays():
    true = road()
    seen = grid(5, top=230) & (np.arange(WIDTH) < 600)[None]
    found = complete_depth(np.where(seen, true, 0))
    assert not found[:228].any()
    assert not found[:, 602:].any()
    assert found[230:370, :600].all()


def test_a_hole_wider_than_a_lost_beam_stays_open():
    true = np.full((HEIGHT, WIDTH), 20.0, np.float32)
    seen = grid(5)
    seen[151:174] = False  # 25 pixels from ray to ray
    seen[271:279] = False  # one beam
    found = complete_depth(np.where(seen, true, 0))
    assert not found[154:172].any()
    assert found[175:370].all()


@pytest.mark.parametrize('points', [0, 1, 2, 5])
def test_few_rays_fill_little(points):
    sparse = np.zeros((HEIGHT, WIDTH), np.float32)
    at = np.random.default_rng(points).integers([0, 0], [HEIGHT, WIDTH], (points, 2))
    sparse[at[:, 0], at[:, 1]] = 10.0
    found = complete_depth(sparse)
    assert (found > 0).sum() <= points * 21 * 21
    assert set(np.unique(found)) <= {0.0, 10.0}


sparse_maps = st.builds(
    lambda seed, share, height, width: np.where(
        np.random.default_rng(seed).random((height, width)) < share,
        np.random.default_rng(seed + 1).uniform(2, 80, (height, width)),
        0,
    ).astype(np.float32),
    seed=st.integers(0, 10_000),
    share=st.floats(0, 0.3),
    height=st.integers(1, 60),
    width=st.integers(1, 90),
)


@settings(max_examples=60, deadline=None)
@given(sparse_maps, st.integers(1, 6), st.integers(1, 12))
def test_any_map_is_filled_near_rays_only_with_depths_that_rays_have(sparse, across, down):
    before = sparse.copy()
    fill = CompletionConfig(spacing_px=(across, down))
    found = complete_depth(sparse, fill)
    np.testing.assert_array_equal(sparse, before)
    np.testing.assert_array_equal(found, complete_depth(sparse, fill))
    assert found.shape == sparse.shape
    assert found.dtype == np.float32
    assert np.isfinite(found).all()
    assert (found >= 0).all()
    rim = (across + 1) // 2
    wide = 2 * max(int(1.5 * across + down / 2), rim) + 1
    high = 2 * max(int(1.5 * down), rim) + 1
    near = maximum_filter(sparse, (high, wide)) > 0
    assert not found[~near].any()
    if found.any():
        rays = sparse[sparse > 0]
        known = found[found > 0]
        assert rays.min() * 0.9999 <= known.min()
        assert known.max() <= rays.max() * 1.0001


def test_a_ray_keeps_what_it_measured_where_beams_are_closer_than_rays():
    """Half the way to the next ray along a beam is farther than the next beam."""
    sparse = np.zeros((60, 200), np.float32)
    sparse[20, ::20], sparse[28, ::20], sparse[36, ::20] = 12.0, 10.0, 12.0
    found = complete_depth(sparse, CompletionConfig(spacing_px=(20, 2)))
    np.testing.assert_allclose(found[sparse > 0], sparse[sparse > 0], rtol=1e-6)


def test_rays_past_the_edge_of_a_car_are_not_seen():
    sparse = np.where(grid(5), 12.0, 0).astype(np.float32)
    ghost = np.zeros_like(sparse, bool)
    ghost[150:250:5, 400:800] = grid(5)[150:250:5, 400:800]
    ghost[:, ::2] = False
    sparse[ghost] = 30.0
    across, _ = ray_spacing(sparse)
    np.testing.assert_array_equal(occluded_rays(sparse, across), ghost)
    np.testing.assert_allclose(complete_depth(sparse)[110:370], 12.0, rtol=1e-5)
    true = road()
    assert not occluded_rays(np.where(grid(5), true, 0), across).any()


@pytest.mark.parametrize(('down', 'across'), [(5, 3), (6, 2), (10, 3), (20, 4), (33, 9)])
def test_the_spacing_of_rays_is_measured(down, across):
    assert ray_spacing(grid(down, across).astype(np.float32)) == (across, down)


def test_fill_refuses_what_makes_no_sense():
    for wrong in (
        {'spacing_px': (0, 5)},
        {'max_gap_spacings': 0.5},
        {'same_surface_tolerance': 1.0},
        {'occlusion_margin': 0.0},
    ):
        with pytest.raises(ValueError, match=r'spacing_px|max_gap_spacings'):
            CompletionConfig(**wrong)
