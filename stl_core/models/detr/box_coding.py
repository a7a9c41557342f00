"""
MonoDETR's box coding: the projected 3D centre and its distances to the sides of the 2D box.

A box is (x, y, left, right, top, bottom) in fractions of the canvas's width and height, so that a
sigmoid reaches every value. Corners are (x0, y0, x1, y1) in the same fractions.
"""

from __future__ import annotations

import torch
from torch import Tensor

from stl_core.tensors.batch import Targets

#: Smallest divisor in area ratios, a fraction of the canvas's area far below one pixel.
_MIN_AREA = 1e-9


def encode_boxes(targets: Targets, size_px: tuple[int, int]) -> Tensor:
    """
    Encode targets as boxes (x, y, left, right, top, bottom).

    :param targets: network pixels.
    :param size_px: height and width of the canvas.
    :return: (B, N, 6) fractions of the canvas.
    """
    center = to_fractions(targets.center_px, size_px)
    low, high = to_fractions(targets.box_px, size_px).split(2, -1)
    sides = torch.stack([center - low, high - center], -1)  # (B, N, xy, low high)
    return torch.cat([center, sides.flatten(-2)], -1)


def to_fractions(xy_px: Tensor, size_px: tuple[int, int]) -> Tensor:
    """Divide (..., 2 k) alternating x and y, pixels, by a canvas's width and height."""
    height, width = size_px
    # a tensor of the size would make the host wait for the device
    return torch.stack([xy_px[..., 0::2] / width, xy_px[..., 1::2] / height], -1).flatten(-2)


def to_pixels(xy: Tensor, size_px: tuple[int, int]) -> Tensor:
    """Multiply (..., 2 k) alternating x and y, fractions, by a canvas's width and height."""
    height, width = size_px
    return torch.stack([xy[..., 0::2] * width, xy[..., 1::2] * height], -1).flatten(-2)


def is_representable(box: Tensor) -> Tensor:
    """
    Return whether a sigmoid can represent each box: centre on the canvas and in its 2D box.

    :param box: (..., 6).
    :return: (...,) bool.
    """
    center, sides = box[..., :2], box[..., 2:]
    return ((center >= 0) & (center < 1)).all(-1) & (sides >= 0).all(-1)


def box_cxcylrtb_to_xyxy(box: Tensor) -> Tensor:
    """Return the corners (..., 4), x0 y0 x1 y1, of boxes (..., 6)."""
    x, y, left, right, top, bottom = box.unbind(-1)
    return torch.stack([x - left, y - top, x + right, y + bottom], -1)


def box_width_height(box: Tensor) -> Tensor:
    """Return the width and height (..., 2) of the 2D box of boxes (..., 6)."""
    return box[..., 2::2] + box[..., 3::2]


def generalized_box_iou(a: Tensor, b: Tensor) -> Tensor:
    """
    Compute the generalised IoU (Rezatofighi et al., CVPR 2019).

    Unlike the IoU, it also measures the distance between disjoint boxes.

    :param a: (..., 4) corners.
    :param b: (..., 4) corners; leading axes broadcast.
    :return: (...,) in [-1, 1].
    """
    intersection = _area(
        torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:])
    )
    enclosing = _area(torch.minimum(a[..., :2], b[..., :2]), torch.maximum(a[..., 2:], b[..., 2:]))
    union = _area(a[..., :2], a[..., 2:]) + _area(b[..., :2], b[..., 2:]) - intersection
    return intersection / union.clamp(min=_MIN_AREA) - (enclosing - union) / enclosing.clamp(
        min=_MIN_AREA
    )


def _area(low: Tensor, high: Tensor) -> Tensor:
    """Return the area (...,) between corners (..., 2), 0 where high is not beyond low."""
    return (high - low).clamp(min=0).prod(-1)
