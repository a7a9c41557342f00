"""KITTI calib files: projection of the camera, poses of LiDAR and inertial unit."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stl_core.data.checks.projection import projection_fault
from stl_core.data.frame_source import DataError, read_text
from stl_core.types import Array

#: Keys of the LiDAR's pose: of the object, the tracking and the odometry benchmark, whose Tr leads
#: into the rectified camera and stands without a rectification.
_LIDAR_KEYS = ('Tr_velo_to_cam', 'Tr_velo_cam', 'Tr')
_IMU_KEYS = ('Tr_imu_to_velo', 'Tr_imu_velo')
_RECTIFICATION_KEYS = ('R0_rect', 'R_rect', 'R_rect_00')
_KEYS = {'P0', 'P2', *_LIDAR_KEYS, *_IMU_KEYS, *_RECTIFICATION_KEYS}


@dataclass(frozen=True)
class Calibration:
    """
    The matrices of a calib file that the project uses.

    :param P2: (3, 4) projection of the left colour camera (P0 where a file has no P2).
    :param cam_T_velo: (4, 4) LiDAR frame -> rectified camera frame; None where absent.
    :param velo_T_imu: (4, 4) frame of the inertial unit (x forward, y left, z up) -> LiDAR frame;
        None where absent.
    """

    P2: Array
    cam_T_velo: Array | None
    velo_T_imu: Array | None


def read_calib(path: str | Path) -> Calibration:
    """
    Read a calib file of the object or the tracking benchmark.

    :param path: a file with lines such as 'P2: <12 numbers>'.
    :return: P2 and the poses of LiDAR and inertial unit.
    :raises DataError: naming the file and the malformed line or key.
    """
    rows = _read_rows(path)
    key = 'P2' if 'P2' in rows else 'P0'
    projection = rows.get(key)
    if projection is None or projection.shape != (12,):
        raise DataError(f'{path}: expected a line "P2:" with 12 numbers{_raw_data_hint(path)}')
    P = projection.reshape(3, 4)
    if fault := projection_fault(P):
        raise DataError(f'{path}: {key} {fault}')
    return Calibration(
        P2=P,
        cam_T_velo=_read_lidar_pose(path, rows),
        velo_T_imu=_read_pose(path, rows, _IMU_KEYS),
    )


def _read_rows(path: str | Path) -> dict[str, Array]:
    """Return the numbers of the lines that the project uses, by key; other lines may be text."""
    rows: dict[str, Array] = {}
    for number, line in enumerate(read_text(path, 'a KITTI calib file').splitlines(), 1):
        key, *values = line.replace(':', ' ').split() or ['']
        if key not in _KEYS:
            continue
        row = parse_floats(values, f'{path}:{number}: {key}')
        if key in rows and not np.array_equal(rows[key], row):
            raise DataError(f'{path}:{number}: {key} is given twice, with other numbers')
        rows[key] = row
    return rows


def _raw_data_hint(path: str | Path) -> str:
    """Explain the calibration files of KITTI's raw data."""
    keys = set(_line_keys(path))
    if 'P_rect_02' in keys:
        return '; this is calib_cam_to_cam.txt of the raw data: its P_rect_02 is P2'
    if keys >= {'R', 'T'}:
        return '; this is a pose of the raw data, without the projection of a camera'
    return ''


def require_lidar_pose(calib: Calibration, path: str | Path) -> Array:
    """
    Return the pose of the LiDAR in the camera frame, (4, 4).

    :param calib: the calibration.
    :param path: the file that it was read from, for the error message.
    :raises DataError: if the file has no pose of the LiDAR.
    """
    if calib.cam_T_velo is None:
        raise DataError(f'{path}: {lidar_pose_fault(path)}')
    return calib.cam_T_velo


def _read_lidar_pose(path: str | Path, rows: Mapping[str, Array]) -> Array | None:
    """Return cam_T_velo of a calib file's rows, None if they have none."""
    key = next((key for key in _RECTIFICATION_KEYS if key in rows), 'R0_rect')
    rect = rows.get(key, np.eye(3).ravel())
    if rect.shape != (9,):
        raise DataError(f'{path}: expected 9 numbers in {key}, got {len(rect)}')
    rect_T_cam = np.eye(4)
    rect_T_cam[:3, :3] = require_rotation(rect.reshape(3, 3), f'{path}: {key}')
    cam_T_velo = _read_pose(path, rows, _LIDAR_KEYS)
    return None if cam_T_velo is None else rect_T_cam @ cam_T_velo


def _read_pose(path: str | Path, rows: Mapping[str, Array], keys: tuple[str, ...]) -> Array | None:
    """Return the (4, 4) pose of the first of some keys that a calib file has, None without."""
    key = next((key for key in keys if key in rows), None)
    if key is None:
        return None
    if rows[key].shape != (12,):
        raise DataError(f'{path}: expected 12 numbers in {key}, got {len(rows[key])}')
    pose = np.vstack([rows[key].reshape(3, 4), [0.0, 0.0, 0.0, 1.0]])
    require_rotation(pose[:3, :3], f'{path}: {key}')
    if not np.isfinite(pose).all():
        raise DataError(f'{path}: {key}: expected finite numbers')
    return pose


def require_rotation(matrix: Array, location: str) -> Array:
    """Return a (3, 3) matrix; raise DataError if it is no rotation, up to a few decimals."""
    is_rotation = np.isfinite(matrix).all() and np.linalg.det(matrix) > 0
    if not (is_rotation and np.allclose(matrix @ matrix.T, np.eye(3), atol=0.02)):
        raise DataError(f'{location}: the first 3 columns are no rotation: {matrix.tolist()}')
    return matrix


def lidar_pose_fault(path: str | Path) -> str:
    """Describe a calib file without the pose of the LiDAR, and keys that may have been meant."""
    keys = _line_keys(path)
    pattern = re.compile('(?i)tr|.*(velo|lidar)')
    similar = [key for key in keys if pattern.match(key) and key not in _IMU_KEYS]
    found = f' (it has {", ".join(similar)})' if similar else ''
    return f'no line "Tr_velo_to_cam" with 12 numbers, the pose of the LiDAR{found}'


def _line_keys(path: str | Path) -> list[str]:
    """Return the first word of every line that has one."""
    lines = read_text(path, 'a KITTI calib file').replace(':', ' ').splitlines()
    return [line.split()[0] for line in lines if line.strip()]


def calib_text(matrices: Mapping[str, Array], digits: int | None = None) -> str:
    """
    Format a calib file: one line a matrix, 'KEY: numbers', row-major.

    :param matrices: {key: matrix} in the order of the lines: P0 to P3 (3, 4), R0_rect (3, 3),
        Tr_velo_to_cam and Tr_imu_to_velo (3, 4).
    :param digits: digits after the point, in scientific notation; None for as many as are needed
        to read the same float64 again.
    """
    number = repr if digits is None else f'{{:.{digits}e}}'.format
    return ''.join(
        f'{key}: {" ".join(map(number, matrix.ravel().tolist()))}\n'
        for key, matrix in matrices.items()
    )


def parse_floats(values: list[str], location: str) -> Array:
    """Parse a row of numbers; raise DataError naming its location if one is none."""
    try:
        return np.array([float(value) for value in values])
    except ValueError as err:
        raise DataError(f'{location}: expected numbers ({err})') from err
