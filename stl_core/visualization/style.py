"""
Drawing style: colours, text, and conversion to subpixel coordinates.

Images are (H, W, 3) uint8 RGB.
"""

from __future__ import annotations

import cv2
import numpy as np

from stl_core.types import Array

#: RGB of each class by lower-case name, in pictures, bird's-eye views, markers and charts.
CLASS_COLOURS: dict[str, tuple[int, int, int]] = {
    'car': (56, 189, 248),
    'pedestrian': (251, 113, 133),
    'cyclist': (250, 204, 21),
    'van': (96, 140, 250),
    'truck': (129, 110, 240),
    'bus': (129, 110, 240),
    'bicycle': (250, 204, 21),
    'motorcycle': (245, 158, 66),
}
OTHER_COLOUR = (190, 190, 200)
TRUTH_COLOUR = (245, 245, 245)

BACKGROUND_COLOUR = (17, 20, 27)
TEXT_COLOUR = (232, 236, 244)
SUBPIXEL_BITS = 4
#: Factor of class colours, which are made for dark backgrounds, on the white of charts.
CHART_BRIGHTNESS = 0.75
FONT = cv2.FONT_HERSHEY_SIMPLEX


def class_colour(name: str) -> tuple[int, int, int]:
    """Return the RGB of a class, whatever its case; grey for a class not in CLASS_COLOURS."""
    return CLASS_COLOURS.get(name.lower(), OTHER_COLOUR)


def chart_colour(name: str) -> tuple[float, float, float] | None:
    """Return the RGB (0 to 1) of a class on white, or None, matplotlib's next colour."""
    colour = CLASS_COLOURS.get(name.lower())
    if colour is None:
        return None
    red, green, blue = (CHART_BRIGHTNESS * part / 255 for part in colour)
    return red, green, blue


def to_fixed_point(pixels: Array) -> Array:
    """Convert pixels to int32 with SUBPIXEL_BITS fraction bits, for OpenCV's shift argument."""
    limit = float(2 ** (30 - SUBPIXEL_BITS))
    fixed = (np.clip(pixels, -limit, limit) * (1 << SUBPIXEL_BITS)).round()
    return np.ascontiguousarray(fixed, np.int32)


def text_size(text: str, size: float) -> tuple[int, int]:
    """Return width and height of a line of text in pixels."""
    (width, height), _ = cv2.getTextSize(text, FONT, size, 1)
    return width, height


def write_text(
    out: Array, text: str, origin: tuple[int, int], size: float, colour: tuple[int, int, int]
) -> None:
    """Write a line of text into out, with its lower left corner at origin."""
    cv2.putText(out, text, origin, FONT, size, colour, 1, cv2.LINE_AA)
