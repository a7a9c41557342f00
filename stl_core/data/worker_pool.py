"""Process pool with progress bar: map a function over items, in order or as completed."""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from multiprocessing.connection import Connection
from typing import TypeVar

from stl_core.progress import progress_bar

#: Number of threads of OpenMP, which torch uses; read when it is imported.
THREADS_VARIABLE = 'OMP_NUM_THREADS'

T = TypeVar('T')
R = TypeVar('R')


def map_ordered(
    function: Callable[[T], R], items: Iterable[T], workers: int, threads: int = 1
) -> Generator[R, None, None]:
    """
    Call a function on every item in worker processes; yield the results in order.

    :param function: a function that another process can import.
    :param items: its arguments.
    :param workers: number of processes; 0 runs everything in this one.
    :param threads: threads of each process, for torch and OpenCV.
    """
    waiting: dict[int, R] = {}
    next_index = 0
    with contextlib.closing(map_as_completed(function, items, workers, threads)) as results:
        for index, result in results:
            waiting[index] = result
            while next_index in waiting:
                yield waiting.pop(next_index)
                next_index += 1


def map_as_completed(
    function: Callable[[T], R], items: Iterable[T], workers: int, threads: int = 1
) -> Generator[tuple[int, R], None, None]:
    """
    Call a function on every item in worker processes; yield each result as soon as it is ready.

    At most `workers` items run at a time. If one fails, the generator is closed or this process
    dies, the other workers are stopped at once. Parameters as in map_ordered.

    :return: pairs of the index of an item and its result.
    """
    if workers < 1:
        with _limited_threads(threads):
            yield from enumerate(map(function, items))
        return
    context = multiprocessing.get_context('spawn')  # torch's threads do not survive a fork
    todo = enumerate(items)
    reader, writer = context.Pipe(duplex=False)
    with (
        reader,
        writer,
        ProcessPoolExecutor(
            workers, context, _init_worker, (threads, 'torch' in sys.modules, reader)
        ) as pool,
    ):
        running: dict[Future[R], int] = {}

        def submit(count: int) -> None:
            for index, item in itertools.islice(todo, count):
                running[pool.submit(function, item)] = index

        try:
            submit(workers)
            while running:
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    index, result = running.pop(future), future.result()
                    submit(1)
                    yield index, result
        except BaseException:  # failed, interrupted or closed: stop the other workers
            writer.close()
            raise


def _init_worker(threads: int, uses_torch: bool, parent_pipe: Connection) -> None:
    """
    Set up a worker that exits with its parent: the pipe closes when the parent dies.

    :param threads: threads of torch and OpenCV.
    :param uses_torch: whether the parent has imported torch.
    :param parent_pipe: the end of the pipe to read.
    """
    import cv2  # by workers only: a command that starts none does not need it

    # Ctrl-C reaches the whole process group; the parent stops its workers
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_exit_with_parent, args=(parent_pipe,), daemon=True).start()
    cv2.setNumThreads(threads)
    os.environ[THREADS_VARIABLE] = str(threads)  # for torch, if a job imports it
    if uses_torch:
        import torch  # perhaps imported already, with the main module, so it has read the variable

        torch.set_num_threads(threads)


@contextlib.contextmanager
def _limited_threads(threads: int) -> Generator[None, None, None]:
    """Limit torch and OpenCV in this process: on busy processors, threads wait for each other."""
    import cv2

    torch = sys.modules.get('torch')
    before, variable = cv2.getNumThreads(), os.environ.get(THREADS_VARIABLE)
    torch_before = torch.get_num_threads() if torch else 0
    cv2.setNumThreads(threads)
    os.environ.setdefault(THREADS_VARIABLE, str(threads))  # for torch, if the function imports it
    if torch:
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        cv2.setNumThreads(before)
        if variable is None:
            os.environ.pop(THREADS_VARIABLE, None)
        if torch:
            torch.set_num_threads(torch_before)


def _exit_with_parent(parent_pipe: Connection) -> None:
    """Exit when the parent closes the pipe; file writes of the jobs must tolerate this."""
    with contextlib.suppress(OSError):  # Windows raises this when the pipe closes
        parent_pipe.poll(None)
    os._exit(1)


def with_progress(
    items: Iterable[T], total: int, description: str, show_progress: bool = True
) -> Generator[T, None, None]:
    """Yield the items and draw a progress bar with the remaining time."""
    progress = progress_bar()
    progress.disable = not show_progress
    with progress:
        task = progress.add_task(description, total=total, note='')
        for item in items:
            progress.advance(task)
            yield item


def describe_workers(workers: int, threads: int = 1) -> str:
    """Return the processes and threads of map_ordered as text: '2 processes, 1 thread each'."""
    each = f'{threads} thread{"s" * (threads != 1)}'
    if workers < 1:
        return f'this process, {each}'
    return f'{workers} process{"es" * (workers != 1)}, {each} each'


def available_cpus() -> int:
    """Return the number of CPUs that this process may use."""
    return (
        len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
    )
