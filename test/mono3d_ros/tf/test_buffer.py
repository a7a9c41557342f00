"""Transform buffer: interpolation, late and unknown frames, pruning."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from mono3d_ros.bags.message_types import make_message_factory, make_typestore
from mono3d_ros.tf.buffer import CACHE_TIME_NS, TransformBuffer, TransformUnavailableError
from mono3d_ros.tf.history import TransformHistory
from mono3d_ros.tf.transforms import Pose, make_tf_message

NEW = make_message_factory(make_typestore())
MS, S = 1_000_000, 1_000_000_000


def make_pose(parent, child, yaw, x_m):
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler('z', yaw).as_matrix()
    matrix[0, 3] = x_m
    return Pose(parent, child, matrix)


MOUNT = make_pose('base', 'front', 0.3, 2.0)
LEFT = make_pose('base', 'left', 1.5, 1.0)


def driven(at_ns):
    """Return the pose of a car that drives 10 m/s and turns by 1 rad/s."""
    return make_pose('odom', 'base', at_ns / S, 10.0 * at_ns / S)


@pytest.fixture
def buffer():
    buffer = TransformBuffer()
    buffer.put_static(make_tf_message([MOUNT], 0, NEW))
    buffer.put_static(make_tf_message([LEFT], 0, NEW))
    for at_ns in range(10 * S, 11 * S + 1, 100 * MS):
        buffer.put_moving(make_tf_message([driven(at_ns)], at_ns, NEW))
    return buffer


@pytest.mark.parametrize('at_ns', [10 * S, 10 * S + 30 * MS, 10_950 * MS, 11 * S])
def test_poses_between_two_messages_are_interpolated(buffer, at_ns):
    expected = driven(at_ns).parent_T_child @ MOUNT.parent_T_child
    np.testing.assert_allclose(buffer.lookup('odom', 'front', at_ns), expected, atol=1e-9)
    back = np.linalg.inv(expected)
    np.testing.assert_allclose(buffer.lookup('front', 'odom', at_ns), back, atol=1e-9)


def test_lookups_equal_those_of_the_history_of_a_bag(buffer):
    moving = [make_tf_message([driven(ns)], ns, NEW) for ns in range(10 * S, 11 * S + 1, 100 * MS)]
    history = TransformHistory([make_tf_message([MOUNT, LEFT], 0, NEW)], moving)
    for at_ns in np.linspace(10 * S, 11 * S, 23).astype(int).tolist():
        for target, source in (('odom', 'left'), ('left', 'front'), ('base', 'odom')):
            expected = history.lookup_between(target, at_ns, source, at_ns)
            np.testing.assert_allclose(buffer.lookup(target, source, at_ns), expected, atol=1e-9)


def test_static_transforms_are_available_at_any_time(buffer):
    expected = np.linalg.inv(LEFT.parent_T_child) @ MOUNT.parent_T_child
    for at_ns in (0, 10 * S, 99 * S):
        np.testing.assert_allclose(buffer.lookup('left', 'front', at_ns), expected, atol=1e-9)


@pytest.mark.parametrize(
    ('frames', 'at_ns', 'retryable', 'text'),
    [
        (('odom', 'front'), 11 * S + 12 * MS, True, 'transform of base is 12 ms older'),
        (('odom', 'front'), 10 * S - 1 * MS, False, 'transform of base is 1 ms newer'),
        (('map', 'front'), 10 * S, False, 'tf does not know map'),
        (('map', 'camera'), 10 * S, False, 'tf does not know camera and map'),
    ],
)
def test_error_of_a_missing_transform_contains_the_reason(buffer, frames, at_ns, retryable, text):
    with pytest.raises(TransformUnavailableError, match=text) as caught:
        buffer.lookup(*frames, at_ns)
    assert caught.value.retryable is retryable
    assert f'no transform from {frames[1]} to {frames[0]}' in str(caught.value)


def test_error_distinguishes_separate_trees_from_unknown_frames(buffer):
    buffer.put_static(make_tf_message([make_pose('earth', 'map', 0.0, 0.0)], 0, NEW))
    with pytest.raises(TransformUnavailableError, match='both frames, but they are not connected'):
        buffer.lookup('map', 'front', 10 * S)


def test_messages_may_arrive_out_of_order():
    buffer = TransformBuffer()
    for at_ns in (3 * S, 1 * S, 2 * S):
        buffer.put_moving(make_tf_message([driven(at_ns)], at_ns, NEW))
    at_ns = 1500 * MS
    expected = driven(at_ns).parent_T_child
    np.testing.assert_allclose(buffer.lookup('odom', 'base', at_ns), expected, atol=1e-9)


def test_old_transforms_are_removed(buffer):
    at_ns = 11 * S + CACHE_TIME_NS
    for _ in range(2):
        buffer.put_moving(make_tf_message([driven(at_ns)], at_ns, NEW))
        assert buffer.lookup('odom', 'base', at_ns - CACHE_TIME_NS) is not None
        at_ns += CACHE_TIME_NS
    with pytest.raises(TransformUnavailableError, match='the first transform of base'):
        buffer.lookup('odom', 'base', 11 * S)


def test_replayed_bag_clears_the_buffer(buffer):
    for at_ns in (40 * S, 10 * S):
        buffer.put_moving(make_tf_message([driven(at_ns)], at_ns, NEW))
    with pytest.raises(TransformUnavailableError, match='transform of base is 1000 ms older'):
        buffer.lookup('odom', 'base', 11 * S)


def test_clear_keeps_static_transforms(buffer):
    buffer.clear()
    assert buffer.lookup('base', 'front', 10 * S) is not None
    with pytest.raises(TransformUnavailableError, match='does not know odom'):
        buffer.lookup('odom', 'front', 10 * S)
