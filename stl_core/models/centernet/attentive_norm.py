"""
Attentive normalisation (Li, Sun and Wu, ECCV 2020): BatchNorm with an image-dependent affine.

Instead of one scale and shift per channel there are T of them, mixed by attention weights that
are computed from the map itself. Shapes: B batch, C channels, T affine parts, h w grid.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stl_core.tensors.reductions import all_reduce_sum, world_size

#: Added to the variance of a map before division by its square root.
_VARIANCE_EPS = 1e-3


class AttentiveNorm(nn.Module):
    """
    BatchNorm2d whose scale and shift are attention-weighted sums of T learnt ones.

    :param channels: C.
    :param parts: T; 10 in MonoCon.
    """

    def __init__(self, channels: int, parts: int = 10) -> None:
        """Initialise the T scales near 1 and the T shifts near 0."""
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, eps=1e-3, momentum=0.03, affine=False)
        self.weight = nn.Parameter(torch.empty(parts, channels).normal_(1.0, 0.1))
        self.bias = nn.Parameter(torch.empty(parts, channels).normal_(0.0, 0.1))
        self.attention = nn.Conv2d(channels, parts, 1, bias=False)
        nn.init.kaiming_normal_(self.attention.weight, mode='fan_out', nonlinearity='relu')
        self.attention_norm = nn.BatchNorm2d(parts)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise a map (B, C, h, w) and apply the affine part of each image; same shape."""
        var, mean = torch.var_mean(x, dim=(2, 3), keepdim=True)
        logits = self._normalise_logits(self.attention(mean * (var + _VARIANCE_EPS).rsqrt()))
        attention = F.hardsigmoid(logits).flatten(1)  # (B, T)
        weight, bias = attention @ self.weight, attention @ self.bias
        return weight[..., None, None] * self.norm(x) + bias[..., None, None]

    def _normalise_logits(self, logits: Tensor) -> Tensor:
        """
        Normalise (B, T, 1, 1) logits by the statistics of the images of all processes.

        The number of images may differ among processes, and be 1. A single image has no variance:
        use running statistics.
        """
        norm = self.attention_norm
        if norm.training and world_size() > 1:
            return _normalise_over_processes(logits, norm)
        if len(logits) > 1 or not norm.training:
            return norm(logits)  # type: ignore[no-any-return]
        return F.batch_norm(
            logits, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps
        )


def _normalise_over_processes(logits: Tensor, norm: nn.modules.batchnorm._BatchNorm) -> Tensor:
    """
    Apply a BatchNorm in training mode to the (B, T, 1, 1) logits of all processes together.

    SyncBatchNorm needs a GPU. The sums are float64, in which a variance may be the difference of
    two of them. Every process calls this, whatever its number of images.
    """
    values = logits.flatten(1).double()
    parts = values.shape[1]
    count = values.new_full((1,), len(values))
    sums = all_reduce_sum(torch.cat([count, values.sum(0), values.square().sum(0)]))
    count, total, square = sums.split([1, parts, parts])
    mean = total / count
    variance = (square / count - mean.square()).clamp(min=0)
    with torch.no_grad():
        _update_running_statistics(norm, mean, variance * count / (count - 1))
    normalised = (values - mean) * (variance + norm.eps).rsqrt()
    affine = normalised * norm.weight.double() + norm.bias.double()
    return affine.view_as(logits).to(logits.dtype)


def _update_running_statistics(
    norm: nn.modules.batchnorm._BatchNorm, mean: Tensor, variance: Tensor
) -> None:
    """Move the running statistics towards (T,) mean and unbiased variance, as BatchNorm does."""
    running_mean, running_var, steps = (
        norm.running_mean,
        norm.running_var,
        norm.num_batches_tracked,
    )
    assert running_mean is not None
    assert running_var is not None
    assert steps is not None
    momentum = norm.momentum or 0.0
    running_mean.lerp_(mean.to(running_mean.dtype), momentum)
    running_var.lerp_(variance.to(running_var.dtype), momentum)
    steps.add_(1)
