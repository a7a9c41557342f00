"""Bird's-eye view: camera at the bottom, range rings, boxes with a marked front, LiDAR points."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from stl_core.geometry import backproject_pixels
from stl_core.types import Array
from stl_core.visualization.style import (
    BACKGROUND_COLOUR,
    SUBPIXEL_BITS,
    TEXT_COLOUR,
    TRUTH_COLOUR,
    text_size,
    to_fixed_point,
    write_text,
)

RING_STEP_M = 10.0
_RING_COLOUR = (46, 54, 68)
_VISIBLE_COLOUR = (27, 32, 42)
_FAINT_TEXT_COLOUR = (128, 138, 156)
#: Indices of the top face's corners among the 24 edge points, the front two first.
_TOP_CORNERS = [0, 6, 14, 8]


def draw_birds_eye(
    edges_m: Array,
    colours: Sequence[tuple[int, int, int]],
    *,
    size_px: int = 480,
    range_m: float = 70.0,
    truth_edges_m: Array | None = None,
    points_m: Array | None = None,
    projection_and_width: tuple[Array, int] | None = None,
) -> Array:
    """
    Draw a bird's-eye view: camera at the bottom, range rings, boxes with a marked front.

    :param edges_m: (M, 24, 3) boxes, camera frame.
    :param colours: M RGB colours.
    :param size_px: width and height of the picture.
    :param range_m: range ahead, metres; half of it to each side.
    :param truth_edges_m: (T, 24, 3) annotated boxes, thin and white.
    :param points_m: (L, 3) LiDAR points, camera frame.
    :param projection_and_width: P and image width, to highlight the camera's field of view.
    :return: (size_px, size_px, 3) uint8 RGB.
    """
    out = np.full((size_px, size_px, 3), BACKGROUND_COLOUR, np.uint8)
    scale = (size_px - 16) / range_m
    if projection_and_width is not None:
        out = _shade_frustum(out, projection_and_width[0], projection_and_width[1], scale, range_m)
    _draw_rings(out, scale, range_m)
    if points_m is not None:
        _draw_points(out, points_m, scale)
    # annotated boxes lie below the others, whose colour stays visible
    if truth_edges_m is not None and len(truth_edges_m):
        for outline in to_fixed_point(_to_bev_pixels(_footprints(truth_edges_m), size_px, scale)):
            cv2.polylines(out, [outline], True, TRUTH_COLOUR, 1, cv2.LINE_AA, SUBPIXEL_BITS)
    outlines = to_fixed_point(_to_bev_pixels(_footprints(edges_m), size_px, scale))
    layer = out.copy()
    for outline, colour in zip(outlines, colours, strict=True):
        cv2.fillPoly(layer, [outline], colour, cv2.LINE_AA, SUBPIXEL_BITS)
    out = cv2.addWeighted(layer, 0.5, out, 0.5, 0)
    for outline, colour in zip(outlines, colours, strict=True):
        _draw_outline(out, outline, colour)
    _draw_camera_mark(out)
    return out


def _draw_rings(out: Array, scale: float, range_m: float) -> None:
    """Draw a circle around the camera every RING_STEP_M, labelled with its distance."""
    size_px = out.shape[0]
    center = (size_px // 2, size_px - 8)
    for ring_m in np.arange(RING_STEP_M, range_m + 0.1, RING_STEP_M):
        radius = round(ring_m * scale)
        cv2.circle(out, center, radius, _RING_COLOUR, 1, cv2.LINE_AA)
        text = f'{ring_m:.0f} m'
        at = (center[0] - text_size(text, 0.34)[0] // 2, center[1] - radius + 12)
        write_text(out, text, at, 0.34, _FAINT_TEXT_COLOUR)


def _shade_frustum(out: Array, P: Array, width_px: int, scale: float, range_m: float) -> Array:
    """Return the picture with the camera's field of view lightened."""
    sides_px = np.array([[-0.5, P[1, 2]], [width_px - 0.5, P[1, 2]]])
    far_m = backproject_pixels(sides_px, np.full(2, 2 * range_m), P)
    corners_m = np.concatenate([np.zeros((1, 3)), far_m])
    outline = to_fixed_point(_to_bev_pixels(corners_m, out.shape[0], scale))
    layer = out.copy()
    cv2.fillPoly(layer, [outline], _VISIBLE_COLOUR, cv2.LINE_AA, SUBPIXEL_BITS)
    cv2.polylines(layer, [outline], True, _RING_COLOUR, 1, cv2.LINE_AA, SUBPIXEL_BITS)
    return layer


def _draw_points(out: Array, points_m: Array, scale: float) -> None:
    """Draw LiDAR points, brighter the higher they are (y is down)."""
    pixels = np.floor(_to_bev_pixels(points_m, out.shape[0], scale) + 0.5).astype(np.int64)
    inside = ((pixels >= 0) & (pixels < out.shape[0])).all(1) & (points_m[:, 2] > 0)
    pixels, height_m = pixels[inside], 1.7 - points_m[inside, 1]
    glow = np.clip(0.35 + 0.3 * height_m, 0.35, 1.0)[:, None]
    np.maximum.at(out, (pixels[:, 1], pixels[:, 0]), (glow * (98, 112, 138)).astype(np.uint8))


def _draw_outline(out: Array, outline: Array, colour: tuple[int, int, int]) -> None:
    """Draw a footprint, its front side thick and with a short arrow stem ahead."""
    cv2.polylines(out, [outline], True, colour, 1, cv2.LINE_AA, SUBPIXEL_BITS)
    front, center = outline[:2].mean(0), outline.mean(0)
    tip = (front + 0.45 * (front - center)).round().astype(int)
    stem = center.round().astype(int)
    cv2.line(out, stem.tolist(), tip.tolist(), colour, 1, cv2.LINE_AA, SUBPIXEL_BITS)
    left, right = outline[:2].tolist()
    cv2.line(out, left, right, colour, 2, cv2.LINE_AA, SUBPIXEL_BITS)


def _draw_camera_mark(out: Array) -> None:
    """Draw the camera as a small triangle at the bottom."""
    x, y = out.shape[1] // 2, out.shape[0] - 8
    cv2.fillPoly(
        out, [np.array([[x, y - 7], [x - 5, y + 4], [x + 5, y + 4]])], TEXT_COLOUR, cv2.LINE_AA
    )


def _footprints(edges_m: Array) -> Array:
    """Return (M, 4, 3) corners of the top faces of (M, 24, 3) boxes, the front two first."""
    return np.asarray(edges_m, np.float64).reshape(-1, 24, 3)[:, _TOP_CORNERS]


def _to_bev_pixels(points_m: Array, size_px: int, scale: float) -> Array:
    """Convert (..., 3) points in the camera frame to (..., 2) pixels of the bird's-eye view."""
    x = size_px // 2 + points_m[..., 0] * scale
    y = size_px - 8 - points_m[..., 2] * scale
    return np.stack([x, y], -1)
