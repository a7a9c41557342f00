"""
A training run: epochs, checkpoints, evaluations. It can be stopped anywhere and goes on exactly.

fit(config) trains what learner.build makes of the configuration, fit(config, build) whatever
build(config) returns. Under torchrun every process calls fit.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import Progress
from torch import Tensor, nn

from stl_core import files
from stl_core.data import dataset, depth_maps
from stl_core.inference import model_file, result_files
from stl_core.progress import progress_bar
from stl_core.tensors.batch import to_device
from stl_core.tensors.precision import is_bf16_emulated
from stl_core.tensors.reductions import all_reduce_mean, rank, world_size
from stl_core.training import checkpoint, distributed, model_builder, validation
from stl_core.training.config import TrainConfig
from stl_core.training.metric_logging import MetricLogger
from stl_core.training.model_builder import model_spec
from stl_core.training.optim import Optimizer
from stl_core.training.train_step import TrainError, train_step
from stl_core.visualization import charts

log = logging.getLogger(__name__)

#: Gradients of fp16 that overflow at this scale are not too great but not finite.
MIN_LOSS_SCALE = 1e-3


def fit(
    config: TrainConfig, model_factory: ModelFactory = model_builder.build_model
) -> dict[str, Any]:
    """
    Train, or go on with a run that was stopped.

    Writes into config.out: last.pt (every save_every epochs) and best.pt, curves.csv and .png,
    val.csv, tensorboard/, metrics.json, results/, student.safetensors, student_best.safetensors,
    and at the end done.json; best.pt, student_best and val.csv only where config.eval_every is
    not 0.

    :param config: the run.
    :param model_factory: makes the learner.
    :return: what evaluate.evaluate says of the last student on the val frames; empty in all
        processes but the first.
    :raises CheckpointError: when out holds another run.
    :raises TrainError: when there is nothing to learn from or to be judged on, losses and weights
        differ, or the gradient is not finite.
    :raises DataError: for a missing or malformed file of the data set.
    :raises StudentError: for a teacher, or a file to start from, that cannot be used.
    :raises ConfigError: for one that does not fit the run.
    """
    config = model_builder.with_file_digests(config)
    with distributed.process_group(config.device) as device:
        run, first = setup_run(config, model_factory, device)
        _log_run_size(run)
        validation_result: validation.ValidationResult | None = None
        epochs_done = first
        with _make_metric_logger(run, first) as metric_logger, _make_progress_bar() as bar:
            task = bar.add_task('epochs', total=config.epochs, completed=first, note='')
            while epochs_done < config.epochs and not _is_stalled(run, metric_logger):
                row = train_one_epoch(run, epochs_done, bar)
                epochs_done += 1
                bar.update(task, advance=1, note=f'loss {row["total"]:.3f} lr {row["lr"]:.1e}')
                if metric_logger:
                    validation_result = log_and_save(run, metric_logger, epochs_done, row)
        metrics = (
            finish_training(run, metric_logger, epochs_done, validation_result)
            if metric_logger
            else {}
        )
        distributed.broadcast_scalar(
            0.0, device
        )  # who goes on to a next run finds this one's files
        return metrics


def train_one_epoch(run: RunState, epoch: int, bar: Progress) -> dict[str, float]:
    """
    Pass once over the training frames.

    :param run: the run.
    :param epoch: passes done.
    :param bar: shows the steps, images a second, and the time to go.
    :return: the mean losses, gradient norm, learning rate and images a second.
    :raises TrainError: when the gradient was not finite.
    """
    config, steps = run.config, len(run.sampler)
    run.sampler.epoch = epoch
    # chance inside the network, such as dropout, must not depend on where a run was resumed
    torch.manual_seed(_derive_seed(config.seed, epoch, rank()))
    run.model.train()
    if epoch >= config.optim.freeze_norm_at * config.epochs:
        freeze_norm(run.model)
    sums: dict[str, Tensor] = {}
    began = time.perf_counter()
    task = bar.add_task(f'epoch {epoch + 1}', total=steps, note='')
    for step, batch in enumerate(run.loader):
        now = epoch + step / steps
        lr = run.optimizer.apply_schedule(now, config.epochs)
        batch = to_device(batch, run.device)
        step_losses = train_step(
            run.model,
            batch,
            run.optimizer,
            config.weights,
            now,
            num_micro_batches=config.accumulate,
        )
        # sums stay on the device: reading one would make the host wait at every step
        sums = {name: sums.get(name, 0.0) + value for name, value in step_losses.items()}
        rate = run.sampler.num_frames / steps * (step + 1) / (time.perf_counter() - began)
        bar.update(task, advance=1, note=f'{rate:.1f} images/s')
    row = _epoch_means(run, sums, epoch)
    bar.remove_task(task)
    rate = run.sampler.num_frames / (time.perf_counter() - began)
    return {**row, 'lr': lr, 'images_per_s': rate}


def freeze_norm(model: nn.Module) -> None:
    """Let every BatchNorm use, and keep, its running statistics; model.train() undoes it."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()


def log_and_save(
    run: RunState, metric_logger: MetricLogger, epochs_done: int, row: dict[str, float]
) -> validation.ValidationResult | None:
    """
    Write down an epoch; judge and save where that is due.

    :param run: the run.
    :param metric_logger: its tables.
    :param epochs_done: epochs done.
    :param row: what run_epoch returned.
    :return: the judgement, where it was due.
    """
    config, validation_result = run.config, None
    metric_logger.add_row('curves', epochs_done, row)
    last = epochs_done == config.epochs
    if config.eval_every and (epochs_done % config.eval_every == 0 or last):
        validation_result = validation.validate_detector(
            run.eval_detector, model_spec(config), run.validation_set, run.device
        )
        metric = validation.parse_metric(config.metric, config.classes)
        metric_logger.add_row(
            'val', epochs_done, validation.metrics_row(validation_result.metrics, metric)
        )
        log.info('epoch %d: %s', epochs_done, validation.format_summary(validation_result.metrics))
        if validation.is_best(metric_logger.column('val', 'metric')):
            _save_checkpoint(run, 'best.pt', epochs_done)
            save_validated_model(run, 'student_best.safetensors', epochs_done, validation_result)
    if validation_result or last or epochs_done % config.save_every == 0:
        _save_checkpoint(run, 'last.pt', epochs_done)
    return validation_result


def finish_training(
    run: RunState,
    metric_logger: MetricLogger,
    epochs_done: int,
    validation_result: validation.ValidationResult | None,
) -> dict[str, Any]:
    """Judge the last detector, unless that was just done; write student, results and curves."""
    validation_result = validation_result or validation.validate_detector(
        run.eval_detector, model_spec(run.config), run.validation_set, run.device
    )
    result_files.write_result_files(
        run.out / 'results', run.validation_set.frames, validation_result.detections
    )
    text = json.dumps(validation_result.metrics, indent=1)
    files.write_atomically(run.out / 'metrics.json', text.encode())
    save_validated_model(run, 'student.safetensors', epochs_done, validation_result)
    charts.plot_loss_curves({run.out.name: run.out / 'curves.csv'}, run.out / 'curves.png')
    checkpoint.mark_done(run.config, epochs_done, metric_logger.column('val', 'metric'))
    return validation_result.metrics


def _epoch_means(run: RunState, loss_sums: dict[str, Tensor], epoch: int) -> dict[str, float]:
    """Turn sums over an epoch's steps into means over steps and processes, on the host."""
    steps, scaler = len(run.sampler), run.optimizer.scaler
    values = all_reduce_mean(torch.stack(list(loss_sums.values())).float()).tolist()
    row = dict(zip(loss_sums, values, strict=True))
    skipped = round(row.pop('skipped'))
    norm = row.pop('grad_norm') / max(steps - skipped, 1)
    row = {**{name: value / steps for name, value in row.items()}, 'grad_norm': norm}
    # skipping is how the scale of fp16's gradients is found, unless no scale is low enough
    if skipped and (not scaler.is_enabled() or scaler.get_scale() < MIN_LOSS_SCALE):
        means_text = ', '.join(f'{name} {value:.4g}' for name, value in row.items())
        raise TrainError(
            f'the gradient was not finite in {skipped} of {steps} steps of epoch {epoch + 1},'
            f' which were not taken; means over the epoch: {means_text}'
        )
    if skipped:
        _log_on_first_rank(
            'epoch %d: %d of %d steps not taken, scaled too high', epoch + 1, skipped, steps
        )
    return row


def _is_stalled(run: RunState, metric_logger: MetricLogger | None) -> bool:
    """Whether patience is at its end; the first process knows, and tells the others."""
    values = metric_logger.column('val', 'metric') if metric_logger else []
    stalled = validation.is_stalled(values, run.config.patience)
    return bool(distributed.broadcast_scalar(float(stalled), run.device))


def _save_checkpoint(run: RunState, name: str, epochs_done: int) -> None:
    checkpoint.save_checkpoint(
        run.out / name, run.unwrapped_model, run.optimizer, run.config, epochs_done
    )


def _make_metric_logger(run: RunState, first: int) -> AbstractContextManager[MetricLogger | None]:
    return nullcontext() if rank() else MetricLogger(run.out, first)


def _make_progress_bar() -> Progress:
    bar = progress_bar()
    bar.disable = rank() > 0
    return bar


def _log_run_size(run: RunState) -> None:
    frames, millions = (
        run.sampler.num_frames,
        sum(p.numel() for p in run.optimizer.parameters) / 1e6,
    )
    _log_on_first_rank(
        '%d frames, %.2f M parameters, on %s, into %s', frames, millions, run.device, run.out
    )
    if is_bf16_emulated(run.config.precision, run.device):
        _log_on_first_rank(
            'precision: this processor has no bf16 and is slow at it; precision=fp32 is faster'
        )


def _log_on_first_rank(message: str, *values: object) -> None:
    if rank() == 0:
        log.info(message, *values)


def _derive_seed(*parts: int) -> int:
    return int(np.random.SeedSequence(parts).generate_state(1)[0])


ModelFactory = Callable[[TrainConfig], nn.Module]


@dataclass(frozen=True)
class RunState:
    """
    A run under way.

    :param config: what is run.
    :param device: of this process.
    :param unwrapped_model: what learns.
    :param model: the learner, joined with those of the other processes.
    :param optimizer: of the learner.
    :param sampler: the batches of an epoch.
    :param loader: loads them.
    :param validation_set: what the detector is judged by.
    :param focal_px: of the lens that is learnt, on the canvas.
    """

    config: TrainConfig
    device: torch.device
    unwrapped_model: nn.Module
    model: nn.Module
    optimizer: Optimizer
    sampler: dataset.ShuffledBatchSampler
    loader: Any
    validation_set: validation.ValidationSet
    focal_px: float

    @property
    def out(self) -> Path:
        """Folder of the run."""
        return Path(self.config.out)

    @property
    def eval_detector(self) -> Any:
        """The detector that is judged and saved: the mean of the weights where one is kept."""
        mean = self.optimizer.ema
        return mean.module if mean else self.unwrapped_model.detector


def setup_run(
    config: TrainConfig, model_factory: ModelFactory, device: torch.device
) -> tuple[RunState, int]:
    """Read the data set's texts, build what learns, and go on where a run was stopped."""
    image_loader = model_builder.choose_image_loader(config)
    frames = dataset.FrameDataset(
        config.train, config.input, config.classes, config.seed, image_loader
    )
    share = (rank(), world_size())
    sampler = dataset.ShuffledBatchSampler(len(frames), config.batch_size, config.seed, share)
    smallest, parts = len(frames) // len(sampler), world_size() * config.accumulate
    if not len(frames):
        raise TrainError('train.sources: no frames to learn from')
    if smallest < parts:
        raise TrainError(
            f'batch_size: batches of {smallest} images cannot be shared by {world_size()}'
            f' processes times {config.accumulate} parts (accumulate)'
        )
    validation_set = validation.load_validation_set(dataset.list_frames(config.val))
    if not validation_set.frames:
        raise TrainError('val.sources: no frames to be judged on')
    if image_loader is dataset.load_image_and_depth:
        depth_maps.require_depth(frames.files)
    if config.input.depth:
        depth_maps.require_depth(validation_set.frames)
    torch.manual_seed(config.seed)
    unwrapped_model = distributed.convert_sync_batchnorm(model_factory(config), device)
    unwrapped_model.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    detector: Any = unwrapped_model.detector
    optimizer = Optimizer(unwrapped_model, detector, config.optim, config.precision)
    first = checkpoint.resume_from(
        Path(config.out) / 'last.pt', unwrapped_model, optimizer, config
    )
    if first != distributed.broadcast_scalar(first, device):
        raise TrainError(f'{config.out}: not all processes see the checkpoint; out must be shared')
    loader = dataset.make_dataloader(frames, sampler, config.workers)
    model = distributed.wrap_ddp(unwrapped_model)
    focal_px = dataset.median_focal_px(frames.files, config.input)
    return RunState(
        config,
        device,
        unwrapped_model,
        model,
        optimizer,
        sampler,
        loader,
        validation_set,
        focal_px,
    ), first


def save_validated_model(
    run: RunState, name: str, epochs_done: int, validation_result: validation.ValidationResult
) -> None:
    """Write the student file of a judged detector."""
    spec = model_builder.model_spec(run.config)
    validation_info = {
        'epoch': epochs_done,
        'focal_px': round(run.focal_px, 2),
        'frames_judged': len(validation_result.detections),
        'metrics': validation_result.metrics,
    }
    spec = dataclasses.replace(spec, provenance={**spec.provenance, **validation_info})
    model_file.save_model(run.out / name, run.eval_detector, spec)
