"""One thing after the other, on all processors, with a bar: data sets, and runs of a study."""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from multiprocessing.connection import Connection
from typing import TypeVar

import cv2
import torch

from stl_core.progress import progress_bar

T = TypeVar('T')
R = TypeVar('R')


def map_ordered(
    function: Callable[[T], R], items: Iterable[T], workers: int, threads: int = 1
) -> Generator[R, None, None]:
    """
    Call make on every item, in `workers` processes of so many threads each; results in order.

    :param function: a function that another process can import.
    :param items: what it is called with.
    :param workers: processes; 0 makes every item in this one, with the threads it has.
    :param threads: of each process, for torch and OpenCV.
    """
    early: dict[int, R] = {}
    following = 0
    with contextlib.closing(map_as_completed(function, items, workers, threads)) as results:
        for place, result in results:
            early[place] = result
            while following in early:
                yield early.pop(following)
                following += 1


def map_as_completed(
    function: Callable[[T], R], items: Iterable[T], workers: int, threads: int = 1
) -> Generator[tuple[int, R], None, None]:
    """
    Call make on every item as spread does; results as soon as they are there.

    No more than `workers` items are begun. Where one fails, or the generator is closed, or this
    process dies, the others are stopped amid what they do.

    :return: the place of an item among the items, and its result.
    """
    if workers < 1:
        yield from enumerate(map(function, items))
        return
    context = multiprocessing.get_context('spawn')  # threads of torch do not survive a fork
    todo = enumerate(items)
    ours, leash = context.Pipe(duplex=False)
    with ours, leash, ProcessPoolExecutor(workers, context, _init_worker, (threads, ours)) as pool:
        begun: dict[Future[R], int] = {}

        def begin(most: int) -> None:
            for place, item in itertools.islice(todo, most):
                begun[pool.submit(function, item)] = place

        try:
            begin(workers)
            while begun:
                for each in wait(begun, return_when=FIRST_COMPLETED).done:
                    place, result = begun.pop(each), each.result()
                    begin(1)
                    yield place, result
        except BaseException:  # failed, interrupted or closed: do not wait for the others
            leash.close()
            raise


def _init_worker(threads: int, parent_pipe: Connection) -> None:
    """Set up a worker: the system lets go of the leash when the parent dies."""
    # Ctrl-C reaches the whole group; the parent decides
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_exit_with_parent, args=(parent_pipe,), daemon=True).start()
    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)


def _exit_with_parent(parent_pipe: Connection) -> None:
    """End this process when the other end is closed; what it writes must bear that anyhow."""
    with contextlib.suppress(OSError):  # so Windows says it
        parent_pipe.poll(None)
    os._exit(1)


def with_progress(
    items: Iterable[T], total: int, description: str, show_progress: bool = True
) -> Generator[T, None, None]:
    """Pass items on and draw a bar with the time that is left."""
    progress = progress_bar()
    progress.disable = not show_progress
    with progress:
        task = progress.add_task(description, total=total, note='')
        for item in items:
            progress.advance(task)
            yield item


def available_cpus() -> int:
    """Return how many processors this process may use."""
    return (
        len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
    )
