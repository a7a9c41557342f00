"""Normalisation of network inputs: depth, its mask, and the virtual focal length."""

import pytest
import torch

from stl_core.preprocessing import DepthSpec, InputSpec
from stl_core.tensors import normalization


def normalised_depth(depth_m, focal_px, **numbers):
    P = torch.eye(3, 4)[None].clone()
    P[:, 0, 0] = P[:, 1, 1] = focal_px
    depth = DepthSpec(mean_m=10.0, std_m=4.0, **numbers)
    return normalization.normalise_input(torch.tensor([[depth_m]]), P, InputSpec(depth=depth))[
        0, :, 0
    ]


def test_depth_is_normalised_and_unknown_depth_masked():
    level, known = normalised_depth([10.0, 18.0, 0.0], 720.0)
    assert level.tolist() == [0.0, 2.0, 0.0]
    assert known.tolist() == [1.0, 1.0, 0.0]


def test_equal_size_in_pixels_gives_equal_depth_at_any_focal_length():
    """At twice the focal length, an object at 40 m looks like one at 20 m."""
    assert torch.equal(normalised_depth([40.0, 0.0], 1440.0), normalised_depth([20.0, 0.0], 720.0))
    assert torch.equal(
        normalised_depth([20.0, 0.0], 360.0, virtual_focal_px=360.0),
        normalised_depth([20.0, 0.0], 720.0),
    )


def test_virtual_focal_length_zero_keeps_true_metres():
    unscaled = normalised_depth([40.0], 1440.0, virtual_focal_px=0.0)
    assert torch.equal(unscaled, normalised_depth([40.0], 720.0))
    with pytest.raises(ValueError, match='virtual_focal_px: expected 0 or more, got -1'):
        DepthSpec(virtual_focal_px=-1)
