"""
Sparse LiDAR depth -> dense depth; where no ray is near, depth stays 0, unknown.

Classical completion in the spirit of Ku, Harakeh and Waslander, "In Defense of Classical Image
Processing" (CRV 2018): no learning, small neighbourhoods, nothing invented above the scan. In
place of dilation, which gives a hole the depth of its nearest rim, holes are bridged in inverse
depth q = 1 / z: over the image of a plane q is affine, so roads, walls and sides of cars come
out exact however few the beams. Where the two sides of a hole are not one surface, each gives a
copy of its own depth, so that no depth lies between a car and what is behind it.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from stl_core.types import Array

#: A scan shows at least so many rays across an image, and beams down: what is measured as farther
#: apart is no spacing of rays.
MIN_RAYS, MIN_BEAMS = 64, 8
_FAR_M = np.float32(1e6)


@dataclass(frozen=True)
class CompletionConfig:
    """
    How holes between rays are filled.

    :param spacing_px: pixels between neighbouring rays, across and down; None measures them in
        every map, so that any number of beams and any focal length will do.
    :param max_gap_spacings: the widest hole that is bridged, in spacings. KITTI's lower beams are
        a third farther apart than the median, so that 3 bridges one lost beam everywhere, and not
        two.
    :param same_surface_tolerance: two depths that differ by no more than this share are one
        surface.
    :param max_slope_ratio: so are a beam and the next between which q changes no more than this
        times faster than just before, on the nearer side: a road, far away or seen by few beams.
    :param occlusion_margin: a ray with nearer ones, by more than this share, on opposite sides was
        seen by the LiDAR past the edge of an object and not by the camera; it is dropped.
    """

    spacing_px: tuple[int, int] | None = None
    max_gap_spacings: float = 3.0
    same_surface_tolerance: float = 0.05
    max_slope_ratio: float = 2.0
    occlusion_margin: float = 0.1

    def __post_init__(self) -> None:
        """Refuse what would fill nothing or everything."""
        if self.spacing_px is not None and min(self.spacing_px) < 1:
            raise ValueError(f'spacing_px must be at least 1 pixel, got {self.spacing_px}')
        if (
            self.max_gap_spacings < 1
            or self.max_slope_ratio < 0
            or not (0 <= self.same_surface_tolerance < 1 and 0 < self.occlusion_margin < 1)
        ):
            raise ValueError(
                'expected max_gap_spacings >= 1, max_slope_ratio >= 0 and fractions below 1,'
                f' got {self}'
            )


DEFAULT_COMPLETION = CompletionConfig()


def complete_depth(sparse_m: Array, config: CompletionConfig = DEFAULT_COMPLETION) -> Array:
    """
    Fill the holes of a sparse depth map.

    Between rays on one surface holes up to `span` spacings wide are bridged. Elsewhere a ray
    reaches half a spacing: towards another surface along its beam and up or down; towards
    nothing, as above the scan, half the spacing along the beam in any direction. A pixel farther
    than span / 2 spacings from all rays is unknown, but for a hole between two filled columns
    that is no wider than the spacing of beams.

    :param sparse_m: (H, W) z of rays, 0 elsewhere.
    :param config: how.
    :return: (H, W) float32 z, 0 where unknown.
    """
    sparse_m = np.asarray(sparse_m, np.float32)
    across, down = config.spacing_px or ray_spacing(sparse_m)
    near, high = -(-across // 2), -(-down // 2)
    seen = np.where(
        occluded_rays(sparse_m, across, config.occlusion_margin), np.float32(0), sparse_m
    )
    q = np.divide(1, seen, out=np.zeros_like(seen), where=seen > 0)
    q = _bridge_gaps(
        q,
        _FillReach(int(config.max_gap_spacings * across), near, near, 0),
        config.same_surface_tolerance,
    )
    upright = _FillReach(int(config.max_gap_spacings * down), high, near, config.max_slope_ratio)
    q = cv2.transpose(_bridge_gaps(cv2.transpose(q), upright, config.same_surface_tolerance))
    q = _bridge_gaps(
        q, _FillReach(down, 0, 0, 0), config.same_surface_tolerance
    )  # columns that no ray of a beam met
    q = _remove_specks(q)
    return np.divide(1, q, out=np.zeros_like(q), where=q > 0)


def ray_spacing(sparse_m: Array) -> tuple[int, int]:
    """
    Measure how many pixels neighbouring rays are apart.

    :param sparse_m: (H, W), 0 where no ray.
    :return: median distance along a beam, and from beam to beam; at least 1.
    """
    height, width = sparse_m.shape
    mask = (sparse_m > 0).astype(np.uint8)
    # a beam is not quite level: its next ray may be a row off
    across = _median_run_distance(cv2.dilate(mask, np.ones((3, 1), np.uint8)), width // MIN_RAYS)
    level = cv2.dilate(mask, np.ones((1, across + 1 - across % 2), np.uint8))
    return across, _median_run_distance(cv2.transpose(level), height // MIN_BEAMS)


def occluded_rays(sparse_m: Array, across_px: int, margin: float = 0.1) -> Array:
    """
    Find rays that the camera cannot have seen: nearer ones lie left and right, or above and below.

    A road has nearer rays on one side only and keeps all of its own.

    :param sparse_m: (H, W) float32, 0 where no ray.
    :param across_px: distance of rays; two are looked at to each side, twice as far up and down.
    :param margin: how much nearer those must be.
    :return: (H, W) bool.
    """
    depth_m = np.where(sparse_m > 0, sparse_m, _FAR_M)
    wide, high = 2 * across_px, 4 * across_px
    beside = np.maximum(
        _min_depth_in_window(depth_m, (3, wide + 1), (wide, 1)),
        _min_depth_in_window(depth_m, (3, wide + 1), (0, 1)),
    )
    over = np.maximum(
        _min_depth_in_window(depth_m, (high + 1, 3), (1, high)),
        _min_depth_in_window(depth_m, (high + 1, 3), (1, 0)),
    )
    return (sparse_m > 0) & (np.minimum(beside, over) < (1 - margin) * sparse_m)


@dataclass(frozen=True)
class _FillReach:
    """
    How far depth is carried along a line.

    :param max_gap_px: pixels from one side to the other of the widest hole that is bridged.
    :param edge_px: pixels, at most, from either side of such a hole that is no one surface.
    :param rim_px: pixels past the last ray before a wider hole.
    :param max_slope_ratio: see Fill; 0 where a slope is no excuse.
    """

    max_gap_px: int
    edge_px: int
    rim_px: int
    max_slope_ratio: float


def _bridge_gaps(q: Array, reach: _FillReach, same_surface_tolerance: float) -> Array:
    """Fill holes along the rows of (H, W) inverse depth; all rows at once, end to end."""
    if not q.any():
        return q
    margin = max(reach.max_gap_px, 2 * reach.rim_px)  # keeps one row's rays from the next row's
    flat = np.pad(q, ((0, 0), (margin, margin))).ravel()
    first, last = _nonzero_runs(flat)
    before, after = flat[last[:-1]], flat[first[1:]]
    steps = first[1:] - last[:-1]
    short = steps <= reach.max_gap_px
    slope = np.where(short, (after - before) / steps, 0).astype(np.float32)
    level = short & (np.abs(after - before) <= same_surface_tolerance * np.minimum(before, after))
    surface = level | (short & _continues_slope(slope, level, short, reach.max_slope_ratio))
    past = np.where(short, reach.edge_px, reach.rim_px)
    ahead, back = np.minimum(steps // 2, past), np.minimum((steps - 1) // 2, past)
    ahead, back = np.where(surface, steps - 1, ahead), np.where(surface, 0, back)
    owner, step = _expand_counts(np.append(reach.rim_px, back))
    flat[first[owner] - step] = flat[first[owner]]
    owner, step = _expand_counts(np.append(ahead, reach.rim_px))
    slope = np.append(np.where(surface, slope, np.float32(0)), np.float32(0))
    flat[last[owner] + step] = flat[last[owner]] + slope[owner] * step
    return flat.reshape(len(q), -1)[:, margin : margin + q.shape[1]]


def _nonzero_runs(flat: Array) -> tuple[Array, Array]:
    """Return the first and the last index of each run of what is not 0; both ends are 0."""
    change = np.flatnonzero(np.diff(flat > 0))
    return change[0::2] + 1, change[1::2]


def _continues_slope(slope: Array, level: Array, short: Array, max_ratio: float) -> Array:
    """
    Tell which holes go on as what is before them, seen from their nearer side.

    A road's q falls as it fell before. Above the roof of a car q falls at once; that it goes on
    falling beyond, on the road behind, is no excuse, nor is an edge just passed.

    :param slope: (R - 1,) of q across each hole, 0 across wide ones.
    :param level: (R - 1,) bool, both sides are of one depth.
    :param short: (R - 1,) bool, not wide.
    :param max_ratio: how much steeper than its neighbour a hole may be.
    :return: (R - 1,) bool.
    """
    left = np.append(np.float32(0), slope[:-1])
    right = np.append(slope[1:], np.float32(0))
    falls = slope < 0  # to the right, so that the nearer side is on the left
    nearer, farther = np.where(falls, left, right), np.where(falls, right, left)
    size = np.abs(slope)
    with_nearer = size <= max_ratio * np.where(falls, -nearer, nearer)
    trusted = level | (short & with_nearer)
    left, right = np.append(False, trusted[:-1]), np.append(trusted[1:], False)
    guide = np.where(np.where(falls, left, right), nearer, farther)
    return size <= max_ratio * np.where(falls, -guide, guide)


def _expand_counts(counts: Array) -> tuple[Array, Array]:
    """(R,) counts -> for each of their sum, which of the R it is of, and 1, 2, ... within it."""
    owner = np.repeat(np.arange(len(counts)), counts)
    return owner, np.arange(1, len(owner) + 1) - np.repeat(np.cumsum(counts) - counts, counts)


def _min_depth_in_window(depth_m: Array, size: tuple[int, int], anchor: tuple[int, int]) -> Array:
    """Return the least depth of the window of `size` (height, width) round each pixel."""
    window = np.ones(size, np.uint8)
    return cv2.erode(
        depth_m, window, anchor=anchor, borderType=cv2.BORDER_CONSTANT, borderValue=float(_FAR_M)
    )


def _median_run_distance(mask: Array, max_px: int) -> int:
    """Return the median distance of neighbouring runs in the rows of (H, W) uint8, 1 to most."""
    flat = np.pad(mask, ((0, 0), (1, 1))).ravel()
    first, last = _nonzero_runs(flat)
    row = first // (mask.shape[1] + 2)
    steps = (first[1:] - last[:-1])[row[1:] == row[:-1]]
    return max(min(int(np.median(steps)), max_px), 1) if len(steps) else 1


def _remove_specks(q: Array) -> Array:
    """Replace what is known by the median of its 3 by 3 pixels, where most of those are known."""
    median = cv2.medianBlur(q, 3)
    return np.where((q > 0) & (median > 0), median, q)
