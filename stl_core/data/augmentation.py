"""
Vary a frame while it is put on the network's canvas: one affine moves everything.

Chance is drawn first, into a Variation; what follows is a pure function of it. Pixels, depth and
2D boxes go through A, the projection through A @ P, and a mirrored picture mirrors the world
(x -> -x), so projecting a 3D box always meets its pixels.
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
    How much samples vary.

    :param flip: probability of a mirrored sample.
    :param crop: probability of a zoomed and shifted one. Depth is told from size, so a detector
        that does not normalise depth by focal length is taught ambiguous depths by this.
    :param scale: zoom is 1 plus a normal of this deviation, within 1 -+ scale.
    :param shift: shift is a normal of this deviation, within twice it, as share of the canvas.
    :param colour: strength of random brightness, contrast and saturation, 0 for none.
    """

    flip: float = 0.5
    crop: float = 0.0
    scale: float = 0.4
    shift: float = 0.1
    colour: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what is no probability, and strengths that would turn pictures inside out."""
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
    One draw.

    :param mirror: left to right.
    :param zoom: about the principal point, as a longer or a shorter lens would.
    :param shift: share of the canvas's width and height.
    :param colour: factors of brightness, contrast and saturation.
    """

    mirror: bool = False
    zoom: float = 1.0
    shift: tuple[float, float] = (0.0, 0.0)
    colour: tuple[float, float, float] = (1.0, 1.0, 1.0)


@dataclass(frozen=True)
class AugmentationSample:
    """
    One frame, or one canvas.

    :param image: (H, W, 3) uint8 RGB.
    :param P: (3, 4) of that image.
    :param objects: camera frame, box_px in that image.
    :param depth_m: (H, W) float32 z of each pixel, 0 where unknown; None where not wanted.
    :param points_m: (N, 3) LiDAR points, camera frame; None where not wanted.
    """

    image: Array
    P: Array
    objects: Objects3D
    depth_m: Array | None = None
    points_m: Array | None = None


def draw_augmentation(config: Config, rng: np.random.Generator) -> AugmentationParams:
    """
    Draw a variation.

    :param config: the strengths.
    :param rng: the only source of chance.
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
    Compose fit, mirror, zoom and shift.

    The principal point stays under a zoom: then rows under the horizon keep their meaning, and a
    zoomed picture is just what another lens would have taken.

    :param width_px: image width.
    :param height_px: image height.
    :param P: (3, 4) of that image.
    :param spec: the canvas.
    :param params: what was drawn.
    :return: (3, 3) transform from image pixels to canvas pixels; A[0, 0] < 0 where mirrored.
    """
    A = letterbox_affine(width_px, height_px, spec)
    size = np.array([spec.width_px, spec.height_px])
    if params.mirror:
        A = np.array([[-1.0, 0.0, size[0] - 1.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]) @ A
    # a principal point beside the picture, as of a cut-out, would zoom the picture away
    centre = np.clip((A @ P[:, 2])[:2] / P[2, 2], 0, size - 1)
    zoom = np.diag([params.zoom, params.zoom, 1.0])
    zoom[:2, 2] = (1 - params.zoom) * centre + np.array(params.shift) * size
    return zoom @ A


def apply_augmentation(
    sample: AugmentationSample, spec: InputSpec, params: AugmentationParams
) -> AugmentationSample:
    """
    Put a frame on the canvas, varied.

    2D boxes are cut at the edge of what the canvas shows of the picture, as labels are cut at
    the edge of a picture. Objects that the canvas does not show stay, with an empty box: only
    the detector knows what it can use.

    :param sample: a frame.
    :param spec: the canvas.
    :param params: what was drawn.
    :return: the canvas, its P, and objects, depth and points that agree with it.
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
    shown = _image_area_on_canvas(A, width, height, spec)
    box_px = np.clip(warp_box(sample.objects.box_px, A), shown[[0, 1, 0, 1]], shown[[2, 3, 2, 3]])
    return AugmentationSample(
        image=image,
        P=P,
        objects=replace(objects, box_px=box_px),
        depth_m=warp_depth(sample.depth_m, A, spec) if sample.depth_m is not None else None,
        points_m=points_m,
    )


def jitter_colour(image: Array, brightness: float, contrast: float, saturation: float) -> Array:
    """
    Scale brightness, contrast (about the mean grey) and saturation.

    :param image: (H, W, 3) uint8 RGB.
    :return: (H, W, 3) uint8 RGB.
    """
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    image = cv2.addWeighted(image, saturation, grey, 1 - saturation, 0)
    level = (1 - contrast) * float(grey.mean())
    # convertScaleAbs would mirror what is below 0
    return cv2.addWeighted(image, contrast * brightness, image, 0.0, level * brightness)


def _image_area_on_canvas(A: Array, width: int, height: int, spec: InputSpec) -> Array:
    """(4,) the part of the canvas on which the picture lies."""
    whole = warp_box(np.array([[0.0, 0.0, width - 1.0, height - 1.0]]), A)[0]
    last = np.array([spec.width_px, spec.height_px, spec.width_px, spec.height_px]) - 1.0
    return np.clip(whole, 0.0, last)
