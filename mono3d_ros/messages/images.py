"""
Convert image and camera_info messages to a Frame, in the node and in bag tools.

Messages are read by field name, so those of ROS and of rosbags both work. For the messages that
are published see the other modules of this package.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import cv2

from mono3d_ros.camera_frame import Frame
from mono3d_ros.messages.bit_depth import BitDepth
from mono3d_ros.messages.compressed_decoding import SizeCheck, decode_compressed
from mono3d_ros.messages.image_decoding import RawImage, decode_raw
from mono3d_ros.messages.intrinsics import Intrinsics, sensor_to_image_affine
from mono3d_ros.messages.primitives import header_stamp_ns
from mono3d_ros.messages.rectification import Rectifier
from stl_core.types import Array


class ImageDecoder:
    """Decodes the images of one stream, raw or compressed; remembers their bit depth."""

    def __init__(
        self, bit_depth: int = 0, on_note: Callable[[str], None] = lambda text: None
    ) -> None:
        """
        Start without an image.

        :param bit_depth: significant bits of 16-bit images; 0 finds them from the values.
        :param on_note: receives, once each, texts on images that are decoded differently from
            their description: a bit depth below 16, or a format that contradicts the file.
        """
        self._bit_depth, self._on_note = BitDepth(bit_depth), on_note
        self._notes: set[str] = set()

    def decode(self, message: Any, check_size: SizeCheck) -> Array:
        """
        Decode the next image of the stream.

        :param message: sensor_msgs Image or CompressedImage.
        :param check_size: raises ValueError for a width and height, pixels, that do not fit.
        :return: (H, W, 3) uint8 RGB.
        :raises ValueError: for an image that cannot be decoded or does not fit.
        """
        bits = self._bit_depth.bits
        if hasattr(message, 'format'):  # only a CompressedImage has one
            described = message.format
            image = decode_compressed(
                message.format,
                message.data,
                bit_depth=self._bit_depth,
                check_size=check_size,
                note=self._note,
            )
        else:
            described = message.encoding
            check_size(message.width, message.height)
            raw = RawImage(
                message.data,
                message.height,
                message.width,
                message.step,
                bool(message.is_bigendian),
            )
            image = decode_raw(message.encoding, raw, self._bit_depth)
        if self._bit_depth.bits != bits and self._bit_depth.bits < 16:
            self._note(
                f'{described} images of at most {self._bit_depth.bits} bits so far: scaled from '
                'that depth; parameter bit_depth sets it'
            )
        return image

    def _note(self, text: str) -> None:
        if text not in self._notes:
            self._notes.add(text)
            self._on_note(text)


def to_frame(
    message: Any, info: Any, camera: str, rectifier: Rectifier, decoder: ImageDecoder | None = None
) -> Frame:
    """
    Decode and rectify an image message with its camera_info.

    :param message: sensor_msgs Image or CompressedImage.
    :param info: sensor_msgs CameraInfo.
    :param camera: name of the camera.
    :param rectifier: whether to rectify the images of this topic.
    :param decoder: decoder of the stream; None: the image is the only one of its stream.
    :return: frame with the stamp and frame_id of the image.
    :raises CameraInfoError: if camera_info has no calibration or cannot be that of a camera.
    :raises ValueError: for an image that cannot be decoded or does not fit camera_info.
    """
    intrinsics = to_intrinsics(info)
    try:
        # the size is checked before decoding: a damaged header may claim gigabytes
        image = (decoder or ImageDecoder()).decode(
            message, partial(sensor_to_image_affine, intrinsics)
        )
        image, P = rectifier(image, intrinsics)
    except cv2.error as err:
        raise ValueError(f'image cannot be converted: {" ".join(str(err).split())}') from err
    frame_id = message.header.frame_id or info.header.frame_id
    stamp_ns = header_stamp_ns(message.header)
    return Frame(camera, image, P, stamp_ns, frame_id, rectifier.concerns(intrinsics))


def to_intrinsics(info: Any) -> Intrinsics:
    """Convert a sensor_msgs CameraInfo to Intrinsics."""
    roi = info.roi
    return Intrinsics(
        width_px=info.width,
        height_px=info.height,
        distortion_model=info.distortion_model,
        D=_floats(info.d),
        K=_floats(info.k),
        R=_floats(info.r),
        P=_floats(info.p),
        binning=(info.binning_x, info.binning_y),
        roi_px=(roi.x_offset, roi.y_offset, roi.width, roi.height),
    )


def _floats(numbers: Iterable[Any]) -> tuple[float, ...]:
    return tuple(float(number) for number in numbers)
