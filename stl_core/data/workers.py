"""One thing after the other, on all processors, with a bar: data sets, and runs of a study."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import TypeVar

import cv2
import torch

from stl_core.progress import progress_bar

T = TypeVar('T')
R = TypeVar('R')


def spread(
    make: Callable[[T], R], items: Iterable[T], workers: int, threads: int = 1
) -> Iterator[R]:
    """
    Call make on every item, in `workers` processes of so many threads each; results in order.

    :param make: a function that another process can import.
    :param items: what it is called with.
    :param workers: processes; 0 makes every item in this one, with the threads it has.
    :param threads: of each process, for torch and OpenCV.
    """
    if workers < 1:
        yield from map(make, items)
        return
    context = multiprocessing.get_context('spawn')  # threads of torch do not survive a fork
    with ProcessPoolExecutor(workers, context, _limit, (threads,)) as pool:
        try:
            yield from pool.map(make, items)
        finally:  # stopped or failed: what has not begun need not
            pool.shutdown(wait=True, cancel_futures=True)


def _limit(threads: int) -> None:
    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)


def tracked(items: Iterable[T], total: int, what: str, show: bool = True) -> Iterator[T]:
    """Pass items on and draw a bar with the time that is left."""
    progress = progress_bar()
    progress.disable = not show
    with progress:
        task = progress.add_task(what, total=total, note='')
        for item in items:
            progress.advance(task)
            yield item


def cores() -> int:
    """Return how many processors this process may use."""
    return (
        len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
    )
