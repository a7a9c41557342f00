"""What the processes of test_worker_pool do; importable by name, as spawned ones need it."""

import os
import time


def first_after_second(folder, number):
    """Make ten times the number; of 0 when that of 1 is made."""
    wait_for(lambda: number or (folder / '1').exists())
    (folder / str(number)).touch()
    return 10 * number


def note_and_sleep(folder, seconds):
    (folder / f'{os.getpid()}_{time.monotonic_ns()}').touch()
    if seconds < 0:
        while len(list(folder.iterdir())) < 2:  # the other has begun
            time.sleep(0.01)
        raise ValueError('failed')
    time.sleep(seconds)


def wait_for(told, timeout_s=60.0):
    end = time.monotonic() + timeout_s
    while not told():
        assert time.monotonic() < end
        time.sleep(0.02)
