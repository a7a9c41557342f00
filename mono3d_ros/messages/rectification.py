"""
Rectify images and compute their projection matrix P from CameraInfo.

There is one rectifier per kind of stream: passthrough_image for image_rect topics, rectify_image
for raw images with lens distortion. Both return the rectified image and its P. CameraInfo refers
to pixels of the full sensor; P is adapted here to region of interest, binning and resizing
(REP 104).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from stl_core.types import Array

#: (H, W, 3) image and its intrinsics -> rectified image and its (3, 4) P.
Rectifier = Callable[[Array, 'Intrinsics'], 'tuple[Array, Array]']


class UncalibratedError(ValueError):
    """A CameraInfo of a camera that was never calibrated."""


@dataclass(frozen=True)
class Intrinsics:
    """
    The values of a CameraInfo, matrices in row-major order; comparable and hashable.

    :param width_px: width of the full sensor image; 0 if the driver does not set it.
    :param height_px: height of the full sensor image, likewise.
    :param distortion_model: a key of DISTORTION_MODELS; used only if D is not zero.
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


def passthrough_image(image: Array, intrinsics: Intrinsics) -> tuple[Array, Array]:
    """
    Return an image unchanged, with its P: it is rectified already, or has no distortion.

    :param image: (H, W, 3) uint8.
    :param intrinsics: intrinsics of its camera.
    :return: the image and its (3, 4) P.
    :raises UncalibratedError: if K is empty, or P while D is not, or a value is not finite.
    :raises ValueError: if the size of the image does not fit the intrinsics.
    """
    A = sensor_to_image_affine(intrinsics, image.shape[1], image.shape[0])
    return image, A @ projection_matrix(intrinsics)


def rectify_image(image: Array, intrinsics: Intrinsics) -> tuple[Array, Array]:
    """
    Rectify a raw image; maps are computed once per camera and size.

    :param image: (H, W, 3) uint8.
    :param intrinsics: intrinsics of its camera.
    :return: the rectified image and its (3, 4) P.
    :raises UncalibratedError: if K is empty or a value is not finite.
    :raises ValueError: for an unknown distortion model, or if the size of the image does not fit
        the intrinsics.
    """
    if _is_rectified(intrinsics):
        return passthrough_image(image, intrinsics)
    maps = _rectify_maps(intrinsics, image.shape[1], image.shape[0])
    A = sensor_to_image_affine(intrinsics, image.shape[1], image.shape[0])
    return cv2.remap(image, *maps, cv2.INTER_LINEAR), A @ _rectified_projection(intrinsics)


def projection_matrix(intrinsics: Intrinsics) -> Array:
    """
    Return the (3, 4) P of the full rectified image.

    The driver of a camera without distortion may leave P empty; K is used then.

    :raises UncalibratedError: if K is empty, or P while D is not, or a value is not finite.
    """
    if intrinsics.P[0] == 0 and any(intrinsics.D):
        _check_K(intrinsics)
        raise UncalibratedError('P of camera_info is empty though D is not')
    return _rectified_projection(intrinsics)


def sensor_to_image_affine(intrinsics: Intrinsics, width_px: int, height_px: int) -> Array:
    """
    Compute the affine map from pixels of the full sensor to pixels of the published image.

    Integer coordinates are pixel centres, so combining n pixels shifts centres by (n - 1) / 2.

    :param intrinsics: intrinsics of the camera.
    :param width_px: width of the published image.
    :param height_px: height of the published image.
    :return: (3, 3).
    :raises ValueError: if ROI, binning and a uniform scale do not explain the size.
    """
    x, y, roi_width, roi_height = intrinsics.roi_px
    width, height = roi_width or intrinsics.width_px, roi_height or intrinsics.height_px
    if width == 0 or height == 0:  # not set by the driver: assume a full-size image
        return np.eye(3)
    bin_x, bin_y = (max(1, each) for each in intrinsics.binning)
    width, height = width // bin_x, height // bin_y
    scale_x, scale_y = width_px / width, height_px / height
    # resizing keeps the aspect ratio, except for rounding to whole pixels
    off_px = min(abs(height_px - height * scale_x), abs(width_px - width * scale_y))
    if off_px > 1.0:
        raise ValueError(
            f'image is {width_px}x{height_px} but camera_info is of {width}x{height} pixels'
        )
    crop = np.array([[1.0, 0.0, -x], [0.0, 1.0, -y], [0.0, 0.0, 1.0]])
    return _scaling_affine(scale_x, scale_y) @ _scaling_affine(1 / bin_x, 1 / bin_y) @ crop


def _scaling_affine(scale_x: float, scale_y: float) -> Array:
    """Return the (3, 3) map new = scale * (old + 0.5) - 0.5."""
    return np.array(
        [
            [scale_x, 0.0, (scale_x - 1.0) / 2],
            [0.0, scale_y, (scale_y - 1.0) / 2],
            [0.0, 0.0, 1.0],
        ]
    )


def _check_K(intrinsics: Intrinsics) -> None:
    numbers = (*intrinsics.K, *intrinsics.P, *intrinsics.D)
    if intrinsics.K[0] == 0:
        raise UncalibratedError('K[0] of camera_info is 0: this camera is not calibrated')
    if not np.isfinite(numbers).all():
        raise UncalibratedError('camera_info has numbers that are not finite')


def _rectified_projection(intrinsics: Intrinsics) -> Array:
    """Return the (3, 4) P, or [K | 0] if P is empty: rectification then keeps K."""
    _check_K(intrinsics)
    if intrinsics.P[0] != 0:
        return np.array(intrinsics.P, np.float64).reshape(3, 4)
    return np.hstack([np.array(intrinsics.K, np.float64).reshape(3, 3), np.zeros((3, 1))])


def _rectifying_rotation(intrinsics: Intrinsics) -> Array:
    """Return the (3, 3) R, or identity if the driver left it empty."""
    return np.array(intrinsics.R, np.float64).reshape(3, 3) if any(intrinsics.R) else np.eye(3)


def _is_rectified(intrinsics: Intrinsics) -> bool:
    """Return whether raw and rectified image are the same."""
    same_K = np.allclose(_rectified_projection(intrinsics)[:, :3].ravel(), intrinsics.K)
    return (
        not any(intrinsics.D)
        and same_K
        and np.allclose(_rectifying_rotation(intrinsics), np.eye(3))
    )


@lru_cache(maxsize=16)
def _rectify_maps(intrinsics: Intrinsics, width_px: int, height_px: int) -> tuple[Array, Array]:
    """Compute the OpenCV maps from pixels of the rectified image to pixels of the raw image."""
    if any(intrinsics.D) and intrinsics.distortion_model not in DISTORTION_MODELS:
        known = ', '.join(DISTORTION_MODELS)
        raise ValueError(
            f'distortion_model {intrinsics.distortion_model!r} is not known; known are {known}'
        )
    A = sensor_to_image_affine(intrinsics, width_px, height_px)
    K = A @ np.array(intrinsics.K, np.float64).reshape(3, 3)
    new_K = A @ _rectified_projection(intrinsics)[:, :3]
    D, size = np.array(intrinsics.D, np.float64), (width_px, height_px)
    model = DISTORTION_MODELS.get(intrinsics.distortion_model, cv2.initUndistortRectifyMap)
    return model(K, D, _rectifying_rotation(intrinsics), new_K, size, cv2.CV_16SC2)


#: Distortion model -> function that computes its maps; OpenCV distinguishes the first two by the
#: length of D.
DISTORTION_MODELS: Mapping[str, Callable[..., tuple[Array, Array]]] = {
    'plumb_bob': cv2.initUndistortRectifyMap,
    'rational_polynomial': cv2.initUndistortRectifyMap,
    'equidistant': cv2.fisheye.initUndistortRectifyMap,
}
