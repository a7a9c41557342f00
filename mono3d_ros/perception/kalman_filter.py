"""
Kalman filter of tracked objects: position, velocity, yaw and size, vectorised over tracks.

The state is in a non-rotating frame, x forward, y left, z up. The motion model is constant ground
velocity with white-noise acceleration, integrated over the actual time step, so stamps may be
irregular. Height and yaw are random walks; sizes are running averages.

A monocular detector knows the bearing of an object well and its distance badly. Its depth_sigma_m
is the measurement noise along the ray to the object; across the ray it is a bearing noise.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar

import numpy as np

from stl_core.geometry import depth_covariance, wrap_angle
from stl_core.types import Array, Objects3D, StructOfArrays

#: Number of consecutive frames with the opposite heading after which the yaw of a track flips.
FLIP_FRAMES = 3


@dataclass(frozen=True)
class Noise:
    """
    Process noise and measurement noise.

    :param acceleration_psd: power spectral density of the ground acceleration, m^2/s^3.
    :param climb_psd: power spectral density of the vertical velocity, m^2/s.
    :param yaw_psd: power spectral density of the yaw rate, rad^2/s.
    :param first_speed_m_s: standard deviation of each velocity component of a new track.
    :param bearing_sigma: standard deviation of a bearing, radians.
    :param position_sigma_m: standard deviation of a centre in any direction, in addition.
    :param yaw_sigma: standard deviation of a measured yaw, radians.
    :param size_frames: sizes are averaged over about this number of frames.
    """

    acceleration_psd: float = 2.0
    climb_psd: float = 0.05
    yaw_psd: float = 0.05
    first_speed_m_s: float = 10.0
    bearing_sigma: float = 0.01
    position_sigma_m: float = 0.2
    yaw_sigma: float = 0.2
    size_frames: int = 20

    def __post_init__(self) -> None:
        """Raise ValueError for negative or infinite values, and for zero where it is invalid."""
        for name, value in asdict(self).items():
            if not 0 <= value < np.inf:
                raise ValueError(f'{name} must be 0 or more, got {value}')
        for name in ('position_sigma_m', 'yaw_sigma', 'size_frames'):
            if not getattr(self, name):
                raise ValueError(f'{name} must be above 0, got {getattr(self, name)}')


@dataclass(frozen=True)
class TrackStates(StructOfArrays):
    """
    States of T tracks, in the fixed frame.

    :param id: (T,) unique ids, never reused.
    :param camera: (T,) name of the camera of the last detection.
    :param class_id: (T,) class of the detections.
    :param score: (T,) score of the last detection.
    :param motion: (T, 5) centre x y z, metres, and velocity x y, m/s.
    :param covariance: (T, 5, 5) covariance of motion.
    :param yaw: (T,) heading about z, 0 along x, radians.
    :param yaw_variance: (T,) variance of yaw, rad^2.
    :param size_hwl_m: (T, 3) height, width, length.
    :param box_px: (T, 4) 2D box of the last detection.
    :param flips: (T,) number of consecutive detections with the opposite heading.
    :param hits: (T,) number of detections.
    :param misses: (T,) number of consecutive frames of its camera without a detection.
    :param time_since_update_s: (T,) time since the last detection.
    """

    id: Array
    camera: Array
    class_id: Array
    score: Array
    motion: Array
    covariance: Array
    yaw: Array
    yaw_variance: Array
    size_hwl_m: Array
    box_px: Array
    flips: Array
    hits: Array
    misses: Array
    time_since_update_s: Array

    FIELD_SHAPES: ClassVar[dict[str, tuple[int, ...]]] = {
        'id': (),
        'camera': (),
        'class_id': (),
        'score': (),
        'motion': (5,),
        'covariance': (5, 5),
        'yaw': (),
        'yaw_variance': (),
        'size_hwl_m': (3,),
        'box_px': (4,),
        'flips': (),
        'hits': (),
        'misses': (),
        'time_since_update_s': (),
    }
    FIELD_DTYPES: ClassVar[dict[str, Any]] = {
        'camera': np.str_,
        **{name: np.int64 for name in ('id', 'class_id', 'flips', 'hits', 'misses')},
    }


@dataclass(frozen=True)
class Measurements(StructOfArrays):
    """N detections of one camera in the fixed frame; covariance is that of the centres, m^2."""

    camera: Array
    class_id: Array
    score: Array
    center_m: Array
    covariance: Array
    yaw: Array
    size_hwl_m: Array
    box_px: Array

    FIELD_SHAPES: ClassVar[dict[str, tuple[int, ...]]] = {
        'camera': (),
        'class_id': (),
        'score': (),
        'center_m': (3,),
        'covariance': (3, 3),
        'yaw': (),
        'size_hwl_m': (3,),
        'box_px': (4,),
    }
    FIELD_DTYPES: ClassVar[dict[str, Any]] = {'camera': np.str_, 'class_id': np.int64}


def to_measurements(
    camera: str, objects: Objects3D, fixed_T_cam: Array, noise: Noise
) -> Measurements:
    """
    Transform objects to the fixed frame, with depth noise along rays and bearing noise across.

    :param camera: name of the camera.
    :param objects: N objects, camera frame.
    :param fixed_T_cam: (4, 4) transform from the camera to the fixed frame.
    :param noise: measurement noise.
    :return: N measurements, fixed frame.
    """
    rotation, translation = fixed_T_cam[:3, :3], fixed_T_cam[:3, 3]
    center = objects.center_m @ rotation.T
    distance_squared = (center**2).sum(1)[:, None, None]
    ray = center[:, :, None] * center[:, None, :]
    covariance = rotation @ depth_covariance(objects) @ rotation.T
    covariance += noise.bearing_sigma**2 * (distance_squared * np.eye(3) - ray)
    covariance += noise.position_sigma_m**2 * np.eye(3)
    cos, sin = np.cos(objects.rotation_y), np.sin(objects.rotation_y)
    heading = np.column_stack([cos, np.zeros(len(cos)), -sin]) @ rotation.T
    return Measurements(
        camera=np.full(len(objects), camera),
        class_id=objects.class_id,
        score=objects.score,
        center_m=center + translation,
        covariance=covariance,
        yaw=np.arctan2(heading[:, 1], heading[:, 0]),
        size_hwl_m=objects.size_hwl_m,
        box_px=objects.box_px,
    )


def init_tracks(measurements: Measurements, first_id: int, noise: Noise) -> TrackStates:
    """Initialise one track per measurement, with consecutive ids from first_id."""
    count = len(measurements)
    covariance = np.zeros((count, 5, 5))
    covariance[:, :3, :3] = measurements.covariance
    covariance[:, [3, 4], [3, 4]] = noise.first_speed_m_s**2
    return TrackStates(
        id=first_id + np.arange(count),
        camera=measurements.camera,
        class_id=measurements.class_id,
        score=measurements.score,
        motion=np.column_stack([measurements.center_m, np.zeros((count, 2))]),
        covariance=covariance,
        yaw=measurements.yaw,
        yaw_variance=np.full(count, noise.yaw_sigma**2),
        size_hwl_m=measurements.size_hwl_m,
        box_px=measurements.box_px,
        flips=np.zeros(count),
        hits=np.ones(count),
        misses=np.zeros(count),
        time_since_update_s=np.zeros(count),
    )


def predict_states(states: TrackStates, dt_s: float, noise: Noise) -> TrackStates:
    """
    Predict states after a time step; two short steps equal one long step.

    dt_s may be negative: images of several cameras arrive slightly out of order.
    """
    transition, abs_dt_s = np.eye(5), abs(dt_s)
    transition[0, 3] = transition[1, 4] = dt_s
    process_noise = np.zeros((5, 5))
    process_noise[[0, 1], [0, 1]] = noise.acceleration_psd * abs_dt_s**3 / 3
    process_noise[[0, 1, 3, 4], [3, 4, 0, 1]] = noise.acceleration_psd * dt_s * abs_dt_s / 2
    process_noise[[3, 4], [3, 4]] = noise.acceleration_psd * abs_dt_s
    process_noise[2, 2] = noise.climb_psd * abs_dt_s
    return replace(
        states,
        motion=states.motion @ transition.T,
        covariance=transition @ states.covariance @ transition.T + process_noise,
        yaw_variance=states.yaw_variance + noise.yaw_psd * abs_dt_s,
        time_since_update_s=np.maximum(states.time_since_update_s + dt_s, 0.0),
    )


def update_states(states: TrackStates, measurements: Measurements, noise: Noise) -> TrackStates:
    """Update each track with the measurement in the same row."""
    gain = states.covariance[:, :, :3] @ np.linalg.inv(
        states.covariance[:, :3, :3] + measurements.covariance
    )
    innovation = measurements.center_m - states.motion[:, :3]
    keep = np.eye(5) - np.concatenate([gain, np.zeros((len(states), 5, 2))], 2)
    measurement_noise = gain @ measurements.covariance @ gain.transpose(0, 2, 1)
    yaw_error = wrap_angle(measurements.yaw - states.yaw)
    reverse = np.abs(yaw_error) > np.pi / 2  # front and back look alike: more likely than a U-turn
    flips = np.where(reverse, states.flips + 1, 0)
    yaw_gain = states.yaw_variance / (states.yaw_variance + noise.yaw_sigma**2)
    yaw = states.yaw + yaw_gain * np.where(reverse, wrap_angle(yaw_error + np.pi), yaw_error)
    size_gain = 1 / np.minimum(states.hits + 1, noise.size_frames)
    return replace(
        states,
        camera=measurements.camera,
        score=measurements.score,
        motion=states.motion + np.einsum('tij,tj->ti', gain, innovation),
        covariance=keep @ states.covariance @ keep.transpose(0, 2, 1) + measurement_noise,
        yaw=wrap_angle(np.where(flips >= FLIP_FRAMES, yaw + np.pi, yaw)),
        yaw_variance=(1 - yaw_gain) * states.yaw_variance,
        size_hwl_m=states.size_hwl_m
        + size_gain[:, None] * (measurements.size_hwl_m - states.size_hwl_m),
        box_px=measurements.box_px,
        flips=np.where(flips >= FLIP_FRAMES, 0, flips),
        hits=states.hits + 1,
        misses=np.zeros(len(states)),
        time_since_update_s=np.zeros(len(states)),
    )


def concatenate_states(a: TrackStates, b: TrackStates) -> TrackStates:
    """Concatenate two sets of tracks."""
    return TrackStates(
        **{
            name: np.concatenate([getattr(a, name), getattr(b, name)])
            for name in TrackStates.FIELD_SHAPES
        }
    )
