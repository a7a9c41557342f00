from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from mono3d_ros.camera_frame import CameraPose, Frame
from mono3d_ros.perception.detection_filter import DetectionFilter
from mono3d_ros.perception.pipeline import Pipeline
from mono3d_ros.perception.tracker import UPRIGHT_T_CAM, TrackerConfig
from stl_core.types import Objects3D

S = 1_000_000_000
CLASSES = ('Car', 'Pedestrian')


def objects(class_ids, scores):
    n = len(class_ids)
    return Objects3D(
        class_id=np.array(class_ids, int),
        score=np.array(scores, float),
        center_m=np.tile([0.0, 1.0, 20.0], (n, 1)),
        size_hwl_m=np.tile([1.5, 1.6, 4.0], (n, 1)),
        rotation_y=np.zeros(n),
        box_px=np.zeros((n, 4)),
        depth_sigma_m=np.ones(n),
    )


def frame(camera='front', stamp_ns=10 * S, focal=700.0):
    P = np.array([[focal, 0, 5, 0], [0, focal, 4, 0], [0, 0, 1, 0.0]])
    return Frame(camera, np.zeros((8, 10, 3), np.uint8), P, stamp_ns, f'{camera}_optical')


class Fake:
    spec = SimpleNamespace(classes=CLASSES)

    def __init__(self, found=None):
        self.found = objects([0], [0.9]) if found is None else found
        self.calls = []

    def __call__(self, images, Ps):
        self.calls.append((images, Ps))
        return [self.found for _ in images]


def pipeline(predictor, max_age_s=0.0, min_scores=(0.5, 0.5), **options):
    ticks = iter(range(100_000))
    selection = DetectionFilter(min_scores, max_age_s=max_age_s)
    return Pipeline(predictor, selection, lambda: next(ticks) * 0.25, **options)


def test_a_result_carries_the_header_of_its_frame():
    (result,) = pipeline(Fake()).step([frame()], 10 * S)
    assert (result.camera, result.stamp_ns, result.frame_id) == ('front', 10 * S, 'front_optical')
    assert result.classes == CLASSES
    assert result.ids == (0,)
    assert result.timings_ms == {'inference': 250.0, 'postprocess': 250.0}


def test_cameras_are_one_batch():
    fake = Fake()
    results = pipeline(fake).step([frame('a', focal=1.0), frame('b', focal=2.0)], 10 * S)
    assert [result.camera for result in results] == ['a', 'b']
    ((images, Ps),) = fake.calls
    assert len(images) == 2
    assert [P[0, 0] for P in Ps] == [1.0, 2.0]


def test_thresholds_of_the_classes():
    fake = Fake(objects([0, 0, 1, 1, -1], [0.6, 0.4, 0.6, 0.8, 0.99]))
    (result,) = pipeline(fake, min_scores=(0.6, 0.7)).step([frame()], 0)
    assert result.objects.class_id.tolist() == [0, 1]
    assert result.objects.score.tolist() == [0.6, 0.8]
    assert result.ids == (0, 1)


def test_no_objects_is_an_answer_too():
    (result,) = pipeline(Fake(Objects3D.empty())).step([frame()], 0)
    assert len(result.objects) == 0
    assert result.ids == ()


def test_old_frames_are_dropped_before_the_network_sees_them():
    fake = Fake()
    young, old = frame('young', 10 * S), frame('old', 9 * S - 1)
    results = pipeline(fake, max_age_s=1.0).step([old, young], 10 * S)
    assert [result.camera for result in results] == ['young']
    assert len(fake.calls[0][0]) == 1


def test_all_old_means_no_call():
    fake = Fake()
    assert pipeline(fake, max_age_s=1.0).step([frame()], 20 * S) == []
    assert not fake.calls


@pytest.mark.parametrize(('max_age_s', 'now_ns'), [(0.0, 1000 * S), (1.0, 0), (1.0, 5 * S)])
def test_age_does_not_count(max_age_s, now_ns):
    """Switched off; no clock yet; the clock behind the stamps."""
    assert len(pipeline(Fake(), max_age_s).step([frame()], now_ns)) == 1


def test_a_clock_that_jumps_back():
    """`bag play --loop`: the frames that are on their way belong to the other round."""
    line = pipeline(Fake(), max_age_s=1.0)
    assert len(line.step([frame(stamp_ns=50 * S)], 50 * S)) == 1
    assert len(line.step([frame(stamp_ns=2 * S)], 4 * S)) == 1
    assert len(line.step([frame(stamp_ns=2 * S)], 5 * S)) == 0


def test_a_selection_can_be_replaced():
    line = pipeline(Fake())
    line.detection_filter = DetectionFilter((0.95, 0.5))
    assert len(line.step([frame()], 0)[0].objects) == 0


def test_a_selection_must_fit_the_classes():
    with pytest.raises(ValueError, match='1 thresholds for 2 classes: Car, Pedestrian'):
        pipeline(Fake(), min_scores=(0.5,))


def test_a_predictor_that_forgets_a_frame():
    fake = Fake()
    fake.__class__ = type('Forgetful', (Fake,), {'__call__': lambda self, images, Ps: []})
    with pytest.raises(ValueError, match='answered 0 of 1'):
        pipeline(fake).step([frame()], 0)


#: Two cameras on one spot: what they see at one place in their images stands at one place.
SAME_SPOT = {name: CameraPose(vehicle_T_cam=UPRIGHT_T_CAM) for name in ('a', 'b')}


class ByCamera(Fake):
    """Finds one car each, surer where the focal length is longer."""

    def __call__(self, images, Ps):
        self.calls.append((images, Ps))
        return [objects([0], [P[0, 0] / 1000]) for P in Ps]


def test_what_two_cameras_see_is_told_by_the_surer_one():
    frames = [frame('a', focal=700.0), frame('b', focal=900.0), frame('c', focal=800.0)]
    told = pipeline(ByCamera()).step(frames, 0, SAME_SPOT)
    assert [each.objects.score.tolist() for each in told] == [[], [0.9], [0.8]]
    assert [each.ids for each in told] == [(), (0,), (0,)]
    told = pipeline(ByCamera(), max_overlap_across=1.0).step(frames, 0, SAME_SPOT)
    assert [len(each.objects) for each in told] == [1, 1, 1]


def test_thresholds_come_before_the_choice_of_a_camera():
    """A surer object of a class that is not passed on does not take others with it."""
    found = {700.0: objects([0], [0.6]), 900.0: objects([1], [0.9])}
    fake = Fake()
    fake.__class__ = type(
        'Two', (Fake,), {'__call__': lambda self, images, Ps: [found[P[0, 0]] for P in Ps]}
    )
    line = pipeline(fake)
    line.detection_filter = DetectionFilter((0.5, 0.5), kept_classes=(True, False))
    told = line.step([frame('a', focal=700.0), frame('b', focal=900.0)], 0, SAME_SPOT)
    assert [each.objects.score.tolist() for each in told] == [[0.6], []]


def test_an_overlap_that_is_none_is_refused():
    with pytest.raises(ValueError, match='max_overlap_across must be 0 to 1, got 2'):
        pipeline(Fake(), max_overlap_across=2.0)


class Driving(Fake):
    """Finds one car 20 m before where the camera started, which drives 1 m a call towards it."""

    def __call__(self, images, Ps):
        self.calls.append(images)
        car = objects([0], [0.9])
        return [replace(car, center_m=[[0.0, 1.0, 20.0 - len(self.calls)]])] * len(images)


def drive(line, count, first_ns=10 * S, camera='front', known=True):
    """Let some frames come, 0.1 s apart, of a camera that drives 10 m/s."""
    told = []
    for number in range(1, count + 1):
        fixed_T_cam = UPRIGHT_T_CAM.copy()
        fixed_T_cam[0, 3] = number
        places = {camera: CameraPose(fixed_T_cam=fixed_T_cam)} if known else {}
        stamp_ns = first_ns + number * S // 10
        told += line.step([frame(camera, stamp_ns)], stamp_ns, places)
    return told


def test_without_a_tracker_there_are_no_velocities():
    assert all(each.velocity_m_s is None for each in drive(pipeline(Driving()), 3))


@pytest.mark.parametrize(('known', 'speed'), [(True, 0.0), (False, -10.0)])
def test_objects_are_followed_where_a_tracker_is_given(known, speed):
    told = drive(pipeline(Driving(), tracker_config=TrackerConfig()), 12, known=known)
    assert [each.ids for each in told] == [(), *[(0,)] * 11]  # the first time it may be an error
    np.testing.assert_allclose(told[-1].velocity_m_s, [[0.0, 0.0, speed]], atol=0.5)
    np.testing.assert_allclose(told[-1].objects.center_m, [[0.0, 1.0, 8.0]], atol=0.5)
    assert told[-1].timings_ms == {'inference': 250.0, 'postprocess': 250.0}


def test_a_bag_played_in_a_loop_begins_with_new_tracks():
    line, rounds = pipeline(Driving(), tracker_config=TrackerConfig(min_hits=1), max_age_s=1.0), []
    for _ in range(3):
        line._predictor.calls.clear()
        rounds.append({id for each in drive(line, 4) for id in each.ids})
    assert rounds == [{0}, {1}, {2}]


def test_cameras_that_come_and_go_leave_nothing_that_grows():
    line = pipeline(Driving(), tracker_config=TrackerConfig(min_hits=1))
    sizes = []
    for number in range(40):
        line._predictor.calls.clear()
        drive(line, 3, first_ns=(10 + number) * S, camera=f'{number % 4}', known=number % 3 > 0)
        alone = line._tracker_state.per_camera.values()
        sizes.append(
            len(line._tracker_state.shared.states) + sum(len(each.states) for each in alone)
        )
    assert max(sizes[20:]) <= max(sizes[:20])
