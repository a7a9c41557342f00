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
        self.topic_name, self.listeners, self.sent = topic_name, 0, []

    def get_subscription_count(self):
        return self.listeners

    def publish(self, message):
        self.sent.append(message)


class Endpoints:
    def __init__(self):
        self.publishers = {}

    def create_publisher(self, kind, name, quality):
        self.publishers[name] = Publisher(name)
        return self.publishers[name]


@pytest.fixture
def endpoints():
    return Endpoints()


@pytest.fixture
def outputs(endpoints):
    return CameraPublishers(endpoints, 'front/')


def deleted(publisher):
    markers = publisher.sent[-1].markers
    return {(m.ns, m.id) for m in markers[1:] if m.action == Marker.DELETE}


def test_topics_of_one_of_several_cameras_lie_under_its_name(outputs, endpoints):
    assert {'~/front/markers', '~/front/latency/inference'} <= set(endpoints.publishers)
    assert all(topic.startswith('~/front/') for topic in outputs.topics)


def test_nothing_is_made_for_nobody(outputs, endpoints, monkeypatch):
    monkeypatch.setattr('mono3d_ros.node.publishers.markers', None)
    outputs.publish(result(2), FRAME, None, 0.3)
    outputs.publish_timings({'inference': 1.0})
    assert not any(publisher.sent for publisher in endpoints.publishers.values())


def test_each_listener_is_served_for_itself(outputs, endpoints):
    picture = endpoints.publishers[f'~/front/{ANNOTATED}']
    stage = endpoints.publishers['~/front/latency/inference']
    picture.listeners = stage.listeners = 1
    outputs.publish(result(2), FRAME, None, 0.3)
    outputs.publish_timings({'inference': 12.5, 'decode': 1.0})
    assert [message.format for message in picture.sent] == ['jpeg']
    assert [message.data for message in stage.sent] == [12.5]
    assert sum(len(publisher.sent) for publisher in endpoints.publishers.values()) == 2


def test_boxes_are_taken_away_when_nothing_will_follow(outputs, endpoints):
    markers = endpoints.publishers[f'~/front/{MARKERS}']
    markers.listeners = 1
    outputs.clear_markers()
    assert markers.sent == []
    outputs.publish(result(2), FRAME, None, 0.0)
    outputs.clear_markers()
    assert {id for _, id in deleted(markers)} == {0, 1}
    assert len(markers.sent) == 2
    outputs.clear_markers()
    assert len(markers.sent) == 2


def test_what_nobody_saw_drawn_is_not_deleted(outputs, endpoints):
    markers = endpoints.publishers[f'~/front/{MARKERS}']
    outputs.publish(result(3), FRAME, None, 0.3)
    markers.listeners = 1
    outputs.publish(result(1), FRAME, None, 0.3)
    assert deleted(markers) == set()
    outputs.publish(result(0), FRAME, None, 0.3)
    assert {id for _, id in deleted(markers)} == {0}
