"""
Build the trainable model of a run: a supervised detector, or a student with its teacher.

A trainable model is an nn.Module with model(batch, epoch, normalizer) -> {name of a loss:
unweighted scalar} and `model.detector`, the network that is evaluated and saved.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import stl_core
from stl_core.data import dataset
from stl_core.distill import LOSSES, distiller
from stl_core.inference import model_file
from stl_core.models import DETECTORS
from stl_core.preprocessing import InputSpec
from stl_core.tensors import normalization
from stl_core.tensors.batch import Batch, pad_targets
from stl_core.tensors.detector import Detector
from stl_core.tensors.precision import autocast_to, outputs_to_float32
from stl_core.tensors.reductions import SINGLE_PART, StepNormalizer
from stl_core.training.config import TrainConfig
from stl_core.training.config_builder import ConfigError
from stl_core.types import ImageObjects


def build_model(config: TrainConfig) -> SupervisedModel | distiller.Distiller:
    """
    Build the trainable model of a configuration.

    :param config: configuration of the run.
    :return: SupervisedModel or Distiller, on the CPU.
    :raises ModelFileError: for a start model or a teacher that cannot be used.
    :raises ConfigError: for a start model or teacher that does not fit the run, for a distillation
        loss that cannot compare student and teacher, or if depth input and detector disagree
        between depth at a virtual focal length and depth in true metres.
    """
    _check_virtual_focal_length(config)
    student_spec = model_spec(config)
    if config.start:  # the start model replaces the backbone's ImageNet weights
        student_spec = model_file.without_pretrained_weights(student_spec)
    detector = model_file.build_detector(student_spec)
    if config.start:
        detector.load_state_dict(_starting_weights(config))
    if config.distill is None:
        return SupervisedModel(detector, config.input, config.precision)
    teacher_spec = _teacher_spec(config)
    model = distiller.Distiller(
        detector,
        model_file.load_detector(config.distill.teacher, teacher_spec),
        config.distill.losses,
        config.distill.layers,
        student_input=partial(normalization.network_input, spec=config.input),
        teacher_input=partial(normalization.network_input, spec=teacher_spec.input),
        precision=config.precision,
    )
    _check_losses(model)
    return model


def choose_image_loader(config: TrainConfig) -> dataset.ImageLoader:
    """Return the loader of the inputs that the run needs: images, or images and depth maps."""
    input_specs = [config.input, _teacher_spec(config).input] if config.distill else [config.input]
    return (
        dataset.load_image_and_depth
        if any(each.depth for each in input_specs)
        else dataset.load_image
    )


def with_file_digests(config: TrainConfig) -> TrainConfig:
    """
    Return the configuration with the SHA-256 of start model and teacher filled in.

    Checkpoints store the digests, so a run cannot be resumed with other files.

    :raises ModelFileError: for a missing or unreadable model file.
    :raises ConfigError: if the configuration already holds another digest.
    """
    if config.start:
        digest = _checked_digest('start', config.start, config.start_sha256)
        config = dataclasses.replace(config, start_sha256=digest)
    if config.distill:
        distill = config.distill
        digest = _checked_digest('distill.teacher', distill.teacher, distill.teacher_sha256)
        config = dataclasses.replace(
            config, distill=dataclasses.replace(distill, teacher_sha256=digest)
        )
    return config


def model_spec(config: TrainConfig) -> model_file.ModelSpec:
    """Return the header of the model file that a run writes, without results."""
    provenance: dict[str, Any] = {
        'made_by': f'stl_core {stl_core.__version__}, torch {torch.__version__}',
        'epochs': config.epochs,
        'seed': config.seed,
    }
    if config.distill:
        provenance['teacher_sha256'] = config.distill.teacher_sha256
        provenance['distilled'] = sorted(config.distill.losses)
    return model_file.ModelSpec(
        classes=config.classes,
        input=config.input,
        detector=config.detector.name,
        options=dataclasses.asdict(config.detector.options),
        provenance=provenance,
    )


def _check_losses(model: distiller.Distiller) -> None:
    """Run every loss on a small black image; ConfigError if one cannot compare the networks."""
    side = 128  # MonoDETR's coarsest feature map still has several cells
    blank = Batch(
        image=torch.zeros(1, side, side, 3, dtype=torch.uint8),
        P=torch.eye(3, 4)[None],
        targets=pad_targets([ImageObjects.empty()], 1),
        ids=('',),
        depth_m=torch.zeros(1, side, side),
    )
    model.eval()  # keeps the running statistics of norms unchanged
    try:
        with torch.no_grad():
            model(blank, 0.0, SINGLE_PART)
    except ValueError as err:
        raise ConfigError(f'distill.losses: {err}') from err
    model.train()


def _check_virtual_focal_length(config: TrainConfig) -> None:
    """
    Raise ConfigError if only one of depth input and detector uses a virtual focal length.

    A detector without the option learns depth in true metres.
    """
    if not config.input.depth:
        return
    depth_focal_px = config.input.depth.virtual_focal_px
    detector_focal_px = getattr(config.detector.options, 'virtual_focal_px', None)
    if detector_focal_px is None and depth_focal_px:
        raise ConfigError(
            f'input.depth.virtual_focal_px is {depth_focal_px}, but detector'
            f' {config.detector.name} learns depth in true metres; must be 0'
        )
    if bool(depth_focal_px) != bool(detector_focal_px):
        raise ConfigError(
            f'input.depth.virtual_focal_px is {depth_focal_px},'
            f' detector.options.virtual_focal_px {detector_focal_px};'
            ' either both or none must be 0 (true metres)'
        )


def _checked_digest(key: str, path: str, expected: str) -> str:
    """Return the SHA-256 of a model file; ConfigError if it differs from a given `expected`."""
    model_file.read_model_spec(path)
    digest = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    if expected and expected != digest:
        raise ConfigError(f'{key}: {path} has SHA-256 {digest}, expected {expected}')
    return digest


def _starting_weights(config: TrainConfig) -> dict[str, torch.Tensor]:
    """Load the weights of the start model; ConfigError if it is not the same network."""
    spec, run_spec = model_file.read_model_spec(config.start), model_spec(config)
    for name, in_file, in_run in (
        ('detector', spec.detector, run_spec.detector),
        ('classes', spec.classes, run_spec.classes),
        ('channels', spec.input.channels, run_spec.input.channels),
        *_head_semantics(spec, run_spec),
    ):
        if in_file != in_run:
            raise ConfigError(f'start: {config.start} has {name} {in_file}, this run {in_run}')
    try:
        return model_file.load_detector(
            config.start, dataclasses.replace(spec, options=run_spec.options)
        ).state_dict()
    except model_file.ModelFileError as err:
        raise ConfigError(f'start: {err}') from err


def _teacher_spec(config: TrainConfig) -> model_file.ModelSpec:
    """Read the header of the teacher; ConfigError if it does not fit the student."""
    assert config.distill is not None, 'a run without teacher'
    spec = model_file.read_model_spec(config.distill.teacher)
    for name, of_teacher, of_student in (
        ('classes', spec.classes, config.classes),
        ('width', spec.input.width_px, config.input.width_px),
        ('height', spec.input.height_px, config.input.height_px),
    ):
        if of_teacher != of_student:
            raise ConfigError(
                f'distill.teacher: {config.distill.teacher} has {name} {of_teacher}, the student'
                f' {of_student}; both need the same canvas size and classes'
            )
    prediction_losses = [
        name for name in config.distill.losses if LOSSES[name].compares_predictions
    ]
    run_spec = model_spec(config)
    semantics = ('detector', spec.detector, run_spec.detector), *_head_semantics(spec, run_spec)
    for option, teacher_value, student_value in semantics if prediction_losses else ():
        if teacher_value != student_value:
            raise ConfigError(
                f'distill.losses: {", ".join(prediction_losses)}: heads of'
                f" {config.distill.teacher} differ in meaning from the student's: {option} is"
                f' {teacher_value} there, {student_value} here; use losses that compare features'
            )
    return spec


def _head_semantics(
    one: model_file.ModelSpec, other: model_file.ModelSpec
) -> list[tuple[str, str, str]]:
    """List (option, JSON value in `one`, in `other`) of the head_semantics that both have."""
    options = DETECTORS[other.detector].head_semantics
    common = [name for name in options if name in one.options and name in other.options]
    return [(n, json.dumps(one.options[n]), json.dumps(other.options[n])) for n in common]


class SupervisedModel(nn.Module):
    """A detector trained on labels, without a teacher."""

    def __init__(self, detector: Detector, spec: InputSpec, precision: str = 'fp32') -> None:
        """Combine a detector with its input specification and precision (key of PRECISIONS)."""
        super().__init__()
        self.detector, self.spec, self.precision = detector, spec, precision

    def forward(self, batch: Batch, epoch: float, normalizer: StepNormalizer) -> dict[str, Tensor]:
        """Return {name: unweighted loss} of the detector on a batch."""
        image = normalization.network_input(batch, self.spec)
        with autocast_to(self.precision, image.device):
            out = self.detector(image, batch.P, batch.targets)
        return self.detector.losses(outputs_to_float32(out), batch.targets, normalizer)
