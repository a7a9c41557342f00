"""
Pictures of attention: among the objects of a frame (TSRD), and from a cell to depth cells (VDA).

Images are (H, W, 3) uint8 RGB; every function returns a new one.
"""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np

from stl_core.types import Array
from stl_core.visualization.style import (
    BACKGROUND_COLOUR,
    SUBPIXEL_BITS,
    TEXT_COLOUR,
    text_size,
    to_fixed_point,
    write_text,
)

#: Height of the bar with the title above a panel, pixels.
_TITLE_PX = 26
#: Colours of cells and boxes that attend, and of those that are attended to.
_QUERY_COLOUR, _KEY_COLOUR = (250, 204, 21), (56, 189, 248)


def object_attention_picture(
    image: Array, box_px: Array, attentions: Mapping[str, Array], width_px: int = 1000
) -> Array:
    """
    Draw the attention among the objects of a frame, one panel for each network.

    Left: boxes, numbered from 1 in the given order, and a line between every two objects, whose
    opacity is the greater attention of one to the other. Right: the matrix; row i is how object i
    attends to each object, black 0 to bright 1. The scale is the same in all panels: attention is
    a share of 1.

    :param image: (H, W, 3) uint8 RGB.
    :param box_px: (K, 4) boxes in pixels of the image.
    :param attentions: {title: (K, K) rows that add up to 1}, such as teacher and student.
    :param width_px: width to which the image is scaled.
    :return: (H', W', 3) uint8 RGB, panels one below the other.
    :raises ValueError: without a panel, or for a matrix whose size is not the number of boxes.
    """
    _require_panels(attentions)
    large, scale = _scaled(image, width_px)
    box_px = np.asarray(box_px, np.float64).reshape(-1, 4) * scale
    panels = []
    for title, attention in attentions.items():
        attention = np.asarray(attention, np.float64)
        if attention.shape != (len(box_px), len(box_px)):
            raise ValueError(
                f'{title}: attention of shape {attention.shape}; expected one row and column for'
                f' each of {len(box_px)} boxes'
            )
        left = _draw_lines(large, box_px, attention)
        right = _draw_matrix(attention, large.shape[0])
        panels.append(_with_title(np.concatenate([left, right], 1), title))
    return np.concatenate(panels)


def cell_attention_picture(
    image: Array,
    attentions: Mapping[str, Array],
    query_px: tuple[float, float],
    width_px: int = 1000,
) -> Array:
    """
    Draw to which cells of a grid one cell attends, one panel for each title.

    The image is grey and dark; a cell is bright in proportion to its attention, relative to the
    greatest of its panel, which the title states. A cross marks the cell that attends.

    :param image: (H, W, 3) uint8 RGB.
    :param attentions: {title: (h, w) attention to each cell of a grid over the image}.
    :param query_px: x and y of the cell that attends, pixels of the image.
    :param width_px: width to which the image is scaled.
    :return: (H', W', 3) uint8 RGB, panels one below the other.
    :raises ValueError: without a panel.
    """
    _require_panels(attentions)
    large, scale = _scaled(image, width_px)
    height, width = large.shape[:2]
    grey = np.repeat(large.mean(2, keepdims=True), 3, 2)
    panels = []
    for title, attention in attentions.items():
        attention = np.asarray(attention, np.float64)
        peak = float(attention.max(initial=0.0))
        cells = cv2.resize(
            attention / (peak or 1.0), (width, height), interpolation=cv2.INTER_NEAREST
        )
        heat = cv2.applyColorMap((cells * 255).round().astype(np.uint8), cv2.COLORMAP_INFERNO)
        panel = 0.45 * grey + 0.55 * heat[..., ::-1]
        panel = np.ascontiguousarray(panel.round().astype(np.uint8))
        x, y = (round(value * scale) for value in query_px)
        cv2.drawMarker(panel, (x, y), _KEY_COLOUR, cv2.MARKER_CROSS, 18, 2, cv2.LINE_AA)
        panels.append(_with_title(panel, f'{title}: at most {peak:.2f}'))
    return np.concatenate(panels)


def stack_panels(panels: Mapping[str, Array]) -> Array:
    """Return (H, W, 3) panels of equal width one below the other, each below its title."""
    return np.concatenate([_with_title(panel, title) for title, panel in panels.items()])


def _require_panels(attentions: Mapping[str, Array]) -> None:
    if not attentions:
        raise ValueError('attentions: empty; expected at least one panel')


def _scaled(image: Array, width_px: int) -> tuple[Array, float]:
    """Return the image at a width, and the scale."""
    scale = width_px / image.shape[1]
    size = (width_px, max(1, round(image.shape[0] * scale)))
    kind = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return cv2.resize(image, size, interpolation=kind), scale


def _draw_lines(image: Array, box_px: Array, attention: Array) -> Array:
    """Draw boxes with their numbers, and lines as opaque as attention is large."""
    out = (image * 0.6).astype(np.uint8)
    middle = (box_px[:, :2] + box_px[:, 2:]) / 2
    mutual = np.maximum(attention, attention.T)
    order = [(i, j) for i in range(len(box_px)) for j in range(i)]
    for i, j in sorted(order, key=lambda pair: mutual[pair]):
        layer = out.copy()
        ends = to_fixed_point(middle[[i, j]])
        cv2.line(layer, ends[0], ends[1], _KEY_COLOUR, 3, cv2.LINE_AA, SUBPIXEL_BITS)
        out = cv2.addWeighted(layer, float(mutual[i, j]), out, 1 - float(mutual[i, j]), 0)
    for number, box in enumerate(box_px, 1):
        low, high = to_fixed_point(box.reshape(2, 2))
        cv2.rectangle(out, low, high, _QUERY_COLOUR, 1, cv2.LINE_AA, SUBPIXEL_BITS)
        x, y = (round(value) for value in box[:2])
        write_text(out, str(number), (x + 2, max(y + 12, 12)), 0.42, TEXT_COLOUR)
    return out


def _draw_matrix(attention: Array, side_px: int) -> Array:
    """Draw a square of side_px with one cell for each pair, numbered along the diagonal."""
    out = np.full((side_px, side_px, 3), BACKGROUND_COLOUR, np.uint8)
    count = len(attention)
    edges = np.linspace(2, side_px - 2, count + 1).round().astype(int) if count else []
    shades = (
        cv2.applyColorMap(
            (np.clip(attention, 0, 1) * 255).round().astype(np.uint8).reshape(-1, 1),
            cv2.COLORMAP_INFERNO,
        ).reshape(count, count, 3)[..., ::-1]
        if count
        else out[:0]
    )
    for i in range(count):
        for j in range(count):
            out[edges[i] : edges[i + 1], edges[j] : edges[j + 1]] = shades[i, j]
        number = str(i + 1)
        width, height = text_size(number, 0.36)
        x, y = ((edges[i] + edges[i + 1] + shift) // 2 for shift in (-width, height))
        write_text(out, number, (int(x), int(y)), 0.36, _KEY_COLOUR)
    return out


def _with_title(panel: Array, title: str) -> Array:
    """Return the panel below a bar with a title."""
    bar = np.full((_TITLE_PX, panel.shape[1], 3), BACKGROUND_COLOUR, np.uint8)
    write_text(bar, title, (8, 18), 0.5, TEXT_COLOUR)
    return np.concatenate([bar, panel])
