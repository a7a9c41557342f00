"""Functions that spawned processes of the training tests run; spawn imports them by name."""

import os
import signal

import torch
from small_run import small_config, with_dropout

from stl_core.cli import main
from stl_core.training import distributed, optim, trainer
from stl_core.training.resolved_config import resolve_config
from stl_core.training.run import epoch_statistics


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


def normalise(rank, path):
    """Apply the AttentiveNorm of every case in a file to this process's images."""
    with distributed.process_group('cpu'):
        for number, case in enumerate(torch.load(path / 'cases.pt', weights_only=False)):
            first = case['sizes'][0]
            images = slice(0, first) if rank == 0 else slice(first, None)
            parts = case['maps'][images], case['factor'][images]
            save_normalised(case['norm'], *parts, path / f'{number}_{rank}.pt')


def save_normalised(norm, maps, factor, path):
    """Run forward and backward through an AttentiveNorm; save output, gradients, statistics."""
    norm.train().norm.eval()  # the maps' statistics are a process's on the CPU
    maps = maps.clone().requires_grad_()
    out = norm(maps)
    (out * factor).sum().backward()
    grads = {name: each.grad for name, each in norm.named_parameters()}
    results = {'out': out.detach(), 'maps': maps.grad, 'grads': grads}
    torch.save({**results, 'buffers': dict(norm.named_buffers())}, path)


def log_skipped_step(rank, path):
    """Record an epoch whose second step was skipped; write the log."""
    messages = []
    epoch_statistics.log.warning = lambda text, *values: messages.append(text % values)
    with distributed.process_group('cpu'):
        statistics = epoch_statistics.EpochStatistics(3)
        for step, skipped in enumerate((0.0, 1.0)):
            results = {'total': torch.tensor(1.0), 'skipped': torch.tensor(skipped)}
            statistics.add(
                {**results, 'diverged': torch.tensor(skipped)}, (f'frame_{step}_{rank}',)
            )
        statistics.summarize()
    (path / f'{rank}.txt').write_text('\n'.join(messages))
