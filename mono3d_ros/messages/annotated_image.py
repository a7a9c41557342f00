"""Annotated image: a result drawn on its image, as a JPEG sensor_msgs CompressedImage."""

from __future__ import annotations

from array import array
from typing import Any

import cv2

from mono3d_ros.camera_frame import FrameResult
from mono3d_ros.messages.markers import object_label
from mono3d_ros.messages.primitives import MessageFactory, to_header
from stl_core.types import Array
from stl_core.visualization import draw
from stl_core.visualization.style import class_colour

JPEG_QUALITY = 85


def to_annotated_image(
    image_rgb: Array, result: FrameResult, P: Array, make_message: MessageFactory
) -> Any:
    """
    Draw a result on its image.

    :param image_rgb: (H, W, 3) uint8 RGB, the image of the result.
    :param result: objects to draw.
    :param P: (3, 4) projection matrix of the image.
    :param make_message: message factory.
    :return: sensor_msgs CompressedImage, jpeg.
    """
    objects = result.objects
    colours = [class_colour(result.classes[i]) for i in objects.class_id]
    labels = [object_label(result, row) for row in range(len(objects))]
    drawn = draw.draw_edges(image_rgb, draw.box_edges(objects), P, colours, labels)
    quality = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
    _, jpeg = cv2.imencode('.jpg', cv2.cvtColor(drawn, cv2.COLOR_RGB2BGR), quality)
    return make_message(
        'sensor_msgs/msg/CompressedImage',
        header=to_header(result.stamp_ns, result.frame_id, make_message),
        format='jpeg',
        data=array('B', jpeg.tobytes()),  # rclpy takes minutes for any other type of bytes
    )
