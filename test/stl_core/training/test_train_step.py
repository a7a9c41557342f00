"""One training step: weighted losses, micro-batches, precision, skipped steps."""

import dataclasses

import numpy as np
import pytest
import torch
from kitti_scenes import make_scenes
from small_run import assert_equal_weights, small_config, with_dropout
from torch import nn

from stl_core.data import dataset
from stl_core.tensors.detector import Outputs
from stl_core.tensors.reductions import SINGLE_PART
from stl_core.training import model_builder, optim, train_step, trainer
from stl_core.training.model_builder import SupervisedModel
from stl_core.training.resolved_config import resolve_config


@pytest.fixture(scope='module')
def scenes(tmp_path_factory):
    return make_scenes(tmp_path_factory.mktemp('kitti'), frames=5)


class Toy(nn.Module):
    def __init__(self):
        super().__init__()
        self.x = nn.Parameter(torch.tensor([3.0, 4.0]))

    def forward(self, batch, epoch, normalizer):
        return {'a': (self.x**2).sum(), 'b': self.x.sum()}


def toy():
    model = Toy()
    return model, optim.Optimizer(model, model, optim.OptimConfig(lr=0.1, max_norm=1.0), 'fp32')


def test_losses_and_weights_must_match():
    model, optimizer = toy()
    with pytest.raises(train_step.TrainError, match='differ in b, bb; losses: a, b'):
        train_step.train_step(model, None, optimizer, {'a': 1.0, 'bb': 1.0}, 0)


def test_a_step_follows_the_clipped_weighted_gradient():
    model, optimizer = toy()
    losses = train_step.train_step(model, None, optimizer, {'a': 0.5, 'b': 2.0}, 0)
    assert float(losses['total']) == 0.5 * 25 + 2 * 7
    gradient = np.array([3.0, 4.0]) + 2
    assert float(losses['grad_norm']) == pytest.approx(np.linalg.norm(gradient))
    np.testing.assert_allclose(model.x.grad, gradient / np.linalg.norm(gradient), rtol=1e-4)
    assert (model.x.detach() < torch.tensor([3.0, 4.0])).all()


def test_a_step_with_infinite_gradient_is_skipped():
    model, optimizer = toy()
    losses = train_step.train_step(model, None, optimizer, {'a': 1.0, 'b': float('inf')}, 0)
    assert (float(losses['skipped']), float(losses['grad_norm'])) == (1, 0)
    assert model.x.tolist() == [3.0, 4.0]


@dataclasses.dataclass(frozen=True)
class ValueHeads:
    value: torch.Tensor
    index: torch.Tensor
    none: None = None


class DtypeRecorder(nn.Module):
    """A detector that records the dtype of its activations and of the inputs of its losses."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 1, 1)

    def forward(self, inputs, targets):
        value = self.layer(inputs.image)
        self.activation_dtype = value.dtype
        heads = ValueHeads(value, torch.zeros(1, dtype=torch.int64))
        return Outputs((value,), heads, inputs.size_px)

    def losses(self, out, targets, normalizer):
        self.loss_dtypes = [out.features[0].dtype, out.heads.value.dtype, out.heads.index.dtype]
        return {'value': out.heads.value.sum()}


@pytest.mark.parametrize(('precision', 'dtype'), [('fp32', 'float32'), ('bf16', 'bfloat16')])
def test_losses_are_float32_whatever_the_precision_of_the_network(scenes, precision, dtype):
    config = small_config(scenes, scenes)
    frames = dataset.FrameDataset(config.train, config.input, config.classes, config.seed)
    model = SupervisedModel(DtypeRecorder(), config.input, precision)
    model(dataset.collate([frames[0, 0]], 50), 0.0, SINGLE_PART)['value'].backward()
    assert model.detector.activation_dtype == getattr(torch, dtype)
    assert model.detector.loss_dtypes == [torch.float32, torch.float32, torch.int64]
    assert model.detector.layer.weight.grad.dtype == torch.float32


def first_gradients(scenes, build, num_micro_batches):
    """Return losses and gradients of a first step on five images."""
    config = small_config(scenes, scenes)
    frames = dataset.FrameDataset(config.train, config.input, config.classes, config.seed)
    batch = dataset.collate([frames[0, index] for index in range(5)], 50)
    torch.manual_seed(0)
    model = build(resolve_config(config)).train()
    trainer.freeze_norm(model)
    optimizer = optim.Optimizer(model, model.detector, config.optim, 'fp32')
    losses = train_step.train_step(
        model, batch, optimizer, config.weights, 0, num_micro_batches=num_micro_batches
    )
    return losses, {name: p.grad for name, p in model.named_parameters()}


@pytest.mark.parametrize('num_micro_batches', [2, 5])
def test_micro_batches_have_the_gradient_of_the_whole_batch(scenes, num_micro_batches):
    """The five images hold 1, 2, 3, 1 and 2 objects."""
    expected_losses, expected = first_gradients(scenes, model_builder.build_model, 1)
    losses, gradients = first_gradients(scenes, model_builder.build_model, num_micro_batches)
    for name in expected_losses:
        assert float(losses[name]) == pytest.approx(float(expected_losses[name]), rel=1e-5), name
    for name in expected:
        largest = float(expected[name].abs().max())
        torch.testing.assert_close(gradients[name], expected[name], rtol=1e-4, atol=1e-5 * largest)


def test_precomputed_means_change_neither_norms_nor_random_state(scenes):
    config = small_config(scenes, scenes)
    frames = dataset.FrameDataset(config.train, config.input, config.classes, config.seed)
    micro_batches = [dataset.collate([frames[0, index]], 50) for index in (0, 1)]
    model = with_dropout(resolve_config(config)).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    means = train_step.precompute_means(model, micro_batches, 0.0)
    assert torch.equal(torch.rand(3), expected)
    assert_equal_weights(before, model.state_dict())
    assert len(means) > 5


class DataDependentMeans(nn.Module):
    """The nth forward pass asks for means of the nth shapes."""

    def __init__(self, *shapes):
        super().__init__()
        self.x = nn.Parameter(torch.ones(()))
        self.shapes = iter(shapes)

    def forward(self, batch, epoch, normalizer):
        means = [normalizer.mean(torch.ones(shape)).sum() for shape in next(self.shapes)]
        return {'a': self.x * sum(means)}


@pytest.mark.parametrize(
    'shapes',
    [
        ([(), ()], [()]),
        ([(2, 3)], [(3, 2)]),
        ([(), ()], [(2,)]),
        ([(), ()], [(), ()], [()]),
        ([()], [()], [(), ()]),
    ],
    ids=['number', 'shape', 'same size', 'fewer in the step', 'more in the step'],
)
def test_micro_batches_that_ask_for_different_means_are_an_error(scenes, shapes):
    config = small_config(scenes, scenes)
    frames = dataset.FrameDataset(config.train, config.input, config.classes, config.seed)
    batch = dataset.collate([frames[0, 0], frames[0, 1]], 50)
    model = DataDependentMeans(*shapes)
    optimizer = optim.Optimizer(model, model, optim.OptimConfig(), 'fp32')
    with pytest.raises(RuntimeError, match='ask for different means; expected the same calls'):
        train_step.train_step(model, batch, optimizer, {'a': 1.0}, 0, num_micro_batches=2)


def test_fp16_lowers_its_loss_scale_until_steps_succeed(scenes):
    """The first depth gradient is some hundreds; times 2**16 it overflows fp16."""
    config = small_config(scenes, scenes, precision='fp16')
    frames = dataset.FrameDataset(config.train, config.input, config.classes, config.seed)
    batch = dataset.collate([frames[0, 0], frames[0, 1]], 50)
    torch.manual_seed(0)
    model = model_builder.build_model(resolve_config(config)).train()
    optimizer = optim.Optimizer(model, model.detector, config.optim, config.precision)
    before = model.detector.heads['depth'][0].weight.detach().clone()
    skipped = []
    while not skipped or (skipped[-1] and len(skipped) < 16):
        losses = train_step.train_step(model, batch, optimizer, config.weights, 0)
        skipped.append(bool(losses['skipped']))
        changed = not torch.equal(model.detector.heads['depth'][0].weight, before)
        assert changed != skipped[-1]
        assert optimizer.scaler.get_scale() == 2.0 ** (16 - sum(skipped))
    assert len(skipped) > 1
    assert not skipped[-1]
