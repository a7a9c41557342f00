from types import SimpleNamespace

import numpy as np
import pytest

from mono3d_ros.pipeline import Limits, Pipeline
from mono3d_ros.stream import Frame
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


def pipeline(predictor, max_age_s=0.0, min_scores=(0.5, 0.5)):
    ticks = iter(range(1000))
    return Pipeline(predictor, Limits(min_scores, max_age_s), lambda: next(ticks) * 0.25)


def test_a_result_carries_the_header_of_its_frame():
    (result,) = pipeline(Fake()).step([frame()], 10 * S)
    assert (result.camera, result.stamp_ns, result.frame_id) == ('front', 10 * S, 'front_optical')
    assert result.classes == CLASSES
    assert result.ids == (0,)
    assert result.timings_ms == {'inference': 250.0}


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


def test_limits_can_be_replaced():
    line = pipeline(Fake())
    line.limits = Limits((0.95, 0.5))
    assert len(line.step([frame()], 0)[0].objects) == 0


def test_limits_must_fit_the_classes():
    with pytest.raises(ValueError, match='1 thresholds for 2 classes: Car, Pedestrian'):
        pipeline(Fake(), min_scores=(0.5,))


def test_a_predictor_that_forgets_a_frame():
    fake = Fake()
    fake.__class__ = type('Forgetful', (Fake,), {'__call__': lambda self, images, Ps: []})
    with pytest.raises(ValueError, match='answered 0 of 1'):
        pipeline(fake).step([frame()], 0)
