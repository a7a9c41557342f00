"""
Find and open the storage files of a bag: a folder with or without metadata.yaml, or one file.

What a file is follows from its first bytes, whatever its name and metadata.yaml say.
"""

from __future__ import annotations

import re
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from mono3d_ros.bags.storage import mcap_records, metadata, sqlite_file
from mono3d_ros.bags.storage.decompression import decompress_file, is_zstd
from mono3d_ros.bags.storage.interface import StorageError, StorageFile
from mono3d_ros.bags.storage.mcap_file import McapFile
from mono3d_ros.bags.storage.metadata import FILE_NAME, BagMetadata, TopicCount
from mono3d_ros.bags.storage.sqlite_file import SqliteFile

STORAGE_SUFFIXES = ('.mcap', '.db3')
COMPRESSED_SUFFIXES = tuple(f'{each}.zstd' for each in STORAGE_SUFFIXES)
EXPECTED = 'expected a rosbag2 folder with its metadata.yaml, an .mcap or a .db3 file'

_NUMBERED = re.compile(r'(.+)_(\d+)')


@dataclass(frozen=True)
class OpenedBag:
    """
    The open storage files of a bag.

    :param files: the files, in the order of recording.
    :param promised: topic -> type and number of messages, by metadata.yaml.
    :param remarks: parts that are unfinished or missing, one line each.
    :param is_whole: whether all storage files were read to their ends.
    """

    files: tuple[StorageFile, ...]
    promised: dict[str, TopicCount]
    remarks: tuple[str, ...]
    is_whole: bool


def is_storage_name(path: Path) -> bool:
    """Return whether a file has the name of a storage file, compressed or not."""
    return path.name.endswith((*STORAGE_SUFFIXES, *COMPRESSED_SUFFIXES))


def storage_files(folder: Path) -> list[Path]:
    """
    Return the storage files of a folder, in the order of their numbers.

    A compressed file beside the same file uncompressed, which an interrupted recorder leaves, is
    omitted.
    """
    paths = [each for each in folder.iterdir() if each.is_file() and is_storage_name(each)]
    names = {each.name for each in paths}
    is_double = {each: _unpacked_name(each) in names - {each.name} for each in paths}
    return sorted((each for each in paths if not is_double[each]), key=_file_order)


def is_unfinished_bag(folder: Path) -> bool:
    """Return whether a folder without metadata.yaml has the files of one bag: FOLDER_0.mcap ..."""
    names = [_split_name(each) for each in storage_files(folder)]
    return bool(names) and all(each and each[1] == folder.name for each in names)


def find_bags(folder: Path) -> list[Path]:
    """
    Return the bags in a folder, sorted by name; an empty list if the path is itself a bag.

    Storage files in the folder are bags, unless they are the numbered files of the folder.
    """
    if not folder.is_dir() or (folder / FILE_NAME).exists() or is_unfinished_bag(folder):
        return []
    folders = [each for each in folder.iterdir() if each.is_dir()]
    bags = [each for each in folders if (each / FILE_NAME).exists() or storage_files(each)]
    return sorted([*bags, *storage_files(folder)])


def open_bag(path: Path, stack: ExitStack) -> OpenedBag:
    """
    Open the storage files of a bag.

    :param path: folder or file.
    :param stack: closes the files and removes temporary ones.
    :return: the open files.
    :raises StorageError: for a path that is not a readable bag; the message is one line.
    :raises OSError: if a file cannot be read.
    """
    remarks: list[str] = []
    promised: dict[str, TopicCount] = {}
    if path.is_dir():
        content = _metadata_of(path, remarks)
        paths = _listed_files(path, content, remarks) if content else _unlisted_files(path)
        promised = content.topics if content else {}
    else:
        paths = [path]
    files, is_whole = [], True
    for each in paths:
        try:
            file, cut = _open_file(each, stack)
        except StorageError as err:
            raise StorageError(f'{each.name}: {err}' if path.is_dir() else str(err)) from err
        files.append(file)
        remarks += [f'{each.name}: {remark}' for remark in (cut, file.remark) if remark]
        is_whole = is_whole and not cut and file.is_whole
    return OpenedBag(tuple(files), promised, tuple(remarks), is_whole)


def _metadata_of(folder: Path, remarks: list[str]) -> BagMetadata | None:
    """Return what metadata.yaml says; None and a remark if there is none or it is damaged."""
    repair = f'the storage files are read; "ros2 bag reindex {folder.name}" writes a new one'
    if not (folder / FILE_NAME).is_file():
        if not storage_files(folder):
            raise StorageError(f'this folder has no {FILE_NAME} and no .mcap or .db3 file')
        remarks.append(f'no {FILE_NAME}: {repair}')
        return None
    try:
        content = metadata.read_metadata(folder)
        if content.file_names:
            return content
        raise StorageError('it lists no storage file')
    except StorageError as err:
        if not storage_files(folder):
            raise StorageError(f'{FILE_NAME}: {err}') from err
        remarks.append(f'{FILE_NAME} cannot be used ({err}): {repair}')
        return None


def _listed_files(folder: Path, content: BagMetadata, remarks: list[str]) -> list[Path]:
    """Return the files that metadata.yaml lists; StorageError if one is missing."""
    paths, missing = [], []
    for name in dict.fromkeys(content.file_names):
        other = name.removesuffix('.zstd') if name.endswith('.zstd') else f'{name}.zstd'
        found = [folder / each for each in (name, other) if (folder / each).is_file()]
        paths += found[:1]
        missing += [] if found else [name]
    others = {each.name for each in storage_files(folder)} - {each.name for each in paths}
    others -= {f'{each.name}.zstd' for each in paths}
    if missing:
        has = f'; the folder has {", ".join(sorted(others))}' if others else ''
        raise StorageError(f'{FILE_NAME} lists {", ".join(missing)}, not found{has}')
    if others:
        listed = ', '.join(sorted(others))
        remarks.append(
            f'{listed}: not in {FILE_NAME} and not read; "ros2 bag reindex {folder.name}" adds it'
        )
    return paths


def _unlisted_files(folder: Path) -> list[Path]:
    """Return the files of a folder without metadata.yaml, which must belong to one bag."""
    paths = storage_files(folder)
    stems = [_split_name(each) for each in paths]
    if len(paths) > 1 and (None in stems or len({each[1] for each in stems if each}) > 1):
        has = ', '.join(each.name for each in paths)
        raise StorageError(f'no {FILE_NAME} and several bags ({has}); name one of the files')
    return paths


def _open_file(path: Path, stack: ExitStack) -> tuple[StorageFile, str]:
    """Open a storage file by its first bytes; return it, and why it is not whole."""
    cut = ''
    if is_zstd(_first_bytes(path)):
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix='bag.')))
        unpacked = folder / _unpacked_name(path)
        cut, path = decompress_file(path, unpacked), unpacked
    start = _first_bytes(path)
    if not start:
        raise StorageError(cut or 'the file is empty')
    file: StorageFile
    if start.startswith(sqlite_file.MAGIC):
        file = SqliteFile(path)
    elif start.startswith(mcap_records.MAGIC):
        file = McapFile(path)
    else:
        raise StorageError('the file is neither MCAP nor sqlite3')
    stack.callback(file.close)
    return file, cut


def _first_bytes(path: Path) -> bytes:
    with path.open('rb') as file:
        return file.read(len(sqlite_file.MAGIC))


def _unpacked_name(path: Path) -> str:
    return path.name.removesuffix('.zstd')


def _split_name(path: Path) -> re.Match[str] | None:
    """Return the groups NAME and NUMBER of a file NAME_NUMBER.SUFFIX; None for other names."""
    return _NUMBERED.fullmatch(_unpacked_name(path).rsplit('.', 1)[0])


def _file_order(path: Path) -> tuple[str, int]:
    match = _split_name(path)
    return (match[1], int(match[2])) if match else (path.name, -1)
