"""The objects of a training run: data, model, optimiser, and the restored checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from stl_core.data import dataset, depth_checks
from stl_core.data.frame_source import require_labels
from stl_core.tensors.detector import Detector, as_detector
from stl_core.tensors.reductions import rank, world_size
from stl_core.training import checkpoint, distributed, validation
from stl_core.training.config import TrainConfig
from stl_core.training.optim import Optimizer
from stl_core.training.resolved_config import ResolvedConfig
from stl_core.training.train_step import TrainError

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

    @property
    def config(self) -> TrainConfig:
        """Configuration of the run."""
        return self.resolved.config

    @property
    def out(self) -> Path:
        """Output folder of the run."""
        return Path(self.config.out)

    @property
    def eval_detector(self) -> Detector:
        """The detector to evaluate and save: with averaged weights if EMA is enabled."""
        ema = self.optimizer.ema
        return as_detector(ema.module if ema else self.unwrapped_model.detector)


def setup_run(
    resolved: ResolvedConfig, model_factory: ModelFactory, device: torch.device
) -> tuple[RunState, int]:
    """
    Build data loader, model and optimiser of a run, and restore its last checkpoint.

    :return: the run, and its completed epochs.
    :raises: see fit.
    """
    config = resolved.config
    frames, sampler, validation_set = _load_datasets(resolved)
    torch.manual_seed(config.seed)
    unwrapped_model = distributed.convert_sync_batchnorm(model_factory(resolved), device)
    unwrapped_model.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    detector = unwrapped_model.get_submodule('detector')
    optimizer = Optimizer(unwrapped_model, detector, config.optim, config.precision)
    first = checkpoint.resume_from(
        Path(config.out) / 'last.pt', unwrapped_model, optimizer, resolved
    )
    if first != distributed.broadcast_scalar(first, device):
        raise TrainError(f'{config.out}: not a folder that all processes share')
    loader = dataset.make_dataloader(frames, sampler, config.workers)
    model = distributed.wrap_ddp(unwrapped_model)
    focal_px = dataset.median_focal_px(frames.images, config.input)
    parts = (unwrapped_model, model, optimizer, sampler, loader, validation_set, focal_px)
    return RunState(resolved, device, *parts), first


def _load_datasets(
    resolved: ResolvedConfig,
) -> tuple[dataset.FrameDataset, dataset.ShuffledBatchSampler, validation.ValidationSet]:
    """Read training and validation frames, and check that the run can use them; see fit."""
    config, image_loader = resolved.config, resolved.image_loader
    frames = dataset.FrameDataset(
        config.train, config.input, config.classes, config.seed, image_loader
    )
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
    validation_set = validation.load_validation_set(dataset.list_frames(config.val))
    if not validation_set.frames:
        raise TrainError('val.sources: no frames for validation')
    if image_loader is dataset.load_image_and_depth:
        depth_checks.require_lidar_like_depth(frames.images, 'train')
    if config.input.depth:
        depth_checks.require_lidar_like_depth(validation_set.frames, 'val')
    return frames, sampler, validation_set
