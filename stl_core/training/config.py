"""Training configuration: dataclasses hold every default, a YAML file overrides them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from stl_core.data.dataset import DataConfig
from stl_core.data.sources.kitti import CLASSES
from stl_core.distill import LOSSES, distiller
from stl_core.evaluation import metrics
from stl_core.evaluation.metric import OURS, PROTOCOLS, PUBLISHED
from stl_core.models import DETECTORS
from stl_core.models.centernet.heads import MEAN_SIZE_HWL_M
from stl_core.preprocessing import InputSpec
from stl_core.tensors.precision import PRECISIONS
from stl_core.training.config_builder import ConfigError, build_typed
from stl_core.training.optim import OptimConfig

#: The seeds that torch and NumPy both take.
MAX_SEED = 2**63 - 1


@dataclass(frozen=True)
class DetectorConfig:
    """
    The detector to train (YAML key `detector`).

    :param name: key of models.DETECTORS: 'monodle', 'monocon', 'monodetr' or 'lift_splat'.
    :param options: fields of that detector's Config, such as backbone, neck and head_width; see
        the Config in stl_core/models/<name>.py. Unknown options raise an error.
    """

    name: str = 'monodle'
    options: Any = field(default_factory=dict)


@dataclass(frozen=True)
class DistillConfig:
    """
    Knowledge distillation from a teacher, in addition to the labels (YAML key `distill`).

    :param teacher: model file of the trained teacher; it needs the student's classes and canvas
        size, but may have another backbone or input (depth) and, for losses that compare features,
        another detector.
    :param losses: {key of distill.LOSSES: its options, {} for the defaults}. Each loss needs an
        entry 'distill/<key>' in the run's `weights`.
    :param layers: adapter layers between student and teacher; they exist during training only and
        are not part of the saved model file.
    :param teacher_sha256: SHA-256 of the teacher's file. Filled in when a run starts, so that a
        run is never resumed with another teacher; leave it out of YAML files.
    :param accept_answer_reader: true learns also from a privileged teacher whose AP without given
        depth is less than half of its base's, see run.answer_reader; None is false.
    """

    teacher: str
    losses: dict[str, Any]
    layers: distiller.DistillLayersConfig = field(default_factory=distiller.DistillLayersConfig)
    teacher_sha256: str = ''
    accept_answer_reader: bool | None = None


@dataclass(frozen=True)
class ValidationConfig(DataConfig):
    """
    Validation frames and the protocol that selects the best model (YAML key `val`).

    :param protocol: protocol of the run's `metric`: 'ours', which the node uses, or 'published',
        that of the detector's public code; '' is 'ours'. Both are evaluated and written.
    """

    protocol: str = ''


@dataclass(frozen=True)
class TrainConfig:
    """
    A training run; the fields are the keys of its YAML file.

    Environment variables replace ${NAME} and ${NAME:-default} in strings. Unknown keys and wrong
    types raise an error that names the key. See stages.py for files with several stages.

    :param out: output folder for checkpoints, loss curves, metrics and model files. A run resumes
        from the checkpoint in this folder.
    :param classes: names of the classes to detect; their order defines class_id. Labels of other
        classes are background.
    :param detector: detector and its options. If the options lack mean_size_hwl_m, the means of
        KITTI's labels fill it in, for the classes of MEAN_SIZE_HWL_M.
    :param input: canvas size in pixels and normalisation of the network's input. `depth: {}`
        trains on depth maps instead of RGB images, for a teacher. `given_depth: objects`, or
        `scan`, trains a privileged teacher: the network sees the image, and is given depth.
    :param start: model file with the initial weights (same detector, classes and network options);
        '' for a new network.
    :param start_sha256: SHA-256 of the start file. Filled in when a run starts, as teacher_sha256.
    :param backbone_weights: file of the ImageNet weights that `detector.options.pretrained: true`
        starts the backbone from (.safetensors, or a state dict of torch.save), for machines
        without network; '' takes timm's, from its cache or over the network. Not read if there is
        a start model.
    :param backbone_weights_sha256: SHA-256 of that file. Filled in when a run starts.
    :param distill: teacher and distillation losses; without this key, training uses labels alone.
    :param train: training frames: sources, filters for objects, augmentation.
    :param val: validation frames, in the same format; augmentation does not apply. Its key
        `protocol` selects what `metric` reads, see ValidationConfig.
    :param optim: optimiser, learning-rate schedule, clipping, weight averaging.
    :param weights: {name of a loss: its weight in the total}. Names start with 'det/' (detector)
        or 'distill/'. Without any 'det/' entry, the detector's default weights apply; with one,
        all 'det/' losses need an entry.
    :param precision: type of the network's activations: 'fp32', 'bf16' or 'fp16' (with loss
        scaling). Losses and weights are always float32.
    :param epochs: passes over the training frames.
    :param batch_size: greatest number of images in an optimisation step, over all processes; an
        epoch is split into batches of nearly equal size.
    :param accumulate: number of micro-batches into which each process splits its images of a step.
        More micro-batches need less memory and one additional forward pass. The gradient is that
        of the whole batch, except that BatchNorm and losses between images use one micro-batch.
    :param workers: data-loading processes per training process; 0 loads in the training process.
    :param seed: seed of initial weights, data order, augmentation and dropout.
    :param device: 'auto' (CUDA if available), 'cpu' or 'cuda:N'. Under torchrun, each process uses
        the GPU of its LOCAL_RANK.
    :param deterministic: use torch's deterministic algorithms only. A run on the CPU is repeated
        bit for bit without it; a GPU sums in an order that varies unless this is set, with the
        environment variable CUBLAS_WORKSPACE_CONFIG=:4096:8, and ends with an error for an
        operation that has no such algorithm.
    :param save_every: epochs between checkpoints (last.pt). Every evaluation writes one, too.
    :param eval_every: epochs between evaluations on the val frames; each evaluation saves the
        model if its metric is the best so far. 0 evaluates only the last model.
    :param metric: metric that selects the best model, as CLASS/KIND/POINTS/IOU/DIFFICULTY.
        CLASS: a class or 'mean' over the trained classes that KITTI evaluates; KIND: bbox, bev,
        3d or aos; POINTS: AP40 or AP11; IOU: strict or loose; DIFFICULTY: easy, moderate or hard.
        NAME/EXPRESSION selects by another metric of evaluation.metrics.METRICS and computes it.
    :param patience: early stopping: the run ends after this many consecutive evaluations without
        a new best metric; 0 disables it.
    """

    out: str = 'runs/train'
    classes: tuple[str, ...] = CLASSES
    detector: DetectorConfig = field(default_factory=DetectorConfig)
    input: InputSpec = field(default_factory=InputSpec)
    start: str = ''
    start_sha256: str = ''
    backbone_weights: str = ''
    backbone_weights_sha256: str = ''
    distill: DistillConfig | None = None
    train: DataConfig = field(default_factory=DataConfig)
    val: ValidationConfig = field(default_factory=ValidationConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    weights: dict[str, float] = field(default_factory=dict)
    precision: str = 'fp32'
    epochs: int = 140
    batch_size: int = 16
    accumulate: int = 1
    workers: int = 2
    seed: int = 444
    device: str = 'auto'
    deterministic: bool = False
    save_every: int = 1
    eval_every: int = 10
    metric: str = 'mean/3d/AP40/strict/moderate'
    patience: int = 0

    def __post_init__(self) -> None:
        """Raise ValueError for invalid classes, precision, numbers or metric."""
        if not self.classes or len(set(self.classes)) < len(self.classes):
            raise ValueError(
                f'classes: expected one or more distinct names, got {list(self.classes)}'
            )
        if 'dontcare' in {name.lower() for name in self.classes}:
            raise ValueError('classes: DontCare marks unlabelled regions; it is not a class')
        if self.precision not in PRECISIONS:
            known = ', '.join(PRECISIONS)
            raise ValueError(f'precision: {self.precision!r} is unknown; known: {known}')
        minimum = dict.fromkeys(('epochs', 'batch_size', 'accumulate', 'save_every'), 1)
        minimum |= dict.fromkeys(('workers', 'eval_every', 'patience', 'seed'), 0)
        for name, least in minimum.items():
            if getattr(self, name) < least:
                raise ValueError(f'{name}: expected at least {least}, got {getattr(self, name)}')
        if self.seed > MAX_SEED:
            raise ValueError(f'seed: expected at most {MAX_SEED}, got {self.seed}')
        if self.val.protocol not in ('', *PROTOCOLS):
            known = ', '.join(PROTOCOLS)
            raise ValueError(f'val.protocol: {self.val.protocol!r} is unknown; known: {known}')
        if self.eval_every:
            metrics.parse_selection(self.metric, self.classes)
        elif self.patience:
            raise ValueError('patience: counts evaluations, so eval_every must not be 0')


def build_train_config(data: dict[str, Any]) -> TrainConfig:
    """
    Build a TrainConfig from plain data, such as parsed YAML.

    detector.options becomes the detector's Config, the options of distillation losses become
    theirs, and missing mean sizes and loss weights are filled in.

    :raises ConfigError: naming the invalid key.
    """
    config: TrainConfig = build_typed(TrainConfig, data)
    name = config.detector.name
    if name not in DETECTORS:
        raise ConfigError(f'detector.name: {name!r} is unknown; known: {", ".join(DETECTORS)}')
    entry = DETECTORS[name]
    if config.val.protocol == PUBLISHED and entry.published is None:
        raise ConfigError(
            f'val.protocol: published, but detector {name} has no published protocol; use ours'
        )
    options = build_typed(
        entry.config,
        _with_mean_sizes(entry.config, config.detector.options, config.classes),
        'detector.options',
    )
    distill = _with_loss_configs(config.distill) if config.distill else None
    _check_distill_weights(config)
    default_weights = (
        {} if any(key.startswith('det/') for key in config.weights) else entry.loss_weights
    )
    return dataclasses.replace(
        config,
        detector=DetectorConfig(name, options),
        distill=distill,
        # one spelling, so that checkpoints and studies of earlier versions compare equal
        val=dataclasses.replace(config.val, protocol=config.val.protocol.replace(OURS, '')),
        weights={**default_weights, **config.weights, **_extra_loss_weights(config)},
    )


def _with_loss_configs(config: DistillConfig) -> DistillConfig:
    """Return the config with the options of every loss built into that loss's Config."""
    losses = {}
    for name, options in config.losses.items():
        if name not in LOSSES:
            raise ConfigError(
                f'distill.losses.{name}: unknown loss; known: {", ".join(sorted(LOSSES))}'
            )
        losses[name] = build_typed(LOSSES[name].config, options or {}, f'distill.losses.{name}')
    return dataclasses.replace(config, losses=losses)


def _with_mean_sizes(kind: Any, options: Any, classes: tuple[str, ...]) -> Any:
    """
    Add default mean sizes to a detector's options if it has the field and it is not set.

    :param kind: the detector's Config class.
    :param options: plain data of the detector's options.
    :param classes: names of the trained classes; one size (h, w, l in metres) per class.
    :raises ConfigError: for a class without a known size, or a wrong number of sizes.
    """
    has_mean_size = any(field.name == 'mean_size_hwl_m' for field in dataclasses.fields(kind))
    if not has_mean_size or not isinstance(options, dict):
        return options
    sizes = options.get('mean_size_hwl_m')
    if sizes is None:
        unknown = ', '.join(name for name in classes if name not in MEAN_SIZE_HWL_M)
        spelt = [name for name in MEAN_SIZE_HWL_M if name.lower() in unknown.lower().split(', ')]
        if spelt:
            raise ConfigError(f'classes: unknown {unknown}; did you mean {", ".join(spelt)}?')
        if unknown:
            raise ConfigError(
                f'detector.options.mean_size_hwl_m: required, no default for {unknown};'
                f' defaults: {", ".join(MEAN_SIZE_HWL_M)}'
            )
        sizes = [MEAN_SIZE_HWL_M[name] for name in classes]
    if isinstance(sizes, (list, tuple)) and len(sizes) != len(classes):
        raise ConfigError(
            f'detector.options.mean_size_hwl_m: expected a row for each of the {len(classes)}'
            f' classes, got {len(sizes)}'
        )
    return {**options, 'mean_size_hwl_m': sizes}


def _extra_loss_weights(config: TrainConfig) -> dict[str, float]:
    """Return the fixed weights of the losses that transfers return besides their own."""
    losses = config.distill.losses if config.distill else {}
    return {
        f'distill/{name}_{extra}': weight
        for name in losses
        for extra, weight in LOSSES[name].extra_losses.items()
    }


def _check_distill_weights(config: TrainConfig) -> None:
    """Raise ConfigError for a distillation loss without weight or a weight without loss."""
    losses = config.distill.losses if config.distill else {}
    required = {f'distill/{name}' for name in losses}
    given = {key for key in config.weights if key.startswith('distill/')}
    given -= _extra_loss_weights(config).keys()
    if required - given:
        raise ConfigError(f'weights.{min(required - given)}: missing, but in distill.losses')
    if given - required:
        raise ConfigError(f'weights.{min(given - required)}: no such loss in distill.losses')
