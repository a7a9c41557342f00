"""
Where the objects of a track are, where they go, and how sure that is: a Kalman filter a track.

All tracks at once, in a frame that does not turn, x forward, y left, z up. Velocity over the
ground is constant but for white noise, so that irregular stamps are as good as regular ones.
Height, yaw and size stay but for noise of their own.

A monocular detector is sure of where an object lies in the image and unsure of how far. Its own
depth_sigma_m is the noise along the ray through the object; across it, noise is that of a
bearing.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar

import numpy as np

from stl_core.geometry import depth_covariance, wrap_angle
from stl_core.types import Array, Objects3D, StructOfArrays

#: How many frames in a row must see an object the other way round before it is turned.
FLIP_FRAMES = 3


@dataclass(frozen=True)
class Noise:
    """
    What is not known: of objects from frame to frame, and of what is seen of them.

    :param acceleration_psd: how fast velocity wanders, m^2/s^3.
    :param climb_psd: how fast height over the ground wanders, m^2/s.
    :param yaw_psd: how fast yaw wanders, rad^2/s.
    :param first_speed_m_s: standard deviation of the speed of what was seen once.
    :param bearing_sigma: standard deviation of a bearing, radians.
    :param position_sigma_m: standard deviation of a centre in any direction, on top of the rest.
    :param yaw_sigma: standard deviation of a yaw, radians.
    :param size_frames: sizes are averaged over about so many frames.
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
        """Refuse what a filter cannot work with."""
        for name, value in asdict(self).items():
            if not 0 <= value < np.inf:
                raise ValueError(f'{name} must be 0 or more, got {value}')
        for name in ('position_sigma_m', 'yaw_sigma', 'size_frames'):
            if not getattr(self, name):
                raise ValueError(f'{name} must be above 0, got {getattr(self, name)}')


@dataclass(frozen=True)
class TrackStates(StructOfArrays):
    """
    What is believed of T objects, in the fixed frame.

    :param id: (T,) never used again.
    :param camera: (T,) name of the camera that saw it last.
    :param class_id: (T,) as the objects'.
    :param score: (T,) of the object last seen.
    :param motion: (T, 5) centre x y z, metres, and velocity x y, m/s.
    :param covariance: (T, 5, 5) of that.
    :param yaw: (T,) heading about z, 0 along x.
    :param yaw_variance: (T,).
    :param size_hwl_m: (T, 3) height, width, length.
    :param box_px: (T, 4) 2D box of the object last seen.
    :param flips: (T,) in how many frames in a row it was seen the other way round.
    :param hits: (T,) in how many frames it was seen.
    :param misses: (T,) in how many frames in a row it is not seen.
    :param time_since_update_s: (T,) for how long.
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
    """N objects of one camera in the fixed frame; covariance is that of their centres."""

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
    Bring objects into the fixed frame; depth errs along the ray, the bearing across it.

    :param camera: name of it.
    :param objects: N objects, camera frame.
    :param fixed_T_cam: (4, 4) place of the camera.
    :param noise: of what is seen.
    :return: N objects, fixed frame.
    """
    turn, place = fixed_T_cam[:3, :3], fixed_T_cam[:3, 3]
    center = objects.center_m @ turn.T
    squared_m2 = (center**2).sum(1)[:, None, None]
    ray = center[:, :, None] * center[:, None, :]
    covariance = turn @ depth_covariance(objects) @ turn.T
    covariance += noise.bearing_sigma**2 * (squared_m2 * np.eye(3) - ray)
    covariance += noise.position_sigma_m**2 * np.eye(3)
    cos, sin = np.cos(objects.rotation_y), np.sin(objects.rotation_y)
    heading = np.column_stack([cos, np.zeros(len(cos)), -sin]) @ turn.T
    return Measurements(
        camera=np.full(len(objects), camera),
        class_id=objects.class_id,
        score=objects.score,
        center_m=center + place,
        covariance=covariance,
        yaw=np.arctan2(heading[:, 1], heading[:, 0]),
        size_hwl_m=objects.size_hwl_m,
        box_px=objects.box_px,
    )


def init_tracks(measurements: Measurements, first_id: int, noise: Noise) -> TrackStates:
    """Begin a track for each object."""
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
    Move on by a time; noise grows so that two short steps do what a long one does.

    Back as well: cameras do not take their images, nor do these arrive, quite at once.
    """
    step, long_s = np.eye(5), abs(dt_s)
    step[0, 3] = step[1, 4] = dt_s
    grown = np.zeros((5, 5))
    grown[[0, 1], [0, 1]] = noise.acceleration_psd * long_s**3 / 3
    grown[[0, 1, 3, 4], [3, 4, 0, 1]] = noise.acceleration_psd * dt_s * long_s / 2
    grown[[3, 4], [3, 4]] = noise.acceleration_psd * long_s
    grown[2, 2] = noise.climb_psd * long_s
    return replace(
        states,
        motion=states.motion @ step.T,
        covariance=step @ states.covariance @ step.T + grown,
        yaw_variance=states.yaw_variance + noise.yaw_psd * long_s,
        time_since_update_s=np.maximum(states.time_since_update_s + dt_s, 0.0),
    )


def update_states(states: TrackStates, measurements: Measurements, noise: Noise) -> TrackStates:
    """Pull tracks towards what was seen of them, row by row."""
    gain = states.covariance[:, :, :3] @ np.linalg.inv(
        states.covariance[:, :3, :3] + measurements.covariance
    )
    off = measurements.center_m - states.motion[:, :3]
    keep = np.eye(5) - np.concatenate([gain, np.zeros((len(states), 5, 2))], 2)
    taken = gain @ measurements.covariance @ gain.transpose(0, 2, 1)
    turn = wrap_angle(measurements.yaw - states.yaw)
    reverse = np.abs(turn) > np.pi / 2  # front and back look alike: more likely than a turn
    turns = np.where(reverse, states.flips + 1, 0)
    yaw_gain = states.yaw_variance / (states.yaw_variance + noise.yaw_sigma**2)
    yaw = states.yaw + yaw_gain * np.where(reverse, wrap_angle(turn + np.pi), turn)
    share = 1 / np.minimum(states.hits + 1, noise.size_frames)
    return replace(
        states,
        camera=measurements.camera,
        score=measurements.score,
        motion=states.motion + np.einsum('tij,tj->ti', gain, off),
        covariance=keep @ states.covariance @ keep.transpose(0, 2, 1) + taken,
        yaw=wrap_angle(np.where(turns >= FLIP_FRAMES, yaw + np.pi, yaw)),
        yaw_variance=(1 - yaw_gain) * states.yaw_variance,
        size_hwl_m=states.size_hwl_m
        + share[:, None] * (measurements.size_hwl_m - states.size_hwl_m),
        box_px=measurements.box_px,
        flips=np.where(turns >= FLIP_FRAMES, 0, turns),
        hits=states.hits + 1,
        misses=np.zeros(len(states)),
        time_since_update_s=np.zeros(len(states)),
    )


def concatenate_states(a: TrackStates, b: TrackStates) -> TrackStates:
    """Put the tracks of both into one."""
    return TrackStates(
        **{
            name: np.concatenate([getattr(a, name), getattr(b, name)])
            for name in TrackStates.FIELD_SHAPES
        }
    )
