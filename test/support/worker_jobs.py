"""Jobs of test_worker_pool, in a module that spawned processes can import."""

import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any


def zero_after_file(path, number):
    """Return ten times the number; number 0 waits until a file exists."""
    wait_for(lambda: number or path.exists())
    return 10 * number


def first_after_second(folder, number):
    """Return ten times the number; number 0 waits until number 1 is done."""
    wait_for(lambda: number or (folder / '1').exists())
    (folder / str(number)).touch()
    return 10 * number


def note_and_sleep(folder, seconds):
    """Create a file named after the process id, then sleep; fail if seconds is negative."""
    (folder / f'{os.getpid()}_{time.monotonic_ns()}').touch()
    if seconds < 0:
        while len(list(folder.iterdir())) < 2:  # wait for the other worker
            time.sleep(0.01)
        raise ValueError('failed')
    time.sleep(seconds)


def torch_threads(imports_torch):
    """Return the number of torch's threads, or None if torch is not imported."""
    if imports_torch:
        import torch  # noqa: F401
    return sys.modules['torch'].get_num_threads() if 'torch' in sys.modules else None


def die(bag):
    """End this process as the kernel does when the memory is used up."""
    os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True)
class DiesAfterA:
    """Evaluates bag a.mcap as _EvaluateBag of runner does; any other bag ends the process."""

    folder: Path
    model: Any
    options: Any

    def __call__(self, bag):
        """Return the result of a.mcap."""
        from mono3d_ros.bag_evaluation import runner

        if bag.name != 'a.mcap':
            die(bag)
        return runner._EvaluateBag(self.folder, self.model, self.options)(bag)


def wait_for(condition, timeout_s=60.0):
    """Wait until a function returns true; fail after timeout_s."""
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def count_threads(_):
    """Return the threads of OpenCV and torch in this process."""
    import cv2
    import torch

    return cv2.getNumThreads(), torch.get_num_threads()
