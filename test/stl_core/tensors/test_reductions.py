import pytest
import torch

from stl_core.models import losses
from stl_core.tensors import reductions

B, N = 6, 4


def examples():
    """Return losses as functions of values, which carry the gradient, and a slice of the batch."""
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
    """Record the reductions of all parts, then replay their means, as train_step does."""
    recorded = []
    for part in slices:
        with reductions.recorded_reductions() as reductions_of_part:
            loss(values, part)
        recorded.append(torch.stack(reductions_of_part))
    means = list(torch.stack(recorded).mean(0))
    results = []
    for part in slices:
        with reductions.replayed_reductions(means, len(slices)):
            results.append(loss(values, part))
    return torch.stack(results).mean()


@pytest.mark.parametrize('name', examples())
def test_the_mean_over_micro_batches_is_the_whole_loss(name):
    """Micro-batches of 1, 3 and 2 images, with 1, 3 and 4 objects."""
    loss = examples()[name]
    values = torch.randn(B, N, 3, generator=torch.Generator().manual_seed(2)).requires_grad_()
    whole = loss(values, slice(None))
    (expected,) = torch.autograd.grad(whole, values)
    parts = in_parts(loss, values, [slice(0, 1), slice(1, 4), slice(4, 6)])
    (grad,) = torch.autograd.grad(parts, values)
    torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(grad, expected, rtol=1e-5, atol=1e-7)


def test_the_step_is_a_single_micro_batch_by_default():
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
