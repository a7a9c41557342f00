"""
Build the trainable model of a run: a supervised detector, or a student with its teacher.

A trainable model is an nn.Module with model(batch, epoch, normalizer) -> {name of a loss:
unweighted scalar} and `model.detector`, the network that is evaluated and saved.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from stl_core.distill import distiller
from stl_core.inference import model_file
from stl_core.inference.model_file import ModelSpec
from stl_core.models.backbone import Backbone
from stl_core.models.depth_association import PREFIX
from stl_core.preprocessing import InputSpec
from stl_core.tensors import normalization
from stl_core.tensors.batch import Batch, ObjectTargets, pad_targets
from stl_core.tensors.detector import Detector
from stl_core.tensors.precision import autocast_to, outputs_to_float32
from stl_core.tensors.reductions import SINGLE_PART, StepNormalizer
from stl_core.tensors.rig import Rig, pad_rig_targets
from stl_core.training.config_builder import ConfigError
from stl_core.training.resolved_config import ResolvedConfig
from stl_core.types import ImageObjects
from stl_core.vehicle_types import VehicleObjects


def build_model(resolved: ResolvedConfig) -> SupervisedModel | distiller.Distiller:
    """
    Build the trainable model of a configuration.

    :param resolved: configuration of the run.
    :return: SupervisedModel or Distiller, on the CPU.
    :raises ModelFileError: for a start model or a teacher that cannot be used, or ImageNet weights
        that are neither in a cache nor on a network that answers.
    :raises ConfigError: for weights of the backbone or of the start model that do not fit the run,
        or a distillation loss that cannot compare student and teacher.
    """
    config = resolved.config
    detector = _build_detector(resolved)
    if config.distill is None:
        return SupervisedModel(detector, config.input, config.precision)
    teacher_spec = resolved.teacher_spec
    assert teacher_spec is not None  # ResolvedConfig requires one if the configuration distils
    try:
        model = distiller.Distiller(
            detector,
            model_file.load_detector(config.distill.teacher, teacher_spec),
            config.distill.losses,
            config.distill.layers,
            student_input=partial(normalization.network_input, spec=config.input),
            teacher_input=partial(normalization.network_input, spec=teacher_spec.input),
            precision=config.precision,
            privileged=bool(teacher_spec.input.given_depth),
        )
    except ValueError as err:
        raise ConfigError(str(err)) from err
    _check_losses(model, resolved.model_spec.multi_view)
    return model


def _build_detector(resolved: ResolvedConfig) -> Detector:
    """Build the detector with its initial weights; none are looked up that others replace."""
    spec, path = resolved.model_spec, resolved.config.backbone_weights
    if not (resolved.start_spec or resolved.restores_weights or path):
        return model_file.build_detector(spec)
    detector = model_file.build_detector(model_file.without_pretrained_weights(spec))
    if resolved.restores_weights:
        return detector
    if resolved.start_spec:
        # a privileged teacher that starts from its base keeps its initial depth association
        initial = detector.state_dict().items()
        added = {name: value for name, value in initial if name.startswith(PREFIX)}
        weights = _starting_weights(resolved, resolved.start_spec)
        detector.load_state_dict({**added, **weights})
        return detector
    backbone = getattr(detector, 'backbone', None)
    if not isinstance(backbone, Backbone):
        raise ConfigError(f'backbone_weights: detector {spec.detector!r} has no timm backbone')
    try:
        backbone.load_weights(Path(path))
    except ValueError as err:
        raise ConfigError(f'backbone_weights: {err}') from err
    return detector


def _check_losses(model: distiller.Distiller, multi_view: bool) -> None:
    """Run every loss on a small black image; ConfigError if one cannot compare the networks."""
    blank = _blank_batch(multi_view)
    model.eval()  # keeps the running statistics of norms unchanged
    try:
        with torch.no_grad():
            model(blank, 0.0, SINGLE_PART)
    except ValueError as err:
        raise ConfigError(f'distill.losses: {err}') from err
    model.train()


def _blank_batch(multi_view: bool) -> Batch:
    """Return a black image without objects, or a rig of one."""
    side = 128  # MonoDETR's coarsest feature map still has several cells
    rig = Rig(1, torch.eye(4)[None], torch.ones(1, dtype=torch.bool)) if multi_view else None
    targets: ObjectTargets = pad_targets([ImageObjects.empty()], 1)
    if multi_view:
        targets = pad_rig_targets([VehicleObjects.empty()], 1)
    return Batch(
        image=torch.zeros(1, side, side, 3, dtype=torch.uint8),
        P=torch.eye(3, 4)[None],
        targets=targets,
        ids=('',),
        depth_m=torch.zeros(1, side, side),
        given_depth_m=torch.zeros(1, side, side),
        rig=rig,
    )


def _starting_weights(resolved: ResolvedConfig, start_spec: ModelSpec) -> dict[str, Tensor]:
    """Load the weights of the start model; ConfigError if they do not fit the run's detector."""
    path, options = resolved.config.start, resolved.model_spec.options
    try:
        spec = dataclasses.replace(start_spec, options=options)
        return model_file.load_detector(path, spec).state_dict()
    except model_file.ModelFileError as err:
        raise ConfigError(f'start: {err}') from err


class SupervisedModel(nn.Module):
    """A detector trained on labels, without a teacher."""

    def __init__(self, detector: Detector, spec: InputSpec, precision: str = 'fp32') -> None:
        """Combine a detector with its input specification and precision (key of PRECISIONS)."""
        super().__init__()
        self.detector, self.spec, self.precision = detector, spec, precision

    def forward(self, batch: Batch, epoch: float, normalizer: StepNormalizer) -> dict[str, Tensor]:
        """Return {name: unweighted loss} of the detector on a batch."""
        inputs = normalization.network_input(batch, self.spec)
        with autocast_to(self.precision, inputs.image.device):
            out = self.detector(inputs, batch.targets)
        return self.detector.losses(outputs_to_float32(out), batch.targets, normalizer)
