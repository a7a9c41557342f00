"""Filter of detections, compared with a plain loop over the objects."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mono3d_ros.perception.detection_filter import DetectionFilter, filter_detections
from stl_core.types import Objects3D

CLASSES = ('Car', 'Pedestrian', 'Cyclist')


def objects(class_ids, scores, centers):
    n = len(class_ids)
    return Objects3D(
        class_id=np.array(class_ids, int),
        score=np.array(scores, float),
        center_m=np.reshape(np.array(centers, float), (n, 3)),
        size_hwl_m=np.tile([1.5, 1.6, 4.0], (n, 1)),
        rotation_y=np.zeros(n),
        box_px=np.zeros((n, 4)),
        depth_sigma_m=np.arange(n, dtype=float),
    )


def away(*distances_m):
    """Build one car of score 0.5 at each distance."""
    return objects(
        [0] * len(distances_m), [0.5] * len(distances_m), [[0, 0, d] for d in distances_m]
    )


def passes(class_id, score, center_m, detection_filter):
    """Return whether one object passes, by the docstring of DetectionFilter."""
    if class_id < 0 or not all(map(math.isfinite, center_m)):
        return False
    if detection_filter.kept_classes and not detection_filter.kept_classes[class_id]:
        return False
    distance_m = math.dist(center_m, (0, 0, 0))
    for up_to_m, min_score in detection_filter.distance_thresholds:
        if distance_m <= up_to_m:
            return score >= detection_filter.min_scores[class_id] and score >= min_score
    return score >= detection_filter.min_scores[class_id]


SCORES = st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.75, 1.0])
FILTERS = st.builds(
    DetectionFilter,
    st.tuples(SCORES, SCORES, SCORES),
    st.dictionaries(st.sampled_from([5.0, 13.0, 25.0, 100.0, math.inf]), SCORES).map(
        lambda bands: tuple(sorted(bands.items()))
    ),
    st.one_of(st.just(()), st.tuples(st.booleans(), st.booleans(), st.booleans())),
)
CENTERS = st.sampled_from([[0, 0, 5], [3, 4, 12], [3, 4, 12.01], [0, 0, 60], [0, math.nan, 9]])


@given(FILTERS, st.lists(st.tuples(st.integers(-1, 2), SCORES, CENTERS), max_size=6))
def test_filter_equals_a_loop_over_objects(detection_filter, rows):
    detections = (
        objects(*(list(each) for each in zip(*rows, strict=True))) if rows else objects([], [], [])
    )
    kept = filter_detections(detections, detection_filter)
    expected = [i for i, row in enumerate(rows) if passes(*row, detection_filter)]
    assert kept.depth_sigma_m.tolist() == expected  # it numbers the rows


def test_distance_thresholds():
    detection_filter = DetectionFilter((0.3,), distance_thresholds=((20.0, 0.1), (40.0, 0.6)))
    assert filter_detections(away(10, 20, 20.1, 40, 41), detection_filter).center_m[
        :, 2
    ].tolist() == [
        10,
        20,
        41,
    ]


def test_distance_is_euclidean_not_depth():
    diagonal = objects([0], [0.5], [[15.0, 0.0, 15.0]])
    assert (
        len(
            filter_detections(
                diagonal, DetectionFilter((0.3,), distance_thresholds=((20.0, 0.9),))
            )
        )
        == 1
    )
    assert (
        len(
            filter_detections(
                diagonal, DetectionFilter((0.3,), distance_thresholds=((22.0, 0.9),))
            )
        )
        == 0
    )


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'min_scores': (0.5, 1.5)}, 'minimum score must be 0 to 1, got 1.5'),
        ({'min_scores': (float('nan'),)}, 'minimum score must be 0 to 1, got nan'),
        ({'distance_thresholds': ((20.0, -0.1),)}, 'minimum score must be 0 to 1, got -0.1'),
        (
            {'distance_thresholds': ((20.0, 0.1), (20.0, 0.2))},
            'must be ascending and above 0, got 20, 20',
        ),
        ({'distance_thresholds': ((0.0, 0.1),)}, 'must be ascending and above 0, got 0'),
        ({'distance_thresholds': ((float('nan'), 0.1),)}, 'ascending and above 0, got nan'),
        ({'max_age_s': -1.0}, 'max_age_s must be 0 or more seconds, got -1'),
    ],
)
def test_invalid_values_raise(arguments, message):
    with pytest.raises(ValueError, match=message):
        DetectionFilter(**{'min_scores': (0.5,), **arguments})


def test_filter_must_fit_the_classes():
    with pytest.raises(ValueError, match='1 thresholds for 3 classes: Car, Pedestrian, Cyclist'):
        DetectionFilter((0.5,)).check_classes(CLASSES)
    with pytest.raises(ValueError, match='2 kept flags for 3 classes'):
        DetectionFilter((0.5,) * 3, kept_classes=(True, False)).check_classes(CLASSES)
    DetectionFilter((0.5,) * 3).check_classes(CLASSES)
