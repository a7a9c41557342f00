"""Our own listener of tf beside tf2_ros, where it is installed: same answers, same refusals."""

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
    """Takes subscriptions and plays messages to them."""

    def __init__(self):
        self.callbacks = {}

    def subscribe(self, kind, topic, callback, quality):
        self.callbacks[topic] = callback

    def create_subscription(self, kind, topic, callback, quality, **options):
        self.callbacks[topic] = callback

    def play(self, topic, poses, at_ns):
        message = SimpleNamespace(transforms=[stamped(pose, at_ns) for pose in poses])
        self.callbacks[topic](message)


def stamped(pose, at_ns):
    def make(type_name, /, **fields):
        is_message = type_name == 'tf2_msgs/msg/TFMessage'  # may not be installed, is no matter
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
def own():
    node = Node()
    listener = tf_listener.BufferListener(node, object)
    drive(node)
    return listener


@pytest.fixture
def tf2():
    pytest.importorskip('tf2_ros', reason='tf2_ros comes with ROS only')
    node = Node()
    listener = tf_listener.Tf2Listener(node)
    drive(node)
    yield listener
    listener._listener.unregister = lambda: None  # there is nothing to end here


@pytest.mark.parametrize('way', [('odom', 'front'), ('left', 'odom'), ('left', 'front')])
def test_both_find_the_same_places(own, tf2, way):
    for at_ns in (10 * S, 10 * S + 33 * MS, 10 * S + 777_777_777, 11 * S):
        np.testing.assert_allclose(tf2.lookup(*way, at_ns), own.lookup(*way, at_ns), atol=1e-6)


@pytest.mark.parametrize(
    ('way', 'at_ns', 'late'),
    [
        (('odom', 'front'), 11 * S + 1, True),
        (('map', 'front'), 10 * S, False),
        (('mars', 'front'), 10 * S, False),
        (('odom', 'camera'), 10 * S, False),
    ],
)
def test_both_refuse_the_same_and_say_which_way(own, tf2, way, at_ns, late):
    for listener in (own, tf2):
        with pytest.raises(
            TransformUnavailableError, match=f'from {way[1]} to {way[0]}: '
        ) as caught:
            listener.lookup(*way, at_ns)
        assert caught.value.retryable is late


def test_both_forget_what_moves_when_time_is_set_back(own, tf2):
    for listener in (own, tf2):
        listener.clear()
        assert listener.lookup('left', 'front', 10 * S) is not None
        with pytest.raises(TransformUnavailableError):
            listener.lookup('odom', 'front', 10 * S)


def test_without_tf2_msgs_every_question_is_answered_by_why(monkeypatch):
    monkeypatch.setattr(tf_listener, 'tf2_ros', None)
    monkeypatch.setattr(message_factory, 'message_class', lambda type_name: None)
    listener = tf_listener.make_listener(Node(), Node())
    with pytest.raises(TransformUnavailableError, match='tf2_msgs is not installed'):
        listener.lookup('odom', 'front', 0)
    listener.clear()
    listener.close()
