"""Tracking metrics on small drives counted by hand."""

import numpy as np
import pytest

from stl_core.evaluation.tracking_metrics import (
    DEFAULT_DIFFICULTY,
    MIN_IOU,
    TrackedFrame,
    evaluate_tracking,
)
from stl_core.types import Labels

FRAMES = 50
LENGTH_M = 4.0


def frame(ids, x=None, scores=1.0, **fields):
    """Return cars in a row across the road, 10 m apart by id unless x is given."""
    count = len(ids)
    x = 10.0 * np.array(ids) if x is None else x
    columns = {
        'name': np.full(count, 'Car'),
        'truncated': np.zeros(count),
        'occluded': np.zeros(count),
        'alpha': np.zeros(count),
        'score': np.broadcast_to(scores, count),
        'center_m': np.array([[each, 1.0, 20.0] for each in x]).reshape(-1, 3),
        'size_hwl_m': np.tile([1.5, 1.7, LENGTH_M], (count, 1)),
        'rotation_y': np.zeros(count),
        'box_px': np.tile([0.0, 0.0, 60.0, 40.0], (count, 1)),
    }
    return TrackedFrame(Labels(**columns | fields), list(ids))


def drive(ids=(0,), **fields):
    return [frame(ids, **fields) for _ in range(FRAMES)]


def figures(labels, tracks, min_iou=0.5):
    best = evaluate_tracking([labels], [tracks], 'Car', min_iou).best
    return {
        'true': best.true_positives,
        'false': best.false_positives,
        'missed': best.misses,
        'ids': best.id_switches,
        'frag': best.fragmentations,
        'mota': round(best.mota, 9),
    }


PERFECT = {'true': FRAMES, 'false': 0, 'missed': 0, 'ids': 0, 'frag': 0, 'mota': 1.0}


@pytest.mark.parametrize('min_iou', MIN_IOU)
def test_perfect_tracks_score_one(min_iou):
    result = evaluate_tracking([drive((0, 1))], [drive((0, 1))], 'Car', min_iou)
    for value in (result.samota, result.amota, result.amotp):
        assert value == pytest.approx(1.0)
    best = result.best
    assert (best.mota, best.motp, best.recall, best.precision) == (1, 1, 1, 1)
    assert (best.num_tracks, best.mostly_tracked, best.mostly_lost) == (2, 2, 0)


def test_scores_that_differ_cost_amota_but_not_samota():
    # up to recall 1/2 only the higher-scoring track counts: MOTA is 1/2 there, its maximum
    result = evaluate_tracking([drive((0, 1))], [drive((0, 1), scores=[0.9, 0.5])], 'Car', 0.5)
    assert result.amota == pytest.approx(0.75)
    assert result.samota == pytest.approx(1.0)
    assert result.best.min_score == 0.5
    assert [each.recall for each in result.points[::20]] == [0.5, 1.0]


def test_tracks_for_every_other_label_reach_half_of_the_recalls():
    result = evaluate_tracking([drive((0, 1, 2, 3))], [drive((0, 1))], 'Car', 0.5)
    assert len(result.points) == 20
    assert result.best.mota == 0.5
    assert result.amota == pytest.approx(20 / 40 * 0.5)
    assert result.samota == pytest.approx(20 / 40)


def test_one_id_switch():
    tracks = drive()[:20] + [frame([7], x=[0.0])] * 30
    assert figures(drive(), tracks) == {**PERFECT, 'ids': 1, 'frag': 1, 'mota': 0.98}


def test_one_miss_fragments_a_track_without_a_switch():
    tracks = drive()
    tracks[20] = frame([])
    expected = {**PERFECT, 'true': FRAMES - 1, 'missed': 1, 'frag': 1, 'mota': 0.98}
    assert figures(drive(), tracks) == expected
    # another track after the miss: the devkit counts a fragmentation, no switch
    tracks[21:] = [frame([7], x=[0.0])] * (FRAMES - 21)
    assert figures(drive(), tracks) == expected


def test_a_miss_at_the_start_or_the_end_is_no_fragmentation():
    for gap in (0, FRAMES - 1):
        tracks = drive()
        tracks[gap] = frame([])
        assert figures(drive(), tracks)['frag'] == 0


def test_a_single_match_between_misses_fragments_only_in_the_last_frame():
    tracks = drive()
    tracks[20] = tracks[22] = frame([])
    assert figures(drive(), tracks)['frag'] == 1
    tracks = [frame([])] * (FRAMES - 1) + drive()[:1]
    assert figures(drive(), tracks)['frag'] == 1


def test_one_false_alarm():
    tracks = drive()
    tracks[20] = frame([0, 9])
    assert figures(drive(), tracks) == {**PERFECT, 'false': 1, 'mota': 0.98}


def test_two_cars_whose_tracks_are_swapped():
    tracks = drive((0, 1))[:20] + [frame([1, 0], x=[0.0, 10.0])] * 30
    expected = {**PERFECT, 'true': 2 * FRAMES, 'ids': 2, 'frag': 2, 'mota': 0.98}
    assert figures(drive((0, 1)), tracks) == expected


def test_mostly_tracked_and_mostly_lost():
    tracked_ids = [[0, 1, 2]] * 9 + [[0, 1]] * 20 + [[0]] * 21
    best = evaluate_tracking(
        [drive((0, 1, 2, 3))], [[frame(ids) for ids in tracked_ids]], 'Car', 0.5
    ).best
    assert (best.num_tracks, best.mostly_tracked, best.mostly_lost) == (4, 1, 2)


def test_a_match_must_reach_the_minimum_iou():
    # two boxes of length 4, d apart along it: IoU (4 - d) / (4 + d)
    for min_iou, limit in ((0.25, 2.4), (0.5, 4 / 3)):
        for shift, num_matches in ((limit - 1e-6, FRAMES), (limit + 1e-6, 0)):
            result = evaluate_tracking([drive()], [drive(x=[shift])], 'Car', min_iou)
            assert result.best.true_positives == num_matches
    assert evaluate_tracking([drive()], [drive(x=[1.0])], 'Car', 0.5).best.motp == pytest.approx(
        0.6
    )


def test_the_largest_number_of_pairs_is_matched():
    # the nearest pair alone has IoU 0.9; matching both gives 1/3 each
    labels = [frame([0, 1], x=[0.0, 2.2]) for _ in range(FRAMES)]
    tracks = [frame([0, 1], x=[-2.0, 0.2]) for _ in range(FRAMES)]
    assert figures(labels, tracks, 0.25)['true'] == 2 * FRAMES


def test_drives_are_separate():
    tracks = drive()[:20] + [frame([7], x=[0.0])] * 30
    result = evaluate_tracking([drive(), drive()], [drive(), tracks], 'Car', 0.5)
    assert (result.best.num_tracks, result.best.id_switches) == (2, 1)
    # track 0 of one drive is independent of track 0 of the other
    both = evaluate_tracking(
        [drive(), drive()], [drive(scores=0.9), drive(scores=0.5)], 'Car', 0.5
    )
    levels = [each.min_score for each in both.points]
    assert levels == pytest.approx([0.9] * 20 + [0.5] * 20)


def test_tracks_are_thresholded_by_their_mean_score():
    scores = np.linspace(0.2, 0.8, FRAMES)
    tracks = [frame([0], scores=each) for each in scores]
    result = evaluate_tracking([drive()], [tracks], 'Car', 0.5)
    assert [each.min_score for each in result.points] == pytest.approx([0.5] * 40)
    assert result.samota == pytest.approx(1.0)


@pytest.mark.parametrize(
    'fields',
    [
        {'name': ['Van']},
        {'occluded': [DEFAULT_DIFFICULTY.max_occluded + 1]},
        {'truncated': [DEFAULT_DIFFICULTY.max_truncated + 0.01]},
    ],
)
def test_some_labels_may_be_missed_or_found_at_no_cost(fields):
    ignored = frame([1], **fields)
    both = {
        name: np.concatenate([getattr(frame([0]).labels, name), getattr(ignored.labels, name)])
        for name in Labels.FIELD_SHAPES
    }
    labels = [TrackedFrame(Labels(**both), [0, 1])] * FRAMES
    assert figures(labels, drive((0,))) == PERFECT
    counts = figures(labels, drive((0, 1)))
    assert (counts['mota'], counts['false'], counts['missed']) == (1.0, 0, 0)


def test_low_detections_and_those_in_dont_care_areas_cost_nothing():
    low = np.array([[0.0, 0.0, 60.0, 40.0], [100.0, 0.0, 160.0, DEFAULT_DIFFICULTY.min_height_px]])
    assert figures(drive(), drive((0, 9), box_px=low)) == PERFECT
    area = frame([0, -1], box_px=[[0, 0, 60, 40], [100, 0, 200, 100]], name=['Car', 'DontCare'])
    for cover, num_false in ((0.6, 0), (0.4, FRAMES)):
        left = 100 - 60 * (1 - cover)
        boxes = np.array([[0, 0, 60, 40], [left, 0, left + 60, 40]])
        assert figures([area] * FRAMES, drive((0, 9), box_px=boxes))['false'] == num_false


def test_an_ignored_frame_resets_the_history_of_a_track():
    labels = drive()
    labels[20] = frame([0], occluded=[3])
    tracks = drive()[:21] + [frame([7], x=[0.0])] * 29
    assert figures(drive(), tracks)['ids'] == 1
    counts = figures(labels, tracks)
    assert (counts['ids'], counts['frag']) == (0, 0)


def test_drives_without_labels_or_tracks():
    empty = [frame([])] * 3
    for labels, tracks in ((empty, empty), (empty, drive()[:3]), (drive()[:3], empty)):
        result = evaluate_tracking([labels], [tracks], 'Car', 0.5)
        assert (result.samota, result.amota, result.amotp) == (0, 0, 0)
        assert result.points == ()
    assert result.best.misses == 3
    assert evaluate_tracking([], [], 'Car', 0.5).best.mota == 0


def test_inconsistent_inputs_are_rejected():
    with pytest.raises(ValueError, match=r'drives of \[50\] frames of labels but \[49\]'):
        evaluate_tracking([drive()], [drive()[:-1]], 'Car', 0.5)
    with pytest.raises(ValueError, match='duplicate id in one frame of drive 0'):
        evaluate_tracking([drive()], [[frame([3, 3])] * FRAMES], 'Car', 0.5)
    with pytest.raises(ValueError, match='2 ids for 1 objects'):
        evaluate_tracking(
            [drive()], [[TrackedFrame(frame([0]).labels, [0, 1])] * FRAMES], 'Car', 0.5
        )
