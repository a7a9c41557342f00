"""Adding up features in cells of the ground, and given depth in place of the distribution."""

import numpy as np
import pytest
import torch

from stl_core.models.lift_splat.depth_net import insert_given_depth, nearest_in_cells
from stl_core.models.lift_splat.grid import DepthBins
from stl_core.models.lift_splat.pooling import mask_absent, pool_frustum, splat

BINS = DepthBins(1.0, 9.0, 1.0)


def test_the_splat_equals_the_loop_of_bevdepths_test():
    """
    The definition that BEVDepth tests its kernel by (its test_voxel_pooling.py, seed 0).

    Its indices are truncated toward zero, so that points in (-1, 0) count as 0.
    """
    torch.manual_seed(0)
    points = (torch.rand([2, 6, 10, 10, 10, 3]) * 160 - 80) / torch.tensor([1, 1, 100])
    features = (torch.rand([2, 6, 10, 10, 10, 80]) - 0.5).reshape(2, -1, 80)
    x, y, z = points.reshape(2, -1, 3).int().unbind(-1)
    expected = np.zeros((2, 128, 128, 80), np.float64)
    for sample in range(2):
        for i in range(x.shape[1]):
            column, row, level = int(x[sample, i]), int(y[sample, i]), int(z[sample, i])
            if 0 <= column < 128 and 0 <= row < 128 and level == 0:
                expected[sample, row, column] += features[sample, i].numpy()
    inside = (x >= 0) & (x < 128) & (y >= 0) & (y < 128) & (z >= 0) & (z < 1)
    index = torch.where(inside, y * 128 + x, 128 * 128).long()
    pooled = splat(features.reshape(12, -1, 80), index.reshape(12, -1), 6, (128, 128))
    assert pooled.shape == (2, 80, 128, 128)
    np.testing.assert_allclose(pooled.permute(0, 2, 3, 1), expected, atol=1e-5)


def random_lift(dtype=torch.float32, seed=0):
    torch.manual_seed(seed)
    probability = torch.rand(4, 3, 2, 5, dtype=dtype)
    context = torch.randn(4, 6, 2, 5, dtype=dtype)
    return probability, context, torch.randint(0, 13, (4, 3, 2, 5))


def test_a_cell_holds_the_probable_features_of_all_cameras_of_its_sample():
    probability, context, index = random_lift(torch.float64)
    pooled = pool_frustum(probability, context, index, 2, (3, 4))
    expected = np.zeros((2, 6, 13))
    for image, d, row, column in np.ndindex(4, 3, 2, 5):
        cell = int(index[image, d, row, column])
        value = probability[image, d, row, column] * context[image, :, row, column]
        expected[image // 2, :, cell] += value.numpy()
    np.testing.assert_allclose(pooled.flatten(2), expected[..., :12], atol=1e-12)


def test_gradients_of_the_lift_equal_finite_differences():
    probability, context, index = random_lift(torch.float64)
    probability.requires_grad_(True)
    context.requires_grad_(True)
    assert torch.autograd.gradcheck(
        lambda p, c: pool_frustum(p, c, index, 2, (3, 4)), (probability, context)
    )


def test_the_sum_is_the_same_bit_for_bit_every_time():
    first, second = (pool_frustum(*random_lift(), 2, (3, 4)) for _ in range(2))
    assert torch.equal(first, second)


def test_sums_are_float32_under_autocast():
    probability, context, index = random_lift()
    with torch.autocast('cpu', torch.bfloat16):
        pooled = pool_frustum(probability, context.bfloat16(), index, 2, (3, 4))
    assert pooled.dtype == torch.float32


def test_an_absent_camera_adds_nothing():
    probability, context, index = random_lift()
    present = torch.tensor([True, False, True, True])
    pooled = pool_frustum(probability, context, mask_absent(index, present, 12), 2, (3, 4))
    context[1] = 0
    torch.testing.assert_close(pooled, pool_frustum(probability, context, index, 2, (3, 4)))


def test_given_depth_becomes_a_one_hot_at_the_bin_that_holds_it():
    probability = torch.full((1, 8, 2, 2), 1 / 8, requires_grad=True)
    given_m = torch.zeros(1, 32, 32)
    given_m[0, 3, 4], given_m[0, 5, 5] = 7.2, 4.9  # the nearest of a cell counts
    given_m[0, 20, 20] = 30.0  # beyond the bins: the prediction stays
    given_m[0, 3, 30] = 1.0
    found = insert_given_depth(probability, given_m, BINS)
    assert found[0, :, 0, 0].tolist() == [0, 0, 0, 1, 0, 0, 0, 0]
    assert found[0, :, 0, 1].tolist() == [1, 0, 0, 0, 0, 0, 0, 0]
    for row, column in ((1, 0), (1, 1)):
        assert found[0, :, row, column].tolist() == [1 / 8] * 8
    assert abs(float(BINS.centers_m()[3]) - 4.9) <= 0.5
    found.square().sum().backward()
    assert (probability.grad[0, :, 0] == 0).all()
    assert (probability.grad[0, :, 1] != 0).all()


def test_cells_without_depth_have_none():
    assert nearest_in_cells(torch.zeros(2, 32, 48), (2, 3)).isinf().all()


@pytest.mark.parametrize(('depth_m', 'index'), [(1.0, 0), (1.999, 0), (8.99, 7), (4.5, 3)])
def test_a_depth_lies_in_one_bin(depth_m, index):
    found, inside = BINS.index(torch.tensor(depth_m))
    assert (int(found), bool(inside)) == (index, True)


@pytest.mark.parametrize('depth_m', [0.99, 9.0, torch.inf, torch.nan, 0.0])
def test_a_depth_outside_has_no_bin(depth_m):
    assert not BINS.index(torch.tensor(depth_m))[1]
