import copy
import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

from stl_core.training import optim


def small_model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))


def gradients(model, seed):
    """Give every parameter a gradient of its own."""
    torch.manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)


def build(model, precision='fp32', **numbers):
    return optim.Optimizer(model, model, optim.OptimConfig(**numbers), precision)


def test_learning_rate_rises_then_falls():
    config = optim.OptimConfig(lr=1.0, warmup_epochs=5.0, drops=(0.5, 0.75))
    rates = [optim.schedule_at(epoch, 100, config).lr for epoch in (0, 5, 49, 50, 75)]
    np.testing.assert_allclose(rates, [0.01, 1, 1, 0.1, 0.01])
    cosine = dataclasses.replace(config, schedule='cosine')
    falling = [optim.schedule_at(epoch, 100, cosine).lr for epoch in range(5, 100)]
    assert all(a > b for a, b in itertools.pairwise(falling))
    assert falling[-1] < 0.01
    assert {optim.schedule_at(epoch, 100, cosine).beta1 for epoch in range(100)} == {0.9}


def test_the_cycle_is_that_of_torch():
    """OneCycleLR with the numbers of 2gunsu/monocon-pytorch at 908807b."""
    lr, steps = 2.25e-4, 1000
    config = optim.OptimConfig(lr=lr, betas=(0.95, 0.99), warmup_epochs=0, schedule='cyclic')
    theirs = torch.optim.AdamW([nn.Parameter(torch.zeros(1))], lr, (0.95, 0.99))
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        theirs, 10 * lr, steps, pct_start=0.4, div_factor=10, final_div_factor=1e4
    )
    for step in range(steps):
        rise, fall = step / 399, (step - 399) / 600
        ours = optim.schedule_at(0.4 * rise if step < 399 else 0.4 + 0.6 * fall, 1, config)
        group = theirs.param_groups[0]
        assert ours.lr == pytest.approx(group['lr'], rel=1e-9)
        assert ours.beta1 == pytest.approx(group['betas'][0], rel=1e-9)
        theirs.step()
        if step + 1 < steps:
            schedule.step()


def test_steps_are_those_of_plain_adamw_on_clipped_gradients():
    ours, theirs = small_model(), small_model()
    optimizer = build(ours, lr=0.1, betas=(0.8, 0.9), weight_decay=0.5, max_norm=1.0)
    weights = [p for p in theirs.parameters() if p.dim() > 1]
    vectors = [p for p in theirs.parameters() if p.dim() == 1]
    plain = torch.optim.AdamW(
        [{'params': weights}, {'params': vectors, 'weight_decay': 0.0}], 0.1, (0.8, 0.9), 1e-8, 0.5
    )
    for seed in range(4):
        gradients(ours, seed)
        gradients(theirs, seed)
        norm = math.sqrt(sum(float((p.grad**2).sum()) for p in theirs.parameters()))
        for parameter in theirs.parameters():
            parameter.grad /= max(norm, 1.0)
        assert float(optimizer.step()) == pytest.approx(norm, rel=1e-5)
        plain.step()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('poison', [math.nan, math.inf])
@pytest.mark.parametrize('precision', ['fp32', 'fp16'])
def test_a_gradient_that_is_not_finite_leaves_no_trace(poison, precision):
    clean, poisoned = small_model(), small_model()
    optimizers = [build(model, precision) for model in (clean, poisoned)]
    for seed in range(3):
        for model, optimizer in zip((clean, poisoned), optimizers, strict=True):
            optimizer.backward(0.0 * sum(p.sum() for p in model.parameters()))
            gradients(model, seed)
            for parameter in model.parameters():
                parameter.grad *= optimizer.scaler.get_scale()
            if seed == 1:
                if model is clean:
                    continue
                next(model.parameters()).grad[0, 0] = poison
            assert math.isfinite(float(optimizer.step())) == (seed != 1)
    for a, b in zip(clean.parameters(), poisoned.parameters(), strict=True):
        assert torch.equal(a, b)


def test_too_high_a_scale_is_halved_and_remembered():
    model = small_model()
    optimizer = build(model, 'fp16')
    optimizer.backward(model(torch.ones(2, 3)).sum())
    next(model.parameters()).grad[0, 0] = math.inf
    optimizer.step()
    state = optimizer.state_dict()
    assert state['scaler']['scale'] == 2**15
    again = build(small_model(), 'fp16')
    again.load_state_dict(state)
    assert again.scaler.get_scale() == 2**15


def test_the_mean_follows_its_closed_form():
    model = small_model()
    optimizer = build(model, ema=0.3)
    expected = model[0].weight.detach().clone()
    for step in range(6):
        gradients(model, step)
        model(torch.randn(5, 3))  # moves the norm's statistics
        optimizer.step()
        keep = min(0.3, (1 + step) / (10 + step))
        expected = keep * expected + (1 - keep) * model[0].weight.detach()
    mean = optimizer.ema.module
    torch.testing.assert_close(mean[0].weight, expected)
    assert not torch.equal(mean[1].running_mean, model[1].running_mean)
    assert mean[1].num_batches_tracked == 6
    assert not any(p.requires_grad for p in mean.parameters())


def test_what_is_saved_is_all_the_state_there_is():
    models = [small_model(), small_model()]
    first, second = (build(model, ema=0.9) for model in models)
    for seed in range(4):
        if seed == 2:  # here the second takes over
            models[1].load_state_dict(models[0].state_dict())
            second.load_state_dict(copy.deepcopy(first.state_dict()))
        for model, optimizer in list(zip(models, (first, second), strict=True))[: 1 + (seed > 1)]:
            gradients(model, seed)
            optimizer.step()
    for a, b in zip(*(o.ema.module.parameters() for o in (first, second)), strict=True):
        assert torch.equal(a, b)
    for a, b in zip(*(model.parameters() for model in models), strict=True):
        assert torch.equal(a, b)


def test_numbers_without_sense_are_refused():
    with pytest.raises(ValueError, match="schedule: 'poly' is unknown; known: step, cosine, cyc"):
        optim.OptimConfig(schedule='poly')
    with pytest.raises(ValueError, match=r'ema: expected at least 0, less than 1, got 1\.0'):
        optim.OptimConfig(ema=1.0)
    with pytest.raises(ValueError, match='cycle_rise: expected more than 0'):
        optim.OptimConfig(cycle_rise=0.0)
    for name, value in (('lr', -1.0), ('max_norm', 0.0), ('lr', math.nan)):
        with pytest.raises(ValueError, match=f'{name}: expected more than 0, got {value}'):
            optim.OptimConfig(**{name: value})
    for name in ('weight_decay', 'warmup_epochs'):
        with pytest.raises(ValueError, match=rf'{name}: expected at least 0, got -1\.0'):
            optim.OptimConfig(**{name: -1.0})
    with pytest.raises(ValueError, match=r'betas: expected at least 0, less than 1, got -0\.1'):
        optim.OptimConfig(betas=(-0.1, 0.99))
