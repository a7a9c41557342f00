"""Operations of distillation losses that make the host wait for the device."""

import pytest
import torch
from fake_views import evaluate, make_view, with_gradients
from level_views import detector, make_level_view, maps
from sync_recorder import SyncRecorder

from stl_core.distill.losses import asb, cpl
from stl_core.tensors.reductions import SINGLE_PART


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


@pytest.mark.parametrize('build', [cpl.Cpl, asb.Asb])
def test_cpl_and_asb_never_make_the_host_wait(build):
    config = cpl.CplConfig() if build is cpl.Cpl else asb.AsbConfig(width=4)
    transfer = build(config, detector(), detector()).train()
    view = make_level_view('waits', (3, 0, 4))
    student = maps(view)[0].requires_grad_()
    with SyncRecorder() as recorder:
        sum(transfer(view, SINGLE_PART).values()).backward()
    assert student.grad.any()
    assert recorder.operations == []


def test_synchronising_operations_are_recorded():
    with SyncRecorder() as recorder:
        torch.arange(3)[torch.arange(3) > 1].sum().item()
    assert len(recorder.operations) == 2
