"""Vision-depth association: geometry, what it adds, gradients, any lens."""

import numpy as np
import pytest
import torch

from stl_core import geometry
from stl_core.models.depth_association import DepthAssociation, cells_of_depth
from stl_core.tensors.positions import backproject_pixels, cell_centers_px
from stl_core.tensors.precision import autocast_to

H, W, STRIDE = 64, 96, 4


def association(channels=8, **options):
    """Return an association that adds something, unlike a new one."""
    torch.manual_seed(0)
    module = DepthAssociation(channels, width=8, heads=2, **options)
    torch.nn.init.normal_(module.output.weight)
    return module


def projections(focal_px=(300.0, 420.0)):
    P = torch.zeros(len(focal_px), 3, 4)
    for row, focal in zip(P, focal_px, strict=True):
        row[0, 0] = row[1, 1] = focal
        row[0, 2], row[1, 2], row[2, 2] = W / 2 - 3, H / 2 + 2, 1
        row[:2, 3] = torch.tensor([0.06, -0.02]) * focal  # lens beside the origin, as KITTI's P2
    return P


def scene(rows=2, channels=8, dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(
        rows, channels, H // STRIDE, W // STRIDE, generator=generator, dtype=dtype
    )
    depth_m = torch.zeros(rows, H, W, dtype=dtype)
    depth_m[:, 20:40, 10:50], depth_m[:, 30:35, 60:63] = 12.0, 31.0
    return features, depth_m


def visual(rows=2, depth_m=15.0):
    """Return the depth that the picture suggests."""
    return torch.full((rows, H // STRIDE, W // STRIDE), depth_m)


def test_back_projection_equals_geometrys_for_any_projection():
    rng = np.random.default_rng(0)
    P = rng.normal(size=(3, 3, 4)) * 0.1 + [[700, 0, 600, 45], [0, 710, 170, -3], [0, 0, 1, 0.003]]
    pixels, depth_m = rng.uniform(0, 1000, (3, 5, 7, 2)), rng.uniform(1, 80, (3, 5, 7))
    points = backproject_pixels(*map(torch.from_numpy, (pixels, depth_m, P)))
    for row in range(3):
        expected = geometry.backproject_pixels(pixels[row], depth_m[row], P[row])
        np.testing.assert_allclose(points[row], expected, rtol=1e-9)
        again, _ = geometry.project_points(points[row].numpy(), P[row])
        np.testing.assert_allclose(again, pixels[row], rtol=1e-9)


def test_cell_centres_are_the_means_of_their_pixels():
    centers = cell_centers_px((2, 3), (8, 12), torch.device('cpu'), torch.float64)
    assert centers[1, 2].tolist() == [np.mean([8, 9, 10, 11]), np.mean([4, 5, 6, 7])]


def test_depth_of_a_cell_is_the_harmonic_mean_of_its_known_pixels():
    depth_m, known = torch.zeros(1, 4, 8), torch.zeros(1, 4, 8)
    depth_m[0, 0, :3], known[0, 0, :3] = torch.tensor([10.0, 40.0, 7.0]), torch.tensor([1, 0.5, 0])
    cells = cells_of_depth(depth_m, known, (1, 2))
    assert float(cells.depth_m()[0, 0, 0]) == pytest.approx(1.5 / (1 / 10 + 0.5 / 40))
    assert cells.known.tolist() == [[[1.0, 0.0]]]
    pooled = cells_of_depth(depth_m, known, (2, 4)).pool(2)
    for name, value in vars(pooled).items():
        torch.testing.assert_close(value, getattr(cells, name))


def test_a_coarser_depth_map_is_repeated():
    depth_m = torch.rand(2, 2, 3) + 1
    coarse = cells_of_depth(depth_m, torch.ones(2, 2, 3), (4, 6))
    torch.testing.assert_close(coarse.depth_m()[:, 1::2, ::2], depth_m)
    with pytest.raises(ValueError, match='depth map of 5x6: expected a multiple of, or a size'):
        cells_of_depth(torch.ones(1, 5, 6), torch.ones(1, 5, 6), (4, 6))


def test_a_new_association_adds_nothing_but_learns():
    features, depth_m = scene()
    module = DepthAssociation(8)
    added = module(features, depth_m, depth_m > 0, visual(), projections(), (H, W))
    assert added.shape == features.shape
    assert torch.count_nonzero(added) == 0
    added.sum().backward()
    assert module.output.weight.grad.abs().sum() > 0


def test_depth_is_compared_with_what_the_picture_suggests():
    """Given depth far from the visual one, such as another object's, counts alike however far."""
    features, depth_m = scene()
    module, P = association(), projections()
    near, same, far, farther = (
        module(features, depth_m, depth_m > 0, visual(depth_m=each), P, (H, W))
        for each in (15.0, 15.0, 200.0, 400.0)
    )
    assert torch.equal(near, same)
    assert (near - far).abs().max() > 1e-2
    torch.testing.assert_close(far, farther)


def test_a_unit_that_is_negative_everywhere_still_learns():
    features, depth_m = scene()
    module = association()
    with torch.no_grad():
        module.mix.weight.zero_()
        module.local.weight.zero_()
        module.local.weight[:, 0, 1, 1] = -1.0  # of a cell with known depth
    module(
        features, depth_m, depth_m > 0, visual(), projections(), (H, W)
    ).square().sum().backward()
    assert module.local.weight.grad.flatten(1).any(1).all()


def test_without_known_depth_nothing_is_added():
    features, depth_m = scene()
    features.requires_grad_()
    depth_m[0] = 0  # the other image keeps its depth
    module = association()
    added = module(features, depth_m, depth_m > 0, visual(), projections(), (H, W))
    assert torch.count_nonzero(added[0]) == 0
    assert torch.count_nonzero(added[1]) > 0
    added.square().sum().backward()
    gradients = [features.grad, *(p.grad for p in module.parameters())]
    assert all(torch.isfinite(each).all() for each in gradients)
    assert torch.count_nonzero(features.grad[1]) > 0


def test_values_at_unknown_pixels_mean_nothing():
    features, depth_m = scene()
    known, module = depth_m > 0, association()
    filled = torch.where(known, depth_m, torch.rand_like(depth_m) * 50)
    expected = module(features, depth_m, known, visual(), projections(), (H, W))
    assert torch.equal(module(features, filled, known, visual(), projections(), (H, W)), expected)


def test_the_same_picture_through_a_longer_lens_gives_the_same_values():
    """k times the focal length shows the same picture of things at k times the depth."""
    features, depth_m = scene()
    module, P = association(), projections()
    expected = module(features, depth_m, depth_m > 0, visual(), P, (H, W))
    longer = P.clone()
    longer[:, [0, 1], [0, 1]] *= 1.7
    longer[:, :2, 3] *= 1.7
    zoomed = module(features, 1.7 * depth_m, depth_m > 0, 1.7 * visual(), longer, (H, W))
    torch.testing.assert_close(zoomed, expected, rtol=1e-4, atol=1e-4)
    other_scene = module(features, 1.7 * depth_m, depth_m > 0, 1.7 * visual(), P, (H, W))
    assert not torch.allclose(other_scene, expected, atol=1e-2)


def test_without_virtual_focal_length_depth_is_in_true_metres():
    features, depth_m = scene()
    one, same = association(virtual_focal_px=0.0), association(virtual_focal_px=300.0)
    added = one(features, depth_m, depth_m > 0, visual(), projections(), (H, W))
    at_300 = same(features, depth_m, depth_m > 0, visual(), projections(), (H, W))
    torch.testing.assert_close(added[0], at_300[0])
    assert not torch.allclose(added[1], at_300[1], atol=1e-2)


def test_images_of_a_batch_do_not_mix():
    features, depth_m = scene()
    module, P = association(), projections()
    together = module(features, depth_m, depth_m > 0, visual(), P, (H, W))
    for row in range(2):
        part = slice(row, row + 1)
        alone = module(
            features[part], depth_m[part], depth_m[part] > 0, visual(1), P[part], (H, W)
        )
        torch.testing.assert_close(alone, together[part])


def test_depth_elsewhere_reaches_a_cell_by_attention():
    features, depth_m = scene()
    module = association()
    moved = depth_m.clone()
    moved[:, 30:35, 60:63] = 50.0
    change = [
        module(features, each, each > 0, visual(), projections(), (H, W))
        for each in (depth_m, moved)
    ]
    assert (change[0] - change[1])[:, :, 6, 4].abs().max() > 1e-6


def test_gradients_equal_finite_differences():
    """In float64, with soft `known`, with respect to the map, the depth and `known`."""
    torch.manual_seed(3)
    module = association(channels=2).double()
    features = torch.randn(1, 2, 8, 8, dtype=torch.float64, requires_grad=True)
    depth_m = (5 + 30 * torch.rand(1, 8, 8, dtype=torch.float64)).requires_grad_()
    known = torch.rand(1, 8, 8, dtype=torch.float64)
    known[:, :, :4] = 0.05 * known[:, :, :4] + 0.01
    known.requires_grad_()
    visual_m = (5 + 30 * torch.rand(1, 8, 8, dtype=torch.float64)).requires_grad_()
    P = projections((300.0,)).double()
    assert torch.autograd.gradcheck(
        lambda *maps: module(*maps, P, (32, 32)), (features, depth_m, known, visual_m), atol=1e-6
    )


def test_half_precision_keeps_type_and_value():
    features, depth_m = scene()
    module, P = association(), projections()
    expected = module(features, depth_m, depth_m > 0, visual(), P, (H, W))
    with autocast_to('bf16', features.device):
        added = module(features.bfloat16(), depth_m, depth_m > 0, visual(), P, (H, W))
    assert added.dtype == torch.bfloat16
    error = (added.float() - expected).abs().mean() / expected.abs().mean()
    assert float(error.detach()) < 0.03


def test_width_must_fit_the_heads():
    with pytest.raises(ValueError, match=r'width 10: expected a multiple of heads \(4\)'):
        DepthAssociation(8, width=10)


def test_attention_weights_are_those_by_which_forward_averages():
    torch.manual_seed(0)
    module, captured = DepthAssociation(8, width=8, heads=1), {}
    for name in ('value', 'mix'):
        getattr(module, name).register_forward_hook(
            lambda _, inputs, output, name=name: captured.update({name: (inputs[0], output)})
        )
    features, depth_m = scene()
    arguments = (features, depth_m, depth_m > 0, visual(), projections(), (H, W))
    module(*arguments)
    values, attended = captured['value'][1], captured['mix'][0]
    weights = module.attention_weights(*arguments)
    assert weights.shape == (2, 4, 6, 4, 6)
    averaged = weights.flatten(3).flatten(1, 2) @ values
    torch.testing.assert_close(averaged, attended)
    known = (
        cells_of_depth(depth_m, depth_m > 0, (4, 6)).known[:, None, None].expand_as(weights) > 0
    )
    assert (weights[known] > 0).all()
    assert (weights[~known] == 0).all()
    assert (weights.sum((3, 4)) < 1).all()
    # without depth, all attention is paid to the key that stands for none
    absent = module.attention_weights(features, depth_m * 0, depth_m < 0, *arguments[3:])
    assert torch.count_nonzero(absent) == 0
