"""
Synthesize a drive through one world at 10 Hz, in the layout of KITTI's tracking benchmark.

OUT/training/{image_02,velodyne,depth_02}/0000/NUMBER, calib/0000.txt, label_02/0000.txt, with the
odometry in oxts/0000.txt (KITTI's 30 columns) and poses/0000.txt (KITTI odometry's 12).
Each surround camera has a folder OUT/CAMERA, with calibration and labels in its own frame; the
scans are in the front camera's folder. `kitti_to_bag` converts a drive to a bag. The folder
object/ next to training/ links the same files in the layout of the object benchmark.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from stl_core.data.depth_maps import write_depth
from stl_core.data.sources.kitti import format_results
from stl_core.data.sources.kitti_calib import calib_text
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
    CALIB_DIGITS,
    IMU_IN_VELO_M,
    RIG_R_VELO,
    SynthesisJob,
    calib_matrices,
    claim_folder,
    label_text,
    write_image,
)
from stl_core.data.worker_pool import describe_workers, map_ordered, with_progress
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
    A drive: its world and its camera.

    :param job: camera model, LiDAR and the seed of the world.
    :param frames: number of frames.
    """

    job: SynthesisJob
    frames: int

    def world(self) -> World:
        """Return the world at the start, with a road long enough for the greatest speed."""
        return _cached_world(self.job.seed, self.frames / FRAME_RATE_HZ * MAX_SPEED_M_S)

    def camera(self) -> Camera:
        """Return the camera, the same for all frames."""
        return self.job.model.draw(random_stream(self.job.seed, 0, CAMERA_STREAM))


@lru_cache(maxsize=1)
def _cached_world(seed: int, drive_m: float) -> World:
    return make_world(random_stream(seed, 0, WORLD_STREAM), drive_m)


def world_at_time(world: World, seconds: float) -> World:
    """Return the world after some seconds: ego car and road users moved."""
    ego_m, heading = world.road.point_at(world.lateral_m, world.speed_m_s * seconds)
    actors = [move_actor(actor, world.road, seconds) for actor in world.actors]
    return replace(world, ego_m=ego_m, heading=heading, actors=actors)


def synthesize_drive(
    job: SynthesisJob,
    frames: int,
    workers: int,
    surround: bool = False,
    show_progress: bool = True,
) -> None:
    """
    Synthesize a drive and write it in KITTI's tracking layout.

    :param job: output folder, seed, sensors, as for single frames.
    :param frames: number of frames, at 10 Hz.
    :param workers: number of processes; 0 runs everything in this one.
    :param surround: six surround cameras instead of the front camera only.
    :param show_progress: whether to draw a progress bar.
    :raises DataError: if the folder holds a data set made with other settings.
    """
    root = Path(job.out)
    settings = {**asdict(job), 'out': '', 'device': '', 'sequence': frames, 'surround': surround}
    claim_folder(root, settings)
    camera_names = SURROUND_CAMERAS if surround else SURROUND_CAMERAS[:1]
    drive = SyntheticDrive(job, frames)
    for name in camera_names:
        _make_folders(camera_folder(root, name), job, name == SURROUND_CAMERAS[0])
    rows: dict[str, list[str]] = {name: [] for name in camera_names}
    make = _DriveFrameWriter(drive, camera_names)
    jobs, text = map_ordered(make, range(frames), workers), describe_workers(workers)
    for label_lines in with_progress(jobs, frames, f'frames ({text})', show_progress):
        for name, text in label_lines.items():
            rows[name].append(text)
    poses, oxts = _format_odometry(drive)
    for name in camera_names:
        camera_R_rig = camera_rays(drive.camera(), SURROUND_YAW_DEG[SURROUND_CAMERAS.index(name)])[
            1
        ]
        matrices = calib_matrices(drive.camera().P, job.lidar, camera_R_rig)
        text = calib_text(matrices, CALIB_DIGITS)
        folder = camera_folder(root, name)
        (folder / 'object/calib').mkdir(parents=True, exist_ok=True)
        for number in range(frames):
            (folder / f'object/calib/{number:06d}.txt').write_text(text)
        for old, new in (('R0_rect', 'R_rect'), ('velo_to_cam', 'velo_cam'), ('imu_to', 'imu')):
            text = text.replace(old, new)
        contents = {'calib': text, 'label_02': ''.join(rows[name]), 'poses': poses, 'oxts': oxts}
        for part, content in contents.items():
            (folder / 'training' / part / f'{_SEQUENCE}.txt').write_text(content)


def camera_folder(root: Path, name: str) -> Path:
    """Return the folder of a camera: root for the front camera, root/name for the others."""
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
        """Write the files of one frame; return the label lines of each camera."""
        job, root = self.drive.job, Path(self.drive.job.out)
        world, camera = (
            world_at_time(self.drive.world(), number / FRAME_RATE_HZ),
            self.drive.camera(),
        )
        label_lines = {}
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
            label_lines[name] = _format_tracks(frame, number)
        return label_lines


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
    """Format labels for the tracking benchmark: frame, track, truncation as an integer level."""
    rows = []
    labels = frame.annotations.labels
    lines = format_results(labels).splitlines()
    for line, actor, cut in zip(lines, frame.annotations.actor_id, labels.truncated, strict=True):
        name, _, *rest = line.split()[:-1]
        track, level = (-1, -1) if name == 'DontCare' else (actor, int(cut > 0.15) + (cut > 0.5))
        rows.append(f'{number} {track} {name} {level} {" ".join(rest)}\n')
    return ''.join(rows)


def _format_odometry(drive: SyntheticDrive) -> tuple[str, str]:
    """Return the odometry as text: rows of the front camera's poses, and of oxts."""
    world, up_m = drive.world(), np.array([0.0, -drive.job.model.mount_m, 0.0])
    lidar_m = np.array((drive.job.lidar or Lidar()).position_m)
    imu_m = lidar_m + RIG_R_VELO @ np.array(IMU_IN_VELO_M)
    start = world.ego_m + up_m
    first = rotation_about_y(float(world.road.heading_at(0.0)))
    poses, oxts = [], []
    for number in range(drive.frames):
        current = world_at_time(world, number / FRAME_RATE_HZ)
        camera_m, rotation = current.ego_m + up_m, rotation_about_y(current.heading)
        pose = np.column_stack([first.T @ rotation, first.T @ (camera_m - start)])
        poses.append(' '.join(f'{value:.9e}' for value in pose.ravel()) + '\n')
        oxts.append(_format_oxts(camera_m + rotation @ imu_m, current.heading, current.speed_m_s))
    return ''.join(poses), ''.join(oxts)


def _format_oxts(imu_m: Array, heading: float, speed_m_s: float) -> str:
    """Format a row of KITTI's oxts file: east is world x, north is world z."""
    lat = _ORIGIN_LAT_LON_DEG[0] + np.degrees(imu_m[2] / _EARTH_RADIUS_M)
    lon = _ORIGIN_LAT_LON_DEG[1] + np.degrees(
        imu_m[0] / _EARTH_RADIUS_M / np.cos(np.radians(_ORIGIN_LAT_LON_DEG[0]))
    )
    yaw = np.pi / 2 - heading  # counterclockwise from east
    north, east = speed_m_s * np.cos(heading), speed_m_s * np.sin(heading)
    numbers = [lat, lon, 116.0 - imu_m[1], 0, 0, yaw, north, east, speed_m_s, 0, 0, 0, 0, 9.81]
    numbers += [0, 0, 9.81, *[0] * 6, 0.05, 0.02]
    return ' '.join(f'{value:.12g}' for value in numbers) + ' 4 10 4 4 0\n'
