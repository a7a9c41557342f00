"""Whether a projection can be that of a camera, and of a picture of a certain size."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stl_core.data.frame_source import DataError, SourceImage
from stl_core.types import Array

#: Focal lengths in pixels; a focal length divided by the picture's size is near 1.
FOCAL_LIMITS_PX = (10.0, 1e6)
#: Focal length as a multiple of the picture's greater side: fields of view of 157 to 1 degrees.
FOCAL_LIMITS_SIDES = (0.1, 57.0)
#: Greatest ratio of the focal lengths of the two axes: pictures are resized unevenly at times.
MAX_FOCAL_RATIO = 5.0
#: Greatest skew as a fraction of the focal length, and deviation of the last row from 0 0 1.
MAX_SKEW, MAX_LAST_ROW_ERROR = 0.01, 1e-4
#: Greatest distance of the projection's origin from the camera frame's, metres.
MAX_OFFSET_M = 100.0
#: A principal point beyond this fraction of both sides is rather that of a larger picture.
CORNER = 0.85
#: A principal point within this fraction of both sides is rather that of a smaller picture.
NEAR_CORNER = 0.3


def projection_fault(P: Array) -> str:
    """
    Describe the fault of a projection; '' if it can be that of a rectified camera.

    :param P: (3, 4), camera frame -> pixels: fx 0 cx, 0 fy cy, 0 0 1, and a fourth column of the
        offset from the camera frame's origin.
    """
    if not np.isfinite(P).all():
        return 'has numbers that are not finite'
    if np.abs(P[2, :2]).max() <= MAX_LAST_ROW_ERROR < abs(P[2, 2] - 1) and P[2, 2] > 0:
        return f'has {P[2, 2]:g} where the last row has 1: divide its 12 numbers by {P[2, 2]:g}'
    if np.abs(P[2, :3] - [0, 0, 1]).max() > MAX_LAST_ROW_ERROR:
        row = ' '.join(f'{value:g}' for value in P[2])
        return f'has the last row {row}; expected 0 0 1 t: K [1 | t], row by row'
    fx, fy = P[0, 0], P[1, 1]
    if not (min(fx, fy) >= FOCAL_LIMITS_PX[0] and max(fx, fy) <= FOCAL_LIMITS_PX[1]):
        return (
            f'has focal lengths {fx:g} and {fy:g}; expected pixels, {FOCAL_LIMITS_PX[0]:g} or more'
            ' (not 1, not a fraction of the picture)'
        )
    if max(fx, fy) > MAX_FOCAL_RATIO * min(fx, fy):
        return f'has focal lengths {fx:g} and {fy:g}, which are too different'
    skew = P[0, 1] if abs(P[0, 1]) > abs(P[1, 0]) else P[1, 0]
    if abs(skew) > MAX_SKEW * min(fx, fy):
        return (
            f'has {skew:g} where a rectified camera has 0; expected fx 0 cx bx 0 fy cy by 0 0 1 t'
        )
    offset_m = np.abs(P[:, 3] / [fx, fy, 1.0]).max()
    if offset_m > MAX_OFFSET_M:
        return f'has an offset of {offset_m:g} m in its fourth column; expected few metres'
    return ''


def picture_fault(P: Array, width_px: int, height_px: int) -> str:
    """
    Return why a projection is not that of a picture of this size; '' if it can be.

    :param P: (3, 4), free of projection_fault.
    """
    size = np.array([width_px, height_px])
    center = P[:2, 2]
    if ((center < -0.5) | (center > size - 0.5)).any():
        fitting = np.median(size / np.maximum(2 * center, 1e-9))
        hint = f'; of a picture {1 / fitting:.2g} times as large?' if 0 < fitting < 1 else ''
        return (
            f'has its principal point at {center[0]:.0f} {center[1]:.0f}, outside the picture of'
            f' {width_px}x{height_px}{hint}'
        )
    sides = np.diag(P)[:2] / max(width_px, height_px)
    if sides.max() < FOCAL_LIMITS_SIDES[0] or sides.min() > FOCAL_LIMITS_SIDES[1]:
        return (
            f'has focal lengths {P[0, 0]:g} and {P[1, 1]:g}, impossible for a picture of'
            f' {width_px}x{height_px}'
        )
    return ''


def picture_warning(P: Array, width_px: int, height_px: int) -> str:
    """
    Describe what seems odd about a projection of a picture of this size; ''.

    :param P: (3, 4), free of picture_fault.
    """
    x, y = P[0, 2] / width_px, P[1, 2] / height_px
    if NEAR_CORNER <= max(x, y) and min(x, y) <= CORNER:
        return ''
    return (
        f'has its principal point at {P[0, 2]:.0f} {P[1, 2]:.0f}, in the corner of the picture of'
        f' {width_px}x{height_px}: of a picture {x + y:.2g} times as large?'
    )


def check_pictures(images: Sequence[SourceImage], sizes_px: Array) -> str:
    """
    Hold the projection of every image against its size.

    :param images: images of a data set.
    :param sizes_px: (M, 2) width and height of each.
    :return: a warning, '' without one.
    :raises DataError: for a projection that is impossible, naming where it is.
    """
    warnings, checked = [], set()
    for image, (width, height) in zip(images, sizes_px.tolist(), strict=True):
        # most images of a set share their projection
        if (key := (image.P.tobytes(), width, height)) in checked:
            continue
        checked.add(key)
        require_projection(image, width, height)
        if warning := picture_warning(image.P, width, height):
            warnings.append(f'{image.P_location or image.id}: P {warning}')
    more = f' (and {len(warnings) - 1} other projections)' if len(warnings) > 1 else ''
    return f'{warnings[0]}{more}' if warnings else ''


def require_projection(image: SourceImage, width_px: int, height_px: int) -> None:
    """Raise DataError, naming where it is, if the projection of an image cannot be right."""
    fault = projection_fault(image.P) or picture_fault(image.P, width_px, height_px)
    if fault:
        raise DataError(f'{image.P_location or image.id}: the projection (KITTI: P2) {fault}')
