"""Width and height of PNG and JPEG files from their headers, without decoding the pixels."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from stl_core.data.frame_source import DataError, require_exists
from stl_core.types import Array

PNG_START, JPEG_START = b'\x89PNG\r\n\x1a\n', b'\xff\xd8'
#: A PNG's IHDR is complete after this many bytes.
PNG_HEADER_BYTES = 24
#: JPEG markers of a frame header (SOF); C4, C8 and CC are others.
JPEG_FRAME_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
EXIF_MARKER = 0xE1
#: Frame headers of JPEGs mostly lie within this many bytes.
JPEG_HEADER_BYTES = 1 << 16


def read_picture_size(path: str | Path) -> Array:
    """
    Return the (2,) width and height in pixels of a picture, as read_image decodes it.

    :param path: a PNG or JPEG file. Of a JPEG with Exif, which may turn the picture, and of other
        formats the pixels are decoded.
    :raises DataError: for a missing file, and one that is no picture.
    """
    with require_exists(Path(path), 'an image').open('rb') as file:
        data = file.read(PNG_HEADER_BYTES)
        if data.startswith(PNG_START) and data[12:16] == b'IHDR':
            size = np.frombuffer(data[16:24], '>u4').astype(np.int64)
            return _require_positive(size, path)
        data += file.read(JPEG_HEADER_BYTES)
        size_px = _jpeg_size(data) if data.startswith(JPEG_START) else None
        if size_px is None:
            size_px = _decoded_size(data + file.read())
    return _require_positive(size_px, path)


def decode_picture(data: bytes) -> Array | None:
    """Decode a picture to (H, W, 3) uint8 BGR; None if OpenCV cannot, or finds it too large."""
    try:
        return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data else None
    except cv2.error:
        return None


def _decoded_size(data: bytes) -> Array:
    image = decode_picture(data)
    return np.zeros(2, np.int64) if image is None else np.array(image.shape[1::-1])


def _require_positive(size_px: Array, path: str | Path) -> Array:
    if not (size_px > 0).all():
        raise DataError(f'{path}: not a readable PNG or JPEG image')
    return size_px


def _jpeg_size(data: bytes) -> Array | None:
    """Return width and height of a JPEG's frame header; None without one, or with Exif."""
    at = len(JPEG_START)
    while at + 9 <= len(data) and data[at] == 0xFF:
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], 'big')
        if marker == 0xFF:  # padding before a marker
            at += 1
            continue
        if marker == EXIF_MARKER:
            return None
        if marker in JPEG_FRAME_MARKERS:
            return np.frombuffer(data[at + 5 : at + 9], '>u2')[::-1].astype(np.int64)
        at += 2 + length
    return None
