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

from stl_core import files as files_module
from stl_core.data import dataset, depth_maps
from stl_core.inference import model_file as predict
from stl_core.inference import result_files as result_files_module
from stl_core.progress import progress_bar
from stl_core.tensors.batch import to_device
from stl_core.tensors.precision import emulated
from stl_core.tensors.reductions import over_processes, rank, world
from stl_core.training import checkpoint
from stl_core.training import distributed as parallel
from stl_core.training import model_builder as learner
from stl_core.training import validation as judge
from stl_core.training.config import TrainConfig
from stl_core.training.metric_logging import Record
from stl_core.training.model_builder import student_spec
from stl_core.training.optim import Optimizer
from stl_core.training.train_step import TrainError, train_step
from stl_core.visualization import charts

log = logging.getLogger(__name__)

#: Gradients of fp16 that overflow at this scale are not too great but not finite.
LEAST_SCALE = 1e-3


def fit(config: TrainConfig, build: Build = learner.build) -> dict[str, Any]:
    """
    Train, or go on with a run that was stopped.

    Writes into config.out: last.pt (every save_every epochs) and best.pt, curves.csv and .png,
    val.csv, tensorboard/, metrics.json, results/, student.safetensors, student_best.safetensors,
    and at the end done.json; best.pt, student_best and val.csv only where config.eval_every is
    not 0.

    :param config: the run.
    :param build: makes the learner.
    :return: what evaluate.evaluate says of the last student on the val frames; empty in all
        processes but the first.
    :raises CheckpointError: when out holds another run.
    :raises TrainError: when there is nothing to learn from or to be judged on, losses and weights
        differ, or the gradient is not finite.
    :raises DataError: for a missing or malformed file of the data set.
    :raises StudentError: for a teacher, or a file to start from, that cannot be used.
    :raises ConfigError: for one that does not fit the run.
    """
    config = learner.pinned(config)
    with parallel.processes(config.device) as device:
        run, first = start(config, build, device)
        _announce(run)
        judged: judge.Judgement | None = None
        done = first
        with _record(run, first) as record, _bar() as bar:
            task = bar.add_task('epochs', total=config.epochs, completed=first, note='')
            while done < config.epochs and not _stalled(run, record):
                row = run_epoch(run, done, bar)
                done += 1
                bar.update(task, advance=1, note=f'loss {row["total"]:.3f} lr {row["lr"]:.1e}')
                if record:
                    judged = keep(run, record, done, row)
        metrics = finish(run, record, done, judged) if record else {}
        parallel.from_first(0.0, device)  # who goes on to a next run finds this one's files
        return metrics


def run_epoch(run: Run, epoch: int, bar: Progress) -> dict[str, float]:
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
    torch.manual_seed(_seed(config.seed, epoch, rank()))
    run.model.train()
    if epoch >= config.optim.freeze_norm_at * config.epochs:
        freeze_norm(run.model)
    sums: dict[str, Tensor] = {}
    began = time.perf_counter()
    task = bar.add_task(f'epoch {epoch + 1}', total=steps, note='')
    for step, batch in enumerate(run.loader):
        now = epoch + step / steps
        lr = run.optimizer.set_pace(now, config.epochs)
        batch = to_device(batch, run.device)
        told = train_step(
            run.model, batch, run.optimizer, config.weights, now, parts=config.accumulate
        )
        # sums stay on the device: reading one would make the host wait at every step
        sums = {name: sums.get(name, 0.0) + value for name, value in told.items()}
        rate = run.sampler.frames / steps * (step + 1) / (time.perf_counter() - began)
        bar.update(task, advance=1, note=f'{rate:.1f} images/s')
    row = _means(run, sums, epoch)
    bar.remove_task(task)
    rate = run.sampler.frames / (time.perf_counter() - began)
    return {**row, 'lr': lr, 'images_per_s': rate}


def freeze_norm(model: nn.Module) -> None:
    """Let every BatchNorm use, and keep, its running statistics; model.train() undoes it."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()


def keep(run: Run, record: Record, done: int, row: dict[str, float]) -> judge.Judgement | None:
    """
    Write down an epoch; judge and save where that is due.

    :param run: the run.
    :param record: its tables.
    :param done: epochs done.
    :param row: what run_epoch returned.
    :return: the judgement, where it was due.
    """
    config, judged = run.config, None
    record.add('curves', done, row)
    last = done == config.epochs
    if config.eval_every and (done % config.eval_every == 0 or last):
        judged = judge.judge(run.student, student_spec(config), run.exam, run.device)
        metric = judge.read_metric(config.metric, config.classes)
        record.add('val', done, judge.row(judged.metrics, metric))
        log.info('epoch %d: %s', done, judge.summary(judged.metrics))
        if judge.is_best(record.column('val', 'metric')):
            _save(run, 'best.pt', done)
            save_student(run, 'student_best.safetensors', done, judged)
    if judged or last or done % config.save_every == 0:
        _save(run, 'last.pt', done)
    return judged


def finish(run: Run, record: Record, done: int, judged: judge.Judgement | None) -> dict[str, Any]:
    """Judge the last detector, unless that was just done; write student, results and curves."""
    judged = judged or judge.judge(run.student, student_spec(run.config), run.exam, run.device)
    result_files_module.write_results(run.out / 'results', run.exam.frames, judged.found)
    text = json.dumps(judged.metrics, indent=1)
    files_module.write_atomically(run.out / 'metrics.json', text.encode())
    save_student(run, 'student.safetensors', done, judged)
    charts.curves({run.out.name: run.out / 'curves.csv'}, run.out / 'curves.png')
    checkpoint.mark_done(run.config, done, record.column('val', 'metric'))
    return judged.metrics


def _means(run: Run, sums: dict[str, Tensor], epoch: int) -> dict[str, float]:
    """Turn sums over an epoch's steps into means over steps and processes, on the host."""
    steps, scaler = len(run.sampler), run.optimizer.scaler
    values = over_processes(torch.stack(list(sums.values())).float()).tolist()
    row = dict(zip(sums, values, strict=True))
    skipped = round(row.pop('skipped'))
    norm = row.pop('grad_norm') / max(steps - skipped, 1)
    row = {**{name: value / steps for name, value in row.items()}, 'grad_norm': norm}
    # skipping is how the scale of fp16's gradients is found, unless no scale is low enough
    if skipped and (not scaler.is_enabled() or scaler.get_scale() < LEAST_SCALE):
        told = ', '.join(f'{name} {value:.4g}' for name, value in row.items())
        raise TrainError(
            f'the gradient was not finite in {skipped} of {steps} steps of epoch {epoch + 1},'
            f' which were not taken; means over the epoch: {told}'
        )
    if skipped:
        _log('epoch %d: %d of %d steps not taken, scaled too high', epoch + 1, skipped, steps)
    return row


def _stalled(run: Run, record: Record | None) -> bool:
    """Whether patience is at its end; the first process knows, and tells the others."""
    values = record.column('val', 'metric') if record else []
    stalled = judge.is_stalled(values, run.config.patience)
    return bool(parallel.from_first(float(stalled), run.device))


def _save(run: Run, name: str, done: int) -> None:
    checkpoint.save(run.out / name, run.learner, run.optimizer, run.config, done)


def _record(run: Run, first: int) -> AbstractContextManager[Record | None]:
    return nullcontext() if rank() else Record(run.out, first)


def _bar() -> Progress:
    bar = progress_bar()
    bar.disable = rank() > 0
    return bar


def _announce(run: Run) -> None:
    frames, learnt = run.sampler.frames, sum(p.numel() for p in run.optimizer.parameters) / 1e6
    _log('%d frames, %.2f M parameters, on %s, into %s', frames, learnt, run.device, run.out)
    if emulated(run.config.precision, run.device):
        _log('precision: this processor has no bf16 and is slow at it; precision=fp32 is faster')


def _log(message: str, *values: object) -> None:
    if rank() == 0:
        log.info(message, *values)


def _seed(*parts: int) -> int:
    return int(np.random.SeedSequence(parts).generate_state(1)[0])


Build = Callable[[TrainConfig], nn.Module]


@dataclass(frozen=True)
class Run:
    """
    A run under way.

    :param config: what is run.
    :param device: of this process.
    :param learner: what learns.
    :param model: the learner, joined with those of the other processes.
    :param optimizer: of the learner.
    :param sampler: the batches of an epoch.
    :param loader: loads them.
    :param exam: what the detector is judged by.
    :param focal_px: of the lens that is learnt, on the canvas.
    """

    config: TrainConfig
    device: torch.device
    learner: nn.Module
    model: nn.Module
    optimizer: Optimizer
    sampler: dataset.ShuffledBatches
    loader: Any
    exam: judge.Exam
    focal_px: float

    @property
    def out(self) -> Path:
        """Folder of the run."""
        return Path(self.config.out)

    @property
    def student(self) -> Any:
        """The detector that is judged and saved: the mean of the weights where one is kept."""
        mean = self.optimizer.mean
        return mean.module if mean else self.learner.detector


def start(config: TrainConfig, build: Build, device: torch.device) -> tuple[Run, int]:
    """Read the data set's texts, build what learns, and go on where a run was stopped."""
    see = learner.eyes(config)
    frames = dataset.Frames(config.train, config.input, config.classes, config.seed, see)
    share = (rank(), world())
    sampler = dataset.ShuffledBatches(len(frames), config.batch_size, config.seed, share)
    smallest, parts = len(frames) // len(sampler), world() * config.accumulate
    if not len(frames):
        raise TrainError('train.sources: no frames to learn from')
    if smallest < parts:
        raise TrainError(
            f'batch_size: batches of {smallest} images cannot be shared by {world()} processes'
            f' times {config.accumulate} parts (accumulate)'
        )
    exam = judge.set_exam(dataset.list_frames(config.val))
    if not exam.frames:
        raise TrainError('val.sources: no frames to be judged on')
    if see is dataset.see_depth:
        depth_maps.require_depth(frames.files)
    if config.input.depth:
        depth_maps.require_depth(exam.frames)
    torch.manual_seed(config.seed)
    learns = parallel.sync_norms(build(config), device)
    learns.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    detector: Any = learns.detector
    optimizer = Optimizer(learns, detector, config.optim, config.precision)
    first = checkpoint.resume(Path(config.out) / 'last.pt', learns, optimizer, config)
    if first != parallel.from_first(first, device):
        raise TrainError(f'{config.out}: not all processes see the checkpoint; out must be shared')
    loader = dataset.batches(frames, sampler, config.workers)
    model = parallel.joined(learns)
    lens = dataset.focal_px(frames.files, config.input)
    return Run(config, device, learns, model, optimizer, sampler, loader, exam, lens), first


def save_student(run: Run, name: str, done: int, judged: judge.Judgement) -> None:
    """Write the student file of a judged detector."""
    spec = learner.student_spec(run.config)
    told = {
        'epoch': done,
        'focal_px': round(run.focal_px, 2),
        'frames_judged': len(judged.found),
        'metrics': judged.metrics,
    }
    spec = dataclasses.replace(spec, provenance={**spec.provenance, **told})
    predict.save_student(run.out / name, run.student, spec)
