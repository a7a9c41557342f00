"""Worker pool: results in order or as completed; workers exit with their parent."""

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from worker_jobs import (
    count_threads,
    first_after_second,
    note_and_sleep,
    wait_for,
    zero_after_file,
)

from stl_core.data.worker_pool import describe_workers, map_as_completed, map_ordered

ROOT = Path(__file__).resolve().parents[3]

#: A parent of two workers that record their process ids and sleep for a minute.
PARENT = """
import sys
from pathlib import Path
sys.path.insert(0, {test!r})
from functools import partial
from worker_jobs import note_and_sleep
from stl_core.data.worker_pool import map_ordered

if __name__ == '__main__':
    list(map_ordered(partial(note_and_sleep, Path({folder!r})), [60.0] * 9, 2))
"""


#: A parent that prints the number of torch's threads in a worker of one thread.
THREADS = """
import sys
{first}
sys.path.insert(0, {test!r})
from worker_jobs import torch_threads
from stl_core.data.worker_pool import map_ordered

if __name__ == '__main__':
    assert ('torch' in sys.modules) == bool({first!r})
    print(*map_ordered(torch_threads, {items}, 1, 1))
"""


def worker_pids(folder):
    return {int(path.name.split('_')[0]) for path in folder.iterdir()}


def is_alive(pid):
    """Whether a process runs; a zombie does not."""
    try:
        return Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0] != 'Z'
    except FileNotFoundError:
        return False


def test_map_as_completed_yields_results_as_they_finish(tmp_path):
    results = []
    for each in map_as_completed(partial(zero_after_file, tmp_path / 'first'), range(4), 2):
        results.append(each)
        (tmp_path / 'first').touch()  # not before another result than that of 0
    assert sorted(results) == [(0, 0), (1, 10), (2, 20), (3, 30)]
    assert results[0] != (0, 0)


def test_map_ordered_yields_results_in_order(tmp_path):
    assert list(map_ordered(partial(first_after_second, tmp_path), range(4), 2)) == [0, 10, 20, 30]
    assert list(map_ordered(partial(first_after_second, tmp_path), [2, 1], 0)) == [20, 10]


def test_a_failure_stops_running_jobs_and_starts_none(tmp_path):
    start = time.monotonic()
    with pytest.raises(ValueError, match='failed'):
        list(map_ordered(partial(note_and_sleep, tmp_path), [60.0, -1.0, 60.0, 60.0, 60.0], 2))
    assert time.monotonic() - start < 50
    assert len(list(tmp_path.iterdir())) == 2
    assert not any(map(is_alive, worker_pids(tmp_path)))


@pytest.mark.skipif(not Path('/proc/self/stat').exists(), reason='needs /proc')
@pytest.mark.parametrize('signum', [signal.SIGINT, signal.SIGKILL])
def test_workers_exit_with_their_parent(tmp_path, signum):
    folder = tmp_path / 'pids'
    folder.mkdir()
    script = tmp_path / 'parent.py'
    script.write_text(PARENT.format(test=str(ROOT / 'test/support'), folder=str(folder)))
    env = {**os.environ, 'PYTHONPATH': str(ROOT)}
    parent = subprocess.Popen([sys.executable, str(script)], env=env, stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: len(worker_pids(folder)) == 2)
        parent.send_signal(signum)
        parent.wait(30)
        wait_for(lambda: not any(map(is_alive, worker_pids(folder))), 30)
    finally:
        parent.kill()
    assert len(list(folder.iterdir())) == 2


@pytest.mark.parametrize(
    ('first', 'items', 'output'),
    [('', [False, True], 'None 1'), ('import torch', [False], '1')],
)
def test_workers_import_torch_only_if_the_parent_or_a_job_does(tmp_path, first, items, output):
    script = tmp_path / 'parent.py'
    script.write_text(THREADS.format(test=str(ROOT / 'test/support'), first=first, items=items))
    env = {**os.environ, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '2'}
    done = subprocess.run(
        [sys.executable, str(script)], env=env, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == output


@pytest.mark.parametrize('workers', [0, 1])
@pytest.mark.parametrize('threads', [1, 3])
def test_threads_are_limited_in_workers_and_without_workers(workers, threads):
    """Threads of several libraries, or beside other programs, would wait for each other."""
    before = count_threads(0)
    (inside,) = map_ordered(count_threads, [0], workers, threads)
    assert inside == (threads, threads)
    assert count_threads(0) == before


def test_the_count_is_said():
    texts = [describe_workers(0), describe_workers(1, 2), describe_workers(3)]
    assert texts == [
        'this process, 1 thread',
        '1 process, 2 threads each',
        '3 processes, 1 thread each',
    ]
