"""Distiller: frozen teacher, training-only layers, and a student without additional weights."""

import copy
import dataclasses

import numpy as np
import pytest
import torch
from kitti_scenes import make_scenes
from small_detectors import DecodingDetector, H, W, build, every_detector, some_objects

from stl_core.data import augmentation, dataset
from stl_core.data.sources import kitti
from stl_core.distill import LOSSES
from stl_core.distill.adapters import ReviewFusion, build_adapter
from stl_core.distill.distiller import Distiller, DistillLayersConfig, distillation_losses
from stl_core.models import DETECTORS
from stl_core.models.detr import matcher
from stl_core.preprocessing import InputSpec
from stl_core.tensors import depth_encoding, normalization
from stl_core.tensors.batch import Batch, NetworkInput, pad_targets
from stl_core.tensors.feature_level import ImagePlane
from stl_core.tensors.reductions import SINGLE_PART

SMALL = DistillLayersConfig(width=16)
#: Without the losses that own weights, which need a privileged teacher.
ALL = {name: entry.config() for name, entry in LOSSES.items() if entry.loss}
ALL_BUT_HEADS = {name: config for name, config in ALL.items() if name != 'plain_heads'}
SELECTIVE = {name: ALL[name] for name in ('feature', 'relation', 'response')}


def pixels(batch):
    return normalization.network_input(batch, InputSpec())


def negative(batch):
    """Return another image of the same scene, as input of the teacher."""
    return NetworkInput(-pixels(batch).image, batch.P)


def a_batch(rows=2, count=4):
    rng = np.random.default_rng(0)
    P = torch.eye(3, 4).repeat(rows, 1, 1)
    P[:, 0, 0] = P[:, 1, 1] = 300.0
    return Batch(
        image=torch.from_numpy(rng.integers(0, 256, (rows, H, W, 3), np.uint8)),
        P=P,
        targets=pad_targets([some_objects(i, count) for i in range(rows)], 10),
        ids=tuple(str(row) for row in range(rows)),
    )


def distiller(losses=None, config=SMALL, teacher=None, student=None, **options):
    teacher = teacher or build('monodle', backbone='mobilenetv3_small_050')
    return Distiller(
        student or build('monodle'),
        teacher,
        SELECTIVE if losses is None else losses,
        config,
        student_input=pixels,
        teacher_input=negative,
        **options,
    )


def steps(model, batch, count=3):
    """Train on the sum of all losses; return the sum before each step."""
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, 1e-3)
    totals = []
    for _ in range(count):
        total = torch.stack(list(model(batch, 0.0, SINGLE_PART).values())).sum()
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        totals.append(float(total.detach()))
    return totals


def test_every_loss_is_returned_by_name_next_to_those_of_the_student():
    model, batch = distiller(ALL), a_batch()
    named = model(batch, 0.5, SINGLE_PART)
    detection = model.student.losses(model.student(pixels(batch)), batch.targets, SINGLE_PART)
    assert named.keys() == detection.keys() | {f'distill/{name}' for name in ALL}
    assert all(value.dim() == 0 and value.isfinite() for value in named.values())


def test_without_distillation_losses_a_student_learns_from_labels_alone():
    model, batch = distiller({}), a_batch()
    named = model(batch, 0.0, SINGLE_PART)
    twin = build('monodle').train()
    assert named == twin.losses(twin(pixels(batch)), batch.targets, SINGLE_PART)
    assert not list(model.adapters.parameters())


def test_training_reduces_the_loss_and_does_not_change_the_teacher():
    model, batch = distiller().train(), a_batch()
    before = copy.deepcopy(model.teacher.state_dict())
    totals = steps(model, batch, 6)
    assert totals[-1] < 0.9 * totals[0]
    for name, value in model.teacher.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(p.grad is None and not p.requires_grad for p in model.teacher.parameters())


def test_the_teacher_always_stays_in_eval_mode():
    model = distiller()
    for mode in (True, False, True):
        model.train(mode)
        assert model.student.training == model.review.training == mode
        assert not any(module.training for module in model.teacher.modules())
    torch.nn.Sequential(model).train()
    assert not any(module.training for module in model.teacher.modules())


def test_gradients_of_distillation_alone_reach_student_and_layers():
    model, batch = distiller().train(), a_batch()
    named = model(batch, 0.0, SINGLE_PART)
    sum(value for name, value in named.items() if name.startswith('distill/')).backward()
    for part in (model.student.backbone, model.review, model.adapters):
        reached = [p.grad is not None and p.grad.any() for p in part.parameters()]
        assert np.mean(reached) > 0.7  # all but biases before a BatchNorm


def test_review_passes_coarse_maps_to_finer_maps_only():
    torch.manual_seed(0)
    review = ReviewFusion((8, 12, 16), 16).eval()
    maps = [torch.randn(1, width, side, side) for width, side in ((8, 16), (12, 8), (16, 4))]
    with torch.no_grad():
        before = review(maps)
        for level in range(3):
            after = review([each + (index == level) for index, each in enumerate(maps)])
            changed = [not torch.equal(*pair) for pair in zip(before, after, strict=True)]
            assert changed == [index <= level for index in range(3)]


def test_review_mixes_maps_by_attention_per_cell():
    torch.manual_seed(0)
    review = ReviewFusion((8, 12), 16).eval()
    fine, coarse = torch.randn(1, 8, 8, 12), torch.randn(1, 12, 4, 6)
    with torch.no_grad():
        fused = review([fine, coarse])
        fine_in, coarse_in = review.inward[0](fine)[0], review.inward[1](coarse)[0]
        weight, bias = review.attention[0].weight[:, :, 0, 0], review.attention[0].bias
        mixed = torch.empty(16, 8, 12)
        for y in range(8):
            for x in range(12):
                one, two = fine_in[:, y, x], coarse_in[:, y // 2, x // 2]
                attention = 1 / (1 + torch.exp(-(weight @ torch.cat([one, two]) + bias)))
                mixed[:, y, x] = attention[0] * one + attention[1] * two
        torch.testing.assert_close(fused[0], review.outward[0](mixed[None]), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(fused[1], review.outward[1](coarse_in[None]))


def test_an_adapter_reads_neighbours_is_nonlinear_and_has_the_channels_of_the_teacher():
    torch.manual_seed(0)
    layers = build_adapter(8, 24, 16).eval()
    point = torch.zeros(1, 8, 7, 7)
    point[..., 3, 3] = 1.0
    with torch.no_grad():
        zero, positive, negative = (layers(each) for each in (0 * point, point, -point))
    assert positive.shape == (1, 24, 7, 7)
    reached = ((positive - zero)[0].abs().amax(0) > 1e-6).nonzero()
    assert (reached.min(0).values.tolist(), reached.max(0).values.tolist()) == ([2, 2], [4, 4])
    assert not torch.allclose(positive - zero, zero - negative, atol=1e-3)  # it is not linear


def test_layers_learn_alone_in_the_first_epochs():
    model, batch = (
        distiller(config=DistillLayersConfig(width=16, alone_epochs=0.5)).train(),
        a_batch(),
    )
    for epoch, reached in ((0.49, False), (0.5, True)):
        model.zero_grad()
        model(batch, epoch, SINGLE_PART)['distill/feature'].backward()
        assert any(p.grad is not None for p in model.student.parameters()) == reached
        assert all(p.grad is not None for p in model.adapters.parameters())


@pytest.mark.parametrize('name', list(ALL))
def test_every_trained_layer_is_in_the_graph_also_without_objects(name):
    """DistributedDataParallel needs a gradient for every trained parameter."""
    model = distiller({name: LOSSES[name].config()}).train()
    sum(model(a_batch(count=0), 0.0, SINGLE_PART).values()).backward()
    for name, p in model.named_parameters():
        if p.requires_grad:
            assert p.grad is not None, name
            assert p.grad.isfinite().all(), name


def same_detectors(name):
    return distiller(student=build(name), teacher=build(name))


@every_detector
def test_the_student_equals_the_plain_detector(name):
    model, batch = same_detectors(name).train(), a_batch()
    steps(model, batch, 2)
    plain = build(name).eval()
    assert model.student.state_dict().keys() == plain.state_dict().keys()
    plain.load_state_dict(model.student.state_dict())
    assert model.detector is model.student
    model.eval()
    with torch.no_grad():
        expected, out = (net(pixels(batch)) for net in (plain, model.detector))
        expected_boxes, boxes = plain.decode(expected), model.detector.decode(out)
    for one, other in zip(expected.features, out.features, strict=True):
        assert torch.equal(one, other)
    heads = expected.heads.as_dict(), out.heads.as_dict()
    for one, other in (heads, (expected_boxes, boxes)):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one)


@every_detector
def test_the_exported_graph_equals_that_of_the_plain_detector(name):
    model, batch = same_detectors(name).eval(), a_batch(1)
    graphs, states = [], []
    for net in (build(name).eval(), model.detector):
        exported = torch.export.export(DecodingDetector(net), (pixels(batch).image, batch.P))
        graphs.append([(node.op, str(node.target), node.name) for node in exported.graph.nodes])
        states.append(exported.state_dict.keys())
    assert graphs[0] == graphs[1]
    assert states[1] == {f'detector.{key}' for key in model.student.state_dict()}


def test_a_distiller_is_restored_from_its_state_dict():
    model, batch = distiller().train(), a_batch()
    steps(model, batch, 2)
    other = distiller(teacher=build('monodle', backbone='mobilenetv3_small_050'))
    other.load_state_dict(model.state_dict())
    with torch.no_grad():
        one, two = model.eval()(batch, 0.0, SINGLE_PART), other.eval()(batch, 0.0, SINGLE_PART)
    assert one == two


def test_features_of_a_dla_teacher_and_a_mobile_student_are_paired_by_stride():
    model, batch = distiller(teacher=build('monodle', backbone='dla34')), a_batch()
    view = model.make_view(model.student(pixels(batch)), batch, 0.0)
    assert list(view.adapted) == ['c8', 'c16', 'c32']
    for level, student, teacher in view.feature_pairs():
        stride = level.plane.stride
        assert student.shape == teacher.shape == (2, 16 * stride, H // stride, W // stride)
    names = ['neck', 'c8', 'c16', 'c32']
    assert list(view.student.levels) == list(view.teacher.levels) == names
    assert all(value.isfinite() for value in model(batch, 0.0, SINGLE_PART).values())


def test_the_teacher_runs_on_the_result_of_teacher_input():
    inputs = []

    def depth_maps(batch):
        inputs.append(NetworkInput(torch.rand(len(batch.ids), 2, H, W), batch.P))
        return inputs[-1]

    entry = DETECTORS['monodle']
    teacher = entry.detector(
        entry.config(backbone='mobilenetv4_conv_small', neck='light', head_width=16),
        in_channels=2,
        num_classes=3,
    )
    batch = a_batch()
    model = Distiller(
        build('monodle'), teacher, SELECTIVE, SMALL,
        student_input=pixels, teacher_input=depth_maps,
    )  # fmt: skip
    view = model.make_view(model.student(pixels(batch)), batch, 0.0)
    with torch.no_grad():
        expected = teacher(inputs[0])
    torch.testing.assert_close(view.teacher.heads, expected.heads.as_dict())


def test_a_view_has_sigma_in_metres_and_no_gradient_of_the_teacher():
    model, batch = distiller(), a_batch()
    out = model.student(pixels(batch))
    view = model.make_view(out, batch, 2.5)
    predicted = model.student.predictions_at_targets(out, batch.targets)
    assert torch.equal(view.student.depth_sigma_m, predicted.depth_sigma_m)
    assert not view.student.depth_sigma_m.requires_grad
    assert view.student.predictions['depth'].requires_grad
    teacher = view.teacher
    maps = [each.map for each in teacher.levels.values()]
    parts = (*maps, *teacher.heads.values(), *teacher.predictions.values())
    assert not any(each.requires_grad for each in (*parts, teacher.depth_sigma_m))
    assert (view.size_px, view.epoch) == ((H, W), 2.5)


@pytest.mark.parametrize(('log_sigma', 'clamped'), [(30.0, 1e3), (-30.0, 1e-3)])
def test_an_extreme_sigma_is_clamped(log_sigma, clamped):
    model, batch = distiller(ALL), a_batch()
    out = model.student(pixels(batch))
    out.heads.depth.data[:, 1] = log_sigma
    view = model.make_view(out, batch, 0.0)
    assert (view.student.depth_sigma_m == clamped).all()
    assert all(
        each.isfinite() for each in distillation_losses(view, model.losses, SINGLE_PART).values()
    )


def test_sigma_of_an_object_is_that_of_the_query_matched_in_training():
    """Of all groups and layers, it is the query whose gradient depends on the object's depth."""
    student = build('monodetr', groups=3)
    model, batch = distiller(student=student, teacher=build('monodetr')).train(), a_batch()
    targets = batch.targets
    for column in (targets.center_px, targets.box_px, targets.class_id):
        column[:, 1] = column[:, 0]  # two objects compete for one query
    targets.center_px[:, 1] += 1
    out = model.student(pixels(batch), targets)
    sigma_m = model.make_view(out, batch, 0.0).student.depth_sigma_m
    depth = out.heads.depth
    assert depth.shape[2] == 3 * student.config.queries

    def gradient(depth_m):
        loss = student.losses(out, dataclasses.replace(targets, depth_m=depth_m), SINGLE_PART)[
            'det/depth'
        ]
        return torch.autograd.grad(loss, depth, retain_graph=True)[0]

    original = gradient(targets.depth_m)
    for slot in range(4):
        other = targets.depth_m.clone()
        other[:, slot] += 7
        changed = (gradient(other) != original).any(-1)[:, -1, : student.config.queries]
        assert changed.sum(1).tolist() == [1, 1]
        matched = depth[:, -1, : student.config.queries, 1][changed].exp()
        torch.testing.assert_close(sigma_m[:, slot], matched.detach(), rtol=1e-4, atol=1e-4)


def test_hungarian_matching_runs_once_per_network(monkeypatch):
    calls = []
    match = matcher.hungarian_match

    def count(cost, valid, groups):
        calls.append((cost.shape[1], groups))
        return match(cost, valid, groups)

    monkeypatch.setattr(matcher, 'hungarian_match', count)
    student, teacher = build('monodetr'), build('monodetr')
    distiller(ALL_BUT_HEADS, student=student, teacher=teacher).train()(a_batch(), 0.0, SINGLE_PART)
    layers, groups = student.config.decoder_layers, student.config.groups
    # the student's labels and distillation use one assignment of all layers and groups
    assert calls == [(layers, groups), (1, 1)]


@pytest.mark.parametrize('lacking', ['student', 'teacher'])
@pytest.mark.parametrize('name', [name for name in ALL if name != 'plain_scene'])
def test_nothing_is_learnt_from_an_object_that_a_network_has_not_found(monkeypatch, name, lacking):
    """The loss is that of a batch without the object."""
    model, batch = distiller({name: ALL[name]}), a_batch()
    model.student.heads['depth'][-1].bias.data[1] = 1.0  # uncertain: every loss counts the object
    network = getattr(model, lacking)
    predict = network.predictions_at_targets

    def predict_without_first(outputs, targets):
        predicted = predict(outputs, targets)
        return dataclasses.replace(predicted, found=predicted.found & (targets.depth_m != first))

    first, key = batch.targets.depth_m[0, 0], f'distill/{name}'
    unknown = dataclasses.replace(batch.targets, valid=batch.targets.depth_m > first)
    unknown.valid[1] = batch.targets.valid[1]
    expected = model(dataclasses.replace(batch, targets=unknown), 0.0, SINGLE_PART)[key]
    assert model(batch, 0.0, SINGLE_PART)[key] != expected
    monkeypatch.setattr(network, 'predictions_at_targets', predict_without_first)
    assert model(batch, 0.0, SINGLE_PART)[key] == expected


def test_labels_of_other_classes_do_not_change_the_losses(tmp_path):
    scenes = make_scenes(tmp_path, frames=3)
    path = scenes / 'label_2/000002.txt'
    car, *others = path.read_text().splitlines()
    kinds = ('Van', 'Truck')
    others = [each.replace('Car', kind) for each, kind in zip(others, kinds, strict=True)]
    folders = (str(scenes / name) for name in ('image_2', 'calib', 'label_2'))
    no_augmentation = augmentation.Config(flip=0.0, crop=0.0)
    data = dataset.DataConfig((kitti.KittiFolders(*folders),), augment=no_augmentation)
    losses = []
    for lines in ([car], [car, *others]):
        path.write_text('\n'.join(lines))
        frames = dataset.FrameDataset(data, InputSpec(W, H), ('Car',), 0)
        batch = dataset.collate([frames[0, 2]], 10)
        model = distiller().eval()
        view = model.make_view(model.student(pixels(batch)), batch, 0.0)
        assert view.targets.valid.sum() == 1
        assert float(view.targets.depth_m[0, 0]) == pytest.approx(float(car.split()[13]), abs=0.01)
        losses.append(model(batch, 0.0, SINGLE_PART))
    assert losses[0] == losses[1]


def test_objects_off_the_canvas_do_not_count():
    model, batch = distiller(), a_batch()
    outside_objects = some_objects(0, 4)
    outside_objects.center_px[:, 0] += 2 * W
    targets = pad_targets([outside_objects], 10)
    named = model.eval()(Batch(batch.image[:1], batch.P[:1], targets, ('0',)), 0.0, SINGLE_PART)
    assert all(float(named[f'distill/{name}'].detach()) == 0 for name in SELECTIVE)


@pytest.mark.parametrize('precision', ['bf16', 'fp16'])
def test_losses_of_half_precision_networks_are_float32(precision):
    model, batch = distiller(ALL, precision=precision).train(), a_batch()
    named = model(batch, 0.0, SINGLE_PART)
    assert all(value.dtype == torch.float32 and value.isfinite() for value in named.values())
    exact = distiller(ALL).train()(batch, 0.0, SINGLE_PART)
    for name in SELECTIVE:
        key = f'distill/{name}'
        assert float(named[key].detach()) == pytest.approx(float(exact[key].detach()), rel=0.15)


@pytest.mark.parametrize(
    ('losses', 'config', 'message'),
    [
        ({'featur': None}, SMALL, "'featur': unknown; known: feature, "),
        (
            SELECTIVE,
            DistillLayersConfig(strides=(8, 64)),
            r'strides: \(8, 64\); MonoDLE has \(4, 8, 16, 32\)',
        ),
    ],
)
def test_unknown_losses_and_strides_are_refused(losses, config, message):
    with pytest.raises(ValueError, match=message):
        distiller(losses, config)


@every_detector
@pytest.mark.parametrize('count', [0, 4])
def test_every_loss_works_between_two_detectors_of_one_kind(name, count):
    losses = ALL_BUT_HEADS if name == 'monodetr' else ALL
    model = distiller(losses, student=build(name), teacher=build(name)).train()
    all_losses = model(a_batch(count=count), 0.0, SINGLE_PART)
    named = {key: all_losses[f'distill/{key}'] for key in losses}
    assert all(value.isfinite() for value in named.values())
    assert all((named[key].detach() > 0) == (count > 0) for key in SELECTIVE)
    assert count or not any(named[key].detach() for key in losses if key != 'plain_scene')
    sum(named.values()).backward()
    grads = [p.grad for p in model.student.parameters() if p.grad is not None]
    assert grads
    assert all(grad.isfinite().all() for grad in grads)


def test_plain_heads_refuses_detectors_without_head_maps():
    student, teacher = build('monodetr'), build('monodetr')
    model = distiller({'plain_heads': ALL['plain_heads']}, student=student, teacher=teacher)
    with pytest.raises(ValueError, match='plain_heads: needs the head map offset_2d of student'):
        model(a_batch(), 0.0, SINGLE_PART)


@every_detector
def test_a_detector_returns_predictions_for_each_target(name):
    model, batch = build(name), a_batch()
    out = model(pixels(batch), batch.targets)
    predicted = model.predictions_at_targets(out, batch.targets)
    predictions, valid = predicted.predictions, batch.targets.valid
    for value in (*predictions.values(), predicted.depth_sigma_m):
        assert value.shape[:2] == valid.shape
        assert value.isfinite().all()
    assert (predicted.depth_sigma_m > 0).all()
    assert torch.equal(predicted.found, valid)
    assert predictions['depth'].shape[2] == 1
    assert predictions['heading'].shape[2] % 2 == 0
    sum(value.sum() for value in predictions.values()).backward()
    assert any(p.grad is not None and p.grad.any() for p in model.parameters())


@every_detector
def test_the_depth_prediction_is_a_logit_in_metres_of_the_given_camera(name):
    model, batch = build(name).eval(), a_batch()
    longer = batch.P.clone()
    longer[:, [0, 1], [0, 1]] *= 2
    with torch.no_grad():
        near, far = (
            depth_encoding.from_logit(
                model.predictions_at_targets(out, batch.targets).predictions['depth']
            )
            for out in (model(NetworkInput(pixels(batch).image, P)) for P in (batch.P, longer))
        )
    torch.testing.assert_close(far, 2 * near, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(('name', 'kept'), [('monocon', True), ('monodle', False)])
def test_a_truncated_object_is_distilled_if_its_cell_is_on_the_canvas(name, kept):
    """MonoCon's cell is the middle of the 2D box, MonoDLE's the projected 3D centre."""
    batch = a_batch()
    box, center = batch.targets.box_px.clone(), batch.targets.center_px.clone()
    box[0, 0], center[0, 0] = torch.tensor([0.0, 20.0, 40.0, 60.0]), torch.tensor([-9.0, 40.0])
    targets = dataclasses.replace(batch.targets, box_px=box, center_px=center)
    batch = dataclasses.replace(batch, targets=targets)
    student, teacher = build(name), build(name)
    model = distiller({'feature': {}}, student=student, teacher=teacher).eval()
    out = model.student(pixels(batch), batch.targets)
    view = model.make_view(out, batch, 0.0)
    assert bool(view.targets.valid[0, 0]) == kept
    assert view.targets.valid[0, 1:3].all()


def test_levels_are_chosen_by_name():
    config = DistillLayersConfig(levels=('neck', 'c16'), width=16)
    model, batch = distiller(config=config), a_batch()
    view = model.make_view(model.student(pixels(batch)), batch, 0.0)
    assert [each.spec.name for each in view.feature_pairs()] == ['neck', 'c16']
    by_stride = distiller(config=DistillLayersConfig(strides=(4, 16), width=16))
    assert by_stride.teacher_levels == model.teacher_levels


@pytest.mark.parametrize(
    ('config', 'privileged', 'message'),
    [
        ({'levels': ('neck', 'bev')}, False, "level 'bev': unknown; this detector has neck, c8"),
        (
            {'strides': (4, 8)},
            True,
            "level 'c8' of the teacher lies upstream of where given depth",
        ),
        ({'levels': ()}, False, 'levels: expected one or more names'),
        ({'levels': ('neck', 'neck')}, False, 'levels: expected each once'),
    ],
)
def test_levels_that_cannot_be_compared_are_refused_by_name(config, privileged, message):
    with pytest.raises(ValueError, match=message):
        distiller(config=DistillLayersConfig(**config), privileged=privileged)


def test_levels_in_different_planes_are_refused_by_name():
    student, teacher = build('monodle'), build('monodle')
    level = dataclasses.replace(teacher.levels[0], plane=ImagePlane(8))
    teacher.levels = (level, *teacher.levels[1:])
    with pytest.raises(ValueError, match=r"level 'neck' lies in ImagePlane\(stride=4\) in the"):
        distiller(None, DistillLayersConfig(levels=('neck',)), teacher, student)
