"""What a run is made of: learner, optimiser, batches, exam; and how it starts or goes on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from stl_core import checkpoint, judge, learner, parallel, predict
from stl_core.config import TrainConfig
from stl_core.data import dataset, depth_maps
from stl_core.optim import Optimizer
from stl_core.shares import rank, world
from stl_core.step import TrainError

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
