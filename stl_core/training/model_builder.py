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
from stl_core.inference import model_file as predict
from stl_core.preprocessing import InputSpec
from stl_core.tensors import normalization as sight
from stl_core.tensors.batch import Batch, pad_targets
from stl_core.tensors.precision import as_float32, computing
from stl_core.tensors.reductions import noted
from stl_core.training.config import TrainConfig
from stl_core.training.config_builder import ConfigError
from stl_core.types import ImageObjects

#: Options that give what a detector's heads say its meaning.
MEANING = ('virtual_focal_px', 'mean_size_hwl_m', 'heading_bins')


def build(config: TrainConfig) -> nn.Module:
    """
    Build what a configuration describes.

    :param config: of the run.
    :return: a learner, on the CPU.
    :raises StudentError: for a file to start from, or a teacher, that cannot be used.
    :raises ConfigError: for one that is of another kind than the run, for a loss that cannot
        compare the two, or where depth is shown as one lens would have it and learnt in true
        metres, or the other way round.
    """
    _check_lens(config)
    own = student_spec(config)
    if config.start:  # a backbone need not look for ImageNet's weights then
        own = dataclasses.replace(own, options={**own.options, 'pretrained': False})
    detector = predict.build_detector(own)
    if config.start:
        detector.load_state_dict(_starting_weights(config))
    if config.distill is None:
        return Supervised(detector, config.input, config.precision)
    spec = _teacher_spec(config)
    model = distiller.Distiller(
        detector,
        predict.load_detector(config.distill.teacher, spec),
        config.distill.losses,
        config.distill.layers,
        student_input=partial(sight.of_batch, spec=config.input),
        teacher_input=partial(sight.of_batch, spec=spec.input),
        precision=config.precision,
    )
    _rehearse(model)
    return model


def eyes(config: TrainConfig) -> dataset.See:
    """Return what reads of a frame all that the run's networks see."""
    seen = [config.input, _teacher_spec(config).input] if config.distill else [config.input]
    return dataset.see_depth if any(each.depth for each in seen) else dataset.see_colour


def pinned(config: TrainConfig) -> TrainConfig:
    """
    Note by digest which teacher and which start it is, so that no others are gone on with.

    :raises StudentError: when there is no such file.
    :raises ConfigError: when the configuration names another digest.
    """
    if config.start:
        digest = _digest('start', config.start, config.start_sha256)
        config = dataclasses.replace(config, start_sha256=digest)
    if config.distill:
        own = config.distill
        digest = _digest('distill.teacher', own.teacher, own.teacher_sha256)
        config = dataclasses.replace(
            config, distill=dataclasses.replace(own, teacher_sha256=digest)
        )
    return config


def student_spec(config: TrainConfig) -> predict.StudentSpec:
    """Describe the student that a run makes."""
    provenance: dict[str, Any] = {
        'made_by': f'stl_core {stl_core.__version__}, torch {torch.__version__}',
        'epochs': config.epochs,
        'seed': config.seed,
    }
    if config.distill:
        provenance['teacher_sha256'] = config.distill.teacher_sha256
        provenance['distilled'] = sorted(config.distill.losses)
    return predict.StudentSpec(
        classes=config.classes,
        input=config.input,
        detector=config.detector.name,
        options=dataclasses.asdict(config.detector.options),
        provenance=provenance,
    )


def _rehearse(model: distiller.Distiller) -> None:
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
        with torch.no_grad(), noted():  # nor do other processes hear of it
            model(blank, 0.0)
    except ValueError as err:
        raise ConfigError(f'distill.losses: {err}') from err
    model.train()


def _check_lens(config: TrainConfig) -> None:
    learnt = config.detector.options.virtual_focal_px
    seen = config.input.depth.virtual_focal_px if config.input.depth else learnt
    if bool(seen) != bool(learnt):
        raise ConfigError(
            f'input.depth.virtual_focal_px is {seen}, detector.options.virtual_focal_px {learnt};'
            ' where one is 0, for true metres, the other must be too'
        )


def _digest(key: str, path: str, known: str) -> str:
    """SHA-256 of a student file; ConfigError unless it is the known one, if one is known."""
    predict.read_spec(path)
    found = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    if known and known != found:
        raise ConfigError(f'{key}: {path} is not the file of digest {known}, but {found}')
    return found


def _starting_weights(config: TrainConfig) -> dict[str, torch.Tensor]:
    """Read the weights to start from; ConfigError unless they are of the same network."""
    spec, own = predict.read_spec(config.start), student_spec(config)
    for what, theirs, ours in (
        ('detector', spec.detector, own.detector),
        ('classes', spec.classes, own.classes),
        ('channels', spec.input.channels, own.input.channels),
        *_meanings(spec, own),
    ):
        if theirs != ours:
            raise ConfigError(f'start: {config.start} has {what} {theirs}, this run {ours}')
    try:
        return predict.load_detector(
            config.start, dataclasses.replace(spec, options=own.options)
        ).state_dict()
    except predict.StudentError as err:
        raise ConfigError(f'start: {err}') from err


def _teacher_spec(config: TrainConfig) -> predict.StudentSpec:
    """Read what the teacher is; ConfigError where it cannot teach this run's student."""
    assert config.distill is not None, 'a run without teacher'
    spec = predict.read_spec(config.distill.teacher)
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
    answers = [name for name in config.distill.losses if LOSSES[name].compares_answers]
    own = student_spec(config)
    kinds = ('detector', spec.detector, own.detector), *_meanings(spec, own)
    for what, there, here in kinds if answers else ():
        if there != here:
            raise ConfigError(
                f'distill.losses: {", ".join(answers)}: heads of {config.distill.teacher} do not'
                f" mean what the student's do: {what} is {there} there, {here} here; losses that"
                ' compare features can learn from it'
            )
    return spec


def _meanings(one: predict.StudentSpec, other: predict.StudentSpec) -> list[tuple[str, str, str]]:
    """List (option, its value in one, in the other) of MEANING, as JSON, where both have it."""
    both = [name for name in MEANING if name in one.options and name in other.options]
    return [(n, json.dumps(one.options[n]), json.dumps(other.options[n])) for n in both]


class Supervised(nn.Module):
    """A detector learning from labels alone."""

    def __init__(self, detector: nn.Module, spec: InputSpec, precision: str = 'fp32') -> None:
        """Wrap a detector with what it sees and what it computes in."""
        super().__init__()
        self.detector, self.spec, self.precision = detector, spec, precision

    def forward(self, batch: Batch, epoch: float) -> dict[str, Tensor]:
        """Return the detector's named losses on a batch."""
        image = sight.of_batch(batch, self.spec)
        with computing(self.precision, image.device):
            out = self.detector(image, batch.P, batch.targets)
        return self.detector.losses(as_float32(out), batch.targets)  # type: ignore[operator,no-any-return]
