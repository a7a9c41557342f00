"""Tracker: filter against closed forms; ids over crossings, gaps and replays; ego motion."""

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
    """Draw Laplace errors of standard deviation sigma."""
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


def run(frames, config=AT_ONCE, stamps_ns=None, poses=None, tracks=NO_TRACKS):
    """Track some frames, 0.1 s apart; return the outputs and the final tracks."""
    outputs = []
    for number, detections in enumerate(frames):
        stamp_ns = START_NS + number * 100_000_000 if stamps_ns is None else stamps_ns[number]
        pose = UPRIGHT_T_CAM if poses is None else poses[number]
        tracks, (tracked,) = update_tracks(
            tracks, [CameraDetections('front', detections, stamp_ns, pose)], config
        )
        outputs.append(tracked)
    return outputs, tracks


def camera_pose(x, y, heading, up=1.6):
    """Return the (4, 4) pose in odom of a camera that looks along a heading."""
    cos, sin = np.cos(heading), np.sin(heading)
    odom_T_base = np.array([[cos, -sin, 0, x], [sin, cos, 0, y], [0, 0, 1, up], [0, 0, 0, 1]])
    return odom_T_base @ UPRIGHT_T_CAM


def to_camera(pose, points):
    """Transform points from odom to the frame of a camera."""
    return (np.asarray(points) - pose[:3, 3]) @ pose[:3, :3]


def yaw_in_camera(pose, heading):
    """Return rotation_y in the frame of a camera for a heading in odom."""
    x, _, z = pose[:3, :3].T @ [np.cos(heading), np.sin(heading), 0.0]
    return np.arctan2(-z, x)


def result(detections, stamp_ns=START_NS, camera='front'):
    ids = tuple(range(len(detections)))
    return FrameResult(camera, stamp_ns, 'optical', detections, ('Car',), ids, {})


def test_filter_equals_least_squares_on_a_straight_line():
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

    # position and velocity at the end, from all points at once, with the prior of the speed
    information, weighted_sum = np.diag([0.0, 0, 0, 1 / 7.0**2, 1 / 7.0**2]), np.zeros(5)
    for point, sigma, t in zip(camera, sigmas, times_s, strict=True):
        H = np.eye(3, 5)
        H[0, 3] = H[1, 4] = t - times_s[-1]
        direction = point / np.linalg.norm(point)
        R = sigma**2 * np.outer(point, point) / point[2] ** 2  # along the ray, scaled to 1 m of z
        R += (
            (noise.bearing_sigma**2)
            * (point @ point)
            * (np.eye(3) - np.outer(direction, direction))
        )
        R += noise.position_sigma_m**2 * np.eye(3)
        rotation = UPRIGHT_T_CAM[:3, :3]
        weight = np.linalg.inv(rotation @ R @ rotation.T)
        information += H.T @ weight @ H
        weighted_sum += H.T @ weight @ rotation @ point
    np.testing.assert_allclose(tracks.states.motion[0], np.linalg.solve(information, weighted_sum))
    np.testing.assert_allclose(tracks.states.covariance[0], np.linalg.inv(information), atol=1e-9)


def test_steady_state_covariance_solves_the_riccati_equation():
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


def test_two_short_predictions_equal_one_long_prediction():
    _, tracks = run([objects([[1.0, 1.0, 15.0]])] * 5)
    noise = Noise()
    long = predict_states(tracks.states, 0.5, noise)
    short = predict_states(predict_states(tracks.states, 0.2, noise), 0.3, noise)
    for name in ('motion', 'covariance', 'yaw_variance', 'time_since_update_s'):
        np.testing.assert_allclose(getattr(long, name), getattr(short, name), atol=1e-12)


def test_published_depth_sigma_matches_the_errors():
    rng = np.random.default_rng(1)
    config = replace(AT_ONCE, noise=Noise(position_sigma_m=1e-3, acceleration_psd=0.0), gate=1e9)
    squared = []
    for _ in range(150):
        speed = rng.normal(0, config.noise.first_speed_m_s)
        z = 200 + speed * 0.1 * np.arange(8)
        frames = [objects([[0.0, 0.0, each]], 1.0) for each in z + laplace(rng, 1.0, 8)]
        outputs, _ = run(frames, config)
        last = outputs[-1].objects
        squared.append((last.center_m[0, 2] - z[-1]) ** 2 / last.depth_sigma_m[0] ** 2)
        assert last.depth_sigma_m[0] < 0.7
    assert 0.8 < np.mean(squared) < 1.2


def test_ids_are_kept_when_cars_cross_and_one_occludes_the_other():
    rng = np.random.default_rng(2)
    frames, truth = [], []
    for step in range(40):
        x = -8 + 0.4 * step
        both = np.array([[x, 1.0, 16.0], [-x, 1.0, 24.0]])
        visible = rng.permutation([0] if abs(x) < 1.2 else [0, 1])
        measured = both[visible] * (1 + laplace(rng, 0.04, len(visible))[:, None])
        frames.append(objects(measured, 0.04 * both[visible, 2]))
        truth.append(both)
    outputs, _ = run(frames, TrackerConfig())
    owner = {}
    for tracked, both in zip(outputs, truth, strict=True):
        for center, id in zip(tracked.objects.center_m, tracked.ids, strict=True):
            car = np.abs(center[2] - both[:, 2]).argmin()
            assert owner.setdefault(id, car) == car
    assert sorted(owner.values()) == [0, 1]
    assert len(outputs[-1].ids) == 2
    for id, speed in zip(outputs[-1].ids, outputs[-1].velocity_m_s[:, 0], strict=True):
        assert speed == pytest.approx((4.0, -4.0)[owner[id]], abs=1.0)


@pytest.mark.parametrize(('hidden', 'same'), [(8, True), (14, False)])
def test_id_survives_a_gap_shorter_than_max_time_since_update(hidden, same):
    frames = [objects([[0.2 * k, 1.0, 20.0]]) for k in range(40)]
    frames[20 : 20 + hidden] = [Objects3D.empty()] * hidden
    outputs, _ = run(frames)
    assert (outputs[19].ids == outputs[-1].ids) == same
    assert outputs[20].ids == outputs[19].ids  # published for one miss
    assert outputs[20].objects.center_m[0, 0] == pytest.approx(4.0, abs=0.3)
    assert outputs[21].ids == ()


def test_frame_after_a_long_gap_starts_new_tracks():
    frame = objects([[0.0, 1.0, 20.0]])
    outputs, _ = run([frame] * 3, stamps_ns=[START_NS, START_NS + 10**8, START_NS + 30 * 10**8])
    assert outputs[0].ids == outputs[1].ids != outputs[2].ids


def test_false_positive_is_never_published_and_a_new_track_may_be_missed_once():
    car, false_positive = [0.0, 1.0, 20.0], [6.0, 1.0, 30.0]
    frames = [objects([car, false_positive]), Objects3D.empty(), objects([car]), objects([car])]
    outputs, tracks = run(frames, TrackerConfig())
    assert [len(tracked.ids) for tracked in outputs] == [0, 0, 1, 1]
    assert len(tracks.states) == 1


def test_parked_car_has_zero_velocity_while_the_camera_drives_and_turns():
    rng = np.random.default_rng(3)
    position, heading = np.array([30.0, 4.0, 0.8]), 2.0
    poses = [camera_pose(0.8 * k, 0.01 * k**2, 0.02 * k) for k in range(26)]
    frames = []
    for pose in poses:
        center = to_camera(pose, position)
        frames.append(
            objects(
                [center * (1 + laplace(rng, 0.02))],
                0.02 * center[2],
                yaw_in_camera(pose, heading),
            )
        )
    outputs, tracks = run(frames, poses=poses)
    assert len({tracked.ids for tracked in outputs}) == 1
    assert np.linalg.norm(outputs[-1].velocity_m_s) < 0.5
    np.testing.assert_allclose(
        outputs[-1].objects.center_m[0], to_camera(poses[-1], position), atol=0.3
    )
    np.testing.assert_allclose(tracks.states.yaw, heading, atol=1e-9)
    np.testing.assert_allclose(outputs[-1].objects.rotation_y, yaw_in_camera(poses[-1], heading))
    outputs, _ = run(frames)  # relative to the camera it approaches
    assert outputs[-1].velocity_m_s[0, 2] < -6


def test_velocity_of_a_moving_car_is_over_the_ground_along_the_axes_of_the_camera():
    poses = [camera_pose(0.5 * k, 0.0, np.pi / 2) for k in range(60)]
    frames = [
        objects([to_camera(pose, [2.0 + 1.2 * k, 20.0, 0.8])], 0.1) for k, pose in enumerate(poses)
    ]
    outputs, _ = run(frames, poses=poses)
    np.testing.assert_allclose(outputs[-1].velocity_m_s[0], [12.0, 0.0, 0.0], atol=0.1)


def test_yaw_does_not_flip_for_single_detections_with_the_opposite_heading():
    rng = np.random.default_rng(4)
    yaw = np.where(np.arange(40) % 4 == 3, 1.0 - np.pi, 1.0) + rng.normal(0, 0.1, 40)
    outputs, _ = run([objects([[0.0, 1.0, 20.0]], rotation_y=each) for each in yaw])
    assert all(abs(tracked.objects.rotation_y[0] - 1.0) < 0.25 for tracked in outputs)


def test_yaw_flips_if_only_the_first_detection_has_the_opposite_heading():
    yaw = [3.0] + [3.0 - np.pi] * 5
    outputs, _ = run([objects([[0.0, 1.0, 20.0]], rotation_y=each) for each in yaw])
    cosines = [float(np.cos(tracked.objects.rotation_y[0] - 3.0)) for tracked in outputs]
    np.testing.assert_allclose(cosines, [1.0] * FLIP_FRAMES + [-1.0] * (6 - FLIP_FRAMES))


def test_replayed_bag_starts_new_tracks_with_new_ids():
    frames = [objects([[0.0, 1.0, 20.0], [5.0, 1.0, 30.0]])] * 4
    first, tracks = run(frames)
    second, _ = run(frames, tracks=tracks)
    ids = [{id for tracked in outputs for id in tracked.ids} for outputs in (first, second)]
    assert len(ids[0]) == len(ids[1]) == 2
    assert not ids[0] & ids[1]
    np.testing.assert_allclose(second[-1].objects.center_m, first[-1].objects.center_m)


def test_tracks_in_odom_and_in_the_camera_frame_are_not_mixed():
    frame, state, ids = objects([[0.0, 1.0, 20.0]]), INITIAL_STATE, []
    for number, pose in enumerate([None, None, camera_pose(0, 0, 0), camera_pose(0, 0, 0), None]):
        one = result(frame, START_NS + number * 10**8)
        state, (tracked,) = track_objects(state, [one], [pose], AT_ONCE)
        ids.append(tracked.ids)
    assert ids[0] == ids[1] != ids[2] == ids[3] != ids[4] != ids[0]


def test_track_does_not_change_its_class():
    frames = [objects([[0.0, 1.0, 20.0]], class_id=k // 3) for k in range(6)]
    outputs, _ = run(frames)
    assert outputs[2].ids != outputs[3].ids
    assert outputs[3].objects.class_id.tolist() == [0, 1]  # the car is published for one miss


def test_ids_of_cars_side_by_side_are_kept_despite_depth_errors():
    rng = np.random.default_rng(5)
    both = np.array([[-1.6, 1.0, 40.0], [1.6, 1.0, 40.0]])
    frames = []
    for _ in range(60):
        order = rng.permutation(2)
        measured = both[order] * (1 + laplace(rng, 0.05, 2)[:, None])
        frames.append(objects(measured, 0.05 * 40))
    outputs, _ = run(frames, TrackerConfig())
    left = {tracked.ids[int(tracked.objects.center_m[0, 0] > 0)] for tracked in outputs[1:]}
    assert len(left) == 1


def test_ambiguous_detection_is_assigned_to_the_more_certain_track():
    # by distance alone a track without recent detections would take every detection nearby
    certain, uncertain = [0.0, 1.0, 20.0], [0.0, 1.0, 22.4]
    frames = [objects([certain, uncertain], 0.2)] * 10 + [objects([certain], 0.2)] * 9
    outputs, tracks = run([*frames, objects([[0.0, 1.0, 20.8]], 0.2)])
    assert outputs[-1].ids == outputs[-2].ids == (tracks.states.id.min(),)
    assert len(tracks.states) == 2


def test_sizes_and_depths_converge():
    rng = np.random.default_rng(6)
    frames = [
        replace(objects([[0.0, 1.0, z]], 1.0), size_hwl_m=[[1.5, 1.7, length]])
        for z, length in zip(20 + laplace(rng, 1, 30), rng.normal(4.0, 0.3, 30), strict=True)
    ]
    outputs, _ = run(frames)
    errors = np.array([tracked.objects.center_m[0, 2] - 20 for tracked in outputs[10:]])
    raw = np.array([frame.center_m[0, 2] - 20 for frame in frames[10:]])
    assert np.abs(errors).mean() < 0.6 * np.abs(raw).mean()
    assert abs(outputs[-1].objects.size_hwl_m[0, 2] - 4.0) < 0.2


def test_update_is_deterministic_and_does_not_modify_its_inputs():
    frames = [objects([[0.0, 1.0, 20.0], [4.0, 1.0, 25.0]])] * 3
    _, tracks = run(frames)
    before = {f.name: getattr(tracks.states, f.name).copy() for f in fields(TrackStates)}
    detections = [CameraDetections('front', frames[0], START_NS + 10**9, UPRIGHT_T_CAM)]
    one, two = (
        update_tracks(tracks, detections, AT_ONCE),
        update_tracks(tracks, detections, AT_ONCE),
    )
    for name, value in before.items():
        np.testing.assert_array_equal(getattr(tracks.states, name), value)
        np.testing.assert_array_equal(getattr(one[0].states, name), getattr(two[0].states, name))
    assert one[1][0].ids == two[1][0].ids


def test_frames_without_objects():
    outputs, tracks = run([Objects3D.empty()] * 3)
    assert [tracked.ids for tracked in outputs] == [(), (), ()]
    assert outputs[0].velocity_m_s.shape == (0, 3)
    assert tracks.next_id == 0


def test_track_objects_replaces_the_objects_of_a_result():
    detections = objects([[0.0, 1.0, 20.0]])
    state = TrackerState(replace(NO_TRACKS, next_id=7))
    _, (tracked,) = track_objects(state, [result(detections)], [None], AT_ONCE)
    assert tracked.ids == (7,)
    np.testing.assert_array_equal(tracked.velocity_m_s, np.zeros((1, 3)))
    assert (tracked.camera, tracked.stamp_ns, tracked.frame_id) == (
        'front',
        START_NS,
        'optical',
    )
    for name in ('center_m', 'size_hwl_m', 'rotation_y', 'box_px', 'score', 'class_id'):
        np.testing.assert_allclose(
            getattr(tracked.objects, name), getattr(detections, name), atol=1e-12
        )
    # sigma includes position_sigma_m
    sigma = np.hypot(0.5, 0.2)
    np.testing.assert_allclose(tracked.objects.depth_sigma_m, sigma, rtol=1e-3)


def test_infinite_depth_sigma_keeps_the_track_and_finite_outputs():
    frames = [objects([[0.0, 1.0, 20.0]], sigma=each) for each in (0.5, np.inf, 0.5)]
    outputs, _ = run(frames)
    assert outputs[0].ids == outputs[1].ids == outputs[2].ids
    assert np.isfinite(outputs[1].objects.depth_sigma_m).all()


@pytest.mark.parametrize(
    ('build', 'message'),
    [
        (lambda: Noise(position_sigma_m=0.0), 'position_sigma_m must be above 0'),
        (lambda: Noise(acceleration_psd=-1.0), 'acceleration_psd must be 0 or more, got -1'),
        (lambda: Noise(bearing_sigma=float('nan')), 'bearing_sigma must be 0 or more'),
        (lambda: TrackerConfig(gate=0.0), 'gate and max_time_since_update_s must be above 0'),
        (lambda: TrackerConfig(min_hits=0), 'min_hits at least 1'),
    ],
)
def test_invalid_values_raise(build, message):
    with pytest.raises(ValueError, match=message):
        build()
