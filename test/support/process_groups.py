"""Start functions in two processes of one process group, as torchrun does."""

import multiprocessing
import socket

from training_processes import run_rank


def fresh_processes():
    """Return a context whose processes are forks of one that has imported torch, not of this."""
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload(['torch', 'stl_core.cli.main'])
    return context


def start_two(work, *args):
    """Start work(rank, *args) in two processes of one process group; return the processes."""
    with socket.socket() as free:
        free.bind(('localhost', 0))
        port = free.getsockname()[1]
    context = fresh_processes()
    workers = [context.Process(target=run_rank, args=(rank, port, work, *args)) for rank in (0, 1)]
    for worker in workers:
        worker.start()
    return workers


def join_all(workers):
    for worker in workers:
        worker.join(300)
    assert [worker.exitcode for worker in workers] == [0, 0]
