"""MonoCon beyond the detector contract: contexts, keypoints, attentive norm, heatmap radius."""

import dataclasses

import numpy as np
import pytest
import torch
from small_detectors import DecodingDetector
from torch.nn import functional as F

from stl_core.geometry import box_corners, project_objects, project_points
from stl_core.models import losses, monocon
from stl_core.models.centernet import heatmap, keypoints
from stl_core.models.centernet.attentive_norm import AttentiveNorm
from stl_core.tensors.batch import NetworkInput, pad_targets
from stl_core.tensors.reductions import SINGLE_PART
from stl_core.types import Objects3D

H, W = 96, 320
P = np.array([[310.0, 0, 158, 22.4], [0, 305.0, 47, 0.1], [0, 0, 1, 0.003]])


def cars(*poses):
    """Return cars at poses (x, z, rotation_y), one image, as objects and as targets."""
    center = np.array([[x, 0.8, z] for x, z, _ in poses])
    size = np.tile([1.5, 1.6, 3.9], (len(poses), 1))
    rotation_y = np.array([rotation_y for *_, rotation_y in poses])
    pixels, _ = project_points(box_corners(center, size, rotation_y), P)
    box = np.concatenate([pixels.min(1), pixels.max(1)], 1)
    objects = Objects3D(
        class_id=np.zeros(len(poses)),
        score=np.ones(len(poses)),
        center_m=center,
        size_hwl_m=size,
        rotation_y=rotation_y,
        box_px=np.clip(box, 0, [W - 1, H - 1] * 2),
        depth_sigma_m=np.zeros(len(poses)),
    )
    return objects, pad_targets([project_objects(objects, P)], 4)


def projection(rows=1):
    return torch.tensor(P, dtype=torch.float32).repeat(rows, 1, 1)


@pytest.fixture(scope='module')
def model():
    torch.manual_seed(0)
    config = monocon.MonoConConfig(backbone='mobilenetv4_conv_small', neck='light', head_width=16)
    return monocon.MonoCon(config, in_channels=3, num_classes=3)


def test_projected_corners_equal_those_of_geometry():
    objects, targets = cars((-3, 9, 0.3), (2, 20, -2.8), (0.5, 35, 1.6))
    corners_px, in_front = keypoints.project_corners(targets, projection())
    expected, _ = project_points(
        box_corners(objects.center_m, objects.size_hwl_m, objects.rotation_y), P
    )
    assert in_front[0, :3].all()
    assert not in_front[0, 3].any()
    # MonoCon's corners in geometry's order: back to front, top to bottom, around the end face
    order = [7, 3, 2, 6, 4, 0, 1, 5]
    np.testing.assert_allclose(corners_px[0, :3], expected[:, order], atol=2e-3)
    assert torch.isfinite(corners_px).all()


def test_corners_behind_the_camera_are_not_in_front_and_have_zero_pixels():
    _, targets = cars((0.2, 1.5, np.pi / 2))
    corners_px, in_front = keypoints.project_corners(targets, projection())
    assert in_front[0, 0].sum() == 4
    assert (corners_px[~in_front] == 0).all()


def test_contexts_are_not_computed_at_inference(model):
    called = []
    hooks = [
        module.register_forward_hook(lambda *_, name=name: called.append(name))
        for name, module in model.heads.named_modules()
        if isinstance(module, torch.nn.Conv2d)
    ]
    out = model.eval()(NetworkInput(torch.zeros(1, 3, H, W), projection()))
    for hook in hooks:
        hook.remove()
    assert not monocon.CONTEXT_HEADS & out.heads.as_dict().keys()
    assert not [name for name in called if name.split('.')[-1] in monocon.CONTEXT_HEADS]
    assert not [name for name in called if name.startswith(('keypoint_heatmap', 'keypoint_rest'))]
    assert 'keypoints.outputs.offset_3d' in called  # one of the nine keypoints is the centre
    _, targets = cars((0, 12, 0.1))
    trained = model(NetworkInput(torch.zeros(1, 3, H, W), projection()), targets).heads
    assert out.heads.as_dict().keys() | monocon.CONTEXT_HEADS == trained.as_dict().keys()


def test_contexts_are_absent_from_an_exported_graph(model):
    network = DecodingDetector(model).eval()
    exported = torch.export.export(network, (torch.zeros(1, 3, H, W), projection()))
    inputs = [node for node in exported.graph.nodes if node.op == 'placeholder']
    used = [node.name for node in inputs if node.users and 'outputs_' in node.name]
    assert any('offset_3d' in name for name in used)
    assert not any(each in name for name in used for each in monocon.CONTEXT_HEADS)


def perfect_contexts(objects, h, w):
    """Return the contexts of a perfect network for the first object; background elsewhere."""
    corners_px, _ = project_points(
        box_corners(objects.center_m, objects.size_hwl_m, objects.rotation_y), P
    )
    points = np.vstack(
        [corners_px[0][[7, 3, 2, 6, 4, 0, 1, 5]], project_points(objects.center_m[0], P)[0]]
    )
    points = points / 4
    box_center = (objects.box_px[0, :2] + objects.box_px[0, 2:]) / 8
    x, y = np.floor(box_center).astype(int)
    offset, residual = np.zeros((16, h, w)), np.zeros((2, h, w))
    offset[:, y, x] = (points[:8] - [x, y]).ravel()
    logits = np.full((9, h, w), -20.0)
    for k, (u, v) in enumerate(np.floor(points).astype(int)):
        if 0 <= u < w and 0 <= v < h:
            residual[:, v, u] = points[k] - [u, v]
            logits[k, v, u] = 20.0
    return {
        'keypoint_offset': torch.tensor(offset)[None].float(),
        'keypoint_rest': torch.tensor(residual)[None].float(),
        'keypoint_heatmap': torch.tensor(logits)[None].float(),
    }


@pytest.mark.parametrize('pose', [(0.5, 14, 0.4), (-7.4, 13, 1.2)], ids=['whole', 'cut'])
def test_perfect_contexts_have_zero_loss(model, pose):
    objects, targets = cars(pose)
    out = model.eval()(NetworkInput(torch.zeros(1, 3, H, W), projection()), targets)
    heads = dataclasses.replace(out.heads, **perfect_contexts(objects, H // 4, W // 4))
    loss_values = model.losses(dataclasses.replace(out, heads=heads), targets, SINGLE_PART)
    assert float(loss_values['det/keypoint_offset']) < 1e-4
    assert float(loss_values['det/keypoint_rest']) < 1e-4
    heads = dataclasses.replace(heads, keypoint_offset=heads.keypoint_offset + 0.5)
    loss_values = model.losses(dataclasses.replace(out, heads=heads), targets, SINGLE_PART)
    assert float(loss_values['det/keypoint_offset']) == pytest.approx(0.5, abs=1e-3)


def test_losses_include_objects_whose_centre_is_off_the_canvas(model):
    objects, targets = cars((-9.6, 18, 1.3))
    assert targets.center_px[0, 0, 0] < 0 < objects.box_px[0, 2]
    out = model.eval()(NetworkInput(torch.zeros(1, 3, H, W), projection()), targets)
    with torch.no_grad():
        assert float(model.losses(out, targets, SINGLE_PART)['det/offset_3d']) > 0
    off_canvas = dataclasses.replace(targets, box_px=targets.box_px * torch.tensor([0, 1.0, 0, 1]))
    loss_values = model.losses(out, off_canvas, SINGLE_PART)
    assert all(
        float(v.detach()) == 0 for key, v in loss_values.items() if not key.endswith('heatmap')
    )


def test_the_gradient_raises_a_negative_size():
    """The public code divides by the predicted size; below 0 its gradient lowers it further."""
    size = torch.tensor([[[1.5, 1.6, 3.9]]])
    predicted = torch.tensor([[[-0.2, -0.1, -0.3]]], requires_grad=True)
    losses.dim_aware_l1_loss(
        predicted, size, size, torch.ones(1, 1, dtype=torch.bool), SINGLE_PART
    ).backward()
    assert (predicted.grad < 0).all()


def test_losses_without_projections_raise_value_error(model):
    _, targets = cars((0, 12, 0.1))
    out = model.eval()(NetworkInput(torch.zeros(1, 3, H, W), projection()), targets)
    with pytest.raises(ValueError, match='outputs without P'):
        model.losses(dataclasses.replace(out, P=None), targets, SINGLE_PART)


def test_losses_without_contexts_raise_value_error(model):
    _, targets = cars((0, 12, 0.1))
    out = model.eval()(NetworkInput(torch.zeros(1, 3, H, W), projection()))
    with pytest.raises(ValueError, match='outputs without contexts'):
        model.losses(out, targets, SINGLE_PART)


def test_attentive_norm_equals_its_formula():
    torch.manual_seed(0)
    norm = AttentiveNorm(6, parts=4).double().train()
    x = torch.randn(5, 6, 7, 9, dtype=torch.float64) * 2 + 1
    output = norm(x)
    mean, std = x.mean((2, 3)), (x.var((2, 3)) + 1e-3).sqrt()
    logits = (mean / std) @ norm.attention.weight[:, :, 0, 0].T
    logits = (logits - logits.mean(0)) / (logits.var(0, unbiased=False) + 1e-5).sqrt()
    attention = (logits + 3).clamp(0, 6) / 6
    normalised = F.batch_norm(x, None, None, training=True, eps=1e-3)
    scale, shift = (
        torch.einsum('bt,tc->bc', attention, each) for each in (norm.weight, norm.bias)
    )
    torch.testing.assert_close(
        output, scale[..., None, None] * normalised + shift[..., None, None]
    )
    torch.testing.assert_close(norm.norm.running_mean, 0.03 * x.mean((0, 2, 3)))


def test_attentive_norm_of_one_image_uses_running_statistics():
    torch.manual_seed(0)
    norm = AttentiveNorm(6).train()
    norm(torch.randn(8, 6, 5, 5))
    running_var = norm.attention_norm.running_var.clone()
    x = torch.randn(1, 6, 5, 5)
    output = norm(x)
    assert torch.equal(norm.attention_norm.running_var, running_var)
    norm.attention_norm.eval()
    torch.testing.assert_close(output, norm(x))


def test_boxes_shifted_by_the_exact_radius_have_the_requested_overlap():
    """Each corner moves by at most the radius in x and y: inwards, outwards, or both alike."""
    rng = np.random.default_rng(0)
    size = rng.uniform(2, 80, (200, 2))
    radius = heatmap.exact_radius(torch.tensor(size), 0.3).numpy()

    def smallest_overlap(r):
        moves = np.array([[1, 1], [1, -1], [-1, 1]])  # of the low corner and the high corner
        overlaps = []
        for low, high in moves:
            a, b = np.zeros_like(size) + (low * r)[:, None], size + (high * r)[:, None]
            intersection = np.clip(np.minimum(b, size) - np.maximum(a, 0), 0, None).prod(1)
            overlaps.append(intersection / (size.prod(1) + (b - a).prod(1) - intersection))
        return np.min(overlaps, 0)

    np.testing.assert_allclose(smallest_overlap(radius), 0.3, atol=1e-5)
    assert (smallest_overlap(1.05 * radius) < 0.3).all()
