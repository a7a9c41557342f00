"""
Augmentation of samples of several cameras: of each picture, and of the ground.

A picture's affine A changes its projection to A P and nothing else: a mirrored picture has a
negative focal length, since the vehicle cannot be mirrored for one camera alone. The ground's
transform G (flips, then rotation and scale) maps objects and the poses of all cameras alike,
vehicle_T_cam to G vehicle_T_cam. So a point's pixel and its cell of the ground always belong to
the same ray, and depth, which is measured in a camera's frame, stays in true metres.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from stl_core.data.augmentation import AugmentationParams, augmentation_affine
from stl_core.data.colour_jitter import change_colour
from stl_core.geometry import warp_box, warp_P, wrap_angle
from stl_core.preprocessing import InputSpec, warp_depth, warp_image
from stl_core.types import Array, Objects3D
from stl_core.vehicle_types import VehicleObjects


@dataclass(frozen=True)
class GroundConfig:
    """
    Augmentation of samples of several cameras (YAML key `ground` of `train`).

    :param rotate_deg: largest rotation of the ground, either way, degrees; uniform.
    :param scale: the scale of the ground is uniform in 1 -+ scale.
    :param flip_x: probability of a flip along x (forward and backward).
    :param flip_y: probability of a flip along y (left and right).
    :param drop_camera: probability that a camera's picture is left out, as if it had failed; one
        always stays.
    """

    rotate_deg: float = 0.0
    scale: float = 0.0
    flip_x: float = 0.0
    flip_y: float = 0.0
    drop_camera: float = 0.0

    def __post_init__(self) -> None:
        """Raise ValueError for probabilities outside 0 to 1 and strengths out of range."""
        for name in ('flip_x', 'flip_y', 'drop_camera'):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f'{name}: expected 0 to 1, got {getattr(self, name)}')
        if not 0 <= self.rotate_deg <= 180:
            raise ValueError(f'rotate_deg: expected 0 to 180 degrees, got {self.rotate_deg}')
        if not 0 <= self.scale < 1:
            raise ValueError(f'scale: expected at least 0, less than 1, got {self.scale}')


@dataclass(frozen=True)
class GroundParams:
    """
    The drawn transform of the ground: flips, then a rotation about z, then a scale.

    :param angle: rotation, radians.
    :param scale: factor of all lengths.
    :param flip_x: whether x changes its sign.
    :param flip_y: whether y changes its sign.
    """

    angle: float = 0.0
    scale: float = 1.0
    flip_x: bool = False
    flip_y: bool = False

    @property
    def matrix(self) -> Array:
        """Return G (4, 4)."""
        cos, sin = np.cos(self.angle), np.sin(self.angle)
        signs = np.diag([-1.0 if self.flip_x else 1.0, -1.0 if self.flip_y else 1.0, 1.0])
        G = np.eye(4)
        G[:3, :3] = self.scale * np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]]) @ signs
        return G


def draw_ground(config: GroundConfig, rng: np.random.Generator) -> GroundParams:
    """Draw the transform of the ground; every strength has the same random numbers."""
    angle, scale, flip_x, flip_y = rng.random(4)
    return GroundParams(
        angle=float(np.deg2rad(config.rotate_deg) * (2 * angle - 1)),
        scale=float(1 + config.scale * (2 * scale - 1)),
        flip_x=bool(flip_x < config.flip_x),
        flip_y=bool(flip_y < config.flip_y),
    )


def draw_present(config: GroundConfig, views: int, rng: np.random.Generator) -> Array:
    """Draw which of the cameras stay: (V,) bool, at least one of them."""
    draws = rng.random(views)
    kept = draws >= config.drop_camera
    kept[int(draws.argmax())] = True
    return kept


def transform_objects(objects: VehicleObjects, params: GroundParams) -> VehicleObjects:
    """Return objects on the transformed ground; sizes and velocities are scaled, too."""
    G = params.matrix
    yaw = np.pi - objects.yaw if params.flip_x else objects.yaw
    yaw = -yaw if params.flip_y else yaw
    return replace(
        objects,
        center_m=objects.center_m @ G[:3, :3].T,
        size_hwl_m=objects.size_hwl_m * params.scale,
        yaw=wrap_angle(yaw + params.angle),
        velocity_mps=objects.velocity_mps @ G[:2, :2].T,
    )


@dataclass(frozen=True)
class ViewCanvas:
    """
    A picture on the network's canvas.

    :param image: (H, W, 3) uint8 RGB.
    :param P: (3, 4) projection of the canvas; its focal length along u is negative if mirrored.
    :param objects: objects in the camera frame, box_px on the canvas, clipped to the picture.
    :param depth_m: (H, W) float32 z, 0 where unknown; None if unused.
    """

    image: Array
    P: Array
    objects: Objects3D
    depth_m: Array | None = None


def augment_view(view: ViewCanvas, spec: InputSpec, params: AugmentationParams) -> ViewCanvas:
    """
    Warp a picture onto the canvas, and with it its projection, 2D boxes and depth.

    :param view: the picture, its P, objects with box_px in its pixels, and depth.
    :param spec: the canvas.
    :param params: the drawn parameters; windows are for single images alone.
    :return: the canvas.
    """
    height, width = view.image.shape[:2]
    A = augmentation_affine(width, height, view.P, spec, params)
    last = np.array([spec.width_px, spec.height_px] * 2) - 1.0
    picture = warp_box(np.array([[0.0, 0.0, width - 1.0, height - 1.0]]), A)[0]
    low, high = np.clip(picture, 0.0, last).reshape(2, 2)
    box_px = np.clip(warp_box(view.objects.box_px, A), np.tile(low, 2), np.tile(high, 2))
    return ViewCanvas(
        image=change_colour(warp_image(view.image, A, spec), params.colour),
        P=warp_P(view.P, A),
        objects=replace(view.objects, box_px=box_px),
        depth_m=None if view.depth_m is None else warp_depth(view.depth_m, A, spec),
    )
