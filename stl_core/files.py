"""Atomic output: a file or folder is complete when it appears at its path, or absent."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PART_SUFFIX = '.part'


@contextmanager
def atomic_file(path: str | Path, sync: bool = True) -> Iterator[Path]:
    """
    Replace a file atomically at the end of the with statement.

    After a crash at any moment the path holds the old or the new file; an error or Ctrl-C keeps
    the old one.

    :param path: the file to write; its folder must exist.
    :param sync: whether the file must be on the disk before it replaces the old one, so that a
        power failure cannot leave an incomplete file. It takes milliseconds per file.
    :return: path of the temporary file to write, next to the final path.
    """
    path = Path(path)
    part = path.with_name(path.name + PART_SUFFIX)
    try:
        yield part
        if sync:
            with part.open('rb') as file:
                os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def write_atomically(path: Path, data: bytes) -> None:
    """Write data to a file; see atomic_file."""
    with atomic_file(path) as part:
        part.write_bytes(data)


@contextmanager
def parent_folders(path: Path) -> Iterator[None]:
    """Create the missing parents of a path; an error or Ctrl-C removes them if they are empty."""
    created = [each for each in path.parents if not each.exists()]  # the innermost first
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        with suppress(OSError):
            for each in created:
                each.rmdir()
        raise


@contextmanager
def atomic_folder(path: Path, create: bool = True) -> Iterator[Path]:
    """
    Create a folder atomically: it appears at the end of the with statement, or not at all.

    :param path: final path of the folder; its parents are created too.
    :param create: whether to create the folder to fill, readable by all users. False leaves that
        to the caller.
    :return: the folder to fill, of the same name, in a hidden folder next to the path. An error or
        Ctrl-C removes it.
    :raises FileExistsError: if the path exists, at the start or at the end.
    :raises OSError: if the folder cannot be created.
    """
    _require_absent(path)
    with parent_folders(path):
        hidden = Path(tempfile.mkdtemp(prefix=f'.{path.name}.', dir=path.parent))
        try:
            folder = hidden / path.name
            if create:
                folder.mkdir()
                folder.chmod(0o755)  # whatever the umask: others should read the results
            yield folder
            _require_absent(path)  # replace() would replace an empty folder
            folder.replace(path)
        finally:
            shutil.rmtree(hidden, ignore_errors=True)


def _require_absent(path: Path) -> None:
    if path.exists():
        raise FileExistsError(f'{path}: exists already and is not overwritten')
