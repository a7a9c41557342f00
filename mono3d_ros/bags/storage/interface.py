"""Interface of the storage files of a bag: channels and raw messages."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

#: Largest chunk, record or message that is read; a size above it is damage, not data.
MAX_BYTES = 2**30

#: Encoding of the messages of ROS 2.
CDR = 'cdr'


class StorageError(ValueError):
    """A storage file cannot be read; the message says why, without the name of the file."""


class Definition(NamedTuple):
    """
    Definition of a message type in a bag.

    :param encoding: 'ros2msg', 'ros2idl', another name, or empty if the bag has none.
    :param text: the definition.
    """

    encoding: str
    text: str


NO_DEFINITION = Definition('', '')


@dataclass(frozen=True)
class Channel:
    """
    One source of messages in a storage file.

    :param id: number in the file.
    :param topic: topic name.
    :param type: message type, such as 'sensor_msgs/msg/Image'.
    :param encoding: encoding of the messages; CDR for those of ROS 2.
    :param definition: definition of the type.
    :param promised: number of messages by the file's statistics; None if it has none.
    """

    id: int
    topic: str
    type: str
    encoding: str
    definition: Definition
    promised: int | None


class RawMessage(NamedTuple):
    """A message as stored: time of recording (ns), number of its channel, bytes."""

    recorded_ns: int
    channel_id: int
    data: bytes


class StorageFile(Protocol):
    """
    An open storage file.

    name is that of the file. channels lists its channels. remark is empty, or says that the file
    is unfinished or damaged, up to where it was read, and how to repair it. is_whole says whether
    all messages that were written can be read.
    """

    name: str
    is_whole: bool
    channels: tuple[Channel, ...]
    remark: str

    def messages(self, channel_ids: Collection[int]) -> Iterator[RawMessage]:
        """Yield the messages of channels by time; StorageError for a damaged file."""

    def close(self) -> None:
        """Close the file."""
