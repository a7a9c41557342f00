"""Records of MCAP files (https://mcap.dev/spec): parsing with checks of every size."""

from __future__ import annotations

import struct
from binascii import crc32
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from mono3d_ros.bags.storage.decompression import decompress
from mono3d_ros.bags.storage.interface import StorageError

MAGIC = b'\x89MCAP0\r\n'
FOOTER, SCHEMA, CHANNEL, MESSAGE, CHUNK = 0x02, 0x03, 0x04, 0x05, 0x06
CHUNK_INDEX, STATISTICS, DATA_END = 0x08, 0x0B, 0x0F
#: Bytes of a record before its content, and of a footer with the magic that ends a file.
RECORD_HEAD_BYTES, FOOTER_BYTES = 9, 9 + 20 + len(MAGIC)
#: Bytes of a message record before the message.
MESSAGE_HEAD = struct.Struct('<HIQQ')
_RECORD_HEAD = struct.Struct('<BQ')


class Record(NamedTuple):
    """A record: its type, the offset of its head in the data, and its content."""

    opcode: int
    offset: int
    content: memoryview


class Schema(NamedTuple):
    """Definition of a message type: its name, the encoding of the definition, the definition."""

    name: str
    encoding: str
    text: str


class ChannelRecord(NamedTuple):
    """A channel: number of its schema (0: none), topic, encoding of its messages."""

    schema_id: int
    topic: str
    encoding: str


@dataclass(frozen=True)
class ChunkPlace:
    """
    Where a chunk is.

    :param start_ns: time of its first message.
    :param offset: position of its record in the file.
    :param channel_ids: channels that it has messages of; None if the file does not say.
    """

    start_ns: int
    offset: int
    channel_ids: frozenset[int] | None


class Fields:
    """Read the fields of a record one after another; StorageError beyond its end."""

    def __init__(self, content: memoryview) -> None:
        """Begin at the first field."""
        self._content, self._position = content, 0

    def take(self, count: int) -> memoryview:
        """Return the next bytes."""
        end = self._position + count
        if end > len(self._content):
            raise StorageError(f'a record ends {end - len(self._content)} bytes too early')
        part = self._content[self._position : end]
        self._position = end
        return part

    def numbers(self, layout: str) -> tuple[int, ...]:
        """Return the next numbers, little endian; layout as for struct."""
        return struct.unpack(f'<{layout}', self.take(struct.calcsize(f'<{layout}')))

    def block(self) -> memoryview:
        """Return the next bytes with a length of 32 bits before them."""
        return self.take(self.numbers('I')[0])

    def text(self) -> str:
        """Return the next string; bytes that are not UTF-8 are read as Latin-1."""
        data = bytes(self.block())
        try:
            return data.decode()
        except UnicodeDecodeError:
            return data.decode('latin-1')


def parse_head(data: bytes | memoryview) -> tuple[int, int]:
    """Return the type and the length of a record from its first RECORD_HEAD_BYTES."""
    opcode, length = _RECORD_HEAD.unpack(data)
    if opcode == 0:
        raise StorageError('zeros instead of a record')
    return opcode, length


def split_records(data: memoryview) -> Iterator[Record]:
    """Yield the records in the data of a chunk or summary; StorageError for an incomplete one."""
    offset, size = 0, len(data)
    while offset < size:
        if offset + RECORD_HEAD_BYTES > size:
            raise StorageError('a record is cut off')
        opcode, length = parse_head(data[offset : offset + RECORD_HEAD_BYTES])
        start = offset + RECORD_HEAD_BYTES
        if length > size - start:
            raise StorageError(f'a record of {length} bytes in {size - start} bytes')
        yield Record(opcode, offset, data[start : start + length])
        offset = start + length


def parse_schema(content: memoryview) -> tuple[int, Schema]:
    """Return the number of a schema and the schema."""
    fields = Fields(content)
    (number,) = fields.numbers('H')
    return number, Schema(fields.text(), fields.text(), fields.text())


def parse_channel(content: memoryview) -> tuple[int, ChannelRecord]:
    """Return the number of a channel and the channel."""
    fields = Fields(content)
    number, schema_id = fields.numbers('HH')
    return number, ChannelRecord(schema_id, fields.text(), fields.text())


def parse_chunk(content: memoryview) -> tuple[int, memoryview]:
    """
    Decompress a chunk and check its CRC.

    :param content: content of the record.
    :return: time of its first message, ns; its records.
    :raises StorageError: for damaged data.
    """
    fields = Fields(content)
    start_ns, _, size = fields.numbers('QQQ')
    (crc,) = fields.numbers('I')
    compression = fields.text()
    records = decompress(fields.take(fields.numbers('Q')[0]), compression, size)
    if crc and crc32(records) != crc:
        raise StorageError('the CRC of a chunk is wrong')
    return start_ns, memoryview(records)


def parse_chunk_index(content: memoryview) -> ChunkPlace:
    """Return where a chunk is."""
    fields = Fields(content)
    start_ns, _, offset, _ = fields.numbers('QQQQ')
    offsets = fields.block()
    if len(offsets) % 10:
        raise StorageError('the index of a chunk is damaged')
    numbers = frozenset(number for number, _ in struct.iter_unpack('<HQ', offsets))
    return ChunkPlace(start_ns, offset, numbers or None)


@dataclass(frozen=True)
class Statistics:
    """Number of messages, channels and chunks of a file, and of messages of each channel."""

    num_messages: int
    num_channels: int
    num_chunks: int
    messages_by_channel: dict[int, int]


def parse_statistics(content: memoryview) -> Statistics:
    """Return the statistics of a file."""
    fields = Fields(content)
    num_messages, _, num_channels, _, _, num_chunks, _, _ = fields.numbers('QHIIIIQQ')
    counts = fields.block()
    if len(counts) % 10:
        raise StorageError('the statistics are damaged')
    return Statistics(
        num_messages, num_channels, num_chunks, dict(struct.iter_unpack('<HQ', counts))
    )
