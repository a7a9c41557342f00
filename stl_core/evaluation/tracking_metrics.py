"""
3D multi-object tracking metrics: sAMOTA, AMOTA and AMOTP over recall, CLEAR MOT at one score.

Every frame is matched independently: as many pairs of label and detection as overlap enough in 3D,
and of all such matchings the one with the greatest sum of IoU. The score of a track is the mean
score of its detections. Tracks are thresholded at 40 scores, at which recall is nearest to 1/40,
2/40, ..., 1; MOTA, MOTP and sMOTA are measured at each and averaged, with 0 for a recall that is
never reached. The figures at one score are those at the score with the best MOTA.

A label may be missed at no cost if its truncation or occlusion exceeds the difficulty's, or if it
belongs to the similar class (Van, Person_sitting). An unmatched detection costs nothing if its 2D
box is low, if it belongs to the similar class, or if more than half of it is in a DontCare area. A
match with an ignored label is still a true positive.

A track that takes over after a gap is a fragmentation, not a switch, and a match of the previous
frame has no precedence: there the KITTI devkit differs from the original definition of CLEAR MOT.

All this follows scripts/KITTI/evaluate.py of AB3DMOT, which follows KITTI's tracking devkit, with
two fixes: there a detection that matched at one threshold is never ignored at later ones, and a
track can fall below its own score, because the mean is computed again from means and rounds. Weng,
Wang, Held, Kitani: '3D multi-object tracking: a baseline and new evaluation metrics', IROS 2020;
Bernardin, Stiefelhagen: 'Evaluating multiple object tracking performance: the CLEAR MOT metrics',
2008.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment

from stl_core.evaluation.kitti_matching import SIMILAR_CLASSES, Difficulty
from stl_core.evaluation.overlaps import pairwise_overlaps
from stl_core.types import Array, Labels

#: The 3D IoU that a match must reach: those of AB3DMOT that fit a monocular detector.
MIN_IOU = (0.25, 0.5)

#: Labels that must be found, and the 2D height up to which an unmatched detection costs nothing.
DEFAULT_DIFFICULTY = Difficulty(min_height_px=25, max_occluded=2, max_truncated=0.15)

NUM_RECALLS = 40
_MAX_DONT_CARE_FRACTION = 0.5
_MOSTLY_FRACTION = 0.8


class TrackedFrame(NamedTuple):
    """
    Objects of one frame with track ids.

    :param labels: N objects; for detections, score is their confidence.
    :param ids: N track ids, unique within a frame except for DontCare.
    """

    labels: Labels
    ids: Sequence[int]


#: Frames of a drive, in order.
TrackedDrive = Sequence[TrackedFrame]


@dataclass(frozen=True)
class ClearMotCounts:
    """
    CLEAR MOT counts of the tracks that score at least min_score.

    :param min_score: minimum score of a track.
    :param num_ground_truth: labels that must be found.
    :param true_positives: matches, including those with labels that need not be found.
    :param false_positives: unmatched detections that are not ignored.
    :param misses: unmatched labels that must be found.
    :param iou_sum: sum of the 3D IoU of the matches.
    :param id_switches: a label matches another track than in its previous frame.
    :param fragmentations: a label is matched again after a gap, or by another track.
    :param num_tracks: labelled tracks, without those that need not be found in any frame.
    :param mostly_tracked: those of them found in more than 80 % of their frames.
    :param mostly_lost: those of them found in less than 20 %.
    """

    min_score: float
    num_ground_truth: int
    true_positives: int
    false_positives: int
    misses: int
    iou_sum: float
    id_switches: int
    fragmentations: int
    num_tracks: int
    mostly_tracked: int
    mostly_lost: int

    @property
    def mota(self) -> float:
        """Return accuracy: 1 less the errors per label; may be negative; 0 without labels."""
        return 1 - self._num_errors / self.num_ground_truth if self.num_ground_truth else 0.0

    @property
    def motp(self) -> float:
        """Return precision: mean 3D IoU of the matches; 0 without matches."""
        return self.iou_sum / self.true_positives if self.true_positives else 0.0

    @property
    def recall(self) -> float:
        """Return the fraction of labels that are found."""
        return self.true_positives / max(self.true_positives + self.misses, 1)

    @property
    def precision(self) -> float:
        """Return the fraction of detections that match."""
        return self.true_positives / max(self.true_positives + self.false_positives, 1)

    def smota(self, recall: float) -> float:
        """Return MOTA scaled by its maximum at the given recall, clipped to 0 to 1."""
        if not self.num_ground_truth:
            return 0.0
        excess = self._num_errors - (1 - recall) * self.num_ground_truth
        return min(1.0, max(0.0, 1 - excess / (recall * self.num_ground_truth)))

    @property
    def _num_errors(self) -> int:
        return self.misses + self.false_positives + self.id_switches


@dataclass(frozen=True)
class TrackingScore:
    """
    Tracking metrics of one class.

    :param points: counts at recalls 1/40, 2/40 and so on, up to the greatest recall.
    :param best: the point with the best MOTA; all tracks if no MOTA is positive.
    """

    points: tuple[ClearMotCounts, ...]
    best: ClearMotCounts

    @property
    def samota(self) -> float:
        """Return mean sMOTA."""
        scaled = (each.smota((k + 1) / NUM_RECALLS) for k, each in enumerate(self.points))
        return sum(scaled) / NUM_RECALLS

    @property
    def amota(self) -> float:
        """Return mean MOTA: near 0.5 at best, unless all tracks have the same score."""
        return sum(each.mota for each in self.points) / NUM_RECALLS

    @property
    def amotp(self) -> float:
        """Return mean MOTP."""
        return sum(each.motp for each in self.points) / NUM_RECALLS


def evaluate_tracking(
    ground_truth: Sequence[TrackedDrive],
    detections: Sequence[TrackedDrive],
    class_name: str,
    min_iou: float,
    difficulty: Difficulty = DEFAULT_DIFFICULTY,
) -> TrackingScore:
    """
    Compute tracking metrics of one class.

    :param ground_truth: the labels of each drive, DontCare included.
    :param detections: the tracked detections of the same drives, a frame for each frame of labels.
    :param class_name: any class name in the labels.
    :param min_iou: the 3D IoU that a match must reach.
    :param difficulty: which labels must be found; see DEFAULT_DIFFICULTY.
    :return: the metrics. With fewer than 41 matches, some recalls have no point.
    :raises ValueError: when frames do not correspond, or an id occurs twice in a frame.
    """
    joined = _join_drives(ground_truth, detections, class_name, min_iou, difficulty)
    all_tracks = _count_at(joined, -np.inf)
    _, rows, _ = _match_at(joined, -np.inf)
    levels = _recall_thresholds(
        joined.track_score[rows], all_tracks.true_positives + all_tracks.misses
    )
    counts = {level: _count_at(joined, level) for level in set(levels)}
    points = tuple(counts[level] for level in levels)
    best = max(points, key=lambda each: each.mota, default=all_tracks)
    return TrackingScore(points, best if best.mota > 0 else all_tracks)


@dataclass(frozen=True)
class _JoinedTracks:
    """
    All drives joined: G labels and D detections of one class, and the E pairs that overlap enough.

    :param frame_index: (G,) index of the frame, counted through all drives, ascending.
    :param label_track: (G,) index of the labelled track, counted likewise.
    :param label_ignored: (G,) whether the label need not be found.
    :param detection_track: (D,) index of the detection's track.
    :param track_score: (D,) mean score of that track.
    :param detection_ignored: (D,) whether the detection costs nothing if it is unmatched.
    :param pairs: (E,) rows of labels, ascending, (E,) rows of detections, (E,) IoU.
    """

    frame_index: Array
    label_track: Array
    label_ignored: Array
    detection_track: Array
    track_score: Array
    detection_ignored: Array
    pairs: tuple[Array, Array, Array]


def _join_drives(
    ground_truth: Sequence[TrackedDrive],
    detections: Sequence[TrackedDrive],
    class_name: str,
    min_iou: float,
    difficulty: Difficulty,
) -> _JoinedTracks:
    lengths, others = [len(d) for d in ground_truth], [len(d) for d in detections]
    if lengths != others:
        raise ValueError(f'drives of {lengths} frames of labels but {others} of detections')
    class_key = class_name.lower()
    matchable = (class_key, SIMILAR_CLASSES.get(class_name, class_name).lower())
    label_frames, detection_frames = (
        [frame for drive in drives for frame in drive] for drives in (ground_truth, detections)
    )
    frames = pairwise_overlaps(
        [each.labels for each in label_frames], [each.labels for each in detection_frames]
    )
    labels, detected = frames.ground_truth, frames.detections
    label_kept, detection_kept = np.isin(labels.name, matchable), np.isin(detected.name, matchable)
    label_track, relevant = _track_numbers(ground_truth)
    label_track = np.unique(label_track[relevant][label_kept], return_inverse=True)[1]
    detection_track, _ = _track_numbers(detections)
    detection_track = np.unique(detection_track[detection_kept], return_inverse=True)[1]
    a, b, iou = frames.overlaps['3d']
    allowed = label_kept[a] & detection_kept[b] & (iou >= min_iou)
    height_px = np.abs(detected.box_px[:, 3] - detected.box_px[:, 1])
    excused = (height_px <= difficulty.min_height_px) | (
        frames.dont_care_fraction['bbox'] > _MAX_DONT_CARE_FRACTION
    )
    ignored = (labels.occluded > difficulty.max_occluded) | (
        labels.truncated > difficulty.max_truncated
    )
    total = np.bincount(detection_track, detected.score[detection_kept])
    count = np.bincount(detection_track)
    return _JoinedTracks(
        frame_index=frames.frame_index[label_kept],
        label_track=label_track,
        label_ignored=(ignored | (labels.name != class_key))[label_kept],
        detection_track=detection_track,
        track_score=(total / np.maximum(count, 1))[detection_track],
        detection_ignored=(excused | (detected.name != class_key))[detection_kept],
        pairs=(
            (np.cumsum(label_kept) - 1)[a[allowed]],
            (np.cumsum(detection_kept) - 1)[b[allowed]],
            iou[allowed],
        ),
    )


def _track_numbers(drives: Sequence[TrackedDrive]) -> tuple[Array, Array]:
    """Return the track index of each object, in order of frames, and whether it is no DontCare."""
    keys, all_relevant = [np.zeros((0, 2), np.int64)], [np.zeros(0, bool)]
    for number, drive in enumerate(drives):
        for frame in drive:
            ids = np.asarray(frame.ids, np.int64).reshape(-1)
            if len(ids) != len(frame.labels):
                raise ValueError(f'{len(ids)} ids for {len(frame.labels)} objects')
            relevant = np.char.lower(frame.labels.name) != 'dontcare'
            if len(np.unique(ids[relevant])) != relevant.sum():
                raise ValueError(f'duplicate id in one frame of drive {number}: {ids.tolist()}')
            keys.append(np.column_stack([np.full(len(ids), number), ids]))
            all_relevant.append(relevant)
    numbers = np.unique(np.concatenate(keys), axis=0, return_inverse=True)[1].reshape(-1)
    return numbers, np.concatenate(all_relevant)


def _count_at(joined: _JoinedTracks, min_score: float) -> ClearMotCounts:
    """Match the tracks that score at least min_score and count."""
    a, b, iou = _match_at(joined, min_score)
    unmatched = (joined.track_score >= min_score) & ~joined.detection_ignored
    unmatched[b] = False
    matched_track = np.full(len(joined.label_track), -1)
    matched_track[a] = joined.detection_track[b]
    switches, fragmentations, fractions = _follow_tracks(joined, matched_track)
    return ClearMotCounts(
        min_score=float(min_score),
        num_ground_truth=int((~joined.label_ignored).sum()),
        true_positives=len(a),
        false_positives=int(unmatched.sum()),
        misses=int(((matched_track < 0) & ~joined.label_ignored).sum()),
        iou_sum=float(iou.sum()),
        id_switches=switches,
        fragmentations=fragmentations,
        num_tracks=len(fractions),
        mostly_tracked=int((fractions > _MOSTLY_FRACTION).sum()),
        mostly_lost=int((fractions < 1 - _MOSTLY_FRACTION).sum()),
    )


def _match_at(joined: _JoinedTracks, min_score: float) -> tuple[Array, Array, Array]:
    """Return the matches at a score threshold: rows of labels, rows of detections, IoU."""
    a, b, iou = joined.pairs
    keep = joined.track_score[b] >= min_score
    a, b, iou = a[keep], b[keep], iou[keep]
    chosen = (np.bincount(a)[a] == 1) & (np.bincount(b)[b] == 1)
    contested = np.flatnonzero(~chosen)
    for pairs in np.split(
        contested, np.flatnonzero(np.diff(joined.frame_index[a[contested]])) + 1
    ):
        row = np.unique(a[pairs], return_inverse=True)[1]
        column = np.unique(b[pairs], return_inverse=True)[1]
        shape = (row.max(initial=-1) + 1, column.max(initial=-1) + 1)
        gain, pair_index = np.zeros(shape), np.full(shape, -1)
        gain[row, column] = len(pairs) + iou[pairs]  # one more match outweighs any IoU
        pair_index[row, column] = pairs
        assigned = pair_index[linear_sum_assignment(gain, maximize=True)]
        chosen[assigned[assigned >= 0]] = True
    return a[chosen], b[chosen], iou[chosen]


def _follow_tracks(joined: _JoinedTracks, matched_track: Array) -> tuple[int, int, Array]:
    """
    Count switches and fragmentations along each labelled track.

    An ignored frame, other than the first of a track, resets the track's history. A track that is
    found in its last frame but not in the frame before is fragmented, even if found there for the
    first time. Both follow the devkit.

    :param matched_track: (G,) track that matches each label, -1 for none.
    :return: id switches, fragmentations, and the fraction of frames in which each track is found.
    """
    order = np.lexsort((joined.frame_index, joined.label_track))
    track, current = joined.label_track[order], matched_track[order]
    _, start, size = np.unique(track, return_index=True, return_counts=True)
    wholly_ignored = np.bincount(track, joined.label_ignored[order], len(size)) == size
    wholly_missed = np.bincount(track, current < 0, len(size)) == size
    position = np.arange(len(track))
    first, last = np.zeros(len(track), bool), np.zeros(len(track), bool)
    first[start], last[start + size - 1] = True, True
    reset = joined.label_ignored[order] & ~first
    found = (current >= 0) & ~reset

    last_reset = np.maximum.accumulate(np.where(first | reset, position, 0))
    found_since_reset = np.maximum.accumulate(np.where(found, position, -1)) >= last_reset
    previous, found_before = np.roll(current, 1), np.roll(found_since_reset, 1)
    following = np.roll(current, -1)
    counts = ~first & ~wholly_ignored[track]
    switched = counts & found & found_before & (previous >= 0) & (previous != current)
    rematched = counts & found & (previous != current)
    fragmented = rematched & np.where(last, True, found_before & (following >= 0))

    required = size - np.bincount(track, joined.label_ignored[order], len(size))
    fraction = np.bincount(track, found, len(size)) / np.maximum(required, 1)
    fraction[wholly_missed] = 0.0
    return int(switched.sum()), int(fragmented.sum()), fraction[~wholly_ignored]


def _recall_thresholds(scores: Array, num_ground_truth: int) -> list[float]:
    """Return the scores of matches at which recall is nearest to 1/40, 2/40, ..., 1."""
    levels: list[float] = []
    recall = 0.0
    for count, value in enumerate(np.sort(scores)[::-1].tolist(), 1):
        skip = (count + 1) / num_ground_truth - recall < recall - count / num_ground_truth
        if not skip or count == len(scores):
            levels.append(value)
            recall += 1 / NUM_RECALLS
    return levels[1:]  # the first is for recall 0
