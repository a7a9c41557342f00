"""
Output: a file or folder is complete when it appears at its path, or absent.

The require_ functions check, before the work, that an output can be written after it.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PART_SUFFIX = '.part'
#: First bytes of a file that Git LFS has not downloaded yet.
LFS_POINTER = b'version https://git-lfs'
#: Errors of a disk that is full, over its quota or a limit of sizes, or that fails.
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


class OutputError(OSError):
    """An output that cannot be written; the message names it."""


def require_writable_file(path: str | Path) -> None:
    """
    Check that atomic_file can write a file; missing folders may be created for it.

    :raises OutputError: for a folder or device in its place, a file in place of a folder above it,
        or a folder in which this process cannot create files.
    """
    expected = 'expected the path of a file to write'
    if os.path.isdir(path):
        raise OutputError(f'{path}: this is a folder; {expected}')
    if os.path.lexists(path) and not os.path.isfile(path):
        raise OutputError(f'{path}: not a regular file; {expected}')
    _require_writable_parent(path, Path(path).parent)


def require_writable_folder(path: str | Path) -> None:
    """
    Check that files can be created in a folder, which may be missing; see require_writable_file.

    :raises OutputError: for a file in its place or in place of a folder above it, or a folder in
        which this process cannot create files.
    """
    _require_writable_parent(path, Path(path))


def require_new_folder(path: str | Path) -> None:
    """
    Check that atomic_folder can create a folder.

    :raises OutputError: if the path exists, and as require_writable_folder.
    """
    if os.path.lexists(path):
        raise OutputError(f'{path}: exists already and is not overwritten; choose a new folder')
    _require_writable_parent(path, Path(path).parent)


def _require_writable_parent(output: str | Path, folder: Path) -> None:
    """Create and delete a file in a folder, or in the innermost folder above it that exists."""
    while not os.path.lexists(folder):
        folder = folder.parent
    if not folder.is_dir():
        raise OutputError(f'{output}: cannot be written, because {folder} is not a folder')
    try:
        with tempfile.TemporaryFile(dir=folder):  # permissions alone say nothing to root
            pass
    except OSError as err:
        raise OutputError(f'{output}: cannot be written ({err.strerror or err})') from err


def foreign_content(path: Path) -> str:
    """Describe a file that stands in for the expected one, such as a Git LFS pointer; or ''."""
    with path.open('rb') as file:
        return foreign_start(file.read(512))


def foreign_start(start: bytes) -> str:
    """Do the same for the first bytes of a file; 512 are enough."""
    if not start:
        return 'an empty file'
    if start.startswith(LFS_POINTER):
        return 'a Git LFS pointer (`git lfs pull` fetches the file itself)'
    text = start.lstrip(b'\xef\xbb\xbf \t\r\n').lower()
    if text.startswith((b'<!doctype html', b'<html')):
        return 'an HTML page, perhaps of a failed download'
    return ''


def sha256_of(path: str | Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal digits."""
    digest = hashlib.sha256()
    with Path(path).open('rb') as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


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
    :raises OutputError: if the disk is full or fails, also where a library hides this.
    """
    path = Path(path)
    part = path.with_name(path.name + PART_SUFFIX)
    try:
        yield part
        if sync:
            with part.open('rb') as file:
                os.fsync(file.fileno())
        part.replace(path)
    except BaseException as err:
        part.unlink(missing_ok=True)
        _raise_if_disk_failed(path, err)
        raise


def remove_parts(folder: Path) -> None:
    """Remove the temporary files that a killed process left in a folder; see atomic_file."""
    for path in folder.glob(f'*{PART_SUFFIX}'):
        path.unlink(missing_ok=True)


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
    :raises OutputError: if the disk is full or fails.
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
        except BaseException as err:
            _raise_if_disk_failed(path, err)
            raise
        finally:
            shutil.rmtree(hidden, ignore_errors=True)


def _require_absent(path: Path) -> None:
    if path.exists():
        raise FileExistsError(f'{path}: exists already and is not overwritten')


def _raise_if_disk_failed(path: Path, err: BaseException) -> None:
    """Raise OutputError if an error, or one that it was raised from, is that of a disk."""
    cause: BaseException | None = err
    while cause is not None:
        number = getattr(cause, 'errno', None)
        if match := re.search(r'\(os error (\d+)\)', str(cause)):  # of libraries in Rust
            number = int(match[1])
        if number in _DISK_ERRORS and not isinstance(cause, OutputError):
            raise OutputError(
                f'{path}: cannot be written ({os.strerror(number)}); an earlier one is unchanged.'
                ' Free space and run the same command again'
            ) from err
        cause = cause.__cause__ or cause.__context__
