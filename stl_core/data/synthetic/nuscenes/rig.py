"""
Cameras and LiDAR of the synthetic vehicle, placed about as those of nuScenes.

Frames: the world of the renderer is x right, y down, z ahead at its start; the global frame of the
database is x = world z, y = -world x, z = -world y; the vehicle frame is x forward, y left, z up
from the ground below the vehicle.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stl_core.data.synthetic.sensors.camera import NUSCENES, CameraModel
from stl_core.data.synthetic.sensors.lidar import Lidar
from stl_core.evaluation.nuscenes.names import CAMERAS
from stl_core.types import Array, Camera

#: Axes x right, y down, z forward of a sensor that looks along x of the vehicle; also the axes of
#: the world in the global frame.
VEHICLE_R_SENSOR = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
#: Focal length of the rear camera as a part of that of the others.
REAR_FOCAL_RATIO = 0.64
#: LiDAR of 32 beams, 20 revolutions a second.
LIDAR_M = (0.95, 0.0, 1.84)
LIDAR_MODEL = Lidar(
    position_m=(0.0, 0.0, 0.0),
    elevation_deg=tuple(np.linspace(10.67, -30.67, 32).tolist()),
    columns=1084,
    range_noise_m=0.02,
    max_range_m=70.0,
)
SWEEP_PERIOD_US = 50_000
SAMPLE_PERIOD_US = 500_000


@dataclass(frozen=True)
class RigCamera:
    """
    A camera of the vehicle.

    :param channel: name in the database.
    :param place_m: (3,) vehicle frame.
    :param yaw_deg: heading, positive to the right.
    :param delay_us: when it fires, after the sample.
    """

    channel: str
    place_m: tuple[float, float, float]
    yaw_deg: float
    delay_us: int

    def model(self, width_px: int, height_px: int) -> CameraModel:
        """Return the camera model at a picture size."""
        model = NUSCENES.scaled(width_px, height_px)
        ratio = REAR_FOCAL_RATIO if self.channel == 'CAM_BACK' else 1.0
        values = {**vars(model), 'focal_px': model.focal_px * ratio, 'yaw_deg': self.yaw_deg}
        return CameraModel(**{**values, 'mount_m': self.place_m[2]})

    def camera(self, width_px: int, height_px: int) -> Camera:
        """Return the camera, the same in every scene."""
        model = self.model(width_px, height_px)
        (u, v), focal = model.center_px, model.focal_px
        P = np.array([[focal, 0, u, 0], [0, focal, v, 0], [0, 0, 1.0, 0]])
        return Camera(P, width_px, height_px)

    def vehicle_R_camera(self) -> Array:
        """Return the (3, 3) rotation of the camera on the vehicle."""
        return rotation_about_z(-np.radians(self.yaw_deg)) @ VEHICLE_R_SENSOR


#: Cameras fire one after another, as a spinning LiDAR passes them.
RIG = tuple(
    RigCamera(*each)
    for each in (
        ('CAM_FRONT', (1.70, 0.0, 1.51), 0.0, -35_000),
        ('CAM_FRONT_RIGHT', (1.55, -0.49, 1.50), 55.0, -27_000),
        ('CAM_BACK_RIGHT', (1.03, -0.48, 1.56), 110.0, -19_000),
        ('CAM_BACK', (0.03, 0.0, 1.57), 180.0, -10_000),
        ('CAM_BACK_LEFT', (1.03, 0.48, 1.57), -110.0, -1_000),
        ('CAM_FRONT_LEFT', (1.52, 0.49, 1.51), -55.0, 5_000),
    )
)
assert {each.channel for each in RIG} == set(CAMERAS)


def rotation_about_z(yaw: float) -> Array:
    """Return the (3, 3) rotation that turns x by an angle towards y."""
    cos, sin = np.cos(yaw), np.sin(yaw)
    return np.array([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]])
