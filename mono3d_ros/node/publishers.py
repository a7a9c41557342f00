"""Publishers of one camera: markers, detections, annotated image and latencies."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from rclpy.qos import QoSProfile

from mono3d_ros.camera_frame import Frame, FrameResult, TargetFrame
from mono3d_ros.messages import annotated_image, detections, markers
from mono3d_ros.node.endpoints import Endpoints
from mono3d_ros.node.message_factory import make_message, message_class
from mono3d_ros.node.node_context import Publisher
from mono3d_ros.perception.worker import STAGES

#: QoS of boxes: reliable, so that any subscriber but a transient-local one matches.
BOXES_QOS = QoSProfile(depth=10)
#: QoS of images: a slow viewer misses some.
IMAGE_QOS = QoSProfile(depth=1)


class Output(NamedTuple):
    """
    A topic whose messages depend on one result alone.

    :param type_name: message type, such as 'vision_msgs/msg/Detection3DArray'.
    :param build: (result, its image, target) -> message; target: frame of reference to publish
        in, None for the camera's.
    :param qos_profile: QoS of the publisher.
    """

    type_name: str
    build: Callable[[FrameResult, Frame, TargetFrame | None], Any]
    qos_profile: QoSProfile = BOXES_QOS


def _detection_array(result: FrameResult, _: Frame, target: TargetFrame | None) -> Any:
    return detections.to_detection_array(result, make_message, target=target)


def _detected_objects(result: FrameResult, _: Frame, target: TargetFrame | None) -> Any:
    return detections.to_detected_objects(result, make_message, target=target)


def _annotated_image(result: FrameResult, frame: Frame, _: TargetFrame | None) -> Any:
    return annotated_image.to_annotated_image(frame.image, result, frame.P, make_message)


#: Topics under ~/, or under ~/CAMERA/ if there are several cameras.
MARKERS, ANNOTATED = 'markers', 'annotated_image/compressed'
#: Topic -> its messages; published in this order, after the markers.
OUTPUTS: dict[str, Output] = {
    'detections': Output('vision_msgs/msg/Detection3DArray', _detection_array),
    'detected_objects': Output('autoware_perception_msgs/msg/DetectedObjects', _detected_objects),
    ANNOTATED: Output('sensor_msgs/msg/CompressedImage', _annotated_image, IMAGE_QOS),
}


def message_types() -> dict[str, str]:
    """Return the topics of a camera -> message type: markers, OUTPUTS and latencies."""
    return {
        MARKERS: 'visualization_msgs/msg/MarkerArray',
        **{topic: output.type_name for topic, output in OUTPUTS.items()},
        **{f'latency/{stage}': 'std_msgs/msg/Float64' for stage in STAGES},
    }


class CameraPublishers:
    """The publishers of one camera."""

    def __init__(self, endpoints: Endpoints, prefix: str) -> None:
        """
        Create a publisher for each installed message type.

        :param endpoints: creates the publishers.
        :param prefix: prefix of the topics below the node's name, see params.Camera.
        """
        kinds = {name: message_class(type_name) for name, type_name in message_types().items()}
        self._publishers: dict[str, Publisher] = {
            name: endpoints.create_publisher(
                kind,
                f'~/{prefix}{name}',
                OUTPUTS[name].qos_profile if name in OUTPUTS else BOXES_QOS,
            )
            for name, kind in kinds.items()
            if kind is not None
        }
        #: Full names of the topics.
        self.topics = tuple(publisher.topic_name for publisher in self._publishers.values())
        self._previous: FrameResult | None = None

    def publish(
        self,
        result: FrameResult,
        frame: Frame,
        target: TargetFrame | None,
        lifetime_s: float,
    ) -> None:
        """
        Publish a result to topics that have subscribers: the markers, then OUTPUTS.

        :param result: detected objects.
        :param frame: image that they were detected in.
        :param target: frame of reference to publish in; None: the camera's.
        :param lifetime_s: lifetime of the markers, seconds.
        """
        if self._has_subscribers(MARKERS):
            self._send_markers(result, target, lifetime_s)
        for topic, output in OUTPUTS.items():
            if self._has_subscribers(topic):
                self._send(topic, output.build(result, frame, target))

    def publish_timings(self, timings_ms: Mapping[str, float]) -> None:
        """Publish the duration of each stage, milliseconds, to topics that have subscribers."""
        for stage, ms in timings_ms.items():
            if self._has_subscribers(topic := f'latency/{stage}'):
                self._send(topic, make_message('std_msgs/msg/Float64', data=ms))

    def clear_markers(self) -> None:
        """Delete the boxes of the last result in viewers, since no other result will follow."""
        if self._previous is not None and self._previous.ids:
            self._send_markers(self._previous.without_objects(), None, 0.0)

    def _send_markers(
        self, result: FrameResult, target: TargetFrame | None, lifetime_s: float
    ) -> None:
        """Publish the boxes and delete those of the previous frame."""
        previous_ids = self._previous.ids if self._previous else ()
        self._previous = result
        array = markers.to_marker_array(
            result, previous_ids, make_message, lifetime_s=lifetime_s, target=target
        )
        self._send(MARKERS, array)

    @property
    def have_subscribers(self) -> bool:
        """Return whether any topic of the camera has a subscriber."""
        return any(map(self._has_subscribers, self._publishers))

    def _has_subscribers(self, topic: str) -> bool:
        publisher = self._publishers.get(topic)
        return publisher is not None and publisher.get_subscription_count() > 0

    def _send(self, topic: str, message: Any) -> None:
        self._publishers[topic].publish(message)


def missing_message_types() -> dict[str, str]:
    """Return the topics that are not published -> the message type that is not installed."""
    return {
        name: type_name
        for name, type_name in message_types().items()
        if message_class(type_name) is None
    }
