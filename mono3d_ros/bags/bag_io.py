"""
Bag I/O: read, decode and write ROS 2 messages without ROS.

Messages are passed on as CDR bytes, as ROS publishes them, so that a message can be republished
or copied to another bag without decoding it.
"""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from rosbags.highlevel import AnyReader, AnyReaderError
from rosbags.interfaces import (
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.rosbag2 import ReaderError, StoragePlugin, Writer
from rosbags.serde import SerdeError
from rosbags.typesys import TypesysError
from rosbags.typesys.store import Typestore

from mono3d_ros.bags.message_types import make_typestore
from stl_core.files import OutputError, atomic_folder, require_new_folder

#: Exceptions that rosbags raises for a path that is missing, truncated or not a bag.
READ_ERRORS = (
    AnyReaderError,
    ReaderError,
    SerdeError,
    TypesysError,
    OSError,
    ValueError,
    LookupError,
    EOFError,
    AssertionError,
    struct.error,
    sqlite3.Error,
)

#: Storage formats of a bag; Humble needs an extra package to play MCAP.
STORAGES: Mapping[str, StoragePlugin] = {
    'mcap': StoragePlugin.MCAP,
    'sqlite3': StoragePlugin.SQLITE3,
}

_INFINITE_DURATION = QosTime(2147483647, 4294967295)


class BagError(ValueError):
    """A bag cannot be read or written; the message names the bag and the expected input."""


class Message(NamedTuple):
    """
    One message of a bag.

    :param topic: topic name, such as '/camera/image_raw'.
    :param type: message type, such as 'sensor_msgs/msg/Image'.
    :param recorded_ns: time of recording, not the stamp of the header.
    :param cdr: the serialised message as ROS sends it, encapsulation header included.
    """

    topic: str
    type: str
    recorded_ns: int
    cdr: bytes


def make_qos(reliability: QosReliability, durability: QosDurability, depth: int) -> Qos:
    """Build the QoS of a publisher: no deadline, no lifespan, automatic liveliness."""
    return Qos(
        history=QosHistory.KEEP_LAST,
        depth=depth,
        reliability=reliability,
        durability=durability,
        deadline=_INFINITE_DURATION,
        lifespan=_INFINITE_DURATION,
        liveliness=QosLiveliness.AUTOMATIC,
        liveliness_lease_duration=_INFINITE_DURATION,
        avoid_ros_namespace_conventions=False,
    )


#: QoS of a topic whose messages reach only the subscribers present when they are sent.
VOLATILE_QOS = make_qos(QosReliability.RELIABLE, QosDurability.VOLATILE, 10)
#: QoS of a topic whose last message also reaches late subscribers, such as /tf_static.
LATCHED_QOS = make_qos(QosReliability.RELIABLE, QosDurability.TRANSIENT_LOCAL, 1)


class BagReader:
    """
    Read a bag: a rosbag2 folder, an .mcap or a .db3 file; use it in a with statement.

    :param path: the folder or file.
    :raises BagError: if the path is missing or is not a readable bag.
    """

    def __init__(self, path: str | Path) -> None:
        """Open the bag."""
        self.path = Path(path)
        if not self.path.exists():
            raise BagError(f'{path}: no such bag; {_EXPECTED}')
        if self.path.is_file() and self.path.suffix not in ('.mcap', '.db3'):
            raise BagError(f'{path}: not a ROS 2 bag; {_EXPECTED}')
        if self.path.is_dir() and not (self.path / 'metadata.yaml').exists():
            raise BagError(f'{path}: this folder has no metadata.yaml; {_EXPECTED}')
        try:
            self._reader = AnyReader([self.path], default_typestore=make_typestore())
            self._reader.open()
        except READ_ERRORS as err:
            raise BagError(f'{path}: not a readable bag ({_one_line(err)}); {_EXPECTED}') from err

    def __enter__(self) -> BagReader:
        """Return the open bag."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the bag."""
        self._reader.close()

    @property
    def typestore(self) -> Typestore:
        """The type store with the message types as the bag defines them."""
        return self._reader.typestore

    @property
    def topics(self) -> dict[str, str]:
        """Topic name -> message type, in alphabetical order of the topics."""
        return {
            c.topic: c.msgtype for c in sorted(self._reader.connections, key=_connection_topic)
        }

    def messages(self, topics: Collection[str] = ()) -> Iterator[Message]:
        """
        Read messages in the order of recording.

        :param topics: the topics to read; all topics if empty.
        :return: messages, not yet decoded.
        :raises BagError: for a topic that the bag does not have (the message lists those it
            has), or for a damaged or truncated bag.
        """
        if missing := sorted(set(topics) - set(self.topics)):
            has = ', '.join(self.topics) or 'nothing'
            raise BagError(f'{self.path}: no topic {", ".join(missing)}; the bag has {has}')
        selected = [c for c in self._reader.connections if not topics or c.topic in topics]
        try:
            for connection, stamp_ns, cdr in self._reader.messages(selected) if selected else ():
                yield Message(connection.topic, connection.msgtype, stamp_ns, bytes(cdr))
        except READ_ERRORS as err:
            raise BagError(f'{self.path}: damaged or truncated ({_one_line(err)})') from err

    def decode(self, message: Message) -> Any:
        """Decode a message of this bag; BagError if its bytes do not match its type."""
        try:
            return self._reader.typestore.deserialize_cdr(message.cdr, message.type)
        except READ_ERRORS as err:
            where = f'{self.path}: {message.topic} at {message.recorded_ns} ns'
            raise BagError(f'{where}: not a {message.type} ({_one_line(err)})') from err


class BagWriter:
    """
    Write a new bag atomically; use it in a with statement.

    The bag is written to a hidden folder next to its final path and moved there at the end, so
    that an error or Ctrl-C leaves no partial bag.

    :param path: the folder to create, with its parents.
    :param store: the message types; those of make_typestore() by default.
    :param custom_data: stored as custom_data in the metadata of the bag.
    :param storage: one of STORAGES.
    :raises BagError: if the path exists or cannot be written.
    """

    def __init__(
        self,
        path: str | Path,
        store: Typestore | None = None,
        custom_data: Mapping[str, str] | None = None,
        storage: StoragePlugin = STORAGES['mcap'],
    ) -> None:
        """Create the hidden folder and open the bag in it."""
        self.path = Path(path)
        self._store = store or make_typestore()
        self._connections: dict[str, Any] = {}
        self._files = ExitStack()
        require_absent(self.path)
        try:
            folder = self._files.enter_context(atomic_folder(self.path, create=False))
        except OSError as err:
            raise BagError(f'{path}: cannot be written ({_one_line(err)})') from err
        # version 8 because Humble cannot read the QoS of version 9; the folder has its final name
        # because rosbags writes the name into the bag
        self._writer = Writer(folder, version=8, storage_plugin=storage)
        for key, value in (custom_data or {}).items():
            self._writer.set_custom_data(key, value)
        self._writer.open()
        self._files.push(self._writer)

    def __enter__(self) -> BagWriter:
        """Return the open bag."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Move the finished bag to its final path, or delete it after an error."""
        try:
            self._files.__exit__(kind, error, traceback)
        except OSError as err:
            raise BagError(f'{self.path}: cannot be written ({_one_line(err)})') from err

    def add_topic(self, topic: str, type_name: str, offered_qos: Qos = VOLATILE_QOS) -> None:
        """Add a topic to the bag; BagError for a type that the store does not contain."""
        if type_name not in self._store.fielddefs:
            raise BagError(f'{self.path}: {topic} has the unknown message type {type_name}')
        self._connections[topic] = self._writer.add_connection(
            topic, type_name, typestore=self._store, offered_qos_profiles=[offered_qos]
        )

    def write(
        self, topic: str, stamp_ns: int, message: Any, offered_qos: Qos = VOLATILE_QOS
    ) -> None:
        """Serialise and write a message; adds its topic to the bag if necessary."""
        if topic not in self._connections:
            self.add_topic(topic, message.__msgtype__, offered_qos)
        cdr = self._store.serialize_cdr(message, self._connections[topic].msgtype)
        self.write_cdr(topic, stamp_ns, bytes(cdr))

    def write_cdr(self, topic: str, stamp_ns: int, cdr: bytes) -> None:
        """Write a serialised message to a topic added before."""
        self._writer.write(self._connections[topic], stamp_ns, cdr)


def require_absent(path: Path) -> None:
    """Raise BagError if the path of a new bag or folder exists or cannot be written."""
    try:
        require_new_folder(path)
    except OutputError as err:
        raise BagError(str(err)) from err


_EXPECTED = 'expected a rosbag2 folder with its metadata.yaml, an .mcap or a .db3 file'


def _connection_topic(connection: Any) -> str:
    return str(connection.topic)


def _one_line(err: BaseException) -> str:
    """Return the message of an exception on one line; the name of its type if it is empty."""
    return ' '.join(str(err).split()) or type(err).__name__
