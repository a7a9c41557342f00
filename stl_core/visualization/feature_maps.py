"""
Pictures of feature maps: three directions of one network's features as red, green and blue.

Images are (H, W, 3) uint8 RGB. Shapes: C channels, h w grid.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import cv2
import numpy as np

from stl_core.types import Array
from stl_core.visualization.attention import stack_panels


class ColourBasis(NamedTuple):
    """
    The map of a network that colours are made for.

    :param mean: (C,) mean of its cells.
    :param deviation: (C,) deviation of its cells, above 0.
    :param directions: (C, 3) orthonormal directions of greatest variance of standardised cells,
        columns; 0 where the map has fewer channels or cells.
    :param low: (3,) 2nd percentile of its cells along these directions.
    :param high: (3,) 98th percentile.
    """

    mean: Array
    deviation: Array
    directions: Array
    low: Array
    high: Array


def colour_basis(features: Array) -> ColourBasis:
    """
    Compute the principal components of a map's cells.

    Signs are fixed: the greatest entry of a direction is positive.

    :param features: (C, h, w).
    """
    cells = np.asarray(features, np.float64).reshape(len(features), -1).T
    mean, deviation = cells.mean(0), cells.std(0)
    deviation = np.where(deviation > 0, deviation, 1.0)
    standard = (cells - mean) / deviation
    _, _, rows = np.linalg.svd(standard, full_matrices=False)
    directions = np.zeros((len(features), 3))
    count = min(3, len(rows))
    directions[:, :count] = rows[:count].T
    greatest = np.abs(directions).argmax(0)
    directions *= np.where(directions[greatest, np.arange(3)] < 0, -1.0, 1.0)
    low, high = np.percentile(standard @ directions, [2, 98], axis=0)
    return ColourBasis(mean, deviation, directions, low, high)


def colour_cells(features: Array, basis: ColourBasis) -> Array:
    """
    Return a map as colours, (h, w, 3) uint8.

    :param features: (C, h, w) of the same channels as the basis.
    :param basis: its percentiles are 0 and 255.
    """
    cells = np.moveaxis(np.asarray(features, np.float64), 0, -1)
    along = ((cells - basis.mean) / basis.deviation) @ basis.directions
    span = np.where(basis.high > basis.low, basis.high - basis.low, 1.0)
    return (np.clip((along - basis.low) / span, 0, 1) * 255).round().astype(np.uint8)


def feature_picture(
    image: Array, maps: Mapping[str, Array], reference: str, width_px: int = 1000
) -> Array:
    """
    Draw feature maps in the colours of one of them, below the image.

    Equal colours mean equal features, up to the directions that are left out. Titles state the
    root mean square difference from the reference, in its channels' deviations, over all channels.

    :param image: (H, W, 3) uint8 RGB.
    :param maps: {title: (C, h, w)}, of equal shapes.
    :param reference: title of the map whose principal components are the colours: the teacher's.
    :param width_px: width to which image and maps are scaled.
    :return: (H', W', 3) uint8 RGB, panels one below the other.
    :raises ValueError: for a map of another shape than the reference.
    """
    basis, expected = colour_basis(maps[reference]), np.asarray(maps[reference])
    height_px = max(1, round(image.shape[0] * width_px / image.shape[1]))
    panels = {'image': cv2.resize(image, (width_px, height_px), interpolation=cv2.INTER_LINEAR)}
    for title, features in maps.items():
        if features.shape != expected.shape:
            raise ValueError(f'{title}: map of {features.shape}; expected {expected.shape}')
        colours = colour_cells(features, basis)
        gap = (features - expected) / basis.deviation[:, None, None]
        text = '' if title == reference else f': differs by {np.sqrt(np.mean(gap**2)):.2f}'
        panels[f'{title}{text}'] = cv2.resize(
            colours, (width_px, height_px), interpolation=cv2.INTER_NEAREST
        )
    return stack_panels(panels)
