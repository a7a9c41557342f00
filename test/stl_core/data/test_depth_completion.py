"""Depth completion: interpolates surfaces, keeps edges, leaves pixels far from rays unknown."""

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


def ray_mask(down, across=3, top=100):
    """Pixels of the rays of a scan; every other beam is shifted by half a step."""
    mask = np.zeros((HEIGHT, WIDTH), bool)
    for number, row in enumerate(range(top, HEIGHT, down)):
        mask[row, (number % 2) * (across // 2) :: across] = True
    return mask


def road():
    """z of flat ground 1.65 m below a camera, 0 where z exceeds 80 m."""
    rows = np.arange(HEIGHT)[:, None] - MIDDLE
    z = np.where(rows > 0, FOCAL * 1.65 / np.maximum(rows, 1e-6), 0)
    return np.broadcast_to(np.where(z < 80, z, 0), (HEIGHT, WIDTH)).astype(np.float32)


@pytest.mark.parametrize('down', [5, 10, 20])
def test_a_road_is_flat_with_few_beams(down):
    true = road()
    mask = ray_mask(down) & (true > 0)
    completed = complete_depth(np.where(mask, true, 0))
    rows = np.flatnonzero(mask.any(1))
    assert completed[rows[0] : rows[-1] + 1].all()
    near = (true < 40) & (np.arange(HEIGHT) <= rows[-1])[:, None] & (true > 0)
    error = np.abs(completed - true)[near] / true[near]
    assert (error < 0.02).all()
    assert np.median(error) < 1e-5


def test_a_slanted_wall_is_flat():
    columns = np.arange(WIDTH)[None] - 100.0
    true = np.broadcast_to(FOCAL * 6 / (columns + 250), (HEIGHT, WIDTH)).astype(np.float32)
    completed = complete_depth(np.where(ray_mask(6), true, 0))
    inner = np.s_[106:-10, 5:-5]
    np.testing.assert_allclose(completed[inner], true[inner], rtol=0.005)


@pytest.mark.parametrize('down', [5, 10, 20])
def test_no_depth_lies_between_a_car_and_its_background(down):
    true = np.full((HEIGHT, WIDTH), 42.0, np.float32)
    true[160:260, 500:700] = 14.0
    completed = complete_depth(np.where(ray_mask(down), true, 0))
    known = completed > 0
    assert (np.isclose(completed, 14.0) | np.isclose(completed, 42.0))[known].all()
    wrong = np.argwhere(known & ~np.isclose(completed, true))
    distance_px = np.maximum([160, 500] - wrong, wrong - [259, 699]).max(1)
    assert np.abs(distance_px - 0.5).max() <= down / 2 + 1
    assert known[105:-20].mean() > 0.97


def test_a_car_on_a_road_keeps_its_edges():
    true = road().copy()
    true[150:232, 560:680] = FOCAL * 1.65 / (231.5 - MIDDLE)  # the wheels touch the road
    true[:150] = 0
    completed = complete_depth(np.where(ray_mask(5), true, 0))
    body = completed[153:228, 563:677]
    np.testing.assert_allclose(body[body > 0], true[200, 600], rtol=0.02)
    assert (body > 0).mean() > 0.99
    background = np.s_[190:365, 700:800]
    np.testing.assert_allclose(completed[background], true[background], rtol=0.01)


def test_depth_is_unknown_above_the_scan_and_far_from_rays():
    true = road()
    mask = ray_mask(5, top=230) & (np.arange(WIDTH) < 600)[None]
    completed = complete_depth(np.where(mask, true, 0))
    assert not completed[:228].any()
    assert not completed[:, 602:].any()
    assert completed[230:370, :600].all()


def test_a_hole_wider_than_one_lost_beam_is_not_filled():
    true = np.full((HEIGHT, WIDTH), 20.0, np.float32)
    mask = ray_mask(5)
    mask[151:174] = False  # 25 pixels from ray to ray
    mask[271:279] = False  # one beam
    completed = complete_depth(np.where(mask, true, 0))
    assert not completed[154:172].any()
    assert completed[175:370].all()


@pytest.mark.parametrize('points', [0, 1, 2, 5])
def test_few_rays_fill_little(points):
    sparse = np.zeros((HEIGHT, WIDTH), np.float32)
    pixels = np.random.default_rng(points).integers([0, 0], [HEIGHT, WIDTH], (points, 2))
    sparse[pixels[:, 0], pixels[:, 1]] = 10.0
    completed = complete_depth(sparse)
    assert (completed > 0).sum() <= points * 21 * 21
    assert set(np.unique(completed)) <= {0.0, 10.0}


sparse_maps = st.builds(
    lambda seed, density, height, width: np.where(
        np.random.default_rng(seed).random((height, width)) < density,
        np.random.default_rng(seed + 1).uniform(2, 80, (height, width)),
        0,
    ).astype(np.float32),
    seed=st.integers(0, 10_000),
    density=st.floats(0, 0.3),
    height=st.integers(1, 60),
    width=st.integers(1, 90),
)


@settings(max_examples=60, deadline=None)
@given(sparse_maps, st.integers(1, 6), st.integers(1, 12))
def test_any_map_is_filled_only_near_rays_and_within_their_depth_range(sparse, across, down):
    before = sparse.copy()
    config = CompletionConfig(spacing_px=(across, down))
    completed = complete_depth(sparse, config)
    np.testing.assert_array_equal(sparse, before)
    np.testing.assert_array_equal(completed, complete_depth(sparse, config))
    assert completed.shape == sparse.shape
    assert completed.dtype == np.float32
    assert np.isfinite(completed).all()
    assert (completed >= 0).all()
    rim = (across + 1) // 2
    wide = 2 * max(int(1.5 * across + down / 2), rim) + 1
    high = 2 * max(int(1.5 * down), rim) + 1
    near = maximum_filter(sparse, (high, wide)) > 0
    assert not completed[~near].any()
    if completed.any():
        rays = sparse[sparse > 0]
        known = completed[completed > 0]
        assert rays.min() * 0.9999 <= known.min()
        assert known.max() <= rays.max() * 1.0001


def test_rays_keep_their_depth_if_beams_are_denser_than_rays():
    """Half the distance to the next ray of a beam exceeds the distance to the next beam."""
    sparse = np.zeros((60, 200), np.float32)
    sparse[20, ::20], sparse[28, ::20], sparse[36, ::20] = 12.0, 10.0, 12.0
    completed = complete_depth(sparse, CompletionConfig(spacing_px=(20, 2)))
    np.testing.assert_allclose(completed[sparse > 0], sparse[sparse > 0], rtol=1e-6)


def test_rays_past_the_edge_of_a_car_are_occluded():
    sparse = np.where(ray_mask(5), 12.0, 0).astype(np.float32)
    occluded = np.zeros_like(sparse, bool)
    occluded[150:250:5, 400:800] = ray_mask(5)[150:250:5, 400:800]
    occluded[:, ::2] = False
    sparse[occluded] = 30.0
    across, _ = ray_spacing(sparse)
    np.testing.assert_array_equal(occluded_rays(sparse, across), occluded)
    np.testing.assert_allclose(complete_depth(sparse)[110:370], 12.0, rtol=1e-5)
    true = road()
    assert not occluded_rays(np.where(ray_mask(5), true, 0), across).any()


@pytest.mark.parametrize(('down', 'across'), [(5, 3), (6, 2), (10, 3), (20, 4), (33, 9)])
def test_ray_spacing_measures_the_grid(down, across):
    assert ray_spacing(ray_mask(down, across).astype(np.float32)) == (across, down)


def test_completion_config_rejects_invalid_values():
    for invalid in (
        {'spacing_px': (0, 5)},
        {'max_gap_spacings': 0.5},
        {'same_surface_tolerance': 1.0},
        {'occlusion_margin': 0.0},
    ):
        with pytest.raises(ValueError, match=r'spacing_px|max_gap_spacings'):
            CompletionConfig(**invalid)
