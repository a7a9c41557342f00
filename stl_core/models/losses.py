"""
Detection losses: heatmap focal, L1, Laplacian depth, dimension-aware size, MultiBin heading.

Each function takes tensors and returns one scalar. `valid` is a (B, N) mask of the objects that
count. A loss is the mean over these objects, normalised over the whole optimisation step across
processes and micro-batches by `normalizer` (see stl_core/tensors/reductions.py); without any valid
object it is 0 and keeps a gradient path.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from stl_core.tensors.reductions import StepNormalizer, masked_mean, step_masked_mean


def heatmap_focal_loss(logits: Tensor, target: Tensor, normalizer: StepNormalizer) -> Tensor:
    """
    Compute CornerNet's penalty-reduced focal loss (Law and Deng, ECCV 2018, eq. 1).

    Alpha is 2, beta 4. Computed in log-probabilities, so that confident predictions neither
    saturate nor overflow.

    :param logits: (B, C, h, w) raw heatmap.
    :param target: (B, C, h, w) in [0, 1]; exactly 1 at objects.
    :param normalizer: normaliser of the step.
    :return: scalar, summed over cells and divided by the number of objects (at least 1).
    """
    positive = target.eq(1).float()
    log_p, log_q = F.logsigmoid(logits), F.logsigmoid(-logits)
    p = log_p.exp()
    foreground = log_p * (1 - p) ** 2 * positive
    background = log_q * p**2 * (1 - target) ** 4 * (1 - positive)
    return -(foreground.sum() + background.sum()) / normalizer.total(positive)


def l1_loss(
    predicted: Tensor, target: Tensor, valid: Tensor, normalizer: StepNormalizer
) -> Tensor:
    """Return the mean absolute difference of (B, N, D) predicted and target over (B, N) valid."""
    return masked_mean((predicted - target).abs(), valid, normalizer)


def laplacian_nll_loss(
    predicted: Tensor,
    log_sigma: Tensor,
    target: Tensor,
    valid: Tensor,
    normalizer: StepNormalizer,
) -> Tensor:
    """
    Compute the depth loss with learnt uncertainty: sqrt(2) exp(-s) |z - z*| + s, s = log sigma.

    Source: Chen et al., MonoPair, CVPR 2020, eq. 5; MonoDLE, MonoCon and MonoDETR use it.

    :param predicted: (B, N) metres.
    :param log_sigma: (B, N) log of the standard deviation (sqrt(2) Laplace scales), metres.
    :param target: (B, N) metres.
    :param valid: (B, N) bool.
    :param normalizer: normaliser of the step.
    :return: scalar.
    """
    error = (predicted - target).abs()
    value = math.sqrt(2) * torch.exp(-log_sigma) * error + log_sigma
    return masked_mean(value, valid, normalizer)


def dim_aware_l1_loss(
    predicted: Tensor, target: Tensor, size: Tensor, valid: Tensor, normalizer: StepNormalizer
) -> Tensor:
    """
    Compute the dimension-aware size loss: relative error, rescaled to the L1 loss's magnitude.

    Source: Ma et al., MonoDLE, CVPR 2021, section on 3D IoU oriented optimisation. The public
    code divides by the signed residual to the class mean, which may be near 0; the paper and this
    function divide by the true size.

    :param predicted: (B, N, 3) metres.
    :param target: (B, N, 3) metres.
    :param size: (B, N, 3) true height, width, length.
    :param valid: (B, N) bool.
    :param normalizer: normaliser of the step.
    :return: scalar.
    """
    error = (predicted - target).abs()
    relative = error / size.clamp(min=1e-3)
    scale = step_masked_mean(error, valid, normalizer) / step_masked_mean(
        relative, valid, normalizer
    ).clamp(min=1e-6)
    return masked_mean(relative, valid, normalizer) * scale


def multibin_loss(
    logits: Tensor,
    residual: Tensor,
    bin_: Tensor,
    target: Tensor,
    valid: Tensor,
    normalizer: StepNormalizer,
) -> Tensor:
    """
    Compute the MultiBin heading loss (Mousavian et al., CVPR 2017).

    It is the cross-entropy of the heading bin plus the absolute error of its residual.

    :param logits: (B, N, A) one logit per heading bin.
    :param residual: (B, N, A) predicted residual angle for each bin, radians.
    :param bin_: (B, N) true bin.
    :param target: (B, N) true residual, radians.
    :param valid: (B, N) bool.
    :param normalizer: normaliser of the step.
    :return: scalar.
    """
    bin_loss = F.cross_entropy(logits.flatten(0, 1), bin_.flatten(), reduction='none')
    error = bin_loss.view_as(target) + _residual_error(residual, bin_, target)
    return masked_mean(error, valid, normalizer)


def multibin_bce_loss(
    logits: Tensor,
    residual: Tensor,
    bin_: Tensor,
    target: Tensor,
    valid: Tensor,
    normalizer: StepNormalizer,
) -> Tensor:
    """
    Compute the MultiBin heading loss with one binary cross-entropy per bin, as in MonoCon.

    :param logits: (B, N, A) one logit per heading bin.
    :param residual: (B, N, A) predicted residual angle for each bin, radians.
    :param bin_: (B, N) true bin.
    :param target: (B, N) true residual, radians.
    :param valid: (B, N) bool.
    :param normalizer: normaliser of the step.
    :return: scalar.
    """
    one_hot = F.one_hot(bin_, logits.shape[-1]).to(logits.dtype)
    bin_loss = F.binary_cross_entropy_with_logits(logits, one_hot, reduction='none').mean(-1)
    error = bin_loss + _residual_error(residual, bin_, target)
    return masked_mean(error, valid, normalizer)


def _residual_error(residual: Tensor, bin_: Tensor, target: Tensor) -> Tensor:
    """Return the (B, N) absolute error of the true bin's residual, radians."""
    return (residual.gather(-1, bin_[..., None])[..., 0] - target).abs()
