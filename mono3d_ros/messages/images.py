"""
Convert image and camera_info messages to a Frame, in the node and in bag tools.

Messages are read by field name, so those of ROS and of rosbags both work. For the messages that
are published see the other modules of this package.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mono3d_ros.camera_frame import Frame
from mono3d_ros.messages.image_decoding import RawImage, decode_compressed, decode_raw
from mono3d_ros.messages.primitives import header_stamp_ns
from mono3d_ros.messages.rectification import Intrinsics, Rectifier
from stl_core.types import Array


def to_frame(message: Any, info: Any, camera: str, rectifier: Rectifier) -> Frame:
    """
    Decode and rectify an image message with its camera_info.

    :param message: sensor_msgs Image or CompressedImage.
    :param info: sensor_msgs CameraInfo.
    :param camera: name of the camera.
    :param rectifier: rectification.passthrough_image or rectification.rectify_image.
    :return: frame with the stamp and frame_id of the image.
    :raises UncalibratedError: if camera_info has no calibration.
    :raises ValueError: for an image that cannot be decoded or does not fit camera_info.
    """
    image, P = rectifier(to_image(message), to_intrinsics(info))
    frame_id = message.header.frame_id or info.header.frame_id
    return Frame(camera, image, P, header_stamp_ns(message.header), frame_id)


def to_image(message: Any) -> Array:
    """Decode a sensor_msgs Image or CompressedImage to (H, W, 3) uint8 RGB."""
    if hasattr(message, 'format'):  # only a CompressedImage has one
        return decode_compressed(message.format, message.data)
    raw = RawImage(
        message.data, message.height, message.width, message.step, bool(message.is_bigendian)
    )
    return decode_raw(message.encoding, raw)


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
