"""Optimiser groups: parameters with AdamW, learning rate and clipping of their own."""

import copy
import math

import pytest
import torch
from sync_recorder import SyncRecorder
from torch import nn

from stl_core.tensors.optim_group import OptimGroupConfig
from stl_core.training import optim
from stl_core.training.run.saved_buffers import save_buffers

SCORER = OptimGroupConfig(lr=0.02, betas=(0.5, 0.999), max_norm=0.7, weight_decay=0.1)


class WithScorer(nn.Module):
    """A student and a scorer that reads its detached output, in one loss."""

    def __init__(self, config=SCORER):
        super().__init__()
        torch.manual_seed(0)
        self.detector = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
        scorer = nn.Linear(2, 1)
        self.scorer = nn.utils.parametrizations.spectral_norm(scorer)
        self.config = config

    def optimizer_groups(self):
        return {'asb/scorer': (self.config, list(self.scorer.parameters()))}

    def forward(self, x):
        out = self.detector(x)
        return (out**2).mean() + nn.functional.softplus(self.scorer(out.detach())).mean()

    def main_parameters(self):
        return list(self.detector.parameters())


def build(model, precision='fp32', **options):
    return optim.Optimizer(
        model,
        model.detector,
        optim.OptimConfig(**options),
        precision,
        optim.optimizer_groups(model),
    )


def set_gradients(model, seed, scale=1.0):
    torch.manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = scale * torch.randn_like(parameter)


def norm_of(parameters):
    return math.sqrt(sum(float((each.grad**2).sum()) for each in parameters))


def copy_state(model, optimizer):
    """Return a copy of all tensors that a step may change, by name."""
    state = dict(model.state_dict())
    for key, each in optimizer.state_dict().items():
        parts = each['state'] if 'state' in each else {}
        for index, moments in parts.items():
            state |= {f'{key}.{index}.{name}': value for name, value in moments.items()}
    if optimizer.ema:
        state |= {f'mean.{k}': v for k, v in optimizer.ema.module.state_dict().items()}
    return {name: value.detach().clone() for name, value in state.items()}


def test_each_part_equals_torchs_adamw_on_its_clipped_gradient():
    """A group's gradient counts neither in the main norm nor the reverse."""
    model, reference = WithScorer(), WithScorer()
    optimizer = build(model, lr=0.1, betas=(0.8, 0.9), weight_decay=0.5, max_norm=1.3)
    weights, vectors = (
        [p for p in reference.main_parameters() if (p.dim() > 1) == matrix]
        for matrix in (True, False)
    )
    main = torch.optim.AdamW(
        [{'params': weights, 'weight_decay': 0.5}, {'params': vectors, 'weight_decay': 0.0}],
        0.1,
        (0.8, 0.9),
    )
    scorer_weights, scorer_vectors = (
        [p for p in reference.scorer.parameters() if (p.dim() > 1) == matrix]
        for matrix in (True, False)
    )
    scorer = torch.optim.AdamW(
        [
            {'params': scorer_weights, 'weight_decay': 0.1},
            {'params': scorer_vectors, 'weight_decay': 0.0},
        ],
        0.02,
        (0.5, 0.999),
    )
    for seed in range(5):
        scale = 10.0 ** (seed - 2)  # some gradients are below the norms, some above
        set_gradients(model, seed, scale)
        set_gradients(reference, seed, scale)
        parts = (
            (reference.main_parameters(), 1.3, main),
            (list(reference.scorer.parameters()), 0.7, scorer),
        )
        norms = [norm_of(parameters) for parameters, _, _ in parts]
        for (parameters, max_norm, adamw), norm in zip(parts, norms, strict=True):
            for parameter in parameters:
                parameter.grad *= min(1.0, max_norm / norm)
            adamw.step()
        result = optimizer.step()
        assert float(result.main) == pytest.approx(norms[0], rel=1e-5)
        assert result.groups.keys() == {'asb/scorer'}
        assert float(result.groups['asb/scorer']) == pytest.approx(norms[1], rel=1e-5)
    for a, b in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_a_group_leaves_the_main_steps_as_they_are_without_it():
    """Bit for bit, however large the group's gradient is."""
    plain, model = WithScorer(), WithScorer()
    alone = optim.Optimizer(
        plain.detector, plain.detector, optim.OptimConfig(max_norm=1.0), 'fp32'
    )
    optimizer = build(model, max_norm=1.0)
    for seed in range(3):
        set_gradients(plain.detector, seed)
        set_gradients(model.detector, seed)
        for parameter in model.scorer.parameters():
            parameter.grad = torch.full_like(parameter, 1e6)
        assert float(alone.step().main) == float(optimizer.step().main)
    for a, b in zip(plain.detector.parameters(), model.detector.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize('precision', ['fp32', 'fp16'])
@pytest.mark.parametrize('value', [math.nan, math.inf])
@pytest.mark.parametrize('part', ['detector', 'scorer'])
def test_a_gradient_that_is_not_finite_in_one_part_skips_all(part, value, precision):
    model = WithScorer().train()
    optimizer = build(model, precision, ema=0.9)

    def step(disturb):
        saved = save_buffers(model)
        optimizer.zero_grad()
        optimizer.backward(model(torch.randn(4, 3)))
        if disturb:
            next(getattr(model, part).parameters()).grad.view(-1)[0] = value
        return optimizer.step(saved)

    assert bool(step(False).finite)
    before, scale = copy_state(model, optimizer), float(optimizer.loss_scale())
    result = step(True)
    assert not bool(result.finite)
    assert bool(result.main.isfinite()) == (part == 'scorer')
    assert bool(result.groups['asb/scorer'].isfinite()) == (part == 'detector')
    after = copy_state(model, optimizer)
    assert sum('optimizer/asb/scorer' in name for name in after) > 3
    for name, expected in before.items():
        assert torch.equal(after[name], expected), name
    # one loss scale serves all parts
    assert float(optimizer.loss_scale()) == (scale / 2 if precision == 'fp16' else 1)
    assert bool(step(False).finite)
    later = copy_state(model, optimizer)
    assert sum(not torch.equal(later[name], before[name]) for name in later) > len(later) / 2


def test_fp16s_loss_scale_does_not_change_a_groups_step():
    plain, scaled = WithScorer(), WithScorer()
    x = torch.randn(4, 3)
    for model, precision in ((plain, 'fp32'), (scaled, 'fp16')):
        optimizer = build(model, precision)
        for _ in range(3):
            optimizer.zero_grad()
            optimizer.backward(model(x))
            optimizer.step()
    for (name, a), b in zip(plain.named_parameters(), scaled.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6, msg=name)


def test_two_parts_of_a_batch_give_the_step_of_the_whole():
    """In float64; BatchNorm with fixed statistics."""
    models = [WithScorer().double().eval() for _ in range(2)]
    x = torch.randn(6, 3, dtype=torch.float64)
    for model, parts in zip(models, ([x], [x[:3], x[3:]]), strict=True):
        optimizer = build(model)
        for _ in range(4):
            optimizer.zero_grad()
            for part in parts:
                optimizer.backward(model(part) / len(parts))
            optimizer.step()
    for a, b in zip(*(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(('schedule', 'follows'), [('constant', False), ('main', True)])
def test_a_groups_learning_rate_is_constant_or_follows_the_main_one(schedule, follows):
    model = WithScorer(OptimGroupConfig(lr=0.02, betas=(0.5, 0.9), schedule=schedule))
    optimizer = build(model, lr=0.1, warmup_epochs=0, schedule='cyclic')
    for epoch in (0.0, 3.0, 9.5):
        main_lr = optimizer.apply_schedule(epoch, 10)
        expected = 0.02 * (main_lr / 0.1 if follows else 1.0)
        for group in optimizer.groups['asb/scorer'].adamw.param_groups:
            assert group['lr'] == pytest.approx(expected, rel=1e-12)
            assert group['betas'] == (0.5, 0.9)
        assert optimizer.main.adamw.param_groups[0]['lr'] == main_lr


def test_the_state_holds_every_groups_moments_and_resumes_bit_for_bit():
    models = [WithScorer(), WithScorer()]
    first, second = (build(model) for model in models)
    assert first.state_dict().keys() == {'optimizer', 'optimizer/asb/scorer'}
    for seed in range(4):
        if seed == 2:  # the second optimiser resumes from the first
            models[1].load_state_dict(models[0].state_dict())
            second.load_state_dict(copy.deepcopy(first.state_dict()))
        for model, optimizer in list(zip(models, (first, second), strict=True))[: 1 + (seed > 1)]:
            set_gradients(model, seed)
            optimizer.step()
    states = [copy_state(*pair) for pair in zip(models, (first, second), strict=True)]
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name


def test_a_state_of_other_groups_is_refused_by_name():
    model = WithScorer()
    with_group, without = build(model), optim.Optimizer(model, model, optim.OptimConfig(), 'fp32')
    with pytest.raises(ValueError, match='optimiser groups: none; expected: asb/scorer'):
        with_group.load_state_dict(without.state_dict())
    with pytest.raises(ValueError, match='optimiser groups: asb/scorer; expected: none'):
        without.load_state_dict(with_group.state_dict())


def test_a_model_without_groups_has_the_optimiser_of_earlier_versions():
    model = WithScorer().detector
    assert optim.optimizer_groups(model) == {}
    optimizer = optim.Optimizer(model, model, optim.OptimConfig(), 'fp32')
    assert optimizer.state_dict().keys() == {'optimizer'}


def test_a_part_without_gradient_has_norm_0_and_stays():
    model = WithScorer()
    optimizer = build(model)
    before = model.scorer.bias.detach().clone()
    optimizer.backward((model.detector(torch.randn(4, 3)) ** 2).sum())
    result = optimizer.step()
    assert float(result.groups['asb/scorer']) == 0
    assert bool(result.finite)
    assert torch.equal(model.scorer.bias, before)


def test_groups_do_not_make_the_host_wait():
    model = WithScorer().train()
    optimizer = build(model, ema=0.9)
    for _ in range(2):  # the first step creates the moments
        with SyncRecorder() as recorder:
            saved = save_buffers(model)
            optimizer.zero_grad()
            optimizer.backward(model(torch.randn(4, 3)))
            optimizer.step(saved)
    assert recorder.operations == []


def test_groups_that_do_not_fit_the_model_are_errors():
    model = WithScorer()
    bias, other = model.scorer.bias, nn.Parameter(torch.zeros(1))

    def error_of(groups):
        with pytest.raises(ValueError) as error:
            optim.Optimizer(model, model.detector, optim.OptimConfig(), 'fp32', groups)
        return str(error.value)

    assert "'a': has no trainable parameter" in error_of({'a': (SCORER, [])})
    assert "'a': a parameter is not the model's" in error_of({'a': (SCORER, [other])})
    twice = error_of({'a': (SCORER, [bias]), 'b': (SCORER, [bias])})
    assert "'b': scorer.bias is also in 'a'" in twice
    assert 'is no OptimGroupConfig' in error_of({'a': ({'lr': 1.0}, [bias])})


def test_numbers_out_of_range_are_errors():
    with pytest.raises(ValueError, match="schedule: 'cosine' is unknown; known: constant, main"):
        OptimGroupConfig(lr=1.0, schedule='cosine')
    with pytest.raises(ValueError, match=r'betas: expected at least 0, less than 1, got 1\.0'):
        OptimGroupConfig(lr=1.0, betas=(0.5, 1.0))
    for name, value in (('lr', 0.0), ('max_norm', math.nan)):
        with pytest.raises(ValueError, match=f'{name}: expected more than 0, got {value}'):
            OptimGroupConfig(**{'lr': 1.0, name: value})
    with pytest.raises(ValueError, match=r'weight_decay: expected at least 0, got -1\.0'):
        OptimGroupConfig(lr=1.0, weight_decay=-1.0)
