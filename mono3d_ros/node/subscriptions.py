"""Subscriptions of one camera: images, raw or compressed, and camera_info."""

from __future__ import annotations

import posixpath
import time
from collections.abc import Callable, Collection, Mapping
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

#: Message types as the ROS graph names them.
TYPE_NAMES = {
    kind: f'sensor_msgs/msg/{kind.__name__}' for kind in (Image, CompressedImage, CameraInfo)
}

#: If both transports are published, the node switches to the other one after this much silence.
TRANSPORT_SWITCH_NS = 1_000_000_000


#: Images without any camera_info: how often to look for a publisher that keeps it.
KEPT_INFOS_CHECK_NS = 500_000_000


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
        log: Callable[[str], Any],
    ) -> None:
        """
        Subscribe.

        :param endpoints: creates the subscriptions.
        :param camera: name of the camera.
        :param topics: topics to subscribe to.
        :param reliability: key of RELIABILITIES.
        :param image_buffer: stores the images and camera_infos.
        :param log: receives a text when a topic is subscribed as another type.
        """
        self._camera, self._image_buffer = camera, image_buffer
        self._endpoints, self._topics, self._log = endpoints, topics, log
        self._active_type: type | None = None  # message class of the transport in use
        self._last_image_ns = time.monotonic_ns()
        self._newest = QoSProfile(depth=1, reliability=RELIABILITIES[reliability])
        self._images: dict[str, type] = {}  # subscribed topics of images
        # camera_infos are small and an image may need any of them: keep all of a busy moment
        all_infos = QoSProfile(depth=INFOS_KEPT, reliability=RELIABILITIES[reliability])
        for topic, kind in topics.images.items():
            self._subscribe(topic, kind)
        endpoints.create_subscription(CameraInfo, topics.info, self._on_info, all_infos)
        self._last_info: Any = None
        self._gets_kept_infos, self._next_check_ns = False, 0

    @property
    def silent_s(self) -> float:
        """Seconds since the last image, or since the subscription began."""
        return (time.monotonic_ns() - self._last_image_ns) / 1e9

    def follow_types(self) -> dict[str, str]:
        """
        Subscribe to the image topic as the type that it is published as, if transport permits it.

        A CompressedImage need not be on a topic that ends with /compressed. Only the spinning
        thread may call this.

        :return: topic that is published as another type -> description.
        """
        base, allowed = self._topics.base, set(self._topics.images.values())
        published = self._endpoints.published_types(base)
        others = self._endpoints.published_types(base + COMPRESSED[0])
        for kind in allowed:
            if published == {TYPE_NAMES[kind]} and self._images.get(base) != kind and not others:
                self._endpoints.destroy_subscription(base)
                self._images.pop(base, None)
                self._subscribe(base, kind)
                self._log(
                    f'{self._camera}: {base} is published as {TYPE_NAMES[kind]}: used as such'
                )
        return self._wrong_types()

    def _wrong_types(self) -> dict[str, str]:
        """Describe topics that are published, but not as the type that is subscribed."""
        infos = {self._topics.info: CameraInfo}
        types = {t: self._endpoints.published_types(t) for t in (*self._images, *infos)}
        wrong = _differing(infos, types)
        if not any(TYPE_NAMES[kind] in types[topic] for topic, kind in self._images.items()):
            wrong |= _differing(self._images, types)
            base = self._topics.base
            if base not in self._images and (published := self._endpoints.published_types(base)):
                wrong[base] = _describe(base, published, CompressedImage)
        return wrong

    def _subscribe(self, topic: str, kind: type) -> None:
        """Subscribe to images on a topic."""
        self._endpoints.create_subscription(
            kind, topic, partial(self._on_image, kind), self._newest
        )
        self._images[topic] = kind  # only now: follow_types tries again after an exception

    def _on_image(self, msg_type: type, message: Any) -> None:
        """Store an image; ignore a second transport that carries the same images."""
        now_ns = time.monotonic_ns()
        if (
            self._active_type not in (None, msg_type)
            and now_ns - self._last_image_ns < TRANSPORT_SWITCH_NS
        ):
            return
        self._active_type, self._last_image_ns = msg_type, now_ns
        if self._last_info is None and not self._gets_kept_infos and now_ns >= self._next_check_ns:
            self._next_check_ns = now_ns + KEPT_INFOS_CHECK_NS
            self._follow_kept_infos()
        self._image_buffer.put_image(self._camera, header_stamp_ns(message.header), message)

    def _follow_kept_infos(self) -> None:
        """Subscribe to camera_info that was published once and kept, if there is any."""
        topic = self._topics.info
        if self._endpoints.has_kept_messages(topic):
            self._gets_kept_infos = True
            self._endpoints.subscribe_to_kept_messages(
                CameraInfo, topic, self._on_info, INFOS_KEPT
            )
            self._log(
                f'{self._camera}: {topic} keeps its messages (transient local): subscribed to them'
            )

    def _on_info(self, message: Any) -> None:
        """Store a camera_info; with two subscriptions each may come twice."""
        if self._gets_kept_infos and message == self._last_info:
            return
        self._last_info = message
        self._image_buffer.put_info(self._camera, header_stamp_ns(message.header), message)


def _differing(
    topics: Mapping[str, type], published: Mapping[str, Collection[str]]
) -> dict[str, str]:
    """Describe the topics that are published, but never as the expected type."""
    return {
        topic: _describe(topic, published[topic], kind)
        for topic, kind in topics.items()
        if published[topic] and TYPE_NAMES[kind] not in published[topic]
    }


def _describe(topic: str, published: Collection[str], kind: type) -> str:
    """Describe a topic that is published as other types than that of its subscription."""
    text = f'{topic} is published as {", ".join(sorted(published))}, not {TYPE_NAMES[kind]}'
    if kind is not CameraInfo and set(published) & {
        TYPE_NAMES[Image],
        TYPE_NAMES[CompressedImage],
    }:
        return f'{text}: set transport to auto'
    return f'{text}: see {"camera_info_topic" if kind is CameraInfo else "image_topic"}'
