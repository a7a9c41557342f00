"""
The configuration of a run, resolved: its model files are read, hashed and checked.

Each call of resolve_config reads the header of each model file once and hashes the file once. The
result is handed down to the run, which opens no header of a start model or teacher again.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

import stl_core
from stl_core.data import dataset, given_depth
from stl_core.distill import LOSSES
from stl_core.files import sha256_of
from stl_core.inference import model_file
from stl_core.inference.model_file import ModelSpec
from stl_core.models import DETECTORS
from stl_core.preprocessing import InputSpec
from stl_core.training.config import DistillConfig, TrainConfig
from stl_core.training.config_builder import ConfigError
from stl_core.training.run import answer_reader


@dataclass(frozen=True)
class ResolvedConfig:
    """
    A configuration whose model files fit the run; see resolve_config.

    :param config: the configuration, with the SHA-256 of start model and teacher. Checkpoints
        store the digests, so a run cannot be resumed with other files.
    :param model_spec: header of the model file that the run writes, without results.
    :param start_spec: header of the start model, None without.
    :param teacher_spec: header of the teacher, None without.
    :param restores_weights: whether a checkpoint will replace the initial weights of the model
        that is built, so that they are not looked up.
    :raises ValueError: if a header is missing, or is given without its model file in `config`.
    """

    config: TrainConfig
    model_spec: ModelSpec
    start_spec: ModelSpec | None = None
    teacher_spec: ModelSpec | None = None
    restores_weights: bool = False

    def __post_init__(self) -> None:
        """Check that a start model and a teacher have a header each, see the class."""
        if bool(self.config.start) != (self.start_spec is not None):
            raise ValueError('start_spec: expected if and only if the configuration has a start')
        if (self.config.distill is None) != (self.teacher_spec is None):
            raise ValueError('teacher_spec: expected if and only if the configuration distils')

    @property
    def image_loader(self) -> dataset.ImageLoader:
        """The loader of the inputs that the run needs: images, or images and depth maps."""
        needs_depth = any(each.needs_depth_maps for each in self._inputs)
        return dataset.load_image_and_depth if needs_depth else dataset.load_image

    @property
    def given_depth(self) -> str:
        """Kind of depth that networks of the run are given, see InputSpec; '' for none."""
        return max(each.given_depth for each in self._inputs)

    @property
    def _inputs(self) -> list[InputSpec]:
        """Inputs of the networks of the run."""
        specs = [self.model_spec, *([self.teacher_spec] if self.teacher_spec else [])]
        return [each.input for each in specs]


def resolve_config(config: TrainConfig) -> ResolvedConfig:
    """
    Read the headers of start model and teacher, hash the files and check that they fit the run.

    :raises ModelFileError: for a missing or unreadable model file.
    :raises ConfigError: if the configuration already holds another digest, for a start model or
        teacher that does not fit the run, if depth input and detector disagree between depth at a
        virtual focal length and depth in true metres, for a privileged teacher that reads the
        answer, see answer_reader, or options of given depth where no network is given any.
    """
    start, teacher = _read_start(config), _read_teacher(config)
    config = _with_digests(config, start, teacher)
    spec = _model_spec(config)
    if config.backbone_weights and not spec.options.get('pretrained'):
        raise ConfigError('backbone_weights: requires detector.options.pretrained: true')
    if config.distill and teacher:
        _check_teacher(config.distill, teacher.spec, spec)
        if not config.distill.accept_answer_reader:
            path, base = config.distill.teacher, start.spec if start else None
            answer_reader.refuse_answer_reader(path, teacher.spec, base)
    _check_virtual_focal_length(config)
    _check_multi_view(config, spec.multi_view)
    _check_given_depth(config, teacher.spec if teacher else None)
    _check_wrong_depth(config, teacher.spec if teacher else None)
    if start:
        _check_start(config.start, start.spec, spec)
    return ResolvedConfig(
        config, spec, start.spec if start else None, teacher.spec if teacher else None
    )


def with_file_digests(config: TrainConfig) -> TrainConfig:
    """
    Return the configuration with the SHA-256 of start model and teacher, to compare runs.

    :raises ModelFileError: for a missing or unreadable model file.
    :raises ConfigError: if the configuration already holds another digest.
    """
    return _with_digests(config, _read_start(config), _read_teacher(config))


class _ModelFile(NamedTuple):
    """Header and SHA-256 of a model file."""

    spec: ModelSpec
    sha256: str


def _read_start(config: TrainConfig) -> _ModelFile | None:
    if not config.start:
        return None
    return _read_model_file('start', config.start, config.start_sha256)


def _read_teacher(config: TrainConfig) -> _ModelFile | None:
    if config.distill is None:
        return None
    teacher, expected = config.distill.teacher, config.distill.teacher_sha256
    return _read_model_file('distill.teacher', teacher, expected)


def _read_model_file(key: str, path: str, expected: str) -> _ModelFile:
    """Read header and SHA-256; ConfigError if the digest differs from a given `expected`."""
    return _ModelFile(model_file.read_model_spec(path), _file_digest(key, path, expected))


def _file_digest(key: str, path: str, expected: str) -> str:
    """Return the SHA-256 of a file; ConfigError if it differs from a given `expected`."""
    digest = sha256_of(path)
    if expected and expected != digest:
        raise ConfigError(f'{key}: {path} has SHA-256 {digest}, expected {expected}')
    return digest


def _with_digests(
    config: TrainConfig, start: _ModelFile | None, teacher: _ModelFile | None
) -> TrainConfig:
    if start:
        config = dataclasses.replace(config, start_sha256=start.sha256)
    if config.backbone_weights:
        path, expected = config.backbone_weights, config.backbone_weights_sha256
        if not Path(path).is_file():
            raise ConfigError(f'backbone_weights: {path}: no such file')
        digest = _file_digest('backbone_weights', path, expected)
        config = dataclasses.replace(config, backbone_weights_sha256=digest)
    if config.distill and teacher:
        distill = dataclasses.replace(config.distill, teacher_sha256=teacher.sha256)
        config = dataclasses.replace(config, distill=distill)
    return config


def _model_spec(config: TrainConfig) -> ModelSpec:
    """Return the header of the model file that a run writes, without results."""
    provenance: dict[str, Any] = {
        'made_by': f'stl_core {stl_core.__version__}, torch {torch.__version__}',
        'epochs': config.epochs,
        'seed': config.seed,
    }
    if config.backbone_weights:
        provenance['backbone_weights_sha256'] = config.backbone_weights_sha256
    if config.input.given_depth:
        limits = given_depth.GivenLimits.of(config.train)
        provenance[given_depth.GIVEN_OBJECTS] = dataclasses.asdict(limits)
    if config.distill:
        provenance['teacher_sha256'] = config.distill.teacher_sha256
        provenance['distilled'] = sorted(config.distill.losses)
    return ModelSpec(
        classes=config.classes,
        input=config.input,
        detector=config.detector.name,
        options=dataclasses.asdict(config.detector.options),
        provenance=provenance,
        multi_view=DETECTORS[config.detector.name].multi_view,
    )


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


def _check_multi_view(config: TrainConfig, multi_view: bool) -> None:
    """Raise ConfigError for options of several cameras where there is one, or the reverse."""
    if config.val.ground is not None:
        raise ConfigError('val.ground: augmentation is for training; leave it out')
    if config.train.ground is not None and not multi_view:
        raise ConfigError(
            f'train.ground: detector {config.detector.name} sees single images, not the ground;'
            ' leave it out'
        )
    for name in ('window', 'wrong_depth') if multi_view else ():
        if getattr(config.train.augment, name):
            raise ConfigError(
                f'train.augment.{name}: for detectors of single images; {config.detector.name}'
                ' sees several'
            )


def _check_given_depth(config: TrainConfig, teacher: ModelSpec | None) -> None:
    """Raise ConfigError for two kinds of given depth, or options of given depth without any."""
    student, kinds = config.input.given_depth, {config.input.given_depth}
    kinds |= {teacher.input.given_depth} if teacher else set()
    if len(kinds - {''}) > 1 and teacher:
        raise ConfigError(
            f'input.given_depth is {student!r}, but the teacher was given'
            f' {teacher.input.given_depth!r}; a run gives one kind of depth'
        )
    for name in ('given_drop', 'given_depth_jitter', 'given_edge_jitter'):
        if getattr(config.train.augment, name) and kinds == {''}:
            raise ConfigError(
                f'train.augment.{name}: no network of this run is given depth; leave it out, or'
                ' set input.given_depth'
            )


def _check_wrong_depth(config: TrainConfig, teacher: ModelSpec | None) -> None:
    """Raise ConfigError for wrong depth where no network of the run uses any."""
    inputs = [config.input, *([teacher.input] if teacher else [])]
    uses_depth = any(each.depth is not None or each.given_depth for each in inputs)
    if config.train.augment.wrong_depth and not uses_depth:
        raise ConfigError(
            'train.augment.wrong_depth: no network of this run sees or is given depth; leave it'
            ' out, or set input.depth or input.given_depth'
        )


def _check_start(path: str, start: ModelSpec, run: ModelSpec) -> None:
    """Raise ConfigError if the start model is not the network of the run."""
    if start.input.given_depth and not run.input.given_depth:
        raise ConfigError(
            f'start: {path} is a privileged teacher (input.given_depth:'
            f' {start.input.given_depth}), this run is given no depth; start from its base'
        )
    for name, in_file, in_run in (
        ('detector', start.detector, run.detector),
        ('classes', start.classes, run.classes),
        ('channels', start.input.channels, run.input.channels),
        *_head_semantics(start, run),
    ):
        if in_file != in_run:
            raise ConfigError(f'start: {path} has {name} {in_file}, this run {in_run}')


def _check_teacher(distill: DistillConfig, teacher: ModelSpec, student: ModelSpec) -> None:
    """Raise ConfigError if the teacher does not fit the student."""
    for name, of_teacher, of_student in (
        ('classes', teacher.classes, student.classes),
        ('width', teacher.input.width_px, student.input.width_px),
        ('height', teacher.input.height_px, student.input.height_px),
        ('cut_top', teacher.input.cut_top, student.input.cut_top),
        ('multi_view', teacher.multi_view, student.multi_view),
    ):
        if of_teacher != of_student:
            raise ConfigError(
                f'distill.teacher: {distill.teacher} has {name} {of_teacher}, the student'
                f' {of_student}; both need the same canvas size and classes'
            )
    prediction_losses = [name for name in distill.losses if LOSSES[name].compares_predictions]
    detectors = ('detector', teacher.detector, student.detector)
    semantics = (detectors, *_head_semantics(teacher, student)) if prediction_losses else ()
    for option, teacher_value, student_value in semantics:
        if teacher_value != student_value:
            raise ConfigError(
                f'distill.losses: {", ".join(prediction_losses)}: heads of'
                f" {distill.teacher} differ in meaning from the student's: {option} is"
                f' {teacher_value} there, {student_value} here; use losses that compare features'
            )


def _head_semantics(one: ModelSpec, other: ModelSpec) -> Iterator[tuple[str, str, str]]:
    """Yield (option, JSON value in `one`, in `other`) of the head_semantics that both have."""
    for name in DETECTORS[other.detector].head_semantics:
        if name in one.options and name in other.options:
            yield name, json.dumps(one.options[name]), json.dumps(other.options[name])
