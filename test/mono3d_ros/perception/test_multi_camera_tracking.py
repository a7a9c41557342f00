"""Tracks of several cameras in one fixed frame: each object has one id and one output."""

from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mono3d_ros.camera_frame import FrameResult
from mono3d_ros.perception.kalman_filter import Noise, init_tracks, predict_states, to_measurements
from mono3d_ros.perception.tracker import (
    INITIAL_STATE,
    UPRIGHT_T_CAM,
    TrackerConfig,
    track_objects,
)
from stl_core.types import Objects3D

START_NS, MS = 1_700_000_000_000_000_000, 1_000_000
AT_ONCE = TrackerConfig(min_hits=1)


def camera(heading, x=0.0, y=0.0):
    """Return the (4, 4) pose of a camera 1.5 m above the ground; heading 0 is along x."""
    cos, sin = np.cos(heading), np.sin(heading)
    vehicle_pose = np.array([[cos, -sin, 0, x], [sin, cos, 0, y], [0, 0, 1, 1.5], [0, 0, 0, 1]])
    return vehicle_pose @ UPRIGHT_T_CAM


def visible_objects(points, pose, classes=None, sigma=0.3):
    """Build objects of a camera at points of the fixed frame."""
    points = np.reshape(np.asarray(points, float), (-1, 3))
    count = len(points)
    return Objects3D(
        class_id=np.zeros(count) if classes is None else classes,
        score=np.full(count, 0.9),
        center_m=(points - pose[:3, 3]) @ pose[:3, :3],
        size_hwl_m=np.tile([1.5, 1.7, 4.0], (count, 1)),
        rotation_y=np.zeros(count),
        box_px=np.zeros((count, 4)),
        depth_sigma_m=np.full(count, sigma),
    )


def result(name, detections, stamp_ns):
    return FrameResult(
        name, stamp_ns, name, detections, ('Car',), tuple(range(len(detections))), {}
    )


def step(state, inputs, config=AT_ONCE):
    """Track one step; inputs are (name, pose or None, objects, stamp)."""
    results = [result(name, detections, stamp) for name, _, detections, stamp in inputs]
    return track_objects(state, results, [pose for _, pose, _, _ in inputs], config)


def in_odom(one, pose):
    return one.objects.center_m @ pose[:3, :3].T + pose[:3, 3]


def test_track_continues_from_one_camera_to_another():
    front, left = camera(0.0), camera(np.pi / 2)
    state, ids, owners = INITIAL_STATE, set(), []
    for number in range(30):
        stamp = START_NS + number * 100 * MS
        angle = np.radians(20 + 2 * number)  # it changes cameras at 45 degrees
        center = [20 * np.cos(angle), 20 * np.sin(angle), 0.8]
        none = Objects3D.empty()
        inputs = [
            ('front', front, visible_objects(center, front) if angle < np.pi / 4 else none, stamp),
            ('left', left, none if angle < np.pi / 4 else visible_objects(center, left), stamp),
        ]
        state, outputs = step(state, inputs)
        ids |= {id for each in outputs for id in each.ids}
        (owner,) = (i for i, each in enumerate(outputs) if len(each.ids))
        owners.append(owner)
        np.testing.assert_allclose(
            in_odom(outputs[owner], (front, left)[owner]), [center], atol=0.5
        )
    assert ids == {0}
    assert owners == sorted(owners)
    assert set(owners) == {0, 1}
    # 20 m times 2 degrees every 0.1 s, across the ray, in the axes of the camera of the output
    velocity = left[:3, :3] @ outputs[1].velocity_m_s[0]
    ahead = np.array([-np.sin(angle), np.cos(angle), 0])
    np.testing.assert_allclose(velocity, 20 * np.radians(20) * ahead, atol=1.0)


def test_object_in_two_cameras_is_published_once():
    one, other = camera(0.3), camera(-0.3, y=-0.4)
    state = INITIAL_STATE
    for number in range(6):
        stamp = START_NS + number * 100 * MS
        at = [[15.0 + number, 0.0, 0.8], [30.0, 3.0, 0.8]]
        inputs = [
            ('one', one, visible_objects(at, one), stamp),
            ('other', other, visible_objects(at, other), stamp + 7 * MS),
        ]
        state, outputs = step(state, inputs)
        assert sorted(id for each in outputs for id in each.ids) == [0, 1]
    assert len(state.shared.states) == 2
    assert state.shared.states.hits.tolist() == [12, 12]


def test_only_the_camera_of_the_last_detection_counts_misses():
    front, back = camera(0.0), camera(np.pi)
    car = visible_objects([20.0, 0.0, 0.8], front)
    state, _ = step(INITIAL_STATE, [('front', front, car, START_NS)])
    for number in range(1, 6):
        stamp = START_NS + number * 50 * MS
        state, (outputs,) = step(state, [('back', back, Objects3D.empty(), stamp)])
        assert outputs.ids == ()
    assert state.shared.states.misses.tolist() == [0]
    for number, expected in ((6, (0,)), (7, ()), (8, ())):  # one miss is bridged
        stamp = START_NS + number * 50 * MS
        state, (outputs,) = step(state, [('front', front, Objects3D.empty(), stamp)])
        assert outputs.ids == expected


def test_late_images_predict_tracks_back_in_time():
    one, other = camera(0.1), camera(-0.1)
    state, ids = INITIAL_STATE, set()
    for number in range(40):
        for name, pose, late_ms in (('one', one, 0), ('other', other, -35)):
            stamp_s = 0.1 * number + late_ms / 1e3
            at = [10.0 + 12.0 * stamp_s, 1.0, 0.8]
            stamp = START_NS + round(stamp_s * 1e9)
            state, (outputs,) = step(
                state, [(name, pose, visible_objects(at, pose, sigma=0.1), stamp)]
            )
            ids |= set(outputs.ids)
            np.testing.assert_allclose(in_odom(outputs, pose), [at], atol=0.2)
    assert ids == {0}
    velocity = pose[:3, :3] @ outputs.velocity_m_s[0]
    np.testing.assert_allclose(velocity, [12.0, 0.0, 0.0], atol=0.1)


def test_predicting_back_in_time_restores_the_motion():
    noise = Noise()
    states = init_tracks(
        to_measurements(
            'front', visible_objects([[9.0, 2, 1], [20, 0, 1]], camera(0)), camera(0), noise
        ),
        0,
        noise,
    )
    states = replace(states, motion=states.motion + [0, 0, 0, 3.0, -1.0])
    ahead = predict_states(states, 0.3, noise)
    back = predict_states(ahead, -0.3, noise)
    np.testing.assert_allclose(back.motion, states.motion)
    assert (np.linalg.eigvalsh(back.covariance) > 0).all()
    grown = back.covariance - states.covariance
    assert (np.linalg.eigvalsh(grown) > -1e-9).all()
    np.testing.assert_allclose(back.time_since_update_s, 0.0, atol=1e-12)


def test_replayed_bag_ends_the_tracks_of_all_cameras_once():
    poses = {'one': camera(0.2), 'other': camera(-0.2)}
    at = [[20.0, 0.0, 0.8], [25.0, 4.0, 0.8]]
    state, rounds = INITIAL_STATE, []
    for _ in range(3):
        ids = set()
        for number in range(5):
            for name, pose in poses.items():  # one camera after the other, in order of arrival
                camera_input = (
                    name,
                    pose,
                    visible_objects(at, pose),
                    START_NS + number * 100 * MS,
                )
                state, (outputs,) = step(state, [camera_input])
                ids |= set(outputs.ids)
        rounds.append(ids)
    assert [len(ids) for ids in rounds] == [2, 2, 2]
    assert len(set.union(*rounds)) == 6


def test_ids_are_unique_across_cameras():
    pose, state, ids = camera(0.0), INITIAL_STATE, []
    for number in range(3):
        stamp = START_NS + number * 100 * MS
        car = visible_objects([20.0, 0.0, 0.8], pose)
        inputs = [('a', None, car, stamp), ('b', pose, car, stamp), ('c', None, car, stamp)]
        state, outputs = step(state, inputs)
        ids.append([each.ids for each in outputs])
    assert ids[0] == ids[1] == ids[2]
    assert len({id for each in ids[0] for id in each}) == 3


def test_memory_of_vanished_cameras_is_bounded():
    rng = np.random.default_rng(0)
    pose, state, sizes = camera(0.0), INITIAL_STATE, []
    for number in range(300):
        stamp = START_NS + number * 100 * MS
        at = np.column_stack([rng.uniform(5, 60, (6, 2)), np.full(6, 0.8)])
        inputs = [('stays', pose, visible_objects(at, pose), stamp)]
        if number < 20:
            inputs += [
                ('goes', camera(1.0), visible_objects(at, camera(1.0)), stamp),
                ('lost', None, visible_objects(at, pose), stamp),
            ]
        state, _ = step(state, inputs)
        sizes.append(len(state.shared.states))
    assert max(sizes[40:]) <= max(sizes[:40])
    assert 'goes' not in state.shared.states.camera
    assert set(state.per_camera) == {'lost'}


INPUTS = st.lists(
    st.tuples(
        st.sampled_from(['a', 'b', 'c']),
        st.booleans(),
        st.lists(st.tuples(st.floats(-80, 80), st.floats(-3, 3), st.floats(-20, 150)), max_size=4),
        st.integers(-3_000, 3_000),
        st.sampled_from([0.0, 0.3, 30.0, np.inf]),
    ),
    max_size=3,
    unique_by=lambda camera_input: camera_input[0],
)


@settings(max_examples=60, deadline=None)
@given(st.lists(INPUTS, max_size=8))
def test_ids_are_unique_and_boxes_finite_for_any_input(steps):
    state, now_ms = INITIAL_STATE, 0
    for inputs in steps:
        tracker_inputs = [
            (
                name,
                camera(0.1) if pose_known else None,
                replace(
                    visible_objects(points, np.eye(4)), depth_sigma_m=np.full(len(points), sigma)
                ),
                START_NS + (now_ms + offset_ms) * MS,
            )
            for name, pose_known, points, offset_ms, sigma in inputs
        ]
        now_ms += 100
        state, outputs = step(state, tracker_inputs)
        assert [each.camera for each in outputs] == [name for name, *_ in inputs]
        ids = [id for each in outputs for id in each.ids]
        assert len(ids) == len(set(ids))
        for each in outputs:
            assert each.velocity_m_s.shape == (len(each.ids), 3) == each.objects.center_m.shape
            assert np.isfinite(each.objects.center_m).all()
            assert np.isfinite(each.objects.depth_sigma_m).all()
            assert np.isfinite(each.velocity_m_s).all()
