"""Work in several processes: in order or as it is finished, and over when its parent is."""

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from worker_jobs import first_after_second, note_and_sleep, wait_for

from stl_core.data.worker_pool import map_as_completed, map_ordered

ROOT = Path(__file__).resolve().parents[3]

#: A parent of two workers that tell their ids and work for a minute each.
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


def begun(folder):
    return {int(path.name.split('_')[0]) for path in folder.iterdir()}


def is_alive(pid):
    """Whether a process runs; one that nobody has asked after its end does not."""
    try:
        return Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0] != 'Z'
    except FileNotFoundError:
        return False


def test_results_come_as_they_are_finished(tmp_path):
    places = list(map_as_completed(partial(first_after_second, tmp_path), range(4), 2))
    assert sorted(places) == [(0, 0), (1, 10), (2, 20), (3, 30)]
    assert places[0] != (0, 0)


def test_results_of_spread_come_in_order(tmp_path):
    assert list(map_ordered(partial(first_after_second, tmp_path), range(4), 2)) == [0, 10, 20, 30]
    assert list(map_ordered(partial(first_after_second, tmp_path), [2, 1], 0)) == [20, 10]


def test_a_failure_stops_the_others_and_begins_none(tmp_path):
    began = time.monotonic()
    with pytest.raises(ValueError, match='failed'):
        list(map_ordered(partial(note_and_sleep, tmp_path), [60.0, -1.0, 60.0, 60.0, 60.0], 2))
    assert time.monotonic() - began < 50
    assert len(list(tmp_path.iterdir())) == 2
    assert not any(map(is_alive, begun(tmp_path)))


@pytest.mark.skipif(not Path('/proc/self/stat').exists(), reason='looks into /proc')
@pytest.mark.parametrize('how', [signal.SIGINT, signal.SIGKILL])
def test_workers_leave_with_their_parent(tmp_path, how):
    folder = tmp_path / 'begun'
    folder.mkdir()
    script = tmp_path / 'parent.py'
    script.write_text(PARENT.format(test=str(ROOT / 'test/support'), folder=str(folder)))
    env = {**os.environ, 'PYTHONPATH': str(ROOT)}
    parent = subprocess.Popen([sys.executable, str(script)], env=env, stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: len(begun(folder)) == 2)
        parent.send_signal(how)
        parent.wait(30)
        wait_for(lambda: not any(map(is_alive, begun(folder))), 30)
    finally:
        parent.kill()
    assert len(list(folder.iterdir())) == 2
