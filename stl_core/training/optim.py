"""
Optimisation: AdamW, learning-rate schedules, gradient clipping, loss scaling, weight averaging.

A schedule is a function of the run's progress, 0 to 1, so a resumed run needs no scheduler state.
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

from stl_core.training.run.saved_buffers import SavedBuffers

#: Lower bound of fp16's loss scale: at this scale, an overflow is one of the gradient itself.
MIN_LOSS_SCALE = 1.0


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


class Optimizer:
    """
    AdamW with schedule, gradient clipping, loss scaling for fp16 and weight averaging.

    :param model: the module whose trainable parameters are optimised; vectors (biases, norms) get
        no weight decay.
    :param ema_source: the submodule to average if config.ema is not 0: the detector.
    :param config: hyperparameters.
    :param precision: key of PRECISIONS; 'fp16' enables loss scaling.
    """

    def __init__(
        self, model: nn.Module, ema_source: nn.Module, config: OptimConfig, precision: str
    ) -> None:
        """Build AdamW with two parameter groups, the gradient scaler and the weight average."""
        trainable = [p for p in model.parameters() if p.requires_grad]
        self.config = config
        self.parameters = trainable
        groups = [
            {'params': [p for p in trainable if p.dim() > 1], 'weight_decay': config.weight_decay},
            {'params': [p for p in trainable if p.dim() <= 1], 'weight_decay': 0.0},
        ]
        # only the fused kernel can skip a step without a host synchronisation, see step
        self.adamw = torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, fused=True)
        device = trainable[0].device.type
        self.scaler = torch.amp.GradScaler(device, enabled=precision == 'fp16')
        self.ema = ModelEma(ema_source, config.ema) if config.ema else None

    def apply_schedule(self, epoch: float, epochs: int) -> float:
        """Set learning rate and beta1 for a (fractional) epoch; return the learning rate."""
        return self.set_lr_and_beta(schedule_at(epoch, epochs, self.config))

    def set_lr_and_beta(self, values: LrAndBeta) -> float:
        """Set learning rate and beta1; return the learning rate."""
        lr, beta1 = values
        for group in self.adamw.param_groups:
            group['lr'], group['betas'] = lr, (beta1, self.config.betas[1])
        return lr

    def zero_grad(self) -> None:
        """Clear the gradients."""
        self.adamw.zero_grad(set_to_none=True)

    def backward(self, loss: Tensor) -> None:
        """Accumulate the gradient of a loss, scaled for fp16."""
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]

    def loss_scale(self) -> Tensor:
        """Return the factor of fp16's loss scaling, () on the device; 1 for other precisions."""
        one = torch.ones((), device=self.parameters[0].device)
        return self.scaler.scale(one)

    def step(self, buffers: SavedBuffers | None = None) -> Tensor:
        """
        Clip the gradient and update the weights; skip the update if the gradient is not finite.

        A skipped step changes neither weights and moments nor buffers nor their average.

        :param buffers: the model's buffers as they were before the forward pass of the step.
        :return: () L2 norm of the gradient before clipping, on the device.
        """
        self.scaler.unscale_(self.adamw)
        norm = nn.utils.clip_grad_norm_(self.parameters, self.config.max_norm)
        # AdamW's kernel skips the update of weights and moments if found_inf is 1, which is its
        # contract with GradScaler. An `if` here would synchronise host and device at every step.
        finite = norm.detach().isfinite()
        self.adamw.found_inf = (~finite).float()  # type: ignore[attr-defined]
        self.adamw.grad_scale = None  # type: ignore[attr-defined]
        self.scaler.step(self.adamw)
        self.scaler.update()
        if self.scaler.is_enabled():
            # a frame whose gradient is never finite must not lower the scale for all others
            self.scaler.update(self.loss_scale().clamp(min=MIN_LOSS_SCALE))
        if buffers:
            buffers.restore_unless(finite)
        if self.ema:
            self.ema.update(finite)
        return norm.detach()

    def state_dict(self) -> dict[str, Any]:
        """Return the state that a resumed run needs: 'optimizer', and 'scaler', 'mean' if used."""
        scaler = {'scaler': self.scaler.state_dict()} if self.scaler.is_enabled() else {}
        ema = {'mean': self.ema.state_dict()} if self.ema else {}
        return {'optimizer': self.adamw.state_dict(), **scaler, **ema}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state that state_dict returned."""
        self.adamw.load_state_dict(state['optimizer'])
        for group in self.adamw.param_groups:
            group['fused'] = True  # also for a checkpoint made with another kind of AdamW
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(state['scaler'])
        if self.ema:
            self.ema.load_state_dict(state['mean'])


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
