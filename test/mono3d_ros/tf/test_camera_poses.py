"""Lookup of camera poses: requested frames, waits for late transforms, reported issues."""

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
    """Fake transform source with base and odom; `late`: frame -> number of lookups that fail."""

    def __init__(self, **late):
        self.late, self.num_lookups = late, 0

    def lookup(self, target, source, at_ns):
        self.num_lookups += 1
        assert (source, at_ns) == ('front_optical', 7)
        if self.late.get(target, 0) > 0:
            self.late[target] -= 1
            raise TransformUnavailableError(f'{target} is late', retryable=True)
        known = {'base': BASE_T_FRONT, 'odom': ODOM_T_FRONT}
        if target not in known:
            raise TransformUnavailableError(f'{target} is not known')
        return known[target]


@pytest.fixture
def issues():
    return []


@pytest.fixture
def make(issues):
    return lambda tf, **frames: CameraPoseLookup(
        tf, FrameNames(**frames), lambda *issue: issues.append(issue)
    )


def test_frames_that_are_not_requested_are_not_looked_up(make, issues):
    tf = Tf()
    lookup = make(tf)
    assert lookup.camera_pose(FRAME) == UNKNOWN_POSE
    assert lookup.target_frame(FRAME) is None
    assert (tf.num_lookups, issues) == (0, [])


def test_each_requested_frame_is_looked_up(make, issues):
    lookup = make(Tf(), target='base', vehicle='base', fixed='odom')
    pose, target = lookup.camera_pose(FRAME), lookup.target_frame(FRAME)
    np.testing.assert_array_equal(pose.vehicle_T_cam, BASE_T_FRONT)
    np.testing.assert_array_equal(pose.fixed_T_cam, ODOM_T_FRONT)
    np.testing.assert_array_equal(target.target_T_cam, BASE_T_FRONT)
    assert target.frame_id == 'base'
    assert issues == []


def test_frame_of_the_camera_needs_no_tf(make):
    tf = Tf()
    target = make(tf, target='front_optical').target_frame(FRAME)
    np.testing.assert_array_equal(target.target_T_cam, np.eye(4))
    assert tf.num_lookups == 0


def test_unknown_frame_is_reported_without_waiting_or_raising(make, issues):
    tf = Tf()
    lookup = make(tf, target='map', fixed='odom')
    start_s = time.monotonic()
    assert lookup.target_frame(FRAME) is None
    assert lookup.camera_pose(FRAME).fixed_T_cam is not None
    assert issues == [('front', 'no_transform', 'map is not known')]
    assert time.monotonic() - start_s < camera_poses.MAX_WAIT_S
    assert tf.num_lookups == 2


def test_late_transform_is_awaited(make, issues):
    assert make(Tf(odom=3), fixed='odom').camera_pose(FRAME).fixed_T_cam is not None
    assert issues == []


def test_after_a_timeout_there_is_no_wait_until_a_lookup_succeeds(make, issues):
    tf = Tf(odom=10**6)
    lookup = make(tf, fixed='odom')
    start_s = time.monotonic()
    assert lookup.camera_pose(FRAME).fixed_T_cam is None
    assert time.monotonic() - start_s >= camera_poses.MAX_WAIT_S
    num_lookups = tf.num_lookups
    assert lookup.camera_pose(FRAME).fixed_T_cam is None
    assert tf.num_lookups == num_lookups + 1
    assert [kind for _, kind, _ in issues] == ['no_transform', 'no_transform']
    tf.late = {}
    assert lookup.camera_pose(FRAME).fixed_T_cam is not None
    tf.late = {'odom': 2}
    assert lookup.camera_pose(FRAME).fixed_T_cam is not None
