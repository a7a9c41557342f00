"""
Image preprocessing: warp an image to the network's input canvas, and its projection P with it.

Training, evaluation, bag tools and the vehicle use the same warps, which keep an image and its
projection consistent. Colour is normalised on the device (see normalization.normalise_input),
because uint8 crosses the bus four times faster than float32. Teachers receive depth maps instead.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from stl_core.geometry import warp_P
from stl_core.types import Array


@dataclass(frozen=True)
class DepthSpec:
    """
    Depth input of a teacher and its normalisation; the defaults fit KITTI's completed LiDAR depth.

    :param mean_m: mean of the known depths.
    :param std_m: standard deviation of the known depths.
    :param virtual_focal_px: focal length, in network pixels, to which input depth is scaled: the
        depth at which an object of the same size in pixels would stand in front of this lens.
        Depth is then zoomed together with the image, and has the units in which a student must
        predict, since a student does not know the focal length. 0 keeps true metres.
    """

    mean_m: float = 15.34
    std_m: float = 12.28
    virtual_focal_px: float = 720.0

    def __post_init__(self) -> None:
        """Raise ValueError unless std_m is positive and virtual_focal_px is at least 0."""
        if not self.std_m > 0:
            raise ValueError(f'std_m: expected more than 0 metres, got {self.std_m}')
        if self.virtual_focal_px < 0:
            raise ValueError(f'virtual_focal_px: expected 0 or more, got {self.virtual_focal_px}')


#: Depth that a privileged teacher can be given: that of a scan in the objects' 2D boxes, or of the
#: objects' centres, painted over their 2D boxes; '' for every other network.
GIVEN_DEPTHS = ('', 'scan', 'objects')


@dataclass(frozen=True)
class InputSpec:
    """
    Input of a network: canvas size, normalisation, colour or depth.

    :param width_px: canvas width, a multiple of 32.
    :param height_px: canvas height, a multiple of 32.
    :param mean: RGB mean, 0 to 1 (ImageNet's by default).
    :param std: RGB standard deviation.
    :param depth: if given, the network is a teacher: its input is depth instead of colour.
    :param given_depth: one of GIVEN_DEPTHS: depth that the network is given besides the image.
    :param cut_top: scale images to the width of the canvas and keep their lower rows, instead of
        showing all of them: in cameras of 16:9, the upper rows show sky.
    """

    width_px: int = 1280
    height_px: int = 384
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    depth: DepthSpec | None = None
    given_depth: str = ''
    cut_top: bool = False

    @property
    def channels(self) -> int:
        """Return the number of input channels: 3 for colour; 2 for depth and its validity mask."""
        return 3 if self.depth is None else 2

    @property
    def needs_depth_maps(self) -> bool:
        """Return whether frames need depth maps: as input, or to be given in boxes."""
        return self.depth is not None or self.given_depth == 'scan'

    def __post_init__(self) -> None:
        """Raise ValueError for a size that is no multiple of 32, or an unknown given_depth."""
        if self.given_depth not in GIVEN_DEPTHS:
            raise ValueError(
                f'given_depth: expected {" or ".join(map(repr, GIVEN_DEPTHS))},'
                f' got {self.given_depth!r}'
            )
        if self.width_px % 32 or self.height_px % 32 or min(self.width_px, self.height_px) < 32:
            raise ValueError(
                f'input size must be multiples of 32, got {self.width_px}x{self.height_px}'
            )


def letterbox_affine(width_px: int, height_px: int, spec: InputSpec) -> Array:
    """
    Return the transform that fits an image into the canvas: uniform scale, centred, padded.

    With spec.cut_top the widths are equal and the lower edges lie on each other, see InputSpec.
    Integer coordinates are pixel centres: new = s * (old + 0.5) - 0.5 + margin.

    :param width_px: image width.
    :param height_px: image height.
    :param spec: the canvas.
    :return: (3, 3) transform from image pixels to canvas pixels.
    """
    s = min(spec.width_px / width_px, spec.height_px / height_px)
    s = spec.width_px / width_px if spec.cut_top else s
    tx = (spec.width_px - s * width_px) / 2 + s / 2 - 0.5
    ty = (spec.height_px - s * height_px) / (1 if spec.cut_top else 2) + s / 2 - 0.5
    return np.array([[s, 0.0, tx], [0.0, s, ty], [0.0, 0.0, 1.0]])


def warp_image(image: Array, A: Array, spec: InputSpec) -> Array:
    """
    Warp an image to the canvas.

    Bilinear sampling reads two pixels per axis. Below half size the image is therefore first
    reduced by an integer factor with area averaging; otherwise distant cars would alias away.

    :param image: (H, W, 3) uint8.
    :param A: (3, 3) transform from image pixels to canvas pixels.
    :param spec: the canvas.
    :return: (height_px, width_px, 3) uint8, black outside the image.
    """
    scale = np.sqrt(abs(np.linalg.det(A[:2, :2])))
    factor = max(int(1.0 / scale + 1e-6), 1)
    height, width = image.shape[0] // factor, image.shape[1] // factor
    if factor > 1 and min(height, width) > 0:
        cropped = image[: height * factor, : width * factor]
        image = cv2.resize(cropped, (width, height), interpolation=cv2.INTER_AREA)
        zoom = np.array([[factor, 0, (factor - 1) / 2], [0, factor, (factor - 1) / 2], [0, 0, 1]])
        A = A @ zoom
    size = (spec.width_px, spec.height_px)
    return cv2.warpAffine(image, A[:2], size, flags=cv2.INTER_LINEAR)


def warp_depth(depth_m: Array, A: Array, spec: InputSpec) -> Array:
    """
    Warp a depth map to the canvas; every pixel copies its nearest source pixel.

    Interpolation would create surfaces between an object and its background, and between known
    pixels and 0.

    :param depth_m: (H, W) float32, 0 where unknown.
    :param A: (3, 3) transform from image pixels to canvas pixels.
    :param spec: the canvas.
    :return: (height_px, width_px) float32, 0 where unknown or outside.
    """
    size = (spec.width_px, spec.height_px)
    return cv2.warpAffine(depth_m, A[:2], size, flags=cv2.INTER_NEAREST)


def preprocess_given_depth(given_m: Array, image: Array, spec: InputSpec) -> Array:
    """
    Fit the depth that a privileged network is given into its canvas, as its image.

    :param given_m: (H, W) float32 metres in pixels of the image, 0 where nothing is given.
    :param image: (H, W, ...) the image.
    :param spec: the network's input.
    :return: (height_px, width_px) float32; metres stay true metres.
    :raises ValueError: for a map of another size than the image or another type.
    """
    if given_m.shape != image.shape[:2] or given_m.dtype != np.float32:
        raise ValueError(
            f'given depth: expected {image.shape[:2]} float32, as the image, got {given_m.shape}'
            f' {given_m.dtype}'
        )
    return warp_depth(given_m, letterbox_affine(image.shape[1], image.shape[0], spec), spec)


def preprocess_image(image: Array, P: Array, spec: InputSpec) -> tuple[Array, Array]:
    """
    Fit an image into the network's canvas, and update its projection.

    :param image: (H, W, 3) uint8 RGB, rectified; for a network with depth input (H, W) float32
        metres, 0 where unknown.
    :param P: (3, 4) projection of that image.
    :param spec: the network's input.
    :return: canvas (height_px, width_px, 3) uint8, or (height_px, width_px) float32 of depth, and
        the canvas's (3, 4) P.
    :raises ValueError: for an image whose shape or dtype does not match the network's input.
    """
    if spec.depth is not None:
        if image.ndim != 2 or image.dtype != np.float32:
            raise ValueError(
                'this network is a teacher with depth input: expected an (H, W) float32 map, got'
                f' {image.shape} {image.dtype}'
            )
        A = letterbox_affine(image.shape[1], image.shape[0], spec)
        return warp_depth(image, A, spec), warp_P(P, A)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f'expected an (H, W, 3) uint8 image, got {image.shape} {image.dtype}')
    A = letterbox_affine(image.shape[1], image.shape[0], spec)
    return warp_image(image, A, spec), warp_P(P, A)
