"""
Read sqlite3 storage files, with the messages of their write-ahead log (FILE-wal).

Nothing is written: a log is read without locks and without the shared memory file that sqlite
would create beside it. A recorder that still writes the file is therefore not noticed.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from mono3d_ros.bags.storage.interface import (
    NO_DEFINITION,
    Channel,
    Definition,
    RawMessage,
    StorageError,
)

MAGIC = b'SQLite format 3\0'
#: First bytes of a journal that sqlite has to roll back; it clears them after a transaction.
_JOURNAL_MAGIC = b'\xd9\xd5\x05\xf9\x20\xa1\x63\xd7'

#: Exceptions of sqlite3 for damaged files; UnicodeError if it cannot decode its error message.
_DAMAGE = (sqlite3.Error, UnicodeError, MemoryError, OverflowError)


class SqliteFile:
    """
    An open sqlite3 file of rosbag2.

    :param path: the file.
    :raises StorageError: if it is damaged, or not a bag.
    """

    def __init__(self, path: Path) -> None:
        """Open the file and read its channels."""
        self.name, self.remark, self.is_whole = path.name, '', True
        self._connection: sqlite3.Connection | None = None
        try:
            self._connection = _connect(path)
            self.channels = tuple(_read_channels(self._connection))
        except _DAMAGE as err:
            self.close()
            raise StorageError(_describe(err)) from err
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the file."""
        if self._connection is not None:
            self._connection.close()

    def messages(self, channel_ids: Collection[int]) -> Iterator[RawMessage]:
        """Yield the messages of channels by time; StorageError for a damaged file."""
        assert self._connection is not None
        ids = sorted(set(channel_ids))
        query = (
            'SELECT timestamp, topic_id, data FROM messages'
            f' WHERE topic_id IN ({",".join("?" * len(ids))}) ORDER BY timestamp, id'
        )
        try:
            for recorded_ns, channel_id, data in self._connection.execute(query, ids):
                if not isinstance(recorded_ns, int) or not isinstance(data, bytes):
                    raise StorageError('a row of the table messages is damaged')
                yield RawMessage(recorded_ns, channel_id, data)
        except _DAMAGE as err:
            raise StorageError(_describe(err)) from err


def _connect(path: Path) -> sqlite3.Connection:
    """Open a file for reading only; as unchangeable if nothing is pending beside it."""
    options = 'mode=ro&immutable=1'
    if _begins_with(path.with_name(f'{path.name}-journal'), _JOURNAL_MAGIC):
        raise StorageError(
            f'a transaction is unfinished ({path.name}-journal);'
            f' "sqlite3 {path.name} .tables" in its folder rolls it back'
        )
    uses_wal = _begins_with(path.with_name(f'{path.name}-wal'), b'')
    if uses_wal:
        options = 'mode=ro&vfs=unix-none'  # no locks; see locking_mode
    connection = sqlite3.connect(f'{path.absolute().as_uri()}?{options}', uri=True)
    connection.text_factory = _decode_text
    if uses_wal:
        # the index of the log is then kept in memory: no file is created beside the bag
        connection.execute('PRAGMA locking_mode=EXCLUSIVE')
    return connection


def _begins_with(path: Path, start: bytes) -> bool:
    """Return whether a file is there, is not empty and begins with some bytes."""
    if not path.is_file():
        return False
    with path.open('rb') as file:
        return (data := file.read(max(1, len(start)))) != b'' and data.startswith(start)


def _decode_text(data: bytes) -> str:
    """Decode text; bytes that are not UTF-8 are read as Latin-1."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.decode('latin-1')


def _read_channels(connection: sqlite3.Connection) -> Iterator[Channel]:
    tables = {name for (name,) in connection.execute('SELECT name FROM sqlite_master')}
    if missing := {'topics', 'messages'} - tables:
        raise StorageError(f'no table {" and ".join(sorted(missing))}; not a bag of ROS 2')
    definitions: dict[Any, Definition] = {}
    if 'message_definitions' in tables:
        query = 'SELECT topic_type, encoding, encoded_message_definition FROM message_definitions'
        for kind, encoding, text in connection.execute(query):
            if isinstance(encoding, str) and isinstance(text, str):
                definitions.setdefault(kind, Definition(encoding, text))
    query = 'SELECT id, name, type, serialization_format FROM topics ORDER BY id'
    for number, topic, kind, encoding in connection.execute(query):
        if not isinstance(number, int) or not all(
            isinstance(each, str) for each in (topic, kind, encoding)
        ):
            raise StorageError('a row of the table topics is damaged')
        definition = definitions.get(kind, NO_DEFINITION)
        yield Channel(number, topic, kind, encoding, definition, None)


def _describe(err: BaseException) -> str:
    text = ' '.join(str(err).split()) or type(err).__name__
    return f'{text[:200]}; "sqlite3 FILE .recover" may save a part'
