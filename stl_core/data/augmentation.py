"""
Training augmentation: flip, zoom, shift and colour jitter, applied while warping to the canvas.

draw_augmentation draws the random numbers into AugmentationParams; apply_augmentation is a pure
function of them. One affine A moves pixels, depth and 2D boxes, the projection becomes A @ P, and
a mirrored image mirrors the 3D scene (x -> -x), so a projected 3D box always lies on its pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np

from stl_core.geometry import flip_objects, warp_box, warp_P
from stl_core.preprocessing import InputSpec, letterbox_affine, warp_depth, warp_image
from stl_core.types import Array, Objects3D

_MIRRORED_WORLD = np.diag([-1.0, 1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Config:
    """
    Augmentation probabilities and strengths.

    :param flip: probability of a horizontal flip.
    :param crop: probability of a zoom and shift. A detector infers depth from size in pixels, so
        one that does not normalise depth by focal length learns ambiguous depths from this.
    :param scale: standard deviation of the zoom factor, whose mean is 1; clipped to 1 -+ scale.
    :param shift: standard deviation of the shift as a fraction of the canvas; clipped to twice
        this.
    :param colour: brightness, contrast and saturation factors are uniform in 1 -+ colour; 0
        disables.
    """

    flip: float = 0.5
    crop: float = 0.0
    scale: float = 0.4
    shift: float = 0.1
    colour: float = 0.0

    def __post_init__(self) -> None:
        """Raise ValueError for probabilities outside 0 to 1 and strengths out of range."""
        for name in ('flip', 'crop', 'colour'):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f'{name}: expected 0 to 1, got {getattr(self, name)}')
        if not 0 <= self.scale < 1:
            raise ValueError(f'scale: expected at least 0, less than 1, got {self.scale}')
        if not self.shift >= 0:
            raise ValueError(f'shift: expected at least 0, got {self.shift}')


@dataclass(frozen=True)
class AugmentationParams:
    """
    The random parameters of one augmented sample.

    :param mirror: whether to flip left to right.
    :param zoom: scale factor about the principal point, like a longer or shorter focal length.
    :param shift: shift as a fraction of the canvas's width and height.
    :param colour: factors of brightness, contrast and saturation.
    """

    mirror: bool = False
    zoom: float = 1.0
    shift: tuple[float, float] = (0.0, 0.0)
    colour: tuple[float, float, float] = (1.0, 1.0, 1.0)


@dataclass(frozen=True)
class AugmentationSample:
    """
    A frame before augmentation, or its canvas after.

    :param image: (H, W, 3) uint8 RGB.
    :param P: (3, 4) projection matrix of that image.
    :param objects: objects in the camera frame, box_px in pixels of that image.
    :param depth_m: (H, W) float32 z of each pixel, 0 where unknown; None if unused.
    :param points_m: (N, 3) LiDAR points, camera frame; None if unused.
    """

    image: Array
    P: Array
    objects: Objects3D
    depth_m: Array | None = None
    points_m: Array | None = None


def draw_augmentation(config: Config, rng: np.random.Generator) -> AugmentationParams:
    """
    Draw the augmentation parameters of one sample.

    :param config: probabilities and strengths.
    :param rng: the only source of randomness.
    :return: the drawn parameters.
    """
    mirror = bool(rng.random() < config.flip)
    zoom, shift = 1.0, (0.0, 0.0)
    if rng.random() < config.crop:
        zoom = float(np.clip(rng.normal(1, config.scale), 1 - config.scale, 1 + config.scale))
        limit = 2 * config.shift
        across, down = np.clip(rng.normal(0, config.shift, 2), -limit, limit).tolist()
        shift = (across, down)
    brightness, contrast, saturation = rng.uniform(1 - config.colour, 1 + config.colour, 3)
    return AugmentationParams(mirror, zoom, shift, (brightness, contrast, saturation))


def augmentation_affine(
    width_px: int, height_px: int, P: Array, spec: InputSpec, params: AugmentationParams
) -> Array:
    """
    Compose letterbox, mirror, zoom and shift into one affine transform.

    Zooming keeps the principal point fixed, so rows below the horizon keep their meaning and the
    zoomed image equals one taken with another focal length.

    :param width_px: image width.
    :param height_px: image height.
    :param P: (3, 4) projection matrix of that image.
    :param spec: the canvas.
    :param params: the drawn parameters.
    :return: (3, 3) transform from image pixels to canvas pixels; A[0, 0] < 0 where mirrored.
    """
    A = letterbox_affine(width_px, height_px, spec)
    size = np.array([spec.width_px, spec.height_px])
    if params.mirror:
        A = np.array([[-1.0, 0.0, size[0] - 1.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]) @ A
    # a principal point outside the image (of a crop, for example) would zoom the image away
    centre = np.clip((A @ P[:, 2])[:2] / P[2, 2], 0, size - 1)
    zoom = np.diag([params.zoom, params.zoom, 1.0])
    zoom[:2, 2] = (1 - params.zoom) * centre + np.array(params.shift) * size
    return zoom @ A


def apply_augmentation(
    sample: AugmentationSample, spec: InputSpec, params: AugmentationParams
) -> AugmentationSample:
    """
    Warp a frame onto the canvas with the drawn augmentation.

    2D boxes are clipped to the visible part of the image, as labels are clipped to the image.
    Objects outside the canvas are kept, with an empty box: the detector decides which objects it
    can use.

    :param sample: a frame.
    :param spec: the canvas.
    :param params: the drawn parameters.
    :return: the canvas, its P, and objects, depth and points consistent with it.
    """
    height, width = sample.image.shape[:2]
    A = augmentation_affine(width, height, sample.P, spec, params)
    P, objects, points_m = warp_P(sample.P, A), sample.objects, sample.points_m
    if params.mirror:
        P = P @ _MIRRORED_WORLD
        objects = flip_objects(objects, width)
        points_m = points_m * [-1.0, 1.0, 1.0] if points_m is not None else None
    image = warp_image(sample.image, A, spec)
    if params.colour != (1.0, 1.0, 1.0):
        image = jitter_colour(image, *params.colour)
    image_area = _image_area_on_canvas(A, width, height, spec)
    box_px = np.clip(
        warp_box(sample.objects.box_px, A), image_area[[0, 1, 0, 1]], image_area[[2, 3, 2, 3]]
    )
    return AugmentationSample(
        image=image,
        P=P,
        objects=replace(objects, box_px=box_px),
        depth_m=warp_depth(sample.depth_m, A, spec) if sample.depth_m is not None else None,
        points_m=points_m,
    )


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


def _image_area_on_canvas(A: Array, width: int, height: int, spec: InputSpec) -> Array:
    """Return the canvas area that the image covers: (4,) x0 y0 x1 y1."""
    whole = warp_box(np.array([[0.0, 0.0, width - 1.0, height - 1.0]]), A)[0]
    last = np.array([spec.width_px, spec.height_px, spec.width_px, spec.height_px]) - 1.0
    return np.clip(whole, 0.0, last)
