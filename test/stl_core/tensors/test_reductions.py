import pytest
import torch

from stl_core.models import losses
from stl_core.tensors import reductions

B, N = 6, 4


def examples():
    """Losses as functions of a slice of the batch: `values` carries the gradient."""
    rng = torch.Generator().manual_seed(1)
    target = torch.randn(B, N, 3, generator=rng)
    size = 0.5 + torch.rand(B, N, 3, generator=rng)
    heat = torch.rand(B, N, 3, 5, generator=rng)
    heat[0, 0, 0, 0] = heat[4, 1, 2, 3] = heat[5, 1, 2, 3] = 1.0
    bins = torch.randint(0, 3, (B, N), generator=rng)
    valid = torch.zeros(B, N, dtype=torch.bool)
    valid[0, 0] = valid[2, :3] = valid[5] = True
    return {
        'l1': lambda v, s: losses.l1_loss(v[s], target[s], valid[s]),
        'dim_aware_l1': lambda v, s: losses.dim_aware_l1_loss(v[s], target[s], size[s], valid[s]),
        'laplacian_nll': lambda v, s: losses.laplacian_nll_loss(
            v[s][..., 0], v[s][..., 1], target[s][..., 0], valid[s]
        ),
        'multibin': lambda v, s: losses.multibin_loss(
            v[s], v[s] * 2, bins[s], target[s][..., 0], valid[s]
        ),
        'heatmap_focal': lambda v, s: losses.heatmap_focal_loss(
            v[s][..., None] * heat[s], heat[s]
        ),
        'nothing valid': lambda v, s: losses.l1_loss(v[s], target[s], valid[s] & False),
        'no object on the map': lambda v, s: losses.heatmap_focal_loss(
            v[s][..., None], 0 * heat[s]
        ),
    }


def in_parts(loss, values, slices):
    """Rehearse, then perform: what train_step does with a batch in parts."""
    asked = []
    for part in slices:
        with reductions.recorded_reductions() as notes:
            loss(values, part)
        asked.append(torch.stack(notes))
    means = list(torch.stack(asked).mean(0))
    told = []
    for part in slices:
        with reductions.replayed_reductions(means, len(slices)):
            told.append(loss(values, part))
    return torch.stack(told).mean()


@pytest.mark.parametrize('name', examples())
def test_the_mean_of_the_shares_is_the_whole(name):
    """Shares of 1, 3 and 2 images, with 1, 3 and 4 objects."""
    loss = examples()[name]
    values = torch.randn(B, N, 3, generator=torch.Generator().manual_seed(2)).requires_grad_()
    whole = loss(values, slice(None))
    (expected,) = torch.autograd.grad(whole, values)
    parts = in_parts(loss, values, [slice(0, 1), slice(1, 4), slice(4, 6)])
    (found,) = torch.autograd.grad(parts, values)
    torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)


def test_nothing_is_shared_unless_told():
    assert (reductions.rank(), reductions.world_size(), reductions.num_micro_batches()) == (
        0,
        1,
        1,
    )
    with reductions.replayed_reductions([torch.tensor(3.0)], 4):
        assert reductions.num_micro_batches() == 4
        assert reductions.step_mean(torch.tensor(5)) == 3
    assert reductions.step_mean(torch.tensor(5)) == 5
    assert not reductions.step_mean(torch.tensor(5.0, requires_grad=True)).requires_grad
