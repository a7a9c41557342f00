"""The objects of a training run: data, model, optimiser, and the restored checkpoint."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from stl_core.data import dataset, depth_checks
from stl_core.data.frame_source import require_labels
from stl_core.data.rigs.dataset import RigDataConfig, RigDataset
from stl_core.tensors.detector import Detector, as_detector
from stl_core.tensors.reductions import rank, world_size
from stl_core.training import checkpoint, distributed, validation
from stl_core.training.checkpoint import RESUME_ONLY, ResumeOptions, RunRecord
from stl_core.training.config import TrainConfig
from stl_core.training.optim import LrAndBeta, Optimizer, optimizer_groups
from stl_core.training.resolved_config import ResolvedConfig
from stl_core.training.run import data_fingerprint, extension, object_counts
from stl_core.training.run.journal import RunJournal, describe_resume
from stl_core.training.train_step import TrainError

log = logging.getLogger(__name__)

#: Function that builds the trainable model of a configuration.
ModelFactory = Callable[[ResolvedConfig], nn.Module]


@dataclass(frozen=True)
class RunState:
    """
    Objects of a run in progress.

    :param resolved: configuration of the run.
    :param device: device of this process.
    :param unwrapped_model: the trainable model.
    :param model: unwrapped_model, wrapped in DistributedDataParallel if there are several
        processes.
    :param optimizer: optimiser of the model.
    :param sampler: draws the batches of an epoch.
    :param loader: loads the batches.
    :param validation_set: frames and labels for validation.
    :param focal_px: median focal length of the training images, in pixels of the canvas.
    :param record: data and extensions of the run, for its files.
    :param journal: records every step; None in all processes except rank 0.
    """

    resolved: ResolvedConfig
    device: torch.device
    unwrapped_model: nn.Module
    model: nn.Module
    optimizer: Optimizer
    sampler: dataset.ShuffledBatchSampler
    loader: Any
    validation_set: validation.ValidationSet
    focal_px: float
    record: RunRecord
    journal: RunJournal | None = None

    @property
    def config(self) -> TrainConfig:
        """Configuration of the run."""
        return self.resolved.config

    @property
    def out(self) -> Path:
        """Output folder of the run."""
        return Path(self.config.out)

    @property
    def patience_from(self) -> int:
        """Completed epochs from which on evaluations count for early stopping."""
        return self.record.extensions[-1].first if self.record.extensions else 0

    def schedule_at(self, epoch: float) -> LrAndBeta:
        """Return learning rate and beta1 after `epoch` epochs."""
        config, extensions = self.config, self.record.extensions
        return extension.extended_schedule_at(epoch, config.epochs, extensions, config.optim)

    def norms_are_frozen(self, epoch: int) -> bool:
        """Return whether BatchNorm is frozen in the epoch after `epoch` epochs."""
        config, extensions = self.config, self.record.extensions
        return extension.norms_are_frozen(epoch, config.epochs, extensions, config.optim)

    @property
    def eval_detector(self) -> Detector:
        """The detector to evaluate and save: with averaged weights if EMA is enabled."""
        ema = self.optimizer.ema
        return as_detector(ema.module if ema else self.unwrapped_model.detector)


def setup_run(
    resolved: ResolvedConfig,
    model_factory: ModelFactory,
    device: torch.device,
    options: ResumeOptions = RESUME_ONLY,
    journal: RunJournal | None = None,
) -> tuple[RunState, int]:
    """
    Build data loader, model and optimiser of a run, and restore its last checkpoint.

    :param resolved: configuration of the run.
    :param model_factory: builds the trainable model.
    :param device: device of this process.
    :param options: what a resumed run may do.
    :param journal: of rank 0.
    :return: the run, and its completed epochs.
    :raises: see fit.
    """
    config = resolved.config
    torch.manual_seed(config.seed)
    # the checkpoint replaces initial weights, which may be elsewhere or on the network
    restores = (Path(config.out) / 'last.pt').exists()
    unwrapped_model = distributed.convert_sync_batchnorm(
        model_factory(replace(resolved, restores_weights=restores)), device
    )
    unwrapped_model.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    frames, sampler, validation_set, object_report = load_datasets(resolved)
    data = data_fingerprint.fingerprint_run(resolved, frames.images, validation_set.frames)
    saved = checkpoint.find_saved_run(resolved, data, options)
    first = saved.epoch if saved else 0
    if first != distributed.broadcast_scalar(first, device):
        raise TrainError(f'{config.out}: not a folder that all processes share')
    if rank() == 0:
        object_counts.write_counts(Path(config.out), object_report)
    detector = unwrapped_model.get_submodule('detector')
    groups = optimizer_groups(unwrapped_model)
    optimizer = Optimizer(unwrapped_model, detector, config.optim, config.precision, groups)
    if saved:
        checkpoint.restore(saved, unwrapped_model, optimizer)
        if journal:
            log.info(describe_resume(saved.path, first, config.epochs, journal.before))
    loader = dataset.make_dataloader(frames, sampler, config.workers)
    wrapped = distributed.wrap_ddp(unwrapped_model)
    focal_px = dataset.median_focal_px(frames.images, config.input)
    record = RunRecord(data, saved.extensions if saved else ())
    parts = (unwrapped_model, wrapped, optimizer, sampler, loader, validation_set, focal_px)
    return RunState(resolved, device, *parts, record, journal), first


def load_datasets(
    resolved: ResolvedConfig,
) -> tuple[
    dataset.FrameDataset | RigDataset,
    dataset.ShuffledBatchSampler,
    validation.ValidationSet,
    dict[str, Any],
]:
    """
    Read training and validation frames, and check that the run can use them; see fit.

    :return: both sets, the sampler, and the counts of object_counts.check_objects.
    """
    config, image_loader = resolved.config, resolved.image_loader
    frames = _open_training_set(resolved)
    sampler = dataset.ShuffledBatchSampler(
        len(frames), config.batch_size, config.seed, (rank(), world_size())
    )
    smallest, parts = len(frames) // len(sampler), world_size() * config.accumulate
    if not len(frames):
        raise TrainError('train.sources: no frames for training')
    require_labels(frames.images)  # otherwise an image without labels would train as background
    if smallest < parts:
        raise TrainError(
            f'batch_size: cannot split batches of {smallest} images among {world_size()} processes'
            f' times {config.accumulate} micro-batches (accumulate)'
        )
    _check_batch_norm(config, smallest // parts)
    val_samples = dataset.list_samples_by_source(config.val)
    val_by_source = [[i for sample in each for i in sample.images] for each in val_samples]
    validation_set = validation.load_validation_set(
        [i for each in val_by_source for i in each], [s for each in val_samples for s in each]
    )
    if not validation_set.frames:
        raise TrainError('val.sources: no frames for validation')
    report = object_counts.check_objects(config, frames, val_by_source, verbose=rank() == 0)
    if isinstance(frames, RigDataset):
        report['rigs'] = object_counts.check_rigs(frames, verbose=rank() == 0)
    if image_loader is dataset.load_image_and_depth:
        depth_checks.require_lidar_like_depth(frames.images, 'train')
    if config.input.needs_depth_maps:
        depth_checks.require_lidar_like_depth(validation_set.frames, 'val')
    return frames, sampler, validation_set, report


def _open_training_set(resolved: ResolvedConfig) -> dataset.FrameDataset | RigDataset:
    """Open the training images of a run, or the samples of one with a multi-view detector."""
    config = resolved.config
    arguments = (config.train, config.input, config.classes, config.seed, resolved.image_loader)
    if not resolved.model_spec.multi_view:
        return dataset.FrameDataset(*arguments, given=resolved.given_depth)
    options = config.detector.options
    needs = RigDataConfig(options.attributes, options.depth_supervision, resolved.given_depth)
    return RigDataset(*arguments, needs)


def _check_batch_norm(config: TrainConfig, images: int) -> None:
    """Raise TrainError if BatchNorm would see one value per channel at the deepest stride."""
    width, height = config.input.width_px, config.input.height_px
    if images * world_size() * (width // 32) * (height // 32) < 2:
        raise TrainError(
            f'input: a canvas of {width}x{height} with one image a step is too small for'
            ' BatchNorm; use a larger canvas, or a larger batch_size and more frames'
        )
