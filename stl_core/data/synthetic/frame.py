"""Make one labelled synthetic frame from (seed, frame number)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch

from stl_core.data.synthetic.rendering.renderer import render_image
from stl_core.data.synthetic.scene.world import World, make_world
from stl_core.data.synthetic.sensors.camera import CameraModel, camera_rays
from stl_core.data.synthetic.sensors.image_sensor import draw_sensor_settings, simulate_sensor
from stl_core.data.synthetic.sensors.labels import Annotations, annotate
from stl_core.data.synthetic.sensors.lidar import Lidar, LidarScan, simulate_lidar
from stl_core.data.synthetic.sensors.ray_caster import Hits, cast_rays
from stl_core.types import Array, Camera

#: The random streams of a (seed, frame): world, camera, image noise, LiDAR.
WORLD_STREAM, CAMERA_STREAM, NOISE_STREAM, LIDAR_STREAM = range(4)


@dataclass(frozen=True)
class SyntheticFrame:
    """
    Image, labels, depth and LiDAR scan of one synthetic frame.

    :param image: (H, W, 3) uint8 RGB.
    :param camera: projection matrix and image size.
    :param annotations: labels and the measurements behind them.
    :param hits: first hits of the camera's rays.
    :param solid_actor_id: (S,) number of the road user that each solid belongs to, -1 for none.
    :param scan: the LiDAR scan; None for a frame without one.
    """

    image: Array
    camera: Camera
    annotations: Annotations
    hits: Hits
    solid_actor_id: Array
    scan: LidarScan | None

    @cached_property
    def depth_m(self) -> Array:
        """Dense depth: z in the camera frame, (H, W) float32, 0 for rays without a hit."""
        inverse = self.hits.inverse_distance
        ahead = -float(np.linalg.solve(self.camera.P[:, :3], self.camera.P[:, 3])[2])
        return np.where(inverse > 0, 1 / np.maximum(inverse, 1e-6) + ahead, 0).astype(np.float32)

    @cached_property
    def instance_mask(self) -> Array:
        """Instance mask: number of the road user at each pixel, (H, W) int32, -1 for none."""
        return np.append(self.solid_actor_id, -1)[self.hits.solid].astype(np.int32)


def random_stream(seed: int, number: int, purpose: int) -> np.random.Generator:
    """Return the random generator of one stream (see WORLD_STREAM) of one frame."""
    return np.random.default_rng([seed, number, purpose])


def make_frame(
    seed: int,
    number: int,
    model: CameraModel,
    lidar: Lidar | None = None,
    device: str | torch.device = 'cpu',
) -> SyntheticFrame:
    """
    Make frame `number` of the data set `seed`.

    The result depends on (seed, number) and the sensors only, not on the order or the process.

    :param seed: seed of the data set.
    :param number: frame number.
    :param model: the camera model; one camera is drawn from it.
    :param lidar: the LiDAR, None for no scan.
    :param device: device of the shading; rays are cast on the CPU.
    :return: the frame.
    """
    world = make_world(random_stream(seed, number, WORLD_STREAM))
    rng = random_stream(seed, number, CAMERA_STREAM)
    camera = model.draw(rng)
    mount_m = model.mount_m + rng.normal(0, model.mount_jitter_m)
    pitch, roll = rng.normal(0, np.radians([model.pitch_jitter_deg, model.roll_jitter_deg]))
    world = tilt_ground(
        world, float(np.clip(pitch, -0.02, 0.02)), float(np.clip(roll, -0.015, 0.015))
    )
    return render_frame(world, camera, model, mount_m, (seed, number), lidar, torch.device(device))


def tilt_ground(world: World, pitch: float, roll: float) -> World:
    """
    Return the world with its ground tilted against the camera, so boxes keep yaw rotations only.

    This is a shear: a point moves vertically by pitch * ahead + roll * aside of the camera.
    """
    if not pitch and not roll:
        return world
    ahead = np.array([np.sin(world.heading), 0.0, np.cos(world.heading)])
    aside = np.array([np.cos(world.heading), 0.0, -np.sin(world.heading)])
    gradient = pitch * ahead + roll * aside
    static = world.scenery
    offset = float(gradient @ world.ego_m)
    # y' = y + g.p - offset: the plane n.p <= d becomes (n - n_y g).p' <= d - n_y offset
    planes = static.planes - static.planes[..., 1:2] * np.append(gradient, offset)
    length = np.sqrt((planes[..., :3] ** 2).sum(-1, keepdims=True))
    planes /= np.where(length > 0, length, 1.0)

    def shear(points: Array) -> Array:
        return points + (points @ gradient - offset)[..., None] * np.array([0.0, 1.0, 0.0])

    scenery = replace(
        static,
        planes=planes,
        bounds=shear(static.bounds),
        bottom=shear(static.bottom),
        spheroid=np.concatenate([shear(static.spheroid[:, :3]), static.spheroid[:, 3:]], 1),
    )
    bottoms = shear(np.array([actor.pose.bottom_m for actor in world.actors]).reshape(-1, 3))
    actors = [
        replace(actor, pose=replace(actor.pose, bottom_m=bottom))
        for actor, bottom in zip(world.actors, bottoms, strict=True)
    ]
    return replace(world, scenery=scenery, actors=actors)


@torch.inference_mode()
def render_frame(
    world: World,
    camera: Camera,
    model: CameraModel,
    mount_m: float,
    noise_key: tuple[int, int],
    lidar: Lidar | None,
    device: torch.device,
    exposure_key: tuple[int, int] | None = None,
) -> SyntheticFrame:
    """
    Render one image, and simulate one LiDAR scan, of a world.

    :param world: the world; its ego_m and heading give the pose of the car.
    :param camera: the camera of this frame.
    :param model: its camera model: focal length and heading in the rig.
    :param mount_m: height of the camera over the road.
    :param noise_key: seed and frame of the noise streams.
    :param lidar: the LiDAR, None for no scan.
    :param device: device of the shading; rays are cast on the CPU.
    :param exposure_key: seed and frame of exposure and lens, constant in a drive; None takes
        noise_key.
    :return: the frame.
    """
    origin = world.ego_m - [0.0, mount_m, 0.0]
    solids = world.solids().in_rig_frame(origin, world.heading)
    rays, camera_R_rig = camera_rays(camera, model.yaw_deg)
    num_actors = len(world.actors)
    hits = cast_rays(rays, solids, num_actors)
    settings = draw_sensor_settings(random_stream(*(exposure_key or noise_key), CAMERA_STREAM))
    linear_rgb = render_image(replace(world, ego_m=origin), solids, rays, hits, device)
    image = simulate_sensor(linear_rgb, settings, random_stream(*noise_key, NOISE_STREAM))
    annotations = annotate_world(world, origin, camera, model, camera_R_rig, hits)
    scan = (
        simulate_lidar(lidar, solids, num_actors, random_stream(*noise_key, LIDAR_STREAM))
        if lidar
        else None
    )
    return SyntheticFrame(image, camera, annotations, hits, solids.actor_id, scan)


def annotate_world(
    world: World,
    origin: Array,
    camera: Camera,
    model: CameraModel,
    camera_R_rig: Array,
    hits: Hits,
) -> Annotations:
    """Return the labels of a world's road users in a camera's frame."""
    poses = [actor.pose for actor in world.actors]
    heading = world.heading + np.radians(model.yaw_deg)
    cos, sin = np.cos(heading), np.sin(heading)
    camera_R_world = np.array([[cos, 0, -sin], [0, 1, 0], [sin, 0, cos]])
    size = np.array([pose.size_hwl_m for pose in poses]).reshape(-1, 3)
    bottom = np.array([pose.bottom_m for pose in poses]).reshape(-1, 3)
    center = bottom - np.array([0.0, 0.5, 0.0]) * size[:, :1]
    return annotate(
        np.array([actor.name for actor in world.actors], np.str_),
        (center - origin) @ camera_R_world.T,
        size,
        np.array([pose.yaw for pose in poses]) - heading,
        camera,
        hits,
        model.focal_px / 721.5,
    )
