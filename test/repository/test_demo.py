"""make demo: it waits for the detector's own sign of life, however long that takes."""

import importlib.util
import subprocess
import sys
import time
from pathlib import Path

import pytest

DEMO = Path(__file__).resolve().parents[2] / 'examples' / 'demo.py'


@pytest.fixture(scope='module')
def demo():
    spec = importlib.util.spec_from_file_location('demo', DEMO)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def start(tmp_path):
    """Start a detector that runs a program; return its process and its log."""
    processes = []

    def build(program):
        path = tmp_path / 'detector.log'
        with path.open('w') as log:
            command = [sys.executable, '-c', program]
            processes.append(subprocess.Popen(command, stdout=log, stderr=log))
        return processes[-1], path

    yield build
    for each in processes:
        each.kill()
        each.wait()


def test_a_slow_detector_is_waited_for(demo, start):
    program = "import time; time.sleep(1.5); print('listening to /a', flush=True); time.sleep(60)"
    start_s = time.monotonic()
    assert demo.wait_until_listening(*start(program))
    assert time.monotonic() - start_s > 1.0


def test_a_detector_that_ends_is_not_waited_for(demo, start):
    assert not demo.wait_until_listening(*start("raise SystemExit('no model')"))


def test_a_detector_that_hangs_is_an_error_in_one_line(demo, start):
    with pytest.raises(demo.DemoError, match=r'not ready after \d+ s; see .*detector.log'):
        demo.wait_until_listening(*start('import time; time.sleep(60)'), timeout_s=0.5)


def test_the_detector_logs_the_sign_of_life(demo):
    node = DEMO.parents[1] / 'mono3d_ros' / 'node' / 'detector_node.py'
    assert f"'{demo.SIGN_OF_LIFE} {{topics}}'" in node.read_text()
