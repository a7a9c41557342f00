"""What the processes of the training tests run; importable by name, as spawned ones need it."""

import os
import signal

import torch
from small_run import dropping, small_config

from stl_core.cli import main
from stl_core.training import distributed, optim, trainer


def joined_config(scenes, out, **changes):
    """Norms are frozen: on the CPU each process has its own statistics."""
    numbers = optim.OptimConfig(lr=1e-3, warmup_epochs=1, freeze_norm_at=0.0, ema=0.9)
    return small_config(scenes, out, epochs=3, batch_size=5, optim=numbers, **changes)


def one_of_two(rank, port, work, *given):
    torch.set_num_threads(1)
    os.environ |= {'RANK': str(rank), 'LOCAL_RANK': str(rank), 'WORLD_SIZE': '2'}
    os.environ |= {'MASTER_ADDR': 'localhost', 'MASTER_PORT': str(port)}
    work(rank, *given)


def fit(rank, scenes, out):
    metrics = trainer.fit(joined_config(scenes, out, eval_every=2))
    assert bool(metrics) == (rank == 0)


def run_plan(rank, path, out):
    """All stages, and again, now that all are done."""
    with distributed.process_group('cpu'):
        for name in ('first', 'again'):
            main.main(['train', str(path), '--json', str(out / f'{name}{rank}.json')])


def everything_on(scenes, out):
    """All that has state or chance: dropout, means, parts, a cycle, evaluations, loaders."""
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
    """Train for some steps, then end as `kill -9` ends a process."""
    torch.set_num_threads(1)
    real, taken = trainer.train_step, []

    def dying_step(*args, **kwargs):
        if len(taken) == steps:
            os.kill(os.getpid(), signal.SIGKILL)
        taken.append(1)
        return real(*args, **kwargs)

    trainer.train_step = dying_step
    trainer.fit(everything_on(scenes, out), dropping)
