"""
Configuration of the optimisation, and learning-rate schedules.

A schedule is a function of the run's progress, 0 to 1, so a resumed run needs no scheduler state.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True)
class OptimConfig:
    """
    AdamW, its learning-rate schedule, gradient clipping and weight averaging (YAML key `optim`).

    :param lr: base learning rate; warm-up and schedule multiply it.
    :param betas: AdamW's decay rates of the moving averages of the gradient and of its square.
    :param weight_decay: AdamW's weight decay, for tensors with two or more dimensions; biases and
        norm parameters are not decayed.
    :param warmup_epochs: epochs over which the learning rate rises linearly from lr / 100 to lr;
        0 disables the warm-up.
    :param schedule: learning rate over the run: 'step' (a tenth after each of `drops`), 'cosine'
        (half a cosine from lr to lr / 1000) or 'cyclic' (one cycle up and down, as MonoCon).
    :param drops: 'step' only: fractions of the run (0 to 1) after which lr falls tenfold.
    :param cycle_rise: 'cyclic' only, as are the next three; the defaults are MonoCon's. Fraction
        of the run in which lr rises from lr to the peak; lr falls during the rest.
    :param cycle_peak: learning rate at the peak, as a multiple of lr.
    :param cycle_end: learning rate at the end of the run, as a multiple of lr.
    :param cycle_beta1: betas[0] at the peak, as a multiple of betas[0].
    :param max_norm: gradients are clipped to this L2 norm over all parameters; 1.0e+9 disables
        clipping.
    :param ema: decay of the exponential moving average (EMA) of weights and buffers, such as
        0.999. With EMA, evaluations and saved model files use the average. The decay rises to this
        value from 0.1, as (1 + step) / (10 + step). 0 disables EMA.
    :param freeze_norm_at: fraction of the run after which BatchNorm normalises with its running
        statistics, as it does at inference, and no longer updates them; 1 for never.
    """

    lr: float = 1.25e-3
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 1.0e-5
    warmup_epochs: float = 5.0
    schedule: str = 'step'
    drops: tuple[float, ...] = (0.64, 0.86)
    cycle_rise: float = 0.4
    cycle_peak: float = 10.0
    cycle_end: float = 1.0e-4
    cycle_beta1: float = 0.85 / 0.95
    max_norm: float = 35.0
    ema: float = 0.0
    freeze_norm_at: float = 1.0

    def __post_init__(self) -> None:
        """Raise ValueError for an unknown schedule or a number out of range."""
        if self.schedule not in SCHEDULES:
            raise ValueError(
                f'schedule: {self.schedule!r} is unknown; known: {", ".join(SCHEDULES)}'
            )
        if not 0 < self.cycle_rise < 1:
            raise ValueError(f'cycle_rise: expected more than 0, less than 1: {self.cycle_rise}')
        for name, value in (*(('betas', each) for each in self.betas), ('ema', self.ema)):
            if not 0 <= value < 1:
                raise ValueError(f'{name}: expected at least 0, less than 1, got {value}')
        for name in ('lr', 'max_norm'):
            if not getattr(self, name) > 0:
                raise ValueError(f'{name}: expected more than 0, got {getattr(self, name)}')
        for name in ('weight_decay', 'warmup_epochs'):
            if not getattr(self, name) >= 0:
                raise ValueError(f'{name}: expected at least 0, got {getattr(self, name)}')


class LrAndBeta(NamedTuple):
    """Learning rate and first beta of AdamW, or a schedule's factors for the two."""

    lr: float
    beta1: float = 1.0


def step_schedule(progress: float, config: OptimConfig) -> LrAndBeta:
    """Return the factors of a schedule that divides lr by 10 after each of config.drops."""
    return LrAndBeta(float(0.1 ** sum(progress >= drop for drop in config.drops)))


def cosine_schedule(progress: float, config: OptimConfig) -> LrAndBeta:
    """Return the factors of a schedule that follows half a cosine from 1 to 0.001."""
    return LrAndBeta(cosine_interpolate(1.0, 0.001, progress))


def cyclic_schedule(progress: float, config: OptimConfig) -> LrAndBeta:
    """
    Return the factors of the one-cycle schedule: lr rises and falls, beta1 does the opposite.

    Both follow half cosines. Smith and Topin, Super-Convergence, 2019; with MonoCon's parameters,
    equal to torch's OneCycleLR.
    """
    rise, peak, beta1 = config.cycle_rise, config.cycle_peak, config.cycle_beta1
    if progress < rise:
        fraction = progress / rise
        return LrAndBeta(
            cosine_interpolate(1.0, peak, fraction), cosine_interpolate(1.0, beta1, fraction)
        )
    fraction = (progress - rise) / (1 - rise)
    return LrAndBeta(
        cosine_interpolate(peak, config.cycle_end, fraction),
        cosine_interpolate(beta1, 1.0, fraction),
    )


#: Name of a schedule -> function of progress (0 to 1) and config that returns its factors.
SCHEDULES: dict[str, Callable[[float, OptimConfig], LrAndBeta]] = {
    'step': step_schedule,
    'cosine': cosine_schedule,
    'cyclic': cyclic_schedule,
}


def cosine_interpolate(start: float, end: float, fraction: float) -> float:
    """Interpolate along half a cosine from start (fraction 0) to end (fraction 1)."""
    return end + (start - end) * (1 + math.cos(math.pi * min(fraction, 1.0))) / 2


def schedule_at(epoch: float, epochs: int, config: OptimConfig) -> LrAndBeta:
    """Return learning rate and beta1 after `epoch` of `epochs` epochs: warm-up times schedule."""
    warm = config.warmup_epochs
    rise = min(1.0, 0.01 + 0.99 * epoch / warm) if warm > 0 else 1.0
    factor = SCHEDULES[config.schedule](epoch / epochs, config)
    return LrAndBeta(config.lr * rise * factor.lr, config.betas[0] * factor.beta1)
