"""Operations of distillation losses that make the host wait for the device."""

import pytest
import torch
from fake_views import evaluate, make_view, with_gradients
from sync_recorder import SyncRecorder


@pytest.mark.parametrize(
    ('name', 'syncs'),
    [
        ('feature', []),
        ('response', []),
        ('relation', ['aten.nonzero.default']),  # number of objects
        ('feature_public', []),
        ('plain_feature', []),
        ('plain_response', []),
        ('plain_scene', []),
        ('plain_heads', []),
    ],
)
def test_a_loss_makes_the_host_wait_only_for_listed_operations(name, syncs):
    view, tensors = with_gradients(make_view('waits', (3, 0, 4)))
    with SyncRecorder() as recorder:
        evaluate(name, view).backward()
    assert any(each.grad is not None for each in tensors.values())
    assert recorder.operations == syncs


def test_synchronising_operations_are_recorded():
    with SyncRecorder() as recorder:
        torch.arange(3)[torch.arange(3) > 1].sum().item()
    assert len(recorder.operations) == 2
