"""
Buffers of a model, saved before a training step and restored if the step is skipped.

A forward pass that overflows leaves NaN in the running statistics of norms even if the update of
the weights is skipped: every later evaluation would then give NaN. All operations stay on the
device: an `if` would synchronise host and device at every step.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class SavedBuffers:
    """
    Buffers that a forward pass may change, and their values before it.

    :param groups: for each dtype the buffers of the model, and their concatenated values.
    """

    groups: tuple[tuple[list[Tensor], Tensor], ...]

    @torch.no_grad()
    def restore_unless(self, finite: Tensor) -> None:
        """
        Restore the saved values, unless the step was finite and so are the present values.

        :param finite: () bool on the device, whether the gradient of the step was finite.
        """
        flat = [_concatenate(buffers) for buffers, _ in self.groups]
        checks = [finite, *(each.isfinite().all() for each in flat if each.is_floating_point())]
        keep = torch.stack(checks).all() if len(checks) > 1 else finite
        for (buffers, saved), present in zip(self.groups, flat, strict=True):
            values = torch.where(keep, present, saved).split([each.numel() for each in buffers])
            views = [value.view_as(each) for value, each in zip(values, buffers, strict=True)]
            torch._foreach_copy_(buffers, views)


def save_buffers(model: nn.Module) -> SavedBuffers:
    """
    Save the buffers of all modules in training mode; those in eval mode change no buffer.

    :param model: the module under training; a frozen teacher in it is in eval mode.
    :return: the buffers with a copy of their values.
    """
    groups: dict[torch.dtype, list[Tensor]] = {}
    for module in model.modules():
        if module.training:
            for buffer in module.buffers(recurse=False):
                groups.setdefault(buffer.dtype, []).append(buffer)
    return SavedBuffers(
        tuple((buffers, _concatenate(buffers).clone()) for buffers in groups.values())
    )


@torch.no_grad()
def _concatenate(buffers: list[Tensor]) -> Tensor:
    return torch.cat([buffer.detach().flatten() for buffer in buffers])
