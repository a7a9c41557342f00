"""
Training loop: epochs, checkpoints, validation and exact resume.

fit(resolved) trains the model of model_builder.build_model; fit(resolved, model_factory) trains
any other. Under torchrun, every process calls fit.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import re
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import Progress
from torch import nn

from stl_core import files
from stl_core.evaluation import metrics
from stl_core.evaluation.metric import OURS, MetricResults
from stl_core.inference import model_file, result_files
from stl_core.progress import progress_bar
from stl_core.tensors.batch import to_device
from stl_core.tensors.precision import is_bf16_emulated
from stl_core.tensors.reductions import rank
from stl_core.training import checkpoint, distributed, model_builder, validation
from stl_core.training.checkpoint import RESUME_ONLY, ResumeOptions
from stl_core.training.metric_logging import MetricLogger
from stl_core.training.resolved_config import ResolvedConfig
from stl_core.training.run import answer_reader, extension
from stl_core.training.run.determinism import deterministic_algorithms
from stl_core.training.run.epoch_statistics import EpochStatistics, require_finite
from stl_core.training.run.journal import RunJournal
from stl_core.training.run.setup import ModelFactory, RunState, setup_run
from stl_core.training.train_step import TrainError, train_step
from stl_core.visualization import charts

log = logging.getLogger(__name__)


def fit(
    resolved: ResolvedConfig,
    model_factory: ModelFactory = model_builder.build_model,
    options: ResumeOptions = RESUME_ONLY,
) -> MetricResults | None:
    """
    Train a model, or resume a stopped run.

    Writes into config.out: last.pt (every save_every epochs) and best.pt, curves.csv and .png,
    val.csv, tensorboard/, metrics.json, results/, student.safetensors, student_best.safetensors,
    and at the end done.json; best.pt, student_best and val.csv only if config.eval_every is not 0;
    extensions.json if epochs were added.

    :param resolved: configuration of the run, from resolve_config.
    :param model_factory: builds the trainable model.
    :param options: what a resumed run may do that is refused otherwise.
    :return: results of the last model on the val frames; None in all processes except rank 0.
    :raises CheckpointError: when out holds a run of another configuration or with other data, a
        torn or foreign file, or another process is training into it.
    :raises OutputError: if out cannot be written or the disk is full.
    :raises TrainError: for no training or validation frames, losses that do not match the weights,
        too many steps whose gradient is not finite, or a loader process that was killed.
    :raises DataError: for a missing or malformed file of the data set, or an unlabelled image.
    :raises ModelFileError: for a start model or teacher that cannot be used.
    :raises ConfigError: for a start model or distillation losses that do not fit the run, or
        `deterministic` on a GPU without the environment variable that it needs.
    """
    config = resolved.config
    _require_writable(Path(config.out))
    with (
        distributed.process_group(config.device) as device,
        deterministic_algorithms(config.deterministic, device),
        _open_journal(resolved) as journal,
    ):
        run, first = setup_run(resolved, model_factory, device, options, journal)
        _log_run_size(run)
        _record_extensions(run)
        results = None
        with _make_metric_logger(run, first) as metric_logger:
            epochs_done, validation_result = _train_epochs(run, metric_logger, first)
        if metric_logger:
            results = finish_training(run, metric_logger, epochs_done, validation_result)
        # a barrier: the next run of any process finds the files of this one
        distributed.broadcast_scalar(0.0, device)
        return results


def _train_epochs(
    run: RunState, metric_logger: MetricLogger | None, first: int
) -> tuple[int, validation.ValidationResult | None]:
    """Train from `first` completed epochs; return those at the end, and the last validation."""
    config, epochs_done = run.config, first
    validation_result: validation.ValidationResult | None = None
    with _make_progress_bar() as bar:
        task = bar.add_task('epochs', total=config.epochs, completed=first, note='')
        while epochs_done < config.epochs and not _is_stalled(run, metric_logger):
            with _killed_loader_as_error(run):
                row = train_one_epoch(run, epochs_done, bar)
            epochs_done += 1
            bar.update(task, advance=1, note=f'loss {row["total"]:.3f} lr {row["lr"]:.1e}')
            if metric_logger:
                validation_result = log_and_save(run, metric_logger, epochs_done, row)
    return epochs_done, validation_result


def train_one_epoch(run: RunState, epoch: int, bar: Progress) -> dict[str, float]:
    """
    Train for one epoch.

    :param run: the run.
    :param epoch: completed epochs.
    :param bar: progress bar for steps, images per second and remaining time.
    :return: mean losses, gradient norm, number of skipped steps, learning rate and images per
        second.
    :raises TrainError: if too many steps were skipped because the gradient was not finite, or a
        weight or buffer is not finite.
    """
    config, steps = run.config, len(run.sampler)
    run.sampler.epoch = epoch
    # dropout and other random layers must not depend on the epoch at which a run was resumed
    torch.manual_seed(_derive_seed(config.seed, epoch, rank()))
    run.model.train()
    if run.norms_are_frozen(epoch):
        freeze_norm(run.model)
    statistics = EpochStatistics(epoch + 1)
    start_time = time.perf_counter()
    task = bar.add_task(f'epoch {epoch + 1}', total=steps, note='')
    for step, batch in enumerate(run.loader):
        now = epoch + step / steps
        lr = run.optimizer.set_lr_and_beta(run.schedule_at(now))
        batch = to_device(batch, run.device)
        step_losses = train_step(
            run.model,
            batch,
            run.optimizer,
            config.weights,
            now,
            num_micro_batches=config.accumulate,
        )
        statistics.add(step_losses, batch.ids)
        if run.journal:
            run.journal.write(epoch + 1, step + 1, steps)
        elapsed_s = time.perf_counter() - start_time
        rate = run.sampler.num_frames / steps * (step + 1) / elapsed_s
        bar.update(task, advance=1, note=f'{rate:.1f} images/s')
    row = statistics.summarize()
    ema = run.optimizer.ema
    require_finite(
        epoch + 1, {'model': run.unwrapped_model, **({'average': ema.module} if ema else {})}
    )
    bar.remove_task(task)
    rate = run.sampler.num_frames / (time.perf_counter() - start_time)
    return {**row, 'lr': lr, 'images_per_s': rate}


def freeze_norm(model: nn.Module) -> None:
    """Put every BatchNorm into eval mode, with fixed statistics; model.train() undoes it."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()


def log_and_save(
    run: RunState, metric_logger: MetricLogger, epochs_done: int, row: dict[str, float]
) -> validation.ValidationResult | None:
    """
    Log an epoch; validate and save checkpoints if the configuration schedules them now.

    :param run: the run.
    :param metric_logger: tables of the run.
    :param epochs_done: completed epochs.
    :param row: metrics of the epoch, from train_one_epoch.
    :return: result of the validation, None without one.
    """
    config, validation_result = run.config, None
    metric_logger.add_row('curves', epochs_done, row)
    last = epochs_done == config.epochs
    if config.eval_every and (epochs_done % config.eval_every == 0 or last):
        validation_result = _validate(run)
        protocol = config.val.protocol or OURS
        metric = metrics.parse_selection(config.metric, config.classes, protocol)
        columns = validation.metrics_row(validation_result.results, metric)
        metric_logger.add_row('val', epochs_done, columns)
        log.info('epoch %d: %s', epochs_done, validation.format_summary(validation_result.results))
        for note in validation_result.results.notes():
            log.info('epoch %d: %s', epochs_done, note)
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
) -> MetricResults:
    """
    Write model file, KITTI results, metrics, loss curves and done.json at the end of a run.

    :param run: the run.
    :param metric_logger: tables of the run.
    :param epochs_done: completed epochs.
    :param validation_result: validation after the last epoch; None runs it here.
    :return: results of the model.
    """
    validation_result = _validate_given(run, validation_result or _validate(run))
    (run.out / 'done.json').unlink(missing_ok=True)  # of before an extension
    result_files.write_result_files(
        run.out / 'results', run.validation_set.frames, validation_result.detections
    )
    text = json.dumps(validation_result.results.to_json(), indent=1)
    files.write_atomically(run.out / 'metrics.json', text.encode())
    save_validated_model(run, 'student.safetensors', epochs_done, validation_result)
    charts.plot_loss_curves({run.out.name: run.out / 'curves.csv'}, run.out / 'curves.png')
    values = metric_logger.column('val', 'metric', run.patience_from)
    checkpoint.mark_done(run.resolved, epochs_done, values, run.record)
    return validation_result.results


def _validate(run: RunState) -> validation.ValidationResult:
    """Evaluate the detector on the validation set; compute 'kitti' and the run's metric."""
    spec, names = run.resolved.model_spec, metrics.selected_metrics(run.config.metric)
    return validation.validate_detector(
        run.eval_detector, spec, run.validation_set, run.device, names
    )


def _validate_given(
    run: RunState, result: validation.ValidationResult
) -> validation.ValidationResult:
    """Evaluate a privileged teacher with other given depth, too; log and add the results."""
    spec = run.resolved.model_spec
    if not spec.input.given_depth:
        return result
    result = validation.validate_given_depths(
        run.eval_detector, spec, run.validation_set, run.device, result
    )
    log.info('%s: %s', run.out, answer_reader.describe(_given_provenance(run, result)))
    return result


def _given_provenance(run: RunState, result: validation.ValidationResult) -> dict[str, Any]:
    given, resolved = result.results.given, run.resolved
    assert given is not None  # _validate_given has added it
    return answer_reader.given_provenance(given, run.config.classes, resolved.start_spec)


def _is_stalled(run: RunState, metric_logger: MetricLogger | None) -> bool:
    """Return whether early stopping ends the run; rank 0 decides and broadcasts it."""
    values = metric_logger.column('val', 'metric', run.patience_from) if metric_logger else []
    stalled = validation.is_stalled(values, run.config.patience)
    return bool(distributed.broadcast_scalar(float(stalled), run.device))


def _save_checkpoint(run: RunState, name: str, epochs_done: int) -> None:
    checkpoint.save_checkpoint(
        run.out / name, run.unwrapped_model, run.optimizer, run.resolved, epochs_done, run.record
    )


def _require_writable(out: Path) -> None:
    """Raise OutputError if a file or folder of a run cannot be written."""
    for name in ('last.pt', 'best.pt', 'curves.csv', 'val.csv', 'metrics.json', 'done.json'):
        files.require_writable_file(out / name)
    for name in ('results', 'tensorboard'):
        files.require_writable_folder(out / name)


def _open_journal(resolved: ResolvedConfig) -> AbstractContextManager[RunJournal | None]:
    return nullcontext() if rank() else RunJournal(Path(resolved.config.out))


@contextmanager
def _killed_loader_as_error(run: RunState) -> Iterator[None]:
    """Raise TrainError instead of torch's RuntimeError if a loader process was killed."""
    try:
        yield
    except RuntimeError as err:
        if not re.search(r'DataLoader worker \(pid', str(err)):
            raise
        reason = str(err).strip().splitlines()[0].rstrip('.')
        raise TrainError(
            f'{reason}: a data-loading process ended, as for want of memory or of /dev/shm;'
            f' {run.out}/last.pt is whole: run the same command again to resume, perhaps with'
            ' fewer workers='
        ) from err


def _record_extensions(run: RunState) -> None:
    """Log the added epochs and their schedule, and write them to extensions.json."""
    if not run.record.extensions or rank():
        return
    for each in run.record.extensions:
        log.info('%s: %s', run.out, each.describe())
    content = [
        {**asdict, 'schedule': each.describe()}
        for asdict, each in zip(
            extension.to_json(run.record.extensions), run.record.extensions, strict=True
        )
    ]
    text = json.dumps(content, indent=1)
    files.write_atomically(run.out / 'extensions.json', text.encode())


def _make_metric_logger(run: RunState, first: int) -> AbstractContextManager[MetricLogger | None]:
    if rank():
        return nullcontext()
    logger = MetricLogger(run.out, first)
    if first and (run.out / 'best.pt').exists() and not logger.column('val', 'metric'):
        raise checkpoint.CheckpointError(
            f'{logger.table_path("val")}: has no evaluation of {run.out}/best.pt, so that a worse'
            ' model would replace it; restore the table, or move best.pt away'
        )
    return logger


def _make_progress_bar() -> Progress:
    bar = progress_bar()
    bar.disable = rank() > 0
    return bar


def _log_run_size(run: RunState) -> None:
    frames, millions = (
        run.sampler.num_frames,
        sum(p.numel() for p in run.optimizer.main.parameters) / 1e6,
    )
    _log_on_first_rank(
        '%d frames, %.2f M parameters, on %s, into %s', frames, millions, run.device, run.out
    )
    for name, group in run.optimizer.groups.items():
        thousands = sum(p.numel() for p in group.parameters) / 1e3
        _log_on_first_rank('optimiser group %s: %.1f k parameters', name, thousands)
    frozen = [
        p
        for p in run.unwrapped_model.get_submodule('detector').parameters()
        if not p.requires_grad
    ]
    if frozen:
        millions = sum(p.numel() for p in frozen) / 1e6
        _log_on_first_rank('%d more tensors, %.2f M parameters, are frozen', len(frozen), millions)
    if is_bf16_emulated(run.config.precision, run.device):
        _log_on_first_rank(
            'precision: this CPU emulates bf16, which is slow; precision=fp32 is faster'
        )


def _log_on_first_rank(message: str, *values: object) -> None:
    if rank() == 0:
        log.info(message, *values)


def _derive_seed(*parts: int) -> int:
    return int(np.random.SeedSequence(parts).generate_state(1)[0])


def save_validated_model(
    run: RunState, name: str, epochs_done: int, validation_result: validation.ValidationResult
) -> None:
    """Write a model file of a validated detector, with its metrics in the provenance."""
    validation_info: dict[str, Any] = {
        'epoch': epochs_done,
        'focal_px': round(run.focal_px, 2),
        **validation.model_provenance(run.validation_set, validation_result),
    }
    if validation_result.results.given:
        validation_info[answer_reader.GIVEN] = _given_provenance(run, validation_result)
    if run.record.extensions:
        validation_info['extensions'] = extension.to_json(run.record.extensions)
    spec = run.resolved.model_spec
    spec = dataclasses.replace(spec, provenance={**spec.provenance, **validation_info})
    model_file.save_model(run.out / name, run.eval_detector, spec)
