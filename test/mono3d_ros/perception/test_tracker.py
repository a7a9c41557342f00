"""Tracks: the filter against closed forms; ids through crossings, gaps and loops; own motion."""

from dataclasses import fields, replace

import numpy as np
import pytest
from scipy.linalg import solve_discrete_are

from mono3d_ros.camera_frame import FrameResult
from mono3d_ros.perception.kalman_filter import FLIP_FRAMES, Noise, TrackStates, predict_states
from mono3d_ros.perception.tracker import (
    INITIAL_STATE,
    NO_TRACKS,
    UPRIGHT_T_CAM,
    CameraDetections,
    TrackerConfig,
    TrackerState,
    track_objects,
    update_tracks,
)
from stl_core.types import Objects3D

START_NS = 1_700_000_000_000_000_000
AT_ONCE = TrackerConfig(min_hits=1)


def laplace(rng, sigma, count=None):
    """Draw errors of standard deviation sigma."""
    return rng.laplace(0, sigma / np.sqrt(2), count)


def objects(centers, sigma=0.5, rotation_y=0.0, class_id=0, score=0.9):
    count = len(centers)
    return Objects3D(
        class_id=np.broadcast_to(class_id, count),
        score=np.broadcast_to(score, count),
        center_m=np.reshape(np.array(centers, float), (-1, 3)),
        size_hwl_m=np.tile([1.5, 1.7, 4.0], (count, 1)),
        rotation_y=np.broadcast_to(rotation_y, count),
        box_px=np.tile([10.0, 20.0, 30.0, 40.0], (count, 1)),
        depth_sigma_m=np.broadcast_to(sigma, count),
    )


def run(frames, config=AT_ONCE, stamps_ns=None, places=None, tracks=NO_TRACKS):
    """Track some frames, 0.1 s apart; return the answers and what is left."""
    told = []
    for number, found in enumerate(frames):
        stamp_ns = START_NS + number * 100_000_000 if stamps_ns is None else stamps_ns[number]
        place = UPRIGHT_T_CAM if places is None else places[number]
        tracks, (answers,) = update_tracks(
            tracks, [CameraDetections('front', found, stamp_ns, place)], config
        )
        told.append(answers)
    return told, tracks


def pose(x, y, heading, up=1.6):
    """(4, 4) place in odom of a camera that looks along a heading."""
    cos, sin = np.cos(heading), np.sin(heading)
    odom_T_base = np.array([[cos, -sin, 0, x], [sin, cos, 0, y], [0, 0, 1, up], [0, 0, 0, 1]])
    return odom_T_base @ UPRIGHT_T_CAM


def seen_from(place, points):
    """Points of odom in the frame of a camera."""
    return (np.asarray(points) - place[:3, 3]) @ place[:3, :3]


def turned_from(place, heading):
    """The rotation_y in the frame of a camera of what has a heading in odom."""
    x, _, z = place[:3, :3].T @ [np.cos(heading), np.sin(heading), 0.0]
    return np.arctan2(-z, x)


def result(found, stamp_ns=START_NS, camera='front'):
    ids = tuple(range(len(found)))
    return FrameResult(camera, stamp_ns, 'optical', found, ('Car',), ids, {})


def test_a_straight_line_is_fitted_as_least_squares_fits_it():
    rng = np.random.default_rng(0)
    noise = Noise(acceleration_psd=0.0, climb_psd=0.0, first_speed_m_s=7.0)
    times_s = np.cumsum(rng.uniform(0.02, 0.4, 12))
    camera = np.column_stack([-4 + 1.5 * times_s, np.ones(12), 22 - 3 * times_s])
    camera += rng.normal(0, 0.2, camera.shape)
    sigmas = rng.uniform(0.2, 0.8, 12)
    stamps_ns = [START_NS + round(t * 1e9) for t in times_s]
    frames = [objects([c], s) for c, s in zip(camera, sigmas, strict=True)]
    _, tracks = run(
        frames, replace(AT_ONCE, noise=noise, gate=1e9, max_time_since_update_s=9.0), stamps_ns
    )

    # position and velocity at the end, from all points at once; before them the speed is about 0
    information, told = np.diag([0.0, 0, 0, 1 / 7.0**2, 1 / 7.0**2]), np.zeros(5)
    for point, sigma, t in zip(camera, sigmas, times_s, strict=True):
        H = np.eye(3, 5)
        H[0, 3] = H[1, 4] = t - times_s[-1]
        away = point / np.linalg.norm(point)
        R = sigma**2 * np.outer(point, point) / point[2] ** 2  # the ray, a metre of z long
        R += (noise.bearing_sigma**2) * (point @ point) * (np.eye(3) - np.outer(away, away))
        R += noise.position_sigma_m**2 * np.eye(3)
        turn = UPRIGHT_T_CAM[:3, :3]
        weight = np.linalg.inv(turn @ R @ turn.T)
        information += H.T @ weight @ H
        told += H.T @ weight @ turn @ point
    np.testing.assert_allclose(tracks.states.motion[0], np.linalg.solve(information, told))
    np.testing.assert_allclose(tracks.states.covariance[0], np.linalg.inv(information), atol=1e-9)


def test_in_the_long_run_covariance_solves_the_riccati_equation():
    config = replace(AT_ONCE, noise=Noise(acceleration_psd=3.0))
    frames = [objects([[0.0, 0.0, 20.0]], sigma=0.7)] * 200
    _, tracks = run(frames, config)
    F, H = np.array([[1, 0.1], [0, 1]]), np.array([[1.0, 0.0]])
    Q = 3.0 * np.array([[0.1**3 / 3, 0.1**2 / 2], [0.1**2 / 2, 0.1]])
    R = np.array([[0.7**2 + config.noise.position_sigma_m**2]])
    before = solve_discrete_are(F.T, H.T, Q, R)
    after = before - before @ H.T @ np.linalg.inv(H @ before @ H.T + R) @ H @ before
    ahead = [0, 3]
    np.testing.assert_allclose(tracks.states.covariance[0][np.ix_(ahead, ahead)], after, rtol=1e-6)


def test_two_short_steps_do_what_a_long_one_does():
    _, tracks = run([objects([[1.0, 1.0, 15.0]])] * 5)
    noise = Noise()
    long = predict_states(tracks.states, 0.5, noise)
    short = predict_states(predict_states(tracks.states, 0.2, noise), 0.3, noise)
    for name in ('motion', 'covariance', 'yaw_variance', 'time_since_update_s'):
        np.testing.assert_allclose(getattr(long, name), getattr(short, name), atol=1e-12)


def test_the_told_depth_sigma_is_that_of_the_errors():
    rng = np.random.default_rng(1)
    config = replace(AT_ONCE, noise=Noise(position_sigma_m=1e-3, acceleration_psd=0.0), gate=1e9)
    squared = []
    for _ in range(150):
        speed = rng.normal(0, config.noise.first_speed_m_s)
        z = 200 + speed * 0.1 * np.arange(8)
        frames = [objects([[0.0, 0.0, each]], 1.0) for each in z + laplace(rng, 1.0, 8)]
        told, _ = run(frames, config)
        last = told[-1].objects
        squared.append((last.center_m[0, 2] - z[-1]) ** 2 / last.depth_sigma_m[0] ** 2)
        assert last.depth_sigma_m[0] < 0.7
    assert 0.8 < np.mean(squared) < 1.2


def test_ids_stay_when_cars_cross_and_one_hides_the_other():
    rng = np.random.default_rng(2)
    frames, places = [], []
    for step in range(40):
        x = -8 + 0.4 * step
        both = np.array([[x, 1.0, 16.0], [-x, 1.0, 24.0]])
        shown = rng.permutation([0] if abs(x) < 1.2 else [0, 1])
        seen = both[shown] * (1 + laplace(rng, 0.04, len(shown))[:, None])
        frames.append(objects(seen, 0.04 * both[shown, 2]))
        places.append(both)
    told, _ = run(frames, TrackerConfig())
    owner = {}
    for answers, both in zip(told, places, strict=True):
        for center, id in zip(answers.objects.center_m, answers.ids, strict=True):
            car = np.abs(center[2] - both[:, 2]).argmin()
            assert owner.setdefault(id, car) == car
    assert sorted(owner.values()) == [0, 1]
    assert len(told[-1].ids) == 2
    for id, speed in zip(told[-1].ids, told[-1].velocity_m_s[:, 0], strict=True):
        assert speed == pytest.approx((4.0, -4.0)[owner[id]], abs=1.0)


@pytest.mark.parametrize(('hidden', 'same'), [(8, True), (14, False)])
def test_an_id_outlives_a_gap_shorter_than_death(hidden, same):
    frames = [objects([[0.2 * k, 1.0, 20.0]]) for k in range(40)]
    frames[20 : 20 + hidden] = [Objects3D.empty()] * hidden
    told, _ = run(frames)
    assert (told[19].ids == told[-1].ids) == same
    assert told[20].ids == told[19].ids  # one miss is bridged
    assert told[20].objects.center_m[0, 0] == pytest.approx(4.0, abs=0.3)
    assert told[21].ids == ()


def test_a_frame_long_after_the_last_begins_anew():
    frame = objects([[0.0, 1.0, 20.0]])
    told, _ = run([frame] * 3, stamps_ns=[START_NS, START_NS + 10**8, START_NS + 30 * 10**8])
    assert told[0].ids == told[1].ids != told[2].ids


def test_a_false_alarm_is_never_told_and_a_young_track_may_be_missed_once():
    car, alarm = [0.0, 1.0, 20.0], [6.0, 1.0, 30.0]
    frames = [objects([car, alarm]), Objects3D.empty(), objects([car]), objects([car])]
    told, tracks = run(frames, TrackerConfig())
    assert [len(answers.ids) for answers in told] == [0, 0, 1, 1]
    assert len(tracks.states) == 1


def test_a_parked_car_stands_still_while_the_camera_drives_and_turns():
    rng = np.random.default_rng(3)
    at, heading = np.array([30.0, 4.0, 0.8]), 2.0
    places = [pose(0.8 * k, 0.01 * k**2, 0.02 * k) for k in range(26)]
    frames = []
    for place in places:
        center = seen_from(place, at)
        frames.append(
            objects(
                [center * (1 + laplace(rng, 0.02))],
                0.02 * center[2],
                turned_from(place, heading),
            )
        )
    told, tracks = run(frames, places=places)
    assert len({answers.ids for answers in told}) == 1
    assert np.linalg.norm(told[-1].velocity_m_s) < 0.5
    np.testing.assert_allclose(told[-1].objects.center_m[0], seen_from(places[-1], at), atol=0.3)
    np.testing.assert_allclose(tracks.states.yaw, heading, atol=1e-9)
    np.testing.assert_allclose(told[-1].objects.rotation_y, turned_from(places[-1], heading))
    told, _ = run(frames)  # relative to the camera it comes nearer as fast as the camera drives
    assert told[-1].velocity_m_s[0, 2] < -6


def test_a_moving_car_has_its_speed_over_the_ground_along_the_axes_of_the_camera():
    places = [pose(0.5 * k, 0.0, np.pi / 2) for k in range(60)]
    frames = [
        objects([seen_from(place, [2.0 + 1.2 * k, 20.0, 0.8])], 0.1)
        for k, place in enumerate(places)
    ]
    told, _ = run(frames, places=places)
    np.testing.assert_allclose(told[-1].velocity_m_s[0], [12.0, 0.0, 0.0], atol=0.1)


def test_a_box_seen_the_wrong_way_round_now_and_then_is_not_turned():
    rng = np.random.default_rng(4)
    yaw = np.where(np.arange(40) % 4 == 3, 1.0 - np.pi, 1.0) + rng.normal(0, 0.1, 40)
    told, _ = run([objects([[0.0, 1.0, 20.0]], rotation_y=each) for each in yaw])
    assert all(abs(answers.objects.rotation_y[0] - 1.0) < 0.25 for answers in told)


def test_a_box_first_seen_the_wrong_way_round_is_turned_soon():
    yaw = [3.0] + [3.0 - np.pi] * 5
    told, _ = run([objects([[0.0, 1.0, 20.0]], rotation_y=each) for each in yaw])
    ways = [float(np.cos(answers.objects.rotation_y[0] - 3.0)) for answers in told]
    np.testing.assert_allclose(ways, [1.0] * FLIP_FRAMES + [-1.0] * (6 - FLIP_FRAMES))


def test_a_bag_played_again_begins_anew_and_uses_no_id_twice():
    frames = [objects([[0.0, 1.0, 20.0], [5.0, 1.0, 30.0]])] * 4
    once, tracks = run(frames)
    again, _ = run(frames, tracks=tracks)
    ids = [{id for answers in told for id in answers.ids} for told in (once, again)]
    assert len(ids[0]) == len(ids[1]) == 2
    assert not ids[0] & ids[1]
    np.testing.assert_allclose(again[-1].objects.center_m, once[-1].objects.center_m)


def test_tracks_in_odom_and_in_the_camera_frame_are_not_mixed():
    frame, memory, ids = objects([[0.0, 1.0, 20.0]]), INITIAL_STATE, []
    for number, place in enumerate([None, None, pose(0, 0, 0), pose(0, 0, 0), None]):
        one = result(frame, START_NS + number * 10**8)
        memory, (followed,) = track_objects(memory, [one], [place], AT_ONCE)
        ids.append(followed.ids)
    assert ids[0] == ids[1] != ids[2] == ids[3] != ids[4] != ids[0]


def test_a_pedestrian_does_not_go_on_as_a_car():
    frames = [objects([[0.0, 1.0, 20.0]], class_id=k // 3) for k in range(6)]
    told, _ = run(frames)
    assert told[2].ids != told[3].ids
    assert told[3].objects.class_id.tolist() == [0, 1]  # the car is bridged for a frame


def test_cars_side_by_side_whose_depths_leap_keep_their_ids():
    rng = np.random.default_rng(5)
    both = np.array([[-1.6, 1.0, 40.0], [1.6, 1.0, 40.0]])
    frames = []
    for _ in range(60):
        order = rng.permutation(2)
        seen = both[order] * (1 + laplace(rng, 0.05, 2)[:, None])
        frames.append(objects(seen, 0.05 * 40))
    told, _ = run(frames, TrackerConfig())
    left = {answers.ids[int(answers.objects.center_m[0, 0] > 0)] for answers in told[1:]}
    assert len(left) == 1


def test_what_both_may_be_is_the_surer_track():
    # by distance alone the track not seen for long would take all that is anywhere near it
    sure, unsure = [0.0, 1.0, 20.0], [0.0, 1.0, 22.4]
    frames = [objects([sure, unsure], 0.2)] * 10 + [objects([sure], 0.2)] * 9
    told, tracks = run([*frames, objects([[0.0, 1.0, 20.8]], 0.2)])
    assert told[-1].ids == told[-2].ids == (tracks.states.id.min(),)
    assert len(tracks.states) == 2


def test_sizes_and_depths_settle():
    rng = np.random.default_rng(6)
    frames = [
        replace(objects([[0.0, 1.0, z]], 1.0), size_hwl_m=[[1.5, 1.7, length]])
        for z, length in zip(20 + laplace(rng, 1, 30), rng.normal(4.0, 0.3, 30), strict=True)
    ]
    told, _ = run(frames)
    errors = np.array([answers.objects.center_m[0, 2] - 20 for answers in told[10:]])
    raw = np.array([frame.center_m[0, 2] - 20 for frame in frames[10:]])
    assert np.abs(errors).mean() < 0.6 * np.abs(raw).mean()
    assert abs(told[-1].objects.size_hwl_m[0, 2] - 4.0) < 0.2


def test_an_update_changes_nothing_it_was_given_and_is_the_same_twice():
    frames = [objects([[0.0, 1.0, 20.0], [4.0, 1.0, 25.0]])] * 3
    _, tracks = run(frames)
    before = {f.name: getattr(tracks.states, f.name).copy() for f in fields(TrackStates)}
    looks = [CameraDetections('front', frames[0], START_NS + 10**9, UPRIGHT_T_CAM)]
    one, two = update_tracks(tracks, looks, AT_ONCE), update_tracks(tracks, looks, AT_ONCE)
    for name, value in before.items():
        np.testing.assert_array_equal(getattr(tracks.states, name), value)
        np.testing.assert_array_equal(getattr(one[0].states, name), getattr(two[0].states, name))
    assert one[1][0].ids == two[1][0].ids


def test_frames_without_objects_are_frames():
    told, tracks = run([Objects3D.empty()] * 3)
    assert [answers.ids for answers in told] == [(), (), ()]
    assert told[0].velocity_m_s.shape == (0, 3)
    assert tracks.next_id == 0


def test_follow_puts_tracks_in_the_place_of_a_results_objects():
    found = objects([[0.0, 1.0, 20.0]])
    memory = TrackerState(replace(NO_TRACKS, next_id=7))
    _, (followed,) = track_objects(memory, [result(found)], [None], AT_ONCE)
    assert followed.ids == (7,)
    np.testing.assert_array_equal(followed.velocity_m_s, np.zeros((1, 3)))
    assert (followed.camera, followed.stamp_ns, followed.frame_id) == (
        'front',
        START_NS,
        'optical',
    )
    for name in ('center_m', 'size_hwl_m', 'rotation_y', 'box_px', 'score', 'class_id'):
        np.testing.assert_allclose(
            getattr(followed.objects, name), getattr(found, name), atol=1e-12
        )
    # sigma takes in what else is uncertain
    sigma = np.hypot(0.5, 0.2)
    np.testing.assert_allclose(followed.objects.depth_sigma_m, sigma, rtol=1e-3)


def test_a_sigma_without_bound_is_as_good_as_no_depth():
    frames = [objects([[0.0, 1.0, 20.0]], sigma=each) for each in (0.5, np.inf, 0.5)]
    told, _ = run(frames)
    assert told[0].ids == told[1].ids == told[2].ids
    assert np.isfinite(told[1].objects.depth_sigma_m).all()


@pytest.mark.parametrize(
    ('make', 'told'),
    [
        (lambda: Noise(position_sigma_m=0.0), 'position_sigma_m must be above 0'),
        (lambda: Noise(acceleration_psd=-1.0), 'acceleration_psd must be 0 or more, got -1'),
        (lambda: Noise(bearing_sigma=float('nan')), 'bearing_sigma must be 0 or more'),
        (lambda: TrackerConfig(gate=0.0), 'gate and death_s must be above 0'),
        (lambda: TrackerConfig(min_hits=0), 'birth_hits at least 1'),
    ],
)
def test_what_cannot_be_worked_with_is_refused(make, told):
    with pytest.raises(ValueError, match=told):
        make()
