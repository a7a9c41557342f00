"""
The losses detectors are made of: tensors in, one scalar out, 0 with a gradient path when empty.

`valid` is a (B, N) mask of the objects that count; every loss is a mean over those objects, and
over all of those in the step where processes or parts share it (see stl_core/shares.py).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from stl_core.tensors.reductions import masked_mean, step_masked_mean, step_normalizer


def heatmap_focal_loss(logits: Tensor, target: Tensor) -> Tensor:
    """
    Penalty-reduced focal loss of CornerNet (Law and Deng, ECCV 2018, eq. 1; alpha 2, beta 4).

    Written in log-probabilities, so that sure answers neither saturate nor overflow.

    :param logits: (B, C, h, w) raw.
    :param target: (B, C, h, w) in [0, 1]; exactly 1 at objects.
    :return: scalar, summed over cells and divided by the number of objects (at least 1).
    """
    positive = target.eq(1).float()
    log_p, log_q = F.logsigmoid(logits), F.logsigmoid(-logits)
    p = log_p.exp()
    at_objects = log_p * (1 - p) ** 2 * positive
    elsewhere = log_q * p**2 * (1 - target) ** 4 * (1 - positive)
    return -(at_objects.sum() + elsewhere.sum()) / step_normalizer(positive)


def l1_loss(predicted: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """(B, N, D) predicted, (B, N, D) target, (B, N) valid -> mean absolute difference."""
    return masked_mean((predicted - target).abs(), valid)


def laplacian_nll_loss(
    predicted: Tensor, log_sigma: Tensor, target: Tensor, valid: Tensor
) -> Tensor:
    """
    Depth loss with learnt uncertainty: sqrt(2) exp(-s) |z - z*| + s, s = log sigma.

    (Chen et al., MonoPair, CVPR 2020, eq. 5; used by MonoDLE, MonoCon and MonoDETR.)

    :param predicted: (B, N) metres.
    :param log_sigma: (B, N) log of the standard deviation (sqrt(2) Laplace scales), metres.
    :param target: (B, N) metres.
    :param valid: (B, N) bool.
    :return: scalar.
    """
    error = (predicted - target).abs()
    return masked_mean(math.sqrt(2) * torch.exp(-log_sigma) * error + log_sigma, valid)


def dim_aware_l1_loss(predicted: Tensor, target: Tensor, size: Tensor, valid: Tensor) -> Tensor:
    """
    Dimension-aware size loss: relative error, with the plain L1 loss's magnitude.

    (Ma et al., MonoDLE, CVPR 2021, section on 3D IoU oriented optimisation.)
    The public code divides by the signed residual to the class mean, which may be near 0; the
    paper's, and ours, is the true size.

    :param predicted: (B, N, 3) metres.
    :param target: (B, N, 3) metres.
    :param size: (B, N, 3) true height, width, length.
    :param valid: (B, N) bool.
    :return: scalar.
    """
    error = (predicted - target).abs()
    relative = error / size.clamp(min=1e-3)
    scale = step_masked_mean(error, valid) / step_masked_mean(relative, valid).clamp(min=1e-6)
    return masked_mean(relative, valid) * scale


def multibin_loss(
    logits: Tensor, residual: Tensor, bin_: Tensor, target: Tensor, valid: Tensor
) -> Tensor:
    """
    Heading loss: which direction, and how far from it (Mousavian et al., CVPR 2017).

    :param logits: (B, N, A) one score a direction.
    :param residual: (B, N, A) predicted remainder for each direction, radians.
    :param bin_: (B, N) true direction.
    :param target: (B, N) true remainder.
    :param valid: (B, N) bool.
    :return: scalar.
    """
    choice = F.cross_entropy(logits.flatten(0, 1), bin_.flatten(), reduction='none')
    return masked_mean(choice.view_as(target) + _residual_error(residual, bin_, target), valid)


def multibin_bce_loss(
    logits: Tensor, residual: Tensor, bin_: Tensor, target: Tensor, valid: Tensor
) -> Tensor:
    """
    Heading loss as multibin, but every direction is a yes or no of its own, as in MonoCon.

    :param logits: (B, N, A) one score a direction.
    :param residual: (B, N, A) predicted remainder for each direction, radians.
    :param bin_: (B, N) true direction.
    :param target: (B, N) true remainder.
    :param valid: (B, N) bool.
    :return: scalar.
    """
    one_hot = F.one_hot(bin_, logits.shape[-1]).to(logits.dtype)
    choice = F.binary_cross_entropy_with_logits(logits, one_hot, reduction='none').mean(-1)
    return masked_mean(choice + _residual_error(residual, bin_, target), valid)


def _residual_error(residual: Tensor, bin_: Tensor, target: Tensor) -> Tensor:
    """(B, N, A) remainders, (B, N) direction and true remainder -> (B, N) error, radians."""
    return (residual.gather(-1, bin_[..., None])[..., 0] - target).abs()
