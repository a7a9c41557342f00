"""Results files of nuScenes' benchmark, and the checks of what its figures hide."""

import json

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from stl_core.evaluation.nuscenes import checks, results
from stl_core.evaluation.nuscenes.names import ATTRIBUTES
from stl_core.rotations import rigid_transform, yaw_to_quaternion
from stl_core.vehicle_types import VehicleObjects

CLASSES = ('car', 'pedestrian', 'traffic_cone', 'tram')


def objects(**fields):
    columns = {
        'class_id': [0],
        'score': [0.9],
        'center_m': [[10.0, 2.0, 1.0]],
        'size_hwl_m': [[1.6, 1.9, 4.5]],
        'yaw': [0.4],
        'velocity_mps': [[3.0, 0.0]],
        'attribute_id': [-1],
    }
    return VehicleObjects(**{**columns, **fields})


def boxes_of(one, pose=None, classes=CLASSES, attributes=()):
    pose = np.eye(4) if pose is None else pose
    data, counts = results.build_results(
        [results.SampleDetections('t', one, pose)], classes, attributes
    )
    results.check_results(data)
    return data['results']['t'], counts


def test_a_box_is_written_in_the_global_frame():
    pose = rigid_transform(yaw_to_quaternion(np.pi / 2), np.array([100.0, 200, 0]))
    (box,), counts = boxes_of(objects(), pose)
    np.testing.assert_allclose(box['translation'], [98, 210, 1], atol=1e-9)
    assert box['size'] == [1.9, 4.5, 1.6]
    w, x, y, z = box['rotation']
    turn = Rotation.from_quat([x, y, z, w]).apply([1, 0, 0])
    assert np.arctan2(turn[1], turn[0]) == pytest.approx(np.pi / 2 + 0.4)
    np.testing.assert_allclose(box['velocity'], [0, 3], atol=1e-9)
    assert box['attribute_name'] == 'vehicle.moving'
    assert counts.default_attribute == 1


def test_filled_in_and_left_out_detections_are_counted():
    many = objects(
        **{
            'class_id': [0, 1, 2, 3],
            'score': [0.9, 0.8, 0.7, 0.6],
            'center_m': np.ones((4, 3)),
            'size_hwl_m': np.ones((4, 3)),
            'yaw': np.zeros(4),
            'velocity_mps': [[np.nan, np.nan], [0.1, 0], [0, 0], [0, 0]],
            'attribute_id': [-1, ATTRIBUTES.index('pedestrian.standing'), 0, 0],
        }
    )
    boxes, counts = boxes_of(many, attributes=ATTRIBUTES)
    names = [(box['detection_name'], box['attribute_name']) for box in boxes]
    assert names == [
        ('car', 'vehicle.parked'),
        ('pedestrian', 'pedestrian.standing'),
        ('traffic_cone', ''),
    ]
    assert boxes[0]['velocity'] == [0, 0]
    assert counts == results.ResultsCounts(
        3, other_classes=1, unknown_velocity=1, default_attribute=1
    )
    assert any('no velocity; the file states 0 m/s' in note for note in counts.notes())


def test_at_most_500_boxes_of_a_sample_the_best_ones():
    count = 520
    many = VehicleObjects(
        np.zeros(count),
        np.linspace(0, 1, count),
        np.ones((count, 3)),
        np.ones((count, 3)),
        np.zeros(count),
        np.zeros((count, 2)),
    )
    boxes, counts = boxes_of(many)
    assert (len(boxes), counts.beyond_most) == (500, 20)
    assert boxes[0]['detection_score'] == 1.0


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'size': [0, 1, 1]}, 'box 0: size .* above 0'),
        ({'rotation': [1, 0, 0]}, 'rotation .* expected 4 numbers'),
        ({'translation': [1, 2, float('nan')]}, 'translation .* expected 3 numbers'),
        ({'detection_name': 'Car'}, "detection_name 'Car': expected one of car, truck"),
        ({'attribute_name': 'cycle.with_rider'}, 'of a car: expected vehicle.moving'),
        ({'sample_token': 'u'}, "sample_token 'u' is that of another sample"),
    ],
)
def test_faults_are_named(tmp_path, change, message):
    boxes, _ = boxes_of(objects())
    data = {'meta': results.META, 'results': {'t': [{**boxes[0], **change}]}}
    path = tmp_path / 'results.json'
    path.write_text(json.dumps(data))
    with pytest.raises(results.ResultsError, match=message) as raised:
        results.read_results(path)
    assert str(path) in str(raised.value)


@pytest.mark.parametrize(
    'text', ['', '[]', '{"results": {}}', '{"meta": {}, "results": {"t": 1}}']
)
def test_other_files_are_refused(tmp_path, text):
    path = tmp_path / 'results.json'
    path.write_text(text)
    with pytest.raises(results.ResultsError, match=r'results\.json'):
        results.read_results(path)


def sample(center_m, score=(0.9, 0.8), names=('car', 'car')):
    count = len(center_m)
    return checks.SampleBoxes(
        np.array(names[:count]),
        np.array(score[:count]),
        np.array(center_m, float),
        np.tile([1.9, 4.5, 1.6], (count, 1)),
    )


def test_height_errors_are_those_of_the_nearest_box_on_the_ground():
    truth = {'t': sample([[0, 0, 1], [10, 0, 1]])}
    found = {'t': sample([[10, 0.5, 0.2], [0.5, 0, 1.4]]), 'other': sample([[0, 0, 9]])}
    errors = checks.height_errors(truth, found)
    assert errors.matches == 2
    assert errors.median_m == pytest.approx((-0.8 + 0.4) / 2)
    far = checks.height_errors(truth, {'t': sample([[5, 0, 1]])})
    assert far.matches == 0
    assert checks.height_errors(truth, {'t': sample([[0, 0, 1]], names=('truck',))}).matches == 0


def test_suspicions_name_quarter_turns_and_moved_boxes():
    right = checks.HeightErrors(10, 0.05, 1.6)
    assert checks.suspicions(0.4, right) == []
    (quarter,) = checks.suspicions(1.5, right)
    assert 'are width and length swapped' in quarter
    (low,) = checks.suspicions(0.4, checks.HeightErrors(10, -0.8, 1.6))
    assert 'boxes lie 0.80 m below the true ones (median; half of their height is 0.80 m)' in low
