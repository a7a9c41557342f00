"""
Attentive normalisation (Li, Sun and Wu, ECCV 2020): BatchNorm with an image-dependent affine.

Instead of one scale and shift per channel there are T of them, mixed by attention weights that
are computed from the map itself. Shapes: B batch, C channels, T affine parts, h w grid.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

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
        """Normalise (B, T, 1, 1) logits; one image has no variance: use running statistics."""
        norm = self.attention_norm
        if len(logits) > 1 or not norm.training:
            return norm(logits)  # type: ignore[no-any-return]
        return F.batch_norm(
            logits, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps
        )
