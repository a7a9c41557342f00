"""AdamW with gradient clipping and steps that can be skipped without a synchronisation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


class ClippedAdamW:
    """
    AdamW of some parameters, whose gradient is clipped to an L2 norm over all of them.

    :param parameters: parameters to optimise, all on one device.
    :param lr: initial learning rate.
    :param betas: decay rates of the moments.
    :param weight_decay: for tensors with two or more dimensions; vectors, such as biases and norm
        parameters, are not decayed.
    :param max_norm: bound of the norm.
    """

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        lr: float,
        betas: tuple[float, float],
        weight_decay: float,
        max_norm: float,
    ) -> None:
        """Build torch's AdamW with two parameter groups."""
        self.parameters, self.betas, self.max_norm = list(parameters), betas, max_norm
        groups = [
            {'params': [p for p in parameters if p.dim() > 1], 'weight_decay': weight_decay},
            {'params': [p for p in parameters if p.dim() <= 1], 'weight_decay': 0.0},
        ]
        # only the fused kernel can skip a step without a host synchronisation, see step
        self.adamw = torch.optim.AdamW(groups, lr=lr, betas=betas, fused=True)

    def set_lr_and_beta1(self, lr: float, beta1: float) -> None:
        """Set learning rate and decay rate of the first moment."""
        for group in self.adamw.param_groups:
            group['lr'], group['betas'] = lr, (beta1, self.betas[1])

    def clip(self) -> Tensor:
        """Clip the gradient; return its L2 norm before, () on the device, 0 without gradients."""
        norm = nn.utils.clip_grad_norm_(self.parameters, self.max_norm)
        return norm.detach().to(self.parameters[0].device)  # without gradients on the CPU

    def step(self, finite: Tensor) -> None:
        """
        Update weights and moments.

        :param finite: () bool on the device; False skips the update.
        """
        # AdamW's kernel skips the update of weights and moments if found_inf is 1, which is its
        # contract with GradScaler. An `if` here would synchronise host and device at every step.
        self.adamw.found_inf = (~finite).float()  # type: ignore[attr-defined]
        self.adamw.grad_scale = None  # type: ignore[attr-defined]
        self.adamw.step()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state of adamw.state_dict()."""
        self.adamw.load_state_dict(state)
        for group in self.adamw.param_groups:
            group['fused'] = True  # also for a checkpoint made with another kind of AdamW
