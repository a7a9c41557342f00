"""
Optimiser groups: parameters of a trainable model that are optimised apart from all others.

A part of a distillation that is trained against the student, such as a scorer, needs another
learning rate and other moments, and its gradient must not use up the norm to which the student's
is clipped. A trainable model names such parameters by `optimizer_groups() -> OptimGroups`;
stl_core.training.optim optimises them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

#: Learning rates of a group over the run: constant, or in proportion to the main one.
GROUP_SCHEDULES = ('constant', 'main')


@dataclass(frozen=True)
class OptimGroupConfig:
    """
    AdamW, learning-rate schedule and gradient clipping of an optimiser group.

    :param lr: base learning rate.
    :param betas: AdamW's decay rates of the moving averages of the gradient and of its square;
        constant over the run.
    :param max_norm: the group's gradient is clipped to this L2 norm over its parameters, apart
        from that of all others; 1.0e+9 disables clipping.
    :param weight_decay: AdamW's weight decay, for tensors with two or more dimensions.
    :param schedule: 'constant': lr at every step, without warm-up; 'main': lr times the factor by
        which warm-up and schedule multiply the main learning rate.
    """

    lr: float
    betas: tuple[float, float] = (0.9, 0.999)
    max_norm: float = 35.0
    weight_decay: float = 0.0
    schedule: str = 'constant'

    def __post_init__(self) -> None:
        """Raise ValueError for an unknown schedule or a number out of range."""
        if self.schedule not in GROUP_SCHEDULES:
            raise ValueError(
                f'schedule: {self.schedule!r} is unknown; known: {", ".join(GROUP_SCHEDULES)}'
            )
        for value in self.betas:
            if not 0 <= value < 1:
                raise ValueError(f'betas: expected at least 0, less than 1, got {value}')
        for name in ('lr', 'max_norm'):
            if not getattr(self, name) > 0:
                raise ValueError(f'{name}: expected more than 0, got {getattr(self, name)}')
        if not self.weight_decay >= 0:
            raise ValueError(f'weight_decay: expected at least 0, got {self.weight_decay}')


#: {name of a group: its configuration and parameters, in an order that is always the same}.
OptimGroups = Mapping[str, tuple[OptimGroupConfig, list[nn.Parameter]]]
