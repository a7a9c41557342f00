"""
From gradients to weights: AdamW, its schedules, loss scaling, clipping, the mean of the weights.

A schedule is a function of the run's progress, 0 to 1, so that a resumed run needs no state of it.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class OptimConfig:
    """
    AdamW and its learning rate.

    :param lr: learning rate; the schedules multiply it.
    :param betas: how slowly AdamW forgets the mean of gradients, and of their squares.
    :param weight_decay: on weights; biases and norms are free of it.
    :param warmup_epochs: rise linearly from lr / 100.
    :param schedule: key of optim.SCHEDULES: 'step', 'cosine' or 'cyclic'.
    :param drops: for 'step': fractions of the run after which lr falls tenfold.
    :param cycle_rise: for 'cyclic', as the three below, which are MonoCon's: fraction of the run
        in which lr rises; it falls in the rest.
    :param cycle_peak: lr at the peak, as a multiple of lr.
    :param cycle_end: lr at the end, as a multiple of lr.
    :param cycle_beta1: betas[0] at the peak, as a multiple of it.
    :param max_norm: gradients are clipped to this norm; 1.0e+9 for as they are.
    :param ema: decay of the running mean of weights and buffers that is judged and saved as the
        student; it rises to this value from 0.1, as (1 + step) / (10 + step). 0 for the weights.
    :param freeze_norm_at: fraction of the run after which BatchNorm uses its running statistics,
        so that what is learnt last is what will be run; 1 for never.
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
        """Refuse an unknown schedule, fractions that are none, and rates of the wrong sign."""
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
    """Learning rate and first beta of AdamW, or what a schedule multiplies them by."""

    lr: float
    beta1: float = 1.0


def step_schedule(progress: float, config: OptimConfig) -> LrAndBeta:
    """Fall to a tenth after each of config.drops."""
    return LrAndBeta(float(0.1 ** sum(progress >= drop for drop in config.drops)))


def cosine_schedule(progress: float, config: OptimConfig) -> LrAndBeta:
    """Fall along half a cosine from 1 to 0.001."""
    return LrAndBeta(_cosine_interpolate(1.0, 0.001, progress))


def cyclic_schedule(progress: float, config: OptimConfig) -> LrAndBeta:
    """
    Rise and fall once, along half cosines, while beta1 does the opposite.

    (Smith and Topin, Super-Convergence, 2019, in the shape that MonoCon is trained with.)
    """
    rise, peak, beta1 = config.cycle_rise, config.cycle_peak, config.cycle_beta1
    if progress < rise:
        part = progress / rise
        return LrAndBeta(
            _cosine_interpolate(1.0, peak, part), _cosine_interpolate(1.0, beta1, part)
        )
    part = (progress - rise) / (1 - rise)
    return LrAndBeta(
        _cosine_interpolate(peak, config.cycle_end, part), _cosine_interpolate(beta1, 1.0, part)
    )


SCHEDULES: dict[str, Callable[[float, OptimConfig], LrAndBeta]] = {
    'step': step_schedule,
    'cosine': cosine_schedule,
    'cyclic': cyclic_schedule,
}


def schedule_at(epoch: float, epochs: int, config: OptimConfig) -> LrAndBeta:
    """Learning rate and beta1 after `epoch` of `epochs` passes: warm-up times the schedule."""
    warm = config.warmup_epochs
    rise = min(1.0, 0.01 + 0.99 * epoch / warm) if warm > 0 else 1.0
    factor = SCHEDULES[config.schedule](epoch / epochs, config)
    return LrAndBeta(config.lr * rise * factor.lr, config.betas[0] * factor.beta1)


class Optimizer:
    """
    AdamW and all that surrounds its step.

    :param model: its trainable parameters are optimised; vectors (biases, norms) do not decay.
    :param ema_source: the part of the model whose mean is kept, where config.ema is not 0.
    :param config: the numbers.
    :param precision: key of PRECISIONS; the gradients of fp16 need scaling.
    """

    def __init__(
        self, model: nn.Module, ema_source: nn.Module, config: OptimConfig, precision: str
    ) -> None:
        """Build AdamW with its two groups, the loss scale and the mean."""
        trainable = [p for p in model.parameters() if p.requires_grad]
        self.config = config
        self.parameters = trainable
        groups = [
            {'params': [p for p in trainable if p.dim() > 1], 'weight_decay': config.weight_decay},
            {'params': [p for p in trainable if p.dim() <= 1], 'weight_decay': 0.0},
        ]
        # fused: it alone can skip a step without asking the host, see step
        self.adamw = torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, fused=True)
        device = trainable[0].device.type
        self.scaler = torch.amp.GradScaler(device, enabled=precision == 'fp16')
        self.ema = ModelEma(ema_source, config.ema) if config.ema else None

    def apply_schedule(self, epoch: float, epochs: int) -> float:
        """Follow the schedule to where the run is; return the learning rate."""
        lr, beta1 = schedule_at(epoch, epochs, self.config)
        for group in self.adamw.param_groups:
            group['lr'], group['betas'] = lr, (beta1, self.config.betas[1])
        return lr

    def zero_grad(self) -> None:
        """Forget the gradients."""
        self.adamw.zero_grad(set_to_none=True)

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of a loss, scaled for fp16."""
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]

    def step(self) -> Tensor:
        """
        Clip and take a step, unless the gradient is not finite.

        :return: () norm of the gradient before clipping, on the device.
        """
        self.scaler.unscale_(self.adamw)
        norm = nn.utils.clip_grad_norm_(self.parameters, self.config.max_norm)
        # AdamW's kernel itself leaves weights and moments alone where found_inf is 1: this is the
        # contract GradScaler has with it. An `if` here would make the host wait at every step.
        self.adamw.found_inf = (~norm.isfinite()).float()  # type: ignore[attr-defined]
        self.adamw.grad_scale = None  # type: ignore[attr-defined]
        self.scaler.step(self.adamw)
        self.scaler.update()
        if self.ema:
            self.ema.update()
        return norm.detach()

    def state_dict(self) -> dict[str, Any]:
        """Return all that a resumed run needs, in parts a checkpoint can name."""
        scaler = {'scaler': self.scaler.state_dict()} if self.scaler.is_enabled() else {}
        mean = {'mean': self.ema.state_dict()} if self.ema else {}
        return {'optimizer': self.adamw.state_dict(), **scaler, **mean}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what state_dict returned."""
        self.adamw.load_state_dict(state['optimizer'])
        for group in self.adamw.param_groups:
            group['fused'] = True  # whatever kind of AdamW the checkpoint was made with
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(state['scaler'])
        if self.ema:
            self.ema.load_state_dict(state['mean'])


class ModelEma:
    """
    A copy of a module whose weights and buffers are a running mean of the module's.

    :param module: the one that is trained.
    :param decay: share of the mean that a step keeps, in the long run.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        """Copy the module."""
        self.source, self.decay, self.steps = module, decay, 0
        self.module = copy.deepcopy(module).requires_grad_(False)

    @torch.no_grad()
    def update(self) -> None:
        """Move towards the module; counters, such as those of norms, are copied."""
        # without the rise the first, random weights would long be seen in the mean
        keep = min(self.decay, (1 + self.steps) / (10 + self.steps))
        pairs = list(
            zip(
                _parameters_and_buffers(self.module),
                _parameters_and_buffers(self.source),
                strict=True,
            )
        )
        means, values = zip(*(pair for pair in pairs if pair[0].is_floating_point()), strict=True)
        torch._foreach_lerp_(means, values, 1 - keep)
        for mean, value in pairs:
            if not mean.is_floating_point():
                mean.copy_(value)
        self.steps += 1

    def state_dict(self) -> dict[str, Any]:
        """Return the mean and how many steps it has seen."""
        return {'module': self.module.state_dict(), 'steps': self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what state_dict returned."""
        self.module.load_state_dict(state['module'])
        self.steps = state['steps']


def _cosine_interpolate(start: float, end: float, fraction: float) -> float:
    """Half a cosine from start to end; `part` of the way, 0 to 1."""
    return end + (start - end) * (1 + math.cos(math.pi * min(fraction, 1.0))) / 2


def _parameters_and_buffers(module: nn.Module) -> itertools.chain[Tensor]:
    return itertools.chain(module.parameters(), module.buffers())
