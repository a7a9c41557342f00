"""BufferListener against tf2_ros, if installed: same transforms, same errors."""

from types import SimpleNamespace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

pytest.importorskip('rclpy', reason='rclpy is not installed')

from mono3d_ros.node import message_factory, tf_listener
from mono3d_ros.node.message_factory import make_message
from mono3d_ros.tf.buffer import TransformUnavailableError
from mono3d_ros.tf.transforms import Pose, make_tf_message

MS, S = 1_000_000, 1_000_000_000


class Node:
    """Fake ROS node: stores subscriptions and delivers messages to them."""

    def __init__(self):
        self.callbacks = {}

    def subscribe(self, msg_type, topic, callback, qos_profile):
        self.callbacks[topic] = callback

    def create_subscription(self, msg_type, topic, callback, qos_profile, **options):
        self.callbacks[topic] = callback

    def play(self, topic, poses, at_ns):
        message = SimpleNamespace(transforms=[stamped(pose, at_ns) for pose in poses])
        self.callbacks[topic](message)


def stamped(pose, at_ns):
    def make(type_name, /, **fields):
        is_message = type_name == 'tf2_msgs/msg/TFMessage'  # it may not be installed
        return SimpleNamespace(**fields) if is_message else make_message(type_name, **fields)

    return make_tf_message([pose], at_ns, make).transforms[0]


def pose(parent, child, angle, x_m):
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_rotvec([0.3 * angle, -0.2 * angle, angle]).as_matrix()
    matrix[:3, 3] = x_m, -x_m, 0.5
    return Pose(parent, child, matrix)


def drive(node):
    for parent, child in (('base', 'front'), ('base', 'left'), ('earth', 'map')):
        node.play('/tf_static', [pose(parent, child, len(child) / 5, 1.0)], 0)
    for at_ns in range(10 * S, 11 * S + 1, 100 * MS):
        moved = at_ns / S - 10
        node.play('/tf', [pose('odom', 'base', moved, 10 * moved)], at_ns)


@pytest.fixture
def buffer_listener():
    node = Node()
    listener = tf_listener.BufferListener(node, object, print)
    drive(node)
    return listener


@pytest.fixture
def tf2():
    pytest.importorskip('tf2_ros', reason='tf2_ros comes with ROS only')
    node = Node()
    listener = tf_listener.Tf2Listener(node)
    drive(node)
    yield listener
    listener._listener.unregister = lambda: None  # there is no real subscription to end


@pytest.mark.parametrize('frames', [('odom', 'front'), ('left', 'odom'), ('left', 'front')])
def test_both_return_the_same_transforms(buffer_listener, tf2, frames):
    for at_ns in (10 * S, 10 * S + 33 * MS, 10 * S + 777_777_777, 11 * S):
        expected, actual = tf2.lookup(*frames, at_ns), buffer_listener.lookup(*frames, at_ns)
        np.testing.assert_allclose(expected, actual, atol=1e-6)


@pytest.mark.parametrize(
    ('frames', 'at_ns', 'late'),
    [
        (('odom', 'front'), 11 * S + 1, True),
        (('map', 'front'), 10 * S, False),
        (('mars', 'front'), 10 * S, False),
        (('odom', 'camera'), 10 * S, False),
    ],
)
def test_both_fail_alike_and_name_the_frames(buffer_listener, tf2, frames, at_ns, late):
    for listener in (buffer_listener, tf2):
        with pytest.raises(
            TransformUnavailableError, match=f'from {frames[1]} to {frames[0]}: '
        ) as caught:
            listener.lookup(*frames, at_ns)
        assert caught.value.retryable is late


def test_both_forget_moving_transforms_when_time_is_set_back(buffer_listener, tf2):
    for listener in (buffer_listener, tf2):
        listener.clear()
        assert listener.lookup('left', 'front', 10 * S) is not None
        with pytest.raises(TransformUnavailableError):
            listener.lookup('odom', 'front', 10 * S)


def test_without_tf2_msgs_every_lookup_fails_with_the_reason(monkeypatch):
    monkeypatch.setattr(tf_listener, 'tf2_ros', None)
    monkeypatch.setattr(message_factory, 'message_class', lambda type_name: None)
    listener = tf_listener.make_listener(Node(), Node(), print)
    with pytest.raises(TransformUnavailableError, match='tf2_msgs is not installed'):
        listener.lookup('odom', 'front', 0)
    listener.clear()
    listener.close()
