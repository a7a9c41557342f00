"""What a detector said to every image of a drive beside what is known of it, and its figures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mono3d_ros.bag_evaluation import label_score, lidar_check
from stl_core.data.sources import kitti
from stl_core.evaluation import average_precision, report
from stl_core.types import Array, Labels, Objects3D


@dataclass(frozen=True)
class ImageResult:
    """
    One image and what was said to it.

    :param camera: name.
    :param P: (3, 4) of the image.
    :param all_detections: all that the detector found, as `stl evaluate` judges it.
    :param depth_sigma_m: (N,) of found.
    :param published: what of it is sent: what is sure enough and no other camera saw surer; where
        objects are tracked, the tracks.
    :param truth: the labels; None where there are none.
    :param lidar_error_m: (M,) of sent, see lidar_check; None where there was no scan.
    """

    camera: str
    P: Array
    all_detections: Labels
    depth_sigma_m: Array
    published: Objects3D
    truth: Labels | None
    lidar_error_m: Array | None


@dataclass(frozen=True)
class DriveResults:
    """
    What is known of one drive, or of several.

    :param classes: that objects count into.
    :param image_results: in order of the images.
    :param skipped: why images were not answered -> how many.
    """

    classes: tuple[str, ...]
    image_results: tuple[ImageResult, ...]
    skipped: Mapping[str, int]

    @property
    def labelled(self) -> list[tuple[ImageResult, Labels]]:
        """The answers to images that have labels, and these."""
        return [(each, each.truth) for each in self.image_results if each.truth is not None]


def join_results(parts: Sequence[DriveResults]) -> DriveResults:
    """Take the evidence of several drives, one at least, all of one detector, as one."""
    skipped = Counter[str]()
    for each in parts:
        skipped.update(each.skipped)
    answers = tuple(answer for each in parts for answer in each.image_results)
    return DriveResults(parts[0].classes, answers, skipped)


def score_against_labels(drive_results: DriveResults) -> label_score.BoxScore | None:
    """
    Compare with the labels; None without any.

    AP counts all that was found, since precision is read at every score; depth errors are of
    the boxes that are sent.
    """
    if not drive_results.labelled:
        return None
    truth = [truth for _, truth in drive_results.labelled]
    sent = [
        kitti.to_labels(each.published, drive_results.classes)
        for each, _ in drive_results.labelled
    ]
    ap = average_precision.evaluate_detections(
        truth, [each.all_detections for each, _ in drive_results.labelled]
    )
    return label_score.BoxScore(ap, label_score.depth_errors(truth, sent))


def analyse_detections(drive_results: DriveResults) -> report.DetectionReport | None:
    """Find out all that a dossier tells; None without labels."""
    if not drive_results.labelled:
        return None
    answers = [each for each, _ in drive_results.labelled]
    return report.analyse_detections(
        [truth for _, truth in drive_results.labelled],
        [each.all_detections for each in answers],
        [each.P for each in answers],
        [each.depth_sigma_m for each in answers],
    )


def to_json_dict(
    drive_results: DriveResults, box_score: label_score.BoxScore | None
) -> dict[str, Any]:
    """
    Tell everything that is the same each time.

    :param drive_results: of one drive, or of several.
    :param box_score: of judge.
    :return: plain JSON.
    """
    cameras = Counter(each.camera for each in drive_results.image_results)
    boxes = np.concatenate([each.published.class_id for each in drive_results.image_results])
    scanned = [each for each in drive_results.image_results if each.lidar_error_m is not None]
    told: dict[str, Any] = {
        'frames': dict(sorted(cameras.items())),
        'skipped': dict(sorted(drive_results.skipped.items())),
        'boxes': {name: int((boxes == i).sum()) for i, name in enumerate(drive_results.classes)},
        'labelled_frames': len(drive_results.labelled),
        'ap': box_score.ap if box_score else None,
        'depth_error': {},
        'scanned_frames': len(scanned),
        'lidar': {'rule': lidar_check.RULE, 'classes': summarize_lidar_errors(drive_results)},
    }
    for name, errors in (box_score.depth_error_m if box_score else {}).items():
        median = round(float(np.median(errors)), 4) if errors else None
        told['depth_error'][name] = {'matched': len(errors), 'median_abs_error_m': median}
    return told


def summarize_lidar_errors(drive_results: DriveResults) -> dict[str, list[dict[str, Any]]]:
    """Tell how the boxes stand to the scans, see lidar_check.summary."""
    scanned = [each for each in drive_results.image_results if each.lidar_error_m is not None]
    return lidar_check.summarize_errors(
        np.concatenate([np.zeros(0, int), *(each.published.class_id for each in scanned)]),
        np.concatenate([np.zeros(0), *(each.published.center_m[:, 2] for each in scanned)]),
        lidar_errors(drive_results),
        drive_results.classes,
    )


def lidar_errors(drive_results: DriveResults) -> Array:
    """Error of every box beside a scan, metres; nan where it was not checked."""
    errors = [
        each.lidar_error_m
        for each in drive_results.image_results
        if each.lidar_error_m is not None
    ]
    return np.concatenate([np.zeros(0), *errors])
