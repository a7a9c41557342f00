"""Exponential moving average of weights and buffers."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import torch
from torch import Tensor, nn


class ModelEma:
    """
    Exponential moving average of a module's weights and buffers.

    :param module: the module under training.
    :param decay: weight of the old average in each update, after the initial rise.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        """Copy the module, without gradients."""
        self.source, self.decay = module, decay
        self.module = copy.deepcopy(module).requires_grad_(False)
        device = next(module.parameters()).device
        self.steps = torch.zeros((), dtype=torch.float64, device=device)

    @torch.no_grad()
    def update(self, finite: Tensor) -> None:
        """
        Update the average from the module; integer buffers, such as counters, are copied.

        :param finite: () bool on the device; if False, the average and its number of updates stay
            as they are. The module itself must be finite.
        """
        # without this rise, the random initial weights would dominate the average for long
        decay = ((1 + self.steps) / (10 + self.steps)).clamp(max=self.decay)
        weight = torch.where(finite, 1 - decay, 0.0).float()
        pairs = list(
            zip(
                _parameters_and_buffers(self.module),
                _parameters_and_buffers(self.source),
                strict=True,
            )
        )
        means, values = zip(*(pair for pair in pairs if pair[0].is_floating_point()), strict=True)
        gaps = torch._foreach_sub(values, means)
        torch._foreach_mul_(gaps, weight)
        torch._foreach_add_(means, gaps)
        for mean, value in pairs:
            if not mean.is_floating_point():
                mean.copy_(value)
        self.steps += finite

    def state_dict(self) -> dict[str, Any]:
        """Return the average and the number of updates so far."""
        return {'module': self.module.state_dict(), 'steps': int(self.steps)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state that state_dict returned."""
        self.module.load_state_dict(state['module'])
        self.steps.fill_(state['steps'])


def _parameters_and_buffers(module: nn.Module) -> itertools.chain[Tensor]:
    return itertools.chain(module.parameters(), module.buffers())
