import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from mono3d_ros.bags.bag_io import maker, typestore
from mono3d_ros.tf.transforms import Pose, lookup, to_message, to_tree

NEW = maker(typestore())


def random_pose(parent, child, seed):
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.random(random_state=seed).as_matrix()
    matrix[:3, 3] = np.random.default_rng(seed).normal(size=3)
    return Pose(parent, child, matrix)


POSES = [
    random_pose(*each)
    for each in (('odom', 'base', 1), ('base', 'front', 2), ('base', 'lidar', 3), ('a', 'b', 4))
]


def test_poses_survive_their_message():
    message = to_message(POSES, 1_500_000_000, NEW)
    assert {t.header.stamp.sec for t in message.transforms} == {1}
    tree = to_tree(message)
    for pose in POSES:
        parent, matrix = tree[pose.child]
        assert parent == pose.parent
        np.testing.assert_allclose(matrix, pose.parent_T_child, atol=1e-12)


def test_chains_lead_up_down_and_across():
    tree = to_tree(to_message(POSES, 0, NEW))
    odom_T_base, base_T_front, base_T_lidar = (pose.parent_T_child for pose in POSES[:3])
    np.testing.assert_allclose(lookup(tree, 'odom', 'front'), odom_T_base @ base_T_front)
    across = np.linalg.inv(base_T_front) @ base_T_lidar
    np.testing.assert_allclose(lookup(tree, 'front', 'lidar'), across, atol=1e-12)
    down = np.linalg.inv(odom_T_base @ base_T_lidar)
    np.testing.assert_allclose(lookup(tree, 'lidar', 'odom'), down, atol=1e-12)
    np.testing.assert_array_equal(lookup(tree, 'front', 'front'), np.eye(4))


@pytest.mark.parametrize(('target', 'source'), [('front', 'b'), ('front', 'none'), ('x', 'y')])
def test_no_way_is_told_as_none(target, source):
    assert lookup(to_tree(to_message(POSES, 0, NEW)), target, source) is None


def test_what_is_no_tree_and_no_rotation_does_no_harm():
    loop = to_tree(to_message([random_pose('a', 'b', 0), random_pose('b', 'a', 1)], 0, NEW))
    assert lookup(loop, 'a', 'x') is None
    message = to_message(POSES[:2], 0, NEW)
    message.transforms[0].transform.rotation = NEW('geometry_msgs/msg/Quaternion', w=0.0)
    assert set(to_tree(message)) == {'front'}
