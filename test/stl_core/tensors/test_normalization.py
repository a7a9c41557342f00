"""What networks are shown: colours, or depth as one lens would have it."""

import pytest
import torch

from stl_core.preprocessing import DepthSpec, InputSpec
from stl_core.tensors import normalization


def shown(depth_m, focal_px, **numbers):
    P = torch.eye(3, 4)[None].clone()
    P[:, 0, 0] = P[:, 1, 1] = focal_px
    depth = DepthSpec(mean_m=10.0, std_m=4.0, **numbers)
    return normalization.normalise_input(torch.tensor([[depth_m]]), P, InputSpec(depth=depth))[
        0, :, 0
    ]


def test_depth_is_normalised_and_the_unknown_is_told():
    level, known = shown([10.0, 18.0, 0.0], 720.0)
    assert level.tolist() == [0.0, 2.0, 0.0]
    assert known.tolist() == [1.0, 1.0, 0.0]


def test_through_a_longer_lens_the_same_size_is_the_same_depth():
    """Zoomed twice, a picture shows at 40 m what it shows at 20 m."""
    assert torch.equal(shown([40.0, 0.0], 1440.0), shown([20.0, 0.0], 720.0))
    assert torch.equal(
        shown([20.0, 0.0], 360.0, virtual_focal_px=360.0), shown([20.0, 0.0], 720.0)
    )


def test_true_metres_are_shown_where_that_is_asked():
    told = shown([40.0], 1440.0, virtual_focal_px=0.0)
    assert torch.equal(told, shown([40.0], 720.0))
    with pytest.raises(ValueError, match='virtual_focal_px: expected 0 or more, got -1'):
        DepthSpec(virtual_focal_px=-1)
