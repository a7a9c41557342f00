"""Privileged teachers: detectors that are given depth besides the image."""

import dataclasses
import hashlib

import pytest
import torch
from small_detectors import SMALL, H, W, batch, build, some_objects
from toy_detector import ENTRY

from stl_core.distill.distiller import SIGMA_BOUNDS_M
from stl_core.inference import model_file
from stl_core.inference.model_spec import ModelSpec
from stl_core.models import DETECTORS
from stl_core.models.detr import depth_predictor
from stl_core.preprocessing import InputSpec
from stl_core.tensors.batch import NetworkInput, pad_targets
from stl_core.tensors.precision import autocast_to, outputs_to_float32
from stl_core.tensors.reductions import SINGLE_PART

GIVEN = [name for name in SMALL if DETECTORS[name].takes_given_depth]
FUSING = ('monodle', 'monocon')
every_given = pytest.mark.parametrize('name', GIVEN)


def privileged(name, **options):
    """Return a detector with given depth and the same weights as small_detectors.build."""
    torch.manual_seed(0)
    entry = DETECTORS[name]
    config = entry.config(**{**SMALL[name], **options})
    return entry.detector(config, in_channels=3, num_classes=3, given_depth=True)


def trained(name):
    """Return a privileged detector whose given depth changes the output, as after training."""
    model = privileged(name)
    if name in FUSING:
        torch.nn.init.normal_(model.depth_association.output.weight, std=0.1)
    return model


def painted(targets):
    """Return the depth of the targets' boxes (B, H, W), the nearest wins, 0 elsewhere."""
    x, y = torch.arange(W), torch.arange(H)
    low, high = targets.box_px[..., None, :2], targets.box_px[..., None, 2:]
    columns = (x[:, None] >= low)[..., 0] & (x[:, None] < high)[..., 0]
    rows = (y[:, None] >= low)[..., 1] & (y[:, None] < high)[..., 1]
    inside = rows[..., :, None] & columns[..., None, :] & targets.valid[..., None, None]
    depth_m = torch.where(inside, targets.depth_m[..., None, None], torch.inf)
    nearest = torch.cat([depth_m, depth_m.new_full((len(depth_m), 1, H, W), torch.inf)], 1).amin(1)
    return torch.where(torch.isfinite(nearest), nearest, 0.0)


def given_input(rows=2, count=4):
    image, P, targets = batch(rows, count)
    return NetworkInput(image, P, painted(targets)), targets


@pytest.mark.parametrize('name', FUSING)
def test_a_new_teacher_equals_its_base_bit_for_bit(name):
    inputs, targets = given_input()
    base, teacher = build(name).eval(), privileged(name).eval()
    with torch.no_grad():
        expected, out = base(inputs, targets), teacher(inputs, targets)
    for key, value in expected.heads.as_dict().items():
        assert torch.equal(out.heads.as_dict()[key], value), key
    for one, other in zip(expected.features, out.features, strict=True):
        assert torch.equal(one, other)
    assert torch.count_nonzero(out.given_depth_added) == 0
    assert expected.given_depth_added is None


def test_a_teacher_with_the_bases_heads_reads_given_depth():
    """MonoDETR has no weights for given depth: the same detector sees other metres."""
    inputs, _ = given_input()
    base, teacher = build('monodetr').eval(), privileged('monodetr').eval()
    assert base.state_dict().keys() == teacher.state_dict().keys()
    with torch.no_grad():
        expected, out = base(inputs), teacher(inputs)
        absent = teacher(
            dataclasses.replace(inputs, given_depth_m=torch.zeros_like(inputs.given_depth_m))
        )
    assert not torch.equal(out.heads.depth, expected.heads.depth)
    for key, value in expected.heads.as_dict().items():
        assert torch.equal(absent.heads.as_dict()[key], value), key


@every_given
@pytest.mark.parametrize('count', [0, 1, 200])
def test_any_number_of_objects_gives_finite_losses_and_gradients(name, count):
    model, (inputs, targets) = trained(name), given_input(2, count)
    if count == 200:
        targets = pad_targets([some_objects(i, 200) for i in range(2)], 200)
        inputs = dataclasses.replace(inputs, given_depth_m=painted(targets))
    losses = model.losses(model(inputs, targets), targets, SINGLE_PART)
    assert all(torch.isfinite(value) for value in losses.values())
    sum(losses.values()).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    if name in FUSING and count:
        grads = {n: p.grad for n, p in model.depth_association.named_parameters()}
        assert all(torch.count_nonzero(grad) for grad in grads.values()), grads.keys()


@every_given
def test_given_depth_changes_the_levels_that_say_so_and_no_other(name):
    model, (inputs, _) = trained(name).eval(), given_input()
    with torch.no_grad():
        one = model(inputs)
        other = model(dataclasses.replace(inputs, given_depth_m=2 * inputs.given_depth_m))
    for spec, *maps in zip(model.levels, one.features, other.features, strict=True):
        assert torch.equal(*maps) is not spec.after_given_depth, spec.name
    assert any(spec.after_given_depth for spec in model.levels)


@every_given
def test_depth_is_learnt_for_any_lens(name):
    """The same picture through a lens of twice the focal length: everything twice as far."""
    model, (inputs, _) = trained(name).eval(), given_input()
    longer = inputs.P.clone()
    longer[:, [0, 1], [0, 1]] *= 2
    with torch.no_grad():
        near = model.decode(model(inputs))
        far = model.decode(model(NetworkInput(inputs.image, longer, 2 * inputs.given_depth_m)))
    torch.testing.assert_close(far['depth_m'], 2 * near['depth_m'], rtol=2e-3, atol=2e-3)
    torch.testing.assert_close(far['center_px'], near['center_px'], rtol=1e-3, atol=1e-2)


@every_given
def test_a_teacher_refuses_inputs_without_given_depth(name):
    inputs, _ = given_input()
    with pytest.raises(ValueError, match='without given_depth_m'):
        privileged(name)(dataclasses.replace(inputs, given_depth_m=None))


@every_given
def test_other_networks_ignore_given_depth(name):
    model, (inputs, _) = build(name).eval(), given_input()
    with torch.no_grad():
        one, other = model(inputs), model(dataclasses.replace(inputs, given_depth_m=None))
    assert torch.equal(one.heads.depth, other.heads.depth)


@every_given
def test_half_precision_is_near_full_precision(name):
    model, (inputs, targets) = trained(name).eval(), given_input()
    with torch.no_grad():
        expected = model(inputs)
        with autocast_to('bf16', inputs.image.device):
            half = model(inputs)
        half = outputs_to_float32(half)
        at_targets = model.predictions_at_targets(half, targets)
    assert half.heads.depth.dtype == torch.float32
    assert torch.isfinite(at_targets.depth_sigma_m).all()
    for spec, one, other in zip(model.levels, expected.features, half.features, strict=True):
        if spec.after_given_depth:
            assert float((one - other).abs().mean()) < 0.1 * float(one.abs().mean())


@pytest.mark.parametrize(
    ('name', 'count', 'digest'),
    [
        ('monodle', 88, '38d7ac85a99a3767'),
        ('monocon', 199, '169271ad1aaad19a'),
        ('monodetr', 183, '1b5be7f027c9b462'),
    ],
)
def test_weights_of_networks_without_given_depth_keep_their_names(name, count, digest):
    """Of version 0.1 before given depth existed; the backbone's names are timm's."""
    state = build(name).state_dict().items()
    rows = [f'{k} {tuple(v.shape)}' for k, v in state if not k.startswith('backbone.body.')]
    assert len(rows) == count
    assert hashlib.sha256('\n'.join(sorted(rows)).encode()).hexdigest().startswith(digest)
    added = privileged(name).state_dict().keys() - build(name).state_dict().keys()
    assert all(each.startswith('depth_association.') for each in added)
    assert bool(added) is (name in FUSING)


def test_monodetr_reads_the_nearest_given_depth_of_a_cell():
    predicted = torch.full((2, 2, 3), 33.0, requires_grad=True)
    given_m = torch.zeros(2, 32, 48)
    given_m[0, 3, 5], given_m[0, 4, 7], given_m[1, 31, 47] = 20.0, 14.0, 9.0
    read = depth_predictor.insert_given_depth(predicted, given_m, torch.tensor([0.5, 3.0]))
    expected = torch.full((2, 2, 3), 33.0)
    expected[0, 0, 0], expected[1, 1, 2] = 28.0, 3.0
    torch.testing.assert_close(read, expected)
    read.sum().backward()
    assert torch.equal(predicted.grad, (expected == 33).float())


@pytest.mark.parametrize('in_output', [None, True, False])
def test_monodetr_can_leave_given_depth_out_of_its_output(monkeypatch, in_output):
    seen = {}

    def mean_depth(heads, depth_m, trained_focal_px, focal_ratio):
        seen['output'] = depth_m
        return heads.depth

    monkeypatch.setattr(depth_predictor, 'mean_depth', mean_depth)
    model = privileged('monodetr', given_depth_in_output=in_output).eval()
    model.depth_encoder.register_forward_pre_hook(lambda _, args: seen.update(tokens=args[1]))
    inputs, targets = given_input()
    with torch.no_grad():
        model(inputs)
        expected = model.depth_map(
            tuple(
                layer(each)
                for layer, each in zip(
                    model.project, model.backbone(inputs.image)[1:], strict=False
                )
            )
        )[1]
    cell = (targets.center_px[0, 0] / 16).long()
    virtual_m = targets.depth_m[0, 0] * 720 / 300  # the nearest target, in front of all others
    assert float(seen['tokens'][0, cell[1], cell[0]]) == pytest.approx(float(virtual_m))
    if in_output is False:
        torch.testing.assert_close(seen['output'], expected)
    else:
        assert torch.equal(seen['output'], seen['tokens'])


def test_tokens_of_monodetr_are_the_hidden_queries_of_targets():
    """A query with the box and class of a target is matched to it: its vector is the token."""
    model, (inputs, targets) = privileged('monodetr').eval(), given_input(2, 3)
    with torch.no_grad():
        out = model(inputs)
    box = torch.full_like(out.heads.box, -9.0)
    classes = torch.full_like(out.heads.class_logits, -9.0)
    chosen = {(row, slot): 2 + 3 * slot + row for row in range(2) for slot in range(3)}
    size = torch.tensor([W, H])
    for (row, slot), query in chosen.items():
        center, corners = targets.center_px[row, slot], targets.box_px[row, slot]
        sides = torch.stack([center - corners[:2], corners[2:] - center], -1) / size[:, None]
        box[row, :, query] = torch.logit(torch.cat([center / size, sides.flatten()]), eps=1e-6)
        classes[row, :, query, targets.class_id[row, slot]] = 9.0
    heads = dataclasses.replace(out.heads, box=box, class_logits=classes)
    found = model.predictions_at_targets(dataclasses.replace(out, heads=heads), targets)
    assert found.tokens.shape == (2, 10, SMALL['monodetr']['width'])
    for (row, slot), query in chosen.items():
        assert found.found[row, slot]
        assert torch.equal(found.tokens[row, slot], out.heads.hidden[row, query])


def test_tokens_of_monodetr_carry_gradients_in_training():
    model, (inputs, targets) = build('monodetr'), given_input()
    out = model(inputs, targets)
    at_targets = model.predictions_at_targets(out, targets)
    assert at_targets.depth_sigma_m.clamp(*SIGMA_BOUNDS_M).isfinite().all()
    (at_targets.tokens * at_targets.found[..., None]).square().sum().backward()
    assert torch.count_nonzero(model.queries.weight.grad[: model.config.queries])
    assert torch.count_nonzero(model.queries.weight.grad[model.config.queries :]) == 0


def test_cnn_detectors_have_no_tokens():
    model, (inputs, targets) = build('monodle').eval(), given_input()
    assert model.predictions_at_targets(model(inputs), targets).tokens is None


@every_given
def test_model_files_of_teachers_keep_given_depth(name, tmp_path):
    spec = ModelSpec(('A', 'B', 'C'), InputSpec(W, H, given_depth='objects'), name, SMALL[name])
    detector = model_file.build_detector(spec)
    model_file.save_model(tmp_path / 'teacher.safetensors', detector, spec)
    read = model_file.read_model_spec(tmp_path / 'teacher.safetensors')
    assert read.input.given_depth == 'objects'
    loaded = model_file.load_detector(tmp_path / 'teacher.safetensors', read)
    assert loaded.state_dict().keys() == privileged(name).state_dict().keys()
    with pytest.raises(ValueError, match='without given_depth_m'):
        loaded(NetworkInput(*batch()[:2]))


def test_a_detector_that_takes_no_given_depth_is_named(monkeypatch):
    monkeypatch.setitem(DETECTORS, 'toy', ENTRY)
    spec = ModelSpec(('A',), InputSpec(W, H, given_depth='scan'), 'toy')
    message = "input.given_depth: detector 'toy' takes no given depth; monodle, monocon, monodetr"
    with pytest.raises(model_file.ModelFileError, match=message):
        model_file.build_detector(spec)
