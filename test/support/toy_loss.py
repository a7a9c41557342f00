"""
A toy distillation loss in one file: the L1 distance of both networks' depth logits at objects.

Register it by `LOSSES['toy'] = toy_loss.ENTRY`.
"""

from dataclasses import dataclass

from stl_core.distill import LossEntry
from stl_core.tensors.reductions import masked_mean


@dataclass(frozen=True)
class ToyLossConfig:
    """
    Configuration of the toy loss.

    :param scale: factor of the loss.
    """

    scale: float = 1.0


def toy_loss(view, config, normalizer):
    student, teacher = (each.predictions['depth'] for each in (view.student, view.teacher))
    return config.scale * masked_mean((student - teacher).abs(), view.targets.valid, normalizer)


ENTRY = LossEntry(toy_loss, ToyLossConfig, compares_features=False, compares_predictions=True)
