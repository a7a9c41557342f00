"""Transforms: messages, and lookups in a tree."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from mono3d_ros.bags.message_types import make_message_factory, make_typestore
from mono3d_ros.tf.transforms import Pose, lookup_in_tree, make_tf_message, read_tf_message

NEW = make_message_factory(make_typestore())


def random_pose(parent, child, seed):
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.random(random_state=seed).as_matrix()
    matrix[:3, 3] = np.random.default_rng(seed).normal(size=3)
    return Pose(parent, child, matrix)


POSES = [
    random_pose(*each)
    for each in (('odom', 'base', 1), ('base', 'front', 2), ('base', 'lidar', 3), ('a', 'b', 4))
]


def test_poses_are_unchanged_by_their_message():
    message = make_tf_message(POSES, 1_500_000_000, NEW)
    assert {t.header.stamp.sec for t in message.transforms} == {1}
    tree = read_tf_message(message)
    for pose in POSES:
        parent, matrix = tree[pose.child]
        assert parent == pose.parent
        np.testing.assert_allclose(matrix, pose.parent_T_child, atol=1e-12)


def test_lookup_up_down_and_across_the_tree():
    tree = read_tf_message(make_tf_message(POSES, 0, NEW))
    odom_T_base, base_T_front, base_T_lidar = (pose.parent_T_child for pose in POSES[:3])
    np.testing.assert_allclose(lookup_in_tree(tree, 'odom', 'front'), odom_T_base @ base_T_front)
    across = np.linalg.inv(base_T_front) @ base_T_lidar
    np.testing.assert_allclose(lookup_in_tree(tree, 'front', 'lidar'), across, atol=1e-12)
    down = np.linalg.inv(odom_T_base @ base_T_lidar)
    np.testing.assert_allclose(lookup_in_tree(tree, 'lidar', 'odom'), down, atol=1e-12)
    np.testing.assert_array_equal(lookup_in_tree(tree, 'front', 'front'), np.eye(4))


@pytest.mark.parametrize(('target', 'source'), [('front', 'b'), ('front', 'none'), ('x', 'y')])
def test_lookup_of_unconnected_frames_returns_none(target, source):
    assert lookup_in_tree(read_tf_message(make_tf_message(POSES, 0, NEW)), target, source) is None


def test_loops_and_invalid_rotations_are_ignored():
    loop = read_tf_message(
        make_tf_message([random_pose('a', 'b', 0), random_pose('b', 'a', 1)], 0, NEW)
    )
    assert lookup_in_tree(loop, 'a', 'x') is None
    message = make_tf_message(POSES[:2], 0, NEW)
    message.transforms[0].transform.rotation = NEW('geometry_msgs/msg/Quaternion', w=0.0)
    assert set(read_tf_message(message)) == {'front'}
