import pytest
import torch

from stl_core.models import losses
from stl_core.tensors import reductions
from stl_core.tensors.reductions import SINGLE_PART

B, N = 6, 4


def examples():
    """
    Return losses as functions of values, which carry the gradient.

    Their other arguments are a slice of the batch and the normaliser.
    """
    rng = torch.Generator().manual_seed(1)
    target = torch.randn(B, N, 3, generator=rng)
    size = 0.5 + torch.rand(B, N, 3, generator=rng)
    heat = torch.rand(B, N, 3, 5, generator=rng)
    heat[0, 0, 0, 0] = heat[4, 1, 2, 3] = heat[5, 1, 2, 3] = 1.0
    bins = torch.randint(0, 3, (B, N), generator=rng)
    valid = torch.zeros(B, N, dtype=torch.bool)
    valid[0, 0] = valid[2, :3] = valid[5] = True
    return {
        'l1': lambda v, s, n: losses.l1_loss(v[s], target[s], valid[s], n),
        'dim_aware_l1': lambda v, s, n: losses.dim_aware_l1_loss(
            v[s], target[s], size[s], valid[s], n
        ),
        'laplacian_nll': lambda v, s, n: losses.laplacian_nll_loss(
            v[s][..., 0], v[s][..., 1], target[s][..., 0], valid[s], n
        ),
        'multibin': lambda v, s, n: losses.multibin_loss(
            v[s], v[s] * 2, bins[s], target[s][..., 0], valid[s], n
        ),
        'heatmap_focal': lambda v, s, n: losses.heatmap_focal_loss(
            v[s][..., None] * heat[s], heat[s], n
        ),
        'nothing valid': lambda v, s, n: losses.l1_loss(v[s], target[s], valid[s] & False, n),
        'no object on the map': lambda v, s, n: losses.heatmap_focal_loss(
            v[s][..., None], 0 * heat[s], n
        ),
    }


def in_parts(loss, values, slices):
    """Record the values of all parts, then replay their means, as train_step does."""
    recorded = []
    for part in slices:
        values_of_part = []
        loss(values, part, reductions.recording_normalizer(values_of_part))
        recorded.append(torch.stack(values_of_part))
    means = list(torch.stack(recorded).mean(0))
    results = [
        loss(values, part, reductions.replaying_normalizer(means, len(slices))) for part in slices
    ]
    return torch.stack(results).mean()


@pytest.mark.parametrize('name', examples())
def test_the_mean_over_micro_batches_is_the_whole_loss(name):
    """Micro-batches of 1, 3 and 2 images, with 1, 3 and 4 objects."""
    loss = examples()[name]
    values = torch.randn(B, N, 3, generator=torch.Generator().manual_seed(2)).requires_grad_()
    whole = loss(values, slice(None), SINGLE_PART)
    (expected,) = torch.autograd.grad(whole, values)
    parts = in_parts(loss, values, [slice(0, 1), slice(1, 4), slice(4, 6)])
    (grad,) = torch.autograd.grad(parts, values)
    torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(grad, expected, rtol=1e-5, atol=1e-7)


def test_a_single_process_is_rank_0_of_1_and_its_step_has_one_part():
    assert (reductions.rank(), reductions.world_size()) == (0, 1)
    assert reductions.process_normalizer().num_parts == SINGLE_PART.num_parts == 1


@pytest.mark.parametrize('make', [lambda: SINGLE_PART, reductions.process_normalizer])
def test_the_mean_of_a_single_part_is_the_value_without_gradient(make):
    mean = make().mean(torch.tensor(5.0, requires_grad=True))
    assert mean == 5
    assert not mean.requires_grad
    assert make().mean(torch.tensor(5)).dtype == torch.float32


def test_a_replayed_mean_replaces_the_value_and_parts_lower_the_least_total():
    normalizer = reductions.replaying_normalizer([torch.tensor(3.0), torch.tensor(0.0)], 4)
    assert normalizer.num_parts == 4
    assert normalizer.mean(torch.tensor(5)) == 3
    assert normalizer.total(torch.zeros(2)) == 1 / 4


@pytest.mark.parametrize('value', [torch.tensor(1.0), torch.ones(2)], ids=['surplus', 'shape'])
def test_a_micro_batch_that_asks_for_other_means_is_an_error(value):
    normalizer = reductions.replaying_normalizer([torch.ones(2)] if value.dim() == 0 else [], 2)
    with pytest.raises(RuntimeError, match='expected the same calls of the normaliser'):
        normalizer.mean(value)


def test_a_micro_batch_that_asks_for_fewer_means_is_an_error():
    normalizer = reductions.replaying_normalizer([torch.ones(2), torch.ones(())], 2)
    normalizer.mean(torch.zeros(2))
    with pytest.raises(RuntimeError, match='expected the same calls of the normaliser'):
        normalizer.check_complete()
    normalizer = reductions.replaying_normalizer([torch.ones(2)], 2)
    normalizer.mean(torch.zeros(2))
    normalizer.check_complete()
    SINGLE_PART.check_complete()
