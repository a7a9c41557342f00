"""
Extensions: epochs added to a run that was planned to end earlier, and their learning rate.

The added epochs follow half a cosine from `lr` to lr / 1000, without warm-up, see lr_at. The
first part of the run keeps its schedule, and norms that it froze stay frozen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from stl_core.training.optim import LrAndBeta, OptimConfig, cosine_interpolate, schedule_at

#: Learning rate of an extension at its start, as a multiple of optim.lr, and at its end, as a
#: multiple of that at its start.
START_FACTOR, END_FACTOR = 0.1, 1e-3


@dataclass(frozen=True)
class Extension:
    """
    Epochs added to a run.

    :param first: completed epochs before it.
    :param last: completed epochs after it.
    :param lr: learning rate at its start.
    :param planned: epochs of the plan before the first extension; more than that extension's
        `first` if early stopping ended the run.
    """

    first: int
    last: int
    lr: float
    planned: int

    def lr_at(self, epoch: float) -> float:
        """Return the learning rate after `epoch` epochs, from first to last: half a cosine."""
        fraction = (epoch - self.first) / (self.last - self.first)
        return cosine_interpolate(self.lr, END_FACTOR * self.lr, fraction)

    def describe(self) -> str:
        """Describe the epochs and their schedule in one line."""
        return (
            f'epochs {self.first + 1} to {self.last} are added: the learning rate follows half a'
            f' cosine from {self.lr:.3g} to {END_FACTOR * self.lr:.3g}, without warm-up'
        )


def make_extension(
    first: int,
    last: int,
    epochs_before: int,
    extensions: Sequence[Extension],
    lr: float | None,
    config: OptimConfig,
) -> Extension:
    """
    Return the extension of a run.

    :param first: completed epochs before it.
    :param last: completed epochs after it.
    :param epochs_before: epochs of the configuration before it.
    :param extensions: earlier extensions.
    :param lr: learning rate at its start; None for START_FACTOR times config.lr.
    :param config: hyperparameters.
    :raises ValueError: for a learning rate that is not positive and finite.
    """
    lr = START_FACTOR * config.lr if lr is None else lr
    if not 0 < lr < math.inf:
        raise ValueError(f'expected a finite number above 0, got {lr:g}')
    return Extension(first, last, lr, planned_epochs(epochs_before, extensions))


def extended_schedule_at(
    epoch: float, epochs: int, extensions: Sequence[Extension], config: OptimConfig
) -> LrAndBeta:
    """
    Return learning rate and beta1 after `epoch` epochs of a run that may have been extended.

    :param epoch: completed epochs, with the fraction of the present one.
    :param epochs: epochs of the run, with all extensions.
    :param extensions: in order.
    :param config: hyperparameters; their schedule covers the epochs before the first extension.
    """
    for each in reversed(extensions):
        if epoch >= each.first:
            return LrAndBeta(each.lr_at(epoch), config.betas[0])
    return schedule_at(epoch, planned_epochs(epochs, extensions), config)


def norms_are_frozen(
    epoch: int, epochs: int, extensions: Sequence[Extension], config: OptimConfig
) -> bool:
    """Return whether BatchNorm is frozen in the epoch after `epoch`; parameters as above."""
    if extensions:  # as in the last epoch before them
        epoch = min(epoch, extensions[0].first - 1)
    return epoch >= config.freeze_norm_at * planned_epochs(epochs, extensions)


def planned_epochs(epochs: int, extensions: Sequence[Extension]) -> int:
    """Return the epochs for which a run was planned before it was extended."""
    return extensions[0].planned if extensions else epochs


def to_json(extensions: Sequence[Extension]) -> list[dict[str, Any]]:
    """Return extensions as plain data, for from_json."""
    return [asdict(each) for each in extensions]


def from_json(value: Any) -> tuple[Extension, ...]:
    """Return the extensions of plain data; () for none."""
    return tuple(Extension(**each) for each in value or ())
