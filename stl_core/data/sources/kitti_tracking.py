"""
KITTI tracking format: read a drive with its cameras, tracked objects, scans and odometry.

The layout is ROOT/{image_02,calib,label_02,velodyne,oxts,poses}; all but the first two are
optional. ROOT may also be the parent folder of training/; then each ROOT/CAMERA/training is
another camera of the same car. A label line is: frame track, then the object benchmark's columns.
The base frame is fixed to the car, x forward, y left, z up: the frame of KITTI's inertial unit, or
of the LiDAR if the calib file has no inertial unit. The odom frame is the base frame at frame 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from stl_core.data.frame_source import DataError, read_text
from stl_core.data.sources.kitti import parse_labels
from stl_core.data.sources.kitti_calib import (
    Calibration,
    read_calib,
    require_lidar_pose,
    require_rotation,
)
from stl_core.types import Array, Labels

#: The camera whose folder holds the scans and the odometry.
FRONT_CAMERA = 'front'

#: Truncation level of the tracking benchmark -> fraction outside the image.
TRUNCATION_FRACTIONS = {'0': '0', '1': '0.5', '2': '1'}

EARTH_RADIUS_M = 6378137.0
OXTS_COLUMNS, POSE_COLUMNS = 30, 12
#: Rows are 0.1 s apart; a greater step, metres, is no motion of a vehicle.
MAX_STEP_M = 1000.0


@dataclass(frozen=True)
class FrameTracks:
    """
    The labelled objects of one image with their track ids.

    :param labels: N objects, DontCare included.
    :param track_ids: N numbers, the same for one object in all frames and cameras; -1 for
        DontCare.
    :param label_lines: the label lines in the object benchmark's format.
    """

    labels: Labels
    track_ids: tuple[int, ...]
    label_lines: str


#: An image without labelled objects.
NO_TRACKS = FrameTracks(Labels.empty(), (), '')


@dataclass(frozen=True)
class DriveCamera:
    """
    One camera of a drive.

    :param name: FRONT_CAMERA, or the name of the camera's folder.
    :param calib: its calibration.
    :param cam_T_velo: (4, 4) LiDAR frame -> camera frame.
    :param images: frame number -> image file.
    :param tracks: frame number -> objects, only frames that have objects; None for a drive without
        labels.
    """

    name: str
    calib: Calibration
    cam_T_velo: Array
    images: Mapping[int, Path]
    tracks: Mapping[int, FrameTracks] | None


@dataclass(frozen=True)
class KittiDrive:
    """
    A drive: cameras, LiDAR scans and odometry.

    :param cameras: the front camera first; every other camera has at least its frames.
    :param scans: frame number -> LiDAR file, for the frames that have one.
    :param odom_T_base: (L, 4, 4) pose of the car by frame number, base -> odom; None if unknown.
    """

    cameras: tuple[DriveCamera, ...]
    scans: Mapping[int, Path]
    odom_T_base: Array | None

    @property
    def base_T_velo(self) -> Array:
        """Transform from the LiDAR frame to the base, (4, 4)."""
        return _base_T_velo(self.cameras[0].calib)

    def base_T_cam(self, camera: DriveCamera) -> Array:
        """Return the transform from the frame of a camera to the base, (4, 4)."""
        return self.base_T_velo @ np.linalg.inv(camera.cam_T_velo)


def is_drive(root: Path) -> bool:
    """Return whether a folder has the tracking layout."""
    return _find_layout_root(root) is not None


def read_drive(root: Path, sequence: str = '') -> KittiDrive:
    """
    Read a drive; images and scans are listed, not loaded.

    :param root: the folder ROOT of the module's docstring.
    :param sequence: name of the drive, such as '0001'; may be empty if there is only one.
    :return: the drive.
    :raises DataError: naming the missing or malformed file or folder.
    """
    layout_root = _find_layout_root(root)
    if layout_root is None:
        raise DataError(f'{root}: no folder image_02 or training/image_02 in it')
    sequence = _select_sequence(layout_root / 'image_02', sequence)
    layout_roots = {FRONT_CAMERA: layout_root}
    if layout_root != root:
        others = (
            p for p in sorted(root.iterdir()) if p.name not in (layout_root.name, FRONT_CAMERA)
        )
        layout_roots |= {
            path.name: layout for path in others if (layout := _find_layout_root(path))
        }
    cameras = tuple(
        _read_camera(name, layout_root, sequence) for name, layout_root in layout_roots.items()
    )
    for camera in cameras[1:]:
        if missing := sorted(set(cameras[0].images) - set(camera.images)):
            folder = layout_roots[camera.name] / 'image_02' / sequence
            raise DataError(
                f'{folder}/{missing[0]:06d}.png: missing, though {FRONT_CAMERA} has it'
            )
    folder = layout_root / 'velodyne' / sequence
    scans = _files_by_number(folder, ('.bin',)) if folder.is_dir() else {}
    odom_T_base = _read_odometry(layout_root, sequence, cameras[0])
    if odom_T_base is not None and max(cameras[0].images) >= len(odom_T_base):
        raise DataError(
            f'{layout_root}: the odometry has {len(odom_T_base)} rows, none for image'
            f' {max(cameras[0].images):06d}'
        )
    return KittiDrive(cameras, scans, odom_T_base)


def read_tracks(path: str | Path) -> dict[int, FrameTracks]:
    """
    Read a label file of the tracking benchmark.

    :param path: lines of 17 columns: frame, track, and the object benchmark's.
    :return: frame number -> its objects in file order.
    :raises DataError: naming the file and the malformed line.
    """
    rows: dict[int, list[tuple[str, str, int]]] = {}
    for number, line in enumerate(read_text(path, 'a KITTI tracking label file').splitlines(), 1):
        location, columns = f'{path}:{number}', line.split()
        if not columns:
            continue
        if len(columns) not in (17, 18):
            raise DataError(
                f'{location}: expected 17 columns, or 18 with a score, got {len(columns)}'
            )
        try:
            frame, track = int(columns[0]), int(columns[1])
        except ValueError as err:
            raise DataError(f'{location}: expected a frame and a track number ({err})') from err
        if frame < 0:
            raise DataError(f'{location}: expected a frame number of at least 0, got {frame}')
        columns[3] = TRUNCATION_FRACTIONS.get(columns[3], columns[3])
        rows.setdefault(frame, []).append((location, ' '.join(columns[2:]), track))
    return {frame: _parse_frame_tracks(frame_rows) for frame, frame_rows in rows.items()}


def read_poses(path: str | Path) -> Array:
    """
    Read the camera poses of a file of KITTI's odometry benchmark.

    :param path: rows of 12 numbers, one a frame.
    :return: (L, 4, 4) camera frame -> that camera's frame at row 0.
    :raises DataError: naming the file and the malformed row, or one that holds no rotation.
    """
    rows = _read_table(path, POSE_COLUMNS).reshape(-1, 3, 4)
    for number, row in enumerate(rows, 1):
        require_rotation(row[:, :3], f'{path}:{number}')
    poses = np.tile(np.eye(4), (len(rows), 1, 1))
    poses[:, :3] = rows
    return np.linalg.inv(poses[0]) @ poses


def read_oxts(path: str | Path) -> Array:
    """
    Read poses from an oxts file of KITTI's GPS and inertial unit.

    Positions are mapped to metres by the Mercator projection of KITTI's raw-data paper.

    :param path: rows of 30 numbers, one a frame: latitude, longitude, altitude, roll, pitch, yaw
        and others.
    :return: (L, 4, 4) frame of the unit -> that frame at row 0.
    :raises DataError: naming the file and the malformed row, or one that is no position and
        attitude in degrees and radians, or more than MAX_STEP_M from the row before it.
    """
    rows = _read_table(path, OXTS_COLUMNS)
    limits = np.array([85.0, 360.0, 1e5, np.pi, np.pi, 2 * np.pi]) + 1e-3
    if (odd := np.flatnonzero((np.abs(rows[:, :6]) > limits).any(1))).size:
        raise DataError(
            f'{path}:{odd[0] + 1}: expected latitude and longitude in degrees, altitude in metres'
            f' and three angles in radians, got {rows[odd[0], :6].tolist()}'
        )
    latitude, longitude = np.radians(rows[:, :2].T)
    # Mercator projection, true to scale at the start of the drive
    scale_m = EARTH_RADIUS_M * np.cos(latitude[0])
    poses = np.tile(np.eye(4), (len(rows), 1, 1))
    poses[:, :3, :3] = Rotation.from_euler('ZYX', rows[:, [5, 4, 3]]).as_matrix()
    poses[:, 0, 3] = scale_m * longitude
    poses[:, 1, 3] = scale_m * np.log(np.tan(np.pi / 4 + latitude / 2))
    poses[:, 2, 3] = rows[:, 2]
    steps_m = np.linalg.norm(np.diff(poses[:, :3, 3], axis=0), axis=1)
    if (far := np.flatnonzero(steps_m > MAX_STEP_M)).size:
        raise DataError(f'{path}:{far[0] + 2}: {steps_m[far[0]]:.0f} m from the row before it')
    poses[:, :3, 3] -= poses[0, :3, 3]  # near 0 the inverse is exact
    return np.linalg.inv(poses[0]) @ poses


def _find_layout_root(root: Path) -> Path | None:
    """Return the folder that holds image_02: root, root/training or None."""
    return next((p for p in (root, root / 'training') if (p / 'image_02').is_dir()), None)


def _select_sequence(folder: Path, sequence: str) -> str:
    """Return the name of the requested drive, or of the only one."""
    names = sorted(path.name for path in folder.iterdir() if path.is_dir())
    if sequence in names or (not sequence and len(names) == 1):
        return sequence or names[0]
    if not names:
        raise DataError(f'{folder}: no drive (a folder such as 0000) in it')
    has = f'it has {", ".join(names)}'
    raise DataError(f'{folder}: {f"no drive {sequence}" if sequence else "which drive?"}; {has}')


def _read_camera(name: str, layout_root: Path, sequence: str) -> DriveCamera:
    path = layout_root / 'calib' / f'{sequence}.txt'
    calib = read_calib(path)
    cam_T_velo = require_lidar_pose(calib, path)
    images = _files_by_number(layout_root / 'image_02' / sequence, ('.png', '.jpg'))
    if not images:
        raise DataError(
            f'{layout_root / "image_02" / sequence}: no .png or .jpg image in this folder'
        )
    labelled = (layout_root / 'label_02').is_dir()
    tracks = read_tracks(layout_root / 'label_02' / f'{sequence}.txt') if labelled else None
    return DriveCamera(name, calib, cam_T_velo, images, tracks)


def _files_by_number(folder: Path, suffixes: tuple[str, ...]) -> dict[int, Path]:
    """Return the files of a folder by the number in their names, in ascending order."""
    if not folder.is_dir():
        raise DataError(f'{folder}: no such folder')
    paths = [path for path in folder.iterdir() if path.suffix in suffixes]
    if odd := sorted(path.name for path in paths if not path.stem.isdecimal()):
        raise DataError(f'{folder / odd[0]}: expected a name such as 000000{suffixes[0]}')
    return {int(path.stem): path for path in sorted(paths, key=lambda path: int(path.stem))}


def _parse_frame_tracks(rows: list[tuple[str, str, int]]) -> FrameTracks:
    """Parse the rows of one frame: location for error messages, text and track id."""
    labels = parse_labels((location, text) for location, text, _ in rows)
    text = ''.join(f'{text}\n' for _, text, _ in rows)
    return FrameTracks(labels, tuple(track for *_, track in rows), text)


def _base_T_velo(calib: Calibration) -> Array:
    return np.eye(4) if calib.velo_T_imu is None else np.linalg.inv(calib.velo_T_imu)


def _read_odometry(layout_root: Path, sequence: str, camera: DriveCamera) -> Array | None:
    """Return odom_T_base by frame number: from the poses file, else from oxts, else None."""
    poses, oxts = (layout_root / name / f'{sequence}.txt' for name in ('poses', 'oxts'))
    if poses.is_file():
        base_T_cam = _base_T_velo(camera.calib) @ np.linalg.inv(camera.cam_T_velo)
        return base_T_cam @ read_poses(poses) @ np.linalg.inv(base_T_cam)
    if oxts.is_file() and camera.calib.velo_T_imu is None:
        raise DataError(f'{oxts}: the calib file has no Tr_imu_velo, the pose of the unit')
    return read_oxts(oxts) if oxts.is_file() else None


def _read_table(path: str | Path, num_columns: int) -> Array:
    """Read at least one row of numbers, (L, num_columns); raise DataError otherwise."""
    rows = []
    for number, line in enumerate(
        read_text(path, f'rows of {num_columns} numbers').splitlines(), 1
    ):
        try:
            row = np.array([float(value) for value in line.split()])
        except ValueError as err:
            raise DataError(f'{path}:{number}: expected numbers ({err})') from err
        if len(row) != num_columns or not np.isfinite(row).all():
            raise DataError(f'{path}:{number}: expected {num_columns} finite numbers')
        rows.append(row)
    if not rows:
        raise DataError(f'{path}: empty; expected rows of {num_columns} numbers')
    return np.array(rows)
