"""Quaternions and rigid transforms, against scipy."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from stl_core import rotations


def random_quaternions(count=200):
    q = np.random.default_rng(0).normal(size=(count, 4))
    q[:4] = np.eye(4)  # turns by half a circle, and none
    return q / np.linalg.norm(q, axis=1, keepdims=True)


def test_matrices_and_quaternions_equal_scipys():
    q = random_quaternions()
    expected = Rotation.from_quat(q[:, [1, 2, 3, 0]]).as_matrix()
    np.testing.assert_allclose(rotations.quaternion_to_matrix(q), expected, atol=1e-12)
    back = rotations.matrix_to_quaternion(expected)
    np.testing.assert_allclose(np.abs((back * q).sum(1)), 1, atol=1e-12)  # q and -q turn alike
    assert (back[:, 0] >= 0).all()


def test_yaw_turns_x_towards_y():
    R = rotations.quaternion_to_matrix(rotations.yaw_to_quaternion(np.pi / 2))
    np.testing.assert_allclose(R @ [1, 0, 0], [0, 1, 0], atol=1e-12)


def test_inverse_moves_points_back():
    transform = rotations.rigid_transform(random_quaternions()[9], np.array([1.0, -2, 3]))
    points = np.random.default_rng(1).normal(size=(7, 3))
    moved = rotations.move_points(transform, points)
    again = rotations.move_points(rotations.invert_rigid(transform), moved)
    np.testing.assert_allclose(again, points, atol=1e-12)
    np.testing.assert_allclose(
        rotations.invert_rigid(transform), np.linalg.inv(transform), atol=1e-12
    )


@pytest.mark.parametrize('wrong', [[0, 0, 0, 0], [1, 1, 0, 0], [np.nan, 0, 0, 1], [1, 0, 0]])
def test_other_numbers_than_a_rotations_are_refused(wrong):
    with pytest.raises(ValueError, match='quaternion w x y z of unit length expected'):
        rotations.quaternion_to_matrix(wrong)
