"""KITTI AP on cases counted by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest
from label_rows import box, crowd, frame

from stl_core.evaluation.ap_result import ApResult
from stl_core.evaluation.average_precision import (
    best_threshold,
    evaluate_detections,
    precision_recall_curve,
)
from stl_core.evaluation.kitti_matching import (
    EASY,
    HARD,
    MODERATE,
    candidate_matches,
    count_matches,
    false_positive_scores,
    true_positive_scores,
)
from stl_core.evaluation.overlaps import pairwise_overlaps


def precision_recall(labels, detections, class_name, difficulty, min_score, min_iou3d):
    """Count 3D precision and recall of one class at one score, 0 to 1; 0 without any objects."""
    frames = pairwise_overlaps(labels, detections)
    candidates = candidate_matches(frames, class_name, difficulty, '3d', min_iou3d)
    counts = count_matches(candidates, np.array([min_score]))
    true, false, missed, _ = (part.item() for part in counts)
    return true / max(true + false, 1), true / max(true + missed, 1)


def test_minimum_height_is_sufficient_for_a_label():
    """A label exactly 40 px high must be found at easy; a slightly lower one need not."""
    for height_px, ap in ((40.0, 100 / 11), (39.99, 0.0)):
        labels = [frame(box(height_px=height_px))]
        result = evaluate_detections(labels, labels)['Car']
        assert result.value('bbox', 'AP11', 'strict', 'easy') == pytest.approx(ap)


def test_lower_detection_is_ignored():
    """A detection below the minimum height is no false positive; its matched label is no miss."""
    labels = [frame(box(u=0), box(u=300))]
    low, enough = (frame(box(u=0), box(u=600, height_px=h)) for h in (24.99, 25.0))
    assert precision_recall(labels, [low], 'Car', HARD, 0, 0.5) == (1.0, 0.5)
    assert precision_recall(labels, [enough], 'Car', HARD, 0, 0.5) == (0.5, 0.5)
    low_tram = frame(box(u=0), box('Tram', u=300, height_px=20))
    assert precision_recall(labels, [low_tram], 'Car', HARD, 0, 0.5) == (1.0, 1.0)


@pytest.mark.parametrize(
    ('detected', 'labelled', 'precision'),
    [
        ('Car', 'Van', 1.0),
        ('Pedestrian', 'Person_sitting', 1.0),
        ('Pedestrian', 'Van', 0.5),
        ('Cyclist', 'Person_sitting', 0.5),
        ('Car', 'Truck', 0.5),
    ],
)
def test_similar_class_is_ignored(detected, labelled, precision):
    """A car detected on a van costs nothing; on a truck it is a false positive."""
    labels = [frame(box(detected, u=0), box(labelled, u=300))]
    detections = [frame(box(detected, u=0), box(detected, u=300))]
    result = precision_recall(labels, detections, detected, MODERATE, 0, 0.5)
    assert result == (precision, 1.0)


def test_overlap_must_exceed_the_minimum():
    """An IoU of exactly one half is no match for a pedestrian; a little more is."""
    labels = [frame(box('Pedestrian', box_px=[0, 0, 100, 100]))]
    for right, ap in ((50.0, 0.0), (50.1, 100 / 11)):
        detections = [frame(box('Pedestrian', box_px=[0, 0, right, 100]))]
        result = evaluate_detections(labels, detections)['Pedestrian']
        assert result.by_difficulty('bbox', 'AP11', 'strict') == pytest.approx([ap] * 3)


def test_lowest_score_is_always_used():
    """3 of 400 objects found: the first and the last score are used, though recall stays low."""
    cars = [box(u=200.0 * i) for i in range(400)]
    detections = [
        {**car, 'score': score} for car, score in zip(cars, (0.9, 0.8, 0.7), strict=False)
    ]
    result = evaluate_detections([frame(*cars)], [frame(*detections)])['Car']
    assert result.by_difficulty('3d', 'AP40', 'strict') == pytest.approx([2.5] * 3)
    assert result.by_difficulty('3d', 'AP11', 'strict') == pytest.approx([100 / 11] * 3)


def test_dont_care_without_a_3d_box_ignores_detections_in_the_image_only():
    """A detection in KITTI's DontCare area is a false positive in 3D, but not in 2D."""
    cars = [box(u=200.0 * i) for i in range(4)]
    area = box('DontCare', box_px=[5000, 0, 6000, 400], center_m=[-1000] * 3, size_hwl_m=[-1] * 3)
    false_alarm = box(u=5500.0, score=2.0)
    result = evaluate_detections([frame(*cars, area)], [frame(*cars, false_alarm)])['Car']
    assert result.by_difficulty('bbox', 'AP40', 'strict') == pytest.approx([2.5 * 3] * 3)
    assert result.by_difficulty('3d', 'AP40', 'strict') == pytest.approx([2.5 * 3 * 0.8] * 3)


@pytest.mark.parametrize(('offset_m', 'ap'), [(0.0, 9.09), (0.59, 9.09), (0.61, 4.55), (9, 4.55)])
def test_dont_care_with_a_3d_box_ignores_detections_by_the_metric(offset_m, ap):
    """The devkit's AP11 is 9.09 inside; 1 - 0.59 / 2 of a 2 m cube is more than 0.7 of it."""
    false_alarm = box(u=500.0, score=2.0)
    x, y, z = false_alarm['center_m']
    region = box('DontCare', u=5000.0, center_m=[x, y, z + offset_m], size_hwl_m=[2.0] * 3)
    result = evaluate_detections([frame(box(), region)], [frame(box(), false_alarm)])['Car']
    for kind, expected in (('bev', ap), ('3d', ap), ('bbox', 4.55)):
        assert result.value(kind, 'AP11', 'strict', 'easy') == pytest.approx(expected, abs=5e-3)


def test_loose_accepts_matches_that_strict_rejects():
    """A car moved by a quarter of its length has IoU 0.6: a match in loose bev and 3d only."""
    cars = [box(u=200.0 * i) for i in range(5)]
    moved = [{**car, 'center_m': car['center_m'] + np.array([0.5, 0, 0])} for car in cars]
    result = evaluate_detections([frame(*cars)], [frame(*moved)])['Car']
    for kind in ('bev', '3d'):
        assert result.by_difficulty(kind, 'AP40', 'strict') == (0.0,) * 3
        assert result.by_difficulty(kind, 'AP40', 'loose') == pytest.approx([10.0] * 3)
    for criterion in ('strict', 'loose'):
        assert result.by_difficulty('bbox', 'AP40', criterion) == pytest.approx([10.0] * 3)


def test_orientation_weights_true_positives():
    """Half of the cars reversed halve AOS but not AP; without alpha AOS is 0."""
    cars = [box(u=200.0 * i) for i in range(10)]
    reversed_cars = [{**car, 'alpha': np.pi * (i % 2)} for i, car in enumerate(cars)]
    result = evaluate_detections([frame(*cars)], [frame(*reversed_cars)])['Car']
    assert result.by_difficulty('bbox', 'AP40', 'strict') == pytest.approx([22.5] * 3)
    assert result.by_difficulty('aos', 'AP40', 'strict') == pytest.approx([11.25] * 3)
    unknown = [{**car, 'alpha': -10.0} for car in cars]
    result = evaluate_detections([frame(*cars)], [frame(*unknown)])['Car']
    assert result.by_difficulty('aos', 'AP40', 'strict') == (0.0,) * 3


def test_empty_inputs_give_zero():
    """Without detections, labels, objects or frames, every value is 0 and plain JSON."""
    labels = [frame(box()), frame(), frame(box('Cyclist'))]
    empty = [frame()] * 3
    for ground_truth, detections in ((labels, empty), (empty, labels), (empty, empty), ([], [])):
        result = evaluate_detections(ground_truth, detections)
        data = json.loads(json.dumps(result.to_json()))
        assert ApResult.from_json(data) == result
        for kinds in data.values():
            for by_points in kinds.values():
                for criteria in by_points.values():
                    assert criteria == {'strict': [0.0] * 3, 'loose': [0.0] * 3}
        assert precision_recall(ground_truth, detections, 'Car', EASY, 0, 0.5) == (0.0, 0.0)
        assert best_threshold(ground_truth, detections, 'Car', EASY, 0.5).recall == 0


def test_empty_frames_change_nothing():
    """Frames without objects, between others, leave every number unchanged."""
    label_rows, detection_rows = crowd(np.random.default_rng(5), 10)
    labels, detections = [frame(*t) for t in label_rows], [frame(*f) for f in detection_rows]
    spread = [[x for each in side for x in (frame(), each)] for side in (labels, detections)]
    assert evaluate_detections(*spread) == evaluate_detections(labels, detections)


def test_frames_must_correspond():
    """Lists of different length are rejected, and the message states the lengths."""
    with pytest.raises(ValueError, match='2 frames of labels but 1'):
        evaluate_detections([frame(), frame()], [frame()])


def test_one_threshold():
    """Precision and recall at one score, and the score with the best F1, by hand."""
    labels = [frame(*(box(u=200.0 * i) for i in range(4)))]
    detections = [
        frame(
            box(u=0.0, score=0.9),
            box(u=200.0, score=0.8),
            box(u=5000.0, score=0.7),
            box(u=400.0, score=0.6),
            *(box(u=6000.0 + 200 * i, score=0.3) for i in range(8)),
            box(u=600.0, score=0.2),
        )
    ]
    assert precision_recall(labels, detections, 'Car', EASY, 0.85, 0.7) == (1.0, 0.25)
    assert precision_recall(labels, detections, 'Car', EASY, 0.7, 0.7) == pytest.approx(
        (2 / 3, 0.5)
    )
    assert precision_recall(labels, detections, 'Car', EASY, 0.2, 0.7) == pytest.approx(
        (4 / 13, 1.0)
    )
    best = best_threshold(labels, detections, 'Car', EASY, 0.7)
    assert (best.min_score, best.precision, best.recall) == (0.6, 0.75, 0.75)


def test_the_curve_is_precision_and_recall_at_each_score():
    """Every point of a curve equals the result of one threshold; without matches, no point."""
    label_rows, detection_rows = crowd(np.random.default_rng(7), 60)
    labels, detections = [frame(*t) for t in label_rows], [frame(*f) for f in detection_rows]
    frames = pairwise_overlaps(labels, detections)
    curve = precision_recall_curve(frames, 'Car', HARD, '3d', 0.5)
    assert len(curve.min_score) > 5
    for min_score, *point in zip(curve.min_score, curve.precision, curve.recall, strict=True):
        expected = precision_recall(labels, detections, 'Car', HARD, min_score, 0.5)
        assert point == pytest.approx(expected)
    assert not len(precision_recall_curve(frames, 'Car', HARD, '3d', 1.0).recall)


def test_true_and_false_scores():
    """Every detection that counts is true or false once, also among equal scores."""
    labels = [frame(box(u=0), box(u=300), box('Van', u=600), box(u=900, occluded=3))]
    detections = [
        frame(
            box(u=0, score=0.9),
            box(u=1, score=0.5),  # the second on one car
            box(u=5000, score=0.5),
            box(u=300, score=0.5),
            box(u=600, score=0.5),  # on a van: ignored
            box(u=900, score=0.7),  # on a car too hard for easy: ignored
            box(u=6000, score=0.9, height_px=20),  # too low: ignored
            box('Cyclist', u=7000, score=0.8),
        )
    ]
    candidates = candidate_matches(pairwise_overlaps(labels, detections), 'Car', EASY, '3d', 0.5)
    assert sorted(true_positive_scores(candidates)) == [0.5, 0.9]
    assert false_positive_scores(candidates).tolist() == [0.5, 0.5]


def test_table_shows_every_value():
    """One line for each class, metric, kind of AP and minimum IoU, under a heading."""
    cars = [frame(*(box(u=200.0 * i) for i in range(10)))]
    lines = evaluate_detections(cars, cars).format_table().splitlines()
    assert len(lines) == 1 + 3 * 4 * 2 * 2
    assert lines[1].split() == ['Car', 'bbox', 'AP40', '0.70', 'strict', '22.50', '22.50', '22.50']
