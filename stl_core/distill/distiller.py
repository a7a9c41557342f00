"""
A student learning from labels and from a frozen teacher.

What is run on the vehicle is Distiller.student alone: the teacher and the layers between the two
live only here. Shapes: B batch, N object slots, C channels, h w grid.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from stl_core.distill import LOSSES
from stl_core.distill import regions as boxes
from stl_core.distill.adapters import Review, adapter
from stl_core.tensors.batch import Batch, Outputs, Side, Targets, View
from stl_core.tensors.precision import as_float32, computing

#: What a network is given of a batch: (B, C, H, W), normalised.
Input = Callable[[Batch], Tensor]

#: Bounds of a depth sigma, metres: what float32 tells from a confidence of 1, and no idea.
SIGMA_M = (1e-3, 1e3)


@dataclass(frozen=True)
class Config:
    """
    The layers between student and teacher.

    :param strides: levels at which features are compared; both networks have them.
    :param width: channels in which the student's levels are fused, and most that an adapter has
        between its convolutions; 512 is the public code's.
    :param alone_epochs: for so long the layers learn alone, shown features that carry no gradient:
        what random layers pass back has nothing to teach.
    """

    strides: tuple[int, ...] = (8, 16, 32)
    width: int = 128
    alone_epochs: float = 0.0

    def __post_init__(self) -> None:
        """Refuse less than no time, no channel, and a level twice."""
        if self.alone_epochs < 0:
            raise ValueError(f'alone_epochs: expected 0 or more, got {self.alone_epochs}')
        if self.width < 1:
            raise ValueError(f'width: expected at least 1 channel, got {self.width}')
        if len(set(self.strides)) < len(self.strides):
            raise ValueError(f'strides: expected each once, got {list(self.strides)}')


class Distiller(nn.Module):
    """
    Student, teacher and what is between them; model(batch, epoch) -> named losses.

    The teacher is frozen for good: no gradients, always in eval mode, whatever train() says.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        losses: Mapping[str, Any],
        config: Config,
        *,
        student_input: Input,
        teacher_input: Input,
        precision: str = 'fp32',
    ) -> None:
        """
        Build the layers between two detectors.

        :param student: learns.
        :param teacher: trained; its parameters' requires_grad is switched off.
        :param losses: {key of LOSSES: its Config}.
        :param config: the layers.
        :param student_input: what the student sees of a batch.
        :param teacher_input: what the teacher sees, such as depth.
        :param precision: what the networks compute in; losses are float32 in any case.
        :raises ValueError: for an unknown loss or a stride that a network lacks.
        """
        super().__init__()
        for name in losses:
            if name not in LOSSES:
                raise ValueError(f'loss {name!r}: unknown; known: {", ".join(LOSSES)}')
        self.student, self.teacher = student, teacher.requires_grad_(False).eval()
        self.losses = dict(losses)
        self.student_input, self.teacher_input = student_input, teacher_input
        self.precision = precision
        self.alone_epochs = config.alone_epochs
        # layers that no loss asks for would get no gradient
        asked = any(LOSSES[name].compares_features for name in losses)
        self.strides = tuple(sorted(config.strides)) if asked else ()
        own, ideal = (_channels(net, self.strides) for net in (student, teacher))
        self.review = Review(own, config.width) if own else None
        self.adapters = nn.ModuleList(
            adapter(*pair, config.width) for pair in zip(own, ideal, strict=True)
        )

    @property
    def detector(self) -> nn.Module:
        """The student: what is judged, saved and run on the vehicle."""
        return self.student

    def train(self, mode: bool = True) -> Distiller:
        """Set the mode of all but the teacher."""
        super().train(mode)
        self.teacher.eval()
        return self

    def forward(self, batch: Batch, epoch: float) -> dict[str, Tensor]:
        """Return the student's losses and 'distill/<name>' of each configured one, unweighted."""
        with computing(self.precision, batch.image.device):
            out = self.student(self.student_input(batch), batch.P, batch.targets)
        out = as_float32(out)
        found = self.student.losses(out, batch.targets)  # type: ignore[operator]
        return {**found, **compare(self.look(out, batch, epoch), self.losses)}

    def look(self, out: Outputs, batch: Batch, epoch: float) -> View:
        """
        Show a batch to the teacher, and both answers to the losses.

        :param out: the student's.
        :param batch: the batch.
        :param epoch: passes so far, with a fraction.
        :return: the view.
        """
        height, width = batch.image.shape[1:3]
        student = _side(self.student, out, batch.targets)
        with computing(self.precision, batch.image.device):
            adapted = self._adapt(student.features, epoch)
            with torch.no_grad():
                ideal = self.teacher(self.teacher_input(batch), batch.P)
        with torch.no_grad():
            teacher = _side(self.teacher, as_float32(ideal), batch.targets)
        return View(
            student=student,
            teacher=teacher,
            adapted=adapted,
            targets=boxes.shown(batch.targets, (height, width)),
            P=batch.P,
            size_px=(height, width),
            epoch=epoch,
        )

    def _adapt(self, features: dict[int, Tensor], epoch: float) -> dict[int, Tensor]:
        """Fuse the student's maps and bring them to the teacher's widths."""
        if self.review is None:
            return {}
        shown = [features[stride] for stride in self.strides]
        if epoch < self.alone_epochs:
            shown = [each.detach() for each in shown]
        fused = self.review(shown)
        return {
            stride: adapt(each).float()
            for stride, adapt, each in zip(self.strides, self.adapters, fused, strict=True)
        }


def compare(view: View, losses: Mapping[str, Any]) -> dict[str, Tensor]:
    """
    Compute distillation losses, in float32 under any autocast: inner products outgrow float16.

    :param view: of float32.
    :param losses: {key of LOSSES: its Config}.
    :return: {'distill/<name>': unweighted scalar}.
    """
    with computing('fp32', view.P.device):
        return {
            f'distill/{name}': LOSSES[name].loss(view, config) for name, config in losses.items()
        }


def _channels(net: nn.Module, strides: tuple[int, ...]) -> tuple[int, ...]:
    """Widths of a detector's features at some strides, finest first."""
    widths = dict(zip(net.strides, net.channels, strict=True))  # type: ignore[arg-type]
    if not set(strides) <= widths.keys():
        name = type(net).__name__
        raise ValueError(f'distill.layers.strides: {strides}; {name} has {tuple(widths)}')
    return tuple(widths[stride] for stride in strides)


def _side(net: Any, out: Outputs, targets: Targets) -> Side:
    """Ask a detector what it says of the targets."""
    low, high = SIGMA_M
    sure = net.confidence(out, targets).detach()
    return Side(
        features=dict(zip(net.strides, out.features, strict=True)),
        heads=out.heads,
        answers=net.answers(out, targets),
        sigma_m=(1 / sure - 1).clamp(low, high),
    )
