"""
Image and camera_info topics of a bag, described by their first messages.

Names are a weak hint: they exclude a topic only if its pixels say the same.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any

import numpy as np

from mono3d_ros.bags.drive_query import COMPRESSED_IMAGE_TYPE
from mono3d_ros.messages.image_decoding import ENCODINGS, MEASUREMENTS
from mono3d_ros.messages.images import ImageDecoder
from stl_core.types import Array

#: Words in names of images that are computed, not taken, or are not of visible light.
HINTS = frozenset(
    'annotated confidence debug depth disparity flow heatmap infra infra1 infra2 instance ir '
    'label labels mask masks normals overlay seg segmentation segmented semantic thermal'.split()
)
#: Pixels of a mask or of labels have at most this many different values.
MAX_MASK_VALUES = 16


class ImageKind(IntEnum):
    """Content of an image topic, best first."""

    COLOR = 0
    MOSAIC = 1
    GREY = 2
    UNREADABLE = 3
    EMPTY = 4
    MEASUREMENT = 5


@dataclass(frozen=True)
class ImageTopic:
    """
    An image topic, described by its first message.

    :param topic: name of the topic.
    :param type: IMAGE_TYPE or COMPRESSED_IMAGE_TYPE.
    :param encoding: encoding or format field; '' without a message.
    :param kind: content.
    :param size_px: width and height; (0, 0) if unknown.
    :param frame_id: frame of the header; '' if unknown.
    :param has_few_values: whether the pixels have so few values as those of a mask.
    """

    topic: str
    type: str
    encoding: str = ''
    kind: ImageKind = ImageKind.EMPTY
    size_px: tuple[int, int] = (0, 0)
    frame_id: str = ''
    has_few_values: bool = False

    @property
    def base(self) -> str:
        """Topic without the suffix of its transport."""
        return self.topic.removesuffix('/compressedDepth').removesuffix('/compressed')

    @property
    def namespace(self) -> str:
        """Namespace of the topic, without a slash at its end."""
        return self.base.rsplit('/', 1)[0]

    @property
    def hint(self) -> str:
        """A word in the name that speaks against a picture; '' without one."""
        return next((word for word in re.split('[/_]', self.base.lower()) if word in HINTS), '')

    @property
    def is_picture(self) -> bool:
        """False for measurements, and for masks by their pixels and name."""
        return self.kind != ImageKind.MEASUREMENT and not (self.has_few_values and self.hint)

    def __str__(self) -> str:
        """Return the topic with the reasons for or against it."""
        facts = [self.encoding.strip() or 'without a message', self.kind.name.lower()]
        facts += ['few values, as a mask'] * self.has_few_values
        facts += [f'"{self.hint}" in its name'] if self.hint else []
        return f'{self.topic} ({", ".join(facts)})'


@dataclass(frozen=True)
class InfoTopic:
    """A camera_info topic: its name, and size (0, 0 if unknown) and frame of its first message."""

    topic: str
    size_px: tuple[int, int] = (0, 0)
    frame_id: str = ''


def describe_image(topic: str, type: str, message: Any) -> ImageTopic:
    """
    Describe an image topic by its first message.

    :param topic: name of the topic.
    :param type: IMAGE_TYPE or COMPRESSED_IMAGE_TYPE.
    :param message: the message; None if there is none or it cannot be decoded.
    """
    if message is None:
        is_depth = topic.endswith('/compressedDepth')
        kind = ImageKind.MEASUREMENT if is_depth else ImageKind.EMPTY
        return ImageTopic(topic, type, kind=kind)
    encoding = str(message.format if type == COMPRESSED_IMAGE_TYPE else message.encoding)
    described = ImageTopic(topic, type, encoding, frame_id=message.header.frame_id)
    camera_encoding = encoding.partition(';')[0].strip()
    if MEASUREMENTS.fullmatch(camera_encoding) or 'compressedDepth' in encoding:
        return replace(described, kind=ImageKind.MEASUREMENT)
    try:
        pixels = ImageDecoder().decode(message, lambda width_px, height_px: None)
    except ValueError:
        return replace(described, kind=ImageKind.UNREADABLE)
    height, width = pixels.shape[:2]
    return replace(
        described,
        kind=_kind_of(camera_encoding, pixels),
        size_px=(width, height),
        has_few_values=_has_few_values(pixels),
    )


def describe_info(topic: str, message: Any) -> InfoTopic:
    """Describe a camera_info topic by its first message; None if there is none."""
    if message is None:
        return InfoTopic(topic)
    return InfoTopic(topic, (message.width, message.height), message.header.frame_id)


def fits(image: ImageTopic, info: InfoTopic) -> bool:
    """Return whether a camera_info elsewhere has the frame and the size of a picture."""
    if image.kind in (ImageKind.MEASUREMENT, ImageKind.EMPTY):
        return False
    frames = {image.frame_id.lstrip('/'), info.frame_id.lstrip('/')} - {''}
    sizes = {image.size_px, info.size_px} - {(0, 0)}
    return len(frames) <= 1 and len(sizes) <= 1


def _kind_of(encoding: str, pixels: Array) -> ImageKind:
    """Return the kind of a decoded image; the encoding of the camera counts if it is known."""
    if encoding.startswith('bayer_'):
        return ImageKind.MOSAIC
    if encoding in ENCODINGS and not ENCODINGS[encoding].is_color:
        return ImageKind.GREY
    if encoding in ENCODINGS:
        return ImageKind.COLOR
    is_grey = (pixels[..., :1] == pixels).all()
    return ImageKind.GREY if is_grey else ImageKind.COLOR


def _has_few_values(pixels: Array) -> bool:
    """Return whether an image has 2 to MAX_MASK_VALUES colours; a black image may be a picture."""
    sample = pixels[::3, ::3].astype(np.uint32)
    colors = np.unique(sample[..., 0] << 16 | sample[..., 1] << 8 | sample[..., 2])
    return 1 < len(colors) <= MAX_MASK_VALUES
