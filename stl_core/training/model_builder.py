"""
What learns: a detector, from labels alone or beside a frozen teacher.

A learner is an nn.Module with learner(batch, epoch) -> {name: unweighted scalar}, and with the
detector that is judged and saved as `learner.detector`.
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
from stl_core.preprocessing import InputSpec
from stl_core.tensors import normalization
from stl_core.tensors.batch import Batch, pad_targets
from stl_core.tensors.precision import autocast_to, outputs_to_float32
from stl_core.tensors.reductions import recorded_reductions
from stl_core.training.config import TrainConfig
from stl_core.training.config_builder import ConfigError
from stl_core.types import ImageObjects

#: Options that give what a detector's heads say its meaning.
HEAD_SEMANTICS = ('virtual_focal_px', 'mean_size_hwl_m', 'heading_bins')


def build_model(config: TrainConfig) -> nn.Module:
    """
    Build what a configuration describes.

    :param config: of the run.
    :return: a learner, on the CPU.
    :raises StudentError: for a file to start from, or a teacher, that cannot be used.
    :raises ConfigError: for one that is of another kind than the run, for a loss that cannot
        compare the two, or where depth is shown as one lens would have it and learnt in true
        metres, or the other way round.
    """
    _check_virtual_focal_length(config)
    own = model_spec(config)
    if config.start:  # a backbone need not look for ImageNet's weights then
        own = dataclasses.replace(own, options={**own.options, 'pretrained': False})
    detector = model_file.build_detector(own)
    if config.start:
        detector.load_state_dict(_starting_weights(config))
    if config.distill is None:
        return SupervisedModel(detector, config.input, config.precision)
    spec = _teacher_spec(config)
    model = distiller.Distiller(
        detector,
        model_file.load_detector(config.distill.teacher, spec),
        config.distill.losses,
        config.distill.layers,
        student_input=partial(normalization.network_input, spec=config.input),
        teacher_input=partial(normalization.network_input, spec=spec.input),
        precision=config.precision,
    )
    _check_losses(model)
    return model


def choose_image_loader(config: TrainConfig) -> dataset.ImageLoader:
    """Return what reads of a frame all that the run's networks see."""
    input_specs = [config.input, _teacher_spec(config).input] if config.distill else [config.input]
    return (
        dataset.load_image_and_depth
        if any(each.depth for each in input_specs)
        else dataset.load_image
    )


def with_file_digests(config: TrainConfig) -> TrainConfig:
    """
    Note by digest which teacher and which start it is, so that no others are gone on with.

    :raises StudentError: when there is no such file.
    :raises ConfigError: when the configuration names another digest.
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
    """Describe the student that a run makes."""
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
    """Try every loss on a small black picture; ConfigError where it cannot compare the two."""
    side = 128  # the coarsest map, MonoDETR's, still has several cells
    blank = Batch(
        image=torch.zeros(1, side, side, 3, dtype=torch.uint8),
        P=torch.eye(3, 4)[None],
        targets=pad_targets([ImageObjects.empty()], 1),
        ids=('',),
        depth_m=torch.zeros(1, side, side),
    )
    model.eval()  # so that norms learn nothing of it
    try:
        with torch.no_grad(), recorded_reductions():  # nor do other processes hear of it
            model(blank, 0.0)
    except ValueError as err:
        raise ConfigError(f'distill.losses: {err}') from err
    model.train()


def _check_virtual_focal_length(config: TrainConfig) -> None:
    detector_focal_px = config.detector.options.virtual_focal_px
    depth_focal_px = (
        config.input.depth.virtual_focal_px if config.input.depth else detector_focal_px
    )
    if bool(depth_focal_px) != bool(detector_focal_px):
        raise ConfigError(
            f'input.depth.virtual_focal_px is {depth_focal_px},'
            f' detector.options.virtual_focal_px {detector_focal_px};'
            ' where one is 0, for true metres, the other must be too'
        )


def _checked_digest(key: str, path: str, expected: str) -> str:
    """SHA-256 of a student file; ConfigError unless it is the known one, if one is known."""
    model_file.read_model_spec(path)
    found = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    if expected and expected != found:
        raise ConfigError(f'{key}: {path} is not the file of digest {expected}, but {found}')
    return found


def _starting_weights(config: TrainConfig) -> dict[str, torch.Tensor]:
    """Read the weights to start from; ConfigError unless they are of the same network."""
    spec, run_spec = model_file.read_model_spec(config.start), model_spec(config)
    for what, theirs, ours in (
        ('detector', spec.detector, run_spec.detector),
        ('classes', spec.classes, run_spec.classes),
        ('channels', spec.input.channels, run_spec.input.channels),
        *_head_semantics(spec, run_spec),
    ):
        if theirs != ours:
            raise ConfigError(f'start: {config.start} has {what} {theirs}, this run {ours}')
    try:
        return model_file.load_detector(
            config.start, dataclasses.replace(spec, options=run_spec.options)
        ).state_dict()
    except model_file.ModelFileError as err:
        raise ConfigError(f'start: {err}') from err


def _teacher_spec(config: TrainConfig) -> model_file.ModelSpec:
    """Read what the teacher is; ConfigError where it cannot teach this run's student."""
    assert config.distill is not None, 'a run without teacher'
    spec = model_file.read_model_spec(config.distill.teacher)
    for what, theirs, ours in (
        ('classes', spec.classes, config.classes),
        ('width', spec.input.width_px, config.input.width_px),
        ('height', spec.input.height_px, config.input.height_px),
    ):
        if theirs != ours:
            raise ConfigError(
                f'distill.teacher: {config.distill.teacher} has {what} {theirs}, the student'
                f' {ours}; they must see the same canvas and classes'
            )
    prediction_losses = [
        name for name in config.distill.losses if LOSSES[name].compares_predictions
    ]
    run_spec = model_spec(config)
    kinds = ('detector', spec.detector, run_spec.detector), *_head_semantics(spec, run_spec)
    for what, there, here in kinds if prediction_losses else ():
        if there != here:
            raise ConfigError(
                f'distill.losses: {", ".join(prediction_losses)}: heads of'
                f" {config.distill.teacher} do not mean what the student's do: {what} is {there}"
                f' there, {here} here; losses that compare features can learn from it'
            )
    return spec


def _head_semantics(
    one: model_file.ModelSpec, other: model_file.ModelSpec
) -> list[tuple[str, str, str]]:
    """List (option, its value in one, in the other) of MEANING, as JSON, where both have it."""
    both = [name for name in HEAD_SEMANTICS if name in one.options and name in other.options]
    return [(n, json.dumps(one.options[n]), json.dumps(other.options[n])) for n in both]


class SupervisedModel(nn.Module):
    """A detector learning from labels alone."""

    def __init__(self, detector: nn.Module, spec: InputSpec, precision: str = 'fp32') -> None:
        """Wrap a detector with what it sees and what it computes in."""
        super().__init__()
        self.detector, self.spec, self.precision = detector, spec, precision

    def forward(self, batch: Batch, epoch: float) -> dict[str, Tensor]:
        """Return the detector's named losses on a batch."""
        image = normalization.network_input(batch, self.spec)
        with autocast_to(self.precision, image.device):
            out = self.detector(image, batch.P, batch.targets)
        return self.detector.losses(outputs_to_float32(out), batch.targets)  # type: ignore[operator,no-any-return]
