"""One labelled frame of the synthetic world, from nothing but (seed, number)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch

from stl_core.data.synthetic.rendering.renderer import render
from stl_core.data.synthetic.scene.world import World, make_world
from stl_core.data.synthetic.sensors.camera import CameraModel, rays_of
from stl_core.data.synthetic.sensors.image_sensor import develop, draw_shot
from stl_core.data.synthetic.sensors.labels import Annotated, annotate
from stl_core.data.synthetic.sensors.lidar import Lidar, Scan, scan
from stl_core.data.synthetic.sensors.ray_caster import Hits, cast
from stl_core.types import Array, Camera

#: What draws what: the streams of (seed, frame).
WORLD, CAMERA, NOISE, LASER = range(4)


@dataclass(frozen=True)
class Frame:
    """
    Everything known of one picture.

    :param image: (H, W, 3) uint8 RGB.
    :param camera: P and size.
    :param annotated: labels, what was measured for them.
    :param hits: what the camera's rays have met.
    :param owner: (S,) number of the road user that each solid belongs to, -1 for none.
    :param scan: the LiDAR's turn, None where none was asked for.
    """

    image: Array
    camera: Camera
    annotated: Annotated
    hits: Hits
    owner: Array
    scan: Scan | None

    @cached_property
    def depth_m(self) -> Array:
        """Return z in the camera frame, (H, W) float32, 0 where nothing is met."""
        inverse = self.hits.inverse
        ahead = -float(np.linalg.solve(self.camera.P[:, :3], self.camera.P[:, 3])[2])
        return np.where(inverse > 0, 1 / np.maximum(inverse, 1e-6) + ahead, 0).astype(np.float32)

    @cached_property
    def mask(self) -> Array:
        """Return the number of the road user that each pixel shows, (H, W) int32, -1 for none."""
        return np.append(self.owner, -1)[self.hits.solid].astype(np.int32)


def stream(seed: int, number: int, what: int) -> np.random.Generator:
    """Return the randomness of one part of one frame."""
    return np.random.default_rng([seed, number, what])


def make_frame(
    seed: int,
    number: int,
    model: CameraModel,
    lidar: Lidar | None = None,
    device: str | torch.device = 'cpu',
) -> Frame:
    """
    Make frame `number` of the data set `seed`: the same whoever makes it, in whatever order.

    :param seed: the data set.
    :param number: the frame.
    :param model: the camera.
    :param lidar: the LiDAR, None for no scan.
    :param device: where light is computed; rays are cast on the processor.
    :return: the frame.
    """
    world = make_world(stream(seed, number, WORLD))
    rng = stream(seed, number, CAMERA)
    camera = model.draw(rng)
    mount_m = model.mount_m + rng.normal(0, model.mount_jitter_m)
    pitch, roll = rng.normal(0, np.radians([model.pitch_jitter_deg, model.roll_jitter_deg]))
    world = tilted(world, float(np.clip(pitch, -0.02, 0.02)), float(np.clip(roll, -0.015, 0.015)))
    return take(world, camera, model, mount_m, (seed, number), lidar, torch.device(device))


def tilted(world: World, pitch: float, roll: float) -> World:
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
    lift = float(gradient @ world.eye_m)
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
    bottoms = shifted(np.array([t.place.bottom_m for t in world.things]).reshape(-1, 3))
    things = [
        replace(thing, place=replace(thing.place, bottom_m=bottom))
        for thing, bottom in zip(world.things, bottoms, strict=True)
    ]
    return replace(world, scenery=scenery, things=things)


@torch.inference_mode()
def take(
    world: World,
    camera: Camera,
    model: CameraModel,
    mount_m: float,
    key: tuple[int, int],
    lidar: Lidar | None,
    device: torch.device,
    shot_key: tuple[int, int] | None = None,
) -> Frame:
    """
    Take one picture, and one turn of the LiDAR, of a world.

    :param world: its eye_m and heading say where the car is.
    :param camera: the camera of this frame.
    :param model: its kind: size and heading in the rig.
    :param mount_m: height of the camera over the road.
    :param key: seed and frame, for the noise.
    :param lidar: the LiDAR, None for no scan.
    :param device: where light is computed; rays are cast on the processor.
    :param shot_key: seed and frame for exposure and lens, where a drive keeps them.
    """
    origin = world.eye_m - [0.0, mount_m, 0.0]
    solids = world.solids().seen_from(origin, world.heading)
    rays, camera_R_rig = rays_of(camera, model.yaw_deg)
    things = len(world.things)
    hits = cast(rays, solids, things)
    shot = draw_shot(stream(*(shot_key or key), CAMERA))
    light = render(replace(world, eye_m=origin), solids, rays, hits, device)
    image = develop(light, shot, stream(*key, NOISE))
    annotated = annotate_world(world, origin, camera, model, camera_R_rig, hits)
    turn = scan(lidar, solids, things, stream(*key, LASER)) if lidar else None
    return Frame(image, camera, annotated, hits, solids.owner, turn)


def annotate_world(
    world: World,
    origin: Array,
    camera: Camera,
    model: CameraModel,
    camera_R_rig: Array,
    hits: Hits,
) -> Annotated:
    """Label a world's road users in a camera's frame."""
    places = [thing.place for thing in world.things]
    heading = world.heading + np.radians(model.yaw_deg)
    cos, sin = np.cos(heading), np.sin(heading)
    camera_R_world = np.array([[cos, 0, -sin], [0, 1, 0], [sin, 0, cos]])
    size = np.array([place.size_hwl_m for place in places]).reshape(-1, 3)
    bottom = np.array([place.bottom_m for place in places]).reshape(-1, 3)
    center = bottom - np.array([0.0, 0.5, 0.0]) * size[:, :1]
    return annotate(
        np.array([thing.name for thing in world.things], np.str_),
        (center - origin) @ camera_R_world.T,
        size,
        np.array([place.yaw for place in places]) - heading,
        camera,
        hits,
        model.focal_px / 721.5,
    )
