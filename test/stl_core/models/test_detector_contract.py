"""The contract that every detector in DETECTORS fulfils, and the losses and heatmaps."""

import dataclasses

import numpy as np
import pytest
import torch
from small_detectors import SMALL, H, W, batch, build, every_detector

from stl_core.models import DETECTORS, losses
from stl_core.models.centernet import heatmap
from stl_core.tensors.batch import NetworkInput, Targets
from stl_core.tensors.precision import autocast_to
from stl_core.tensors.reductions import SINGLE_PART
from stl_core.types import ImageObjects


@every_detector
def test_half_precision_does_not_round_depth(name):
    """At a logit of -3.3, bfloat16 resolves depth only in steps of 1.6 %."""
    model, (image, P, _) = build(name).eval(), batch()
    with torch.no_grad(), autocast_to('bf16', image.device):
        depth = model(NetworkInput(image, P)).heads.depth
    assert depth.dtype == torch.float32
    assert (depth != depth.bfloat16()).float().mean() > 0.9


@every_detector
def test_total_loss_decreases_in_training(name):
    model, (image, P, targets) = build(name), batch()
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    totals = []
    for _ in range(20):
        total = sum(
            model.losses(model(NetworkInput(image, P), targets), targets, SINGLE_PART).values()
        )
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        totals.append(float(total.detach()))
    assert totals[-1] < 0.7 * totals[0]


@every_detector
def test_a_batch_gives_the_same_detections_as_single_images(name):
    model, (image, P, _) = build(name).eval(), batch(3)
    with torch.no_grad():
        together = model.decode(model(NetworkInput(image, P)))
        for row in range(3):
            alone = model.decode(model(NetworkInput(image[row : row + 1], P[row : row + 1])))
            for field, value in alone.items():
                torch.testing.assert_close(value[0], together[field][row], atol=1e-4, rtol=1e-4)


@every_detector
def test_twice_the_focal_length_doubles_depth_and_sigma(name):
    model, (image, P, _) = build(name).eval(), batch()
    longer = P.clone()
    longer[:, [0, 1], [0, 1]] *= 2
    with torch.no_grad():
        near, far = (
            model.decode(model(NetworkInput(image, P))),
            model.decode(model(NetworkInput(image, longer))),
        )
    for field, value in far.items():
        if field == 'depth_m':
            torch.testing.assert_close(value, 2 * near[field], rtol=1e-3, atol=1e-3)
        elif field == 'depth_log_sigma':
            torch.testing.assert_close(value.exp(), 2 * near[field].exp(), rtol=1e-3, atol=1e-3)
        elif field != 'score':  # the score falls with sigma
            torch.testing.assert_close(value, near[field])


def test_monodle_without_virtual_focal_length_ignores_projections():
    model, (image, P, _) = build('monodle', virtual_focal_px=0.0).eval(), batch()
    with torch.no_grad():
        one, other = model(NetworkInput(image, P)), model(NetworkInput(image, 3 * P))
    torch.testing.assert_close(one.heads.as_dict(), other.heads.as_dict(), rtol=0, atol=0)


@every_detector
@pytest.mark.parametrize('count', [0, 1])
def test_few_or_no_objects_give_finite_losses_and_gradients(name, count):
    model, (image, P, targets) = build(name), batch(2, count)
    loss_values = model.losses(model(NetworkInput(image, P), targets), targets, SINGLE_PART)
    assert all(value.dim() == 0 and torch.isfinite(value) for value in loss_values.values())
    sum(loss_values.values()).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@every_detector
def test_losses_ignore_objects_outside_the_canvas(name):
    model, (image, P, targets) = build(name), batch(1)
    moved = {'center_px': targets.center_px - 1000, 'box_px': targets.box_px - 1000}
    outside_targets = dataclasses.replace(targets, **moved)
    no_targets = dataclasses.replace(targets, valid=torch.zeros_like(targets.valid))
    out = model(NetworkInput(image, P), outside_targets)
    loss_values = model.losses(out, outside_targets, SINGLE_PART)
    torch.testing.assert_close(
        loss_values, model.losses(out, no_targets, SINGLE_PART), rtol=0, atol=0
    )
    # only the losses that learn empty regions remain
    background_losses = {'det/heatmap', 'det/keypoint_heatmap', 'det/class', 'det/depth_map'}
    assert all(
        float(v.detach()) == 0 for key, v in loss_values.items() if key not in background_losses
    )


@every_detector
def test_decode_returns_the_fields_of_image_objects(name):
    model, (image, P, _) = build(name).eval(), batch()
    with torch.no_grad():
        decoded = model.decode(model(NetworkInput(image, P)))
    required = ImageObjects.FIELD_SHAPES.keys() - ImageObjects.UNKNOWN.keys()
    assert required <= decoded.keys() <= ImageObjects.FIELD_SHAPES.keys()
    for field, values in decoded.items():
        assert values.shape[2:] == ImageObjects.FIELD_SHAPES[field]
    assert ((decoded['score'] >= 0) & (decoded['score'] <= 1)).all()


@every_detector
def test_losses_and_decode_do_not_modify_outputs(name):
    model, (image, P, targets) = build(name).eval(), batch()
    out = model(NetworkInput(image, P), targets)
    before = {key: value.clone() for key, value in out.heads.as_dict().items()}
    model.losses(out, targets, SINGLE_PART)
    model.decode(out)
    for key, value in out.heads.as_dict().items():
        assert torch.equal(value, before[key])


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'neck': 'x'}, 'known: dlaup, light'),
        ({'backbone': 'mobilenetv4_conv'}, 'not a timm model; similar names'),
        ({'mean_size_hwl_m': ((1.0, 1.0, 1.0),)}, '1 rows for 3 classes'),
    ],
)
def test_invalid_options_raise_value_error(options, message):
    with pytest.raises(ValueError, match=message):
        build('monodle', **options)


def test_dla34_has_the_size_of_the_paper():
    """
    MonoDLE with DLA-34, DLA-up and heads of 256 channels has 20.31 M parameters.

    In the public code 41,728 of them are two projections (64 to 128, 128 to 256, with norms) that
    its forward never uses.
    """
    entry = DETECTORS['monodle']
    model = entry.detector(entry.config(), 3, 3)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(
        20.310 - 0.0417, abs=0.001
    )
    with torch.no_grad():
        out = model.eval()(NetworkInput(torch.zeros(1, 3, 64, 64), torch.zeros(1, 3, 4)))
    assert [tuple(f.shape[1:]) for f in out.features] == [
        (64, 16, 16), (128, 8, 8), (256, 4, 4), (512, 2, 2),
    ]  # fmt: skip
    assert out.heads.heading.shape == (1, 24, 16, 16)


def test_the_finest_feature_is_the_input_of_the_heads():
    model = build('monodle').eval()
    with torch.no_grad():
        out = model(NetworkInput(torch.rand(1, 3, H, W), torch.ones(1, 3, 4)))
        assert torch.equal(model.heads['heatmap'](out.features[0]), out.heads.heatmap)


@pytest.mark.parametrize('name', list(SMALL))
def test_features_have_the_declared_strides_and_channels(name):
    model = build(name).eval()
    with torch.no_grad():
        out = model(NetworkInput(torch.rand(1, 3, H, W), torch.ones(1, 3, 4)))
    shapes = [tuple(each.shape[1:]) for each in out.features]
    assert shapes == [
        (each.channels, H // each.plane.stride, W // each.plane.stride) for each in model.levels
    ]


def targets_at(points, classes, size=8.0):
    points = torch.tensor([points], dtype=torch.float32)
    count = points.shape[1]
    return Targets(
        class_id=torch.tensor([classes]),
        center_px=points,
        depth_m=torch.ones(1, count),
        size_hwl_m=torch.ones(1, count, 3),
        alpha=torch.zeros(1, count),
        box_px=torch.cat([points - size, points + size], -1),
        valid=torch.ones(1, count, dtype=torch.bool),
    )


def test_find_peaks_returns_the_objects_of_draw_heatmap():
    heat = heatmap.draw_heatmap(
        targets_at([[9.0, 5.0], [90.0, 61.0], [90.0, 61.0]], [0, 2, 1]), 3, 4, 20, 40
    )
    assert heat.shape == (1, 3, 20, 40)
    assert heat.max() == 1
    score, class_id, cell = heatmap.find_peaks(heat, 3)
    assert score.tolist() == [[1, 1, 1]]
    peaks = set(zip(class_id[0].tolist(), cell[0].tolist(), strict=True))
    assert peaks == {(0, 1 * 40 + 2), (2, 15 * 40 + 22), (1, 15 * 40 + 22)}


def test_draw_heatmap_skips_invalid_objects_and_those_off_the_grid():
    targets = targets_at([[-1.0, 5.0], [9.0, 81.0], [9.0, 9.0]], [0, 0, 0])
    targets = dataclasses.replace(targets, valid=torch.tensor([[True, True, False]]))
    assert heatmap.draw_heatmap(targets, 1, 4, 20, 40).sum() == 0


def test_a_small_grid_returns_fewer_peaks_than_requested():
    score, _, _ = heatmap.find_peaks(torch.rand(1, 1, 2, 2), 50)
    assert score.shape == (1, 4)


@pytest.mark.parametrize('bins', [1, 4, 12])
def test_decode_angle_undoes_encode_angle(bins):
    angle = torch.linspace(-7, 7, 999)
    bin_index, residual = heatmap.encode_angle(angle, bins)
    assert ((bin_index >= 0) & (bin_index < bins)).all()
    assert (residual.abs() <= torch.pi / bins + 1e-5).all()
    decoded = heatmap.decode_angle(bin_index, residual, bins)
    torch.testing.assert_close(torch.exp(1j * decoded), torch.exp(1j * angle), atol=1e-5, rtol=0)


def test_heatmap_focal_loss_equals_the_formula():
    torch.manual_seed(0)
    logits, target = torch.randn(2, 3, 5, 7, dtype=torch.float64), torch.rand(2, 3, 5, 7).double()
    target[0, 1, 2, 3] = target[1, 0, 0, 0] = 1.0
    p = logits.sigmoid()
    terms = torch.where(
        target == 1,
        (1 - p) ** 2 * torch.log(p),
        (1 - target) ** 4 * p**2 * torch.log(1 - p),
    )
    expected = -terms.sum() / 2
    torch.testing.assert_close(losses.heatmap_focal_loss(logits, target, SINGLE_PART), expected)
    confident = losses.heatmap_focal_loss(
        torch.full((1, 1, 2, 2), -200.0), torch.ones(1, 1, 2, 2), SINGLE_PART
    )
    assert torch.isfinite(confident)


def test_depth_loss_is_minimal_at_the_true_sigma():
    """For a fixed error e, sqrt(2) e exp(-s) + s has its minimum at s = log(sqrt(2) e)."""
    error, valid = 3.0, torch.ones(1, 1, dtype=torch.bool)
    s = torch.tensor([[np.log(np.sqrt(2) * error)]], requires_grad=True)
    loss = losses.laplacian_nll_loss(
        torch.tensor([[13.0]]), s, torch.tensor([[10.0]]), valid, SINGLE_PART
    )
    loss.backward()
    assert abs(float(s.grad)) < 1e-6
    assert float(loss) == pytest.approx(1 + np.log(np.sqrt(2) * error), abs=1e-6)


def test_dimension_aware_loss_weights_relative_error():
    valid, size = torch.ones(1, 2, dtype=torch.bool), torch.tensor([[[1.0] * 3, [4.0] * 3]])
    predicted = torch.full((1, 2, 3), 0.1, requires_grad=True)
    loss = losses.dim_aware_l1_loss(predicted, torch.zeros(1, 2, 3), size, valid, SINGLE_PART)
    assert float(loss) == pytest.approx(0.1)  # the magnitude of the L1 loss
    loss.backward()
    # gradients are inversely proportional to the size
    assert float(predicted.grad[0, 0, 0] / predicted.grad[0, 1, 0]) == pytest.approx(4.0)


@pytest.mark.parametrize(
    'loss',
    [
        lambda x, v: losses.l1_loss(x, torch.zeros_like(x), v, SINGLE_PART),
        lambda x, v: losses.laplacian_nll_loss(
            x[..., 0], x[..., 1], x[..., 0] * 0, v, SINGLE_PART
        ),
        lambda x, v: losses.dim_aware_l1_loss(
            x, torch.zeros_like(x), torch.zeros_like(x), v, SINGLE_PART
        ),
        lambda x, v: losses.multibin_loss(x, x, v.long(), v.float(), v, SINGLE_PART),
        lambda x, v: losses.multibin_bce_loss(x, x, v.long(), v.float(), v, SINGLE_PART),
    ],
)
def test_losses_without_objects_are_zero_with_a_gradient(loss):
    x = torch.full((2, 5, 3), 1.5, requires_grad=True)
    value = loss(x, torch.zeros(2, 5, dtype=torch.bool))
    assert float(value) == 0
    value.backward()
    assert (x.grad == 0).all()
