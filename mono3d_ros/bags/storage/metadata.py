"""
Read metadata.yaml of a bag: which storage files belong to it, and how many messages they have.

The file is a hint: recorders write it last, and tools copy or edit it. Messages are read from the
storage files whatever it says of storage, compression and QoS.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import yaml

from mono3d_ros.bags.storage.interface import StorageError

FILE_NAME = 'metadata.yaml'
#: Largest metadata.yaml that is read, bytes; that of a bag with 1000 topics has less than 2 MB.
_MAX_FILE_BYTES = 2**26


@dataclass(frozen=True)
class TopicCount:
    """A topic by metadata.yaml: its message type and number of messages."""

    type: str
    num_messages: int


@dataclass(frozen=True)
class BagMetadata:
    """
    What metadata.yaml says.

    :param file_names: names of the storage files, without folders.
    :param topics: topic -> type and number of messages.
    """

    file_names: tuple[str, ...]
    topics: dict[str, TopicCount]


def read_metadata(folder: Path) -> BagMetadata:
    """Read metadata.yaml of a folder; StorageError if it is damaged, OSError if unreadable."""
    path = folder / FILE_NAME
    if path.stat().st_size > _MAX_FILE_BYTES:
        raise StorageError(f'{path.stat().st_size} bytes are not plausible')
    try:
        document = yaml.safe_load(path.read_bytes())
    except (yaml.YAMLError, ValueError, LookupError, TypeError, AttributeError) as err:
        raise StorageError(f'not YAML: {" ".join(str(err).split())[:120]}') from err
    except (RecursionError, OverflowError, MemoryError) as err:
        raise StorageError('not YAML that can be read') from err
    content = document.get('rosbag2_bagfile_information') if isinstance(document, dict) else None
    if not isinstance(content, dict):
        raise StorageError('no key rosbag2_bagfile_information')
    names = content.get('relative_file_paths')
    if not isinstance(names, list) or not all(isinstance(each, str) and each for each in names):
        raise StorageError('relative_file_paths is not a list of files')
    return BagMetadata(
        tuple(PurePath(each).name for each in names),
        dict(_read_topics(content.get('topics_with_message_count'))),
    )


def _read_topics(entries: Any) -> Iterator[tuple[str, TopicCount]]:
    """Yield the topics of metadata.yaml; counts of a topic that is listed twice are added."""
    totals: dict[str, TopicCount] = {}
    for entry in entries if isinstance(entries, list) else ():
        topic = entry.get('topic_metadata') if isinstance(entry, dict) else None
        if not isinstance(topic, dict):
            raise StorageError('topics_with_message_count is damaged')
        name, kind, count = topic.get('name'), topic.get('type'), entry.get('message_count')
        if not (isinstance(name, str) and isinstance(kind, str) and isinstance(count, int)):
            raise StorageError('topics_with_message_count is damaged')
        before = totals[name].num_messages if name in totals else 0
        totals[name] = TopicCount(kind, before + count)
    yield from totals.items()
