"""
Kind and size of an image file, read from its header: a damaged one may claim any size.

Decoding a JPEG of 16000x60000 pixels takes a minute and gigabytes, so the size is checked before.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

#: Largest image that is decoded, pixels; no camera of a vehicle has more.
MAX_PIXELS = 100_000_000

_PNG_SIGNATURE = b'\x89PNG\r\n\x1a\n'
#: JPEG markers: start of frame (not the Huffman, arithmetic and extension tables), start of scan,
#: end of image, and those without a length.
JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_SOS, _EOI, _BARE = 0xDA, b'\xff\xd9', frozenset((0x00, 0x01, *range(0xD0, 0xD9)))
_TIFF_WIDTH, _TIFF_HEIGHT = 256, 257


class ImageHeader(NamedTuple):
    """Kind of an image file ('JPEG', 'PNG', 'TIFF' or 'WebP') and its size in pixels."""

    kind: str
    width_px: int
    height_px: int


def read_header(data: bytes) -> ImageHeader:
    """
    Read the kind and the size of an image file.

    :param data: the file.
    :return: its header.
    :raises ValueError: for another kind of file, a header that is cut off or damaged, a size of
        zero or more than MAX_PIXELS pixels, and a JPEG without its end.
    """
    kind = file_kind(data)
    if not kind:
        start = f'begins with {data[:4].hex(" ")}' if data else 'is empty'
        raise ValueError(f'the file is not a JPEG, PNG, TIFF or WebP image: it {start}')
    try:
        width, height = _SIZES[kind](data)
    except (struct.error, LookupError) as err:
        raise ValueError(f'the {kind} is cut off or its header is damaged') from err
    if not 0 < width * height <= MAX_PIXELS:
        raise ValueError(
            f'the header of the {kind} says {width}x{height} pixels: damaged, expected 1 to '
            f'{MAX_PIXELS // 1_000_000} million pixels'
        )
    return ImageHeader(kind, width, height)


def file_kind(data: bytes) -> str:
    """Return 'JPEG', 'PNG', 'TIFF' or 'WebP' by the first bytes of a file; '' for others."""
    if data[:3] == b'\xff\xd8\xff':
        return 'JPEG'
    if data[:8] == _PNG_SIGNATURE:
        return 'PNG'
    if data[:4] in (b'II*\0', b'MM\0*'):
        return 'TIFF'
    return 'WebP' if data[:4] == b'RIFF' and data[8:12] == b'WEBP' else ''


def jpeg_segments(data: bytes) -> Iterator[tuple[int, int]]:
    """
    Walk through the segments of a JPEG's header, up to the start of its scan.

    :param data: the file, or its beginning.
    :return: marker of each segment, and the position of its length field.
    :raises LookupError: if the data end within the header.
    :raises struct.error: likewise.
    """
    position = 2
    while (position := data.find(b'\xff', position)) >= 0:
        while data[position] == 0xFF:
            position += 1
        marker, position = data[position], position + 1
        if marker in _BARE:
            continue
        yield marker, position
        if marker == _SOS:
            return
        position += struct.unpack_from('>H', data, position)[0]
    raise LookupError('no scan')


def jpeg_frame_size(data: bytes, position: int) -> tuple[int, int]:
    """Return width and height of a frame header, one of JPEG_FRAMES, at its length field."""
    height, width = struct.unpack_from('>HH', data, position + 3)
    return width, height


def _jpeg_size(data: bytes) -> tuple[int, int]:
    """Return the size in the frame header; ValueError if the file ends before its end marker."""
    size, scan = (0, 0), 0
    for marker, position in jpeg_segments(data):
        scan = position
        if marker in JPEG_FRAMES:
            size = jpeg_frame_size(data, position)
    if data.find(_EOI, scan) < 0:  # some decoders would fill the missing part with grey
        raise ValueError('the JPEG is cut off: it has no end marker')
    return size


def _png_size(data: bytes) -> tuple[int, int]:
    """Return the size in IHDR; ValueError for a chunk that is longer than the rest of the file."""
    width, height = struct.unpack_from('>II', data, 16)
    position, kind = len(_PNG_SIGNATURE), b''
    while kind != b'IEND':  # a decoder would allocate a chunk of any length
        length, kind = struct.unpack_from('>I4s', data, position)
        position += 12 + length  # length, kind and checksum
        if position > len(data):
            raise ValueError(f'the PNG is cut off or damaged: {length} bytes in a chunk {kind!r}')
    return width, height


def _tiff_size(data: bytes) -> tuple[int, int]:
    """Return the size of the first picture of a TIFF."""
    order = '<' if data[:1] == b'I' else '>'
    (start,) = struct.unpack_from(f'{order}I', data, 4)
    (count,) = struct.unpack_from(f'{order}H', data, start)
    values = {}
    for number in range(count):
        entry = start + 2 + 12 * number
        tag, kind = struct.unpack_from(f'{order}HH', data, entry)
        (values[tag],) = struct.unpack_from(order + ('H' if kind == 3 else 'I'), data, entry + 8)
    return values[_TIFF_WIDTH], values[_TIFF_HEIGHT]


def _webp_size(data: bytes) -> tuple[int, int]:
    """Return the size in the first chunk: extended, lossless or lossy."""
    chunk = data[12:16]
    if chunk == b'VP8X':
        low_w, high_w, low_h, high_h = struct.unpack_from('<HBHB', data, 24)
        return 1 + low_w + (high_w << 16), 1 + low_h + (high_h << 16)
    if chunk == b'VP8L':
        (bits,) = struct.unpack_from('<I', data, 21)
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    width, height = struct.unpack_from('<HH', data, 26)
    return width & 0x3FFF, height & 0x3FFF


_SIZES: Mapping[str, Callable[[bytes], tuple[int, int]]] = {
    'JPEG': _jpeg_size,
    'PNG': _png_size,
    'TIFF': _tiff_size,
    'WebP': _webp_size,
}
