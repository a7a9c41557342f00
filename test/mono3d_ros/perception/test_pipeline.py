"""Pipeline: one batch per step, filter, cross-camera NMS, tracking, and age limit."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from mono3d_ros.camera_frame import CameraPose, Frame
from mono3d_ros.params import Params
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
    spec, device = SimpleNamespace(classes=CLASSES), 'cpu'

    def __init__(self, predicted=None):
        self.predicted = objects([0], [0.9]) if predicted is None else predicted
        self.calls = []

    def __call__(self, images, Ps):
        self.calls.append((images, Ps))
        return [self.predicted for _ in images]


def make_pipeline(predictor, max_age_s=0.0, min_scores=(0.5, 0.5), **options):
    ticks = iter(range(100_000))
    detection_filter = DetectionFilter(min_scores, max_age_s=max_age_s)
    return Pipeline(predictor, detection_filter, lambda: next(ticks) * 0.25, **options)


def test_parameters_set_the_filter_the_tracker_and_the_overlap():
    params = Params(class_thresholds=[0.6, 0.7], tracking=True, max_age_s=2.0)
    pipeline = Pipeline.from_params(Fake(objects([0, 1], [0.65, 0.65])), params, lambda: 0.0)
    assert pipeline.detection_filter == params.detection_filter(CLASSES)
    for number in range(3):
        (result,) = pipeline.step([frame(stamp_ns=(10 + number) * S)], 0)
    assert result.objects.class_id.tolist() == [0]
    assert result.velocity_m_s is not None  # only the tracker estimates velocities
    untracked = Pipeline.from_params(Fake(), Params(), lambda: 0.0)
    (result,) = untracked.step([frame()], 0)
    assert result.velocity_m_s is None


@pytest.mark.parametrize(('max_overlap', 'published'), [(0.2, 1), (1.0, 2)])
def test_the_overlap_across_cameras_is_that_of_the_parameters(max_overlap, published):
    params = Params(max_overlap_across=max_overlap)
    pipeline = Pipeline.from_params(Fake(), params, lambda: 0.0)
    poses = {name: CameraPose(vehicle_T_cam=np.eye(4)) for name in ('a', 'b')}
    results = pipeline.step([frame('a'), frame('b')], 0, poses)
    assert sum(len(each.objects) for each in results) == published


def test_parameters_that_do_not_fit_the_classes_are_an_error():
    with pytest.raises(ValueError, match='class_thresholds: expected 2 numbers'):
        Pipeline.from_params(Fake(), Params(class_thresholds=[0.1]), lambda: 0.0)


def test_result_has_the_header_of_its_frame():
    (result,) = make_pipeline(Fake()).step([frame()], 10 * S)
    assert (result.camera, result.stamp_ns, result.frame_id) == ('front', 10 * S, 'front_optical')
    assert result.classes == CLASSES
    assert result.ids == (0,)
    assert result.timings_ms == {'inference': 250.0, 'postprocess': 250.0}


def test_cameras_are_processed_in_one_batch():
    fake = Fake()
    results = make_pipeline(fake).step([frame('a', focal=1.0), frame('b', focal=2.0)], 10 * S)
    assert [result.camera for result in results] == ['a', 'b']
    ((images, Ps),) = fake.calls
    assert len(images) == 2
    assert [P[0, 0] for P in Ps] == [1.0, 2.0]


def test_class_thresholds():
    fake = Fake(objects([0, 0, 1, 1, -1], [0.6, 0.4, 0.6, 0.8, 0.99]))
    (result,) = make_pipeline(fake, min_scores=(0.6, 0.7)).step([frame()], 0)
    assert result.objects.class_id.tolist() == [0, 1]
    assert result.objects.score.tolist() == [0.6, 0.8]
    assert result.ids == (0, 1)


def test_result_without_objects():
    (result,) = make_pipeline(Fake(Objects3D.empty())).step([frame()], 0)
    assert len(result.objects) == 0
    assert result.ids == ()


def test_old_frames_are_dropped_before_inference():
    fake = Fake()
    young, old = frame('young', 10 * S), frame('old', 9 * S - 1)
    results = make_pipeline(fake, max_age_s=1.0).step([old, young], 10 * S)
    assert [result.camera for result in results] == ['young']
    assert len(fake.calls[0][0]) == 1


def test_no_inference_if_all_frames_are_old():
    fake = Fake()
    assert make_pipeline(fake, max_age_s=1.0).step([frame()], 20 * S) == []
    assert not fake.calls


@pytest.mark.parametrize(('max_age_s', 'now_ns'), [(0.0, 1000 * S), (1.0, 0), (1.0, 5 * S)])
def test_age_is_ignored(max_age_s, now_ns):
    """Without a limit; without a clock; with a clock behind the stamps."""
    assert len(make_pipeline(Fake(), max_age_s).step([frame()], now_ns)) == 1


def test_clock_that_jumps_back():
    """`bag play --loop`: frames in flight belong to the other round."""
    pipeline = make_pipeline(Fake(), max_age_s=1.0)
    assert len(pipeline.step([frame(stamp_ns=50 * S)], 50 * S)) == 1
    assert len(pipeline.step([frame(stamp_ns=2 * S)], 4 * S)) == 1
    assert len(pipeline.step([frame(stamp_ns=2 * S)], 5 * S)) == 0


def test_filter_can_be_replaced():
    pipeline = make_pipeline(Fake())
    pipeline.detection_filter = DetectionFilter((0.95, 0.5))
    assert len(pipeline.step([frame()], 0)[0].objects) == 0


def test_parameters_can_change_between_steps():
    pipeline = Pipeline.from_params(Fake(), Params(), lambda: 0.0)
    changed = Params(class_thresholds=[0.95, 0.5])
    pipeline.update_params(changed)
    assert pipeline.detection_filter == changed.detection_filter(CLASSES)
    with pytest.raises(ValueError, match='class_names_kept'):
        pipeline.update_params(Params(class_names_kept=['Truck']))
    assert pipeline.detection_filter == changed.detection_filter(CLASSES)
    assert len(pipeline.step([frame()], 0)[0].objects) == 0


def test_filter_must_fit_the_classes():
    with pytest.raises(ValueError, match='1 thresholds for 2 classes: Car, Pedestrian'):
        make_pipeline(Fake(), min_scores=(0.5,))


def test_predictor_that_omits_a_frame_raises():
    fake = Fake()
    fake.__class__ = type('Forgetful', (Fake,), {'__call__': lambda self, images, Ps: []})
    with pytest.raises(ValueError, match='returned 0 predictions for 1 frames'):
        make_pipeline(fake).step([frame()], 0)


#: Two cameras with the same pose: equal objects in their images are one object.
SAME_SPOT = {name: CameraPose(vehicle_T_cam=UPRIGHT_T_CAM) for name in ('a', 'b')}


class ByCamera(Fake):
    """Detects one car per image; its score is proportional to the focal length."""

    def __call__(self, images, Ps):
        self.calls.append((images, Ps))
        return [objects([0], [P[0, 0] / 1000]) for P in Ps]


def test_object_in_two_cameras_is_published_by_the_higher_scoring_one():
    frames = [frame('a', focal=700.0), frame('b', focal=900.0), frame('c', focal=800.0)]
    results = make_pipeline(ByCamera()).step(frames, 0, SAME_SPOT)
    assert [each.objects.score.tolist() for each in results] == [[], [0.9], [0.8]]
    assert [each.ids for each in results] == [(), (0,), (0,)]
    results = make_pipeline(ByCamera(), max_overlap_across=1.0).step(frames, 0, SAME_SPOT)
    assert [len(each.objects) for each in results] == [1, 1, 1]


def test_filter_is_applied_before_cross_camera_nms():
    """A higher-scoring object of a removed class suppresses no other."""
    by_focal = {700.0: objects([0], [0.6]), 900.0: objects([1], [0.9])}
    fake = Fake()
    fake.__class__ = type(
        'Two', (Fake,), {'__call__': lambda self, images, Ps: [by_focal[P[0, 0]] for P in Ps]}
    )
    pipeline = make_pipeline(fake)
    pipeline.detection_filter = DetectionFilter((0.5, 0.5), kept_classes=(True, False))
    results = pipeline.step([frame('a', focal=700.0), frame('b', focal=900.0)], 0, SAME_SPOT)
    assert [each.objects.score.tolist() for each in results] == [[0.6], []]


def test_invalid_overlap_raises():
    with pytest.raises(ValueError, match='max_overlap_across must be 0 to 1, got 2'):
        make_pipeline(Fake(), max_overlap_across=2.0)


class Driving(Fake):
    """Detects one car 20 m ahead of the start; the camera drives 1 m per call towards it."""

    def __call__(self, images, Ps):
        self.calls.append(images)
        car = objects([0], [0.9])
        return [replace(car, center_m=[[0.0, 1.0, 20.0 - len(self.calls)]])] * len(images)


def drive(pipeline, count, first_ns=10 * S, camera='front', pose_known=True):
    """Process some frames, 0.1 s apart, of a camera that drives 10 m/s."""
    results = []
    for number in range(1, count + 1):
        fixed_T_cam = UPRIGHT_T_CAM.copy()
        fixed_T_cam[0, 3] = number
        poses = {camera: CameraPose(fixed_T_cam=fixed_T_cam)} if pose_known else {}
        stamp_ns = first_ns + number * S // 10
        results += pipeline.step([frame(camera, stamp_ns)], stamp_ns, poses)
    return results


def test_no_velocities_without_a_tracker():
    assert all(each.velocity_m_s is None for each in drive(make_pipeline(Driving()), 3))


@pytest.mark.parametrize(('pose_known', 'speed'), [(True, 0.0), (False, -10.0)])
def test_objects_are_tracked_with_a_tracker(pose_known, speed):
    results = drive(
        make_pipeline(Driving(), tracker_config=TrackerConfig()), 12, pose_known=pose_known
    )
    assert [each.ids for each in results] == [(), *[(0,)] * 11]  # a single detection may be false
    np.testing.assert_allclose(results[-1].velocity_m_s, [[0.0, 0.0, speed]], atol=0.5)
    np.testing.assert_allclose(results[-1].objects.center_m, [[0.0, 1.0, 8.0]], atol=0.5)
    assert results[-1].timings_ms == {'inference': 250.0, 'postprocess': 250.0}


def test_looped_bag_starts_with_new_tracks():
    pipeline, rounds = (
        make_pipeline(Driving(), tracker_config=TrackerConfig(min_hits=1), max_age_s=1.0),
        [],
    )
    for _ in range(3):
        pipeline._predictor.calls.clear()
        rounds.append({id for each in drive(pipeline, 4) for id in each.ids})
    assert rounds == [{0}, {1}, {2}]


def test_memory_of_changing_cameras_is_bounded():
    pipeline = make_pipeline(Driving(), tracker_config=TrackerConfig(min_hits=1))
    sizes = []
    for number in range(40):
        pipeline._predictor.calls.clear()
        drive(
            pipeline,
            3,
            first_ns=(10 + number) * S,
            camera=f'{number % 4}',
            pose_known=number % 3 > 0,
        )
        per_camera = pipeline._tracker_state.per_camera.values()
        sizes.append(
            len(pipeline._tracker_state.shared.states)
            + sum(len(each.states) for each in per_camera)
        )
    assert max(sizes[20:]) <= max(sizes[:20])
