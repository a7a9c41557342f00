"""
Rectify images and compute their projection matrix P from CameraInfo.

passthrough_image is for images that are rectified already, rectify_image for raw ones; both return
the rectified image and its P. A Rectifier chooses between them for the images of one topic, by the
parameter `rectified`: in the node, in the bag tools and in pictures alike.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from mono3d_ros.camera_frame import Concern
from mono3d_ros.messages.intrinsics import (
    CameraInfoError,
    Intrinsics,
    UncalibratedError,
    camera_matrix,
    is_P_empty,
    rectified_projection,
    rectifying_rotation,
    sensor_to_image_affine,
    size_warning,
)
from stl_core.types import Array

#: Values of the parameter `rectified`.
AUTO, RECTIFIED, RAW = 'auto', 'true', 'false'
#: Words in the name of an image topic that say whether its images are rectified.
RECTIFIED_WORDS = frozenset({'rect', 'rectified', 'rectify', 'undist', 'undistorted'})
RAW_WORDS = frozenset({'raw', 'unrect', 'unrectified', 'distorted'})
#: Smallest share of the pixels of a rectified image that lie in the raw image.
MIN_SHARE_COVERED = 0.1


@dataclass(frozen=True)
class Rectifier:
    """
    Rectifies the images of one topic, or leaves them as they are.

    :param rectified: AUTO, RECTIFIED (use P as it is) or RAW (rectify with K, D and R).
    :param topic: name of the image topic; AUTO judges by it.
    """

    rectified: str = AUTO
    topic: str = ''

    def __call__(self, image: Array, intrinsics: Intrinsics) -> tuple[Array, Array]:
        """
        Return the rectified image and its P, see rectify_image and passthrough_image.

        :param image: (H, W, 3) uint8.
        :param intrinsics: intrinsics of its camera.
        :return: the image, (H, W, 3) uint8, and its (3, 4) P.
        :raises CameraInfoError: for intrinsics that cannot be those of a camera.
        :raises ValueError: if the size of the image does not fit the intrinsics.
        """
        rectify = rectify_image if self.rectifies(intrinsics) else passthrough_image
        return rectify(image, intrinsics)

    def rectifies(self, intrinsics: Intrinsics) -> bool:
        """Return whether images with these intrinsics are rectified."""
        if self.rectified != AUTO:
            return self.rectified == RAW
        named = named_rectified(self.topic)
        return not named and (named is False or is_distorted(intrinsics))

    def concerns(self, intrinsics: Intrinsics) -> tuple[Concern, ...]:
        """Return the doubts about images with these intrinsics, errors first."""
        return _concerns(self, intrinsics)


def named_rectified(topic: str) -> bool | None:
    """Return whether the name of an image topic says that it is rectified; None without a word."""
    for part in reversed(topic.split('/')):
        words = {word.lower() for word in re.findall('[A-Z]?[a-z]+|[A-Z]+', part)}
        if words & RECTIFIED_WORDS:
            return True
        if words & RAW_WORDS:
            return False
    return None


def is_distorted(intrinsics: Intrinsics) -> bool:
    """Return whether the lens is no pinhole: D is not zero, or it is a fisheye, with any D."""
    model = _find_model(intrinsics.distortion_model)
    return any(intrinsics.D) or (model is not None and model.is_fisheye)


@lru_cache(maxsize=64)
def _concerns(rectifier: Rectifier, intrinsics: Intrinsics) -> tuple[Concern, ...]:
    """Compute Rectifier.concerns."""
    named = named_rectified(rectifier.topic)
    if is_distorted(intrinsics):
        concern = _name_concern(rectifier, named, intrinsics)
        concerns = [] if concern is None else [concern]
    elif rectifier.rectified != RECTIFIED and not named:
        concerns = [Concern('assumed', text) for text in _pinhole_doubts(intrinsics)]
    else:
        concerns = []
    if warning := size_warning(intrinsics):
        concerns.append(Concern('assumed', warning))
    return tuple(concerns)


def _name_concern(
    rectifier: Rectifier, named: bool | None, intrinsics: Intrinsics
) -> Concern | None:
    """Return the concern if the choice for a distorted lens contradicts the topic, or guesses."""
    has_D = any(intrinsics.D)
    lens = 'camera_info has D' if has_D else f'lens is {intrinsics.distortion_model}'
    if rectifier.rectified == RECTIFIED and named is False:
        text = (
            f'rectified is true, but {rectifier.topic} is named raw and its {lens}: boxes would '
            'be misplaced; set rectified: auto (or false) to rectify, or rename the topic'
        )
        return Concern('distorted', text, is_error=True)
    if rectifier.rectified == RAW and named:
        text = (
            f'rectified is false, but {rectifier.topic} is named rectified (its camera_info keeps '
            'D): rectified twice? set rectified: auto (or true), or rename the topic'
        )
        return Concern('assumed', text)
    if rectifier.rectified == AUTO and named is None:
        text = (
            f'assumed that {rectifier.topic} is raw, and rectified it, because its {lens}; set '
            'rectified: false to confirm, or true if the images are rectified already'
        )
        return Concern('assumed', text)
    return None


def _pinhole_doubts(intrinsics: Intrinsics) -> list[str]:
    """Return a warning if D is zero, but the distortion model is one that is not known."""
    name = intrinsics.distortion_model
    if _find_model(name) is not None or name.lower() in PINHOLE_NAMES:
        return []
    return [
        f'assumed a pinhole: distortion_model {name!r} of camera_info is not known (known are '
        f'{_known_models()}), and D is zero'
    ]


def passthrough_image(image: Array, intrinsics: Intrinsics) -> tuple[Array, Array]:
    """
    Return an image unchanged, with its P: it is rectified already, or has no distortion.

    :param image: (H, W, 3) uint8.
    :param intrinsics: intrinsics of its camera.
    :return: the image and its (3, 4) P.
    :raises CameraInfoError: for intrinsics that cannot be those of a camera; UncalibratedError
        if K is empty, or P though the lens is distorted, or a value is not finite.
    :raises ValueError: if the size of the image does not fit the intrinsics.
    """
    P = projection_matrix(intrinsics)
    return image, sensor_to_image_affine(intrinsics, image.shape[1], image.shape[0]) @ P


def rectify_image(image: Array, intrinsics: Intrinsics) -> tuple[Array, Array]:
    """
    Rectify a raw image; maps are computed once per camera and size.

    :param image: (H, W, 3) uint8.
    :param intrinsics: intrinsics of its camera.
    :return: the rectified image and its (3, 4) P.
    :raises CameraInfoError: for intrinsics that cannot be those of a camera, an unknown distortion
        model or a wrong number of coefficients; UncalibratedError if K is empty or a value is not
        finite.
    :raises ValueError: if the size of the image does not fit the intrinsics.
    """
    if is_same_rectified(intrinsics):
        return passthrough_image(image, intrinsics)
    A = sensor_to_image_affine(intrinsics, image.shape[1], image.shape[0])
    maps = _rectify_maps(intrinsics, image.shape[1], image.shape[0])
    try:
        rectified = cv2.remap(image, *maps, cv2.INTER_LINEAR)
    except cv2.error as err:
        size = f'{image.shape[1]}x{image.shape[0]}'
        raise ValueError(f'an image of {size} cannot be rectified ({err.err})') from err
    return rectified, A @ rectified_projection(intrinsics)


def projection_matrix(intrinsics: Intrinsics) -> Array:
    """
    Return the (3, 4) P of the full rectified image.

    The driver of a camera without distortion may leave P empty; K is used then.

    :raises CameraInfoError: for intrinsics that cannot be those of a camera; UncalibratedError
        if K is empty, or P though the lens is distorted, or a value is not finite.
    """
    P = rectified_projection(intrinsics)
    if is_P_empty(intrinsics) and is_distorted(intrinsics):
        lens = 'D is not' if any(intrinsics.D) else f'its lens is {intrinsics.distortion_model}'
        raise UncalibratedError(f'P of camera_info is empty though {lens}')
    return P


def is_same_rectified(intrinsics: Intrinsics) -> bool:
    """Return whether raw and rectified image are the same; raises as rectify_image does."""
    same_K = np.allclose(rectified_projection(intrinsics)[:, :3].ravel(), intrinsics.K)
    return (
        not is_distorted(intrinsics)
        and same_K
        and np.allclose(rectifying_rotation(intrinsics), np.eye(3))
    )


@lru_cache(maxsize=16)
def _rectify_maps(intrinsics: Intrinsics, width_px: int, height_px: int) -> tuple[Array, Array]:
    """Compute the OpenCV maps from pixels of the rectified image to pixels of the raw image."""
    model = _find_model(intrinsics.distortion_model)
    if model is None and any(intrinsics.D):
        raise CameraInfoError(
            f'distortion_model {intrinsics.distortion_model!r} is not known; known are '
            f'{_known_models()}'
        )
    model = model or DISTORTION_MODELS['plumb_bob']  # without D, a pinhole
    A = sensor_to_image_affine(intrinsics, width_px, height_px)
    K = A @ camera_matrix(intrinsics)
    new_K = A @ rectified_projection(intrinsics)[:, :3]
    D, R = _coefficients(intrinsics, model), rectifying_rotation(intrinsics)
    try:
        maps = model.init_maps(K, D, R, new_K, (width_px, height_px), cv2.CV_16SC2)
    except cv2.error as err:
        raise CameraInfoError(f'camera_info cannot be used for rectifying ({err.err})') from err
    inside = ((maps[0] >= 0) & (maps[0] < (width_px, height_px))).all(-1).mean()
    if inside < MIN_SHARE_COVERED:
        raise CameraInfoError(
            f'K, D, R and P of camera_info do not fit each other: {inside:.1%} of the rectified '
            'image lie in the raw image'
        )
    return maps


@dataclass(frozen=True)
class DistortionModel:
    """
    A distortion model of CameraInfo.

    :param lengths: numbers of coefficients that D may have.
    :param init_maps: (K, D, R, new_K, size, type) -> maps, as cv2.initUndistortRectifyMap.
    :param is_fisheye: whether the projection is no pinhole even if D is zero or empty.
    """

    lengths: tuple[int, ...]
    init_maps: Callable[..., tuple[Array, Array]]
    is_fisheye: bool = False


#: Name in CameraInfo -> model; OpenCV distinguishes the first two by the length of D.
DISTORTION_MODELS: Mapping[str, DistortionModel] = {
    'plumb_bob': DistortionModel((4, 5, 8, 12, 14), cv2.initUndistortRectifyMap),
    'rational_polynomial': DistortionModel((4, 5, 8, 12, 14), cv2.initUndistortRectifyMap),
    'equidistant': DistortionModel((4,), cv2.fisheye.initUndistortRectifyMap, is_fisheye=True),
}
#: Other names of the same formulas, in small letters with _ for other characters.
DISTORTION_ALIASES: Mapping[str, str] = {
    **dict.fromkeys(('radtan', 'radial_tangential', 'brown_conrady'), 'plumb_bob'),
    **dict.fromkeys(('rational',), 'rational_polynomial'),
    **dict.fromkeys(('fisheye', 'equi', 'kannala_brandt', 'kannala_brandt4'), 'equidistant'),
}
#: Names of cameras without distortion.
PINHOLE_NAMES = ('', 'none', 'pinhole')


def _find_model(name: str) -> DistortionModel | None:
    """Return the model of a name, in any spelling or alias; None if it is not known."""
    plain = re.sub('[^a-z0-9]+', '_', name.lower()).strip('_')
    return DISTORTION_MODELS.get(DISTORTION_ALIASES.get(plain, plain))


def _known_models() -> str:
    return ', '.join((*DISTORTION_MODELS, *DISTORTION_ALIASES))


def _coefficients(intrinsics: Intrinsics, model: DistortionModel) -> Array:
    """Return D with a length of the model: zeros at its end may be dropped, no others."""
    D = intrinsics.D
    if not any(D):
        return np.zeros(model.lengths[0])
    lengths = [n for n in model.lengths if n <= len(D) and not any(D[n:])]
    if not lengths:
        expected = ' or '.join(map(str, model.lengths))
        raise CameraInfoError(
            f'D of camera_info has {len(D)} coefficients, but {intrinsics.distortion_model} has '
            f'{expected}'
        )
    return np.array(D[: max(lengths)], np.float64)
