"""
Read MCAP files: by their index, or by a scan of all records if there is no usable index.

A scan reads a file without a summary (such as rosbag2's preset fastwrite), and an unfinished file
as far as its records are whole.
"""

from __future__ import annotations

import heapq
from array import array
from binascii import crc32
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mono3d_ros.bags.storage import mcap_records as records
from mono3d_ros.bags.storage.interface import (
    MAX_BYTES,
    NO_DEFINITION,
    Channel,
    Definition,
    RawMessage,
    StorageError,
)
from mono3d_ros.bags.storage.mcap_records import ChannelRecord, ChunkPlace, Record, Schema


@dataclass
class _Index:
    """
    Content of a file.

    :param schemas: number -> definition of a type.
    :param channels: number -> channel.
    :param chunks: places of the chunks.
    :param loose: times, channels and offsets of the messages outside chunks.
    :param counts: channel number -> number of messages; None if the file does not say.
    """

    schemas: dict[int, Schema] = field(default_factory=dict)
    channels: dict[int, ChannelRecord] = field(default_factory=dict)
    chunks: list[ChunkPlace] = field(default_factory=list)
    loose: tuple[array[int], array[int], array[int]] = field(
        default_factory=lambda: (array('Q'), array('H'), array('Q'))
    )
    counts: Counter[int] | None = None

    def add(self, record: Record) -> None:
        """Add a schema or channel; other records are ignored."""
        if record.opcode == records.SCHEMA:
            number, schema = records.parse_schema(record.content)
            self.schemas.setdefault(number, schema)
        elif record.opcode == records.CHANNEL:
            number, channel = records.parse_channel(record.content)
            self.channels.setdefault(number, channel)


class McapFile:
    """
    An open MCAP file.

    :param path: the file.
    :raises StorageError: if it is not an MCAP file, or damaged so that nothing can be read.
    :raises OSError: if it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        """Read the index, or scan the file."""
        self.name, self.remark, self.is_whole = path.name, '', True
        self._file = path.open('rb')
        try:
            self._size = self._file.seek(0, 2)
            self._index = self._read_index(path)
        except BaseException:
            self.close()
            raise
        self.channels = tuple(
            _to_channel(number, each, self._index)
            for number, each in sorted(self._index.channels.items())
        )

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def messages(self, channel_ids: Collection[int]) -> Iterator[RawMessage]:
        """Yield the messages of channels by time; StorageError for a damaged chunk."""
        selected = frozenset(channel_ids)
        yield from heapq.merge(
            self._chunk_messages(selected), self._loose_messages(selected), key=_recorded_ns
        )

    def _chunk_messages(self, selected: frozenset[int]) -> Iterator[RawMessage]:
        """Yield messages of chunks by time; chunks may overlap."""
        waiting: list[tuple[int, int, RawMessage]] = []
        chunks = sorted(self._index.chunks, key=lambda each: (each.start_ns, each.offset))
        number = 0
        for chunk in chunks:
            if chunk.channel_ids is not None and not chunk.channel_ids & selected:
                continue
            while waiting and waiting[0][0] < chunk.start_ns:
                yield heapq.heappop(waiting)[2]
            for message in self._messages_of(chunk.offset, selected):
                heapq.heappush(waiting, (message.recorded_ns, number, message))
                number += 1
        while waiting:
            yield heapq.heappop(waiting)[2]

    def _messages_of(self, offset: int, selected: frozenset[int]) -> Iterator[RawMessage]:
        try:
            opcode, content = self._read_record(offset)
            if opcode != records.CHUNK:
                raise StorageError('the index is wrong')
            inner = list(records.split_records(records.parse_chunk(content)[1]))
        except StorageError as err:
            raise StorageError(f'the chunk at byte {offset} cannot be read: {err}') from err
        for record in inner:
            if record.opcode == records.MESSAGE:
                message = _to_message(record.content)
                if message.channel_id in selected:
                    yield message

    def _loose_messages(self, selected: frozenset[int]) -> Iterator[RawMessage]:
        """Yield messages outside chunks by time."""
        times, numbers, offsets = (np.asarray(each) for each in self._index.loose)
        order = np.argsort(times, kind='stable')
        for position in order[np.isin(numbers[order], list(selected))]:
            yield _to_message(self._read_record(int(offsets[position]))[1])

    def _read_index(self, path: Path) -> _Index:
        if self._read(0, len(records.MAGIC)) != records.MAGIC:
            raise StorageError('not an MCAP file')
        is_finished = self._has_footer()
        problem = ''
        if is_finished:
            try:
                if index := self._read_summary():
                    return index
            except StorageError as err:
                problem = str(err)
        index, end, reason = self._scan()
        count = sum((index.counts or {}).values())
        if reason and is_finished:
            raise StorageError(f'damaged at byte {end} of {self._size}: {reason}')
        self.is_whole = not reason
        if reason:
            problem = f'it is unfinished or cut off at byte {end} of {self._size} ({reason})'
        elif problem or not is_finished:
            problem = f'its index is damaged ({problem or "no footer"})'
        if problem:
            repair = f'"mcap recover {path.name} -o NEW.mcap" repairs it'
            self.remark = f'{problem}; the {count} messages that are whole were found; {repair}'
        return index

    def _has_footer(self) -> bool:
        start = self._size - records.FOOTER_BYTES
        if start < len(records.MAGIC):
            return False
        data = self._read(start, records.FOOTER_BYTES)
        head = records.parse_head(data[: records.RECORD_HEAD_BYTES]) if data[0] else (0, 0)
        return data.endswith(records.MAGIC) and head == (records.FOOTER, 20)

    def _read_summary(self) -> _Index | None:
        """Read the index; None if the file has none, StorageError if it is damaged."""
        end = self._size - records.FOOTER_BYTES
        footer = self._read(end, records.FOOTER_BYTES)
        content = memoryview(footer)[records.RECORD_HEAD_BYTES : -len(records.MAGIC)]
        start, _, crc = records.Fields(content).numbers('QQI')
        if not start:
            return None
        if not len(records.MAGIC) <= start <= end:
            raise StorageError(f'the summary begins at byte {start} of {self._size}')
        data = self._read(start, end - start)
        if crc and crc32(footer[: records.RECORD_HEAD_BYTES + 16], crc32(data)) != crc:
            raise StorageError('the CRC of the summary is wrong')
        index, statistics = _Index(), None
        for record in records.split_records(memoryview(data)):
            if record.opcode == records.CHUNK_INDEX:
                index.chunks.append(records.parse_chunk_index(record.content))
            elif record.opcode == records.STATISTICS:
                statistics = records.parse_statistics(record.content)
            else:
                index.add(record)
        return None if statistics is None else _complete(index, statistics)

    def _scan(self) -> tuple[_Index, int, str]:
        """Read all records; return their content, where they end, and why not at the footer."""
        index, offset = _Index(counts=Counter()), len(records.MAGIC)
        while True:
            try:
                opcode, length = self._read_head(offset)
                if opcode in (records.FOOTER, records.DATA_END):
                    return index, offset, ''
                self._add_scanned(index, opcode, offset, length)
            except StorageError as err:
                return index, offset, str(err)
            offset += records.RECORD_HEAD_BYTES + length

    def _add_scanned(self, index: _Index, opcode: int, offset: int, length: int) -> None:
        """Add a record that was found by a scan; nothing of it if it is damaged."""
        assert index.counts is not None
        if opcode == records.MESSAGE:
            if length < records.MESSAGE_HEAD.size:
                raise StorageError(f'a message record of {length} bytes')
            head = self._read(offset + records.RECORD_HEAD_BYTES, records.MESSAGE_HEAD.size)
            number, recorded_ns = _parse_head(memoryview(head))
            for values, value in zip(index.loose, (recorded_ns, number, offset), strict=True):
                values.append(value)
            index.counts[number] += 1
        elif opcode == records.CHUNK:
            _, content = self._read_record(offset)
            inner = list(records.split_records(records.parse_chunk(content)[1]))
            heads = [_parse_head(each.content) for each in inner if each.opcode == records.MESSAGE]
            for each in inner:
                index.add(each)
            counts = Counter(number for number, _ in heads)
            index.counts.update(counts)
            start_ns = min((recorded_ns for _, recorded_ns in heads), default=0)
            index.chunks.append(ChunkPlace(start_ns, offset, frozenset(counts)))
        elif opcode in (records.SCHEMA, records.CHANNEL):
            index.add(Record(opcode, offset, self._read_record(offset)[1]))

    def _read_record(self, offset: int) -> tuple[int, memoryview]:
        opcode, length = self._read_head(offset)
        return opcode, memoryview(self._read(offset + records.RECORD_HEAD_BYTES, length))

    def _read_head(self, offset: int) -> tuple[int, int]:
        opcode, length = records.parse_head(self._read(offset, records.RECORD_HEAD_BYTES))
        rest = self._size - offset - records.RECORD_HEAD_BYTES
        if length > rest:
            raise StorageError(f'a record of {length} bytes, of which {rest} are there')
        if length > 2 * MAX_BYTES:
            raise StorageError(f'a record of {length} bytes is not plausible')
        return opcode, length

    def _read(self, offset: int, count: int) -> bytes:
        if offset + count > self._size:
            raise StorageError('the file ends within a record')
        self._file.seek(offset)
        data = self._file.read(count)
        if len(data) != count:
            raise StorageError('the file became shorter while it was read')
        return data


def _complete(index: _Index, statistics: records.Statistics) -> _Index | None:
    """Return the index of a summary with its counts; None if it lacks chunks or channels."""
    if not index.chunks or len(index.chunks) != statistics.num_chunks:
        return None
    if len(index.channels) != statistics.num_channels or not index.schemas:
        return None
    if statistics.messages_by_channel or not statistics.num_messages:
        index.counts = Counter(statistics.messages_by_channel)
    return index


def _to_channel(number: int, channel: ChannelRecord, index: _Index) -> Channel:
    schema = index.schemas.get(channel.schema_id)
    definition = Definition(schema.encoding, schema.text) if schema else NO_DEFINITION
    promised = None if index.counts is None else index.counts[number]
    kind = schema.name if schema else ''
    return Channel(number, channel.topic, kind, channel.encoding, definition, promised)


def _parse_head(content: memoryview) -> tuple[int, int]:
    """Return the channel and the time of a message record."""
    if len(content) < records.MESSAGE_HEAD.size:
        raise StorageError(f'a message record of {len(content)} bytes')
    number, _, recorded_ns, _ = records.MESSAGE_HEAD.unpack_from(content)
    return number, recorded_ns


def _to_message(content: memoryview) -> RawMessage:
    number, recorded_ns = _parse_head(content)
    return RawMessage(recorded_ns, number, bytes(content[records.MESSAGE_HEAD.size :]))


def _recorded_ns(message: RawMessage) -> int:
    return message.recorded_ns
