"""What is passed on, against a plain loop over the objects."""

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
    """Put one car at each distance; the score of all is 0.5."""
    return objects(
        [0] * len(distances_m), [0.5] * len(distances_m), [[0, 0, d] for d in distances_m]
    )


def passes(class_id, score, center_m, selection):
    """One object, by the words of the docstring."""
    if class_id < 0 or not all(map(math.isfinite, center_m)):
        return False
    if selection.kept_classes and not selection.kept_classes[class_id]:
        return False
    distance_m = math.dist(center_m, (0, 0, 0))
    for up_to_m, least in selection.distance_thresholds:
        if distance_m <= up_to_m:
            return score >= selection.min_scores[class_id] and score >= least
    return score >= selection.min_scores[class_id]


SCORES = st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.75, 1.0])
SELECTIONS = st.builds(
    DetectionFilter,
    st.tuples(SCORES, SCORES, SCORES),
    st.dictionaries(st.sampled_from([5.0, 13.0, 25.0, 100.0, math.inf]), SCORES).map(
        lambda bands: tuple(sorted(bands.items()))
    ),
    st.one_of(st.just(()), st.tuples(st.booleans(), st.booleans(), st.booleans())),
)
PLACES = st.sampled_from([[0, 0, 5], [3, 4, 12], [3, 4, 12.01], [0, 0, 60], [0, math.nan, 9]])


@given(SELECTIONS, st.lists(st.tuples(st.integers(-1, 2), SCORES, PLACES), max_size=6))
def test_objects_are_chosen_one_by_one(selection, rows):
    found = (
        objects(*(list(each) for each in zip(*rows, strict=True))) if rows else objects([], [], [])
    )
    kept = filter_detections(found, selection)
    wanted = [i for i, row in enumerate(rows) if passes(*row, selection)]
    assert kept.depth_sigma_m.tolist() == wanted  # which counts the rows


def test_distances_have_thresholds_of_their_own():
    selection = DetectionFilter((0.3,), distance_thresholds=((20.0, 0.1), (40.0, 0.6)))
    assert filter_detections(away(10, 20, 20.1, 40, 41), selection).center_m[:, 2].tolist() == [
        10,
        20,
        41,
    ]


def test_the_distance_is_that_from_the_camera_not_the_depth():
    aside = objects([0], [0.5], [[15.0, 0.0, 15.0]])
    assert (
        len(filter_detections(aside, DetectionFilter((0.3,), distance_thresholds=((20.0, 0.9),))))
        == 1
    )
    assert (
        len(filter_detections(aside, DetectionFilter((0.3,), distance_thresholds=((22.0, 0.9),))))
        == 0
    )


@pytest.mark.parametrize(
    ('given', 'told'),
    [
        ({'min_scores': (0.5, 1.5)}, 'least score must be 0 to 1, got 1.5'),
        ({'min_scores': (float('nan'),)}, 'least score must be 0 to 1, got nan'),
        ({'distance_thresholds': ((20.0, -0.1),)}, 'least score must be 0 to 1, got -0.1'),
        (
            {'distance_thresholds': ((20.0, 0.1), (20.0, 0.2))},
            'must ascend from above 0, got 20, 20',
        ),
        ({'distance_thresholds': ((0.0, 0.1),)}, 'must ascend from above 0, got 0'),
        ({'distance_thresholds': ((float('nan'), 0.1),)}, 'must ascend from above 0, got nan'),
        ({'max_age_s': -1.0}, 'max_age_s must be 0 or more seconds, got -1'),
    ],
)
def test_what_cannot_be_meant_is_refused(given, told):
    with pytest.raises(ValueError, match=told):
        DetectionFilter(**{'min_scores': (0.5,), **given})


def test_it_must_be_for_the_classes():
    with pytest.raises(ValueError, match='1 thresholds for 3 classes: Car, Pedestrian, Cyclist'):
        DetectionFilter((0.5,)).check_classes(CLASSES)
    with pytest.raises(ValueError, match='2 kept flags for 3 classes'):
        DetectionFilter((0.5,) * 3, kept_classes=(True, False)).check_classes(CLASSES)
    DetectionFilter((0.5,) * 3).check_classes(CLASSES)
