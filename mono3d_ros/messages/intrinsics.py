"""
Values of a CameraInfo, and checks whether they can be those of a camera.

CameraInfo refers to pixels of the full sensor; sensor_to_image_affine maps them to the published
image, after region of interest, binning and resizing (REP 104).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stl_core.types import Array

#: A pinhole image is at most this many times as wide as its focal length (168 degrees).
MAX_WIDTH_PER_FOCAL = 20.0
#: Highest ratio of the two focal lengths: pixels of interlaced sensors have 2.
MAX_FOCAL_RATIO = 3.0
#: Largest deviation of R from a rotation, as the drivers round it.
ROTATION_TOLERANCE = 0.01
#: A principal point at this share of the picture, the same in x and y, is that of a picture of
#: another size: how alike, and how far from the middle.
SHARE_ALIKE, SHARE_OFF = 0.05, 0.15


class CameraInfoError(ValueError):
    """A CameraInfo that cannot be that of a camera; the message names field and value."""


class UncalibratedError(CameraInfoError):
    """A CameraInfo of a camera that was never calibrated."""


@dataclass(frozen=True)
class Intrinsics:
    """
    The values of a CameraInfo, matrices in row-major order; comparable and hashable.

    :param width_px: width of the full sensor image; 0 if the driver does not set it.
    :param height_px: height of the full sensor image, likewise.
    :param distortion_model: name of a key of rectification.DISTORTION_MODELS.
    :param D: distortion coefficients.
    :param K: 9 numbers, camera matrix of the raw image.
    :param R: 9 numbers, rectifying rotation.
    :param P: 12 numbers, projection matrix of the rectified image.
    :param binning: pixels combined in x and y; 0 means 1.
    :param roi_px: x, y, width, height of the published part; width 0 means all.
    """

    width_px: int
    height_px: int
    distortion_model: str
    D: tuple[float, ...]
    K: tuple[float, ...]
    R: tuple[float, ...]
    P: tuple[float, ...]
    binning: tuple[int, int] = (0, 0)
    roi_px: tuple[int, int, int, int] = (0, 0, 0, 0)


def is_P_empty(intrinsics: Intrinsics) -> bool:
    """Return whether the driver left P empty: without focal lengths."""
    return intrinsics.P[0] == 0 and intrinsics.P[5] == 0


def camera_matrix(intrinsics: Intrinsics) -> Array:
    """
    Return the (3, 3) K of the raw image, pixels of the full sensor.

    :raises UncalibratedError: if K[0] is 0 or a value is not finite.
    :raises CameraInfoError: if K cannot be that of a camera.
    """
    _check_calibrated(intrinsics)
    K = np.array(intrinsics.K, np.float64).reshape(3, 3)
    _check_projection('K', K, intrinsics)
    return K


def rectified_projection(intrinsics: Intrinsics) -> Array:
    """
    Return the (3, 4) P, pixels of the full sensor; [K | 0] if P is empty.

    :raises UncalibratedError: if K[0] is 0 or a value is not finite.
    :raises CameraInfoError: if P, or K in its place, cannot be that of a camera.
    """
    _check_calibrated(intrinsics)
    if is_P_empty(intrinsics):
        return np.hstack([camera_matrix(intrinsics), np.zeros((3, 1))])
    P = np.array(intrinsics.P, np.float64).reshape(3, 4)
    _check_projection('P', P, intrinsics)
    return P


def rectifying_rotation(intrinsics: Intrinsics) -> Array:
    """
    Return the (3, 3) R, or identity if the driver left it empty.

    :raises CameraInfoError: if R is not a rotation.
    """
    if not any(intrinsics.R):
        return np.eye(3)
    R = np.array(intrinsics.R, np.float64).reshape(3, 3)
    is_bounded = (np.abs(R) < 1 + ROTATION_TOLERANCE).all()
    orthogonal = is_bounded and (np.abs(R @ R.T - np.eye(3)) < ROTATION_TOLERANCE).all()
    if not orthogonal or np.linalg.det(R) < 0:
        raise CameraInfoError(
            f'R of camera_info is not a rotation (rows {_format(R)}); expected orthogonal rows of '
            'length 1, or zeros for none'
        )
    return R


def sensor_to_image_affine(intrinsics: Intrinsics, width_px: int, height_px: int) -> Array:
    """
    Compute the affine map from pixels of the full sensor to pixels of the published image.

    Integer coordinates are pixel centres, so combining n pixels shifts centres by (n - 1) / 2.

    :param intrinsics: intrinsics of the camera.
    :param width_px: width of the published image.
    :param height_px: height of the published image.
    :return: (3, 3).
    :raises CameraInfoError: if ROI or binning do not fit the sensor.
    :raises ValueError: if ROI, binning and a uniform scale do not explain the size.
    """
    x, y, _, _ = intrinsics.roi_px
    bin_x, bin_y = (max(1, each) for each in intrinsics.binning)
    crop = np.array([[1.0, 0.0, -x], [0.0, 1.0, -y], [0.0, 0.0, 1.0]])
    unscaled = _scaling_affine(1 / bin_x, 1 / bin_y) @ crop
    width, height = _published_size(intrinsics)
    if width == 0 or height == 0:  # not set by the driver: assume an image that is not resized
        return unscaled
    scale_x, scale_y = width_px / width, height_px / height
    # resizing keeps the aspect ratio, except for rounding to whole pixels
    off_px = min(abs(height_px - height * scale_x), abs(width_px - width * scale_y))
    if off_px > 1.0:
        raise ValueError(
            f'image is {width_px}x{height_px} but camera_info is of {width}x{height} pixels'
        )
    return _scaling_affine(scale_x, scale_y) @ unscaled


def size_warning(intrinsics: Intrinsics) -> str:
    """
    Return a warning if K seems to be that of a picture of another size; '' if it does not.

    K of a calibration at another resolution has its principal point at the same share of width
    and height, other than the half.
    """
    width, height = intrinsics.width_px, intrinsics.height_px
    if not width or not height or not intrinsics.K[0]:
        return ''
    share_x, share_y = 2 * intrinsics.K[2] / width, 2 * intrinsics.K[5] / height
    if not (abs(share_x - share_y) < SHARE_ALIKE and abs(share_x - 1) > SHARE_OFF):
        return ''
    return (
        f'K of camera_info has its principal point at ({intrinsics.K[2]:.0f}, '
        f'{intrinsics.K[5]:.0f}), the middle of {width * share_x:.0f}x{height * share_y:.0f} '
        f'pixels, but width and height are {width}x{height}: calibrated at another resolution?'
    )


def _published_size(intrinsics: Intrinsics) -> tuple[int, int]:
    """Return width and height of the published part after binning; 0, 0 if it is unknown."""
    x, y, roi_width, roi_height = intrinsics.roi_px
    sensor = f'{intrinsics.width_px}x{intrinsics.height_px}'
    if (roi_width == 0) != (roi_height == 0) or ((x or y) and not roi_width):
        raise CameraInfoError(
            f'roi of camera_info is {roi_width}x{roi_height} at ({x}, {y}); expected a width and '
            'a height, or zeros for the whole picture'
        )
    for name, start, length, total in (
        ('width', x, roi_width, intrinsics.width_px),
        ('height', y, roi_height, intrinsics.height_px),
    ):
        if total and start + length > total:
            raise CameraInfoError(
                f'roi of camera_info ends at {name} {start + length}, outside of {sensor} pixels'
            )
    width, height = roi_width or intrinsics.width_px, roi_height or intrinsics.height_px
    if width == 0 or height == 0:
        return 0, 0
    bin_x, bin_y = (max(1, each) for each in intrinsics.binning)
    if bin_x > width or bin_y > height:
        raise CameraInfoError(
            f'binning of camera_info is {bin_x}x{bin_y}, more than its {width}x{height} pixels'
        )
    return width // bin_x, height // bin_y


def _scaling_affine(scale_x: float, scale_y: float) -> Array:
    """Return the (3, 3) map new = scale * (old + 0.5) - 0.5."""
    return np.array(
        [
            [scale_x, 0.0, (scale_x - 1.0) / 2],
            [0.0, scale_y, (scale_y - 1.0) / 2],
            [0.0, 0.0, 1.0],
        ]
    )


def _check_calibrated(intrinsics: Intrinsics) -> None:
    """Raise UncalibratedError if K is empty or a number is not finite."""
    if intrinsics.K[0] == 0:
        raise UncalibratedError('K[0] of camera_info is 0: this camera is not calibrated')
    for name in ('K', 'P', 'D', 'R'):
        if not np.isfinite(numbers := getattr(intrinsics, name)).all():
            position = int(np.flatnonzero(~np.isfinite(numbers))[0])
            raise UncalibratedError(
                f'{name}[{position}] of camera_info is {numbers[position]:g}: its numbers are not '
                'finite'
            )


def _check_projection(name: str, matrix: Array, intrinsics: Intrinsics) -> None:
    """Raise CameraInfoError unless a (3, 3) K or (3, 4) P can be that of a camera of this size."""
    (fx, fy), (cx, cy) = matrix[[0, 1], [0, 1]], matrix[:2, 2]
    if fx <= 0 or fy <= 0 or not np.allclose(matrix[2, :3], (0, 0, 1)) or matrix[1, 0] != 0:
        raise CameraInfoError(
            f'{name} of camera_info is no camera matrix (rows {_format(matrix)}); expected rows '
            'fx s cx, 0 fy cy, 0 0 1 with focal lengths above 0'
        )
    width, height = intrinsics.width_px, intrinsics.height_px
    ratio_fits = 1 / MAX_FOCAL_RATIO < fx / fy < MAX_FOCAL_RATIO
    if not ratio_fits or max(width / fx, height / fy) > MAX_WIDTH_PER_FOCAL:
        raise CameraInfoError(
            f'{name} of camera_info has focal lengths of {fx:g} and {fy:g}, impossible for '
            f'{width}x{height} pixels; expected pixels of the full sensor'
        )
    if width and height and not (-width < cx < 2 * width and -height < cy < 2 * height):
        raise CameraInfoError(
            f'{name} of camera_info has its principal point at ({cx:g}, {cy:g}), far outside of '
            f'its {width}x{height} pixels'
        )


def _format(matrix: Array) -> str:
    return '; '.join(' '.join(f'{each:g}' for each in row) for row in matrix)
