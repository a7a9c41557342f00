"""All cameras of a vehicle in one picture, with boxes and LiDAR points, beside the ground."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

from stl_core.geometry import project_points
from stl_core.types import Array
from stl_core.visualization.draw import draw_edges
from stl_core.visualization.style import BACKGROUND_COLOUR, TEXT_COLOUR, write_text

RING_STEP_M = 10.0
_RING_COLOUR = (46, 54, 68)
#: Points of this depth and beyond have the last colour, metres.
_FAR_M = 50.0


class SurroundView(NamedTuple):
    """
    One camera.

    :param name: caption.
    :param image: (H, W, 3) uint8 RGB.
    :param P: (3, 4) projection.
    :param edges_m: (N, 24, 3) boxes, camera frame; see draw.box_edges.
    :param colours: N RGB colours.
    :param points_m: (L, 3) LiDAR points, camera frame.
    """

    name: str
    image: Array
    P: Array
    edges_m: Array
    colours: Sequence[tuple[int, int, int]]
    points_m: Array


def draw_surround(
    views: Sequence[SurroundView],
    outlines_m: Array,
    colours: Sequence[tuple[int, int, int]],
    points_m: Array,
    columns: int = 3,
    range_m: float = 50.0,
) -> Array:
    """
    Draw the views in rows, all of one size, and the ground around the vehicle right of them.

    :param views: the cameras, row by row from the upper left.
    :param outlines_m: (M, 4, 2) footprints, vehicle frame: x forward, y left; front corners first.
    :param colours: M RGB colours.
    :param points_m: (L, 2 or more) LiDAR points, vehicle frame.
    :param columns: views in a row.
    :param range_m: distance from the vehicle to the edge of the ground.
    :return: (H', W', 3) uint8 RGB.
    """
    drawn = [draw_view(view) for view in views]
    rows = [np.hstack(drawn[at : at + columns]) for at in range(0, len(drawn), columns)]
    cameras = np.vstack(rows)
    ground = draw_ground(outlines_m, colours, points_m, cameras.shape[0], range_m)
    return np.hstack([cameras, ground])


def draw_view(view: SurroundView) -> Array:
    """Draw a camera's points, by depth from green to red, its boxes and its name."""
    out = view.image.copy()
    pixels, depth_m = project_points(view.points_m.astype(np.float64), view.P)
    height, width = out.shape[:2]
    inside = (depth_m > 0.5) & ((pixels >= 0) & (pixels < (width, height))).all(1)
    columns, rows = pixels[inside].astype(int).T
    far = np.clip(depth_m[inside] / _FAR_M, 0, 1)
    out[rows, columns] = np.column_stack([255 * far, 255 * (1 - far), 0 * far]).astype(np.uint8)
    out = draw_edges(out, view.edges_m, view.P, view.colours, ())
    write_text(out, view.name, (4, 14), 0.4, TEXT_COLOUR)
    return out


def draw_ground(
    outlines_m: Array,
    colours: Sequence[tuple[int, int, int]],
    points_m: Array,
    size_px: int,
    range_m: float,
) -> Array:
    """Draw footprints and points from above, the vehicle in the middle, ahead is up."""
    out = np.full((size_px, size_px, 3), BACKGROUND_COLOUR, np.uint8)
    scale = size_px / (2 * range_m)

    def to_pixels(points: Array) -> Array:
        return np.rint(size_px / 2 - scale * points[..., [1, 0]]).astype(int)

    for radius_m in np.arange(RING_STEP_M, range_m, RING_STEP_M):
        center = (size_px // 2, size_px // 2)
        cv2.circle(out, center, int(radius_m * scale), _RING_COLOUR, 1, cv2.LINE_AA)
    columns, rows = to_pixels(points_m).T
    inside = (columns >= 0) & (columns < size_px) & (rows >= 0) & (rows < size_px)
    out[rows[inside], columns[inside]] = (110, 120, 130)
    for outline, colour in zip(outlines_m, colours, strict=True):
        corners = to_pixels(outline)
        cv2.polylines(out, [corners.astype(np.int32)], True, colour, 1, cv2.LINE_AA)
        front = to_pixels(outline[:2].mean(0)).tolist()
        cv2.line(out, to_pixels(outline.mean(0)).tolist(), front, colour, 1, cv2.LINE_AA)
    return out
