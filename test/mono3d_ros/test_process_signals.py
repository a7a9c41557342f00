"""Signals: a process that gets any number of them ends with its own exit code."""

import os
import signal
import subprocess
import sys

import pytest

#: Prints `ready`, waits for a line, and ends with exit code 7.
PROGRAM = """
import sys
from mono3d_ros import process_signals
{step}
try:
    print('ready', flush=True)  # within: the signal may come at once
    sys.stdin.readline()
except KeyboardInterrupt:
    print('interrupted', flush=True)
    sys.stdin.readline()
sys.exit(7)
"""


@pytest.fixture
def start():
    processes = []

    def build(step):
        process = subprocess.Popen(
            [sys.executable, '-c', PROGRAM.format(step=step)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        assert process.stdout.readline() == 'ready\n'
        return process

    yield build
    for process in processes:
        process.kill()
        process.communicate()


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_signal_during_the_imports_ends_the_process_without_an_error(start, number):
    process = start('process_signals.exit_on_signals()')
    process.send_signal(number)
    assert process.wait(20) == 0


def test_only_the_first_interrupt_is_an_exception(start):
    process = start('process_signals.exit_on_signals(); process_signals.interrupt_once()')
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == 'interrupted\n'
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGINT)
    process.stdin.write('\n')
    process.stdin.flush()
    assert process.wait(20) == 7


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_signals_at_the_end_are_ignored(start, number):
    process = start('process_signals.ignore_signals()')
    process.send_signal(number)
    process.stdin.write('\n')
    process.stdin.flush()
    assert process.wait(20) == 7


def test_an_interrupt_in_code_run_from_text_keeps_the_exit_code(tmp_path):
    """Python remembers a KeyboardInterrupt that left exec, and would end by SIGINT at its exit."""
    program = """
import os, signal, sys
from mono3d_ros import process_signals
process_signals.interrupt_once()
try:
    exec('os.kill(os.getpid(), signal.SIGINT)\\nfor _ in range(10**8): pass')
except KeyboardInterrupt:
    sys.exit(7)
"""
    (tmp_path / 'program.py').write_text(program)  # run as a module, as the node is
    paths = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    command = [sys.executable, '-m', 'program']
    ended = subprocess.run(command, env={**os.environ, 'PYTHONPATH': paths}, check=False)
    assert ended.returncode == 7
