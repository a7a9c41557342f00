"""
Scores of 3D multi-object tracking: sAMOTA, AMOTA and AMOTP over recall, CLEAR MOT at one score.

In every frame labels and answers are matched anew: as many pairs as overlap enough in 3D, and of
all ways to do so the one with the greatest sum of IoU. The score of a track is the mean score of
its answers. Tracks are left out below 40 least scores, at which recall comes nearest to 1/40,
2/40, ..., 1; MOTA, MOTP and sMOTA are measured at each and averaged, a recall that is never
reached counting 0. MOTA and its fellows at one score are told at the score with the best MOTA.

A label may be missed at no cost if it is more truncated or occluded than is asked for, or of the
class that resembles the own (Van, Person_sitting). An answer that matches nothing costs nothing
if its 2D box is low, of the class that resembles the own, or half within a DontCare area. A match
with an ignored label is a true positive all the same.

A track that takes over after a gap is a fragmentation, not a switch, and a match of the frame
before has no precedence: there the KITTI devkit differs from CLEAR MOT as first defined.

All this follows scripts/KITTI/evaluate.py of AB3DMOT, which follows KITTI's tracking devkit, with
two mends: there an answer that matched at one least score is never excused at later ones, and a
track can fall below its own score, since the mean is taken again of means and rounds.
Weng, Wang, Held, Kitani: '3D multi-object tracking: a baseline and new evaluation metrics', IROS
2020; Bernardin, Stiefelhagen: 'Evaluating multiple object tracking performance: the CLEAR MOT
metrics', 2008.
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

#: Which labels must be found, and up to which height of its 2D box an answer costs nothing.
DEFAULT_DIFFICULTY = Difficulty(min_height_px=25, max_occluded=2, max_truncated=0.15)

NUM_RECALLS = 40
_MAX_DONT_CARE_FRACTION = 0.5
_MOSTLY_FRACTION = 0.8


class TrackedFrame(NamedTuple):
    """
    The objects of one frame and which is which in the other frames of its drive.

    :param labels: N objects; for answers, score is their confidence.
    :param ids: N numbers, no two of a frame the same but those of DontCare.
    """

    labels: Labels
    ids: Sequence[int]


#: The frames of a drive in their order.
TrackedDrive = Sequence[TrackedFrame]


@dataclass(frozen=True)
class ClearMotCounts:
    """
    What is counted when only tracks of at least min_score are used.

    :param min_score: least score of a track.
    :param num_ground_truth: labels that must be found.
    :param true_positives: matches, those with labels that need not be found included.
    :param false_positives: answers that match nothing.
    :param misses: labels that must be found and are not.
    :param iou_sum: sum of the 3D IoU of the matches.
    :param id_switches: from one frame of a label to its next, another track matches it.
    :param fragmentations: a label is matched again, or by another track.
    :param num_tracks: labelled tracks, those left out that need not be found in any frame.
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
        """Return accuracy: 1 less the mistakes a label; below 0 for many; 0 without labels."""
        return 1 - self._num_errors / self.num_ground_truth if self.num_ground_truth else 0.0

    @property
    def motp(self) -> float:
        """Return precision: mean 3D IoU of the matches; 0 without any."""
        return self.iou_sum / self.true_positives if self.true_positives else 0.0

    @property
    def recall(self) -> float:
        """Return the share of labels that are found."""
        return self.true_positives / max(self.true_positives + self.misses, 1)

    @property
    def precision(self) -> float:
        """Return the share of answers that match."""
        return self.true_positives / max(self.true_positives + self.false_positives, 1)

    def smota(self, recall: float) -> float:
        """Return MOTA scaled to what can be had at a recall, 0 to 1."""
        if not self.num_ground_truth:
            return 0.0
        extra = self._num_errors - (1 - recall) * self.num_ground_truth
        return min(1.0, max(0.0, 1 - extra / (recall * self.num_ground_truth)))

    @property
    def _num_errors(self) -> int:
        return self.misses + self.false_positives + self.id_switches


@dataclass(frozen=True)
class TrackingScore:
    """
    How well one class is tracked.

    :param points: counts at recalls 1/40, 2/40 and so on, as far as recall goes.
    :param best: the point with the best MOTA; all tracks where none is above 0.
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
    Score the tracks of one class.

    :param ground_truth: the labels of each drive, DontCare included.
    :param detections: the answers of the same drives, a frame for each frame of labels.
    :param class_name: any class that the labels name.
    :param min_iou: the 3D IoU that a match must reach.
    :param difficulty: which labels must be found; see COUNTED.
    :return: the score. With fewer than 41 matches, not all of the recalls are read.
    :raises ValueError: where frames do not fit, or an id is twice in a frame.
    """
    table = _join_drives(ground_truth, detections, class_name, min_iou, difficulty)
    everything = _count_at(table, -np.inf)
    _, rows, _ = _match_at(table, -np.inf)
    levels = _recall_thresholds(
        table.track_score[rows], everything.true_positives + everything.misses
    )
    at = {level: _count_at(table, level) for level in set(levels)}
    points = tuple(at[level] for level in levels)
    best = max(points, key=lambda each: each.mota, default=everything)
    return TrackingScore(points, best if best.mota > 0 else everything)


@dataclass(frozen=True)
class _JoinedTracks:
    """
    All drives in one: G labels and D answers of one class, and the E pairs that overlap enough.

    :param frame_index: (G,) number of the frame, counted through all drives, ascending.
    :param label_track: (G,) number of the labelled track, counted likewise.
    :param label_ignored: (G,) whether the label need not be found.
    :param detection_track: (D,) number of the track that answers.
    :param track_score: (D,) mean score of that track.
    :param detection_ignored: (D,) whether the answer costs nothing if it matches nothing.
    :param pairs: (E,) rows of labels, ascending, (E,) rows of answers, (E,) IoU.
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
    if (lengths := [len(d) for d in ground_truth]) != (others := [len(d) for d in detections]):
        raise ValueError(f'drives of {lengths} frames of labels but {others} frames of answers')
    own = class_name.lower()
    alike = (own, SIMILAR_CLASSES.get(class_name, class_name).lower())
    labels, answers = (
        [frame for drive in drives for frame in drive] for drives in (ground_truth, detections)
    )
    frames = pairwise_overlaps([each.labels for each in labels], [each.labels for each in answers])
    gt, out = frames.ground_truth, frames.detections
    ours, theirs = np.isin(gt.name, alike), np.isin(out.name, alike)
    (labelled, cared_for), (answer, _) = _track_numbers(ground_truth), _track_numbers(detections)
    track = np.unique(labelled[cared_for][ours], return_inverse=True)[1]
    answer = np.unique(answer[theirs], return_inverse=True)[1]
    a, b, iou = frames.overlaps['3d']
    can = ours[a] & theirs[b] & (iou >= min_iou)
    height_px = np.abs(out.box_px[:, 3] - out.box_px[:, 1])
    excused = (height_px <= difficulty.min_height_px) | (
        frames.dont_care_fraction > _MAX_DONT_CARE_FRACTION
    )
    ignored = (gt.occluded > difficulty.max_occluded) | (gt.truncated > difficulty.max_truncated)
    total, count = np.bincount(answer, out.score[theirs]), np.bincount(answer)
    return _JoinedTracks(
        frame_index=frames.frame_index[ours],
        label_track=track,
        label_ignored=(ignored | (gt.name != own))[ours],
        detection_track=answer,
        track_score=(total / np.maximum(count, 1))[answer],
        detection_ignored=(excused | (out.name != own))[theirs],
        pairs=((np.cumsum(ours) - 1)[a[can]], (np.cumsum(theirs) - 1)[b[can]], iou[can]),
    )


def _track_numbers(drives: Sequence[TrackedDrive]) -> tuple[Array, Array]:
    """Return, for all objects in order of frames, the number of the track; is it no DontCare."""
    keys, cares = [np.zeros((0, 2), np.int64)], [np.zeros(0, bool)]
    for number, drive in enumerate(drives):
        for frame in drive:
            ids = np.asarray(frame.ids, np.int64).reshape(-1)
            if len(ids) != len(frame.labels):
                raise ValueError(f'{len(ids)} ids for {len(frame.labels)} objects')
            care = np.char.lower(frame.labels.name) != 'dontcare'
            if len(np.unique(ids[care])) != care.sum():
                raise ValueError(f'an id is twice in one frame of drive {number}: {ids.tolist()}')
            keys.append(np.column_stack([np.full(len(ids), number), ids]))
            cares.append(care)
    numbers = np.unique(np.concatenate(keys), axis=0, return_inverse=True)[1].reshape(-1)
    return numbers, np.concatenate(cares)


def _count_at(joined: _JoinedTracks, min_score: float) -> ClearMotCounts:
    """Match with the tracks of at least a score and count."""
    a, b, iou = _match_at(joined, min_score)
    free = (joined.track_score >= min_score) & ~joined.detection_ignored
    free[b] = False
    answer = np.full(len(joined.label_track), -1)
    answer[a] = joined.detection_track[b]
    switches, breaks, shares = _follow_tracks(joined, answer)
    return ClearMotCounts(
        min_score=float(min_score),
        num_ground_truth=int((~joined.label_ignored).sum()),
        true_positives=len(a),
        false_positives=int(free.sum()),
        misses=int(((answer < 0) & ~joined.label_ignored).sum()),
        iou_sum=float(iou.sum()),
        id_switches=switches,
        fragmentations=breaks,
        num_tracks=len(shares),
        mostly_tracked=int((shares > _MOSTLY_FRACTION).sum()),
        mostly_lost=int((shares < 1 - _MOSTLY_FRACTION).sum()),
    )


def _match_at(joined: _JoinedTracks, min_score: float) -> tuple[Array, Array, Array]:
    """Return the matches: rows of labels, rows of answers, IoU."""
    a, b, iou = joined.pairs
    keep = joined.track_score[b] >= min_score
    a, b, iou = a[keep], b[keep], iou[keep]
    chosen = (np.bincount(a)[a] == 1) & (np.bincount(b)[b] == 1)
    rivals = np.flatnonzero(~chosen)
    for pairs in np.split(rivals, np.flatnonzero(np.diff(joined.frame_index[a[rivals]])) + 1):
        row = np.unique(a[pairs], return_inverse=True)[1]
        column = np.unique(b[pairs], return_inverse=True)[1]
        shape = (row.max(initial=-1) + 1, column.max(initial=-1) + 1)
        worth, number = np.zeros(shape), np.full(shape, -1)
        worth[row, column] = len(pairs) + iou[pairs]  # one match more is worth any overlap
        number[row, column] = pairs
        taken = number[linear_sum_assignment(worth, maximize=True)]
        chosen[taken[taken >= 0]] = True
    return a[chosen], b[chosen], iou[chosen]


def _follow_tracks(joined: _JoinedTracks, matched_track: Array) -> tuple[int, int, Array]:
    """
    Go along each labelled track.

    An ignored frame ends what came before it, but for the first of a track. A track that is found
    in its last frame but not in the one before is fragmented, were it found there for the first
    time. Both are so in the devkit.

    :param matched_track: (G,) track that matches each label, -1 for none.
    :return: id switches, fragmentations, and the share of its frames that each track is found in.
    """
    order = np.lexsort((joined.frame_index, joined.label_track))
    track, now = joined.label_track[order], matched_track[order]
    _, start, size = np.unique(track, return_index=True, return_counts=True)
    wholly_ignored = np.bincount(track, joined.label_ignored[order], len(size)) == size
    wholly_missed = np.bincount(track, now < 0, len(size)) == size
    place = np.arange(len(track))
    first, last = np.zeros(len(track), bool), np.zeros(len(track), bool)
    first[start], last[start + size - 1] = True, True
    cut = joined.label_ignored[order] & ~first
    found = (now >= 0) & ~cut

    began = np.maximum.accumulate(np.where(first | cut, place, 0))
    known = np.maximum.accumulate(np.where(found, place, -1)) >= began
    before, known_before = np.roll(now, 1), np.roll(known, 1)
    after = np.roll(now, -1)
    counts = ~first & ~wholly_ignored[track]
    switched = counts & found & known_before & (before >= 0) & (before != now)
    again = counts & found & (before != now)
    broken = again & np.where(last, True, known_before & (after >= 0))

    to_find = size - np.bincount(track, joined.label_ignored[order], len(size))
    share = np.bincount(track, found, len(size)) / np.maximum(to_find, 1)
    share[wholly_missed] = 0.0
    return int(switched.sum()), int(broken.sum()), share[~wholly_ignored]


def _recall_thresholds(scores: Array, num_ground_truth: int) -> list[float]:
    """Pick the scores, of all matches, at which recall is nearest to 1/40, 2/40, ..., 1."""
    levels: list[float] = []
    recall = 0.0
    for count, value in enumerate(np.sort(scores)[::-1].tolist(), 1):
        nearer = (count + 1) / num_ground_truth - recall < recall - count / num_ground_truth
        if not nearer or count == len(scores):
            levels.append(value)
            recall += 1 / NUM_RECALLS
    return levels[1:]  # the first is for recall 0
