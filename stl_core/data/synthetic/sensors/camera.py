"""Camera models of synthetic data: KITTI, nuScenes, or a JSON file; camera rays."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from stl_core.data.frame_source import DataError
from stl_core.data.synthetic.sensors.ray_caster import RayGrid
from stl_core.types import Array, Camera


@dataclass(frozen=True)
class CameraModel:
    """
    A camera and its variation from frame to frame.

    :param width_px: image width.
    :param height_px: image height.
    :param focal_px: focal length.
    :param center_px: principal point.
    :param shift_px: P[:, 3], the offset of the camera from the frame's origin times focal length.
    :param mount_m: height over the road.
    :param focal_jitter: standard deviation as a fraction of the focal length.
    :param mount_jitter_m: standard deviation of the height.
    :param pitch_jitter_deg: standard deviation of the pitch; realised as a slope of the road,
        since boxes have no pitch.
    :param roll_jitter_deg: standard deviation of the roll; realised as a crossfall of the road.
    :param yaw_deg: heading relative to the car, positive to the right, for surround cameras.
    """

    width_px: int = 1242
    height_px: int = 375
    focal_px: float = 721.5
    center_px: tuple[float, float] = (609.6, 172.9)
    shift_px: tuple[float, float, float] = (44.86, 0.2164, 0.002746)
    mount_m: float = 1.65
    focal_jitter: float = 0.008
    mount_jitter_m: float = 0.02
    pitch_jitter_deg: float = 0.5
    roll_jitter_deg: float = 0.4
    yaw_deg: float = 0.0

    def scaled(self, width_px: int, height_px: int) -> CameraModel:
        """Return the camera at another image size; the aspect ratio sets the vertical view."""
        scale = width_px / self.width_px
        center = (
            (self.center_px[0] + 0.5) * scale - 0.5,
            (self.center_px[1] + 0.5) * height_px / self.height_px - 0.5,
        )
        shift = (self.shift_px[0] * scale, self.shift_px[1] * scale, self.shift_px[2])
        focal = self.focal_px * scale
        return replace(
            self,
            width_px=width_px,
            height_px=height_px,
            focal_px=focal,
            center_px=center,
            shift_px=shift,
        )

    def draw(self, rng: np.random.Generator) -> Camera:
        """Draw one camera with jittered focal length and principal point."""
        focal = self.focal_px * (1 + float(np.clip(rng.normal(), -2.5, 2.5)) * self.focal_jitter)
        (u, v), jitter_px = self.center_px, rng.normal(0, 0.004 * self.focal_px, 2)
        P = np.array(
            [
                [focal, 0.0, u + jitter_px[0], self.shift_px[0]],
                [0.0, focal, v + jitter_px[1], self.shift_px[1]],
                [0.0, 0.0, 1.0, self.shift_px[2]],
            ]
        )
        return Camera(P, self.width_px, self.height_px)


KITTI = CameraModel()
NUSCENES = CameraModel(
    width_px=1600,
    height_px=900,
    focal_px=1266.4,
    center_px=(816.3, 491.5),
    shift_px=(0.0, 0.0, 0.0),
    mount_m=1.51,
)
#: Headings of six surround cameras, as in nuScenes, whose back camera has a wider view.
SURROUND_YAW_DEG = (0.0, 55.0, 110.0, 180.0, -110.0, -55.0)
CAMERA_MODELS = {'kitti': KITTI, 'nuscenes': NUSCENES}


def read_camera_model(name: str) -> CameraModel:
    """
    Return a camera model by name or from a JSON file.

    :param name: 'kitti', 'nuscenes' or a JSON file with fields of CameraModel.
    :return: the camera model.
    :raises DataError: naming the file or the invalid field.
    """
    if name in CAMERA_MODELS:
        return CAMERA_MODELS[name]
    path = Path(name)
    if not path.is_file():
        raise DataError(
            f'{name}: neither {" nor ".join(CAMERA_MODELS)} nor a JSON file of a camera'
        )
    try:
        stored = json.loads(path.read_text())
    except (UnicodeDecodeError, json.JSONDecodeError) as err:
        raise DataError(f'{path}: not a JSON file ({err})') from err
    known = {field.name for field in fields(CameraModel)}
    if not isinstance(stored, dict) or set(stored) - known:
        raise DataError(f'{path}: expected an object with keys of {", ".join(sorted(known))}')
    try:
        values: dict[str, Any] = {
            key: tuple(map(float, value)) if isinstance(value, list) else value
            for key, value in stored.items()
        }
        model = CameraModel(**values)
        model.draw(np.random.default_rng(0))
    except (TypeError, ValueError) as err:
        raise DataError(f'{path}: {err}') from err
    return model


def camera_rays(camera: Camera, yaw_deg: float = 0.0) -> tuple[RayGrid, Array]:
    """
    Return the rays of a camera in the rig frame, and the rotation of the camera in the rig.

    :param camera: a rectified camera: its P has no skew or rotation.
    :param yaw_deg: heading of the camera in the rig; the source frame of P is rotated with it.
    :return: the rays in the rig frame, of length 1 along the optical axis; (3, 3) camera_R_rig.
    """
    P = camera.P
    origin = -np.linalg.solve(P[:, :3], P[:, 3])
    x = (np.arange(camera.width_px) - P[0, 2]) / P[0, 0]
    y = (np.arange(camera.height_px) - P[1, 2]) / P[1, 1]
    angle = np.radians(yaw_deg)
    cos, sin = np.cos(angle), np.sin(angle)
    columns = np.stack([cos * x + sin, -sin * x + cos], 1)
    rig_R_camera = np.array([[cos, 0, sin], [0, 1, 0], [-sin, 0, cos]])
    return RayGrid(rig_R_camera @ origin, columns, y, heading=float(angle)), rig_R_camera.T
