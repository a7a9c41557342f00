"""Optimiser of a run: AdamW of the model and of its groups, loss scaling, weight averaging."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from stl_core.tensors.optim_group import OptimGroupConfig, OptimGroups
from stl_core.training.optim.clipped_adamw import ClippedAdamW
from stl_core.training.optim.config import LrAndBeta, OptimConfig, schedule_at
from stl_core.training.optim.model_ema import ModelEma
from stl_core.training.run.saved_buffers import SavedBuffers

#: Lower bound of fp16's loss scale: at this scale, an overflow is one of the gradient itself.
MIN_LOSS_SCALE = 1.0
#: Key of the main AdamW's state; that of a group is this key, a slash and the group's name.
_STATE_KEY = 'optimizer'


class GradientNorms(NamedTuple):
    """
    L2 norms of a step's gradient before clipping, () on the device.

    :param main: over all parameters outside of groups.
    :param groups: {name of a group: norm over its parameters}.
    :param finite: () bool, whether all of them are finite: otherwise the step was skipped.
    """

    main: Tensor
    groups: dict[str, Tensor]
    finite: Tensor


class Optimizer:
    """
    AdamW with schedule, gradient clipping, loss scaling for fp16 and weight averaging.

    The parameters of each group have an AdamW, a learning rate and a clipping norm of their group;
    they count neither in the main AdamW nor in its norm. A step is taken by all or skipped by all:
    a student whose scorer stands still, or the reverse, would be another method, and a group that
    is never finite must end the run instead of leaving a dead loss in it.

    :param model: the module whose trainable parameters are optimised; vectors (biases, norms) get
        no weight decay.
    :param ema_source: the submodule to average if config.ema is not 0: the detector.
    :param config: hyperparameters.
    :param precision: key of PRECISIONS; 'fp16' enables loss scaling, with one scale for all.
    :param groups: optimiser groups of the model, see optimizer_groups.
    :raises ValueError: for a group without trainable parameters, or with a parameter that is not
        the model's or that is in another group, too.
    """

    def __init__(
        self,
        model: nn.Module,
        ema_source: nn.Module,
        config: OptimConfig,
        precision: str,
        groups: OptimGroups | None = None,
    ) -> None:
        """Build AdamW of the model and of each group, gradient scaler and weight average."""
        trainable = [p for p in model.parameters() if p.requires_grad]
        grouped = _trainable_in_groups(model, groups or {})
        apart = {id(p) for parameters in grouped.values() for p in parameters}
        self.config = config
        self.main = ClippedAdamW(
            [p for p in trainable if id(p) not in apart],
            *(config.lr, config.betas, config.weight_decay, config.max_norm),
        )
        self.group_configs = {name: each for name, (each, _) in (groups or {}).items()}
        self.groups = {
            name: ClippedAdamW(
                grouped[name], each.lr, each.betas, each.weight_decay, each.max_norm
            )
            for name, each in self.group_configs.items()
        }
        device = trainable[0].device.type
        self.scaler = torch.amp.GradScaler(device, enabled=precision == 'fp16')
        self.ema = ModelEma(ema_source, config.ema) if config.ema else None

    def apply_schedule(self, epoch: float, epochs: int) -> float:
        """Set learning rates and beta1 for a (fractional) epoch; return the main learning rate."""
        return self.set_lr_and_beta(schedule_at(epoch, epochs, self.config))

    def set_lr_and_beta(self, values: LrAndBeta) -> float:
        """Set the main learning rate and beta1, and the groups' rates; return the main one."""
        lr, beta1 = values
        self.main.set_lr_and_beta1(lr, beta1)
        for name, each in self.group_configs.items():
            group_lr = each.lr * (lr / self.config.lr if each.schedule == 'main' else 1.0)
            self.groups[name].set_lr_and_beta1(group_lr, each.betas[0])
        return lr

    def zero_grad(self) -> None:
        """Clear the gradients."""
        for each in self._parts():
            each.adamw.zero_grad(set_to_none=True)

    def backward(self, loss: Tensor) -> None:
        """Accumulate the gradient of a loss, scaled for fp16."""
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]

    def loss_scale(self) -> Tensor:
        """Return the factor of fp16's loss scaling, () on the device; 1 for other precisions."""
        one = torch.ones((), device=self.main.parameters[0].device)
        return self.scaler.scale(one)

    def step(self, buffers: SavedBuffers | None = None) -> GradientNorms:
        """
        Clip the gradients and update the weights; skip the update if a gradient is not finite.

        A skipped step changes neither weights and moments nor buffers nor their average.

        :param buffers: the model's buffers as they were before the forward pass of the step.
        """
        for each in self._parts():
            self.scaler.unscale_(each.adamw)
        main, *others = [each.clip() for each in self._parts()]
        finite = torch.stack([main, *others]).isfinite().all() if others else main.isfinite()
        for each in self._parts():
            each.step(finite)
        self.scaler.update()
        if self.scaler.is_enabled():
            # a frame whose gradient is never finite must not lower the scale for all others
            self.scaler.update(self.loss_scale().clamp(min=MIN_LOSS_SCALE))
        if buffers:
            buffers.restore_unless(finite)
        if self.ema:
            self.ema.update(finite)
        return GradientNorms(main, dict(zip(self.groups, others, strict=True)), finite)

    def _parts(self) -> list[ClippedAdamW]:
        return [self.main, *self.groups.values()]

    def state_dict(self) -> dict[str, Any]:
        """
        Return the state that a resumed run needs.

        Its keys are 'optimizer', 'optimizer/<name>' of each group, 'scaler' and 'mean' if used.
        """
        groups = {f'{_STATE_KEY}/{k}': each.adamw.state_dict() for k, each in self.groups.items()}
        scaler = {'scaler': self.scaler.state_dict()} if self.scaler.is_enabled() else {}
        ema = {'mean': self.ema.state_dict()} if self.ema else {}
        return {_STATE_KEY: self.main.adamw.state_dict(), **groups, **scaler, **ema}

    def require_same_groups(self, state: Mapping[str, Any]) -> None:
        """Raise ValueError if a state has other groups than this optimiser, naming both."""
        prefix = f'{_STATE_KEY}/'
        saved = {key.removeprefix(prefix) for key in state if key.startswith(prefix)}
        if saved != self.groups.keys():
            there, here = (', '.join(sorted(each)) or 'none' for each in (saved, self.groups))
            raise ValueError(f'optimiser groups: {there}; expected: {here}')

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state that state_dict returned; ValueError for one of other groups."""
        self.require_same_groups(state)
        self.main.load_state_dict(state[_STATE_KEY])
        for name, each in self.groups.items():
            each.load_state_dict(state[f'{_STATE_KEY}/{name}'])
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(state['scaler'])
        if self.ema:
            self.ema.load_state_dict(state['mean'])


def optimizer_groups(model: nn.Module) -> OptimGroups:
    """
    Return the optimiser groups that a trainable model names, {} for none.

    :param model: not wrapped; its optional method optimizer_groups() returns
        {name: (OptimGroupConfig, parameters)}, the parameters in an order that is always the same.
    """
    method = getattr(model, 'optimizer_groups', None)
    groups: OptimGroups = method() if method else {}
    return groups


def _trainable_in_groups(model: nn.Module, groups: OptimGroups) -> dict[str, list[nn.Parameter]]:
    """Return the trainable parameters of each group; ValueError for groups that do not fit."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    group_of: dict[int, str] = {}
    for group, (config, parameters) in groups.items():
        if not isinstance(config, OptimGroupConfig):
            raise ValueError(f'optimiser group {group!r}: {config!r} is no OptimGroupConfig')
        if not any(each.requires_grad for each in parameters):
            raise ValueError(f'optimiser group {group!r}: has no trainable parameter')
        for each in parameters:
            if id(each) not in names:
                raise ValueError(f"optimiser group {group!r}: a parameter is not the model's")
            if other := group_of.get(id(each)):
                raise ValueError(
                    f'optimiser group {group!r}: {names[id(each)]} is also in {other!r}'
                )
            group_of[id(each)] = group
    return {
        group: [each for each in parameters if each.requires_grad]
        for group, (_, parameters) in groups.items()
    }
