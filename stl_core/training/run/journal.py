"""
The journal of a running process: where it is, so that the next one can report lost steps.

A file in the run's folder holds the step in progress. It is written at every step without waiting
for the disk: it survives the end of the process, not that of the machine. While the process lives,
it holds a lock on the file, so that a second process cannot train into the same folder.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from stl_core.files import parent_folders, remove_parts
from stl_core.training.run.run_files import CheckpointError

try:
    import fcntl
except ImportError:  # Windows has none; there, no lock prevents a second process
    fcntl = None  # type: ignore[assignment]

JOURNAL_FILE = 'in_progress.txt'
_LINE_BYTES = 80


class Position(NamedTuple):
    """Position of a process: steps of an epoch that were done; `epoch` counts from 1."""

    epoch: int
    step: int
    steps: int


def describe_resume(path: Path, done: int, epochs: int, before: Position | None) -> str:
    """
    Describe in one line where a run resumes, and which steps were lost.

    :param path: the checkpoint.
    :param done: its completed epochs.
    :param epochs: epochs of the run.
    :param before: position of the process before; None if it came to its end.
    """
    text = f'{path}: resuming after epoch {done} of {epochs}'
    if before is None or before.epoch <= done:
        return text
    whole = f'{_range("epoch", done + 1, before.epoch - 1)} and ' * (before.epoch > done + 1)
    return (
        f'{text}, step {done * before.steps} of {epochs * before.steps}; lost, and trained again:'
        f' {whole}{_range("step", 1, before.step)} (of {before.steps}) of epoch {before.epoch}'
    )


def _range(noun: str, first: int, last: int) -> str:
    """Return 'epoch 3', or 'epochs 3 to 5'."""
    return f'{noun} {first}' if first == last else f'{noun}s {first} to {last}'


class RunJournal:
    """
    Lock a run's folder and record the position in it; use it in a with statement.

    :param out: folder of the run, created if missing.
    :raises CheckpointError: if another process is training into the folder.
    """

    def __init__(self, out: Path) -> None:
        """Lock the folder, and read the position of the process before, see `before`."""
        self._path = out / JOURNAL_FILE
        self._cleanup = contextlib.ExitStack()
        self._cleanup.enter_context(parent_folders(self._path))
        try:
            self._file = _open_locked(self._path)
        except BaseException:
            self._cleanup.__exit__(*sys.exc_info())
            raise
        remove_parts(out)
        #: Position of the process before this one; None if it came to its end.
        self.before = _parse(os.pread(self._file, _LINE_BYTES, 0))
        self._wrote = False

    def __enter__(self) -> RunJournal:
        """Return self."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Unlock the folder; keep the position after an error for the next process."""
        if kind is None or not (self._wrote or self.before):
            self._path.unlink(missing_ok=True)
        os.close(self._file)
        self._cleanup.__exit__(kind, value, trace)

    def write(self, epoch: int, step: int, steps: int) -> None:
        """Record that `step` of the `steps` steps of the epoch `epoch`, from 1, are done."""
        text = f'process {os.getpid()}, epoch {epoch}, step {step} of {steps}'
        self._wrote = True
        with contextlib.suppress(OSError):  # of a full disk; checkpoints report it
            os.pwrite(self._file, text.ljust(_LINE_BYTES - 1).encode() + b'\n', 0)


def _open_locked(path: Path) -> int:
    """Open and lock the file at `path`, not one that its previous holder has just removed."""
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        if not _lock(file):
            text = os.pread(file, _LINE_BYTES, 0).decode(errors='replace').strip()
            os.close(file)
            raise CheckpointError(
                f'{path.parent}: another process is training into this folder'
                f' ({text or "starting"}); wait for its end or choose another out='
            )
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file), path.stat()):
                return file
        os.close(file)


def _lock(file: int) -> bool:
    """Lock a file for this process; return False if another process holds the lock."""
    if fcntl is None:
        return True
    try:
        # unlike flock, not shared with forked loader processes, which outlive a killed process
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:  # a file system without locks
        return True
    return True


def _parse(line: bytes) -> Position | None:
    """Parse a line of `write`; None for anything else."""
    match = re.match(rb'process \d+, epoch (\d+), step (\d+) of (\d+)\s*$', line)
    return Position(*map(int, match.groups())) if match else None
