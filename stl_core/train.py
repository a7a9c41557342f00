"""
Training: one step, one epoch, a run that can be stopped anywhere and goes on exactly.

A model for the trainer is anything with model(batch, epoch) -> {name: unweighted scalar}.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

import stl_core
from stl_core import charts, checkpoint, evaluate, predict
from stl_core.batch import Batch, to_device, to_input
from stl_core.config import OptimConfig, TrainConfig
from stl_core.data import dataset, kitti
from stl_core.images import InputSpec
from stl_core.progress import progress_bar
from stl_core.types import Labels

log = logging.getLogger(__name__)


class TrainError(RuntimeError):
    """A run that cannot start or go on; the message says why."""


class Supervised(nn.Module):
    """A detector learning from labels alone."""

    def __init__(self, detector: nn.Module, spec: InputSpec) -> None:
        """Wrap a detector with the colour statistics of its input."""
        super().__init__()
        self.detector, self.spec = detector, spec

    def forward(self, batch: Batch, epoch: float) -> dict[str, Tensor]:
        """Return the detector's named losses on a batch."""
        out = self.detector(
            to_input(batch.image, self.spec.mean, self.spec.std), batch.P, batch.targets
        )
        return self.detector.losses(out, batch.targets)  # type: ignore[operator,no-any-return]


class Model(Protocol):
    """What train_step needs of a model."""

    def __call__(self, batch: Batch, epoch: float) -> dict[str, Tensor]:
        """Return named, unweighted scalars."""


def weighted_sum(losses: dict[str, Tensor], weights: dict[str, float]) -> Tensor:
    """Sum losses by weight; names must match exactly, else a TrainError tells the difference."""
    if losses.keys() != weights.keys():
        lonely = sorted(losses.keys() ^ weights.keys())
        raise TrainError(
            f'losses and weights differ in {", ".join(lonely)}; losses: {", ".join(losses)}'
        )
    return torch.stack([weights[name] * loss for name, loss in losses.items()]).sum()


def train_step(
    model: Model,
    batch: Batch,
    optimizer: torch.optim.Optimizer,
    weights: dict[str, float],
    max_norm: float,
    epoch: float,
) -> dict[str, Tensor]:
    """
    Take one step.

    :param model: teacher, student or distiller.
    :param batch: on the model's device.
    :param optimizer: of the trainable parameters.
    :param weights: weight of every loss.
    :param max_norm: the gradient is clipped to this norm.
    :param epoch: passes so far, with a fraction.
    :return: losses, 'total' and 'grad_norm', detached, still on the device.
    :raises TrainError: when losses and weights differ in name, or the gradient is not finite.
    """
    losses = model(batch, epoch)
    total = weighted_sum(losses, weights)
    optimizer.zero_grad(set_to_none=True)
    total.backward()  # type: ignore[no-untyped-call]
    parameters = [p for group in optimizer.param_groups for p in group['params']]
    told = {name: loss.detach() for name, loss in losses.items()}
    try:
        norm = nn.utils.clip_grad_norm_(parameters, max_norm, error_if_nonfinite=True)
    except RuntimeError as err:
        values = ', '.join(f'{name} {float(value):.4g}' for name, value in told.items())
        raise TrainError(f'the gradient is not finite at epoch {epoch:.2f}: {values}') from err
    optimizer.step()
    return {**told, 'total': total.detach(), 'grad_norm': norm.detach()}


def step_schedule(progress: float, optim: OptimConfig) -> float:
    """Progress of the run, 0 to 1 -> factor of lr: a tenth after each of optim.drops."""
    return float(0.1 ** sum(progress >= drop for drop in optim.drops))


def cosine_schedule(progress: float, optim: OptimConfig) -> float:
    """Progress of the run, 0 to 1 -> factor of lr: half a cosine from 1 to 0.001."""
    return 0.001 + 0.999 * (1 + math.cos(math.pi * min(progress, 1.0))) / 2


SCHEDULES: dict[str, Callable[[float, OptimConfig], float]] = {
    'step': step_schedule,
    'cosine': cosine_schedule,
}


def learning_rate(epoch: float, epochs: int, optim: OptimConfig) -> float:
    """Learning rate after `epoch` passes: linear warm-up times the schedule."""
    warm = optim.warmup_epochs
    rise = min(1.0, 0.01 + 0.99 * epoch / warm) if warm > 0 else 1.0
    return optim.lr * rise * SCHEDULES[optim.schedule](epoch / epochs, optim)


def build_optimizer(model: nn.Module, optim: OptimConfig) -> torch.optim.AdamW:
    """AdamW over trainable parameters; vectors (biases, norms) do not decay."""
    if optim.schedule not in SCHEDULES:
        known = ', '.join(SCHEDULES)
        raise TrainError(f'optim.schedule: {optim.schedule!r} is unknown; known: {known}')
    trainable = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {'params': [p for p in trainable if p.dim() > 1], 'weight_decay': optim.weight_decay},
        {'params': [p for p in trainable if p.dim() <= 1], 'weight_decay': 0.0},
    ]
    return torch.optim.AdamW(groups, lr=optim.lr)


def fit(config: TrainConfig) -> dict[str, Any]:
    """
    Train a detector from labels, or go on with a run that was stopped.

    Writes into config.out: last.pt (atomically, every save_every epochs), curves.csv and .png,
    metrics.json, results/ and student.safetensors.

    :param config: the run.
    :return: the metrics of evaluate.evaluate on the val frames.
    :raises CheckpointError: when out holds another run.
    :raises TrainError: when there is nothing to learn from, or losses and weights differ.
    :raises DataError: for a missing or malformed file of the data set.
    """
    out = Path(config.out)
    device = predict.choose_device(config.device)
    torch.manual_seed(config.seed)
    frames = dataset.Frames(config.train, config.input, config.classes, config.seed)
    if not len(frames):
        raise TrainError('train.sources: no frames to learn from')
    validation = dataset.list_frames(config.val)
    spec = student_spec(config)
    model = Supervised(predict.build_detector(spec), config.input)
    model.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = build_optimizer(model, config.optim)
    first = checkpoint.resume(out / 'last.pt', model, optimizer, config)
    sampler = dataset.ShuffledBatches(len(frames), config.batch_size, config.seed)
    loader = dataset.batches(frames, sampler, config.workers)
    trained = sum(p.numel() for p in model.parameters()) / 1e6
    log.info('%d frames, %.2f M parameters, on %s, into %s', len(frames), trained, device, out)
    with progress_bar() as bar:
        task = bar.add_task('training', total=config.epochs, completed=first, note='')
        for epoch in range(first, config.epochs):
            sampler.epoch = epoch
            row = run_epoch(model, loader, optimizer, config, epoch, device)
            checkpoint.append_row(out / 'curves.csv', {'epoch': epoch + 1, **row})
            done = epoch + 1
            if done % config.save_every == 0 or done == config.epochs:
                checkpoint.save(out / 'last.pt', model, optimizer, config, done)
            if config.eval_every and done % config.eval_every == 0 and done < config.epochs:
                metrics, _ = judge(model.detector, spec, validation, device)
                log.info('epoch %d: %s', done, summary(metrics))
            bar.update(task, advance=1, note=f'loss {row["total"]:.3f} lr {row["lr"]:.1e}')
    return finish(model.detector, spec, validation, device, out)


def finish(
    detector: nn.Module, spec: predict.StudentSpec, frames: list[Any], device: Any, out: Path
) -> dict[str, Any]:
    """Judge the trained detector and write student, results, metrics and curves."""
    metrics, results = judge(detector, spec, frames, device)
    (out / 'results').mkdir(parents=True, exist_ok=True)
    for name, labels in zip(file_names(frames), results, strict=True):
        (out / 'results' / f'{name}.txt').write_text(kitti.format_results(labels))
    checkpoint.write_atomically(out / 'metrics.json', json.dumps(metrics, indent=1).encode())
    told = {**spec.provenance, 'frames_judged': len(frames), 'metrics': metrics}
    predict.save_student(
        out / 'student.safetensors', detector, dataclasses.replace(spec, provenance=told)
    )
    charts.curves(out / 'curves.csv', out / 'curves.png')
    return metrics


def file_names(frames: Sequence[kitti.FrameFiles]) -> list[str]:
    """Name frames by id; by number where frames of several sources share an id."""
    ids = [files.id for files in frames]
    return ids if len(set(ids)) == len(ids) else [f'{number:06d}' for number in range(len(ids))]


def run_epoch(
    model: nn.Module,
    loader: Iterable[Batch],
    optimizer: torch.optim.Optimizer,
    config: TrainConfig,
    epoch: int,
    device: torch.device,
) -> dict[str, float]:
    """Pass once over the training frames; return the mean losses, the lr and images/s."""
    model.train()
    if epoch >= config.optim.freeze_norm_at * config.epochs:
        freeze_norm(model)
    sums: dict[str, Tensor] = {}
    images, began = 0, time.perf_counter()
    steps = len(loader)  # type: ignore[arg-type]
    for step, batch in enumerate(loader):
        now = epoch + step / steps
        lr = learning_rate(now, config.epochs, config.optim)
        for group in optimizer.param_groups:
            group['lr'] = lr
        batch = to_device(batch, device)
        told = train_step(model, batch, optimizer, config.weights, config.optim.max_norm, now)
        # sums stay on the device: reading one would make the host wait at every step
        sums = {name: sums.get(name, 0.0) + value for name, value in told.items()}
        images += len(batch.ids)
    row = {name: float(value) / steps for name, value in sums.items()}
    return {**row, 'lr': lr, 'images_per_s': images / (time.perf_counter() - began)}


def freeze_norm(model: nn.Module) -> None:
    """Let every BatchNorm use, and keep, its running statistics; model.train() undoes it."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()


def judge(
    detector: nn.Module,
    spec: predict.StudentSpec,
    frames: Sequence[kitti.FrameFiles],
    device: torch.device,
) -> tuple[dict[str, Any], list[Labels]]:
    """
    Evaluate a live detector on labelled frames, through the Predictor the vehicle uses.

    :return: metrics as evaluate.evaluate gives them, and the detections of each frame.
    """
    was_training = detector.training
    run = predict.TorchRun(detector.eval(), spec.input, device)
    found = detect(predict.Predictor(run, spec), frames)
    detector.train(was_training)
    truth = [kitti.read_labels(each.label_2) for each in frames if each.label_2]
    if len(truth) != len(found):
        raise TrainError('val.sources: some frames have no labels to be judged by')
    return evaluate.evaluate(truth, found), found


def summary(metrics: dict[str, Any]) -> str:
    """Say the moderate 3D AP40 of every class in one line."""
    parts = [f'{name} {each["3d"]["AP40"]["strict"][1]:.2f}' for name, each in metrics.items()]
    return '3D AP40 moderate: ' + ', '.join(parts)


def detect(predictor: predict.Predictor, frames: Sequence[kitti.FrameFiles]) -> list[Labels]:
    """Run a Predictor over frames on disk, one by one -> detections as labels."""
    found = []
    for files in frames:
        image, P = kitti.read_image(files.image_2), kitti.read_calib(files.calib).P2
        (objects,) = predictor([image], [P])
        found.append(kitti.to_labels(objects, predictor.spec.classes))
    return found


def student_spec(config: TrainConfig) -> predict.StudentSpec:
    """Describe the student that a run makes."""
    return predict.StudentSpec(
        classes=config.classes,
        input=config.input,
        detector=config.detector.name,
        options=dataclasses.asdict(config.detector.options),
        provenance={
            'made_by': f'stl_core {stl_core.__version__}, torch {torch.__version__}',
            'epochs': config.epochs,
            'seed': config.seed,
        },
    )
