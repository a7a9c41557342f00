"""3D positions as tensors: centres of targets, and sinusoidal encodings of points."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from fake_views import make_targets

from stl_core.geometry import backproject_pixels
from stl_core.tensors.positions import WAVELENGTHS_M, lift_centers, sinusoidal_encoding


def test_centres_are_those_of_the_geometry_module():
    targets = make_targets('lift', (3, 2), 3, (96, 320), torch.float64)
    P = torch.tensor([[700.0, 0, 150, 40], [0, 710, 50, -3], [0, 0, 1, 0.01]]).double()
    centers = lift_centers(targets, P.expand(2, -1, -1))
    expected = backproject_pixels(targets.center_px.numpy(), targets.depth_m.numpy(), P.numpy())
    np.testing.assert_allclose(centers.numpy(), expected, rtol=1e-9)


def test_no_gradient_or_value_of_one_object_depends_on_another():
    targets = make_targets('lift', (2,), 2, (96, 320))
    P = torch.eye(3, 4)[None]
    centers = lift_centers(targets, P)
    moved = dataclasses.replace(targets, depth_m=targets.depth_m * torch.tensor([1.0, 3.0]))
    assert torch.equal(lift_centers(moved, P)[:, 0], centers[:, 0])


def test_every_encoding_has_mean_square_one():
    points = torch.randn(5, 7, 3, dtype=torch.float64) * 50
    for channels in (2, 12, 64):
        encoding = sinusoidal_encoding(points, channels)
        assert encoding.shape == (5, 7, channels)
        torch.testing.assert_close(encoding.square().mean(-1), torch.ones(5, 7).double())


def test_products_depend_on_the_difference_and_fall_with_distance():
    torch.manual_seed(0)
    here, shift = torch.randn(2, 20, 3, dtype=torch.float64) * 30
    one, other = (sinusoidal_encoding(each, 60) for each in (here, here + shift))
    steps = torch.logspace(*(math.log2(each) for each in WAVELENGTHS_M[::-1]), 10, base=2)
    waves = (2 * math.pi * shift[:, None].double() / steps.double()[:, None]).cos()
    torch.testing.assert_close((one * other).mean(-1), waves.mean((1, 2)), rtol=0, atol=1e-6)
    along = torch.tensor([[0.0, 0, z] for z in (0, 1, 4, 16, 64)]).double()
    encodings = sinusoidal_encoding(along, 60)
    product = (encodings @ encodings[0]) / 60
    assert (product.diff() < 0).all()
    assert float(product[0]) == pytest.approx(1)
