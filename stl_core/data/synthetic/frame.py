"""One labelled frame of the synthetic world, from nothing but (seed, number)."""

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

#: What draws what: the streams of (seed, frame).
WORLD_STREAM, CAMERA_STREAM, NOISE_STREAM, LIDAR_STREAM = range(4)


@dataclass(frozen=True)
class SyntheticFrame:
    """
    Everything known of one picture.

    :param image: (H, W, 3) uint8 RGB.
    :param camera: P and size.
    :param annotations: labels, what was measured for them.
    :param hits: what the camera's rays have met.
    :param solid_actor_id: (S,) number of the road user that each solid belongs to, -1 for none.
    :param scan: the LiDAR's turn, None where none was asked for.
    """

    image: Array
    camera: Camera
    annotations: Annotations
    hits: Hits
    solid_actor_id: Array
    scan: LidarScan | None

    @cached_property
    def depth_m(self) -> Array:
        """Return z in the camera frame, (H, W) float32, 0 where nothing is met."""
        inverse = self.hits.inverse_distance
        ahead = -float(np.linalg.solve(self.camera.P[:, :3], self.camera.P[:, 3])[2])
        return np.where(inverse > 0, 1 / np.maximum(inverse, 1e-6) + ahead, 0).astype(np.float32)

    @cached_property
    def instance_mask(self) -> Array:
        """Return the number of the road user that each pixel shows, (H, W) int32, -1 for none."""
        return np.append(self.solid_actor_id, -1)[self.hits.solid].astype(np.int32)


def random_stream(seed: int, number: int, purpose: int) -> np.random.Generator:
    """Return the randomness of one part of one frame."""
    return np.random.default_rng([seed, number, purpose])


def make_frame(
    seed: int,
    number: int,
    model: CameraModel,
    lidar: Lidar | None = None,
    device: str | torch.device = 'cpu',
) -> SyntheticFrame:
    """
    Make frame `number` of the data set `seed`: the same whoever makes it, in whatever order.

    :param seed: the data set.
    :param number: the frame.
    :param model: the camera.
    :param lidar: the LiDAR, None for no scan.
    :param device: where light is computed; rays are cast on the processor.
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
    Tilt the camera against the ground by tilting the ground, so that boxes stay yaw-only.

    A shear: every point moves up or down only, by pitch * ahead + roll * aside from the eye.
    """
    if not pitch and not roll:
        return world
    ahead = np.array([np.sin(world.heading), 0.0, np.cos(world.heading)])
    aside = np.array([np.cos(world.heading), 0.0, -np.sin(world.heading)])
    gradient = pitch * ahead + roll * aside
    fixed = world.scenery
    lift = float(gradient @ world.ego_m)
    # y' = y + g.p - lift: the plane n.p <= d becomes (n - n_y g).p' <= d - n_y lift
    planes = fixed.planes - fixed.planes[..., 1:2] * np.append(gradient, lift)
    length = np.sqrt((planes[..., :3] ** 2).sum(-1, keepdims=True))
    planes /= np.where(length > 0, length, 1.0)

    def shifted(points: Array) -> Array:
        return points + (points @ gradient - lift)[..., None] * np.array([0.0, 1.0, 0.0])

    scenery = replace(
        fixed,
        planes=planes,
        bounds=shifted(fixed.bounds),
        bottom=shifted(fixed.bottom),
        spheroid=np.concatenate([shifted(fixed.spheroid[:, :3]), fixed.spheroid[:, 3:]], 1),
    )
    bottoms = shifted(np.array([t.pose.bottom_m for t in world.actors]).reshape(-1, 3))
    things = [
        replace(thing, pose=replace(thing.pose, bottom_m=bottom))
        for thing, bottom in zip(world.actors, bottoms, strict=True)
    ]
    return replace(world, scenery=scenery, actors=things)


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
    Take one picture, and one turn of the LiDAR, of a world.

    :param world: its eye_m and heading say where the car is.
    :param camera: the camera of this frame.
    :param model: its kind: size and heading in the rig.
    :param mount_m: height of the camera over the road.
    :param noise_key: seed and frame, for the noise.
    :param lidar: the LiDAR, None for no scan.
    :param device: where light is computed; rays are cast on the processor.
    :param exposure_key: seed and frame for exposure and lens, where a drive keeps them.
    """
    origin = world.ego_m - [0.0, mount_m, 0.0]
    solids = world.solids().in_rig_frame(origin, world.heading)
    rays, camera_R_rig = camera_rays(camera, model.yaw_deg)
    things = len(world.actors)
    hits = cast_rays(rays, solids, things)
    shot = draw_sensor_settings(random_stream(*(exposure_key or noise_key), CAMERA_STREAM))
    light = render_image(replace(world, ego_m=origin), solids, rays, hits, device)
    image = simulate_sensor(light, shot, random_stream(*noise_key, NOISE_STREAM))
    annotated = annotate_world(world, origin, camera, model, camera_R_rig, hits)
    turn = (
        simulate_lidar(lidar, solids, things, random_stream(*noise_key, LIDAR_STREAM))
        if lidar
        else None
    )
    return SyntheticFrame(image, camera, annotated, hits, solids.actor_id, turn)


def annotate_world(
    world: World,
    origin: Array,
    camera: Camera,
    model: CameraModel,
    camera_R_rig: Array,
    hits: Hits,
) -> Annotations:
    """Label a world's road users in a camera's frame."""
    places = [thing.pose for thing in world.actors]
    heading = world.heading + np.radians(model.yaw_deg)
    cos, sin = np.cos(heading), np.sin(heading)
    camera_R_world = np.array([[cos, 0, -sin], [0, 1, 0], [sin, 0, cos]])
    size = np.array([place.size_hwl_m for place in places]).reshape(-1, 3)
    bottom = np.array([place.bottom_m for place in places]).reshape(-1, 3)
    center = bottom - np.array([0.0, 0.5, 0.0]) * size[:, :1]
    return annotate(
        np.array([thing.name for thing in world.actors], np.str_),
        (center - origin) @ camera_R_world.T,
        size,
        np.array([place.yaw for place in places]) - heading,
        camera,
        hits,
        model.focal_px / 721.5,
    )
