"""What goes out of one camera: boxes in four kinds of message, and how long they took."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rclpy.qos import QoSProfile

from mono3d_ros import camera_frame as camera_frame_module
from mono3d_ros.camera_frame import Frame, FrameResult
from mono3d_ros.messages import annotated_image as annotated_image_module
from mono3d_ros.messages import detections as detections_module
from mono3d_ros.messages import markers as markers_module
from mono3d_ros.node.endpoints import Endpoints
from mono3d_ros.node.message_factory import find, new
from mono3d_ros.perception.worker import STAGES

#: Topics under ~/, or ~/CAMERA/ of several cameras, and their types.
MARKERS, DETECTIONS, DETECTED_OBJECTS = 'markers', 'detections', 'detected_objects'
ANNOTATED = 'annotated_image/compressed'
TYPES = {
    MARKERS: 'visualization_msgs/msg/MarkerArray',
    DETECTIONS: 'vision_msgs/msg/Detection3DArray',
    DETECTED_OBJECTS: 'autoware_perception_msgs/msg/DetectedObjects',
    ANNOTATED: 'sensor_msgs/msg/CompressedImage',
    **{f'latency/{stage}': 'std_msgs/msg/Float64' for stage in STAGES},
}
#: Reliable, so that everybody can hear; a viewer that is too slow misses pictures.
QUALITY, QUALITY_PICTURES = QoSProfile(depth=10), QoSProfile(depth=1)


class CameraOutputs:
    """The publishers of one camera."""

    def __init__(self, endpoints: Endpoints, prefix: str) -> None:
        """
        Advertise what there are message types for.

        :param endpoints: makes the publishers.
        :param prefix: what the topics begin with under the node's name, see params.Camera.
        """
        kinds = {name: find(type_name) for name, type_name in TYPES.items()}
        self._publishers = {
            name: endpoints.advertise(
                kind, f'~/{prefix}{name}', QUALITY_PICTURES if name == ANNOTATED else QUALITY
            )
            for name, kind in kinds.items()
            if kind is not None
        }
        #: Full names of what is advertised.
        self.topics = tuple(publisher.topic_name for publisher in self._publishers.values())
        self._previous: FrameResult | None = None

    def publish(
        self,
        result: FrameResult,
        frame: Frame,
        target: camera_frame_module.Target | None,
        lifetime_s: float,
    ) -> None:
        """
        Send a result to those who listen, the boxes before the picture.

        :param result: what was found.
        :param frame: in what.
        :param target: frame to tell it in; None: the camera's own.
        :param lifetime_s: of the markers.
        """
        if self._is_heard(MARKERS):
            self._send_markers(result, target, lifetime_s)
        if self._is_heard(DETECTIONS):
            self._send(DETECTIONS, detections_module.detections(result, new, target=target))
        if self._is_heard(DETECTED_OBJECTS):
            self._send(
                DETECTED_OBJECTS, detections_module.detected_objects(result, new, target=target)
            )
        if self._is_heard(ANNOTATED):
            self._send(
                ANNOTATED, annotated_image_module.annotated(frame.image, result, frame.P, new)
            )

    def report(self, timings_ms: Mapping[str, float]) -> None:
        """Send how long the stages of a frame took, to those who listen."""
        for stage, ms in timings_ms.items():
            if self._is_heard(topic := f'latency/{stage}'):
                self._send(topic, new('std_msgs/msg/Float64', data=ms))

    def clear(self) -> None:
        """Take the boxes of the last result away from viewers: nothing will follow it."""
        if self._previous is not None and self._previous.ids:
            self._send_markers(self._previous.emptied(), None, 0.0)

    def _send_markers(
        self, result: FrameResult, target: camera_frame_module.Target | None, lifetime_s: float
    ) -> None:
        """Send boxes, and take away those of the frame before."""
        previous_ids = self._previous.ids if self._previous else ()
        self._previous = result
        array = markers_module.markers(
            result, previous_ids, new, lifetime_s=lifetime_s, target=target
        )
        self._send(MARKERS, array)

    def _is_heard(self, topic: str) -> bool:
        publisher = self._publishers.get(topic)
        return publisher is not None and publisher.get_subscription_count() > 0

    def _send(self, topic: str, message: Any) -> None:
        self._publishers[topic].publish(message)


def lacking() -> dict[str, str]:
    """Return the topics that are not advertised -> the message type that is not installed."""
    return {name: type_name for name, type_name in TYPES.items() if find(type_name) is None}
