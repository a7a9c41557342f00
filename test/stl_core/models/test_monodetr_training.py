"""MonoDETR in training: one assignment per step, and checkpointed activations."""

import dataclasses

import pytest
import torch
from small_detectors import batch, build

from stl_core.models import monodetr
from stl_core.models.detr import matcher
from stl_core.tensors.batch import NetworkInput
from stl_core.tensors.reductions import SINGLE_PART


def test_losses_and_predictions_use_the_assignment_of_forward(monkeypatch):
    model, (image, P, targets) = build('monodetr').train(), batch()
    out = model(NetworkInput(image, P), targets)
    # without an assignment, each of them solves for its part
    alone = dataclasses.replace(out, assignment=None)
    expected = model.losses(alone, targets, SINGLE_PART)
    expected_predictions = model.predictions_at_targets(alone, targets)
    calls, match = [], matcher.hungarian_match

    def count(*args):
        calls.append(args)
        return match(*args)

    monkeypatch.setattr(matcher, 'hungarian_match', count)
    torch.testing.assert_close(model.losses(out, targets, SINGLE_PART), expected, rtol=0, atol=0)
    predictions = model.predictions_at_targets(out, targets)
    assert calls == []
    torch.testing.assert_close(vars(predictions), vars(expected_predictions), rtol=0, atol=0)
    assert predictions.found.sum() > 2


def test_an_assignment_of_other_targets_is_not_used():
    model, (image, P, targets) = build('monodetr').eval(), batch()
    fewer = dataclasses.replace(targets, valid=targets.valid & False)
    out = model(NetworkInput(image, P), targets)
    assert model.predictions_at_targets(out, targets).found.any()
    assert not model.predictions_at_targets(out, fewer).found.any()


def gradients(checkpoint_activations, precision):
    """Return losses and gradients of one step, and the bytes kept for the gradient."""
    model = build('monodetr', checkpoint_activations=checkpoint_activations, dropout=0.2).train()
    image, P, targets = batch()
    kept = {}

    def record(value):
        kept[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()
        return value

    torch.manual_seed(5)
    with torch.autograd.graph.saved_tensors_hooks(record, lambda value: value):
        with torch.autocast('cpu', torch.bfloat16, enabled=precision == 'bf16'):
            out = model(NetworkInput(image, P), targets)
    losses = model.losses(out, targets, SINGLE_PART)
    sum(losses.values()).backward()
    return losses, {name: p.grad for name, p in model.named_parameters()}, sum(kept.values())


@pytest.mark.parametrize('precision', ['fp32', 'bf16'])
def test_checkpointed_activations_give_the_same_gradients_from_less_memory(precision):
    plain, plain_gradients, plain_bytes = gradients(False, precision)
    losses, checkpointed_gradients, checkpointed_bytes = gradients(True, precision)
    torch.testing.assert_close(losses, plain, rtol=0, atol=0)
    assert all(gradient is not None for gradient in plain_gradients.values())
    torch.testing.assert_close(checkpointed_gradients, plain_gradients, rtol=1e-5, atol=1e-7)
    assert checkpointed_bytes < 0.8 * plain_bytes


def test_checkpointing_is_off_by_default_and_changes_no_weight():
    assert not monodetr.MonoDETRConfig().checkpoint_activations
    plain, checkpointed = (build('monodetr', checkpoint_activations=on) for on in (False, True))
    torch.testing.assert_close(dict(checkpointed.state_dict()), dict(plain.state_dict()))
