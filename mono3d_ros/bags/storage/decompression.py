"""Decompress chunks, messages and files of bags with bounds, so that damage allocates nothing."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lz4.frame

from mono3d_ros.bags.storage.interface import MAX_BYTES, StorageError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

ZSTD_MAGIC = b'\x28\xb5\x2f\xfd'
_PIECE_BYTES = 2**22
#: Room to leave on the disk where compressed files are unpacked.
_SPARE_BYTES = 2**28


def decompress(data: memoryview, compression: str, size: int | None) -> bytes:
    """
    Decompress a chunk or a message.

    :param data: the compressed bytes.
    :param compression: 'zstd', 'lz4' or empty.
    :param size: number of bytes that it must yield; None if it is not known.
    :return: the bytes.
    :raises StorageError: for damaged data, another size, or more than MAX_BYTES.
    """
    if size is not None and size > MAX_BYTES:
        raise StorageError(f'a chunk of {size} bytes is not plausible')
    if compression == '':
        result = bytes(data)
    elif compression in _DECOMPRESSORS:
        limit = MAX_BYTES if size is None else size
        result = _decompress_frames(data, _DECOMPRESSORS[compression], limit)
    else:
        raise StorageError(f'compression {compression[:20]!r} is not known; expected zstd or lz4')
    if size is not None and len(result) != size:
        raise StorageError(f'a chunk has {len(result)} bytes instead of {size}')
    return result


def is_zstd(data: bytes) -> bool:
    """Return whether bytes are a zstd frame; CDR never begins so."""
    return data.startswith(ZSTD_MAGIC)


def decompress_file(path: Path, out: Path) -> str:
    """
    Decompress a zstd file.

    :param path: the compressed file.
    :param out: the new file.
    :return: empty, or the reason why only the beginning of the file could be decompressed.
    :raises OSError: if the disk is full or the file cannot be read.
    """
    with path.open('rb') as source, out.open('wb') as target:
        try:
            with zstd.open(source, 'rb') as stream:
                while piece := stream.read1(_PIECE_BYTES):
                    if shutil.disk_usage(out.parent).free < len(piece) + _SPARE_BYTES:
                        raise OSError(f'{out.parent}: no room to decompress {path.name}')
                    target.write(piece)
        except (zstd.ZstdError, EOFError, ValueError, MemoryError) as err:
            return f'the zstd stream is damaged or cut off ({" ".join(str(err).split())})'
    return ''


def _decompress_frames(data: memoryview, make: Callable[[], Any], limit: int) -> bytes:
    """Decompress consecutive frames piece by piece; StorageError beyond the limit."""
    result = bytearray()
    rest: bytes | memoryview = data
    try:
        while len(rest):
            frame = make()
            piece = frame.decompress(rest, _PIECE_BYTES)
            while True:
                result += piece
                if len(result) > limit:
                    raise StorageError(f'compressed data hold more than {limit} bytes')
                if frame.eof or (frame.needs_input and not piece):
                    break
                piece = frame.decompress(b'', _PIECE_BYTES)
            if not frame.eof:
                raise StorageError('compressed data are cut off')
            rest = frame.unused_data or b''
    except (zstd.ZstdError, RuntimeError, EOFError, MemoryError) as err:  # lz4 raises RuntimeError
        raise StorageError(
            f'compressed data are damaged ({" ".join(str(err).split())[:80]})'
        ) from err
    return bytes(result)


_DECOMPRESSORS: dict[str, Callable[[], Any]] = {
    'zstd': zstd.ZstdDecompressor,
    'lz4': lz4.frame.LZ4FrameDecompressor,
}
