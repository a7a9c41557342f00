"""Results of a drive: detections and labels of every image, and the figures computed from them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mono3d_ros.bag_evaluation import label_score, lidar_check
from stl_core.data.sources import kitti
from stl_core.evaluation import report
from stl_core.types import Array, Labels, Objects3D


@dataclass(frozen=True)
class ImageResult:
    """
    Detections, labels and LiDAR check of one image.

    :param camera: name of the camera.
    :param P: (3, 4) projection of the image.
    :param all_detections: N unfiltered detections, as evaluated by `stl evaluate`.
    :param depth_sigma_m: (N,) depth sigma of all_detections.
    :param published: M published objects: detections above the score threshold, without
        duplicates of other cameras; with tracking, the tracks.
    :param truth: the labels; None without labels.
    :param lidar_error_m: (M,) depth errors of published, see lidar_check; None without a scan.
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
    Results of one drive or of several.

    :param classes: class names; class_id is an index into them.
    :param image_results: in order of the images.
    :param skipped: reason -> number of images that were not processed.
    :param notes: doubt about images that were processed -> number of images.
    """

    classes: tuple[str, ...]
    image_results: tuple[ImageResult, ...]
    skipped: Mapping[str, int]
    notes: Mapping[str, int] = field(default_factory=dict)

    @property
    def labelled(self) -> list[tuple[ImageResult, Labels]]:
        """The results of images with labels, each with its labels."""
        return [(each, each.truth) for each in self.image_results if each.truth is not None]


def join_results(parts: Sequence[DriveResults]) -> DriveResults:
    """Concatenate the results of one or more drives of the same detector."""
    skipped, notes = Counter[str](), Counter[str]()
    for each in parts:
        skipped.update(each.skipped)
        notes.update(each.notes)
    image_results = tuple(result for each in parts for result in each.image_results)
    return DriveResults(parts[0].classes, image_results, skipped, notes)


def score_against_labels(
    drive_results: DriveResults, metric_names: Sequence[str] = ()
) -> label_score.BoxScore | None:
    """
    Compute AP, other metrics and depth errors; None without labels.

    :param drive_results: results of one drive or of several. Metrics use all detections, since
        precision is evaluated at every score; depth errors use the published boxes.
    :param metric_names: metrics to compute next to 'kitti', keys of metrics.METRICS.
    :return: the score.
    """
    if not drive_results.labelled:
        return None
    return label_score.score_boxes(
        [truth for _, truth in drive_results.labelled],
        [each.all_detections for each, _ in drive_results.labelled],
        published=[
            kitti.to_labels(each.published, drive_results.classes)
            for each, _ in drive_results.labelled
        ],
        classes=drive_results.classes,
        metric_names=metric_names,
    )


def analyse_detections(drive_results: DriveResults) -> report.DetectionReport | None:
    """Compute the error analysis of all detections; None without labels."""
    if not drive_results.labelled:
        return None
    image_results = [each for each, _ in drive_results.labelled]
    return report.analyse_detections(
        [truth for _, truth in drive_results.labelled],
        [each.all_detections for each in image_results],
        [each.P for each in image_results],
        [each.depth_sigma_m for each in image_results],
    )


def to_json_dict(
    drive_results: DriveResults, box_score: label_score.BoxScore | None
) -> dict[str, Any]:
    """
    Convert the deterministic results to a dictionary for figures.json.

    :param drive_results: results of one drive or of several.
    :param box_score: result of score_against_labels.
    :return: counts, AP, depth errors and LiDAR errors as plain JSON types.
    """
    cameras = Counter(each.camera for each in drive_results.image_results)
    boxes = np.concatenate([each.published.class_id for each in drive_results.image_results])
    scanned = [each for each in drive_results.image_results if each.lidar_error_m is not None]
    figures: dict[str, Any] = {
        'frames': dict(sorted(cameras.items())),
        'skipped': dict(sorted(drive_results.skipped.items())),
        'notes': dict(sorted(drive_results.notes.items())),
        'boxes': {name: int((boxes == i).sum()) for i, name in enumerate(drive_results.classes)},
        'labelled_frames': len(drive_results.labelled),
        'ap': box_score.ap.to_json() if box_score else None,
        'depth_error': {},
        'scanned_frames': len(scanned),
        'lidar': {'rule': lidar_check.RULE, 'classes': summarize_lidar_errors(drive_results)},
    }
    for name, errors in (box_score.depth_error_m if box_score else {}).items():
        median = round(float(np.median(errors)), 4) if errors else None
        figures['depth_error'][name] = {'matched': len(errors), 'median_abs_error_m': median}
    if box_score is None:
        return figures
    return figures | box_score.results.extra_json() | box_score.results.side_json()


def summarize_lidar_errors(drive_results: DriveResults) -> dict[str, list[dict[str, Any]]]:
    """Summarise the LiDAR errors by class and distance, see lidar_check.summarize_errors."""
    scanned = [each for each in drive_results.image_results if each.lidar_error_m is not None]
    return lidar_check.summarize_errors(
        np.concatenate([np.zeros(0, int), *(each.published.class_id for each in scanned)]),
        np.concatenate([np.zeros(0), *(each.published.center_m[:, 2] for each in scanned)]),
        lidar_errors(drive_results),
        drive_results.classes,
    )


def lidar_errors(drive_results: DriveResults) -> Array:
    """Return the depth error of every box of an image with a scan, metres; nan if unchecked."""
    errors = [
        each.lidar_error_m
        for each in drive_results.image_results
        if each.lidar_error_m is not None
    ]
    return np.concatenate([np.zeros(0), *errors])
