"""What MonoCon does beyond the contract: contexts, keypoints, its norm and its heatmaps."""

import dataclasses

import numpy as np
import pytest
import torch
from small_detectors import Answers
from torch.nn import functional as F

from stl_core.geometry import box_corners, project_objects, project_points
from stl_core.models import losses, monocon
from stl_core.models.centernet import heatmap, keypoints
from stl_core.models.centernet.attentive_norm import AttentiveNorm
from stl_core.tensors.batch import pad_targets
from stl_core.types import Objects3D

H, W = 96, 320
P = np.array([[310.0, 0, 158, 22.4], [0, 305.0, 47, 0.1], [0, 0, 1, 0.003]])


def cars(*places):
    """Targets of cars at (x, z, rotation_y) of one image, boxes around their corners."""
    center = np.array([[x, 0.8, z] for x, z, _ in places])
    size = np.tile([1.5, 1.6, 3.9], (len(places), 1))
    turned = np.array([rotation_y for *_, rotation_y in places])
    pixels, _ = project_points(box_corners(center, size, turned), P)
    box = np.concatenate([pixels.min(1), pixels.max(1)], 1)
    objects = Objects3D(
        class_id=np.zeros(len(places)),
        score=np.ones(len(places)),
        center_m=center,
        size_hwl_m=size,
        rotation_y=turned,
        box_px=np.clip(box, 0, [W - 1, H - 1] * 2),
        depth_sigma_m=np.zeros(len(places)),
    )
    return objects, pad_targets([project_objects(objects, P)], 4)


def projection(rows=1):
    return torch.tensor(P, dtype=torch.float32).repeat(rows, 1, 1)


@pytest.fixture(scope='module')
def model():
    torch.manual_seed(0)
    config = monocon.MonoConConfig(backbone='mobilenetv4_conv_small', neck='light', head_width=16)
    return monocon.MonoCon(config, in_channels=3, num_classes=3)


def test_corners_are_those_of_the_geometry():
    objects, targets = cars((-3, 9, 0.3), (2, 20, -2.8), (0.5, 35, 1.6))
    found, seen = keypoints.project_corners(targets, projection())
    known, _ = project_points(
        box_corners(objects.center_m, objects.size_hwl_m, objects.rotation_y), P
    )
    assert seen[0, :3].all()
    assert not seen[0, 3].any()
    # ours by theirs: from back to front, from top to bottom, round the end of the box
    order = [7, 3, 2, 6, 4, 0, 1, 5]
    np.testing.assert_allclose(found[0, :3], known[:, order], atol=2e-3)
    assert torch.isfinite(found).all()


def test_corners_behind_the_camera_are_not_seen_wherever_they_project_to():
    _, targets = cars((0.2, 1.5, np.pi / 2))
    found, seen = keypoints.project_corners(targets, projection())
    assert seen[0, 0].sum() == 4
    assert (found[~seen] == 0).all()


def test_contexts_are_not_computed_where_the_network_is_run(model):
    ran = []
    hooks = [
        module.register_forward_hook(lambda *_, name=name: ran.append(name))
        for name, module in model.heads.named_modules()
        if isinstance(module, torch.nn.Conv2d)
    ]
    out = model.eval()(torch.zeros(1, 3, H, W), projection())
    for hook in hooks:
        hook.remove()
    assert not monocon.CONTEXT_HEADS & out.heads.keys()
    assert not [name for name in ran if name.split('.')[-1] in monocon.CONTEXT_HEADS]
    assert not [name for name in ran if name.startswith(('keypoint_heatmap', 'keypoint_rest'))]
    assert 'keypoints.outputs.offset_3d' in ran  # one of the nine keypoints is the centre
    _, targets = cars((0, 12, 0.1))
    assert out.heads.keys() | monocon.CONTEXT_HEADS == (
        model(torch.zeros(1, 3, H, W), projection(), targets).heads.keys()
    )


def test_contexts_are_absent_from_an_exported_graph(model):
    answers = Answers(model).eval()
    exported = torch.export.export(answers, (torch.zeros(1, 3, H, W), projection()))
    inputs = [node for node in exported.graph.nodes if node.op == 'placeholder']
    used = [node.name for node in inputs if node.users and 'outputs_' in node.name]
    assert any('offset_3d' in name for name in used)
    assert not any(each in name for name in used for each in monocon.CONTEXT_HEADS)


def ideal_contexts(objects, h, w):
    """Contexts as a perfect network would answer for the first object, and nothing elsewhere."""
    known, _ = project_points(
        box_corners(objects.center_m, objects.size_hwl_m, objects.rotation_y), P
    )
    points = np.vstack(
        [known[0][[7, 3, 2, 6, 4, 0, 1, 5]], project_points(objects.center_m[0], P)[0]]
    )
    points = points / 4
    middle = (objects.box_px[0, :2] + objects.box_px[0, 2:]) / 8
    x, y = np.floor(middle).astype(int)
    offset, rest = np.zeros((16, h, w)), np.zeros((2, h, w))
    offset[:, y, x] = (points[:8] - [x, y]).ravel()
    heat = np.full((9, h, w), -20.0)
    for k, (u, v) in enumerate(np.floor(points).astype(int)):
        if 0 <= u < w and 0 <= v < h:
            rest[:, v, u] = points[k] - [u, v]
            heat[k, v, u] = 20.0
    return {
        'keypoint_offset': torch.tensor(offset)[None].float(),
        'keypoint_rest': torch.tensor(rest)[None].float(),
        'keypoint_heatmap': torch.tensor(heat)[None].float(),
    }


@pytest.mark.parametrize('place', [(0.5, 14, 0.4), (-7.4, 13, 1.2)], ids=['whole', 'cut'])
def test_perfect_contexts_cost_nothing(model, place):
    objects, targets = cars(place)
    out = model.eval()(torch.zeros(1, 3, H, W), projection(), targets)
    heads = {**out.heads, **ideal_contexts(objects, H // 4, W // 4)}
    named = model.losses(dataclasses.replace(out, heads=heads), targets)
    assert float(named['det/keypoint_offset']) < 1e-4
    assert float(named['det/keypoint_rest']) < 1e-4
    heads['keypoint_offset'] = heads['keypoint_offset'] + 0.5
    named = model.losses(dataclasses.replace(out, heads=heads), targets)
    assert float(named['det/keypoint_offset']) == pytest.approx(0.5, abs=1e-3)


def test_an_object_whose_centre_the_canvas_cuts_off_is_taught_all_the_same(model):
    objects, targets = cars((-9.6, 18, 1.3))
    assert targets.center_px[0, 0, 0] < 0 < objects.box_px[0, 2]
    out = model.eval()(torch.zeros(1, 3, H, W), projection(), targets)
    with torch.no_grad():
        assert float(model.losses(out, targets)['det/offset_3d']) > 0
    nothing = dataclasses.replace(targets, box_px=targets.box_px * torch.tensor([0, 1.0, 0, 1]))
    named = model.losses(out, nothing)
    assert all(float(v.detach()) == 0 for key, v in named.items() if not key.endswith('heatmap'))


def test_a_negative_size_is_pulled_up():
    """The public code divides by the predicted size, so that below 0 it pushes further down."""
    size = torch.tensor([[[1.5, 1.6, 3.9]]])
    predicted = torch.tensor([[[-0.2, -0.1, -0.3]]], requires_grad=True)
    losses.dim_aware_l1_loss(predicted, size, size, torch.ones(1, 1, dtype=torch.bool)).backward()
    assert (predicted.grad < 0).all()


def test_losses_say_what_they_lack(model):
    _, targets = cars((0, 12, 0.1))
    out = model.eval()(torch.zeros(1, 3, H, W), projection(), targets)
    with pytest.raises(ValueError, match='outputs without P'):
        model.losses(dataclasses.replace(out, P=None), targets)


def test_attentive_norm_against_its_formula():
    torch.manual_seed(0)
    norm = AttentiveNorm(6, parts=4).double().train()
    x = torch.randn(5, 6, 7, 9, dtype=torch.float64) * 2 + 1
    found = norm(x)
    mean, std = x.mean((2, 3)), (x.var((2, 3)) + 1e-3).sqrt()
    told = (mean / std) @ norm.attention.weight[:, :, 0, 0].T
    told = (told - told.mean(0)) / (told.var(0, unbiased=False) + 1e-5).sqrt()
    share = (told + 3).clamp(0, 6) / 6
    plain = F.batch_norm(x, None, None, training=True, eps=1e-3)
    scale, shift = (torch.einsum('bt,tc->bc', share, each) for each in (norm.weight, norm.bias))
    torch.testing.assert_close(found, scale[..., None, None] * plain + shift[..., None, None])
    torch.testing.assert_close(norm.norm.running_mean, 0.03 * x.mean((0, 2, 3)))


def test_attentive_norm_of_one_image_uses_what_it_has_learnt():
    torch.manual_seed(0)
    norm = AttentiveNorm(6).train()
    norm(torch.randn(8, 6, 5, 5))
    known = norm.attention_norm.running_var.clone()
    x = torch.randn(1, 6, 5, 5)
    found = norm(x)
    assert torch.equal(norm.attention_norm.running_var, known)
    norm.attention_norm.eval()
    torch.testing.assert_close(found, norm(x))


def test_boxes_moved_by_the_radius_overlap_as_much_as_asked():
    """Each corner moves by at most the radius, in x and y: in, out, or both the same way."""
    rng = np.random.default_rng(0)
    size = rng.uniform(2, 80, (200, 2))
    radius = heatmap.exact_radius(torch.tensor(size), 0.3).numpy()

    def least(r):
        moves = np.array([[1, 1], [1, -1], [-1, 1]])  # of the low corner, of the high one
        overlaps = []
        for low, high in moves:
            a, b = np.zeros_like(size) + (low * r)[:, None], size + (high * r)[:, None]
            shared = np.clip(np.minimum(b, size) - np.maximum(a, 0), 0, None).prod(1)
            overlaps.append(shared / (size.prod(1) + (b - a).prod(1) - shared))
        return np.min(overlaps, 0)

    np.testing.assert_allclose(least(radius), 0.3, atol=1e-5)
    assert (least(1.05 * radius) < 0.3).all()
