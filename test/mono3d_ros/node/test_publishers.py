import numpy as np
import pytest

pytest.importorskip('rclpy', reason='rclpy is not installed')
pytest.importorskip('visualization_msgs', reason='ROS messages are not installed')

from frame_results import result
from visualization_msgs.msg import Marker

from mono3d_ros.camera_frame import Frame
from mono3d_ros.node.publishers import ANNOTATED, MARKERS, CameraPublishers

FRAME = Frame('front', np.zeros((24, 32, 3), np.uint8), np.eye(3, 4), 7, 'front_optical')


class Publisher:
    def __init__(self, topic_name):
        self.topic_name, self.num_subscribers, self.sent = topic_name, 0, []

    def get_subscription_count(self):
        return self.num_subscribers

    def publish(self, message):
        self.sent.append(message)


class Endpoints:
    def __init__(self):
        self.publishers = {}

    def create_publisher(self, msg_type, name, qos_profile):
        self.publishers[name] = Publisher(name)
        return self.publishers[name]


@pytest.fixture
def endpoints():
    return Endpoints()


@pytest.fixture
def camera_publishers(endpoints):
    return CameraPublishers(endpoints, 'front/')


def deleted(publisher):
    markers = publisher.sent[-1].markers
    return {(m.ns, m.id) for m in markers[1:] if m.action == Marker.DELETE}


def test_topics_of_one_of_several_cameras_start_with_its_name(camera_publishers, endpoints):
    assert {'~/front/markers', '~/front/latency/inference'} <= set(endpoints.publishers)
    assert all(topic.startswith('~/front/') for topic in camera_publishers.topics)


def test_without_subscribers_no_message_is_built(camera_publishers, endpoints, monkeypatch):
    monkeypatch.setattr('mono3d_ros.node.publishers.markers', None)
    camera_publishers.publish(result(2), FRAME, None, 0.3)
    camera_publishers.publish_timings({'inference': 1.0})
    assert not any(publisher.sent for publisher in endpoints.publishers.values())


def test_each_topic_is_published_only_if_it_has_subscribers(camera_publishers, endpoints):
    image = endpoints.publishers[f'~/front/{ANNOTATED}']
    latency = endpoints.publishers['~/front/latency/inference']
    image.num_subscribers = latency.num_subscribers = 1
    camera_publishers.publish(result(2), FRAME, None, 0.3)
    camera_publishers.publish_timings({'inference': 12.5, 'decode': 1.0})
    assert [message.format for message in image.sent] == ['jpeg']
    assert [message.data for message in latency.sent] == [12.5]
    assert sum(len(publisher.sent) for publisher in endpoints.publishers.values()) == 2


def test_clear_markers_deletes_the_last_boxes_once(camera_publishers, endpoints):
    markers = endpoints.publishers[f'~/front/{MARKERS}']
    markers.num_subscribers = 1
    camera_publishers.clear_markers()
    assert markers.sent == []
    camera_publishers.publish(result(2), FRAME, None, 0.0)
    camera_publishers.clear_markers()
    assert {id for _, id in deleted(markers)} == {0, 1}
    assert len(markers.sent) == 2
    camera_publishers.clear_markers()
    assert len(markers.sent) == 2


def test_boxes_that_no_subscriber_received_are_not_deleted(camera_publishers, endpoints):
    markers = endpoints.publishers[f'~/front/{MARKERS}']
    camera_publishers.publish(result(3), FRAME, None, 0.3)
    markers.num_subscribers = 1
    camera_publishers.publish(result(1), FRAME, None, 0.3)
    assert deleted(markers) == set()
    camera_publishers.publish(result(0), FRAME, None, 0.3)
    assert {id for _, id in deleted(markers)} == {0}
