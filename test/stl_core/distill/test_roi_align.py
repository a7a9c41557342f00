"""RoIAlign by embedding bags, compared with torchvision's implementation."""

import pytest
import torch
from torchvision.ops import roi_align

from stl_core.distill.roi_align import (
    SAMPLING_RATIO,
    interpolation_taps,
    mean_of_boxes,
    pool_rois,
)

H, W = 96, 320
BOXES = torch.tensor(
    [
        [0, 0.0, 0.0, 320.0, 96.0],  # the whole canvas
        [1, 3.2, 5.1, 3.9, 5.3],  # less than a pixel
        [0, 100.0, 40.0, 180.5, 77.25],
        [1, 0.0, 90.0, 20.0, 96.0],  # a corner
        [1, 300.0, 0.0, 320.0, 3.0],
    ]
)


@pytest.mark.parametrize('stride', [4, 8, 16, 32])
@pytest.mark.parametrize('cells', [1, 7])
def test_pooling_equals_that_of_torchvision(stride, cells):
    torch.manual_seed(0)
    grid = torch.randn(2, 5, H // stride, W // stride).double().requires_grad_()
    twin = grid.detach().clone().requires_grad_()
    pooled = pool_rois(
        grid, BOXES.double() * BOXES.new_tensor([1.0, *[1 / stride] * 4]).double(), cells
    )
    expected = roi_align(twin, BOXES.double(), cells, 1 / stride, SAMPLING_RATIO, True)
    expected = expected.flatten(2).transpose(1, 2)
    assert torch.allclose(pooled, expected, atol=1e-9)
    weight = torch.randn_like(pooled)
    (pooled * weight).sum().backward()
    (expected * weight).sum().backward()
    assert torch.allclose(grid.grad, twin.grad, atol=1e-9)


def test_without_objects_the_result_has_no_rows():
    grid = torch.randn(2, 5, 12, 40, requires_grad=True)
    pooled = pool_rois(grid, BOXES[:0], 7)
    assert pooled.shape == (0, 49, 5)
    pooled.sum().backward()
    assert not grid.grad.any()


def test_weights_of_a_pooled_cell_add_up_to_one():
    low, high = torch.tensor([-0.5, 3.0, 9.0]), torch.tensor([11.5, 3.1, 11.5])
    index, weight = interpolation_taps(low, high, 7, 12)
    assert torch.allclose(weight.sum(-1), torch.ones(3, 7))
    assert ((index >= 0) & (index < 12)).all()


@pytest.mark.parametrize('stride', [4, 16])
def test_the_mean_of_a_box_is_that_of_its_pooled_cells(stride):
    torch.manual_seed(0)
    grid = torch.randn(2, 5, H // stride, W // stride).double().requires_grad_()
    twin = grid.detach().clone().requires_grad_()
    order = [0, 2, 2, 1, 3, 4]  # two images with three slots each
    box = BOXES[order, 1:].double().view(2, 3, 4) / stride
    means = mean_of_boxes(grid, box, 7)
    rois = BOXES[order].double()
    rois[:, 0] = torch.tensor([0, 0, 0, 1, 1, 1])
    expected = roi_align(twin, rois, 7, 1 / stride, SAMPLING_RATIO, True).mean((2, 3))
    torch.testing.assert_close(means.flatten(0, 1), expected, rtol=0, atol=1e-9)
    weight = torch.randn_like(expected)
    (means.flatten(0, 1) * weight).sum().backward()
    (expected * weight).sum().backward()
    torch.testing.assert_close(grid.grad, twin.grad, rtol=0, atol=1e-9)
