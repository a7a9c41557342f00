"""
Statistics of depth maps, and whether they can be a LiDAR's.

A depth map of a wrong calibration, unit or file is a valid array, and a network learns from it
without an error. Known share and range of its pixels, and its depth at labelled objects, show it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stl_core.data.depth_maps import load_frame_depth, require_depth
from stl_core.data.frame_source import DataError, SourceImage
from stl_core.types import Array, Labels

log = logging.getLogger(__name__)

#: Completed scans of 16 to 128 beams know 15 to 60 % of the pixels, half of them within 5 to 30 m.
MIN_KNOWN_SHARE = 0.05
MEDIAN_RANGE_M = (2.0, 80.0)
#: Depth at an object divided by the depth of its centre: less than 1, as a LiDAR sees its surface.
LABEL_RATIO_RANGE = (0.75, 1.15)
#: Fewer labelled objects than this say nothing about the unit.
MIN_OBJECTS = 5
#: Frames of a data set that a run looks at before it starts.
CHECKED_FRAMES = 24


@dataclass(frozen=True)
class FrameDepth:
    """
    Statistics of one depth map.

    :param id: id of the image.
    :param known_share: fraction of the pixels with known depth.
    :param quantiles_m: 5 %, 50 % and 95 % quantiles of the known depths in metres; zeros if none.
    :param label_ratios: of every labelled object with known depth: depth in the middle of its box
        divided by the depth of its centre.
    """

    id: str
    known_share: float
    quantiles_m: tuple[float, float, float]
    label_ratios: tuple[float, ...] = ()


@dataclass(frozen=True)
class DepthStatistics:
    """
    Statistics of the depth maps of a data set: medians over the frames with known depth.

    :param num_frames: frames that were looked at.
    :param unknown_ids: ids of the frames without one known pixel.
    :param known_share: fraction of the pixels with known depth.
    :param quantiles_m: 5 %, 50 % and 95 % quantiles of the known depths, metres.
    :param num_objects: labelled objects with known depth.
    :param label_ratio: median of their depth divided by their label's; 0 without objects.
    """

    num_frames: int
    unknown_ids: tuple[str, ...]
    known_share: float
    quantiles_m: tuple[float, float, float]
    num_objects: int
    label_ratio: float

    def __str__(self) -> str:
        """Describe the statistics in one line."""
        low, middle, high = self.quantiles_m
        text = (
            f'{self.known_share:.1%} of the pixels known, depth {middle:.1f} m'
            f' (5 to 95 %: {low:.1f} to {high:.1f} m), medians of {self.num_frames} frames'
        )
        if self.num_objects:
            text += f"; {self.label_ratio:.2f} of the labels' depth at {self.num_objects} objects"
        if self.unknown_ids:
            text += f'; {len(self.unknown_ids)} without known depth, first {self.unknown_ids[0]}'
        return text


def measure_depth(image: SourceImage, depth_m: Array) -> FrameDepth:
    """
    Return the statistics of an image's depth map.

    :param image: the image, with its labels if it has any.
    :param depth_m: (H, W) z in metres in the camera frame, 0 where unknown.
    """
    known = depth_m[depth_m > 0]
    low, middle, high = np.quantile(known, (0.05, 0.5, 0.95)) if len(known) else (0.0, 0.0, 0.0)
    ratios = [] if image.labels is None else _label_ratios(image.labels, depth_m)
    quantiles_m = (float(low), float(middle), float(high))
    return FrameDepth(image.id, len(known) / max(depth_m.size, 1), quantiles_m, tuple(ratios))


def _label_ratios(labels: Labels, depth_m: Array) -> list[float]:
    """Return known depth / labelled depth in the inner third of every visible object's 2D box."""
    ratios = []
    for box_px, center_m, occluded in zip(
        labels.box_px, labels.center_m, labels.occluded, strict=True
    ):
        left, top, right, bottom = np.clip(box_px, 0, [*depth_m.shape[::-1]] * 2)
        width, height = (right - left) / 3, (bottom - top) / 3
        rows = slice(int(top + height), int(bottom - height) + 1)
        inner = depth_m[rows, int(left + width) : int(right - width) + 1]
        known = inner[inner > 0]
        if center_m[2] > 0 and occluded == 0 and min(width, height) > 2 and len(known):
            ratios.append(float(np.median(known) / center_m[2]))
    return ratios


def summarize_depth(frames: Sequence[FrameDepth]) -> DepthStatistics:
    """Return the statistics of a data set from those of its frames."""
    known = [frame for frame in frames if frame.known_share]
    quantiles = np.array([frame.quantiles_m for frame in known]).reshape(-1, 3)
    low, middle, high = np.median(quantiles, axis=0) if known else (0.0, 0.0, 0.0)
    ratios = [ratio for frame in frames for ratio in frame.label_ratios]
    return DepthStatistics(
        num_frames=len(frames),
        unknown_ids=tuple(frame.id for frame in frames if not frame.known_share),
        known_share=float(np.median([frame.known_share for frame in known])) if known else 0.0,
        quantiles_m=(float(low), float(middle), float(high)),
        num_objects=len(ratios),
        label_ratio=float(np.median(ratios)) if ratios else 0.0,
    )


def depth_warnings(statistics: DepthStatistics) -> list[str]:
    """
    Return why the depth maps are unlike a LiDAR's, one line each; none if they are like it.

    :raises DataError: if no frame has known depth.
    """
    if len(statistics.unknown_ids) == statistics.num_frames:
        raise DataError(
            f'no depth is known in any of {statistics.num_frames} depth maps, first'
            f' {next(iter(statistics.unknown_ids), "none")}; see scans and Tr_velo_to_cam'
        )
    warnings = []
    if statistics.known_share < MIN_KNOWN_SHARE:
        warnings.append(
            f'only {statistics.known_share:.1%} of the pixels have depth, a LiDAR gives more than'
            f' {MIN_KNOWN_SHARE:.0%}: do scans, Tr_velo_to_cam, R0_rect and P2 belong together?'
        )
    if not MEDIAN_RANGE_M[0] <= statistics.quantiles_m[1] <= MEDIAN_RANGE_M[1]:
        warnings.append(
            f'half of the depths are below {statistics.quantiles_m[1]:.1f} m, expected'
            f' {MEDIAN_RANGE_M[0]} to {MEDIAN_RANGE_M[1]} m: are calibration and unit right?'
        )
    low, high = LABEL_RATIO_RANGE
    if statistics.num_objects >= MIN_OBJECTS and not low <= statistics.label_ratio <= high:
        warnings.append(
            f"depth at labelled objects is {statistics.label_ratio:.2f} times the labels' depth,"
            f' expected {low} to {high}: are calibration, unit and labels right?'
        )
    return warnings


def require_lidar_like_depth(images: Sequence[SourceImage], name: str) -> None:
    """
    Check that all images of a data set have depth, and log the statistics of some of them.

    :param images: the images.
    :param name: name of the data set for the log.
    :raises DataError: for an image without depth, and as check_depth.
    """
    require_depth(images)
    statistics, warnings = check_depth(images)
    log.info('%s: depth: %s', name, statistics)
    for warning in warnings:
        log.warning('%s: depth: %s', name, warning)


def check_depth(images: Sequence[SourceImage]) -> tuple[DepthStatistics, list[str]]:
    """
    Measure the depth maps of at most CHECKED_FRAMES images, evenly spaced in a data set.

    :param images: images with depth or scan, see depth_maps.require_depth.
    :return: statistics, and warnings as from depth_warnings.
    :raises DataError: for a missing or malformed file, or if no depth is known in any frame.
    """
    step = -(-len(images) // CHECKED_FRAMES)
    measured = []
    for image in images[:: max(step, 1)]:
        height_px, width_px = image.pixels.read().shape[:2]
        measured.append(measure_depth(image, load_frame_depth(image, width_px, height_px)))
    statistics = summarize_depth(measured)
    return statistics, depth_warnings(statistics)
