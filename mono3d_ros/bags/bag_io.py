"""
Bag I/O: read, decode and write ROS 2 messages without ROS.

Messages are passed on as CDR bytes, as ROS publishes them, so that a message can be republished
or copied to another bag without decoding it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, suppress
from heapq import merge
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from rosbags.interfaces import (
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys.store import Typestore

from mono3d_ros.bags.bag_topics import BagReport, TopicRead, find_topics
from mono3d_ros.bags.definitions import DecodeError, MessageTypes
from mono3d_ros.bags.message_types import make_typestore
from mono3d_ros.bags.storage.decompression import decompress, is_zstd
from mono3d_ros.bags.storage.folder import EXPECTED, STORAGE_SUFFIXES, open_bag
from mono3d_ros.bags.storage.interface import CDR, StorageError, StorageFile
from stl_core.files import OutputError, atomic_folder, require_new_folder

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
    Read a bag: a rosbag2 folder or a storage file; use it in a with statement.

    Messages are those of the storage files; metadata.yaml says how many there should be.

    :param path: the folder or file.
    :raises BagError: if the path is missing or is not a readable bag.
    """

    def __init__(self, path: str | Path) -> None:
        """Open the bag."""
        self.path = Path(path)
        _require_bag(self.path)
        self._stack = ExitStack()
        self._read: dict[str, TopicRead] = {}
        try:
            self._bag = open_bag(self.path, self._stack)
            channels = [each for file in self._bag.files for each in file.channels]
            self._types = MessageTypes(channels)
            self._topics = find_topics(channels, self._bag.promised, self._types.problem)
            if not self._bag.is_whole and not any(each.promised != 0 for each in channels):
                raise StorageError(f'no whole message; {"; ".join(self._bag.remarks)}')
        except (StorageError, OSError, MemoryError) as err:
            self._stack.close()
            raise BagError(f'{path}: not a readable bag ({_one_line(err)}); {EXPECTED}') from err
        except BaseException:
            self._stack.close()
            raise

    def __enter__(self) -> BagReader:
        """Return the open bag."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the bag."""
        self._stack.close()

    @property
    def topics(self) -> dict[str, str]:
        """Topic name -> message type, in alphabetical order of the topics."""
        return dict(self._topics.types)

    @property
    def decodable_topics(self) -> dict[str, str]:
        """The topics whose messages can be decoded; skipped says why others cannot."""
        skipped = self._topics.skipped
        return {topic: kind for topic, kind in self.topics.items() if topic not in skipped}

    @property
    def skipped(self) -> dict[str, str]:
        """Topic name -> why its messages cannot be decoded, in alphabetical order."""
        return dict(self._topics.skipped)

    def messages(self, topics: Collection[str] = ()) -> Iterator[Message]:
        """
        Read messages in the order of recording.

        :param topics: the topics to read; all topics if empty.
        :return: messages, not yet decoded.
        :raises BagError: for a topic that the bag does not have (the message lists those it
            has) or that cannot be decoded, for a damaged bag, and at the end if fewer messages
            were read than metadata.yaml or the storage files promise.
        """
        self._require_topics(topics)
        selected = set(topics) or set(self._topics.types)
        counts = Counter[str]()
        try:
            for message in merge(
                *(self._file_messages(each, selected) for each in self._bag.files),
                key=lambda each: each.recorded_ns,
            ):
                counts[message.topic] += 1
                yield message
        except (StorageError, OSError, MemoryError) as err:
            after = f'after {counts.total()} messages'
            raise BagError(f'{self.path}: damaged or cut off {after} ({_one_line(err)})') from err
        for topic in sorted(selected):
            promised = self._topics.promised[topic]
            self._read[topic] = TopicRead(counts[topic], promised)
            if self._bag.is_whole and counts[topic] < (promised or 0):
                raise BagError(
                    f'{self.path}: {topic}: only {self._read[topic]} messages that metadata.yaml'
                    f' and the storage promise; "ros2 bag reindex" corrects metadata.yaml'
                )

    def first_messages(self, topics: Collection[str]) -> dict[str, Any]:
        """
        Decode the first message of each topic.

        :param topics: topics of the bag.
        :return: topic -> message; topics without messages, or whose first message cannot be
            decoded, are absent.
        :raises BagError: for a topic that the bag does not have, or a damaged bag.
        """
        waiting = {topic for topic in topics if self._topics.promised.get(topic) != 0}
        found: dict[str, Any] = {}
        for message in self.messages(waiting) if waiting else ():
            if message.topic in waiting:
                waiting.remove(message.topic)
                with suppress(BagError):
                    found[message.topic] = self.decode(message)
            if not waiting:
                break
        return found

    def decode(self, message: Message) -> Any:
        """Decode a message of this bag; BagError if its bytes do not match its type."""
        try:
            return self._types.decode(message.topic, message.type, message.cdr)
        except DecodeError as err:
            where = f'{self.path}: {message.topic} at {message.recorded_ns} ns'
            raise BagError(f'{where}: not a {message.type} ({_one_line(err)})') from err

    def report(self, cameras: Iterable[str] = ()) -> BagReport:
        """
        Return the numbers of messages read so far, skipped topics and remarks.

        :param cameras: lines on the cameras that were read.
        """
        return BagReport(
            self.path.name,
            dict(sorted(self._read.items())),
            len(set(self.decodable_topics) - set(self._read)),
            self.skipped,
            self._bag.remarks,
            tuple(cameras),
        )

    def _file_messages(self, file: StorageFile, topics: Collection[str]) -> Iterator[Message]:
        """Yield the messages of one storage file by time, decompressed."""
        chosen = {
            each.id: each
            for each in file.channels
            if each.topic in topics
            and each.encoding == CDR
            and each.type == self._topics.types[each.topic]
        }
        try:
            for raw in file.messages(chosen) if chosen else ():
                channel, data = chosen[raw.channel_id], raw.data
                if is_zstd(data):  # compression mode MESSAGE
                    data = decompress(memoryview(data), 'zstd', None)
                yield Message(channel.topic, channel.type, raw.recorded_ns, data)
        except StorageError as err:
            raise StorageError(f'{file.name}: {err}') from err

    def _require_topics(self, topics: Collection[str]) -> None:
        """Raise BagError for topics that the bag does not have or that are skipped."""
        types, skipped = self._topics.types, self._topics.skipped
        if missing := sorted(set(topics) - set(types)):
            for topic in missing:
                if topic in skipped:
                    raise BagError(f'{self.path}: {topic} cannot be read: {skipped[topic]}')
            has = ', '.join(types) or 'nothing'
            raise BagError(f'{self.path}: no topic {", ".join(missing)}; the bag has {has}')


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


def _require_bag(path: Path) -> None:
    """Raise BagError for a path that is missing or whose name is not that of a bag."""
    if not path.exists():
        raise BagError(f'{path}: no such bag; {EXPECTED}')
    if path.is_file() and path.suffix == '.bag':
        convert = f'"rosbags-convert --src {path.name} --dst {path.stem}" converts it'
        raise BagError(f'{path}: a bag of ROS 1; {convert}')
    if path.is_file() and path.suffix not in (*STORAGE_SUFFIXES, '.zstd'):
        raise BagError(f'{path}: not a ROS 2 bag; {EXPECTED}')


def _one_line(err: BaseException) -> str:
    """Return the message of an exception on one line; the name of its type if it is empty."""
    return ' '.join(str(err).split()) or type(err).__name__
