"""What a detector said to every image of a drive beside what is known of it, and its figures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mono3d_ros.bag_evaluation import label_score as score
from mono3d_ros.bag_evaluation import lidar_check
from stl_core.data.sources import kitti
from stl_core.evaluation import average_precision as evaluate
from stl_core.evaluation import report as dossier
from stl_core.types import Array, Labels, Objects3D


@dataclass(frozen=True)
class Answer:
    """
    One image and what was said to it.

    :param camera: name.
    :param P: (3, 4) of the image.
    :param found: all that the detector found, as `stl evaluate` judges it.
    :param depth_sigma_m: (N,) of found.
    :param sent: what of it is sent: what is sure enough and no other camera saw surer; where
        objects are tracked, the tracks.
    :param truth: the labels; None where there are none.
    :param lidar_error_m: (M,) of sent, see lidar_check; None where there was no scan.
    """

    camera: str
    P: Array
    found: Labels
    depth_sigma_m: Array
    sent: Objects3D
    truth: Labels | None
    lidar_error_m: Array | None


@dataclass(frozen=True)
class Evidence:
    """
    What is known of one drive, or of several.

    :param classes: that objects count into.
    :param answers: in order of the images.
    :param skipped: why images were not answered -> how many.
    """

    classes: tuple[str, ...]
    answers: tuple[Answer, ...]
    skipped: Mapping[str, int]

    @property
    def labelled(self) -> list[tuple[Answer, Labels]]:
        """The answers to images that have labels, and these."""
        return [(each, each.truth) for each in self.answers if each.truth is not None]


def join(parts: Sequence[Evidence]) -> Evidence:
    """Take the evidence of several drives, one at least, all of one detector, as one."""
    skipped = Counter[str]()
    for each in parts:
        skipped.update(each.skipped)
    answers = tuple(answer for each in parts for answer in each.answers)
    return Evidence(parts[0].classes, answers, skipped)


def judge(evidence: Evidence) -> score.Score | None:
    """
    Compare with the labels; None without any.

    AP counts all that was found, since precision is read at every score; depth errors are of
    the boxes that are sent.
    """
    if not evidence.labelled:
        return None
    truth = [truth for _, truth in evidence.labelled]
    sent = [kitti.to_labels(each.sent, evidence.classes) for each, _ in evidence.labelled]
    ap = evaluate.evaluate(truth, [each.found for each, _ in evidence.labelled])
    return score.Score(ap, score.depth_errors(truth, sent))


def examine(evidence: Evidence) -> dossier.Dossier | None:
    """Find out all that a dossier tells; None without labels."""
    if not evidence.labelled:
        return None
    answers = [each for each, _ in evidence.labelled]
    return dossier.examine(
        [truth for _, truth in evidence.labelled],
        [each.found for each in answers],
        [each.P for each in answers],
        [each.depth_sigma_m for each in answers],
    )


def figures(evidence: Evidence, judged: score.Score | None) -> dict[str, Any]:
    """
    Tell everything that is the same each time.

    :param evidence: of one drive, or of several.
    :param judged: of judge.
    :return: plain JSON.
    """
    cameras = Counter(each.camera for each in evidence.answers)
    boxes = np.concatenate([each.sent.class_id for each in evidence.answers])
    scanned = [each for each in evidence.answers if each.lidar_error_m is not None]
    told: dict[str, Any] = {
        'frames': dict(sorted(cameras.items())),
        'skipped': dict(sorted(evidence.skipped.items())),
        'boxes': {name: int((boxes == i).sum()) for i, name in enumerate(evidence.classes)},
        'labelled_frames': len(evidence.labelled),
        'ap': judged.ap if judged else None,
        'depth_error': {},
        'scanned_frames': len(scanned),
        'lidar': {'rule': lidar_check.RULE, 'classes': lidar_rows(evidence)},
    }
    for name, errors in (judged.depth_error_m if judged else {}).items():
        median = round(float(np.median(errors)), 4) if errors else None
        told['depth_error'][name] = {'matched': len(errors), 'median_abs_error_m': median}
    return told


def lidar_rows(evidence: Evidence) -> dict[str, list[dict[str, Any]]]:
    """Tell how the boxes stand to the scans, see lidar_check.summary."""
    scanned = [each for each in evidence.answers if each.lidar_error_m is not None]
    return lidar_check.summary(
        np.concatenate([np.zeros(0, int), *(each.sent.class_id for each in scanned)]),
        np.concatenate([np.zeros(0), *(each.sent.center_m[:, 2] for each in scanned)]),
        lidar_errors(evidence),
        evidence.classes,
    )


def lidar_errors(evidence: Evidence) -> Array:
    """Error of every box beside a scan, metres; nan where it was not checked."""
    errors = [each.lidar_error_m for each in evidence.answers if each.lidar_error_m is not None]
    return np.concatenate([np.zeros(0), *errors])
