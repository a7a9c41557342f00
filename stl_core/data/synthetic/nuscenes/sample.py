"""Render one sample of a scene: pictures, scans, and the annotations that they show."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from stl_core.data.synthetic.frame import (
    LIDAR_STREAM,
    WORLD_STREAM,
    random_stream,
    render_frame,
)
from stl_core.data.synthetic.nuscenes import rig
from stl_core.data.synthetic.scene.world import World, make_world
from stl_core.data.synthetic.sensors.lidar import simulate_lidar
from stl_core.data.synthetic.sensors.ray_caster import Hits
from stl_core.data.synthetic.sequence import MAX_SPEED_M_S, world_at_time
from stl_core.data.synthetic.writer import write_image
from stl_core.evaluation.nuscenes.names import LIDAR
from stl_core.types import Array

#: Time of the first sample, microseconds since 1970: greater than float32 resolves.
START_US = 1_700_000_000_000_000
#: Scenes begin this far apart, microseconds.
SCENE_PERIOD_US = 3_600_000_000
#: Greatest distance of an annotated object from the vehicle, metres.
MAX_RANGE_M = 75.0
#: The vehicle has driven this far before the first sample, so that there is traffic behind it, but
#: for no longer than the second number, seconds.
LEAD_M, MAX_LEAD_S = 60.0, 12.0
#: Numbers of the noise streams of a sample: its cameras, then its scans.
_STREAMS_PER_SAMPLE = 64


@dataclass(frozen=True)
class DatabaseJob:
    """
    Settings of a synthetic database.

    :param out: output folder.
    :param seed: root of all randomness.
    :param samples_per_scene: key frames of a scene, 2 a second.
    :param width_px: picture width.
    :param height_px: picture height.
    :param sweeps: LiDAR scans between two samples that are written, the latest ones.
    :param suffix: suffix of the pictures, '.jpg' or '.png'.
    :param device: device of the shading.
    """

    out: str
    seed: int
    samples_per_scene: int = 20
    width_px: int = 352
    height_px: int = 128
    sweeps: int = 0
    suffix: str = '.jpg'
    device: str = 'cpu'


@dataclass(frozen=True)
class SensorRecord:
    """
    A picture or scan of a sample.

    :param channel: name of the sensor.
    :param stamp_us: its time.
    :param filename: its file, below the root.
    :param is_key_frame: whether it belongs to the sample itself.
    :param ego_m: (3,) place of the vehicle at that time, global frame.
    :param ego_yaw: heading of the vehicle, about global z.
    """

    channel: str
    stamp_us: int
    filename: str
    is_key_frame: bool
    ego_m: list[float]
    ego_yaw: float


@dataclass(frozen=True)
class BoxRecord:
    """
    An annotation.

    :param actor: number of the object in its scene.
    :param name: class of the renderer.
    :param center_m: (3,) global frame.
    :param size_wlh_m: (3,) width, length, height.
    :param yaw: about global z.
    :param speed_mps: speed along its heading.
    :param num_points: points of the sample's scan inside the box.
    :param visibility: part of its pixels in all pictures that nothing hides; 0 outside of them.
    """

    actor: int
    name: str
    center_m: list[float]
    size_wlh_m: list[float]
    yaw: float
    speed_mps: float
    num_points: int
    visibility: float


@dataclass(frozen=True)
class SampleRecord:
    """A sample: its scene, number in it, time, sensors and annotations."""

    scene: int
    number: int
    stamp_us: int
    sensors: list[SensorRecord]
    boxes: list[BoxRecord]

    def to_json(self) -> dict[str, object]:
        """Return plain JSON data, which sample_from_json reads."""
        return asdict(self)


def sample_from_json(data: dict[str, object]) -> SampleRecord:
    """Read SampleRecord.to_json's data."""
    fields = dict(data)
    fields['sensors'] = [SensorRecord(**each) for each in data['sensors']]  # type: ignore
    fields['boxes'] = [BoxRecord(**each) for each in data['boxes']]  # type: ignore
    return SampleRecord(**fields)  # type: ignore[arg-type]


@lru_cache(maxsize=1)
def _scene_world(seed: int, scene: int, drive_m: float) -> World:
    return make_world(random_stream(seed, scene, WORLD_STREAM), drive_m)


def sample_stamp_us(scene: int, number: int) -> int:
    """Return the time of a sample, microseconds."""
    return START_US + scene * SCENE_PERIOD_US + number * rig.SAMPLE_PERIOD_US


def write_sample(job: DatabaseJob, scene: int, number: int) -> SampleRecord:
    """Render a sample, write its files below job.out, and return its records."""
    moment = _Moment(job, scene, number)
    hits = [moment.write_picture(camera) for camera in rig.RIG]
    seen = np.sum([each.num_visible for each in hits], 0)
    whole = np.sum([each.num_unoccluded for each in hits], 0)
    scans = [moment.write_scan(back) for back in range(job.sweeps, -1, -1)]
    boxes = moment.boxes(scans[-1], seen / np.maximum(whole, 1), seen)
    return SampleRecord(scene, number, sample_stamp_us(scene, number), moment.sensors, boxes)


class _Moment:
    """A sample being rendered; `sensors` collects its pictures and scans."""

    def __init__(self, job: DatabaseJob, scene: int, number: int) -> None:
        self.job, self.scene, self.number = job, scene, number
        seconds = (job.samples_per_scene + 1) * rig.SAMPLE_PERIOD_US * 1e-6 + MAX_LEAD_S
        self._start = _scene_world(job.seed, scene, seconds * MAX_SPEED_M_S)
        self._lead_s = min(LEAD_M / max(self._start.speed_m_s, 1.0), MAX_LEAD_S)
        self.sensors: list[SensorRecord] = []

    def write_picture(self, camera: rig.RigCamera) -> Hits:
        """Render and write a picture; return the hits of its rays."""
        job, stamp_us = self.job, sample_stamp_us(self.scene, self.number) + camera.delay_us
        world = self._world(stamp_us)
        model = camera.model(job.width_px, job.height_px)
        stream = self._stream(rig.RIG.index(camera))
        frame = render_frame(
            _at_sensor(world, camera.place_m),
            camera.camera(job.width_px, job.height_px),
            model,
            model.mount_m,
            (job.seed, stream),
            None,
            torch.device(job.device),
            (job.seed, self._stream(0, sample=0)),
        )
        self._add(camera.channel, stamp_us, world, job.suffix, True)
        write_image(Path(job.out) / self.sensors[-1].filename, frame.image)
        return frame.hits

    def write_scan(self, back: int) -> Array:
        """Simulate and write the scan `back` revolutions before the sample; return its points."""
        stamp_us = sample_stamp_us(self.scene, self.number) - back * rig.SWEEP_PERIOD_US
        world = self._world(stamp_us)
        origin = _at_sensor(world, rig.LIDAR_M).ego_m - [0.0, rig.LIDAR_M[2], 0.0]
        solids = world.solids().in_rig_frame(origin, world.heading)
        rng = random_stream(self.job.seed, self._stream(len(rig.RIG) + back), LIDAR_STREAM)
        scan = simulate_lidar(rig.LIDAR_MODEL, solids, len(world.actors), rng)
        points = np.zeros((len(scan.points), 5), np.float32)
        points[:, :4] = scan.points
        points[:, 3] *= 255  # intensity of nuScenes
        self._add(LIDAR, stamp_us, world, '.pcd.bin', back == 0)
        path = Path(self.job.out) / self.sensors[-1].filename
        path.write_bytes(points.tobytes())
        return points[:, :3].astype(np.float64)

    def boxes(self, points_m: Array, visibility: Array, seen: Array) -> list[BoxRecord]:
        """Return the objects that the sample's scan or pictures show."""
        world = self._world(sample_stamp_us(self.scene, self.number))
        ego_m, yaw = _ego_pose(world)
        global_m = (points_m + rig.LIDAR_M) @ rig.rotation_about_z(yaw).T + ego_m
        records = []
        for index, actor in enumerate(world.actors):
            height, width, length = actor.pose.size_hwl_m
            center = rig.VEHICLE_R_SENSOR @ (actor.pose.bottom_m - [0.0, height / 2, 0.0])
            heading = float(np.arctan2(-np.cos(actor.pose.yaw), -np.sin(actor.pose.yaw)))
            local = np.abs((global_m - center) @ rig.rotation_about_z(heading))
            inside = int((local <= np.array([length, width, height]) / 2).all(1).sum())
            near = np.linalg.norm(center - ego_m) <= MAX_RANGE_M
            if near and (inside or seen[index]):
                size = [float(width), float(length), float(height)]
                numbers = (heading, float(actor.speed_m_s), inside, float(visibility[index]))
                records.append(BoxRecord(index, actor.name, center.tolist(), size, *numbers))
        return records

    def _world(self, stamp_us: int) -> World:
        seconds = (stamp_us - sample_stamp_us(self.scene, 0)) * 1e-6
        return world_at_time(self._start, seconds + self._lead_s)

    def _stream(self, sensor: int, sample: int | None = None) -> int:
        """Return the number of a noise stream, another one for every sensor of every sample."""
        number = self.number if sample is None else sample
        sample_index = self.scene * self.job.samples_per_scene + number
        return (sample_index + 1) * _STREAMS_PER_SAMPLE + sensor

    def _add(self, channel: str, stamp_us: int, world: World, suffix: str, key: bool) -> None:
        folder = 'samples' if key else 'sweeps'
        name = f'{scene_name(self.scene)}__{channel}__{stamp_us}{suffix}'
        ego_m, yaw = _ego_pose(world)
        self.sensors.append(
            SensorRecord(
                channel, stamp_us, f'{folder}/{channel}/{name}', key, ego_m.tolist(), float(yaw)
            )
        )


def scene_name(scene: int) -> str:
    """Return the name of a scene."""
    return f'synthetic-{scene:04d}'


def _ego_pose(world: World) -> tuple[Array, float]:
    """Return place and heading of the vehicle in the global frame."""
    return rig.VEHICLE_R_SENSOR @ world.ego_m, -world.heading


def _at_sensor(world: World, place_m: tuple[float, float, float]) -> World:
    """Return the world with its ground point below a sensor of the vehicle."""
    forward, left, _ = place_m
    cos, sin = np.cos(world.heading), np.sin(world.heading)
    moved = world.ego_m + np.array([forward * sin - left * cos, 0.0, forward * cos + left * sin])
    return replace(world, ego_m=moved)
