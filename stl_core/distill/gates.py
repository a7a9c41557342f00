"""
Gates of a selective loss: by sigma, or one of three controls with the same mean weight.

A loss that weighs objects by depth uncertainty may help for reasons other than uncertainty: since
it is weaker on average, since sigma grows with distance, or since any weights that differ do.
The controls keep one property each (our choice, DK3D publishes none):

- 'none': every object has the mean weight of the sigma gate.
- 'distance': a function of distance alone, falling, with the same mean.
- 'permuted': the sigma gate's weights, exchanged at random among the objects of a class.

Means are over one optimisation step, all of its parts: equal in every step, not on average only,
so that no running mean lags behind a sigma that falls during training.
Shapes: B batch, N object slots, M elements.
"""

from __future__ import annotations

import struct
import zlib

import torch
from torch import Tensor

from stl_core.tensors.reductions import StepNormalizer

SIGMA, NONE, DISTANCE, PERMUTED = 'sigma', 'none', 'distance', 'permuted'
GATES = (SIGMA, NONE, DISTANCE, PERMUTED)
#: Distances at which a distance gate may have half weight, metres; fitted between two of them.
_HALF_M = tuple(0.25 * 1.6**step for step in range(24))


def check_gate(gate: str | None) -> None:
    """Raise ValueError, naming the option, for an unknown gate."""
    if gate is not None and gate not in GATES:
        raise ValueError(f'gate: {gate!r} is unknown; known: {", ".join(GATES)}')


def control_gate(
    kind: str | None,
    gate: Tensor,
    permuted: Tensor,
    distance_m: Tensor,
    weight: Tensor,
    normalizer: StepNormalizer,
) -> Tensor:
    """
    Return the weights of a gate that has the mean of the sigma gate over the step.

    :param kind: one of GATES; None is SIGMA.
    :param gate: the sigma gate, 0 to 1.
    :param permuted: the sigma gate of other elements, see permute_in_class; scaled to the mean of
        `gate`, which changes nothing where it is a permutation of `gate` itself.
    :param distance_m: distance of each element, metres, above 0.
    :param weight: weight of each element in the mean, 0 for those that do not count: these may
        hold any number.
    :param normalizer: of the step.
    :return: weights; those of elements that do not count mean nothing. No gradient.
    """
    if kind in (None, SIGMA):
        return gate
    known = weight > 0
    gate, permuted = (torch.where(known, each.detach(), 0.0) for each in (gate, permuted))
    weight = torch.where(known, weight, 0).to(gate.dtype)
    if kind == NONE:
        part = torch.stack([(weight * gate).sum(), weight.sum()])
        of_gate, total = normalizer.mean(part).to(gate.dtype)
        return (of_gate / torch.where(total > 0, total, 1.0)).expand_as(gate)
    if kind == PERMUTED:
        part = torch.stack([(weight * gate).sum(), (weight * permuted).sum()])
        of_gate, of_permuted = normalizer.mean(part).to(gate.dtype)
        return permuted * (of_gate / torch.where(of_permuted > 0, of_permuted, 1.0))
    return _distance_gate(gate, torch.where(known, distance_m, 1.0), weight, normalizer)


def _distance_gate(
    gate: Tensor, distance_m: Tensor, weight: Tensor, normalizer: StepNormalizer
) -> Tensor:
    """
    Return 1 / (1 + (distance / half)^2) with the mean of the sigma gate.

    Its shape is that of weighting.confidence_gate. Between two of _HALF_M, the weights are mixed
    linearly: so is their mean, and the mix whose mean is the given one follows from the means at
    _HALF_M alone, which all parts of a step share in one call. It falls with distance, too.
    """
    half_m = torch.tensor(_HALF_M, dtype=gate.dtype, device=gate.device)
    falling = 1 / (1 + (distance_m[..., None] / half_m).square())
    sums = (weight[..., None] * falling).flatten(0, -2).sum(0)
    part = torch.cat([(weight * gate).sum()[None], sums])
    of_gate, *_ = means = normalizer.mean(part).to(gate.dtype)
    means = means[1:]
    upper = (means < of_gate).sum().clamp(1, len(_HALF_M) - 1)
    low, high = means[upper - 1], means[upper]
    share = (of_gate - low) / torch.where(high > low, high - low, 1.0)
    # beyond the ends of _HALF_M, a factor keeps the mean
    mixed = falling[..., upper - 1].lerp(falling[..., upper], share.clamp(0, 1))
    reached = low.lerp(high, share.clamp(0, 1))
    return mixed * (of_gate / torch.where(reached > 0, reached, 1.0))


def permute_in_class(value: Tensor, class_id: Tensor, valid: Tensor, epoch: float) -> Tensor:
    """
    Exchange the values of objects at random within their class; a new permutation every step.

    :param value: (B, N) of each object.
    :param class_id: (B, N) int64.
    :param valid: (B, N) bool; objects that are not valid keep their values.
    :param epoch: epochs so far, with a fraction: the only source of randomness, so that a resumed
        run repeats it, and other random numbers of a run do not depend on the gate.
    :return: (B, N).
    """
    flat = value.flatten()
    generator = torch.Generator().manual_seed(zlib.crc32(struct.pack('<d', epoch)))
    order = torch.randperm(flat.numel(), generator=generator).to(flat.device)
    slots = torch.arange(flat.numel(), device=flat.device)
    # slots without an object are classes of their own
    group = torch.where(valid, class_id, -1).flatten()
    group = torch.where(group < 0, -1 - slots, group)
    # both lists hold the objects of one class after the other: in their order, and at random
    ordered = group.argsort(stable=True)
    shuffled = order[group[order].argsort(stable=True)]
    return flat.scatter(0, ordered, flat[shuffled]).view_as(value)


def gate_metrics(
    gate: Tensor, weight: Tensor, rank_correlation: Tensor, normalizer: StepNormalizer
) -> dict[str, Tensor]:
    """
    Return mean and deviation of a gate over the step, and its rank correlation with distance.

    :param gate: weights, of any shape.
    :param weight: of each element in the mean; elements with 0 may hold any number.
    :param rank_correlation: () see rank_correlation.
    :param normalizer: of the step.
    :return: () tensors 'gate_mean', 'gate_deviation', 'gate_distance_rank'; 0 without an element.
    """
    known = weight > 0
    gate = torch.where(known, gate.detach(), 0.0)
    weight = torch.where(known, weight, 0).to(gate.dtype)
    moments = [weight.sum(), (weight * gate).sum(), (weight * gate.square()).sum()]
    total, first, second = normalizer.mean(torch.stack(moments))
    total = torch.where(total > 0, total, 1.0)
    mean = first / total
    variance = (second / total - mean.square()).clamp(min=0)
    # float32 rounding of equal weights is no deviation
    variance = torch.where(variance > 1e-6 * mean.square(), variance, 0.0)
    return {
        'gate_mean': mean,
        'gate_deviation': variance.sqrt(),
        'gate_distance_rank': rank_correlation,
    }


def rank_correlation(one: Tensor, other: Tensor, valid: Tensor) -> Tensor:
    """
    Return Spearman's rank correlation of two quantities of objects; ties have their mean rank.

    Values whose difference is rounding count as equal.

    :param one: (M,).
    :param other: (M,).
    :param valid: (M,) bool.
    :return: () float32 in [-1, 1], over the objects of this part of the step; 0 if one of the two
        is the same for all objects.
    """
    ranks = [_centred_ranks(each.detach().float(), valid) for each in (one, other)]
    norm = (ranks[0].square().sum() * ranks[1].square().sum()).sqrt()
    return (ranks[0] * ranks[1]).sum() / torch.where(norm > 0, norm, 1.0)


def _centred_ranks(value: Tensor, valid: Tensor) -> Tensor:
    """Return (M,) the rank among valid elements minus its mean; 0 for the others."""
    rounded = torch.where(valid, value, torch.inf)
    # six decimal digits: equal weights that were computed in another order
    step = 1e-6 * torch.where(valid, value.abs(), 0.0).amax().clamp(min=1e-30)
    rounded = torch.where(valid, (rounded / step).round(), torch.inf)
    ordered = rounded.sort().values
    below = torch.searchsorted(ordered, rounded)
    up_to = torch.searchsorted(ordered, rounded, right=True)
    rank = (below + up_to).float() / 2
    count = valid.sum().clamp(min=1)
    mean = torch.where(valid, rank, 0.0).sum() / count
    return torch.where(valid, rank - mean, 0.0)
