"""Random changes of colour: brightness, contrast, saturation, hue and order of the channels."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from stl_core.types import Array


@dataclass(frozen=True)
class ColourParams:
    """
    The random colour changes of one sample; the defaults change nothing.

    :param factors: factors of brightness, contrast and saturation.
    :param hue_deg: rotation of the hue, degrees.
    :param channels: the channel that each channel takes its values from.
    """

    factors: tuple[float, float, float] = (1.0, 1.0, 1.0)
    hue_deg: float = 0.0
    channels: tuple[int, int, int] = (0, 1, 2)


def change_colour(image: Array, params: ColourParams) -> Array:
    """
    Apply colour changes: brightness, contrast and saturation, then hue, then order of channels.

    :param image: (H, W, 3) uint8 RGB.
    :param params: the drawn changes.
    :return: (H, W, 3) uint8 RGB; the same array if nothing changes.
    """
    if params.factors != (1.0, 1.0, 1.0):
        image = jitter_colour(image, *params.factors)
    if params.hue_deg:
        hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL)  # 256 steps of hue, so uint8 wraps
        hsv[..., 0] += np.uint8(round(params.hue_deg * 256 / 360) % 256)
        image = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL)
    if params.channels != (0, 1, 2):
        image = np.ascontiguousarray(image[..., list(params.channels)])
    return image


def jitter_colour(image: Array, brightness: float, contrast: float, saturation: float) -> Array:
    """
    Scale brightness, contrast (about the mean grey) and saturation of an image.

    :param image: (H, W, 3) uint8 RGB.
    :param brightness: factor, 1 for no change.
    :param contrast: factor, 1 for no change.
    :param saturation: factor, 1 for no change, 0 for grey.
    :return: (H, W, 3) uint8 RGB.
    """
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    image = cv2.addWeighted(image, saturation, grey, 1 - saturation, 0)
    level = (1 - contrast) * float(grey.mean())
    # convertScaleAbs would take the absolute value of negative results
    return cv2.addWeighted(image, contrast * brightness, image, 0.0, level * brightness)
