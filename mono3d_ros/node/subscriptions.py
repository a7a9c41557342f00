"""What comes in of one camera: its images, raw or compressed, and its camera_info."""

from __future__ import annotations

import posixpath
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from rclpy.qos import QoSProfile, QoSReliabilityPolicy
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from mono3d_ros.messages.primitives import stamp_ns
from mono3d_ros.node.endpoints import Endpoints
from mono3d_ros.params import Camera
from mono3d_ros.perception.image_buffer import INFOS_KEPT, LatestFrames

#: What each transport adds to the image topic, and the type there.
RAW, COMPRESSED = ('', Image), ('/compressed', CompressedImage)
TRANSPORTS = {'raw': (RAW,), 'compressed': (COMPRESSED,), 'auto': (RAW, COMPRESSED)}
RELIABILITIES = {
    'best_effort': QoSReliabilityPolicy.BEST_EFFORT,
    'reliable': QoSReliabilityPolicy.RELIABLE,
}

#: Where both transports are there, the other one is heeded after so long a silence.
SWITCH_NS = 1_000_000_000


@dataclass(frozen=True)
class Topics:
    """
    Full names of what a camera sends.

    :param images: topic of its images -> message class, at least one.
    :param info: topic of its camera_info.
    """

    images: Mapping[str, type]
    info: str

    def __str__(self) -> str:
        """List them."""
        return ', '.join((*self.images, self.info))


def topics_of(node: Any, camera: Camera) -> Topics:
    """
    Resolve the topics of a camera.

    camera_info lies beside the image topic, remapped or not, unless it is given by parameter or
    remapped itself.
    """
    said, tail = camera.params, COMPRESSED[0]
    image = node.resolve_topic_name(said.image_topic)
    image = image[: -len(tail)] if image.endswith(tail) else image
    images = {image + suffix: kind for suffix, kind in TRANSPORTS[said.transport]}
    if said.camera_info_topic:
        return Topics(images, node.resolve_topic_name(said.camera_info_topic))
    name = f'{camera.prefix}camera_info'
    info = node.resolve_topic_name(name)
    if info == node.resolve_topic_name(name, only_expand=True):
        info = posixpath.join(posixpath.dirname(image), 'camera_info')
    return Topics(images, info)


class CameraInput:
    """The subscriptions of one camera."""

    def __init__(
        self,
        endpoints: Endpoints,
        camera: str,
        topics: Topics,
        reliability: str,
        latest: LatestFrames,
    ) -> None:
        """
        Subscribe.

        :param endpoints: makes the subscriptions.
        :param camera: our name of it.
        :param topics: what to subscribe to.
        :param reliability: key of RELIABILITIES.
        :param latest: where images and camera_infos go.
        """
        self._camera, self._latest = camera, latest
        self._carrier: type | None = None  # the message class that images come as
        self._heard_ns = time.monotonic_ns()
        newest = QoSProfile(depth=1, reliability=RELIABILITIES[reliability])
        # infos are small and each may be wanted, so none shall be lost to a busy moment
        all_infos = QoSProfile(depth=INFOS_KEPT, reliability=RELIABILITIES[reliability])
        for topic, kind in topics.images.items():
            endpoints.subscribe(kind, topic, partial(self._on_image, kind), newest)
        endpoints.subscribe(CameraInfo, topics.info, self._on_info, all_infos)

    @property
    def silent_s(self) -> float:
        """How long ago the last image came, or the subscription began."""
        return (time.monotonic_ns() - self._heard_ns) / 1e9

    def _on_image(self, kind: type, message: Any) -> None:
        """Store an image; of two transports of the same pictures only one is heeded."""
        now_ns = time.monotonic_ns()
        if self._carrier not in (None, kind) and now_ns - self._heard_ns < SWITCH_NS:
            return
        self._carrier, self._heard_ns = kind, now_ns
        self._latest.put_image(self._camera, stamp_ns(message.header), message)

    def _on_info(self, message: Any) -> None:
        """Store a camera_info."""
        self._latest.put_info(self._camera, stamp_ns(message.header), message)
