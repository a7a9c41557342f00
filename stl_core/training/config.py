"""
What a training run is: frozen dataclasses hold every default, YAML holds differences only.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from stl_core.data.dataset import DataConfig
from stl_core.data.sources.kitti import CLASSES
from stl_core.distill import LOSSES, distiller
from stl_core.models import DETECTORS
from stl_core.models.centernet.heads import MEAN_SIZE_HWL_M
from stl_core.preprocessing import InputSpec
from stl_core.tensors.precision import PRECISIONS
from stl_core.training import validation
from stl_core.training.config_builder import ConfigError, build_typed
from stl_core.training.optim import OptimConfig


@dataclass(frozen=True)
class DetectorConfig:
    """Which detector, and its own numbers (checked against its own Config)."""

    name: str = 'monodle'
    options: Any = field(default_factory=dict)


@dataclass(frozen=True)
class DistillConfig:
    """
    What a student learns from a teacher besides the labels.

    :param teacher: file of the trained teacher.
    :param losses: {key of distill.LOSSES: its numbers}; each needs a weight 'distill/<key>'.
    :param layers: those between student and teacher, which are dropped after training.
    :param teacher_sha256: of the teacher's file; filled in when a run starts, so that it is not
        gone on with under another teacher.
    """

    teacher: str
    losses: dict[str, Any]
    layers: distiller.DistillLayersConfig = field(default_factory=distiller.DistillLayersConfig)
    teacher_sha256: str = ''


@dataclass(frozen=True)
class TrainConfig:
    """
    A training run.

    :param out: folder for checkpoints, curves and the student.
    :param classes: class names, in the order of class_id; objects of others are background.
    :param detector: the network; where its options give no mean_size_hwl_m, that is filled in
        from MEAN_SIZE_HWL_M.
    :param input: its canvas, and whether it sees colour or, as a teacher, depth.
    :param start: student file whose weights training starts from; '' for a fresh network.
    :param start_sha256: of that file; filled in when a run starts, as the teacher's.
    :param distill: teacher and distillation losses; none by default.
    :param train: frames to learn from.
    :param val: frames to be judged on.
    :param optim: optimiser and schedule.
    :param weights: weight of every loss, by name; must match the losses exactly. The detector's
        own where none of 'det/' is given.
    :param precision: what the network computes in: 'fp32', 'bf16' or 'fp16'.
    :param epochs: passes over the training frames.
    :param batch_size: images a step, at most, of all processes together.
    :param accumulate: parts in which a step's images are computed, one after the other: less
        memory, the same step (BatchNorm, and losses between images, aside), one forward pass
        more.
    :param workers: loading processes, of each process.
    :param seed: root of all randomness.
    :param device: 'auto', 'cpu' or 'cuda:N'.
    :param save_every: epochs between checkpoints; there is one after every evaluation as well.
    :param eval_every: epochs between evaluations; 0 for only the last.
    :param metric: by which evaluations are compared: class (or 'mean' over those taught), bbox,
        bev, 3d or aos, AP40 or AP11, strict or loose IoU, easy, moderate or hard.
    :param patience: the run ends after so many evaluations in a row that brought nothing better;
        0 for never.
    """

    out: str = 'runs/train'
    classes: tuple[str, ...] = CLASSES
    detector: DetectorConfig = field(default_factory=DetectorConfig)
    input: InputSpec = field(default_factory=InputSpec)
    start: str = ''
    start_sha256: str = ''
    distill: DistillConfig | None = None
    train: DataConfig = field(default_factory=DataConfig)
    val: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    weights: dict[str, float] = field(default_factory=dict)
    precision: str = 'fp32'
    epochs: int = 140
    batch_size: int = 16
    accumulate: int = 1
    workers: int = 2
    seed: int = 444
    device: str = 'auto'
    save_every: int = 1
    eval_every: int = 10
    metric: str = 'mean/3d/AP40/strict/moderate'
    patience: int = 0

    def __post_init__(self) -> None:
        """Refuse what no run can be made of."""
        if not self.classes or len(set(self.classes)) < len(self.classes):
            raise ValueError(f'classes: expected different names, got {list(self.classes)}')
        if 'DontCare' in self.classes:
            raise ValueError('classes: DontCare tells where nobody looked; it cannot be taught')
        if self.precision not in PRECISIONS:
            known = ', '.join(PRECISIONS)
            raise ValueError(f'precision: {self.precision!r} is unknown; known: {known}')
        least = dict.fromkeys(('epochs', 'batch_size', 'accumulate', 'save_every'), 1)
        least |= dict.fromkeys(('workers', 'eval_every', 'patience', 'seed'), 0)
        for name, low in least.items():
            if getattr(self, name) < low:
                raise ValueError(f'{name}: expected at least {low}, got {getattr(self, name)}')
        if self.eval_every:
            validation.parse_metric(self.metric, self.classes)
        elif self.patience:
            raise ValueError('patience: counts evaluations, so it needs an eval_every')


def build_train_config(data: dict[str, Any]) -> TrainConfig:
    """Build a TrainConfig from plain data; the detector's options become its own Config."""
    config: TrainConfig = build_typed(TrainConfig, data)
    name = config.detector.name
    if name not in DETECTORS:
        raise ConfigError(f'detector.name: {name!r} is unknown; known: {", ".join(DETECTORS)}')
    entry = DETECTORS[name]
    options = build_typed(
        entry.config,
        _with_mean_sizes(entry.config, config.detector.options, config.classes),
        'detector.options',
    )
    _check_distill_weights(config)
    default_weights = (
        {} if any(key.startswith('det/') for key in config.weights) else entry.loss_weights
    )
    return dataclasses.replace(
        config,
        detector=DetectorConfig(name, options),
        distill=_with_loss_configs(config.distill) if config.distill else None,
        weights={**default_weights, **config.weights},
    )


def _with_loss_configs(config: DistillConfig) -> DistillConfig:
    """Turn the numbers of every distillation loss into its own Config."""
    losses = {}
    for name, options in config.losses.items():
        if name not in LOSSES:
            raise ConfigError(
                f'distill.losses.{name}: unknown loss; known: {", ".join(sorted(LOSSES))}'
            )
        losses[name] = build_typed(LOSSES[name].config, options or {}, f'distill.losses.{name}')
    return dataclasses.replace(config, losses=losses)


def _with_mean_sizes(kind: Any, options: Any, classes: tuple[str, ...]) -> Any:
    """Fill in the mean size of every class, for a detector that has them, where none are given."""
    has_mean_size = any(field.name == 'mean_size_hwl_m' for field in dataclasses.fields(kind))
    if not has_mean_size or not isinstance(options, dict):
        return options
    sizes = options.get('mean_size_hwl_m')
    if sizes is None:
        unknown = ', '.join(name for name in classes if name not in MEAN_SIZE_HWL_M)
        if unknown:
            raise ConfigError(
                f'detector.options.mean_size_hwl_m: must be given, as the size of {unknown} is'
                f' not known; known: {", ".join(MEAN_SIZE_HWL_M)}'
            )
        sizes = [MEAN_SIZE_HWL_M[name] for name in classes]
    if isinstance(sizes, (list, tuple)) and len(sizes) != len(classes):
        raise ConfigError(
            f'detector.options.mean_size_hwl_m: expected a row for each of the {len(classes)}'
            f' classes, got {len(sizes)}'
        )
    return {**options, 'mean_size_hwl_m': sizes}


def _check_distill_weights(config: TrainConfig) -> None:
    """Refuse a distillation loss without weight, and a weight without loss."""
    losses = config.distill.losses if config.distill else {}
    required = {f'distill/{name}' for name in losses}
    given = {key for key in config.weights if key.startswith('distill/')}
    if required - given:
        raise ConfigError(f'weights.{min(required - given)}: missing, as distill.losses names it')
    if given - required:
        raise ConfigError(f'weights.{min(given - required)}: no such loss in distill.losses')
