"""CPL and ASB between two detectors: gradients on weights that ship, steps, checkpoints."""

import copy
import dataclasses

import numpy as np
import pytest
import torch
from small_detectors import build, some_objects

from stl_core.distill.distiller import Distiller, DistillLayersConfig
from stl_core.distill.losses.asb import AsbConfig
from stl_core.distill.losses.cpl import CplConfig
from stl_core.preprocessing import InputSpec
from stl_core.tensors import normalization
from stl_core.tensors.batch import Batch, NetworkInput, pad_targets
from stl_core.tensors.reductions import SINGLE_PART
from stl_core.training.optim import OptimConfig, Optimizer
from stl_core.training.train_step import train_step
from stl_core.training.trainer import freeze_norm

H, W = 64, 128
WEIGHTS = {'distill/cpl': 1.0, 'distill/asb': 0.05, 'distill/asb_scorer': 1.0}


def pixels(batch):
    return normalization.network_input(batch, InputSpec(W, H))


def negative(batch):
    """Return another image of the same scene, as input of the teacher."""
    return NetworkInput(-pixels(batch).image, batch.P)


def objects(seed):
    """Return objects within the small canvas, with boxes of 24 pixels."""
    many = some_objects(seed)
    center = 12 + np.random.default_rng(seed).uniform(0, 1, (len(many), 2)) * [W - 24, H - 24]
    box = np.concatenate([center - 12, center + 12], 1)
    return dataclasses.replace(many, center_px=center, box_px=box)


def a_batch(rows=2):
    rng = np.random.default_rng(0)
    P = torch.eye(3, 4).repeat(rows, 1, 1)
    P[:, 0, 0] = P[:, 1, 1] = 300.0
    return Batch(
        image=torch.from_numpy(rng.integers(0, 256, (rows, H, W, 3), np.uint8)),
        P=P,
        targets=pad_targets([objects(i) for i in range(rows)], 10),
        ids=tuple(str(row) for row in range(rows)),
    )


def distiller(losses=None, **options):
    losses = losses or {'cpl': CplConfig(), 'asb': AsbConfig(width=8)}
    student = build('monodle')
    torch.manual_seed(1)
    networks = (student, build('monodle'), losses, DistillLayersConfig())
    inputs = {'student_input': pixels, 'teacher_input': negative}
    return Distiller(*networks, **inputs, **options).train()


def optimizer_of(model):
    # few parameters have a gradient so small that rounding decides about AdamW's step
    config = OptimConfig(lr=1e-4, warmup_epochs=0)
    return Optimizer(model, model.student, config, 'fp32', model.optimizer_groups())


def weights_of(model, batch):
    named = model(batch, 3.0, SINGLE_PART)
    return {name: WEIGHTS.get(name, 1.0) for name in named}


@pytest.mark.parametrize('loss', ['cpl', 'asb'])
def test_each_loss_reaches_weights_that_ship(loss):
    model = distiller()
    named = model(a_batch(), 3.0, SINGLE_PART)
    shipped = [*model.student.backbone.parameters(), *model.student.neck.parameters()]
    gradients = torch.autograd.grad(named[f'distill/{loss}'], shipped, allow_unused=True)
    reached = [each for each in gradients if each is not None and each.any()]
    assert len(reached) > 0.9 * len(shipped)


def test_the_scorer_has_an_optimiser_of_its_kind_and_nothing_of_cpl_and_asb_ships():
    model = distiller()
    ((name, (config, parameters)),) = model.optimizer_groups().items()
    assert (name, config.lr, config.betas) == ('distill/asb/scorer', 2e-4, (0.5, 0.999))
    scorer = model.transfers['asb'].scorer
    assert {id(each) for each in parameters} == {id(each) for each in scorer.parameters()}
    assert model.detector.state_dict().keys() == build('monodle').state_dict().keys()


def test_asb_scores_what_cpl_projects():
    model, batch = distiller().eval(), a_batch()
    value = model(batch, 3.0, SINGLE_PART)['distill/asb']
    with torch.no_grad():
        model.transfers['cpl'].projection.weight.mul_(-1)
    other = model(batch, 3.0, SINGLE_PART)['distill/asb']
    alone = distiller({'asb': AsbConfig(width=8)})
    alone.transfers['asb'].load_state_dict(model.transfers['asb'].state_dict())
    assert not torch.isclose(value, other)
    torch.testing.assert_close(alone.eval()(batch, 3.0, SINGLE_PART)['distill/asb'], value)


def test_half_precision_networks_have_float32_losses():
    batch = a_batch()
    expected = distiller()(batch, 3.0, SINGLE_PART)
    named = distiller(precision='bf16')(batch, 3.0, SINGLE_PART)
    for name in WEIGHTS:
        assert named[name].dtype == torch.float32
        assert float(named[name].detach()) == pytest.approx(
            float(expected[name].detach()), rel=0.1
        )


def test_a_step_of_micro_batches_equals_that_of_the_whole_batch():
    batch, models = a_batch(4), []
    for parts in (1, 2):
        model = distiller()
        weights = weights_of(model.eval(), batch)
        freeze_norm(model.train())  # BatchNorm sees one part at a time
        optimizer = optimizer_of(model)
        results = train_step(model, batch, optimizer, weights, 3.0, num_micro_batches=parts)
        models.append((model, results))
    (whole, expected), (split, results) = models
    for name in (*WEIGHTS, 'metric/distill/asb/accuracy', 'grad_norm/distill/asb/scorer'):
        torch.testing.assert_close(results[name], expected[name], rtol=1e-4, atol=1e-6)
    for name, buffer in whole.transfers.named_buffers():
        torch.testing.assert_close(
            split.transfers.get_buffer(name), buffer, rtol=1e-4, atol=1e-6, msg=name
        )


def test_a_restored_distiller_continues_as_if_it_had_not_stopped():
    batch = a_batch()
    model = distiller()
    optimizer, weights = optimizer_of(model), weights_of(model, batch)
    train_step(model, batch, optimizer, weights, 2.0)
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    resumed = distiller({'cpl': CplConfig(), 'asb': AsbConfig(width=8)})
    other = optimizer_of(resumed)
    resumed.load_state_dict(saved[0])
    other.load_state_dict(saved[1])
    for net, each in ((model, optimizer), (resumed, other)):
        train_step(net, batch, each, weights, 2.5)
    for (name, value), restored in zip(
        model.state_dict().items(), resumed.state_dict().values(), strict=True
    ):
        assert torch.equal(value, restored), name


def test_a_step_whose_gradient_is_not_finite_changes_neither_scorer_nor_statistics():
    batch, model = a_batch(), distiller()
    optimizer, weights = optimizer_of(model), weights_of(model, batch)
    before = copy.deepcopy(model.transfers.state_dict())
    broken = {name: float('nan') if name == 'distill/cpl' else w for name, w in weights.items()}
    results = train_step(model, batch, optimizer, broken, 3.5)
    assert results['skipped'] == 1
    for name, value in model.transfers.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_without_objects_a_step_leaves_the_student_to_its_labels():
    empty = a_batch()
    targets = dataclasses.replace(empty.targets, valid=empty.targets.valid & False)
    named = distiller()(dataclasses.replace(empty, targets=targets), 3.0, SINGLE_PART)
    assert all(float(named[name].detach()) == 0 for name in WEIGHTS)
