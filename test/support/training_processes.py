"""Functions that spawned processes of the training tests run; spawn imports them by name."""

import os
import signal

import torch
from small_run import small_config, with_dropout

from stl_core.cli import main
from stl_core.training import distributed, optim, trainer
from stl_core.training.resolved_config import resolve_config


def distributed_config(scenes, out, **changes):
    """Return a small run with frozen norms: processes on the CPU have separate statistics."""
    numbers = optim.OptimConfig(lr=1e-3, warmup_epochs=1, freeze_norm_at=0.0, ema=0.9)
    return small_config(scenes, out, epochs=3, batch_size=5, optim=numbers, **changes)


def run_rank(rank, port, work, *args):
    """Run work(rank, *args) with the environment that torchrun sets for two processes."""
    torch.set_num_threads(1)
    os.environ |= {'RANK': str(rank), 'LOCAL_RANK': str(rank), 'WORLD_SIZE': '2'}
    os.environ |= {'MASTER_ADDR': 'localhost', 'MASTER_PORT': str(port)}
    work(rank, *args)


def fit(rank, scenes, out):
    results = trainer.fit(resolve_config(distributed_config(scenes, out, eval_every=2)))
    assert (results is not None) == (rank == 0)


def run_plan(rank, path, out):
    """Run all stages twice; the second time, all are finished."""
    with distributed.process_group('cpu'):
        for name in ('first', 'again'):
            main.main(['train', str(path), '--json', str(out / f'{name}{rank}.json')])


def stateful_config(scenes, out):
    """Return a small run with all features that have state or randomness, such as EMA."""
    numbers = optim.OptimConfig(
        lr=1e-4, betas=(0.95, 0.99), warmup_epochs=1.0, schedule='cyclic', ema=0.9
    )
    return small_config(
        scenes,
        out,
        optim=numbers,
        epochs=3,
        accumulate=2,
        eval_every=2,
        workers=1,
        precision='bf16',
    )


def run_until_killed(scenes, out, steps):
    """Train for a number of steps, then kill the process with SIGKILL."""
    torch.set_num_threads(1)
    original, calls = trainer.train_step, []

    def step_or_die(*args, **kwargs):
        if len(calls) == steps:
            os.kill(os.getpid(), signal.SIGKILL)
        calls.append(1)
        return original(*args, **kwargs)

    trainer.train_step = step_or_die
    trainer.fit(resolve_config(stateful_config(scenes, out)), with_dropout)
