"""Width and height of PNG and JPEG files from their headers, without decoding the pixels."""

from __future__ import annotations

import struct
from pathlib import Path

import cv2
import numpy as np

from stl_core import image_header
from stl_core.data.frame_source import DataError, require_exists
from stl_core.types import Array

#: A PNG's IHDR is complete after this many bytes.
PNG_HEADER_BYTES = 24
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
        if image_header.file_kind(data) == 'PNG' and data[12:16] == b'IHDR':
            size = np.frombuffer(data[16:24], '>u4').astype(np.int64)
            return _require_positive(size, path)
        data += file.read(JPEG_HEADER_BYTES)
        size_px = _jpeg_size(data) if image_header.file_kind(data) == 'JPEG' else None
        if size_px is None:
            size_px = _decoded_size(data + file.read())
    return _require_positive(size_px, path)


def decode_picture(data: bytes, flags: int = cv2.IMREAD_COLOR) -> Array | None:
    """
    Decode a PNG, JPEG, TIFF or WebP file.

    :param data: the file.
    :param flags: of cv2.imdecode.
    :return: (H, W, 3) uint8 BGR by default; None for another file, and for one that is damaged,
        cut off or larger than image_header.MAX_PIXELS.
    """
    try:
        image_header.read_header(data)  # a damaged header may claim gigabytes
        return cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except (ValueError, cv2.error):
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
    try:
        for marker, position in image_header.jpeg_segments(data):
            if marker == EXIF_MARKER:
                return None
            if marker in image_header.JPEG_FRAMES:
                return np.array(image_header.jpeg_frame_size(data, position), np.int64)
    except (LookupError, struct.error):
        pass
    return None
