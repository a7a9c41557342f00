"""
LiDAR scans of nuScenes as points in the frame of a camera at the time of its exposure.

Every scan is moved by the way of the vehicle between its time and the exposure. Points on objects
that move themselves are moved by the object's way, too: ego motion alone would smear a car at
15 m/s over 3.75 m in five scans.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stl_core.data.frame_source import DataError, require_exists
from stl_core.data.sources.nuscenes_boxes import GlobalBoxes
from stl_core.data.sources.nuscenes_tables import SensorFrame
from stl_core.rotations import invert_rigid, move_points
from stl_core.types import Array

#: Numbers of a point: x y z intensity ring.
COLUMNS = 5
#: Points nearer to the LiDAR than this are returns from the vehicle itself, metres.
MIN_RANGE_M = 1.0
#: Slower objects stand.
MIN_SPEED_MPS = 0.5
#: A box is taken larger by this, so that mirrors and wheels move with it, metres.
MARGIN_M = 0.1


@dataclass(frozen=True)
class CameraScan:
    """
    The scans that a camera's points come from; called, it reads them.

    :param scans: the scan of the sample, then earlier ones.
    :param camera: the picture.
    :param boxes: annotations of the sample; None for data without.
    :param sample_stamp_us: time that the annotations describe.
    """

    scans: Sequence[SensorFrame]
    camera: SensorFrame
    boxes: GlobalBoxes | None
    sample_stamp_us: int

    def __call__(self) -> Array:
        """Return (N, 5) float32: x y z in metres, camera frame, intensity, age in seconds."""
        parts = [self._read_scan(scan) for scan in self.scans]
        return np.concatenate(parts).astype(np.float32)

    def _read_scan(self, scan: SensorFrame) -> Array:
        points = read_lidar_file(scan.path)
        points = points[np.linalg.norm(points[:, :3], axis=1) > MIN_RANGE_M]
        global_m = move_points(scan.global_T_sensor, points[:, :3].astype(np.float64))
        age_s = (self.camera.stamp_us - scan.stamp_us) * 1e-6
        keep = np.ones(len(global_m), bool)
        if self.boxes is not None:
            since_sample_s = (scan.stamp_us - self.sample_stamp_us) * 1e-6
            global_m, keep = follow_objects(global_m, self.boxes, since_sample_s, age_s)
        camera_m = move_points(invert_rigid(self.camera.global_T_sensor), global_m)
        age = np.full(len(camera_m), age_s)
        return np.column_stack([camera_m, points[:, 3], age])[keep]


def follow_objects(
    points_m: Array, boxes: GlobalBoxes, since_sample_s: float, later_s: float
) -> tuple[Array, Array]:
    """
    Move the points on moving objects to a later time.

    :param points_m: (N, 3) global frame, at the time of a scan.
    :param boxes: annotations at the time of the sample.
    :param since_sample_s: time of the scan less that of the sample.
    :param later_s: how much later the returned points are.
    :return: (N, 3) points; and (N,) bool, False for points of another time than the sample's on an
        object whose velocity is unknown: where they are at the later time is unknown, too.
    """
    moved, keep = points_m.copy(), np.ones(len(points_m), bool)
    half_lwh = boxes.size_hwl_m[:, [2, 1, 0]] / 2 + MARGIN_M
    for center_m, half, rotation, velocity in zip(
        boxes.center_m, half_lwh, boxes.rotation, boxes.velocity_mps, strict=True
    ):
        unknown = bool(np.isnan(velocity).any())
        if not unknown and np.linalg.norm(velocity) < MIN_SPEED_MPS:
            continue
        shift = np.zeros(3) if unknown else velocity * since_sample_s
        near = np.abs(points_m - center_m - shift).max(1) < np.linalg.norm(half)
        inside = near.copy()
        inside[near] = (np.abs((points_m[near] - center_m - shift) @ rotation) <= half).all(1)
        if not unknown:
            moved[inside] += velocity * later_s
        elif since_sample_s:
            keep &= ~inside
    return moved, keep


def read_lidar_file(path: Path) -> Array:
    """
    Read a .pcd.bin file.

    :return: (N, 5) float32: x y z in metres, LiDAR frame, intensity, ring.
    :raises DataError: for a missing file, and one that is no whole number of points or not finite.
    """
    data = require_exists(path, 'a LiDAR scan of nuScenes').read_bytes()
    if not data or len(data) % (4 * COLUMNS):
        raise DataError(
            f'{path}: {len(data)} bytes; expected 20 bytes a point: float32 x y z intensity ring'
        )
    points = np.frombuffer(data, '<f4').reshape(-1, COLUMNS)
    if not (np.abs(points[:, :3]) < 1e4).all():
        raise DataError(f'{path}: not a LiDAR scan of nuScenes: coordinates beyond 10 km')
    return points
