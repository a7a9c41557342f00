"""
Decode image messages, raw or compressed, to (H, W, 3) uint8 RGB.

The encodings are those of sensor_msgs/image_encodings. 8UC3 and 8UC4 name no colours; they are
read as BGR and BGRA, as OpenCV writes them. 16-bit images lose their low byte (value >> 8), so
the driver of a 12-bit sensor should scale its values up.

cv_bridge, if installed and working, decodes only the encodings that are missing here: for the
others it returns the same pixels more slowly, and a cv_bridge built for another NumPy than the
environment's can crash the node (docs/vehicle.md has the figures).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np

from mono3d_ros.subprocess_probe import PROBES, run_probe
from stl_core.types import Array


@dataclass(frozen=True)
class RawImage:
    """
    The fields of an uncompressed image message.

    :param data: bytes of the pixels; any object with the buffer protocol.
    :param height_px: rows of the image.
    :param width_px: columns of the image.
    :param step_bytes: bytes from the start of one row to the next, padding included.
    :param is_bigendian: byte order of 16-bit pixels.
    """

    data: Any
    height_px: int
    width_px: int
    step_bytes: int
    is_bigendian: bool = False


def decode_raw(encoding: str, raw: RawImage) -> Array:
    """
    Decode an uncompressed image.

    :param encoding: a key of DECODERS, or another encoding of cv_bridge.
    :param raw: the image.
    :return: (H, W, 3) uint8 RGB.
    :raises ValueError: for an unknown encoding or bytes that do not fit it.
    """
    if raw.height_px < 1 or raw.width_px < 1:
        raise ValueError(f'an image of {raw.width_px}x{raw.height_px} pixels')
    if encoding not in DECODERS:
        return _decode_with_cv_bridge(encoding, raw)
    try:
        return DECODERS[encoding](raw)
    except ValueError as err:
        size = f'{raw.width_px}x{raw.height_px}'
        raise ValueError(f'{encoding} image of {size} pixels: {err}') from err


def decode_compressed(format: str, data: Any) -> Array:
    """
    Decode a JPEG or PNG file.

    Pixels stay as stored: applying an EXIF orientation would invalidate P.

    :param format: format field of the message; used in error messages only.
    :param data: the bytes of the file.
    :return: (H, W, 3) uint8 RGB.
    :raises ValueError: for depth images and for bytes that are not a JPEG or PNG.
    """
    if 'compressedDepth' in format:
        raise ValueError(f'format {format!r} carries depth, not a picture')
    file = np.frombuffer(data, np.uint8) if len(data) else np.zeros(0, np.uint8)
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    image = cv2.imdecode(file, flags) if file.size else None
    if image is None:
        raise ValueError(f'{file.size} bytes of format {format!r} are not a JPEG or PNG image')
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _rows(raw: RawImage, row_bytes: int, rows: int) -> Array:
    """
    Return the rows of the image without their padding.

    :param raw: the image.
    :param row_bytes: bytes of a row without padding.
    :param rows: number of rows of all planes.
    :return: (rows, row_bytes) uint8, a view; the last row may lack its padding.
    :raises ValueError: with the expected number of bytes, if it differs.
    """
    if raw.step_bytes < row_bytes:
        raise ValueError(f'step is {raw.step_bytes} bytes, but a row takes {row_bytes}')
    data = np.frombuffer(raw.data, np.uint8) if len(raw.data) else np.zeros(0, np.uint8)
    full = raw.step_bytes * rows
    if not full - raw.step_bytes + row_bytes <= data.size <= full:
        raise ValueError(
            f'expected {full} bytes ({rows} rows of {raw.step_bytes}), got {data.size}'
        )
    return np.ndarray((rows, row_bytes), np.uint8, buffer=data, strides=(raw.step_bytes, 1))


def _pixels(raw: RawImage, channels: int) -> Array:
    """Return the 8-bit values, (H, W, channels) uint8, contiguous."""
    rows = _rows(raw, raw.width_px * channels, raw.height_px)
    return np.ascontiguousarray(rows).reshape(raw.height_px, raw.width_px, channels)


def _decode_8bit(raw: RawImage, channels: int, code: int) -> Array:
    """Decode interleaved 8-bit channels with an OpenCV colour conversion."""
    return cv2.cvtColor(_pixels(raw, channels), code)


def _decode_rgb8(raw: RawImage) -> Array:
    """Return the pixels unchanged: they are RGB already."""
    return _pixels(raw, 3)


def _high_bytes(raw: RawImage, channels: int) -> Array:
    """Return the high byte of each 16-bit value, (H, W, channels) uint8, contiguous."""
    rows = _rows(raw, raw.width_px * 2 * channels, raw.height_px)
    high = rows[:, 0 if raw.is_bigendian else 1 :: 2]
    return np.ascontiguousarray(high).reshape(raw.height_px, raw.width_px, channels)


def _decode_16bit(raw: RawImage, channels: int, code: int) -> Array:
    """Decode interleaved 16-bit channels, value >> 8, with an OpenCV colour conversion."""
    return cv2.cvtColor(_high_bytes(raw, channels), code)


def _check_even(raw: RawImage, sizes_px: Mapping[str, int]) -> None:
    """Raise ValueError for an odd width or height: neighbouring pixels share their colour."""
    for name, size in sizes_px.items():
        if size % 2:
            raise ValueError(f'the {name} must be even, got {size}')


def _decode_bayer(raw: RawImage, values: Callable[[RawImage, int], Array], code: int) -> Array:
    """
    Decode a Bayer mosaic by bilinear interpolation.

    :param values: _pixels for 8 bits, _high_bytes for 16.
    """
    _check_even(raw, {'width': raw.width_px, 'height': raw.height_px})
    return cv2.cvtColor(values(raw, 1)[..., 0], code)


def _decode_yuv422(raw: RawImage, code: int) -> Array:
    """Decode YUV 4:2:2: two bytes per pixel; two pixels in a row share a colour."""
    _check_even(raw, {'width': raw.width_px})
    return cv2.cvtColor(_pixels(raw, 2), code)


def _decode_yuv420(raw: RawImage, code: int) -> Array:
    """Decode YUV 4:2:0: a luma plane, then a chroma plane of half the height for 2x2 pixels."""
    _check_even(raw, {'width': raw.width_px, 'height': raw.height_px})
    rows = _rows(raw, raw.width_px, raw.height_px * 3 // 2)
    return cv2.cvtColor(np.ascontiguousarray(rows), code)


@lru_cache(maxsize=1)
def _working_cv_bridge() -> Any:
    """
    Return a working CvBridge, or None.

    A cv_bridge built for another NumPy may crash the process instead of raising an exception, so
    it is first tested in a subprocess.
    """
    if run_probe(PROBES['cv_bridge']).error:
        return None
    from cv_bridge import CvBridge

    return CvBridge()


def _decode_with_cv_bridge(encoding: str, raw: RawImage) -> Array:
    """
    Decode an encoding that is not in DECODERS with cv_bridge.

    :raises ValueError: without a working cv_bridge, or if it does not know the encoding either.
    """
    bridge, known = _working_cv_bridge(), ', '.join(DECODERS)
    if bridge is None:
        raise ValueError(f'encoding {encoding!r} is not known; known are {known}')
    try:
        image = bridge.imgmsg_to_cv2(_to_image_message(encoding, raw), 'rgb8')
    except Exception as err:
        reason = ' '.join(str(err).split())
        raise ValueError(
            f'encoding {encoding!r} is not known, and cv_bridge says {reason!r}; known are {known}'
        ) from err
    return np.ascontiguousarray(image, np.uint8)


def _to_image_message(encoding: str, raw: RawImage) -> SimpleNamespace:
    """Build the fields of a sensor_msgs Image that cv_bridge reads."""
    return SimpleNamespace(
        encoding=encoding,
        height=raw.height_px,
        width=raw.width_px,
        step=raw.step_bytes,
        is_bigendian=int(raw.is_bigendian),
        data=raw.data,
    )


_GREY = partial(_decode_8bit, channels=1, code=cv2.COLOR_GRAY2RGB)
_BGR = partial(_decode_8bit, channels=3, code=cv2.COLOR_BGR2RGB)
_BGRA = partial(_decode_8bit, channels=4, code=cv2.COLOR_BGRA2RGB)
_GREY16 = partial(_decode_16bit, channels=1, code=cv2.COLOR_GRAY2RGB)
_UYVY = partial(_decode_yuv422, code=cv2.COLOR_YUV2RGB_UYVY)
_YUYV = partial(_decode_yuv422, code=cv2.COLOR_YUV2RGB_YUY2)

#: OpenCV names a Bayer pattern by the second row's second and third pixel, ROS by the first four,
#: hence the pairs of different letters.
_BAYER_PATTERNS = {
    'rggb': cv2.COLOR_BayerBG2RGB,
    'bggr': cv2.COLOR_BayerRG2RGB,
    'gbrg': cv2.COLOR_BayerGR2RGB,
    'grbg': cv2.COLOR_BayerGB2RGB,
}

#: Encoding -> decoder that returns (H, W, 3) uint8 RGB.
DECODERS: Mapping[str, Callable[[RawImage], Array]] = {
    'rgb8': _decode_rgb8,
    'bgr8': _BGR,
    'rgba8': partial(_decode_8bit, channels=4, code=cv2.COLOR_RGBA2RGB),
    'bgra8': _BGRA,
    'mono8': _GREY,
    'rgb16': partial(_high_bytes, channels=3),
    'bgr16': partial(_decode_16bit, channels=3, code=cv2.COLOR_BGR2RGB),
    'rgba16': partial(_decode_16bit, channels=4, code=cv2.COLOR_RGBA2RGB),
    'bgra16': partial(_decode_16bit, channels=4, code=cv2.COLOR_BGRA2RGB),
    'mono16': _GREY16,
    '8UC1': _GREY,
    '8UC3': _BGR,
    '8UC4': _BGRA,
    '16UC1': _GREY16,
    **{
        f'bayer_{p}8': partial(_decode_bayer, values=_pixels, code=c)
        for p, c in _BAYER_PATTERNS.items()
    },
    **{
        f'bayer_{p}16': partial(_decode_bayer, values=_high_bytes, code=c)
        for p, c in _BAYER_PATTERNS.items()
    },
    'yuv422': _UYVY,
    'uyvy': _UYVY,
    'yuv422_yuy2': _YUYV,
    'yuyv': _YUYV,
    'nv12': partial(_decode_yuv420, code=cv2.COLOR_YUV2RGB_NV12),
    'nv21': partial(_decode_yuv420, code=cv2.COLOR_YUV2RGB_NV21),
}
