"""The Distiller: a frozen teacher, training-only layers, and a student that is left bare."""

import copy
import dataclasses

import numpy as np
import pytest
import torch
from kitti_scenes import make_scenes
from small_detectors import Answers, H, W, build, every_detector, some_objects

from stl_core.data import augmentation, dataset
from stl_core.data.sources import kitti
from stl_core.distill import LOSSES
from stl_core.distill.adapters import ReviewFusion, build_adapter
from stl_core.distill.distiller import Distiller, DistillLayersConfig, distillation_losses
from stl_core.models import DETECTORS
from stl_core.preprocessing import InputSpec
from stl_core.tensors import depth_encoding, normalization
from stl_core.tensors.batch import Batch, pad_targets

SMALL = DistillLayersConfig(width=16)
ALL = {name: entry.config() for name, entry in LOSSES.items()}
SELECTIVE = {name: ALL[name] for name in ('feature', 'relation', 'response')}


def pixels(batch):
    return normalization.network_input(batch, InputSpec())


def negative(batch):
    """What a teacher may see instead: another picture of the same scene."""
    return -pixels(batch)


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
    """Take steps over all losses alike -> the total before each."""
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, 1e-3)
    totals = []
    for _ in range(count):
        total = torch.stack(list(model(batch, 0.0).values())).sum()
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        totals.append(float(total.detach()))
    return totals


def test_every_loss_is_told_by_name_beside_the_students():
    model, batch = distiller(ALL), a_batch()
    named = model(batch, 0.5)
    alone = model.student.losses(model.student(pixels(batch), batch.P), batch.targets)
    assert named.keys() == alone.keys() | {f'distill/{name}' for name in LOSSES}
    assert all(value.dim() == 0 and value.isfinite() for value in named.values())


def test_a_loss_left_out_is_the_ablation_and_none_is_learning_from_labels():
    model, batch = distiller({}), a_batch()
    named = model(batch, 0.0)
    twin = build('monodle').train()
    assert named == twin.losses(twin(pixels(batch), batch.P), batch.targets)
    assert not list(model.adapters.parameters())


def test_the_total_falls_while_the_teacher_stays_bit_for_bit():
    model, batch = distiller().train(), a_batch()
    before = copy.deepcopy(model.teacher.state_dict())
    totals = steps(model, batch, 6)
    assert totals[-1] < 0.9 * totals[0]
    for name, value in model.teacher.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(p.grad is None and not p.requires_grad for p in model.teacher.parameters())


def test_the_teacher_is_in_eval_mode_whatever_is_asked():
    model = distiller()
    for mode in (True, False, True):
        model.train(mode)
        assert model.student.training == model.review.training == mode
        assert not any(module.training for module in model.teacher.modules())
    torch.nn.Sequential(model).train()
    assert not any(module.training for module in model.teacher.modules())


def test_gradients_of_distillation_alone_reach_student_and_layers():
    model, batch = distiller().train(), a_batch()
    named = model(batch, 0.0)
    sum(value for name, value in named.items() if name.startswith('distill/')).backward()
    for part in (model.student.backbone, model.review, model.adapters):
        reached = [p.grad is not None and p.grad.any() for p in part.parameters()]
        assert np.mean(reached) > 0.7  # biases before a BatchNorm, and what is in no box, are not


def test_coarse_maps_are_reviewed_on_fine_ones_and_not_the_other_way():
    torch.manual_seed(0)
    review = ReviewFusion((8, 12, 16), 16).eval()
    maps = [torch.randn(1, width, side, side) for width, side in ((8, 16), (12, 8), (16, 4))]
    with torch.no_grad():
        before = review(maps)
        for level in range(3):
            after = review([each + (place == level) for place, each in enumerate(maps)])
            moved = [not torch.equal(*pair) for pair in zip(before, after, strict=True)]
            assert moved == [place <= level for place in range(3)]


def test_maps_are_mixed_by_attention_place_by_place():
    torch.manual_seed(0)
    review = ReviewFusion((8, 12), 16).eval()
    fine, coarse = torch.randn(1, 8, 8, 12), torch.randn(1, 12, 4, 6)
    with torch.no_grad():
        found = review([fine, coarse])
        own, left = review.inward[0](fine)[0], review.inward[1](coarse)[0]
        weight, bias = review.attention[0].weight[:, :, 0, 0], review.attention[0].bias
        mixed = torch.empty(16, 8, 12)
        for y in range(8):
            for x in range(12):
                one, two = own[:, y, x], left[:, y // 2, x // 2]
                share = 1 / (1 + torch.exp(-(weight @ torch.cat([one, two]) + bias)))
                mixed[:, y, x] = share[0] * one + share[1] * two
        torch.testing.assert_close(found[0], review.outward[0](mixed[None]), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(found[1], review.outward[1](left[None]))


def test_an_adapter_sees_neighbours_bends_and_ends_at_the_width_of_the_teacher():
    torch.manual_seed(0)
    layers = build_adapter(8, 24, 16).eval()
    point = torch.zeros(1, 8, 7, 7)
    point[..., 3, 3] = 1.0
    with torch.no_grad():
        silent, up, down = (layers(each) for each in (0 * point, point, -point))
    assert up.shape == (1, 24, 7, 7)
    reached = ((up - silent)[0].abs().amax(0) > 1e-6).nonzero()
    assert (reached.min(0).values.tolist(), reached.max(0).values.tolist()) == ([2, 2], [4, 4])
    assert not torch.allclose(up - silent, silent - down, atol=1e-3)  # it is not linear


def test_layers_learn_alone_first():
    model, batch = (
        distiller(config=DistillLayersConfig(width=16, alone_epochs=0.5)).train(),
        a_batch(),
    )
    for epoch, reached in ((0.49, False), (0.5, True)):
        model.zero_grad()
        model(batch, epoch)['distill/feature'].backward()
        assert any(p.grad is not None for p in model.student.parameters()) == reached
        assert all(p.grad is not None for p in model.adapters.parameters())


@pytest.mark.parametrize('name', list(LOSSES))
def test_every_trained_layer_is_in_the_graph_also_without_objects(name):
    """As DistributedDataParallel demands."""
    model = distiller({name: LOSSES[name].config()}).train()
    sum(model(a_batch(count=0), 0.0).values()).backward()
    for name, p in model.named_parameters():
        if p.requires_grad:
            assert p.grad is not None, name
            assert p.grad.isfinite().all(), name


def among_its_like(name):
    return distiller(student=build(name), teacher=build(name))


@every_detector
def test_the_student_is_the_bare_detector(name):
    model, batch = among_its_like(name).train(), a_batch()
    steps(model, batch, 2)
    bare = build(name).eval()
    assert model.student.state_dict().keys() == bare.state_dict().keys()
    bare.load_state_dict(model.student.state_dict())
    assert model.detector is model.student
    model.eval()
    with torch.no_grad():
        one, other = (net(pixels(batch), batch.P) for net in (bare, model.detector))
        read, same = bare.decode(one), model.detector.decode(other)
    for own, ideal in zip(one.features, other.features, strict=True):
        assert torch.equal(own, ideal)
    for own, ideal in ((one.heads, other.heads), (read, same)):
        assert own.keys() == ideal.keys()
        assert all(torch.equal(own[key], ideal[key]) for key in own)


@every_detector
def test_the_exported_graph_is_that_of_the_bare_detector(name):
    model, batch = among_its_like(name).eval(), a_batch(1)
    graphs, states = [], []
    for net in (build(name).eval(), model.detector):
        exported = torch.export.export(Answers(net), (pixels(batch), batch.P))
        graphs.append([(node.op, str(node.target), node.name) for node in exported.graph.nodes])
        states.append(exported.state_dict.keys())
    assert graphs[0] == graphs[1]
    assert states[1] == {f'detector.{key}' for key in model.student.state_dict()}


def test_a_run_goes_on_from_its_state():
    model, batch = distiller().train(), a_batch()
    steps(model, batch, 2)
    other = distiller(teacher=build('monodle', backbone='mobilenetv3_small_050'))
    other.load_state_dict(model.state_dict())
    with torch.no_grad():
        one, two = model.eval()(batch, 0.0), other.eval()(batch, 0.0)
    assert one == two


def test_a_dla_teaches_a_mobile_student_by_stride():
    model, batch = distiller(teacher=build('monodle', backbone='dla34')), a_batch()
    view = model.make_view(model.student(pixels(batch), batch.P), batch, 0.0)
    assert list(view.adapted) == [8, 16, 32]
    for stride, own, ideal in view.feature_pairs():
        assert own.shape == ideal.shape == (2, 16 * stride, H // stride, W // stride)
    assert list(view.student.features) == list(view.teacher.features) == [4, 8, 16, 32]
    assert all(value.isfinite() for value in model(batch, 0.0).values())


def test_the_teacher_sees_what_it_is_given():
    seen = []

    def depth_maps(batch):
        seen.append(torch.rand(len(batch.ids), 2, H, W))
        return seen[-1]

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
    view = model.make_view(model.student(pixels(batch), batch.P), batch, 0.0)
    with torch.no_grad():
        ideal = teacher(seen[0], batch.P)
    torch.testing.assert_close(view.teacher.heads, ideal.heads)


def test_a_view_tells_sigma_in_metres_and_carries_no_gradient_of_the_teacher():
    model, batch = distiller(), a_batch()
    out = model.student(pixels(batch), batch.P)
    view = model.make_view(out, batch, 2.5)
    sure = model.student.depth_confidence(out, batch.targets)
    valid = view.targets.valid
    torch.testing.assert_close((1 / (1 + view.student.sigma_m))[valid], sure[valid].detach())
    assert not view.student.sigma_m.requires_grad
    assert view.student.predictions['depth'].requires_grad
    teacher = view.teacher
    parts = (*teacher.features.values(), *teacher.heads.values(), *teacher.predictions.values())
    assert not any(each.requires_grad for each in (*parts, teacher.sigma_m))
    assert (view.size_px, view.epoch) == ((H, W), 2.5)


@pytest.mark.parametrize(('log_sigma', 'told'), [(30.0, 1e3), (-30.0, 1e-3)])
def test_a_sigma_beyond_all_reason_is_bounded(log_sigma, told):
    model, batch = distiller(ALL), a_batch()
    out = model.student(pixels(batch), batch.P)
    out.heads['depth'].data[:, 1] = log_sigma
    view = model.make_view(out, batch, 0.0)
    assert (view.student.sigma_m == told).all()
    assert all(each.isfinite() for each in distillation_losses(view, model.losses).values())


def test_sigma_of_a_query_is_that_of_the_one_that_labels_teach():
    """Of all groups and layers in training, the query whose gradient the object's depth turns."""
    student = build('monodetr', groups=3)
    model, batch = distiller(student=student, teacher=build('monodetr')).train(), a_batch()
    targets = batch.targets
    for column in (targets.center_px, targets.box_px, targets.class_id):
        column[:, 1] = column[:, 0]  # two want one query
    targets.center_px[:, 1] += 1
    out = model.student(pixels(batch), batch.P, targets)
    sigma_m = model.make_view(out, batch, 0.0).student.sigma_m
    told = out.heads['depth']
    assert told.shape[2] == 3 * student.config.queries

    def pull(depth_m):
        loss = student.losses(out, dataclasses.replace(targets, depth_m=depth_m))['det/depth']
        return torch.autograd.grad(loss, told, retain_graph=True)[0]

    usual = pull(targets.depth_m)
    for slot in range(4):
        other = targets.depth_m.clone()
        other[:, slot] += 7
        turned = (pull(other) != usual).any(-1)[:, -1, : student.config.queries]
        assert turned.sum(1).tolist() == [1, 1]
        taught = told[:, -1, : student.config.queries, 1][turned].exp()
        torch.testing.assert_close(sigma_m[:, slot], taught.detach(), rtol=1e-4, atol=1e-4)


def test_labels_of_other_classes_do_not_teach(tmp_path):
    scenes = make_scenes(tmp_path, frames=3)
    path = scenes / 'label_2/000002.txt'
    car, *others = path.read_text().splitlines()
    kinds = ('Van', 'Truck')
    others = [each.replace('Car', kind) for each, kind in zip(others, kinds, strict=True)]
    folders = (str(scenes / name) for name in ('image_2', 'calib', 'label_2'))
    still = augmentation.Config(flip=0.0, crop=0.0)
    data = dataset.DataConfig((kitti.KittiFolders(*folders),), augment=still)
    seen = []
    for lines in ([car], [car, *others]):
        path.write_text('\n'.join(lines))
        frames = dataset.FrameDataset(data, InputSpec(W, H), ('Car',), 0)
        batch = dataset.collate([frames[0, 2]], 10)
        model = distiller().eval()
        view = model.make_view(model.student(pixels(batch), batch.P), batch, 0.0)
        assert view.targets.valid.sum() == 1
        assert float(view.targets.depth_m[0, 0]) == pytest.approx(float(car.split()[13]), abs=0.01)
        seen.append(model(batch, 0.0))
    assert seen[0] == seen[1]


def test_objects_off_the_canvas_do_not_teach():
    model, batch = distiller(), a_batch()
    moved = some_objects(0, 4)
    moved.center_px[:, 0] += 2 * W
    empty = Batch(batch.image[:1], batch.P[:1], pad_targets([moved], 10), ('0',))
    named = model.eval()(empty, 0.0)
    assert all(float(named[f'distill/{name}'].detach()) == 0 for name in SELECTIVE)


@pytest.mark.parametrize('precision', ['bf16', 'fp16'])
def test_half_precision_networks_give_whole_losses(precision):
    model, batch = distiller(ALL, precision=precision).train(), a_batch()
    named = model(batch, 0.0)
    assert all(value.dtype == torch.float32 and value.isfinite() for value in named.values())
    exact = distiller(ALL).train()(batch, 0.0)
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
def test_what_cannot_be_built_is_told(losses, config, message):
    with pytest.raises(ValueError, match=message):
        distiller(losses, config)


@every_detector
@pytest.mark.parametrize('count', [0, 4])
def test_every_detector_can_teach_its_like_by_every_loss(name, count):
    losses = {key: ALL[key] for key in ALL if (name, key) != ('monodetr', 'plain_heads')}
    model = distiller(losses, student=build(name), teacher=build(name)).train()
    found = model(a_batch(count=count), 0.0)
    named = {key: found[f'distill/{key}'] for key in losses}
    assert all(value.isfinite() for value in named.values())
    assert all((named[key].detach() > 0) == (count > 0) for key in SELECTIVE)
    assert count or not any(named[key].detach() for key in losses if key != 'plain_scene')
    sum(named.values()).backward()
    grads = [p.grad for p in model.student.parameters() if p.grad is not None]
    assert grads
    assert all(grad.isfinite().all() for grad in grads)


def test_head_maps_of_a_detector_without_cannot_be_compared():
    student, teacher = build('monodetr'), build('monodetr')
    model = distiller({'plain_heads': ALL['plain_heads']}, student=student, teacher=teacher)
    with pytest.raises(ValueError, match='plain_heads: needs the head map offset_2d of student'):
        model(a_batch(), 0.0)


@every_detector
def test_a_detector_answers_for_each_target(name):
    model, batch = build(name), a_batch()
    out = model(pixels(batch), batch.P, batch.targets)
    answers = model.predictions_at_targets(out, batch.targets)
    for value in answers.values():
        assert value.shape[:2] == batch.targets.valid.shape
        assert value.isfinite().all()
    assert answers['depth'].shape[2] == 1
    assert answers['heading'].shape[2] % 2 == 0
    sum(value.sum() for value in answers.values()).backward()
    assert any(p.grad is not None and p.grad.any() for p in model.parameters())


@every_detector
def test_the_answer_of_depth_is_its_logit_in_metres_of_this_lens(name):
    model, batch = build(name).eval(), a_batch()
    longer = batch.P.clone()
    longer[:, [0, 1], [0, 1]] *= 2
    with torch.no_grad():
        near, far = (
            depth_encoding.from_logit(
                model.predictions_at_targets(model(pixels(batch), P), batch.targets)['depth']
            )
            for P in (batch.P, longer)
        )
    torch.testing.assert_close(far, 2 * near, rtol=1e-3, atol=1e-3)
