"""MonoDETR: parity with the public program, and properties that hold without it."""

import dataclasses

import golden
import monodetr_queries
import numpy as np
import pytest
import torch
from small_detectors import batch, build

from stl_core.data.sources import kitti
from stl_core.geometry import lift, project_objects
from stl_core.inference.converters import convert_state_dict
from stl_core.inference.model_file import build_detector
from stl_core.models import DETECTORS, backbone, monodetr
from stl_core.models.detr import box_coding, criterion, depth_predictor
from stl_core.models.detr.query_heads import MonoDETRHeads, QueryHeads
from stl_core.tensors.batch import NetworkInput, as_image_objects, pad_targets
from stl_core.tensors.detector import Outputs
from stl_core.tensors.reductions import SINGLE_PART


@pytest.fixture(scope='module')
def public():
    return golden.read('monodetr')


@pytest.fixture(scope='module')
def parity_run(public):
    """Return the detector with the public program's weights, its outputs and its spec."""
    filled = golden.weights(public['shapes'], public['tone'])
    state, spec = convert_state_dict(
        'monodetr', {k: torch.from_numpy(v) for k, v in filled.items()}
    )
    assert spec.options['virtual_focal_px'] == public['focal_px']
    model = build_detector(spec).eval()
    model.load_state_dict(state)
    P = torch.from_numpy(golden.projection(public['focal_px']))[None].float()
    with torch.no_grad():
        return model, model(NetworkInput(torch.from_numpy(golden.image()), P)), spec


def test_heads_equal_those_of_the_public_program(public, parity_run):
    _, out, _ = parity_run
    heads = {**out.heads.as_dict(), 'box': out.heads.box.sigmoid()}
    for name, summary in public['heads'].items():
        assert list(heads[name].shape) == summary['shape']
        values = golden.sampled(heads[name].numpy())
        np.testing.assert_allclose(values, summary['values'], rtol=1e-4, atol=1e-4, err_msg=name)
        assert float(heads[name].mean()) == pytest.approx(summary['mean'], rel=1e-4, abs=1e-4)


def test_boxes_equal_those_of_the_public_program(public, parity_run):
    model, out, _ = parity_run
    image_objects = as_image_objects(model.decode(out), 0)
    objects = lift(image_objects, golden.projection(public['focal_px']))
    for i, box in enumerate(public['boxes']):
        assert image_objects.class_id[i] == box['class_id']
        sigma = np.exp(box['log_sigma'])
        assert image_objects.score[i] == pytest.approx(box['probability'] / (1 + sigma), abs=1e-5)
        floor = objects.center_m[i] + [0, objects.size_hwl_m[i, 0] / 2, 0]
        np.testing.assert_allclose(floor, box['floor_m'], atol=1e-3)
        np.testing.assert_allclose(objects.size_hwl_m[i], box['size_hwl_m'], atol=1e-4)
        np.testing.assert_allclose(image_objects.box_px[i], box['box_px'], atol=0.05)
        assert image_objects.alpha[i] == pytest.approx(box['alpha'], abs=1e-4)


def test_the_published_protocol_scores_and_drops_as_the_public_program(public, parity_run):
    """The program writes probability * exp(-log sigma) for probabilities of at least 0.2."""
    model, out, _ = parity_run
    objects = as_image_objects(model.decode(out), 0)
    probability = np.array([box['probability'] for box in public['boxes']])
    certainty = np.exp([-box['log_sigma'] for box in public['boxes']])
    scale = 0.2 / np.median(probability)
    scaled = dataclasses.replace(objects, score=objects.score * scale)
    kept = DETECTORS['monodetr'].published.select(scaled)
    expected = (scale * probability * certainty)[scale * probability >= 0.2]
    assert len(kept) == len(expected) == 10
    assert kept.score == pytest.approx(expected, rel=1e-4)
    assert kept.score.max() > 1  # sigma is less than 1 m: the score is no probability


def labelled_targets(public, tmp_path, spec):
    """Return targets of the two frames of test/parity/monodetr.py: all labels, the first two."""
    P = golden.projection(public['focal_px'])
    frames = []
    for count in (len(public['labels']), 2):
        path = tmp_path / f'{count}.txt'
        path.write_text('\n'.join(public['labels'][:count]) + '\n')
        frames.append(project_objects(kitti.read_labels(path).to_objects(spec.classes), P))
    return pad_targets(frames, 8)


def test_losses_and_gradients_equal_those_of_the_public_program(public, parity_run, tmp_path):
    model, out, spec = parity_run
    random_heads = monodetr_queries.random_heads()
    heads = {k: torch.from_numpy(v).requires_grad_() for k, v in random_heads.items()}
    edges_m = out.heads.depth_edges_m.expand(monodetr_queries.BATCH, -1)
    targets = labelled_targets(public, tmp_path, spec)
    outputs = Outputs((), named_heads({**heads, 'depth_edges_m': edges_m}), (384, 1280))
    loss_values = model.losses(outputs, targets, SINGLE_PART)
    assert loss_values.keys() == monodetr.LOSS_WEIGHTS.keys() == public['losses'].keys()
    for name, expected in public['losses'].items():
        # the public code's sqrt(2) is 1.4142
        rel = 2e-5 if name == 'det/depth' else 1e-5
        assert float(loss_values[name].detach()) == pytest.approx(expected, rel=rel), name
    sum(monodetr.LOSS_WEIGHTS[name] * value for name, value in loss_values.items()).backward()
    for name, expected in public['gradients'].items():
        assert float(heads[name].grad.norm()) == pytest.approx(expected, rel=5e-5), name


def named_heads(heads):
    """Return {name: tensor} as the heads of MonoDETR."""
    return MonoDETRHeads(**{{'class': 'class_logits'}.get(k, k): v for k, v in heads.items()})


def perfect_heads(targets, num_queries, classes=3, bins=12, size_px=(96, 320)):
    """Return heads of one layer: a perfect query per target, in reversed order of targets."""
    rows, slots = targets.valid.shape
    expected = criterion.encode_query_targets(targets, size_px, bins, 1)
    order = torch.arange(slots - 1, -1, -1)
    heads = {
        'class': torch.full((rows, 1, num_queries, classes), -12.0),
        'box': torch.full((rows, 1, num_queries, 6), -3.0),
        'size_3d': torch.ones(rows, 1, num_queries, 3),
        'heading': torch.zeros(rows, 1, num_queries, 2 * bins),
        'depth': torch.ones(rows, 1, num_queries, 2),
        'depth_map': torch.zeros(rows, 81, size_px[0] // 16, size_px[1] // 16),
        'depth_edges_m': depth_predictor.bin_edges(80, 60.0).expand(rows, -1),
    }
    class_logits = torch.nn.functional.one_hot(targets.class_id, classes) * 24.0 - 12.0
    heads['class'][:, 0, order] = torch.where(targets.valid[..., None], class_logits, -12.0)
    heads['box'][:, 0, order] = torch.logit(expected.box.clamp(1e-6, 1 - 1e-6))
    heads['size_3d'][:, 0, order] = expected.size_hwl_m
    heads['depth'][:, 0, order] = torch.stack(
        [expected.depth_m, torch.full_like(expected.depth_m, -4.0)], -1
    )
    one_hot = torch.nn.functional.one_hot(expected.heading_bin, bins)
    heads['heading'][:, 0, order] = torch.cat(
        [one_hot * 20.0, one_hot * expected.heading_residual[..., None]], -1
    )
    return named_heads(heads)


def test_perfect_heads_decode_to_the_targets_with_zero_loss():
    model = build('monodetr', queries=12, groups=1)
    _, _, targets = batch(2)
    heads = perfect_heads(targets, 12)
    out = Outputs((), heads, (96, 320))
    loss_values = model.losses(out, targets, SINGLE_PART)
    for name in ('class', 'center', 'box', 'giou', 'size_3d', 'heading'):
        assert float(loss_values[f'det/{name}']) == pytest.approx(0, abs=1e-4), name
    assert float(loss_values['det/depth']) == pytest.approx(-4, abs=1e-4)
    decoded = model.decode(out)
    for row in range(2):
        count = int(targets.valid[row].sum())
        depth = targets.depth_m[row, :count]
        order = decoded['depth_m'][row, :count].sort().indices
        # targets are sorted by depth
        torch.testing.assert_close(decoded['depth_m'][row][order], depth)
        for field in ('class_id', 'center_px', 'size_hwl_m', 'box_px', 'alpha'):
            expected = getattr(targets, field)[row, :count]
            torch.testing.assert_close(decoded[field][row][order], expected, atol=2e-3, rtol=0)


def test_sigma_at_a_target_is_that_of_the_matched_query():
    model = build('monodetr', queries=12, groups=1)
    _, _, targets = batch(2)
    heads = perfect_heads(targets, 12)
    log_sigma = torch.linspace(-1.0, 2.0, 12)
    heads.depth[:, 0, :, 1] = log_sigma
    out = Outputs((), heads, (96, 320))
    predicted = model.predictions_at_targets(out, targets)
    assert torch.equal(predicted.found, targets.valid)
    slots = targets.valid.shape[1]
    for row, slot in targets.valid.nonzero().tolist():
        sigma = float(log_sigma[slots - 1 - slot].exp())
        assert float(predicted.depth_sigma_m[row, slot]) == pytest.approx(sigma, rel=1e-6)
    # a target whose centre is outside its 2D box has no matched query
    unmatched = dataclasses.replace(targets, box_px=targets.box_px + 15)
    assert not model.predictions_at_targets(out, unmatched).found.any()


def test_a_surplus_target_is_not_found():
    model, (image, P, targets) = build('monodetr', queries=3).eval(), batch(2, 4)
    found = model.predictions_at_targets(model(NetworkInput(image, P)), targets).found
    assert found.sum(1).tolist() == [3, 3]
    assert not found[~targets.valid].any()


def test_twice_the_focal_length_and_depth_give_the_same_losses():
    """The depth loss alone is log 2 higher per layer, because sigma doubles too."""
    model, (image, P, targets) = build('monodetr').eval(), batch()
    longer = P.clone()
    longer[:, [0, 1], [0, 1]] *= 2
    farther = dataclasses.replace(targets, depth_m=2 * targets.depth_m)
    near = model.losses(model(NetworkInput(image, P)), targets, SINGLE_PART)
    far = model.losses(model(NetworkInput(image, longer)), farther, SINGLE_PART)
    far['det/depth'] = far['det/depth'] - 2 * np.log(2)
    torch.testing.assert_close(far, near, rtol=1e-4, atol=1e-4)


def test_monodetr_without_virtual_focal_length_uses_projections_for_depth_from_height_only():
    model, (image, P, _) = build('monodetr', virtual_focal_px=0.0).eval(), batch()
    with torch.no_grad():
        one, other = model(NetworkInput(image, P)).heads, model(NetworkInput(image, 3 * P)).heads
    box_px = box_coding.box_width_height(one.box.sigmoid())[..., 1] * image.shape[2]
    from_height = one.size_3d[..., 0] * P[0, 0, 0] / box_px
    one.depth[..., 0] += 2 * from_height / 3
    torch.testing.assert_close(one.as_dict(), other.as_dict(), rtol=1e-4, atol=1e-4)


def test_depth_is_the_mean_of_three_estimates():
    """z = f h / h_px in canvas pixels; the public code uses the original image's height."""
    z, focal, height = 20.0, 300.0, 1.6
    box_px = focal * height / z
    box = torch.tensor([0.5, 0.5, 0.1, 0.1, box_px / 2 / 96, box_px / 2 / 96]).logit()
    heads = QueryHeads(
        class_logits=torch.zeros(1, 1, 1, 3),
        box=box.expand(1, 1, 1, 6),
        size_3d=torch.tensor([height, 1.6, 4.0]).expand(1, 1, 1, 3),
        heading=torch.zeros(1, 1, 1, 24),
        depth=torch.tensor([np.log(1 / z), 0.3]).expand(1, 1, 1, 2).float(),
    )
    shape = (1, 96 // 16, 320 // 16)
    depth = depth_predictor.mean_depth(
        heads, torch.full(shape, z), torch.tensor([focal]), torch.tensor([1.0])
    )
    torch.testing.assert_close(depth, torch.tensor([z, 0.3]).expand(1, 1, 1, 2), rtol=1e-4, atol=0)
    rescaled = depth_predictor.mean_depth(
        heads, torch.full(shape, z), torch.tensor([focal]), torch.tensor([1.5])
    )
    torch.testing.assert_close(rescaled[..., 0], 1.5 * depth[..., 0])
    torch.testing.assert_close(rescaled[..., 1].exp(), 1.5 * depth[..., 1].exp())


def test_groups_of_queries_are_independent():
    model, (image, P, _) = build('monodetr', dropout=0.0, groups=3), batch()
    model.backbone.eval()
    with torch.no_grad():
        together = model(NetworkInput(image, P)).heads.as_dict()
        alone = model.eval()(NetworkInput(image, P)).heads.as_dict()
    assert together['class'].shape[2] == 36
    for name in ('class', 'box', 'size_3d', 'heading', 'depth'):
        torch.testing.assert_close(together[name][:, :, :12], alone[name])


def test_losses_are_float32_under_autocast():
    model, (image, P, targets) = build('monodetr'), batch()
    with torch.autocast('cpu', torch.bfloat16):
        out = model(NetworkInput(image, P), targets)
        loss_values = model.losses(out, targets, SINGLE_PART)
    assert all(each.dtype == torch.float32 for each in (out.heads.box, out.heads.depth))
    assert all(v.dtype == torch.float32 and torch.isfinite(v) for v in loss_values.values())
    sum(loss_values.values()).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_every_parameter_receives_a_gradient():
    model, (image, P, targets) = build('monodetr'), batch()
    sum(
        model.losses(model(NetworkInput(image, P), targets), targets, SINGLE_PART).values()
    ).backward()
    without_gradient = [name for name, p in model.named_parameters() if p.grad is None]
    assert without_gradient == []


def test_a_pretrained_backbone_freezes_norms_and_early_stages(monkeypatch):
    monkeypatch.setattr(backbone, 'pretrained_weights', lambda name: None)
    model, (image, P, targets) = build('monodetr', pretrained=True).train(), batch()
    body = model.backbone.body
    assert not any(module.training for module in body.modules())
    assert not any(p.requires_grad for n, p in body.named_parameters() if '.bn' in n)
    assert not any(p.requires_grad for n, p in body.named_parameters() if 'blocks.0' in n)
    assert body.get_parameter('blocks.2.0.pw_exp.conv.weight').requires_grad
    before = {name: value.clone() for name, value in body.state_dict().items()}
    sum(
        model.losses(model(NetworkInput(image, P), targets), targets, SINGLE_PART).values()
    ).backward()
    for name, value in body.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize(
    ('options', 'message'),
    [({'width': 48}, 'width 48: expected a multiple of 32'), ({'attention_heads': 5}, r'\(5\)')],
)
def test_invalid_options_raise_value_error(options, message):
    with pytest.raises(ValueError, match=message):
        build('monodetr', **options)
