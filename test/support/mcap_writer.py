"""Write MCAP files of any shape: chunks or none, every compression, with or without an index."""

import struct
import sys
from binascii import crc32
from collections import Counter
from dataclasses import dataclass

import lz4.frame

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

MAGIC = b'\x89MCAP0\r\n'
COMPRESSORS = {'': bytes, 'zstd': zstd.compress, 'lz4': lz4.frame.compress}


@dataclass(frozen=True)
class Topic:
    """A channel of a file and the schema of its messages; schema_encoding None: no schema."""

    name: str
    type: str
    schema_encoding: str | None
    definition: bytes
    encoding: str = 'cdr'


def record(opcode, content):
    return struct.pack('<BQ', opcode, len(content)) + content


def text(value):
    data = value if isinstance(value, bytes) else value.encode()
    return struct.pack('<I', len(data)) + data


def pairs(layout, items):
    data = b''.join(struct.pack(layout, *each) for each in items)
    return struct.pack('<I', len(data)) + data


def message_record(number, stamp_ns, data):
    return record(5, struct.pack('<HIQQ', number, 0, stamp_ns, stamp_ns) + data)


def write_mcap(
    path, topics, messages, *, compression='', per_chunk=4, has_summary=True, has_end=True
):
    """
    Write a file.

    :param path: the file.
    :param topics: Topics; a channel has the number of its topic, from 1.
    :param messages: (topic name, time in ns, bytes), in the order of writing.
    :param compression: a key of COMPRESSORS.
    :param per_chunk: messages in a chunk; 0: no chunks, as rosbag2's preset fastwrite.
    :param has_summary: whether there is an index (chunked files only).
    :param has_end: whether the file has its summary, footer and final magic.
    """
    numbers = {topic.name: number for number, topic in enumerate(topics, 1)}
    schemas, channels = [], []
    for number, topic in enumerate(topics, 1):
        schema = topic.schema_encoding is not None
        if schema:
            body = text(topic.type) + text(topic.schema_encoding) + text(topic.definition)
            schemas.append(record(3, struct.pack('<H', number) + body))
        body = struct.pack('<HH', number, number if schema else 0)
        channels.append(record(4, body + text(topic.name) + text(topic.encoding) + pairs('', [])))
    declarations = b''.join(schemas + channels)
    data = MAGIC + record(1, text('ros2') + text('small bags'))
    chunk_indexes = []
    if per_chunk == 0:
        data += declarations
        data += b''.join(message_record(numbers[name], ns, cdr) for name, ns, cdr in messages)
    for start in range(0, len(messages) if per_chunk else 0, per_chunk or 1):
        part = messages[start : start + per_chunk]
        body = declarations if start == 0 else b''
        body += b''.join(message_record(numbers[name], ns, cdr) for name, ns, cdr in part)
        times = [ns for _, ns, _ in part]
        packed = COMPRESSORS[compression](body)
        head = struct.pack('<QQQI', min(times), max(times), len(body), crc32(body))
        chunk = record(6, head + text(compression) + struct.pack('<Q', len(packed)) + packed)
        offset, index_of = len(data), {}
        data += chunk
        for number in sorted({numbers[name] for name, _, _ in part}):
            index_of[number] = len(data)
            entries = [(ns, 0) for name, ns, _ in part if numbers[name] == number]
            data += record(7, struct.pack('<H', number) + pairs('<QQ', entries))
        chunk_indexes.append(
            record(
                8,
                struct.pack('<QQQQ', min(times), max(times), offset, len(chunk))
                + pairs('<HQ', index_of.items())
                + struct.pack('<Q', len(data) - offset - len(chunk))
                + text(compression)
                + struct.pack('<QQ', len(packed), len(body)),
            )
        )
    if has_end:
        data += record(15, struct.pack('<I', 0))
        start, summary = 0, b''
        if has_summary:
            counts = Counter(numbers[name] for name, _, _ in messages)
            times = [ns for _, ns, _ in messages]
            statistics = struct.pack(
                '<QHIIIIQQ',
                *(len(messages), len(schemas), len(channels), 0, 0, len(chunk_indexes)),
                *(min(times), max(times)),
            )
            start = len(data)
            summary = declarations + b''.join(chunk_indexes)
            summary += record(11, statistics + pairs('<HQ', sorted(counts.items())))
        footer = struct.pack('<BQ', 2, 20) + struct.pack('<QQ', start, 0)
        crc = crc32(summary + footer) if has_summary else 0
        data += summary + footer + struct.pack('<I', crc) + MAGIC
    path.write_bytes(data)
    return path
