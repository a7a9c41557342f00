"""
Statistics of an epoch: mean losses, and the steps that were skipped.

A step whose gradient is not finite changes nothing, see train_step: a rare one, such as of an
impossible label, costs nothing, and would return in every resumed run. Many of them mean that the
model diverges or that the data are wrong, which ends the run.
"""

from __future__ import annotations

import logging

import torch
from torch import Tensor, nn

from stl_core.tensors.finite import not_finite
from stl_core.tensors.reductions import all_reduce_mean, rank
from stl_core.training import distributed
from stl_core.training.train_step import TrainError

log = logging.getLogger(__name__)

#: Fraction of the steps of an epoch that may be skipped, and the number in short epochs.
MAX_SKIPPED_FRACTION, MAX_SKIPPED_STEPS = 0.01, 3
#: Number of steps in a row at which a run ends.
MAX_SKIPPED_IN_A_ROW = 10
#: Number of skipped steps of an epoch whose frames are logged.
_LOGGED_STEPS = 5


class EpochStatistics:
    """
    Sums over the steps of an epoch; they stay on the device until the epoch ends.

    :param epoch: number of the epoch, from 1.
    """

    def __init__(self, epoch: int) -> None:
        """Start without steps."""
        self.epoch = epoch
        self._sums: dict[str, Tensor] = {}
        self._flags: list[Tensor] = []
        self._frame_ids: list[tuple[str, ...]] = []

    def add(self, results: dict[str, Tensor], frame_ids: tuple[str, ...]) -> None:
        """
        Add a step.

        :param results: from train_step: losses, metrics, gradient norms, 'skipped' and
            'diverged', () on the device.
        :param frame_ids: the frames of the step in this process.
        """
        results = dict(results)
        skipped, diverged = results.pop('skipped'), results.pop('diverged')
        self._flags.append(torch.stack([skipped, diverged]))
        self._frame_ids.append(frame_ids)
        for name, value in results.items():
            # a skipped step has no losses that mean anything
            taken = torch.where(skipped > 0, 0.0, value)
            self._sums[name] = self._sums[name] + taken if name in self._sums else taken

    def summarize(self) -> dict[str, float]:
        """
        Log the skipped steps and return the row of the epoch; synchronises host and device.

        :return: means of losses, metrics and gradient norms over steps and processes, without the
            skipped steps, and 'skipped', their number.
        :raises TrainError: if too many steps were skipped, see the constants above; steps that
            only lower the loss scale of fp16 do not count.
        """
        flags = torch.stack(self._flags).tolist()
        skipped = [index for index, (flag, _) in enumerate(flags) if flag]
        diverged = [bool(flag) for _, flag in flags]
        means = all_reduce_mean(torch.stack(list(self._sums.values())).float()).tolist()
        taken = max(len(flags) - len(skipped), 1)
        row = {name: value / taken for name, value in zip(self._sums, means, strict=True)}
        if skipped:
            self._log_skipped(skipped)
        self._warn_of_zeros(row, len(flags) - len(skipped))
        reason = too_many_skipped(diverged)
        if reason:
            text = ', '.join(f'{name} {value:.4g}' for name, value in row.items())
            raise TrainError(
                f'epoch {self.epoch}: {reason}, because the gradient was not finite; means over'
                f' the other steps: {text}; check the labels of the logged frames, or lower'
                ' optim.lr'
            )
        return {**row, 'skipped': float(len(skipped))}

    def _warn_of_zeros(self, row: dict[str, float], taken: int) -> None:
        """Warn of losses that were 0 in every step of the first epoch: they teach nothing."""
        zeros = [
            name
            for name, value in row.items()
            if '/' in name and not name.startswith(('metric/', 'grad_norm/')) and value == 0
        ]
        if zeros and taken and self.epoch == 1 and not rank():
            log.warning(
                'warning: epoch 1: %s is 0 in all %d steps, so nothing is learnt from it; is there'
                ' an object (relation: two of one image) that it compares?',
                *(' and '.join(zeros), taken),
            )

    def _log_skipped(self, skipped: list[int]) -> None:
        """Log the frames of the first skipped steps; every process calls it with equal steps."""
        logged = skipped[:_LOGGED_STEPS]
        parts = distributed.gather_objects([self._frame_ids[index] for index in logged])
        if rank():
            return
        log.warning(
            'epoch %d: %d of %d steps skipped, because the gradient was not finite; they changed'
            ' nothing',
            *(self.epoch, len(skipped), len(self._flags)),
        )
        for number, index in enumerate(logged):
            frames = ' '.join(frame for part in parts for frame in part[number])
            log.warning('epoch %d: step %d skipped, frames %s', self.epoch, index + 1, frames)


def too_many_skipped(skipped: list[bool]) -> str:
    """
    Return why the skipped steps of an epoch end the run, '' if they do not.

    :param skipped: for each step, whether it was skipped.
    """
    count, steps = sum(skipped), len(skipped)
    longest = run = 0
    for flag in skipped:
        run = run + 1 if flag else 0
        longest = max(longest, run)
    if longest >= MAX_SKIPPED_IN_A_ROW:
        return f'{longest} steps in a row were skipped'
    if count and (count == steps or count > max(MAX_SKIPPED_STEPS, MAX_SKIPPED_FRACTION * steps)):
        return f'{count} of {steps} steps were skipped'
    return ''


def require_finite(epoch: int, modules: dict[str, nn.Module]) -> None:
    """
    Check all weights and buffers; waits for the device once.

    :param epoch: number of the epoch, from 1.
    :param modules: {name for the message: module}.
    :raises TrainError: naming the first tensor that is not finite.
    """
    state = {
        f'{name}.{key}': value
        for name, module in modules.items()
        for key, value in module.state_dict().items()
    }
    if wrong := not_finite(state):
        raise TrainError(
            f'epoch {epoch}: {wrong[0]} is not finite, and so are {len(wrong) - 1} other tensors;'
            ' the last checkpoint is of an earlier epoch; lower optim.lr or use precision: fp32'
        )
