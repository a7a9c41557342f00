"""
Drawing of frames: boxes on an image, the bird's-eye view next to it, contact sheets.

Images are (H, W, 3) uint8 RGB; functions that draw return a new image and leave their arguments
unchanged. A box is drawn from its (24, 3) edge points, the pairs of geometry.BOX_EDGES with the
front face first, as in a LINE_LIST marker of the node; labels, predictions and recorded messages
therefore share the same drawing code.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from stl_core.files import atomic_file
from stl_core.geometry import BOX_EDGES, box_corners, project_points, warp_P
from stl_core.types import Array, Objects3D
from stl_core.visualization.birds_eye import draw_birds_eye
from stl_core.visualization.style import (
    BACKGROUND_COLOUR,
    SUBPIXEL_BITS,
    TEXT_COLOUR,
    TRUTH_COLOUR,
    class_colour,
    text_size,
    to_fixed_point,
    write_text,
)

#: Edges are clipped at this distance in front of the camera plane before projection.
NEAR_M = 0.1
#: Indices of the front face's corners among the 24 edge points, in order around it.
_FRONT_CORNERS = [0, 2, 4, 6]
#: Classes in the colour legend above every picture.
LEGEND_CLASSES = ('Car', 'Pedestrian', 'Cyclist')


def write_picture(path: Path, image: Array, options: Sequence[int] = ()) -> None:
    """
    Write an image file atomically; unlike cv2.imwrite, an error is an exception.

    :param path: the file; its suffix, .png or .jpg, selects the format. Its folder must exist.
    :param image: (H, W, 3) uint8 RGB.
    :param options: pairs of a cv2.IMWRITE_ flag and its value.
    :raises OSError: if the file cannot be written.
    """
    _, data = cv2.imencode(path.suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR), list(options))
    with atomic_file(path, sync=False) as part:  # thousands of files, made again if lost
        part.write_bytes(data.tobytes())


def box_edges(objects: Objects3D) -> Array:
    """Return (N, 24, 3) end points of the 12 edges of N boxes, metres, camera frame."""
    corners_m = box_corners(objects.center_m, objects.size_hwl_m, objects.rotation_y)
    return corners_m[:, np.array(BOX_EDGES).ravel()]


def box_labels(objects: Objects3D, classes: Sequence[str]) -> list[str]:
    """Return class, score and depth of each object as text, such as 'Car 0.87 23.4 m'."""
    rows = zip(objects.class_id, objects.score, objects.center_m[:, 2], strict=True)
    return [f'{classes[i]} {score:.2f} {z:.1f} m' for i, score, z in rows]


def draw_edges(
    image: Array,
    edges_m: Array,
    P: Array,
    colours: Sequence[tuple[int, int, int]],
    labels: Sequence[str] = (),
) -> Array:
    """
    Draw boxes given by their edges; near boxes over far ones, front faces tinted.

    :param image: (H, W, 3) uint8 RGB.
    :param edges_m: (M, 24, 3) camera frame; boxes may reach behind the camera.
    :param P: (3, 4) projection of that image.
    :param colours: M RGB colours.
    :param labels: M texts, or an empty sequence.
    :return: a new image.
    """
    depth_m = edges_m[..., 2].mean(1)
    far_first = np.argsort(-depth_m)
    segments = [visible_segments(edges_m[i], P) for i in range(len(edges_m))]
    out = _tint_faces(image, edges_m, P, colours, segments)
    for i in far_first:
        thickness = line_width(image.shape[0], depth_m[i])
        for start, end in to_fixed_point(segments[i]):
            cv2.line(out, start, end, colours[i], thickness, cv2.LINE_AA, SUBPIXEL_BITS)
    occupied: list[tuple[int, int, int, int]] = []
    for i in far_first[::-1] if labels else ():
        if len(segments[i]):
            _draw_label(out, labels[i], segments[i], colours[i], occupied)
    return out


def line_width(height_px: int, depth_m: float) -> int:
    """Return the line width of a box: 1 if far away, greater if near and on large images."""
    return 1 if depth_m > 22.0 else max(1, round(height_px / 400)) + (depth_m < 11.0)


def visible_segments(edges_m: Array, P: Array) -> Array:
    """
    Project edges after clipping them at NEAR_M in front of the camera.

    :param edges_m: (24, 3) end points in pairs, camera frame.
    :param P: (3, 4).
    :return: (K, 2, 2) pixels of the K <= 12 edges that lie at least partly in front of that plane.
    """
    pairs = np.asarray(edges_m, np.float64).reshape(-1, 2, 3)
    z = pairs[..., 2]
    pairs, z = pairs[(z > NEAR_M).any(1)], z[(z > NEAR_M).any(1)]
    step = z[:, ::-1] - z
    t = np.where(z < NEAR_M, (NEAR_M - z) / np.where(step == 0, 1.0, step), 0.0)
    return project_points(pairs + t[..., None] * (pairs[:, ::-1] - pairs), P)[0]


def draw_frame(
    image: Array,
    P: Array,
    edges_m: Array,
    colours: Sequence[tuple[int, int, int]],
    labels: Sequence[str] = (),
    *,
    truth_edges_m: Array | None = None,
    points_m: Array | None = None,
    caption: str = '',
) -> Array:
    """
    Draw a complete frame: boxes on the scaled image next to the bird's-eye view.

    :param image: (H, W, 3) uint8 RGB.
    :param P: (3, 4) projection of that image.
    :param edges_m: (M, 24, 3) boxes, camera frame.
    :param colours: M RGB colours.
    :param labels: M texts, or an empty sequence.
    :param truth_edges_m: (T, 24, 3) annotated boxes, thin and white in both views.
    :param points_m: (L, 3) LiDAR points, camera frame.
    :param caption: one line above.
    :return: (H', W', 3) uint8 RGB, sides even, as video encoders require.
    """
    large, large_P = scale_for_display(image, P)
    if truth_edges_m is not None:
        for edges in truth_edges_m:
            for start, end in to_fixed_point(visible_segments(edges, large_P)):
                cv2.line(large, start, end, TRUTH_COLOUR, 1, cv2.LINE_AA, SUBPIXEL_BITS)
    drawn = draw_edges(large, edges_m, large_P, colours, labels)
    bev_image = draw_birds_eye(
        edges_m,
        colours,
        size_px=large.shape[0],
        truth_edges_m=truth_edges_m,
        points_m=points_m,
        projection_and_width=(large_P, large.shape[1]),
    )
    return side_by_side(drawn, bev_image, caption)


def scale_for_display(image: Array, P: Array) -> tuple[Array, Array]:
    """
    Scale an image to a height at which lines and labels are readable, 480 to 720 pixels.

    :param image: (H, W, 3) uint8.
    :param P: (3, 4).
    :return: the scaled image, always a new one, and its P.
    """
    height, width = image.shape[:2]
    s = np.clip(1600.0 * height / width, 480.0, 720.0) / height
    size = (2 * round(s * width / 2), 2 * round(s * height / 2))
    sx, sy = size[0] / width, size[1] / height
    A = np.array([[sx, 0, (sx - 1) / 2], [0, sy, (sy - 1) / 2], [0, 0, 1]])
    kind = cv2.INTER_AREA if s < 1 else cv2.INTER_CUBIC
    return cv2.resize(image, size, interpolation=kind), warp_P(P, A)


def side_by_side(image: Array, bev_image: Array, caption: str = '') -> Array:
    """
    Join two pictures of equal height under a caption and the colour legend.

    :param image: (H, W, 3) uint8 RGB.
    :param bev_image: (H, W', 3) uint8 RGB.
    :param caption: one line.
    :return: (H + 36, W + W' + 4, 3) uint8 RGB.
    """
    height, gap, bar = image.shape[0], 4, 36
    out = np.full(
        (height + bar, image.shape[1] + gap + bev_image.shape[1], 3), BACKGROUND_COLOUR, np.uint8
    )
    out[bar:, : image.shape[1]] = image
    out[bar:, image.shape[1] + gap :] = bev_image
    write_text(out, caption, (14, 24), 0.56, TEXT_COLOUR)
    x = out.shape[1] - 14
    for name in reversed(LEGEND_CLASSES):
        x -= text_size(name, 0.5)[0]
        write_text(out, name, (x, 24), 0.5, TEXT_COLOUR)
        cv2.rectangle(out, (x - 20, 12), (x - 8, 24), class_colour(name), -1)
        x -= 38
    return out


def contact_sheet(pictures: Sequence[Array], columns: int = 2, width_px: int = 1100) -> Array:
    """Arrange K pictures of any size in a grid, each scaled to width_px, row by row."""
    scaled = []
    for picture in pictures:
        height = max(1, round(picture.shape[0] * width_px / picture.shape[1]))
        scaled.append(cv2.resize(picture, (width_px, height), interpolation=cv2.INTER_AREA))
    rows = [scaled[i : i + columns] for i in range(0, len(scaled), columns)]
    tops = np.cumsum([0] + [max(p.shape[0] for p in row) + 8 for row in rows])
    out = np.full((tops[-1], columns * (width_px + 8) - 8, 3), BACKGROUND_COLOUR, np.uint8)
    for top, row in zip(tops, rows, strict=False):
        for column, picture in enumerate(row):
            left = column * (width_px + 8)
            out[top : top + picture.shape[0], left : left + width_px] = picture
    return out


def _tint_faces(
    image: Array,
    edges_m: Array,
    P: Array,
    colours: Sequence[tuple[int, int, int]],
    segments: Sequence[Array],
) -> Array:
    """Return the image darkened under the lines and tinted in the front faces, for contrast."""
    layer = image.copy()
    for i in np.argsort(-edges_m[..., 2].mean(1)):
        if edges_m[i, _FRONT_CORNERS, 2].min() > NEAR_M:
            face = to_fixed_point(project_points(edges_m[i, _FRONT_CORNERS], P)[0])
            cv2.fillPoly(layer, [face], colours[i], cv2.LINE_AA, SUBPIXEL_BITS)
        width = line_width(image.shape[0], edges_m[i, :, 2].mean()) + 2
        for start, end in to_fixed_point(segments[i]):
            cv2.line(layer, start, end, (0, 0, 0), width, cv2.LINE_AA, SUBPIXEL_BITS)
    return cv2.addWeighted(layer, 0.35, image, 0.65, 0)


def _draw_label(
    out: Array,
    text: str,
    segments: Array,
    colour: tuple[int, int, int],
    occupied: list[tuple[int, int, int, int]],
) -> None:
    """Write a label above a box, clear of other labels; append its rectangle to occupied."""
    inside = np.clip(segments.reshape(-1, 2), 0, [out.shape[1] - 1, out.shape[0] - 1])
    low, high = segments.reshape(-1, 2).min(0), segments.reshape(-1, 2).max(0)
    if (high < 0).any() or low[0] >= out.shape[1] or low[1] >= out.shape[0]:
        return  # the box is outside the image
    size = float(np.clip(out.shape[0] / 1100, 0.36, 0.6))
    width, height = text_size(text, size)
    width, height = width + 10, height + 8
    x = int(np.clip(inside[:, 0].mean() - width / 2, 0, max(0, out.shape[1] - width)))
    y = int(inside[:, 1].min()) - height - 3
    y = max(y, 0)
    while (
        any(_rectangles_overlap((x, y, width, height), other) for other in occupied)
        and y >= height
    ):
        y -= height // 2
    occupied.append((x, y, width, height))
    patch = out[y : y + height, x : x + width]
    out[y : y + height, x : x + width] = patch // 4 + np.array(BACKGROUND_COLOUR, np.uint8) // 2
    cv2.rectangle(out, (x, y), (x + 2, y + height - 1), colour, -1)
    write_text(out, text, (x + 7, y + height - 5), size, TEXT_COLOUR)


def _rectangles_overlap(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> bool:
    """Return whether two rectangles (x, y, width, height) share a pixel."""
    return a[0] < b[0] + b[2] and b[0] < a[0] + a[2] and a[1] < b[1] + b[3] and b[1] < a[1] + a[3]
