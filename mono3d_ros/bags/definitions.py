"""
Decode the messages of a bag by the definitions that the bag stores, each type by itself.

A definition that cannot be used concerns the topics of its type only. Types of ROS without a
usable definition in the bag have the built-in one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

from rosbags.typesys import Stores, get_types_from_idl, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from mono3d_ros.bags.message_types import make_typestore
from mono3d_ros.bags.storage.interface import CDR, Channel, Definition

#: Types that these packages read by field names. They are the same in all distributions of ROS 2,
#: so that another definition is damage.
STABLE_TYPES = frozenset(
    {
        'sensor_msgs/msg/Image',
        'sensor_msgs/msg/CompressedImage',
        'sensor_msgs/msg/CameraInfo',
        'sensor_msgs/msg/PointCloud2',
        'std_msgs/msg/String',
        'tf2_msgs/msg/TFMessage',
    }
)
#: Longest definition that is parsed; that of a message with 400 nested types has 200 kB.
_MAX_DEFINITION_CHARS = 2**20
_TYPE_NAME = re.compile(r'\w+/(msg|srv|action)/\w+')
_CONSTANT = re.compile(
    r'^[ \t]*(bool|byte|char|float32|float64|u?int(8|16|32|64)|w?string)[ \t]+\w+[ \t]*=.*$',
    re.MULTILINE,
)
_IDL_SEPARATOR = '=' * 80 + '\n'


class DecodeError(ValueError):
    """The bytes of a message do not match its type."""


class MessageTypes:
    """The message types of a bag; a problem with one topic does not concern the others."""

    def __init__(self, channels: Iterable[Channel]) -> None:
        """
        Read the definitions of the channels of all storage files.

        :param channels: several may have the same topic; its first usable definition is used.
        """
        self._stores: dict[tuple[str, str], Typestore] = {}
        self._problems: dict[tuple[str, str], str] = {}
        parsed: dict[tuple[str, Definition], tuple[Typestore | None, str]] = {}
        for channel in sorted(channels, key=lambda each: not each.definition.text.strip()):
            topic, key = (channel.topic, channel.type), (channel.type, channel.definition)
            if channel.encoding == CDR and topic not in self._stores:
                if key not in parsed:
                    parsed[key] = _find_store(*key)
                store, self._problems[topic] = parsed[key]
                if store is not None:
                    self._stores[topic] = store

    def problem(self, channel: Channel) -> str:
        """Return why messages of a channel cannot be decoded; empty if they can."""
        if channel.encoding != CDR:
            return f'messages of encoding {channel.encoding[:40]!r}; only cdr is read'
        topic = (channel.topic, channel.type)
        return '' if topic in self._stores else self._problems[topic]

    def decode(self, topic: str, type_name: str, cdr: bytes) -> Any:
        """Decode a message; DecodeError if its bytes do not match the type."""
        store = self._stores.get((topic, type_name))
        if store is None:
            raise DecodeError(self._problems.get((topic, type_name), 'unknown type'))
        try:
            return store.deserialize_cdr(cdr, type_name)
        except Exception as err:  # generated code: it raises what damaged bytes lead to
            raise DecodeError(' '.join(str(err).split())[:200] or type(err).__name__) from err


def _find_store(type_name: str, definition: Definition) -> tuple[Typestore | None, str]:
    """Return the types to decode with, or None and why there are none."""
    if not _TYPE_NAME.fullmatch(type_name):
        return None, f'{type_name[:60]!r} is not a message type of ROS 2'
    store, problem = None, 'no definition of its type in the bag'
    if definition.text.strip():
        store, problem = _parse(type_name, definition)
    if store is None and type_name in builtin_types().fielddefs:
        store = builtin_types()
    if store is None:
        return None, problem
    if type_name in STABLE_TYPES and (other := _first_difference(type_name, store)):
        return None, f'its definition of {other} differs from that of ROS'
    return store, ''


@lru_cache(maxsize=1)
def builtin_types() -> Typestore:
    """Return the types of ROS 2 and vision_msgs; shared, because it never changes."""
    return make_typestore()


def _parse(type_name: str, definition: Definition) -> tuple[Typestore | None, str]:
    """Return the types of a definition, or None and why it cannot be used."""
    try:
        types = _parse_text(type_name, definition)
        if types is None:
            return None, f'a definition of encoding {definition.encoding[:40]!r}'
        store = get_typestore(Stores.EMPTY)
        store.register(_with_builtin(types))
        store.get_msgdef(type_name)
    except Exception as err:  # parser and generated code raise what the text leads to
        return None, f'its definition cannot be parsed ({type(err).__name__})'
    return store, ''


def _with_builtin(types: Mapping[str, Any]) -> dict[str, Any]:
    """Add the built-in definitions of the types that some definitions refer to but lack."""
    complete, waiting = dict(types), list(types)
    while waiting:
        for name in _referenced(complete[waiting.pop()][1]):
            if name not in complete:
                complete[name] = builtin_types().fielddefs[name]
                waiting.append(name)
    return complete


def _parse_text(type_name: str, definition: Definition) -> Mapping[str, Any] | None:
    """Return the parsed types; None for an encoding that is not known."""
    text = definition.text[: _MAX_DEFINITION_CHARS + 1]
    if len(text) > _MAX_DEFINITION_CHARS:
        raise ValueError('the definition is too long')
    if definition.encoding == 'ros2msg':
        try:
            return get_types_from_msg(text, type_name)
        except Exception:  # constants do not change the layout; their names may be unusual
            return get_types_from_msg(_CONSTANT.sub('', text), type_name)
    if definition.encoding in ('ros2idl', 'omgidl'):
        parts = [text]
        if text.startswith(f'{_IDL_SEPARATOR}IDL: '):
            parts = [each.split('\n', 1)[1] for each in text.split(_IDL_SEPARATOR)[1:]]
        return {name: each for part in parts for name, each in get_types_from_idl(part).items()}
    return None


def _first_difference(type_name: str, store: Typestore) -> str:
    """Return the first type of a closure that differs from the built-in one; empty if none."""
    waiting, seen = [type_name], set()
    while waiting:
        name = waiting.pop()
        seen.add(name)
        expected = builtin_types().fielddefs[name][1]
        if store.fielddefs[name][1] != expected:
            return name
        waiting += [each for each in _referenced(expected) if each not in seen]
    return ''


def _referenced(fields: Iterable[tuple[str, Any]]) -> Iterable[str]:
    """Yield the names of the types in fields, as rosbags describes them."""
    for _, (_, description) in fields:
        inner = description
        while isinstance(inner, tuple) and len(inner) == 2 and isinstance(inner[0], tuple):
            inner = inner[0][1]
        if isinstance(inner, str):
            yield inner
