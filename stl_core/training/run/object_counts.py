"""The start of a run: count what it teaches and judges, and hold labels against pictures."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from stl_core import files
from stl_core.data import dataset
from stl_core.data.checks import label_report, taught
from stl_core.data.checks.label_report import SourceCounts
from stl_core.data.checks.label_table import stack_labels
from stl_core.data.frame_source import DataError, SourceImage
from stl_core.data.rigs.dataset import RigDataset
from stl_core.models import DETECTORS
from stl_core.training.config import TrainConfig
from stl_core.types import Array

log = logging.getLogger(__name__)

#: File of the counts in the folder of a run.
COUNTS_FILE = 'labels.json'


def check_objects(
    config: TrainConfig,
    train: dataset.FrameDataset | RigDataset,
    val: Sequence[Sequence[SourceImage]],
    verbose: bool,
) -> dict[str, Any]:
    """
    Count the labelled objects of a run, and check that labels, projections and pictures fit.

    :param config: configuration of the run.
    :param train: labelled training images, at least one.
    :param val: labelled validation images of each source, at least one.
    :param verbose: whether to log the counts and warnings.
    :return: the counts as plain data, for write_counts.
    :raises DataError: if there is nothing to teach or to evaluate on, or for files that contradict
        each other, naming them.
    """
    left_out = iter(train.left_out)
    report = {
        'train': [
            _count_taught(key, images, [next(left_out) for _ in images], config)
            for key, images in _by_key('train', train.images_by_source)
        ],
        'val': [
            _count_validation(key, images, config.classes) for key, images in _by_key('val', val)
        ],
    }
    plain = {}
    for role, checked in report.items():
        counts, warnings = [each for each, _ in checked], [w for _, ws in checked for w in ws]
        warnings += label_report.check_use(counts, role, config.classes)
        plain[role] = label_report.to_json(counts, warnings)
        for line in [each.line() for each in counts] if verbose else []:
            log.info('%s', line)
        for warning in warnings if verbose else []:
            log.warning('warning: %s', warning)
    return plain


def check_rigs(train: RigDataset, verbose: bool) -> dict[str, Any]:
    """
    Return the counts of the objects around the vehicle that a multi-view run teaches.

    :param train: the training samples.
    :param verbose: whether to log them.
    :raises DataError: if there is nothing to teach.
    """
    counts = train.counts
    taught = ', '.join(f'{name} {count}' for name, count in counts['taught'].items())
    left_out = ', '.join(f'{reason} {count}' for reason, count in counts['left_out'].items())
    line = (
        f'train: {counts["samples"]} samples of cameras {", ".join(train.cameras)}; objects around'
        f' the vehicle: {taught}; left out: {left_out or "none"}'
    )
    if not any(counts['taught'].values()):
        raise DataError(f'{line}; expected objects to teach')
    if verbose:
        log.info('%s', line)
    return counts


def write_counts(out: Path, report: dict[str, Any]) -> None:
    """Write the result of check_objects into the folder of a run."""
    out.mkdir(parents=True, exist_ok=True)
    files.write_atomically(out / COUNTS_FILE, json.dumps(report, indent=1).encode())


def _by_key(
    role: str, images_by_source: Sequence[Sequence[SourceImage]]
) -> list[tuple[str, Sequence[SourceImage]]]:
    """Return the images of each source with its key in the configuration."""
    if len(images_by_source) == 1:
        return [(role, images_by_source[0])]
    return [(f'{role}.sources[{i}]', images) for i, images in enumerate(images_by_source)]


def _count_taught(
    key: str, images: Sequence[SourceImage], left_out: Sequence[Array], config: TrainConfig
) -> tuple[SourceCounts, list[str]]:
    """Return the counts of a training source, and its warnings."""
    table, sizes_px = stack_labels(images), picture_sizes(images)
    Ps = np.array([image.P for image in images]).reshape(-1, 3, 4)
    center_within = DETECTORS[config.detector.name].center_within
    off = taught.is_off_canvas(table, Ps, sizes_px, config.input, center_within)
    reasons = np.concatenate([np.zeros(0, 'U11'), *left_out])
    reasons = np.where((reasons == '') & off, taught.CANVAS, reasons)
    counts = label_report.count_objects(key, images, table, reasons)
    return counts, label_report.check_source(counts, images, table, sizes_px)


def _count_validation(
    key: str, images: Sequence[SourceImage], classes: tuple[str, ...]
) -> tuple[SourceCounts, list[str]]:
    """Return the counts of a validation source, and its warnings."""
    table = stack_labels(images)
    reasons = label_report.reasons_of_validation(table, classes)
    counts = label_report.count_objects(key, images, table, reasons)
    return counts, label_report.check_source(counts, images, table, picture_sizes(images))


def picture_sizes(images: Sequence[SourceImage]) -> Array:
    """
    Return (M, 2) width and height of images in pixels, from the headers where the source can.

    :raises DataError: for a missing file, and one that is no picture.
    """
    if all(image.size_px.exists for image in images):
        return np.array([image.size_px.read() for image in images]).reshape(-1, 2)
    with ThreadPoolExecutor() as pool:
        sizes_px = pool.map(lambda image: image.pixels.read().shape[1::-1], images)
        return np.array(list(sizes_px)).reshape(-1, 2)
