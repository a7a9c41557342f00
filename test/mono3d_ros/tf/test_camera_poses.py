import time

import numpy as np
import pytest

from mono3d_ros.camera_frame import UNKNOWN_POSE, Frame
from mono3d_ros.tf import camera_poses
from mono3d_ros.tf.buffer import TransformUnavailableError
from mono3d_ros.tf.camera_poses import CameraPoseLookup, FrameNames

FRAME = Frame('front', np.zeros((2, 2, 3), np.uint8), np.eye(3, 4), 7, 'front_optical')
BASE_T_FRONT, ODOM_T_FRONT = (np.diag([1.0, 1, 1, 1]) + np.eye(4, k=3) * n for n in (2, 5))


class Tf:
    """Knows base and odom; what is in late comes after so many questions."""

    def __init__(self, **late):
        self.late, self.asked = late, 0

    def lookup(self, target, source, at_ns):
        self.asked += 1
        assert (source, at_ns) == ('front_optical', 7)
        if self.late.get(target, 0) > 0:
            self.late[target] -= 1
            raise TransformUnavailableError(f'{target} is late', retryable=True)
        known = {'base': BASE_T_FRONT, 'odom': ODOM_T_FRONT}
        if target not in known:
            raise TransformUnavailableError(f'{target} is not known')
        return known[target]


@pytest.fixture
def said():
    return []


@pytest.fixture
def make(said):
    return lambda tf, **frames: CameraPoseLookup(
        tf, FrameNames(**frames), lambda *told: said.append(told)
    )


def test_what_is_not_asked_for_is_not_looked_up(make, said):
    tf = Tf()
    place = make(tf)
    assert place.camera_pose(FRAME) == UNKNOWN_POSE
    assert place.target_frame(FRAME) is None
    assert (tf.asked, said) == (0, [])


def test_each_frame_is_looked_up_for_its_use(make, said):
    place = make(Tf(), target='base', vehicle='base', fixed='odom')
    found, target = place.camera_pose(FRAME), place.target_frame(FRAME)
    np.testing.assert_array_equal(found.vehicle_T_cam, BASE_T_FRONT)
    np.testing.assert_array_equal(found.fixed_T_cam, ODOM_T_FRONT)
    np.testing.assert_array_equal(target.target_T_cam, BASE_T_FRONT)
    assert target.frame_id == 'base'
    assert said == []


def test_the_cameras_own_frame_needs_no_tf(make):
    tf = Tf()
    target = make(tf, target='front_optical').target_frame(FRAME)
    np.testing.assert_array_equal(target.target_T_cam, np.eye(4))
    assert tf.asked == 0


def test_what_is_missing_is_complained_of_at_once_and_never_raised(make, said):
    tf = Tf()
    place = make(tf, target='map', fixed='odom')
    start_s = time.monotonic()
    assert place.target_frame(FRAME) is None
    assert place.camera_pose(FRAME).fixed_T_cam is not None
    assert said == [('front', 'no_transform', 'map is not known')]
    assert time.monotonic() - start_s < camera_poses.MAX_WAIT_S
    assert tf.asked == 2


def test_what_is_late_is_waited_for(make, said):
    assert make(Tf(odom=3), fixed='odom').camera_pose(FRAME).fixed_T_cam is not None
    assert said == []


def test_what_is_waited_for_in_vain_is_waited_for_once_until_it_is_back(make, said):
    tf = Tf(odom=10**6)
    place = make(tf, fixed='odom')
    start_s = time.monotonic()
    assert place.camera_pose(FRAME).fixed_T_cam is None
    assert time.monotonic() - start_s >= camera_poses.MAX_WAIT_S
    asked = tf.asked
    assert place.camera_pose(FRAME).fixed_T_cam is None
    assert tf.asked == asked + 1
    assert [what for _, what, _ in said] == ['no_transform', 'no_transform']
    tf.late = {}
    assert place.camera_pose(FRAME).fixed_T_cam is not None
    tf.late = {'odom': 2}
    assert place.camera_pose(FRAME).fixed_T_cam is not None
