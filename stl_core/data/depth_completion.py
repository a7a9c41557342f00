"""
Depth completion: sparse LiDAR depth -> dense depth; far from any ray depth stays 0, unknown.

Classical completion in the spirit of Ku, Harakeh and Waslander, "In Defense of Classical Image
Processing" (CRV 2018): no learning, small neighbourhoods, no depth above the scan. Ku et al.
dilate, which fills a hole with the depth of its nearest rim; here holes are interpolated in
inverse depth q = 1 / z: over the image of a plane q is affine, so roads, walls and sides of cars
are exact even with few beams. If the two sides of a hole belong to different surfaces, each side
extends its own depth, so no depth lies between a car and its background.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from stl_core.types import Array

#: Least number of rays across an image and of beams down it: limits the measured spacing.
MIN_RAYS, MIN_BEAMS = 64, 8
_FAR_M = np.float32(1e6)


@dataclass(frozen=True)
class CompletionConfig:
    """
    Parameters of depth completion.

    :param spacing_px: pixels between neighbouring rays, across and down; None measures them in
        every map, which works for any number of beams and any focal length.
    :param max_gap_spacings: the widest hole that is interpolated, in spacings. KITTI's lower beams
        are a third farther apart than the median, so 3 covers one lost beam everywhere, but not
        two.
    :param same_surface_tolerance: two depths whose relative difference is at most this belong to
        one surface.
    :param max_slope_ratio: so do two beams between which q changes at most this many times faster
        than across the previous hole on the nearer side: a distant road, or one with few beams.
    :param occlusion_margin: a ray between two rays on opposite sides that are nearer by more than
        this fraction passed the edge of an object that hides it from the camera; it is dropped.
    """

    spacing_px: tuple[int, int] | None = None
    max_gap_spacings: float = 3.0
    same_surface_tolerance: float = 0.05
    max_slope_ratio: float = 2.0
    occlusion_margin: float = 0.1

    def __post_init__(self) -> None:
        """Raise ValueError for values that would fill nothing or everything."""
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

    Holes between rays on one surface are interpolated if they are at most max_gap_spacings wide.
    Elsewhere a ray's depth extends half a spacing: along its beam and up or down towards another
    surface; half the spacing along the beam in any direction where there is no other ray, such as
    above the scan. A pixel farther than max_gap_spacings / 2 spacings from all rays is unknown,
    except in a hole between two filled columns that is no wider than the spacing of beams.

    :param sparse_m: (H, W) z of rays, 0 elsewhere.
    :param config: completion parameters.
    :return: (H, W) float32 z, 0 where unknown.
    """
    sparse_m = np.asarray(sparse_m, np.float32)
    across, down = config.spacing_px or ray_spacing(sparse_m)
    half_across, half_down = -(-across // 2), -(-down // 2)
    visible_m = np.where(
        occluded_rays(sparse_m, across, config.occlusion_margin), np.float32(0), sparse_m
    )
    q = np.divide(1, visible_m, out=np.zeros_like(visible_m), where=visible_m > 0)
    q = _bridge_gaps(
        q,
        _FillReach(int(config.max_gap_spacings * across), half_across, half_across, 0),
        config.same_surface_tolerance,
    )
    vertical = _FillReach(
        int(config.max_gap_spacings * down), half_down, half_across, config.max_slope_ratio
    )
    q = cv2.transpose(_bridge_gaps(cv2.transpose(q), vertical, config.same_surface_tolerance))
    q = _bridge_gaps(
        q, _FillReach(down, 0, 0, 0), config.same_surface_tolerance
    )  # columns without a ray of any beam
    q = _remove_specks(q)
    return np.divide(1, q, out=np.zeros_like(q), where=q > 0)


def ray_spacing(sparse_m: Array) -> tuple[int, int]:
    """
    Measure the distance between neighbouring rays, in pixels.

    :param sparse_m: (H, W), 0 where no ray.
    :return: median distance along a beam, and from beam to beam; at least 1.
    """
    height, width = sparse_m.shape
    mask = (sparse_m > 0).astype(np.uint8)
    # a beam is not quite horizontal: its next ray may be one row off
    across = _median_run_distance(cv2.dilate(mask, np.ones((3, 1), np.uint8)), width // MIN_RAYS)
    beams = cv2.dilate(mask, np.ones((1, across + 1 - across % 2), np.uint8))
    return across, _median_run_distance(cv2.transpose(beams), height // MIN_BEAMS)


def occluded_rays(sparse_m: Array, across_px: int, margin: float = 0.1) -> Array:
    """
    Find rays hidden from the camera: nearer rays lie left and right of them, or above and below.

    A road has nearer rays on one side only, so all of its rays are kept.

    :param sparse_m: (H, W) float32 z, 0 where no ray.
    :param across_px: distance of rays; the window is two rays to each side, twice that vertically.
    :param margin: least relative depth difference.
    :return: (H, W) bool.
    """
    depth_m = np.where(sparse_m > 0, sparse_m, _FAR_M)
    wide, high = 2 * across_px, 4 * across_px
    horizontal = np.maximum(
        _min_depth_in_window(depth_m, (3, wide + 1), (wide, 1)),
        _min_depth_in_window(depth_m, (3, wide + 1), (0, 1)),
    )
    vertical = np.maximum(
        _min_depth_in_window(depth_m, (high + 1, 3), (1, high)),
        _min_depth_in_window(depth_m, (high + 1, 3), (1, 0)),
    )
    return (sparse_m > 0) & (np.minimum(horizontal, vertical) < (1 - margin) * sparse_m)


@dataclass(frozen=True)
class _FillReach:
    """
    How far depth extends along an image row or column.

    :param max_gap_px: width of the widest hole that is interpolated.
    :param edge_px: most pixels filled from either side of such a hole between two surfaces.
    :param rim_px: pixels filled past the last ray before a wider hole.
    :param max_slope_ratio: see CompletionConfig; 0 disables the slope test.
    """

    max_gap_px: int
    edge_px: int
    rim_px: int
    max_slope_ratio: float


def _bridge_gaps(q: Array, reach: _FillReach, same_surface_tolerance: float) -> Array:
    """Fill holes along the rows of (H, W) inverse depth; all rows at once, concatenated."""
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
    limit = np.where(short, reach.edge_px, reach.rim_px)
    ahead, back = np.minimum(steps // 2, limit), np.minimum((steps - 1) // 2, limit)
    ahead, back = np.where(surface, steps - 1, ahead), np.where(surface, 0, back)
    run, step = _expand_counts(np.append(reach.rim_px, back))
    flat[first[run] - step] = flat[first[run]]
    run, step = _expand_counts(np.append(ahead, reach.rim_px))
    slope = np.append(np.where(surface, slope, np.float32(0)), np.float32(0))
    flat[last[run] + step] = flat[last[run]] + slope[run] * step
    return flat.reshape(len(q), -1)[:, margin : margin + q.shape[1]]


def _nonzero_runs(flat: Array) -> tuple[Array, Array]:
    """Return the first and the last index of each run of nonzero values; both ends must be 0."""
    change = np.flatnonzero(np.diff(flat > 0))
    return change[0::2] + 1, change[1::2]


def _continues_slope(slope: Array, level: Array, short: Array, max_ratio: float) -> Array:
    """
    Return which holes continue the slope of q on their nearer side.

    On a road q falls steadily. Above the roof of a car q drops at once; the slope of the road
    behind the car does not justify that drop, and neither does an edge just before it.

    :param slope: (R - 1,) slope of q across each hole, 0 across wide holes.
    :param level: (R - 1,) bool, both sides have the same depth within the tolerance.
    :param short: (R - 1,) bool, the hole is narrow enough to interpolate.
    :param max_ratio: how much steeper than its neighbour a hole may be.
    :return: (R - 1,) bool.
    """
    left = np.append(np.float32(0), slope[:-1])
    right = np.append(slope[1:], np.float32(0))
    falls = slope < 0  # q falls to the right: the nearer side is on the left
    nearer, farther = np.where(falls, left, right), np.where(falls, right, left)
    size = np.abs(slope)
    with_nearer = size <= max_ratio * np.where(falls, -nearer, nearer)
    trusted = level | (short & with_nearer)
    left, right = np.append(False, trusted[:-1]), np.append(trusted[1:], False)
    guide = np.where(np.where(falls, left, right), nearer, farther)
    return size <= max_ratio * np.where(falls, -guide, guide)


def _expand_counts(counts: Array) -> tuple[Array, Array]:
    """Return, for each of counts.sum() items, its group index and its rank 1, 2, ... in it."""
    group = np.repeat(np.arange(len(counts)), counts)
    return group, np.arange(1, len(group) + 1) - np.repeat(np.cumsum(counts) - counts, counts)


def _min_depth_in_window(depth_m: Array, size: tuple[int, int], anchor: tuple[int, int]) -> Array:
    """Return the minimum depth in a window of `size` (height, width) at each pixel."""
    window = np.ones(size, np.uint8)
    return cv2.erode(
        depth_m, window, anchor=anchor, borderType=cv2.BORDER_CONSTANT, borderValue=float(_FAR_M)
    )


def _median_run_distance(mask: Array, max_px: int) -> int:
    """Return the median distance of neighbouring runs in rows of (H, W) uint8, 1 to max_px."""
    flat = np.pad(mask, ((0, 0), (1, 1))).ravel()
    first, last = _nonzero_runs(flat)
    row = first // (mask.shape[1] + 2)
    steps = (first[1:] - last[:-1])[row[1:] == row[:-1]]
    return max(min(int(np.median(steps)), max_px), 1) if len(steps) else 1


def _remove_specks(q: Array) -> Array:
    """Replace known values by their 3 by 3 median where most of the 3 by 3 pixels are known."""
    median = cv2.medianBlur(q, 3)
    return np.where((q > 0) & (median > 0), median, q)
