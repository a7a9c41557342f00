"""
A drive through one world at 10 Hz, in the layout of KITTI's tracking benchmark.

OUT/training/{image_02,velodyne,depth_02}/0000/NUMBER, calib/0000.txt, label_02/0000.txt, with the
way of the car in oxts/0000.txt (KITTI's 30 columns) and poses/0000.txt (KITTI odometry's 12).
Surround cameras get a folder of their own each, OUT/CAMERA, calibrated and labelled in their own
frame; the scan lies with the front camera. `kitti_to_bag` turns it into a bag. The folder object/
beside training/ shows the same files in the layout of the object benchmark.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from stl_core.data.depth_maps import write_depth
from stl_core.data.sources.kitti import format_results
from stl_core.data.synthetic.frame import (
    CAMERA_STREAM,
    WORLD_STREAM,
    SyntheticFrame,
    random_stream,
    render_frame,
)
from stl_core.data.synthetic.scene.solids import rotation_about_y
from stl_core.data.synthetic.scene.world import World, make_world, move_actor
from stl_core.data.synthetic.sensors.camera import SURROUND_YAW_DEG, camera_rays
from stl_core.data.synthetic.sensors.lidar import Lidar
from stl_core.data.synthetic.writer import (
    IMU_IN_VELO_M,
    RIG_R_VELO,
    SynthesisJob,
    calib_text,
    claim_folder,
    label_text,
    write_image,
)
from stl_core.data.worker_pool import map_ordered, with_progress
from stl_core.types import Array, Camera

FRAME_RATE_HZ = 10.0
MAX_SPEED_M_S = 12.0
SURROUND_CAMERAS = ('front', 'front_right', 'back_right', 'back', 'back_left', 'front_left')
_SEQUENCE = '0000'
_EARTH_RADIUS_M = 6378137.0
_ORIGIN_LAT_LON_DEG = (49.0, 8.4)


@dataclass(frozen=True)
class SyntheticDrive:
    """
    A drive: where everything is at any of its frames.

    :param job: the camera, the LiDAR and the seed, which chooses the world.
    :param frames: how many.
    """

    job: SynthesisJob
    frames: int

    def world(self) -> World:
        """Draw the world as it is at the start, with road enough for any speed."""
        return _cached_world(self.job.seed, self.frames / FRAME_RATE_HZ * MAX_SPEED_M_S)

    def camera(self) -> Camera:
        """Return the camera, the same for all frames."""
        return self.job.model.draw(random_stream(self.job.seed, 0, CAMERA_STREAM))


@lru_cache(maxsize=1)
def _cached_world(seed: int, drive_m: float) -> World:
    return make_world(random_stream(seed, 0, WORLD_STREAM), drive_m)


def world_at_time(world: World, seconds: float) -> World:
    """Let the car and the traffic go on for a while."""
    eye_m, heading = world.road.point_at(world.lateral_m, world.speed_m_s * seconds)
    things = [move_actor(thing, world.road, seconds) for thing in world.actors]
    return replace(world, ego_m=eye_m, heading=heading, actors=things)


def synthesize_drive(
    job: SynthesisJob,
    frames: int,
    workers: int,
    surround: bool = False,
    show_progress: bool = True,
) -> None:
    """
    Make one drive.

    :param job: as for single frames.
    :param frames: how many, at 10 Hz.
    :param workers: processes.
    :param surround: six cameras all round instead of the front one.
    :param show_progress: whether a progress bar is drawn.
    :raises DataError: when the folder holds a data set made with other settings.
    """
    root = Path(job.out)
    settings = {**asdict(job), 'out': '', 'device': '', 'sequence': frames, 'surround': surround}
    claim_folder(root, settings)
    views = SURROUND_CAMERAS if surround else SURROUND_CAMERAS[:1]
    drive = SyntheticDrive(job, frames)
    for name in views:
        _make_folders(camera_folder(root, name), job, name == SURROUND_CAMERAS[0])
    rows: dict[str, list[str]] = {name: [] for name in views}
    make = _DriveFrameWriter(drive, views)
    for found in with_progress(
        map_ordered(make, range(frames), workers), frames, 'frames', show_progress
    ):
        for name, text in found.items():
            rows[name].append(text)
    poses, oxts = _format_odometry(drive)
    for name in views:
        turn = camera_rays(drive.camera(), SURROUND_YAW_DEG[SURROUND_CAMERAS.index(name)])[1]
        text = calib_text(drive.camera().P, job.lidar, turn)
        folder = camera_folder(root, name)
        (folder / 'object/calib').mkdir(parents=True, exist_ok=True)
        for number in range(frames):
            (folder / f'object/calib/{number:06d}.txt').write_text(text)
        for old, new in (('R0_rect', 'R_rect'), ('velo_to_cam', 'velo_cam'), ('imu_to', 'imu')):
            text = text.replace(old, new)
        found = {'calib': text, 'label_02': ''.join(rows[name]), 'poses': poses, 'oxts': oxts}
        for part, content in found.items():
            (folder / 'training' / part / f'{_SEQUENCE}.txt').write_text(content)


def camera_folder(root: Path, name: str) -> Path:
    """Return the folder of one camera: the front one's is the data set's own."""
    return root if name == SURROUND_CAMERAS[0] else root / name


def _make_folders(folder: Path, job: SynthesisJob, with_lidar: bool) -> None:
    parts = {'image_02': 'image_2'}
    if job.depth:
        parts['depth_02'] = 'depth_2'
    if job.lidar and with_lidar:
        parts['velodyne'] = 'velodyne'
    (folder / 'object/label_2').mkdir(parents=True, exist_ok=True)
    for name in ('calib', 'label_02', 'poses', 'oxts'):
        (folder / 'training' / name).mkdir(parents=True, exist_ok=True)
    for name, alias in parts.items():
        (folder / 'training' / name / _SEQUENCE).mkdir(parents=True, exist_ok=True)
        link = folder / 'object' / alias
        if not link.is_symlink():
            link.symlink_to(Path('../training') / name / _SEQUENCE, target_is_directory=True)


@dataclass(frozen=True)
class _DriveFrameWriter:
    drive: SyntheticDrive
    camera_names: tuple[str, ...]

    def __call__(self, number: int) -> dict[str, str]:
        """Write one moment's files; return the lines of each camera's label file."""
        job, root = self.drive.job, Path(self.drive.job.out)
        world, camera = (
            world_at_time(self.drive.world(), number / FRAME_RATE_HZ),
            self.drive.camera(),
        )
        found = {}
        for name in self.camera_names:
            model = replace(job.model, yaw_deg=SURROUND_YAW_DEG[SURROUND_CAMERAS.index(name)])
            lidar = job.lidar if name == SURROUND_CAMERAS[0] else None
            key = (job.seed, number * len(SURROUND_CAMERAS) + SURROUND_CAMERAS.index(name))
            device = torch.device(job.device)
            frame = render_frame(
                world, camera, model, model.mount_m, key, lidar, device, (job.seed, 0)
            )
            folder = camera_folder(root, name)
            _write_frame_files(folder, number, frame, job)
            found[name] = _format_tracks(frame, number)
        return found


def _write_frame_files(
    folder: Path, number: int, frame: SyntheticFrame, job: SynthesisJob
) -> None:
    stem = f'{_SEQUENCE}/{number:06d}'
    write_image(folder / f'training/image_02/{stem}{job.suffix}', frame.image)
    if job.depth:
        write_depth(folder / f'training/depth_02/{stem}.png', frame.depth_m)
    if frame.scan is not None:
        path = folder / f'training/velodyne/{stem}.bin'
        path.write_bytes(frame.scan.points.tobytes())
    path = folder / f'object/label_2/{number:06d}.txt'
    path.write_text(label_text(frame.annotations.labels))


def _format_tracks(frame: SyntheticFrame, number: int) -> str:
    """Write labels as the tracking benchmark has them: frame, track, whole-number truncation."""
    rows = []
    labels = frame.annotations.labels
    lines = format_results(labels).splitlines()
    for line, owner, cut in zip(lines, frame.annotations.actor_id, labels.truncated, strict=True):
        name, _, *rest = line.split()[:-1]
        track, level = (-1, -1) if name == 'DontCare' else (owner, int(cut > 0.15) + (cut > 0.5))
        rows.append(f'{number} {track} {name} {level} {" ".join(rest)}\n')
    return ''.join(rows)


def _format_odometry(drive: SyntheticDrive) -> tuple[str, str]:
    """Return the car's way: rows of the front camera's poses, and of oxts."""
    world, up_m = drive.world(), np.array([0.0, -drive.job.model.mount_m, 0.0])
    lidar_m = np.array((drive.job.lidar or Lidar()).position_m)
    imu_m = lidar_m + RIG_R_VELO @ np.array(IMU_IN_VELO_M)
    start = world.ego_m + up_m
    first = rotation_about_y(float(world.road.heading_at(0.0)))
    poses, oxts = [], []
    for number in range(drive.frames):
        now = world_at_time(world, number / FRAME_RATE_HZ)
        eye_m, turn = now.ego_m + up_m, rotation_about_y(now.heading)
        pose = np.column_stack([first.T @ turn, first.T @ (eye_m - start)])
        poses.append(' '.join(f'{value:.9e}' for value in pose.ravel()) + '\n')
        oxts.append(_format_oxts(eye_m + turn @ imu_m, now.heading, now.speed_m_s))
    return ''.join(poses), ''.join(oxts)


def _format_oxts(imu_m: Array, heading: float, speed_m_s: float) -> str:
    """Write a row of KITTI's GPS and inertial data: east is world x, north is world z."""
    lat = _ORIGIN_LAT_LON_DEG[0] + np.degrees(imu_m[2] / _EARTH_RADIUS_M)
    lon = _ORIGIN_LAT_LON_DEG[1] + np.degrees(
        imu_m[0] / _EARTH_RADIUS_M / np.cos(np.radians(_ORIGIN_LAT_LON_DEG[0]))
    )
    yaw = np.pi / 2 - heading  # from east, anticlockwise
    north, east = speed_m_s * np.cos(heading), speed_m_s * np.sin(heading)
    numbers = [lat, lon, 116.0 - imu_m[1], 0, 0, yaw, north, east, speed_m_s, 0, 0, 0, 0, 9.81]
    numbers += [0, 0, 9.81, *[0] * 6, 0.05, 0.02]
    return ' '.join(f'{value:.12g}' for value in numbers) + ' 4 10 4 4 0\n'
