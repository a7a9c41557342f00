"""Tracks of several cameras in one fixed frame: each thing has one id and is told once."""

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
    """(4, 4) place of a camera that looks along a heading, 0 along x, 1.5 m above the ground."""
    cos, sin = np.cos(heading), np.sin(heading)
    turn = np.array([[cos, -sin, 0, x], [sin, cos, 0, y], [0, 0, 1, 1.5], [0, 0, 0, 1]])
    return turn @ UPRIGHT_T_CAM


def seen(points, place, classes=None, sigma=0.3):
    """Make the objects at points of the fixed frame, as a camera sees them."""
    points = np.reshape(np.asarray(points, float), (-1, 3))
    count = len(points)
    return Objects3D(
        class_id=np.zeros(count) if classes is None else classes,
        score=np.full(count, 0.9),
        center_m=(points - place[:3, 3]) @ place[:3, :3],
        size_hwl_m=np.tile([1.5, 1.7, 4.0], (count, 1)),
        rotation_y=np.zeros(count),
        box_px=np.zeros((count, 4)),
        depth_sigma_m=np.full(count, sigma),
    )


def result(name, found, stamp_ns):
    return FrameResult(name, stamp_ns, name, found, ('Car',), tuple(range(len(found))), {})


def step(memory, looks, config=AT_ONCE):
    """Follow one step: looks are (name, place or None, objects, stamp)."""
    results = [result(name, found, stamp) for name, _, found, stamp in looks]
    return track_objects(memory, results, [place for _, place, _, _ in looks], config)


def in_odom(one, place):
    return one.objects.center_m @ place[:3, :3].T + place[:3, 3]


def test_what_leaves_one_camera_goes_on_in_another():
    front, left = camera(0.0), camera(np.pi / 2)
    memory, ids, owners = INITIAL_STATE, set(), []
    for number in range(30):
        stamp = START_NS + number * 100 * MS
        angle = np.radians(20 + 2 * number)  # it is passed over at 45 degrees
        at = [20 * np.cos(angle), 20 * np.sin(angle), 0.8]
        none = Objects3D.empty()
        looks = [
            ('front', front, seen(at, front) if angle < np.pi / 4 else none, stamp),
            ('left', left, none if angle < np.pi / 4 else seen(at, left), stamp),
        ]
        memory, told = step(memory, looks)
        ids |= {id for each in told for id in each.ids}
        (owner,) = (i for i, each in enumerate(told) if len(each.ids))
        owners.append(owner)
        np.testing.assert_allclose(in_odom(told[owner], (front, left)[owner]), [at], atol=0.5)
    assert ids == {0}
    assert owners == sorted(owners)
    assert set(owners) == {0, 1}
    # 20 m times 2 degrees every 0.1 s, across the ray, in the axes of the camera that tells it
    velocity = left[:3, :3] @ told[1].velocity_m_s[0]
    ahead = np.array([-np.sin(angle), np.cos(angle), 0])
    np.testing.assert_allclose(velocity, 20 * np.radians(20) * ahead, atol=1.0)


def test_what_two_cameras_see_is_told_by_one_of_them():
    one, other = camera(0.3), camera(-0.3, y=-0.4)
    memory = INITIAL_STATE
    for number in range(6):
        stamp = START_NS + number * 100 * MS
        at = [[15.0 + number, 0.0, 0.8], [30.0, 3.0, 0.8]]
        looks = [
            ('one', one, seen(at, one), stamp),
            ('other', other, seen(at, other), stamp + 7 * MS),
        ]
        memory, told = step(memory, looks)
        assert sorted(id for each in told for id in each.ids) == [0, 1]
    assert len(memory.shared.states) == 2
    assert memory.shared.states.hits.tolist() == [12, 12]


def test_a_track_is_missed_by_the_camera_that_saw_it_last_and_by_no_other():
    front, back = camera(0.0), camera(np.pi)
    car = seen([20.0, 0.0, 0.8], front)
    memory, _ = step(INITIAL_STATE, [('front', front, car, START_NS)])
    for number in range(1, 6):
        stamp = START_NS + number * 50 * MS
        memory, (told,) = step(memory, [('back', back, Objects3D.empty(), stamp)])
        assert told.ids == ()
    assert memory.shared.states.misses.tolist() == [0]
    for number, expected in ((6, (0,)), (7, ()), (8, ())):  # one miss is bridged
        stamp = START_NS + number * 50 * MS
        memory, (told,) = step(memory, [('front', front, Objects3D.empty(), stamp)])
        assert told.ids == expected


def test_images_that_come_late_move_tracks_back_and_on_again():
    one, other = camera(0.1), camera(-0.1)
    memory, ids = INITIAL_STATE, set()
    for number in range(40):
        for name, place, late_ms in (('one', one, 0), ('other', other, -35)):
            stamp_s = 0.1 * number + late_ms / 1e3
            at = [10.0 + 12.0 * stamp_s, 1.0, 0.8]
            stamp = START_NS + round(stamp_s * 1e9)
            memory, (told,) = step(memory, [(name, place, seen(at, place, sigma=0.1), stamp)])
            ids |= set(told.ids)
            np.testing.assert_allclose(in_odom(told, place), [at], atol=0.2)
    assert ids == {0}
    velocity = place[:3, :3] @ told.velocity_m_s[0]
    np.testing.assert_allclose(velocity, [12.0, 0.0, 0.0], atol=0.1)


def test_going_back_undoes_the_motion_and_forgets_nothing_known():
    noise = Noise()
    states = init_tracks(
        to_measurements('front', seen([[9.0, 2, 1], [20, 0, 1]], camera(0)), camera(0), noise),
        0,
        noise,
    )
    states = replace(states, motion=states.motion + [0, 0, 0, 3.0, -1.0])
    there = predict_states(states, 0.3, noise)
    back = predict_states(there, -0.3, noise)
    np.testing.assert_allclose(back.motion, states.motion)
    assert (np.linalg.eigvalsh(back.covariance) > 0).all()
    grown = back.covariance - states.covariance
    assert (np.linalg.eigvalsh(grown) > -1e-9).all()
    np.testing.assert_allclose(back.time_since_update_s, 0.0, atol=1e-12)


def test_a_bag_played_again_ends_the_tracks_of_all_cameras_once():
    places = {'one': camera(0.2), 'other': camera(-0.2)}
    at = [[20.0, 0.0, 0.8], [25.0, 4.0, 0.8]]
    memory, rounds = INITIAL_STATE, []
    for _ in range(3):
        ids = set()
        for number in range(5):
            for name, place in places.items():  # one camera after the other, as they arrive
                look = (name, place, seen(at, place), START_NS + number * 100 * MS)
                memory, (told,) = step(memory, [look])
                ids |= set(told.ids)
        rounds.append(ids)
    assert [len(ids) for ids in rounds] == [2, 2, 2]
    assert len(set.union(*rounds)) == 6


def test_an_id_is_never_given_to_two_cameras():
    placed, memory, ids = camera(0.0), INITIAL_STATE, []
    for number in range(3):
        stamp = START_NS + number * 100 * MS
        car = seen([20.0, 0.0, 0.8], placed)
        looks = [('a', None, car, stamp), ('b', placed, car, stamp), ('c', None, car, stamp)]
        memory, told = step(memory, looks)
        ids.append([each.ids for each in told])
    assert ids[0] == ids[1] == ids[2]
    assert len({id for each in ids[0] for id in each}) == 3


def test_a_camera_that_vanishes_leaves_nothing_that_grows():
    rng = np.random.default_rng(0)
    place, memory, sizes = camera(0.0), INITIAL_STATE, []
    for number in range(300):
        stamp = START_NS + number * 100 * MS
        at = np.column_stack([rng.uniform(5, 60, (6, 2)), np.full(6, 0.8)])
        looks = [('stays', place, seen(at, place), stamp)]
        if number < 20:
            looks += [
                ('goes', camera(1.0), seen(at, camera(1.0)), stamp),
                ('lost', None, seen(at, place), stamp),
            ]
        memory, _ = step(memory, looks)
        sizes.append(len(memory.shared.states))
    assert max(sizes[40:]) <= max(sizes[:40])
    assert 'goes' not in memory.shared.states.camera
    assert set(memory.per_camera) == {'lost'}


LOOKS = st.lists(
    st.tuples(
        st.sampled_from(['a', 'b', 'c']),
        st.booleans(),
        st.lists(st.tuples(st.floats(-80, 80), st.floats(-3, 3), st.floats(-20, 150)), max_size=4),
        st.integers(-3_000, 3_000),
        st.sampled_from([0.0, 0.3, 30.0, np.inf]),
    ),
    max_size=3,
    unique_by=lambda look: look[0],
)


@settings(max_examples=60, deadline=None)
@given(st.lists(LOOKS, max_size=8))
def test_whatever_comes_ids_are_told_once_and_boxes_are_finite(steps):
    memory, now_ms = INITIAL_STATE, 0
    for looks in steps:
        made = [
            (
                name,
                camera(0.1) if placed else None,
                replace(seen(points, np.eye(4)), depth_sigma_m=np.full(len(points), sigma)),
                START_NS + (now_ms + offset_ms) * MS,
            )
            for name, placed, points, offset_ms, sigma in looks
        ]
        now_ms += 100
        memory, told = step(memory, made)
        assert [each.camera for each in told] == [name for name, *_ in looks]
        ids = [id for each in told for id in each.ids]
        assert len(ids) == len(set(ids))
        for each in told:
            assert each.velocity_m_s.shape == (len(each.ids), 3) == each.objects.center_m.shape
            assert np.isfinite(each.objects.center_m).all()
            assert np.isfinite(each.objects.depth_sigma_m).all()
            assert np.isfinite(each.velocity_m_s).all()
