import numpy as np
import pytest
import torch
from kitti_scenes import make_scenes
from small_run import assert_equal_weights, dropping, small_config
from torch import nn

from stl_core.data import dataset
from stl_core.tensors.batch import Outputs
from stl_core.training import model_builder, optim, train_step, trainer
from stl_core.training.model_builder import SupervisedModel


@pytest.fixture(scope='module')
def scenes(tmp_path_factory):
    return make_scenes(tmp_path_factory.mktemp('kitti'), frames=5)


class Toy(nn.Module):
    def __init__(self):
        super().__init__()
        self.x = nn.Parameter(torch.tensor([3.0, 4.0]))

    def forward(self, batch, epoch):
        return {'a': (self.x**2).sum(), 'b': self.x.sum()}


def toy():
    model = Toy()
    return model, optim.Optimizer(model, model, optim.OptimConfig(lr=0.1, max_norm=1.0), 'fp32')


def test_losses_and_weights_must_match():
    model, optimizer = toy()
    with pytest.raises(train_step.TrainError, match='differ in b, bb; losses: a, b'):
        train_step.train_step(model, None, optimizer, {'a': 1.0, 'bb': 1.0}, 0)


def test_a_step_is_the_weighted_gradient_clipped():
    model, optimizer = toy()
    told = train_step.train_step(model, None, optimizer, {'a': 0.5, 'b': 2.0}, 0)
    assert float(told['total']) == 0.5 * 25 + 2 * 7
    gradient = np.array([3.0, 4.0]) + 2
    assert float(told['grad_norm']) == pytest.approx(np.linalg.norm(gradient))
    np.testing.assert_allclose(model.x.grad, gradient / np.linalg.norm(gradient), rtol=1e-4)
    assert (model.x.detach() < torch.tensor([3.0, 4.0])).all()


def test_a_step_without_a_finite_gradient_is_not_taken():
    model, optimizer = toy()
    told = train_step.train_step(model, None, optimizer, {'a': 1.0, 'b': float('inf')}, 0)
    assert (float(told['skipped']), float(told['grad_norm'])) == (1, 0)
    assert model.x.tolist() == [3.0, 4.0]


class Telling(nn.Module):
    """A detector that tells what it computed in, and what its losses were given."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 1, 1)

    def forward(self, image, P, targets):
        value = self.layer(image)
        self.computed = value.dtype
        return Outputs((value,), {'value': value, 'index': torch.zeros(1, dtype=torch.int64)})

    def losses(self, out, targets):
        self.given = [out.features[0].dtype, *(value.dtype for value in out.heads.values())]
        return {'value': out.heads['value'].sum()}


@pytest.mark.parametrize(('precision', 'dtype'), [('fp32', 'float32'), ('bf16', 'bfloat16')])
def test_networks_compute_in_half_and_losses_in_float32(scenes, precision, dtype):
    built = small_config(scenes, scenes)
    frames = dataset.FrameDataset(built.train, built.input, built.classes, built.seed)
    learner = SupervisedModel(Telling(), built.input, precision)
    learner(dataset.collate([frames[0, 0]], 50), 0.0)['value'].backward()
    assert learner.detector.computed == getattr(torch, dtype)
    assert learner.detector.given == [torch.float32, torch.float32, torch.int64]
    assert learner.detector.layer.weight.grad.dtype == torch.float32


def first_gradients(scenes, build, parts):
    """Gradients of a first step on five images, computed in parts."""
    built = small_config(scenes, scenes)
    frames = dataset.FrameDataset(built.train, built.input, built.classes, built.seed)
    batch = dataset.collate([frames[0, index] for index in range(5)], 50)
    torch.manual_seed(0)
    learner = build(built).train()
    trainer.freeze_norm(learner)
    optimizer = optim.Optimizer(learner, learner.detector, built.optim, 'fp32')
    told = train_step.train_step(
        learner, batch, optimizer, built.weights, 0, num_micro_batches=parts
    )
    return told, {name: p.grad for name, p in learner.named_parameters()}


@pytest.mark.parametrize('parts', [2, 5])
def test_parts_have_the_gradient_of_the_whole(scenes, parts):
    """The five images hold 1, 2, 3, 1 and 2 objects."""
    whole, expected = first_gradients(scenes, model_builder.build_model, 1)
    told, found = first_gradients(scenes, model_builder.build_model, parts)
    for name in whole:
        assert float(told[name]) == pytest.approx(float(whole[name]), rel=1e-5), name
    for name in expected:
        largest = float(expected[name].abs().max())
        torch.testing.assert_close(found[name], expected[name], rtol=1e-4, atol=1e-5 * largest)


def test_a_rehearsal_leaves_norms_and_chance_alone(scenes):
    built = small_config(scenes, scenes)
    frames = dataset.FrameDataset(built.train, built.input, built.classes, built.seed)
    pieces = [dataset.collate([frames[0, index]], 50) for index in (0, 1)]
    learner = dropping(built).train()
    before = {name: value.clone() for name, value in learner.state_dict().items()}
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    means = train_step.precompute_reductions(learner, pieces, 0.0)
    assert torch.equal(torch.rand(3), expected)
    assert_equal_weights(before, learner.state_dict())
    assert len(means) > 5


def test_fp16_finds_its_scale(scenes):
    """Depth's first gradient is some hundreds: times 2**16 it is more than fp16 can hold."""
    built = small_config(scenes, scenes, precision='fp16')
    frames = dataset.FrameDataset(built.train, built.input, built.classes, built.seed)
    batch = dataset.collate([frames[0, 0], frames[0, 1]], 50)
    torch.manual_seed(0)
    learner = model_builder.build_model(built).train()
    optimizer = optim.Optimizer(learner, learner.detector, built.optim, built.precision)
    before = learner.detector.heads['depth'][0].weight.detach().clone()
    skipped = []
    while not skipped or (skipped[-1] and len(skipped) < 16):
        told = train_step.train_step(learner, batch, optimizer, built.weights, 0)
        skipped.append(bool(told['skipped']))
        changed = not torch.equal(learner.detector.heads['depth'][0].weight, before)
        assert changed != skipped[-1]
        assert optimizer.scaler.get_scale() == 2.0 ** (16 - sum(skipped))
    assert len(skipped) > 1
    assert not skipped[-1]
