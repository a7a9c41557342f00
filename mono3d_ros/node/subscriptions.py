"""Subscriptions of one camera: images, raw or compressed, and camera_info."""

from __future__ import annotations

import posixpath
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from rclpy.qos import QoSProfile, QoSReliabilityPolicy
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from mono3d_ros.messages.primitives import header_stamp_ns
from mono3d_ros.node.endpoints import Endpoints
from mono3d_ros.node.node_context import NodeContext
from mono3d_ros.params import Camera
from mono3d_ros.perception.image_buffer import INFOS_KEPT, ImageBuffer

#: Suffix that each transport appends to the image topic, and its message class.
RAW, COMPRESSED = ('', Image), ('/compressed', CompressedImage)
TRANSPORTS = {'raw': (RAW,), 'compressed': (COMPRESSED,), 'auto': (RAW, COMPRESSED)}
RELIABILITIES = {
    'best_effort': QoSReliabilityPolicy.BEST_EFFORT,
    'reliable': QoSReliabilityPolicy.RELIABLE,
}

#: If both transports are published, the node switches to the other one after this much silence.
TRANSPORT_SWITCH_NS = 1_000_000_000


@dataclass(frozen=True)
class ResolvedTopics:
    """
    Full names of the topics that a camera publishes.

    :param base: name of the image topic, without the suffix of a transport.
    :param images: topic of the images -> message class, at least one.
    :param info: topic of the camera_info.
    """

    base: str
    images: Mapping[str, type]
    info: str

    def __str__(self) -> str:
        """Return the topics, separated by commas."""
        return ', '.join((*self.images, self.info))


def resolve_topics(node: NodeContext, camera: Camera) -> ResolvedTopics:
    """
    Return the full topic names of a camera.

    camera_info is next to the image topic, remapped or not, unless a parameter names it or it is
    remapped itself.
    """
    params, ending = camera.params, COMPRESSED[0]
    image = node.resolve_topic_name(params.image_topic)
    image = image[: -len(ending)] if image.endswith(ending) else image
    images = {image + suffix: kind for suffix, kind in TRANSPORTS[params.transport]}
    if params.camera_info_topic:
        return ResolvedTopics(image, images, node.resolve_topic_name(params.camera_info_topic))
    name = f'{camera.prefix}camera_info'
    info = node.resolve_topic_name(name)
    if info == node.resolve_topic_name(name, only_expand=True):
        info = posixpath.join(posixpath.dirname(image), 'camera_info')
    return ResolvedTopics(image, images, info)


class CameraSubscriptions:
    """Subscriptions of one camera, which fill the image buffer."""

    def __init__(
        self,
        endpoints: Endpoints,
        camera: str,
        topics: ResolvedTopics,
        reliability: str,
        image_buffer: ImageBuffer,
    ) -> None:
        """
        Subscribe.

        :param endpoints: creates the subscriptions.
        :param camera: name of the camera.
        :param topics: topics to subscribe to.
        :param reliability: key of RELIABILITIES.
        :param image_buffer: stores the images and camera_infos.
        """
        self._camera, self._image_buffer = camera, image_buffer
        self._active_type: type | None = None  # message class of the transport in use
        self._last_image_ns = time.monotonic_ns()
        newest = QoSProfile(depth=1, reliability=RELIABILITIES[reliability])
        # camera_infos are small and an image may need any of them: keep all of a busy moment
        all_infos = QoSProfile(depth=INFOS_KEPT, reliability=RELIABILITIES[reliability])
        for topic, kind in topics.images.items():
            endpoints.create_subscription(kind, topic, partial(self._on_image, kind), newest)
        endpoints.create_subscription(CameraInfo, topics.info, self._on_info, all_infos)

    @property
    def silent_s(self) -> float:
        """Seconds since the last image, or since the subscription began."""
        return (time.monotonic_ns() - self._last_image_ns) / 1e9

    def _on_image(self, msg_type: type, message: Any) -> None:
        """Store an image; ignore a second transport that carries the same images."""
        now_ns = time.monotonic_ns()
        if (
            self._active_type not in (None, msg_type)
            and now_ns - self._last_image_ns < TRANSPORT_SWITCH_NS
        ):
            return
        self._active_type, self._last_image_ns = msg_type, now_ns
        self._image_buffer.put_image(self._camera, header_stamp_ns(message.header), message)

    def _on_info(self, message: Any) -> None:
        """Store a camera_info."""
        self._image_buffer.put_info(self._camera, header_stamp_ns(message.header), message)
