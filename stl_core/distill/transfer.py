"""
Transfer: a distillation loss that may own weights, such as a projection or a scorer.

A loss without weights is a function, see DistillLoss; a Transfer is a module built for one student
and teacher. Its weights are trained with the student's, saved in checkpoints, and are no part of
the model file.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from torch import Tensor, nn

from stl_core.distill.view import DistillView
from stl_core.tensors.optim_group import OptimGroupConfig
from stl_core.tensors.reductions import StepNormalizer


class Transfer(nn.Module):
    """
    A distillation loss with weights; subclasses implement forward.

    Its __init__(config, student, teacher) raises ValueError, naming the detector and level, where
    the two detectors cannot be compared.
    """

    #: {name of a submodule of the transfer: configuration of its own optimiser}. All other
    #: parameters are trained by the optimiser of the student.
    optimizer_groups: Mapping[str, OptimGroupConfig] = MappingProxyType({})

    #: level whose map of the student `project` brings into the teacher's channels, so that other
    #: losses compare the result (view.projected); '' for none.
    projected_level: str = ''

    def project(self, features: Tensor) -> Tensor:
        """Project a student's map of projected_level, without gradient to the projection."""
        raise NotImplementedError

    def forward(self, view: DistillView, normalizer: StepNormalizer) -> dict[str, Tensor]:
        """
        Compute the losses in float32.

        :param view: outputs of both networks.
        :param normalizer: normaliser of the step.
        :return: unweighted scalars: '' is the loss `distill/<key>`, and each of the entry's
            extra_losses `distill/<key>_<name>`.
        """
        raise NotImplementedError

    def step_metrics(self) -> dict[str, Tensor]:
        """Return figures of the last forward that are no losses, (), detached; by name."""
        return {}
