"""
Decode uncompressed image messages to (H, W, 3) uint8 RGB.

The encodings are those of sensor_msgs/image_encodings. 8UC3 and 8UC4 name no colours; they are
read as BGR and BGRA, as OpenCV writes them. 16-bit images are scaled by their bit depth, see
bit_depth.py. 16UC1, 32FC1 and other numbers are measurements, such as depth in millimetres
(REP 118), and are refused.

cv_bridge, if installed and working, decodes only the encodings that are missing here: for the
others it returns the same pixels more slowly, and a cv_bridge built for another NumPy than the
environment's can crash the node (docs/vehicle.md has the figures).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np

from mono3d_ros.messages.bit_depth import BitDepth
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


@dataclass(frozen=True)
class Encoding:
    """
    Layout of the pixels of an encoding, and their conversion to RGB.

    :param channels: values of a pixel, interleaved.
    :param code: OpenCV conversion of the 8-bit values to RGB; None if they are RGB.
    :param is_wide: 16 instead of 8 bits for each value.
    :param is_color: whether the image has colours, or is a mosaic of colours.
    :param even: 'width' and 'height', if neighbouring pixels share their colour.
    :param has_chroma_plane: a plane of half the height follows, with colours for 2x2 pixels.
    """

    channels: int
    code: int | None
    is_wide: bool = False
    is_color: bool = True
    even: tuple[str, ...] = ()
    has_chroma_plane: bool = False


def decode_raw(encoding: str, raw: RawImage, bit_depth: BitDepth | None = None) -> Array:
    """
    Decode an uncompressed image.

    :param encoding: a key of ENCODINGS, or another encoding of cv_bridge.
    :param raw: the image.
    :param bit_depth: bit depth of its stream; None: that of this image alone.
    :return: (H, W, 3) uint8 RGB.
    :raises ValueError: for depth and other measurements, for an unknown encoding, or for bytes
        that do not fit the encoding.
    """
    if raw.height_px < 1 or raw.width_px < 1:
        raise ValueError(f'an image of {raw.width_px}x{raw.height_px} pixels')
    check_is_picture(encoding)
    if encoding not in ENCODINGS:
        return _decode_with_cv_bridge(encoding, raw)
    layout = ENCODINGS[encoding]
    try:
        check_even(layout, raw.width_px, raw.height_px)
        values = _values(raw, layout)
        if layout.is_wide:
            values = (bit_depth or BitDepth()).to_8bit(values)
        return to_rgb(values, layout)
    except ValueError as err:
        size = f'{raw.width_px}x{raw.height_px}'
        raise ValueError(f'{encoding} image of {size} pixels: {err}') from err


def check_is_picture(encoding: str) -> None:
    """Raise ValueError for an encoding of measurements, which no picture has."""
    if MEASUREMENTS.fullmatch(encoding):
        raise ValueError(
            f'encoding {encoding} carries depth or other measurements, not a picture; use the '
            'topic of the camera images, or publish grey 16-bit pictures as mono16'
        )


def check_even(layout: Encoding, width_px: int, height_px: int) -> None:
    """Raise ValueError for an odd size where neighbouring pixels share their colour."""
    for name, size in {'width': width_px, 'height': height_px}.items():
        if name in layout.even and size % 2:
            raise ValueError(f'the {name} must be even, got {size}')


def to_rgb(values: Array, layout: Encoding) -> Array:
    """
    Convert 8-bit values to RGB.

    :param values: (H, W, C) uint8, contiguous; (1.5 H, W, 1) with a chroma plane.
    :param layout: their encoding.
    :return: (H, W, 3) uint8 RGB.
    """
    if layout.code is None:
        return values
    return cv2.cvtColor(values[..., 0] if layout.channels == 1 else values, layout.code)


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


def _values(raw: RawImage, layout: Encoding) -> Array:
    """Return the values of an image, (rows of all planes, W, C) uint8 or uint16, contiguous."""
    rows = raw.height_px * 3 // 2 if layout.has_chroma_plane else raw.height_px
    row_bytes = raw.width_px * layout.channels * (1 + layout.is_wide)
    values = np.ascontiguousarray(_rows(raw, row_bytes, rows))
    if layout.is_wide:
        values = values.view('>u2' if raw.is_bigendian else '<u2')
    return values.reshape(rows, raw.width_px, layout.channels)


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
    Decode an encoding that is not in ENCODINGS with cv_bridge.

    :raises ValueError: without a working cv_bridge, or if it does not know the encoding either.
    """
    bridge, known = _working_cv_bridge(), ', '.join(ENCODINGS)
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


#: Encodings of numbers that are not brightness: depth, disparity, labels, flow.
MEASUREMENTS = re.compile(r'16UC1|(16S|32S|32F|64F|8S)C[1-4]')

_GREY = Encoding(1, cv2.COLOR_GRAY2RGB, is_color=False)
_GREY16 = Encoding(1, cv2.COLOR_GRAY2RGB, is_wide=True, is_color=False)
_BGR = Encoding(3, cv2.COLOR_BGR2RGB)
_BGRA = Encoding(4, cv2.COLOR_BGRA2RGB)
#: YUV 4:2:2: two bytes per pixel; two pixels in a row share a colour.
_UYVY = Encoding(2, cv2.COLOR_YUV2RGB_UYVY, even=('width',))
_YUYV = Encoding(2, cv2.COLOR_YUV2RGB_YUY2, even=('width',))
_2X2 = ('width', 'height')

#: OpenCV names a Bayer pattern by the second row's second and third pixel, ROS by the first four,
#: hence the pairs of different letters.
_BAYER_CODES = {
    'rggb': cv2.COLOR_BayerBG2RGB,
    'bggr': cv2.COLOR_BayerRG2RGB,
    'gbrg': cv2.COLOR_BayerGR2RGB,
    'grbg': cv2.COLOR_BayerGB2RGB,
}

#: Encoding -> its layout; a mosaic is decoded by bilinear interpolation.
ENCODINGS: Mapping[str, Encoding] = {
    'rgb8': Encoding(3, None),
    'bgr8': _BGR,
    'rgba8': Encoding(4, cv2.COLOR_RGBA2RGB),
    'bgra8': _BGRA,
    'mono8': _GREY,
    'rgb16': Encoding(3, None, is_wide=True),
    'bgr16': Encoding(3, cv2.COLOR_BGR2RGB, is_wide=True),
    'rgba16': Encoding(4, cv2.COLOR_RGBA2RGB, is_wide=True),
    'bgra16': Encoding(4, cv2.COLOR_BGRA2RGB, is_wide=True),
    'mono16': _GREY16,
    '8UC1': _GREY,
    '8UC3': _BGR,
    '8UC4': _BGRA,
    **{f'bayer_{p}8': Encoding(1, c, even=_2X2) for p, c in _BAYER_CODES.items()},
    **{f'bayer_{p}16': Encoding(1, c, is_wide=True, even=_2X2) for p, c in _BAYER_CODES.items()},
    'yuv422': _UYVY,
    'uyvy': _UYVY,
    'yuv422_yuy2': _YUYV,
    'yuyv': _YUYV,
    'nv12': Encoding(1, cv2.COLOR_YUV2RGB_NV12, even=_2X2, has_chroma_plane=True),
    'nv21': Encoding(1, cv2.COLOR_YUV2RGB_NV21, even=_2X2, has_chroma_plane=True),
}
