"""Runs that spawned processes of the tests train until something is killed."""

import multiprocessing
import os
import signal

import torch
from scored_model import fit_scored
from small_run import small_config

from stl_core.training import checkpoint, optim, train_step, trainer
from stl_core.training.checkpoint import ResumeOptions
from stl_core.training.resolved_config import resolve_config

EXTEND = ResumeOptions(extend=True)


def extended_config(scenes, out, **changes):
    numbers = optim.OptimConfig(lr=2e-3, schedule='cosine', warmup_epochs=1, ema=0.9)
    return small_config(scenes, out, optim=numbers, **changes)


def fit(scenes, out, options=checkpoint.RESUME_ONLY, **changes):
    trainer.fit(resolve_config(extended_config(scenes, out, **changes)), options=options)


def act_before_step(number, act):
    """Call `act` before the training step of this number, which counts from 0."""
    original, calls = trainer.train_step, []

    def step(*arguments, **options):
        if len(calls) == number:
            act()
        calls.append(1)
        return original(*arguments, **options)

    trainer.train_step = step


def extend_until_killed(scenes, out, number):
    """Extend a run to four epochs; SIGKILL ends this process before a step of the extension."""
    torch.set_num_threads(1)
    act_before_step(number, lambda: os.kill(os.getpid(), signal.SIGKILL))
    fit(scenes, out, EXTEND, epochs=4)


def train_scored_until_killed(scenes, out, number):
    """Train a model with an optimiser group; SIGKILL ends this process before a step."""
    torch.set_num_threads(1)
    act_before_step(number, lambda: os.kill(os.getpid(), signal.SIGKILL))
    fit_scored(scenes, out)


def _kill_loaders():
    for child in multiprocessing.active_children():
        os.kill(child.pid, signal.SIGKILL)
        child.join()


def train_until_loader_is_killed(scenes, out):
    """Train; the loader process is killed before a step of the second epoch."""
    torch.set_num_threads(1)
    act_before_step(3, _kill_loaders)
    try:
        trainer.fit(resolve_config(small_config(scenes, out, workers=1)))
    except train_step.TrainError as err:
        (out / 'error.txt').write_text(str(err))
