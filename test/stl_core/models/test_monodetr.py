"""MonoDETR: the public program's answers, and what must hold without it."""

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
from stl_core.models import backbone, monodetr
from stl_core.models.detr import box_coding, criterion, depth_predictor
from stl_core.tensors.batch import Outputs, as_image_objects, pad_targets


@pytest.fixture(scope='module')
def public():
    return golden.read('monodetr')


@pytest.fixture(scope='module')
def answered(public):
    """The detector with the weights that the public program was given, and what it says."""
    filled = golden.weights(public['shapes'], public['tone'])
    state, spec = convert_state_dict(
        'monodetr', {k: torch.from_numpy(v) for k, v in filled.items()}
    )
    assert spec.options['virtual_focal_px'] == public['focal_px']
    model = build_detector(spec).eval()
    model.load_state_dict(state)
    P = torch.from_numpy(golden.projection(public['focal_px']))[None].float()
    with torch.no_grad():
        return model, model(torch.from_numpy(golden.picture()), P), spec


def test_heads_are_those_of_the_public_program(public, answered):
    _, out, _ = answered
    heads = {**out.heads, 'box': out.heads['box'].sigmoid()}
    for name, summary in public['heads'].items():
        assert list(heads[name].shape) == summary['shape']
        values = golden.sampled(heads[name].numpy())
        np.testing.assert_allclose(values, summary['values'], rtol=1e-4, atol=1e-4, err_msg=name)
        assert float(heads[name].mean()) == pytest.approx(summary['mean'], rel=1e-4, abs=1e-4)


def test_boxes_are_those_of_the_public_program(public, answered):
    model, out, _ = answered
    image = as_image_objects(model.decode(out), 0)
    world = lift(image, golden.projection(public['focal_px']))
    for i, box in enumerate(public['boxes']):
        assert image.class_id[i] == box['class_id']
        sigma = np.exp(box['log_sigma'])
        assert image.score[i] == pytest.approx(box['probability'] / (1 + sigma), abs=1e-5)
        floor = world.center_m[i] + [0, world.size_hwl_m[i, 0] / 2, 0]
        np.testing.assert_allclose(floor, box['floor_m'], atol=1e-3)
        np.testing.assert_allclose(world.size_hwl_m[i], box['size_hwl_m'], atol=1e-4)
        np.testing.assert_allclose(image.box_px[i], box['box_px'], atol=0.05)
        assert image.alpha[i] == pytest.approx(box['alpha'], abs=1e-4)


def labelled(public, tmp_path, spec):
    """The two frames of test/parity/monodetr.py: all labels, and the first two."""
    P = golden.projection(public['focal_px'])
    frames = []
    for count in (len(public['labels']), 2):
        path = tmp_path / f'{count}.txt'
        path.write_text('\n'.join(public['labels'][:count]) + '\n')
        frames.append(project_objects(kitti.read_labels(path).to_objects(spec.classes), P))
    return pad_targets(frames, 8)


def test_losses_and_gradients_are_those_of_the_public_program(public, answered, tmp_path):
    model, out, spec = answered
    answers = monodetr_queries.answers()
    drawn = {k: torch.from_numpy(v).requires_grad_() for k, v in answers.items()}
    edges_m = out.heads['depth_edges_m'].expand(monodetr_queries.BATCH, -1)
    targets = labelled(public, tmp_path, spec)
    named = model.losses(Outputs((), {**drawn, 'depth_edges_m': edges_m}), targets)
    assert named.keys() == monodetr.LOSS_WEIGHTS.keys() == public['losses'].keys()
    for name, expected in public['losses'].items():
        # the public code's sqrt(2) is 1.4142
        rel = 2e-5 if name == 'det/depth' else 1e-5
        assert float(named[name].detach()) == pytest.approx(expected, rel=rel), name
    sum(monodetr.LOSS_WEIGHTS[name] * value for name, value in named.items()).backward()
    for name, expected in public['gradients'].items():
        assert float(drawn[name].grad.norm()) == pytest.approx(expected, rel=5e-5), name


def ideal(targets, queries_, classes=3, bins=12, canvas_px=(320, 96)):
    """Heads of one layer, with queries that answer each target perfectly, in reversed order."""
    rows, slots = targets.valid.shape
    wanted = criterion.encode_query_targets(targets, torch.tensor(canvas_px).float(), bins, 1)
    order = torch.arange(slots - 1, -1, -1)
    heads = {
        'class': torch.full((rows, 1, queries_, classes), -12.0),
        'box': torch.full((rows, 1, queries_, 6), -3.0),
        'size_3d': torch.ones(rows, 1, queries_, 3),
        'heading': torch.zeros(rows, 1, queries_, 2 * bins),
        'depth': torch.ones(rows, 1, queries_, 2),
        'depth_map': torch.zeros(rows, 81, canvas_px[1] // 16, canvas_px[0] // 16),
        'depth_edges_m': depth_predictor.bin_edges(80, 60.0).expand(rows, -1),
    }
    right = torch.nn.functional.one_hot(targets.class_id, classes) * 24.0 - 12.0
    heads['class'][:, 0, order] = torch.where(targets.valid[..., None], right, -12.0)
    heads['box'][:, 0, order] = torch.logit(wanted.box.clamp(1e-6, 1 - 1e-6))
    heads['size_3d'][:, 0, order] = wanted.size_hwl_m
    heads['depth'][:, 0, order] = torch.stack(
        [wanted.depth_m, torch.full_like(wanted.depth_m, -4.0)], -1
    )
    one_hot = torch.nn.functional.one_hot(wanted.heading_bin, bins)
    heads['heading'][:, 0, order] = torch.cat(
        [one_hot * 20.0, one_hot * wanted.heading_residual[..., None]], -1
    )
    return heads


def test_perfect_answers_are_read_as_the_targets_and_cost_nothing():
    model = build('monodetr', queries=12, groups=1)
    _, _, targets = batch(2)
    heads = ideal(targets, 12)
    out = Outputs((), heads)
    named = model.losses(out, targets)
    for name in ('class', 'center', 'box', 'giou', 'size_3d', 'heading'):
        assert float(named[f'det/{name}']) == pytest.approx(0, abs=1e-4), name
    assert float(named['det/depth']) == pytest.approx(-4, abs=1e-4)
    found = model.decode(out)
    for row in range(2):
        count = int(targets.valid[row].sum())
        depth = targets.depth_m[row, :count]
        place = found['depth_m'][row, :count].sort().indices
        torch.testing.assert_close(found['depth_m'][row][place], depth)  # nearest come first
        for field in ('class_id', 'center_px', 'size_hwl_m', 'box_px', 'alpha'):
            wanted = getattr(targets, field)[row, :count]
            torch.testing.assert_close(found[field][row][place], wanted, atol=2e-3, rtol=0)


def test_confidence_is_that_of_the_query_that_answers():
    model = build('monodetr', queries=12, groups=1)
    _, _, targets = batch(2)
    heads = ideal(targets, 12)
    told = torch.linspace(-1.0, 2.0, 12)
    heads['depth'][:, 0, :, 1] = told
    sure = model.depth_confidence(Outputs((), heads), targets)
    slots = targets.valid.shape[1]
    for row, slot in targets.valid.nonzero().tolist():
        sigma = float(told[slots - 1 - slot].exp())
        assert float(sure[row, slot]) == pytest.approx(1 / (1 + sigma), abs=1e-6)
    # no query is taught one whose centre is out of its box, so what one says of it is no knowledge
    apart = dataclasses.replace(targets, box_px=targets.box_px + 15)
    assert not model.depth_confidence(Outputs((), heads), apart).any()


def test_a_twice_longer_lens_and_twice_as_far_objects_teach_the_same():
    """Depth costs log 2 more a layer: sigma, too, is twice as large."""
    model, (image, P, targets) = build('monodetr').eval(), batch()
    longer = P.clone()
    longer[:, [0, 1], [0, 1]] *= 2
    farther = dataclasses.replace(targets, depth_m=2 * targets.depth_m)
    near = model.losses(model(image, P), targets)
    far = model.losses(model(image, longer), farther)
    far['det/depth'] = far['det/depth'] - 2 * np.log(2)
    torch.testing.assert_close(far, near, rtol=1e-4, atol=1e-4)


def test_a_plain_monodetr_looks_at_the_lens_for_the_size_of_boxes_alone():
    model, (image, P, _) = build('monodetr', virtual_focal_px=0.0).eval(), batch()
    with torch.no_grad():
        one, other = model(image, P).heads, model(image, 3 * P).heads
    box_px = box_coding.box_width_height(one['box'].sigmoid())[..., 1] * image.shape[2]
    by_size = one['size_3d'][..., 0] * P[0, 0, 0] / box_px
    one['depth'][..., 0] += 2 * by_size / 3
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_depth_is_the_mean_of_three_tellings():
    """z = f h / h_px in the pixels of the canvas; the public code takes the picture's height."""
    canvas_px = torch.tensor([320.0, 96.0])
    z, focal, height = 20.0, 300.0, 1.6
    box_px = focal * height / z
    box = torch.tensor([0.5, 0.5, 0.1, 0.1, box_px / 2 / 96, box_px / 2 / 96]).logit()
    heads = {
        'box': box.expand(1, 1, 1, 6),
        'size_3d': torch.tensor([height, 1.6, 4.0]).expand(1, 1, 1, 3),
        'depth': torch.tensor([np.log(1 / z), 0.3]).expand(1, 1, 1, 2).float(),
    }
    shape = (1, int(canvas_px[1]) // 16, int(canvas_px[0]) // 16)
    told = monodetr.mean_depth(
        heads, torch.full(shape, z), torch.tensor([focal]), torch.tensor([1.0])
    )
    torch.testing.assert_close(told, torch.tensor([z, 0.3]).expand(1, 1, 1, 2), rtol=1e-4, atol=0)
    stretched = monodetr.mean_depth(
        heads, torch.full(shape, z), torch.tensor([focal]), torch.tensor([1.5])
    )
    torch.testing.assert_close(stretched[..., 0], 1.5 * told[..., 0])
    torch.testing.assert_close(stretched[..., 1].exp(), 1.5 * told[..., 1].exp())


def test_a_group_of_queries_does_not_see_the_others():
    model, (image, P, _) = build('monodetr', dropout=0.0, groups=3), batch()
    model.backbone.eval()
    with torch.no_grad():
        together = model(image, P).heads
        alone = model.eval()(image, P).heads
    assert together['class'].shape[2] == 36
    for name in ('class', 'box', 'size_3d', 'heading', 'depth'):
        torch.testing.assert_close(together[name][:, :, :12], alone[name])


def test_losses_keep_their_digits_under_autocast():
    model, (image, P, targets) = build('monodetr'), batch()
    with torch.autocast('cpu', torch.bfloat16):
        out = model(image, P, targets)
        named = model.losses(out, targets)
    assert all(out.heads[name].dtype == torch.float32 for name in ('box', 'depth'))
    assert all(v.dtype == torch.float32 and torch.isfinite(v) for v in named.values())
    sum(named.values()).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_every_parameter_is_taught():
    model, (image, P, targets) = build('monodetr'), batch()
    sum(model.losses(model(image, P, targets), targets).values()).backward()
    idle = [name for name, p in model.named_parameters() if p.grad is None]
    assert idle == []


def test_a_pretrained_backbone_keeps_norms_and_beginning(monkeypatch):
    create = backbone.timm.create_model
    monkeypatch.setattr(
        backbone.timm, 'create_model', lambda name, pretrained=False, **rest: create(name, **rest)
    )
    model, (image, P, targets) = build('monodetr', pretrained=True).train(), batch()
    body = model.backbone.body
    assert not any(module.training for module in body.modules())
    assert not any(p.requires_grad for n, p in body.named_parameters() if '.bn' in n)
    assert not any(p.requires_grad for n, p in body.named_parameters() if 'blocks.0' in n)
    assert body.get_parameter('blocks.2.0.pw_exp.conv.weight').requires_grad
    before = {name: value.clone() for name, value in body.state_dict().items()}
    sum(model.losses(model(image, P, targets), targets).values()).backward()
    for name, value in body.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize(
    ('options', 'message'),
    [({'width': 48}, 'width 48: expected a multiple of 32'), ({'attention_heads': 5}, r'\(5\)')],
)
def test_wrong_options_are_told(options, message):
    with pytest.raises(ValueError, match=message):
        build('monodetr', **options)
