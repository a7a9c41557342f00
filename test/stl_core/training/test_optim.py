"""Optimiser: schedules, AdamW steps, skipped steps, loss scale, weight averaging, state."""

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


def set_random_gradients(model, seed):
    """Set a random gradient on every parameter."""
    torch.manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)


def build(model, precision='fp32', **options):
    return optim.Optimizer(model, model, optim.OptimConfig(**options), precision)


def test_learning_rate_rises_then_falls():
    config = optim.OptimConfig(lr=1.0, warmup_epochs=5.0, drops=(0.5, 0.75))
    rates = [optim.schedule_at(epoch, 100, config).lr for epoch in (0, 5, 49, 50, 75)]
    np.testing.assert_allclose(rates, [0.01, 1, 1, 0.1, 0.01])
    cosine = dataclasses.replace(config, schedule='cosine')
    falling = [optim.schedule_at(epoch, 100, cosine).lr for epoch in range(5, 100)]
    assert all(a > b for a, b in itertools.pairwise(falling))
    assert falling[-1] < 0.01
    assert {optim.schedule_at(epoch, 100, cosine).beta1 for epoch in range(100)} == {0.9}


def test_the_cyclic_schedule_equals_torchs_one_cycle_lr():
    """Parameters of 2gunsu/monocon-pytorch at 908807b."""
    lr, steps = 2.25e-4, 1000
    config = optim.OptimConfig(lr=lr, betas=(0.95, 0.99), warmup_epochs=0, schedule='cyclic')
    torch_adamw = torch.optim.AdamW([nn.Parameter(torch.zeros(1))], lr, (0.95, 0.99))
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        torch_adamw, 10 * lr, steps, pct_start=0.4, div_factor=10, final_div_factor=1e4
    )
    for step in range(steps):
        rise, fall = step / 399, (step - 399) / 600
        result = optim.schedule_at(0.4 * rise if step < 399 else 0.4 + 0.6 * fall, 1, config)
        group = torch_adamw.param_groups[0]
        assert result.lr == pytest.approx(group['lr'], rel=1e-9)
        assert result.beta1 == pytest.approx(group['betas'][0], rel=1e-9)
        torch_adamw.step()
        if step + 1 < steps:
            schedule.step()


def test_steps_equal_plain_adamw_on_clipped_gradients():
    model, reference = small_model(), small_model()
    optimizer = build(model, lr=0.1, betas=(0.8, 0.9), weight_decay=0.5, max_norm=1.0)
    weights = [p for p in reference.parameters() if p.dim() > 1]
    vectors = [p for p in reference.parameters() if p.dim() == 1]
    plain = torch.optim.AdamW(
        [{'params': weights}, {'params': vectors, 'weight_decay': 0.0}], 0.1, (0.8, 0.9), 1e-8, 0.5
    )
    for seed in range(4):
        set_random_gradients(model, seed)
        set_random_gradients(reference, seed)
        norm = math.sqrt(sum(float((p.grad**2).sum()) for p in reference.parameters()))
        for parameter in reference.parameters():
            parameter.grad /= max(norm, 1.0)
        assert float(optimizer.step().main) == pytest.approx(norm, rel=1e-5)
        plain.step()
    for a, b in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('value', [math.nan, math.inf])
@pytest.mark.parametrize('precision', ['fp32', 'fp16'])
def test_a_gradient_that_is_not_finite_changes_nothing(value, precision):
    clean, disturbed = small_model(), small_model()
    optimizers = [build(model, precision) for model in (clean, disturbed)]
    for seed in range(3):
        for model, optimizer in zip((clean, disturbed), optimizers, strict=True):
            optimizer.backward(0.0 * sum(p.sum() for p in model.parameters()))
            set_random_gradients(model, seed)
            for parameter in model.parameters():
                parameter.grad *= optimizer.scaler.get_scale()
            if seed == 1:
                if model is clean:
                    continue
                next(model.parameters()).grad[0, 0] = value
            assert bool(optimizer.step().finite) == (seed != 1)
    for a, b in zip(clean.parameters(), disturbed.parameters(), strict=True):
        assert torch.equal(a, b)


def test_too_high_a_loss_scale_is_halved_and_saved():
    model = small_model()
    optimizer = build(model, 'fp16')
    optimizer.backward(model(torch.ones(2, 3)).sum())
    next(model.parameters()).grad[0, 0] = math.inf
    optimizer.step()
    state = optimizer.state_dict()
    assert state['scaler']['scale'] == 2**15
    restored = build(small_model(), 'fp16')
    restored.load_state_dict(state)
    assert restored.scaler.get_scale() == 2**15


def test_the_weight_average_follows_its_formula():
    model = small_model()
    optimizer = build(model, ema=0.3)
    expected = model[0].weight.detach().clone()
    for step in range(6):
        set_random_gradients(model, step)
        model(torch.randn(5, 3))  # changes the running statistics of the norm
        optimizer.step()
        decay = min(0.3, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * model[0].weight.detach()
    average = optimizer.ema.module
    torch.testing.assert_close(average[0].weight, expected)
    assert not torch.equal(average[1].running_mean, model[1].running_mean)
    assert average[1].num_batches_tracked == 6
    assert not any(p.requires_grad for p in average.parameters())


def test_the_state_dict_is_the_complete_state():
    models = [small_model(), small_model()]
    first, second = (build(model, ema=0.9) for model in models)
    for seed in range(4):
        if seed == 2:  # the second optimiser resumes from the first
            models[1].load_state_dict(models[0].state_dict())
            second.load_state_dict(copy.deepcopy(first.state_dict()))
        for model, optimizer in list(zip(models, (first, second), strict=True))[: 1 + (seed > 1)]:
            set_random_gradients(model, seed)
            optimizer.step()
    for a, b in zip(*(o.ema.module.parameters() for o in (first, second)), strict=True):
        assert torch.equal(a, b)
    for a, b in zip(*(model.parameters() for model in models), strict=True):
        assert torch.equal(a, b)


def test_numbers_out_of_range_are_errors():
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
