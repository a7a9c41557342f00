import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from mono3d_ros.bags.bag_io import make_message_factory, make_typestore
from mono3d_ros.tf.buffer import CACHE_TIME_NS, TransformBuffer, TransformUnavailableError
from mono3d_ros.tf.history import TransformHistory
from mono3d_ros.tf.transforms import Pose, make_tf_message

NEW = make_message_factory(make_typestore())
MS, S = 1_000_000, 1_000_000_000


def turned(parent, child, yaw, x_m):
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler('z', yaw).as_matrix()
    matrix[0, 3] = x_m
    return Pose(parent, child, matrix)


MOUNT = turned('base', 'front', 0.3, 2.0)
LEFT = turned('base', 'left', 1.5, 1.0)


def driven(at_ns):
    """A car that drives 10 m/s and turns by 1 rad/s."""
    return turned('odom', 'base', at_ns / S, 10.0 * at_ns / S)


@pytest.fixture
def recent():
    recent = TransformBuffer()
    recent.put_static(make_tf_message([MOUNT], 0, NEW))
    recent.put_static(make_tf_message([LEFT], 0, NEW))
    for at_ns in range(10 * S, 11 * S + 1, 100 * MS):
        recent.put_moving(make_tf_message([driven(at_ns)], at_ns, NEW))
    return recent


@pytest.mark.parametrize('at_ns', [10 * S, 10 * S + 30 * MS, 10_950 * MS, 11 * S])
def test_between_two_messages_frames_move_evenly(recent, at_ns):
    expected = driven(at_ns).parent_T_child @ MOUNT.parent_T_child
    np.testing.assert_allclose(recent.lookup('odom', 'front', at_ns), expected, atol=1e-9)
    back = np.linalg.inv(expected)
    np.testing.assert_allclose(recent.lookup('front', 'odom', at_ns), back, atol=1e-9)


def test_it_answers_as_the_history_of_a_bag(recent):
    moving = [make_tf_message([driven(ns)], ns, NEW) for ns in range(10 * S, 11 * S + 1, 100 * MS)]
    history = TransformHistory([make_tf_message([MOUNT, LEFT], 0, NEW)], moving)
    for at_ns in np.linspace(10 * S, 11 * S, 23).astype(int).tolist():
        for target, source in (('odom', 'left'), ('left', 'front'), ('base', 'odom')):
            expected = history.lookup_between(target, at_ns, source, at_ns)
            np.testing.assert_allclose(recent.lookup(target, source, at_ns), expected, atol=1e-9)


def test_what_does_not_move_is_known_at_any_time(recent):
    expected = np.linalg.inv(LEFT.parent_T_child) @ MOUNT.parent_T_child
    for at_ns in (0, 10 * S, 99 * S):
        np.testing.assert_allclose(recent.lookup('left', 'front', at_ns), expected, atol=1e-9)


@pytest.mark.parametrize(
    ('way', 'at_ns', 'late', 'text'),
    [
        (('odom', 'front'), 11 * S + 12 * MS, True, 'base was last heard of 12 ms before'),
        (('odom', 'front'), 10 * S - 1 * MS, False, 'base was first heard of 1 ms after'),
        (('map', 'front'), 10 * S, False, 'tf has not heard of map'),
        (('map', 'camera'), 10 * S, False, 'tf has not heard of camera and map'),
    ],
)
def test_a_missing_transform_says_why(recent, way, at_ns, late, text):
    with pytest.raises(TransformUnavailableError, match=text) as caught:
        recent.lookup(*way, at_ns)
    assert caught.value.retryable is late
    assert f'no transform from {way[1]} to {way[0]}' in str(caught.value)


def test_two_trees_are_told_from_unknown_frames(recent):
    recent.put_static(make_tf_message([turned('earth', 'map', 0.0, 0.0)], 0, NEW))
    with pytest.raises(TransformUnavailableError, match='knows both, but no way'):
        recent.lookup('map', 'front', 10 * S)


def test_messages_may_come_out_of_order():
    recent = TransformBuffer()
    for at_ns in (3 * S, 1 * S, 2 * S):
        recent.put_moving(make_tf_message([driven(at_ns)], at_ns, NEW))
    at_ns = 1500 * MS
    expected = driven(at_ns).parent_T_child
    np.testing.assert_allclose(recent.lookup('odom', 'base', at_ns), expected, atol=1e-9)


def test_old_transforms_are_forgotten(recent):
    at_ns = 11 * S + CACHE_TIME_NS
    for _ in range(2):
        recent.put_moving(make_tf_message([driven(at_ns)], at_ns, NEW))
        assert recent.lookup('odom', 'base', at_ns - CACHE_TIME_NS) is not None
        at_ns += CACHE_TIME_NS
    with pytest.raises(TransformUnavailableError, match='first heard of'):
        recent.lookup('odom', 'base', 11 * S)


def test_a_bag_that_is_played_again_begins_anew(recent):
    for at_ns in (40 * S, 10 * S):
        recent.put_moving(make_tf_message([driven(at_ns)], at_ns, NEW))
    with pytest.raises(TransformUnavailableError, match='last heard of 1000 ms before'):
        recent.lookup('odom', 'base', 11 * S)


def test_time_set_back_forgets_what_moves_only(recent):
    recent.clear()
    assert recent.lookup('base', 'front', 10 * S) is not None
    with pytest.raises(TransformUnavailableError, match='has not heard of odom'):
        recent.lookup('odom', 'front', 10 * S)
