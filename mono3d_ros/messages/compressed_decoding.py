"""
Decode compressed image messages to (H, W, 3) uint8 RGB, as image_transport's subscriber does.

The format field of a CompressedImage is 'ENCODING; CODEC compressed TARGET', such as 'rgb8; jpeg
compressed bgr8': ENCODING is that of the camera, TARGET that of the pixels in the file. Without a
semicolon ('jpeg', 'png' or nothing), the file alone counts. Rules of compressed_image_transport:

- A colour ENCODING whose TARGET is not bgr has its colours in the file in the reverse order.
- A Bayer ENCODING without TARGET mono8 is a mosaic in a grey file.
- Depth (16UC1, 32FC1, compressedDepth) is not a picture.

A file of another kind than CODEC is decoded as the kind that it is.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from mono3d_ros.messages.bit_depth import BitDepth
from mono3d_ros.messages.image_decoding import (
    ENCODINGS,
    Encoding,
    check_even,
    check_is_picture,
    to_rgb,
)
from stl_core.image_header import read_header
from stl_core.types import Array

#: Raises ValueError if an image of this width and height in pixels does not fit its camera.
SizeCheck = Callable[[int, int], Any]

#: Encodings for which image_transport's subscriber exchanges red and blue, unless TARGET is bgr.
SWAPPED_ENCODINGS = frozenset(
    f'{order}{bits}' for order in ('rgb', 'bgr', 'rgba', 'bgra') for bits in (8, 16)
)
_VIDEO = re.compile(r'h\.?26[45]|hevc|av1|vp[89]|theora|mpeg', re.IGNORECASE)
_CODECS = {'jpeg': 'JPEG', 'jpg': 'JPEG', 'png': 'PNG', 'tif': 'TIFF', 'webp': 'WebP'}


@dataclass(frozen=True)
class CompressedFormat:
    """
    The parts of the format field of a CompressedImage.

    :param encoding: encoding of the camera's image; '' if the field does not name it.
    :param kind: 'JPEG', 'PNG', 'TIFF' or 'WebP'; '' if the field does not name it.
    :param target: encoding of the pixels in the file; '' if the field does not name it.
    """

    encoding: str
    kind: str
    target: str


def parse_format(text: str) -> CompressedFormat:
    """
    Parse the format field of a CompressedImage.

    :param text: the field.
    :return: its parts.
    :raises ValueError: for depth and video.
    """
    encoding, semicolon, compression = (each.strip() for each in text.partition(';'))
    if not semicolon:
        encoding, compression = '', text.strip()
    if 'compresseddepth' in text.lower():
        raise ValueError(f'format {text!r} carries depth, not a picture')
    check_is_picture(encoding or compression)
    if found := _VIDEO.search(compression):
        raise ValueError(
            f'format {text!r} is a {found[0]} video stream; republish it as jpeg or raw images'
        )
    name = compression.lower()
    kind = next((kind for codec, kind in _CODECS.items() if codec in name), '')
    return CompressedFormat(encoding, kind, compression.partition('compressed ')[2])


def decode_compressed(
    format: str,
    data: Any,
    *,
    bit_depth: BitDepth | None = None,
    check_size: SizeCheck = lambda width_px, height_px: None,
    note: Callable[[str], None] = lambda text: None,
) -> Array:
    """
    Decode an image file: JPEG, PNG, TIFF or WebP.

    Pixels stay as stored: applying an EXIF orientation would invalidate P.

    :param format: format field of the message.
    :param data: the bytes of the file.
    :param bit_depth: bit depth of the stream, for 16-bit files; None: that of this image alone.
    :param check_size: called with the width and height in the file's header, before decoding.
    :param note: receives a text if the format field contradicts the file, or leads to another
        order of colours than that of the file.
    :return: (H, W, 3) uint8 RGB.
    :raises ValueError: for depth, video, and bytes that are not an image of that size.
    """
    parts, file = parse_format(format), bytes(data)
    try:
        header = read_header(file)
    except ValueError as err:
        raise ValueError(f'format {format!r}: {err}') from err
    check_size(header.width_px, header.height_px)
    try:
        pixels = cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as err:
        raise ValueError(f'damaged {header.kind} of format {format!r}: {err.err}') from err
    if pixels is None:
        raise ValueError(f'damaged {header.kind} of format {format!r}: it cannot be decoded')
    if pixels.shape[1::-1] != header[1:]:  # such as a TIFF that is to be turned
        size = f'{pixels.shape[1]}x{pixels.shape[0]}'
        raise ValueError(
            f'format {format!r}: {size} pixels, but the header of the {header.kind} says '
            f'{header.width_px}x{header.height_px}: damaged, or to be turned'
        )
    if parts.kind not in ('', header.kind):
        note(f'format {format!r}, but the files are {header.kind}: decoded as {header.kind}')
    return _to_rgb(pixels, format, bit_depth or BitDepth(), note)


def _to_rgb(pixels: Array, format: str, bit_depth: BitDepth, note: Callable[[str], None]) -> Array:
    """Convert the pixels of a file, as OpenCV reads them: grey, BGR or BGRA, 8 or 16 bits."""
    if pixels.dtype not in (np.uint8, np.uint16):
        raise ValueError(f'format {format!r}: a file of {pixels.dtype} numbers is not a picture')
    pixels = pixels.reshape(*pixels.shape[:2], -1)
    if pixels.dtype == np.uint16:
        pixels = bit_depth.to_8bit(pixels)
    layout = _file_layout(parse_format(format), pixels.shape[2])
    if layout in (_RGB_FILE, _RGBA_FILE):
        note(
            f'format {format!r} does not say "compressed bgr": red and blue of the files are '
            'exchanged, as image_transport does'
        )
    check_even(layout, pixels.shape[1], pixels.shape[0])
    return np.ascontiguousarray(to_rgb(pixels, layout))


def _file_layout(parts: CompressedFormat, channels: int) -> Encoding:
    """Return the encoding of a file's pixels, as image_transport's subscriber reads them."""
    if channels == 1:
        is_mosaic = parts.encoding.startswith('bayer_') and parts.target != 'mono8'
        return ENCODINGS[_as_8bit(parts.encoding) if is_mosaic else 'mono8']
    if channels not in (3, 4):
        raise ValueError(f'a file of {channels} values per pixel is not a picture')
    if parts.encoding in SWAPPED_ENCODINGS and not parts.target.startswith('bgr'):
        return _RGB_FILE if channels == 3 else _RGBA_FILE
    return ENCODINGS['bgr8' if channels == 3 else 'bgra8']


def _as_8bit(encoding: str) -> str:
    """Return the 8-bit encoding of a Bayer pattern; ValueError for an unknown pattern."""
    name = f'{encoding.removesuffix("16").removesuffix("8")}8'
    if name not in ENCODINGS:
        known = ', '.join(each for each in ENCODINGS if each.startswith('bayer_'))
        raise ValueError(f'encoding {encoding!r} is not known; known mosaics are {known}')
    return name


_RGB_FILE, _RGBA_FILE = ENCODINGS['rgb8'], ENCODINGS['rgba8']
