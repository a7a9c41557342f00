"""
Distiller: train a student from labels and from a frozen teacher.

The vehicle runs Distiller.student alone; the teacher and the layers between the two networks
exist only in training. Shapes: B batch, N object slots, C channels, h w grid.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from stl_core.distill import LOSSES
from stl_core.distill.adapters import ReviewFusion, build_adapter
from stl_core.distill.transfer import Transfer
from stl_core.distill.view import DistillView, NetworkOutputs
from stl_core.tensors import regions
from stl_core.tensors.batch import Batch, NetworkInput
from stl_core.tensors.detector import Detector, Outputs, TargetPredictions
from stl_core.tensors.feature_level import FeatureLevel, ImagePlane, LevelSpec, find_level
from stl_core.tensors.optim_group import OptimGroups
from stl_core.tensors.precision import autocast_to, outputs_to_float32
from stl_core.tensors.reductions import StepNormalizer

#: Function from a batch to the input of a network.
InputFn = Callable[[Batch], NetworkInput]

#: Bounds of a depth sigma, metres. Losses divide by sigma and its square: below a millimetre one
#: object would outweigh all others; a kilometre means that the depth is unknown.
SIGMA_BOUNDS_M = (1e-3, 1e3)


@dataclass(frozen=True)
class DistillLayersConfig:
    """
    Configuration of the layers between student and teacher.

    :param strides: strides of the image's feature maps that are compared; both networks must have
        them, and the first map of a stride counts.
    :param levels: names of the compared maps, finest first, instead of `strides`, see
        Detector.levels; both networks must have them in the same plane.
    :param width: channels in which the student's maps are fused, and upper limit of the channels
        between the convolutions of an adapter; the public code uses 512.
    :param alone_epochs: epochs in which only the layers learn from feature losses, on detached
        student features: gradients through random layers carry no information.
    """

    strides: tuple[int, ...] = (8, 16, 32)
    width: int = 128
    alone_epochs: float = 0.0
    levels: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        """Raise ValueError for a negative time, a width below 1 or a repeated stride."""
        if self.alone_epochs < 0:
            raise ValueError(f'alone_epochs: expected 0 or more, got {self.alone_epochs}')
        if self.width < 1:
            raise ValueError(f'width: expected at least 1 channel, got {self.width}')
        for name, values in (('strides', self.strides), ('levels', self.levels or ())):
            if len(set(values)) < len(values):
                raise ValueError(f'{name}: expected each once, got {list(values)}')
        if self.levels == ():
            raise ValueError('levels: expected one or more names; leave the key out for strides')


class Distiller(nn.Module):
    """
    Student, teacher and layers between them; model(batch, epoch, normalizer) -> named losses.

    The teacher stays frozen: it gets no gradients, and train() leaves it in eval mode.
    """

    def __init__(
        self,
        student: Detector,
        teacher: Detector,
        losses: Mapping[str, Any],
        config: DistillLayersConfig,
        *,
        student_input: InputFn,
        teacher_input: InputFn,
        precision: str = 'fp32',
        privileged: bool = False,
    ) -> None:
        """
        Build the layers between two detectors.

        :param student: detector to train.
        :param teacher: trained detector; its parameters' requires_grad is set to False.
        :param losses: {key of LOSSES: its Config}.
        :param config: configuration of the layers.
        :param student_input: returns the student's input of a batch.
        :param teacher_input: returns the teacher's input of a batch, such as depth.
        :param precision: precision of the networks; losses are always computed in float32.
        :param privileged: whether the teacher is given depth beside the image: then only maps
            that this depth reaches may be compared.
        :raises ValueError: for an unknown loss, a map that a network lacks, or one upstream of
            the depth that a privileged teacher is given.
        """
        super().__init__()
        for name in losses:
            if name not in LOSSES:
                raise ValueError(f'loss {name!r}: unknown; known: {", ".join(LOSSES)}')
        self.student, self.teacher = student, teacher.requires_grad_(False).eval()
        self.losses = dict(losses)
        self.student_input, self.teacher_input = student_input, teacher_input
        self.precision, self.alone_epochs = precision, config.alone_epochs
        # layers that no loss uses would get no gradient
        needs_features = any(LOSSES[name].compares_features for name in losses)
        self.student_levels, self.teacher_levels = (
            _compared_levels(net, config) if needs_features else () for net in (student, teacher)
        )
        _check_planes(self.student_levels, self.teacher_levels, privileged)
        widths = [each.channels for each in self.student_levels]
        self.review = ReviewFusion(tuple(widths), config.width) if widths else None
        self.adapters = nn.ModuleList(
            build_adapter(wide, level.channels, config.width)
            for wide, level in zip(widths, self.teacher_levels, strict=True)
        )
        self.transfers = _build_transfers(losses, student, teacher)
        self._function_metrics: dict[str, Tensor] = {}

    @property
    def detector(self) -> Detector:
        """Return the student: the network that is evaluated, saved and run on the vehicle."""
        return self.student

    def train(self, mode: bool = True) -> Distiller:
        """Set the mode of all modules except the teacher, which stays in eval mode."""
        super().train(mode)
        self.teacher.eval()
        return self

    def forward(self, batch: Batch, epoch: float, normalizer: StepNormalizer) -> dict[str, Tensor]:
        """Return the student's losses and 'distill/<name>' of each configured loss, unweighted."""
        with autocast_to(self.precision, batch.image.device):
            out = self.student(self.student_input(batch), batch.targets)
        out = outputs_to_float32(out)
        losses = self.student.losses(out, batch.targets, normalizer)
        view = self.make_view(out, batch, epoch)
        functions = {name: each for name, each in self.losses.items() if LOSSES[name].loss}
        self._function_metrics = function_metrics(view, functions, normalizer)
        return {
            **losses,
            **distillation_losses(view, functions, normalizer),
            **transfer_losses(view, self.transfers, normalizer),
        }

    def optimizer_groups(self) -> OptimGroups:
        """Return the transfers' optimiser groups; AttributeError for a part that one lacks."""
        return {
            f'distill/{key}/{part}': (config, list(transfer.get_submodule(part).parameters()))
            for key, transfer in self.named_transfers()
            for part, config in transfer.optimizer_groups.items()
        }

    def step_metrics(self) -> dict[str, Tensor]:
        """Return figures of the losses' last forward, (), {'distill/<key>/<name>': value}."""
        return self._function_metrics | {
            f'distill/{key}/{name}': value
            for key, transfer in self.named_transfers()
            for name, value in transfer.step_metrics().items()
        }

    def named_transfers(self) -> Iterator[tuple[str, Transfer]]:
        """Yield the key and the Transfer of each loss that has one."""
        for key, transfer in self.transfers.items():
            assert isinstance(transfer, Transfer)
            yield key, transfer

    def make_view(self, out: Outputs, batch: Batch, epoch: float) -> DistillView:
        """
        Run the teacher on a batch and collect the outputs of both networks for the losses.

        :param out: the student's outputs.
        :param batch: the batch.
        :param epoch: epochs so far, with a fraction.
        :return: the view; the teacher's outputs carry no gradient.
        """
        height, width = batch.image.shape[1:3]
        at_student = self.student.predictions_at_targets(out, batch.targets)
        student = _network_outputs(self.student, out, at_student)
        with autocast_to(self.precision, batch.image.device):
            adapted = self._adapt_features(student.levels, epoch)
            teacher_input = self.teacher_input(batch)
            with torch.no_grad():
                teacher_out = self.teacher(teacher_input)
        with torch.no_grad():
            teacher_out = outputs_to_float32(teacher_out)
            at_teacher = self.teacher.predictions_at_targets(teacher_out, batch.targets)
        visible = regions.visible_targets(batch.targets, (height, width))
        return DistillView(
            student=student,
            teacher=_network_outputs(self.teacher, teacher_out, at_teacher),
            adapted=adapted,
            targets=replace(visible, valid=visible.valid & at_student.found & at_teacher.found),
            P=batch.P,
            size_px=(height, width),
            epoch=epoch,
            given_depth_m=teacher_input.given_depth_m,
            heads_plane=getattr(self.student, 'heads_plane', None),
        )

    def _adapt_features(self, levels: dict[str, FeatureLevel], epoch: float) -> dict[str, Tensor]:
        """Fuse the student's maps and adapt them to the teacher's channels; {} without layers."""
        if self.review is None:
            return {}
        maps = [levels[each.name].map for each in self.student_levels]
        if epoch < self.alone_epochs:
            maps = [each.detach() for each in maps]
        fused = self.review(maps)
        return {
            level.name: adapt(each).float()
            for level, adapt, each in zip(self.teacher_levels, self.adapters, fused, strict=True)
        }


def distillation_losses(
    view: DistillView, losses: Mapping[str, Any], normalizer: StepNormalizer
) -> dict[str, Tensor]:
    """
    Compute distillation losses in float32 under any autocast: inner products overflow float16.

    :param view: float32 outputs of both networks.
    :param losses: {key of LOSSES: its Config}.
    :param normalizer: normaliser of the step.
    :return: {'distill/<name>': unweighted scalar}.
    """
    with autocast_to('fp32', view.P.device):
        found = {}
        for name, config in losses.items():
            loss = LOSSES[name].loss
            assert loss is not None
            found[f'distill/{name}'] = loss(view, config, normalizer)
        return found


@torch.no_grad()
def function_metrics(
    view: DistillView, losses: Mapping[str, Any], normalizer: StepNormalizer
) -> dict[str, Tensor]:
    """Return {'distill/<name>/<figure>': ()} of the losses with metrics, see LossEntry."""
    with autocast_to('fp32', view.P.device):
        return {
            f'distill/{name}/{key}': value
            for name, config in losses.items()
            for metrics in [LOSSES[name].metrics]
            if metrics
            for key, value in metrics(view, config, normalizer).items()
        }


def transfer_losses(
    view: DistillView, transfers: nn.ModuleDict, normalizer: StepNormalizer
) -> dict[str, Tensor]:
    """
    Compute the losses of transfers in float32, see distillation_losses.

    :return: {'distill/<key>' or 'distill/<key>_<extra loss>': unweighted scalar}.
    """
    found = {}
    with autocast_to('fp32', view.P.device):
        view = replace(view, projected=_projected_maps(view, transfers))
        for key, transfer in transfers.items():
            for extra, loss in transfer(view, normalizer).items():
                found[f'distill/{key}_{extra}' if extra else f'distill/{key}'] = loss
    return found


def _projected_maps(view: DistillView, transfers: nn.ModuleDict) -> dict[str, Tensor]:
    """Return the student's maps of the levels that a transfer projects, by level."""
    found = {}
    for each in transfers.values():
        assert isinstance(each, Transfer)
        if each.projected_level:
            features = view.student.level(each.projected_level).map
            found[each.projected_level] = each.project(features)
    return found


def _build_transfers(
    losses: Mapping[str, Any], student: Detector, teacher: Detector
) -> nn.ModuleDict:
    """Build the Transfer of each loss that has one; ValueError names the loss that cannot."""
    transfers = {}
    for name, config in losses.items():
        build = LOSSES[name].build
        if build:
            try:
                transfers[name] = build(config, student, teacher)
            except ValueError as err:
                raise ValueError(f'distill.losses.{name}: {err}') from err
    return nn.ModuleDict(transfers)


def _compared_levels(net: Detector, config: DistillLayersConfig) -> tuple[LevelSpec, ...]:
    """Return a detector's compared levels, finest first; ValueError if it lacks one."""
    if config.levels is not None:
        try:
            return tuple(find_level(net.levels, name) for name in config.levels)
        except ValueError as err:
            raise ValueError(f'distill.layers.levels: {type(net).__name__}: {err}') from err
    image_levels: dict[float, LevelSpec] = {}
    for each in net.levels:
        if isinstance(each.plane, ImagePlane):
            image_levels.setdefault(each.plane.stride, each)
    if not set(config.strides) <= image_levels.keys():
        name = type(net).__name__
        raise ValueError(
            f'distill.layers.strides: {config.strides}; {name} has {tuple(image_levels)}'
        )
    return tuple(image_levels[stride] for stride in sorted(config.strides))


def _check_planes(
    student: tuple[LevelSpec, ...], teacher: tuple[LevelSpec, ...], privileged: bool
) -> None:
    """Raise ValueError for levels that cannot be compared, see Distiller.__init__."""
    for one, other in zip(student, teacher, strict=True):
        if one.plane != other.plane:
            raise ValueError(
                f'distill.layers: level {one.name!r} lies in {one.plane} in the student,'
                f' in {other.plane} in the teacher; expected the same grid'
            )
        if privileged and not other.after_given_depth:
            raise ValueError(
                f'distill.layers: level {other.name!r} of the teacher lies upstream of where given'
                ' depth enters, so that the teacher knows no more there; leave it out'
            )


def _network_outputs(net: Detector, out: Outputs, at_targets: TargetPredictions) -> NetworkOutputs:
    """Collect a detector's features, heads and predictions at the targets for the losses."""
    return NetworkOutputs(
        levels={
            spec.name: FeatureLevel(each, spec)
            for spec, each in zip(net.levels, out.features, strict=True)
        },
        heads=out.heads.as_dict(),
        predictions=at_targets.predictions,
        depth_sigma_m=at_targets.depth_sigma_m.detach().clamp(*SIGMA_BOUNDS_M),
        tokens=at_targets.tokens,
        given_depth_added=out.given_depth_added,
        visual_depth_m=out.visual_depth_m,
    )
