"""
Bags without ROS: read, decode, build messages, write; everything that touches rosbags.

Messages travel as CDR bytes, just as ROS publishes them, so whatever is read can be published
or written again without a detour. maker is the twin of ros_messages.new: messages.py asks it
for messages by name and gets rosbags' classes here, ROS's there.
"""

from __future__ import annotations

import shutil
import sqlite3
import struct
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rosbags.highlevel import AnyReader, AnyReaderError
from rosbags.interfaces import (
    Nodetype,
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.rosbag2 import ReaderError, StoragePlugin, Writer
from rosbags.serde import SerdeError
from rosbags.typesys import Stores, TypesysError, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

#: What rosbags raises on a bag that is missing, cut off or no bag at all.
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

#: vision_msgs 4 is in no type store of rosbags; the definitions, field by field.
VISION_MSGS = {
    'vision_msgs/msg/ObjectHypothesis': 'string class_id\nfloat64 score',
    'vision_msgs/msg/ObjectHypothesisWithPose': (
        'vision_msgs/ObjectHypothesis hypothesis\ngeometry_msgs/PoseWithCovariance pose'
    ),
    'vision_msgs/msg/BoundingBox3D': 'geometry_msgs/Pose center\ngeometry_msgs/Vector3 size',
    'vision_msgs/msg/Detection3D': (
        'std_msgs/Header header\nvision_msgs/ObjectHypothesisWithPose[] results\n'
        'vision_msgs/BoundingBox3D bbox\nstring id'
    ),
    'vision_msgs/msg/Detection3DArray': (
        'std_msgs/Header header\nvision_msgs/Detection3D[] detections'
    ),
}

#: Defaults that the .msg files give other than zero; rosbags keeps no defaults, ROS does.
FIELD_DEFAULTS: Mapping[tuple[str, str], Any] = {('geometry_msgs/msg/Quaternion', 'w'): 1.0}

ZERO_VALUES: Mapping[str, Any] = {'string': '', 'bool': False, 'float32': 0.0, 'float64': 0.0}
ARRAY_DTYPES: Mapping[str, str] = {'bool': 'bool', 'char': 'uint8', 'byte': 'uint8'}

#: How the file of a bag is written; Humble plays MCAP only with a package more.
STORAGES: Mapping[str, StoragePlugin] = {
    'mcap': StoragePlugin.MCAP,
    'sqlite3': StoragePlugin.SQLITE3,
}

_INFINITE_DURATION = QosTime(2147483647, 4294967295)


class BagError(ValueError):
    """A bag that cannot be read or written; the message names it and what was expected."""


class Message(NamedTuple):
    """
    One message of a bag.

    :param topic: such as '/camera/image_raw'.
    :param type: such as 'sensor_msgs/msg/Image'.
    :param recorded_ns: when it was recorded, not the stamp of its header.
    :param cdr: the message as ROS sends it, encapsulation header included.
    """

    topic: str
    type: str
    recorded_ns: int
    cdr: bytes


def make_qos(reliability: QosReliability, durability: QosDurability, depth: int) -> Qos:
    """Return what a publisher offers, no deadline, no lifespan, automatic liveliness."""
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


#: A topic that only concerns those who listen while it is sent.
VOLATILE_QOS = make_qos(QosReliability.RELIABLE, QosDurability.VOLATILE, 10)
#: A topic whose last message late listeners receive too, such as /tf_static.
LATCHED_QOS = make_qos(QosReliability.RELIABLE, QosDurability.TRANSIENT_LOCAL, 1)


def make_typestore() -> Typestore:
    """Return the message types of current ROS 2 and vision_msgs."""
    store = get_typestore(Stores.LATEST)
    for name, text in VISION_MSGS.items():
        if name not in store.types:
            store.register(get_types_from_msg(text, name))
    return store


def make_message_factory(store: Typestore) -> Callable[..., Any]:
    """
    Make the function that builds messages by name, as node.py does with ROS's own classes.

    :param store: the types.
    :return: new('visualization_msgs/msg/Marker', **fields); absent fields take ROS's defaults,
        numbers of a sequence may come as any sequence, bytes or array. LookupError for an
        unknown type, TypeError for an unknown field.
    """

    def new(type_name: str, /, **fields: Any) -> Any:
        if type_name not in store.fielddefs:
            raise LookupError(f'{type_name}: no such message type in the type store')
        kinds = dict(store.fielddefs[type_name][1])
        if unknown := sorted(set(fields) - set(kinds)):
            raise TypeError(f'{type_name} has no field {", ".join(unknown)}')
        values = {}
        for name, kind in kinds.items():
            if name in fields:
                values[name] = _to_field_value(fields[name], kind)
            elif (type_name, name) in FIELD_DEFAULTS:
                values[name] = FIELD_DEFAULTS[type_name, name]
            else:
                values[name] = _default_value(kind, new)
        return store.types[type_name](**values)

    return new


class BagReader:
    """
    An open bag: a rosbag2 folder, an .mcap or a .db3 file; use it in a with statement.

    :param path: the folder or file.
    :raises BagError: naming the path, where it is missing or is not such a bag.
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
        """The message types as the bag itself defines them."""
        return self._reader.typestore

    @property
    def topics(self) -> dict[str, str]:
        """Topic name -> message type, in alphabetical order."""
        return {
            c.topic: c.msgtype for c in sorted(self._reader.connections, key=_connection_topic)
        }

    def messages(self, topics: Collection[str] = ()) -> Iterator[Message]:
        """
        Read in the order of recording.

        :param topics: the topics wanted; all when empty.
        :return: messages, not yet decoded.
        :raises BagError: for a topic the bag does not have, naming those it has; for a bag that
            turns out to be cut off.
        """
        if missing := sorted(set(topics) - set(self.topics)):
            has = ', '.join(self.topics) or 'nothing'
            raise BagError(f'{self.path}: no topic {", ".join(missing)}; the bag has {has}')
        wanted = [c for c in self._reader.connections if not topics or c.topic in topics]
        try:
            for connection, stamp_ns, cdr in self._reader.messages(wanted) if wanted else ():
                yield Message(connection.topic, connection.msgtype, stamp_ns, bytes(cdr))
        except READ_ERRORS as err:
            raise BagError(f'{self.path}: damaged or cut off ({_one_line(err)})') from err

    def decode(self, message: Message) -> Any:
        """Decode a message of this bag; BagError, naming bag and topic, when it does not fit."""
        try:
            return self._reader.typestore.deserialize_cdr(message.cdr, message.type)
        except READ_ERRORS as err:
            where = f'{self.path}: {message.topic} at {message.recorded_ns} ns'
            raise BagError(f'{where}: not a {message.type} ({_one_line(err)})') from err


class BagWriter:
    """
    A new bag; use it in a with statement. It appears when complete, or not at all.

    The bag grows in a hidden folder beside its place and is moved there at the end, so that an
    error or Ctrl-C leaves nothing half-written.

    :param path: the folder to make; its parents are made too.
    :param store: the message types; those of typestore() by default.
    :param custom_data: kept as custom_data in the bag's metadata.
    :param storage: one of STORAGES.
    :raises BagError: where the path exists or cannot be written.
    """

    def __init__(
        self,
        path: str | Path,
        store: Typestore | None = None,
        custom_data: Mapping[str, str] | None = None,
        storage: StoragePlugin = STORAGES['mcap'],
    ) -> None:
        """Begin the bag."""
        self.path = Path(path)
        self._store = store or make_typestore()
        self._connections: dict[str, Any] = {}
        require_absent(self.path)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._temp_dir = Path(
                tempfile.mkdtemp(prefix=f'.{self.path.name}.', dir=self.path.parent)
            )
        except OSError as err:
            raise BagError(f'{path}: cannot be written ({_one_line(err)})') from err
        # version 8 because Humble cannot read the QoS of version 9; the inner folder has the
        # final name because the name is written into the bag
        self._writer = Writer(self._temp_dir / self.path.name, version=8, storage_plugin=storage)
        for key, value in (custom_data or {}).items():
            self._writer.set_custom_data(key, value)
        self._writer.open()

    def __enter__(self) -> BagWriter:
        """Return the open bag."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: Any) -> None:
        """Move the finished bag to its place; drop it after an error."""
        try:
            self._writer.__exit__(kind, *rest)
            if kind is None:
                (self._temp_dir / self.path.name).replace(self.path)
        except OSError as err:
            raise BagError(f'{self.path}: cannot be written ({_one_line(err)})') from err
        finally:
            shutil.rmtree(self._temp_dir, ignore_errors=True)

    def add_topic(self, topic: str, type_name: str, offered_qos: Qos = VOLATILE_QOS) -> None:
        """Announce a topic; BagError for a type that the store does not know."""
        if type_name not in self._store.fielddefs:
            raise BagError(f'{self.path}: {topic} has the unknown message type {type_name}')
        self._connections[topic] = self._writer.add_connection(
            topic, type_name, typestore=self._store, offered_qos_profiles=[offered_qos]
        )

    def write(
        self, topic: str, stamp_ns: int, message: Any, offered_qos: Qos = VOLATILE_QOS
    ) -> None:
        """Write a message of the store's classes; it announces its topic if nobody has."""
        if topic not in self._connections:
            self.add_topic(topic, message.__msgtype__, offered_qos)
        cdr = self._store.serialize_cdr(message, self._connections[topic].msgtype)
        self.write_cdr(topic, stamp_ns, bytes(cdr))

    def write_cdr(self, topic: str, stamp_ns: int, cdr: bytes) -> None:
        """Write a message as ROS sent it to an announced topic."""
        self._writer.write(self._connections[topic], stamp_ns, cdr)


def require_absent(path: Path) -> None:
    """BagError where something is at the place of a new bag."""
    if path.exists():
        raise BagError(f'{path}: exists already and is not overwritten; name a new folder')


def header_stamp_ns(message: Any) -> int | None:
    """
    Return the header stamp of a message of any type.

    An array without a header of its own, such as MarkerArray, has its first element's.

    :param message: of ROS's or of rosbags' classes.
    :return: nanoseconds; None for a message that has no header.
    """
    header = getattr(message, 'header', None)
    if header is not None:
        return int(header.stamp.sec) * 1_000_000_000 + int(header.stamp.nanosec)
    for name in ('markers', 'transforms', 'detections'):
        for element in getattr(message, name, [])[:1]:
            return header_stamp_ns(element)
    return None


_EXPECTED = 'expected a rosbag2 folder with its metadata.yaml, an .mcap or a .db3 file'


def _connection_topic(connection: Any) -> str:
    return str(connection.topic)


def _one_line(err: BaseException) -> str:
    """Return what an exception says, or is, on one line."""
    return ' '.join(str(err).split()) or type(err).__name__


def _default_value(kind: tuple[Any, Any], new: Callable[..., Any]) -> Any:
    """Return the zero of a field: (node type, description) as rosbags' fielddefs have it."""
    node, what = kind
    if node == Nodetype.NAME:
        return new(what)
    if node == Nodetype.BASE:
        return ZERO_VALUES.get(what[0], 0)
    (inner, described), length = what
    count = length if node == Nodetype.ARRAY else 0
    if inner == Nodetype.BASE and described[0] != 'string':
        return np.zeros(count, ARRAY_DTYPES.get(described[0], described[0]))
    return [_default_value(what[0], new) for _ in range(count)]


def _to_field_value(value: Any, kind: tuple[Any, Any]) -> Any:
    """Bring numbers of sequences into the arrays that rosbags wants; leave the rest alone."""
    node, what = kind
    if node in (Nodetype.BASE, Nodetype.NAME):
        return value
    (inner, described), _ = what
    if inner == Nodetype.NAME or described[0] == 'string':
        return list(value)
    dtype = np.dtype(ARRAY_DTYPES.get(described[0], described[0]))
    if isinstance(value, (bytes, bytearray, memoryview)):
        return np.frombuffer(value, dtype)
    return np.ascontiguousarray(value, dtype).ravel()
