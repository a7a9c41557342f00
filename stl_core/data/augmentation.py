"""
Training augmentation: flip, zoom, shift, window and colours, applied while warping to the canvas.

draw_augmentation draws the random numbers into AugmentationParams; apply_augmentation is a pure
function of them. One affine A moves pixels, depth and 2D boxes, the projection becomes A @ P, and
a mirrored image mirrors the 3D scene (x -> -x), so a projected 3D box always lies on its pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from stl_core.data.colour_jitter import ColourParams, change_colour
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
    :param shift_down: standard deviation of the vertical shift as a fraction of the canvas; None
        takes that of `shift`. A vertical shift moves the horizon, a cue of depth.
    :param shift_px: largest shift across and down in canvas pixels, uniform; replaces `shift`.
    :param inverse_zoom: draw the size of the region that fills the canvas instead of the zoom
        factor, which becomes its inverse, as in MonoDLE's public code.
    :param window: probability of keeping only a random window of the image, black elsewhere, as in
        MonoCon's public code; where no object would remain, the image stays whole.
    :param window_px: width and height of the window in image pixels.
    :param hue: largest rotation of the hue, degrees; applied to every second sample.
    :param swap: probability of a random order of the colour channels.
    :param given_drop: probability that an object's depth is not given to a network with
        `input.given_depth`. This option and the next two are for the training of a privileged
        teacher, see given_depth.corrupt_objects; other networks do not see given depth.
    :param given_depth_jitter: relative deviation of an object's given depth.
    :param given_edge_jitter: deviation of each edge of the box with given depth, as a fraction of
        its width or height.
    :param wrong_depth: probability that an object's depth is wrong, displaced or thinned, in the
        depth maps of the run and in given depth, the same in every epoch, see depth_faults. It is
        an experiment on teachers that err; evaluation uses the depth as it is.
    """

    flip: float = 0.5
    crop: float = 0.0
    scale: float = 0.4
    shift: float = 0.1
    colour: float = 0.0
    shift_down: float | None = None
    shift_px: tuple[float, float] | None = None
    inverse_zoom: bool | None = None
    window: float | None = None
    window_px: tuple[int, int] | None = None
    hue: float | None = None
    swap: float | None = None
    given_drop: float | None = None
    given_depth_jitter: float | None = None
    given_edge_jitter: float | None = None
    wrong_depth: float | None = None

    def __post_init__(self) -> None:
        """Raise ValueError for probabilities outside 0 to 1 and strengths out of range."""
        for name in 'flip crop colour window swap given_drop wrong_depth'.split():
            if not 0 <= (getattr(self, name) or 0) <= 1:
                raise ValueError(f'{name}: expected 0 to 1, got {getattr(self, name)}')
        if not 0 <= self.scale < 1:
            raise ValueError(f'scale: expected at least 0, less than 1, got {self.scale}')
        for name, value in (
            ('shift', self.shift),
            ('shift_down', self.shift_down or 0),
            ('shift_px', min(self.shift_px or (0,))),
            ('given_depth_jitter', self.given_depth_jitter or 0),
            ('given_edge_jitter', self.given_edge_jitter or 0),
        ):
            if not value >= 0:
                raise ValueError(f'{name}: expected at least 0, got {value}')
        if not 0 <= (self.hue or 0) <= 180:
            raise ValueError(f'hue: expected 0 to 180 degrees, got {self.hue}')
        if self.window and not min(self.window_px or (0,)) > 0:
            raise ValueError(f'window_px: expected at least 1 pixel each, got {self.window_px}')


@dataclass(frozen=True)
class AugmentationParams:
    """
    The random parameters of one augmented sample.

    :param mirror: whether to flip left to right.
    :param zoom: scale factor about the principal point, like a longer or shorter focal length.
    :param shift: shift as a fraction of the canvas's width and height.
    :param shift_px: further shift in canvas pixels.
    :param colour: changes of colour.
    :param window: position of the window, each 0 (left, top) to 1 (right, bottom), and its width
        and height in image pixels; None keeps the whole image.
    """

    mirror: bool = False
    zoom: float = 1.0
    shift: tuple[float, float] = (0.0, 0.0)
    shift_px: tuple[float, float] = (0.0, 0.0)
    colour: ColourParams = field(default_factory=ColourParams)
    window: tuple[float, float, int, int] | None = None


@dataclass(frozen=True)
class AugmentationSample:
    """
    A frame before augmentation, or its canvas after.

    :param image: (H, W, 3) uint8 RGB.
    :param P: (3, 4) projection matrix of that image.
    :param objects: objects in the camera frame, box_px in pixels of that image.
    :param depth_m: (H, W) float32 z of each pixel, 0 where unknown; None if unused.
    :param points_m: (N, 3) LiDAR points, camera frame; None if unused.
    :param given_factor: (N,) factor of the depth that is given of each object, 0 for objects whose
        depth is not given; None if it is right.
    """

    image: Array
    P: Array
    objects: Objects3D
    depth_m: Array | None = None
    points_m: Array | None = None
    given_factor: Array | None = None


def draw_augmentation(config: Config, rng: np.random.Generator) -> AugmentationParams:
    """
    Draw the augmentation parameters of one sample.

    :param config: probabilities and strengths.
    :param rng: the only source of randomness.
    :return: the drawn parameters.
    """
    mirror = bool(rng.random() < config.flip)
    zoom, shift, shift_px = 1.0, (0.0, 0.0), (0.0, 0.0)
    if rng.random() < config.crop:
        zoom = float(np.clip(rng.normal(1, config.scale), 1 - config.scale, 1 + config.scale))
        zoom = 1 / zoom if config.inverse_zoom else zoom
        if config.shift_px is not None:
            across_px, down_px = rng.uniform(-1, 1, 2) * config.shift_px
            shift_px = (float(across_px), float(down_px))
        else:
            down = config.shift if config.shift_down is None else config.shift_down
            deviation = np.array([config.shift, down])
            across, down = (deviation * np.clip(rng.normal(0, 1, 2), -2, 2)).tolist()
            shift = (across, down)
    factors = rng.uniform(1 - config.colour, 1 + config.colour, 3)
    # drawn last, and only if enabled: other samples stay the same
    hue_deg, channels, window = 0.0, (0, 1, 2), None
    if config.hue and rng.random() < 0.5:
        hue_deg = float(rng.uniform(-config.hue, config.hue))
    if config.swap and rng.random() < config.swap:
        first, second, third = rng.permutation(3).tolist()
        channels = (first, second, third)
    if config.window and config.window_px and rng.random() < config.window:
        across, down = rng.random(2).tolist()
        window = (across, down, *config.window_px)
    colour = ColourParams((factors[0], factors[1], factors[2]), hue_deg, channels)
    return AugmentationParams(mirror, zoom, shift, shift_px, colour, window)


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
    zoom[:2, 2] = (1 - params.zoom) * centre + np.array(params.shift) * size + params.shift_px
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
    if params.window is not None:
        sample = cut_window(sample, params.window)
    height, width = sample.image.shape[:2]
    A = augmentation_affine(width, height, sample.P, spec, params)
    P, objects, points_m = warp_P(sample.P, A), sample.objects, sample.points_m
    if params.mirror:
        P = P @ _MIRRORED_WORLD
        objects = flip_objects(objects, width)
        points_m = points_m * [-1.0, 1.0, 1.0] if points_m is not None else None
    image_area = _image_area_on_canvas(A, width, height, spec)
    box_px = np.clip(
        warp_box(sample.objects.box_px, A), image_area[[0, 1, 0, 1]], image_area[[2, 3, 2, 3]]
    )
    return AugmentationSample(
        image=change_colour(warp_image(sample.image, A, spec), params.colour),
        P=P,
        objects=replace(objects, box_px=box_px),
        depth_m=warp_depth(sample.depth_m, A, spec) if sample.depth_m is not None else None,
        points_m=points_m,
        given_factor=sample.given_factor,
    )


def cut_window(
    sample: AugmentationSample, window: tuple[float, float, int, int]
) -> AugmentationSample:
    """
    Keep a window of a frame: black and without depth elsewhere; size and P stay the same.

    Objects of which less than a fifth of the 2D box lies in the window are removed, the boxes of
    the others are clipped to it. A frame whose objects would all be removed stays whole.

    :param sample: a frame.
    :param window: see AugmentationParams.
    :return: a frame of the same size; LiDAR points stay.
    """
    size = np.array(sample.image.shape[1::-1])
    window_px = np.minimum(window[2:], size)
    left, top = np.round((size - window_px) * window[:2]).astype(int)
    right, bottom = np.array([left, top]) + window_px
    box_px = sample.objects.box_px
    # pixel 0 spans -0.5 to 0.5, so the window does not show left - 1 and right
    clipped = np.clip(box_px, [left, top, left, top], np.tile([right - 1, bottom - 1], 2))
    shown = np.prod(clipped[:, 2:] - clipped[:, :2], axis=1)
    keep = (shown > 0) & (shown >= 0.2 * np.prod(box_px[:, 2:] - box_px[:, :2], axis=1))
    if len(keep) and not keep.any():
        return sample

    def hide(values: Array) -> Array:
        kept = np.zeros_like(values)
        kept[top:bottom, left:right] = values[top:bottom, left:right]
        return kept

    return replace(
        sample,
        image=hide(sample.image),
        objects=replace(sample.objects, box_px=clipped)[keep],
        depth_m=hide(sample.depth_m) if sample.depth_m is not None else None,
        given_factor=sample.given_factor[keep] if sample.given_factor is not None else None,
    )


def _image_area_on_canvas(A: Array, width: int, height: int, spec: InputSpec) -> Array:
    """Return the canvas area that the image covers: (4,) x0 y0 x1 y1."""
    whole = warp_box(np.array([[0.0, 0.0, width - 1.0, height - 1.0]]), A)[0]
    last = np.array([spec.width_px, spec.height_px, spec.width_px, spec.height_px]) - 1.0
    return np.clip(whole, 0.0, last)
