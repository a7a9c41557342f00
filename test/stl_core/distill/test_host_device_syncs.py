"""Where a loss makes the host wait for the device: told by the operations it asks for."""

import pytest
import torch
from fake_views import a_view, evaluate, learning
from torch.utils._python_dispatch import TorchDispatchMode

ATEN = torch.ops.aten


class Waits(TorchDispatchMode):
    """Note what a GPU could not be asked for ahead: sizes that depend on data, and reading."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        indices = args[1] if func is ATEN.index.Tensor else ()
        by_mask = any(each is not None and each.dtype == torch.bool for each in indices)
        reading = (ATEN.nonzero.default, ATEN._local_scalar_dense.default, ATEN.lift_fresh.default)
        if by_mask or func in reading:
            self.found.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ('name', 'waits'),
    [
        ('feature', []),
        ('response', []),
        ('relation', ['aten.nonzero.default']),  # how many objects there are
        ('feature_public', []),
        ('plain_feature', []),
        ('plain_response', []),
        ('plain_scene', []),
        ('plain_heads', []),
    ],
)
def test_a_loss_lets_the_host_go_ahead(name, waits):
    view, tensors = learning(a_view('waits', (3, 0, 4)))
    with Waits() as seen:
        evaluate(name, view).backward()
    assert any(each.grad is not None for each in tensors.values())
    assert seen.found == waits


def test_waits_are_noticed():
    with Waits() as seen:
        torch.arange(3)[torch.arange(3) > 1].sum().item()
    assert len(seen.found) == 2
