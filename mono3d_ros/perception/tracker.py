"""
Multi-object tracker: stable ids, velocities and smoothed boxes, over several cameras.

Tracks are states of kalman_filter.py in a fixed frame. With known camera poses that frame is odom:
a parked car then has zero velocity, and a track continues from the image of one camera to that of
another. Otherwise it is the upright frame of each camera, and velocities are relative to the
camera.

Detections are assigned to tracks of their class by Mahalanobis distance on the ground plane, as a
likelihood, not by IoU: boxes with metres of depth error do not overlap from frame to frame, while
an ellipse along the ray still separates two cars side by side. The assignment is optimal over all
pairs (Hungarian algorithm).

Pure functions: no clock, no ROS; the state is passed in and returned.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment

from mono3d_ros.camera_frame import FrameResult
from mono3d_ros.perception.kalman_filter import (
    Measurements,
    Noise,
    TrackStates,
    concatenate_states,
    init_tracks,
    predict_states,
    to_measurements,
    update_states,
)
from stl_core.geometry import wrap_angle
from stl_core.types import Array, Objects3D

#: (4, 4) from the frame of an upright camera to x forward, y left, z up, with the same origin.
UPRIGHT_T_CAM = np.array([[0.0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]])

#: Cost of pairs outside the gate, higher than any cost inside it.
_FORBIDDEN_COST = 1e6


@dataclass(frozen=True)
class TrackerConfig:
    """
    Configuration of the tracker.

    :param noise: noise of the Kalman filter.
    :param gate: largest squared Mahalanobis distance on the ground plane between a detection and
        its track; 9.21 accepts 99 % of the true pairs.
    :param min_hits: detections needed before a track is published.
    :param max_tentative_misses: a track with fewer hits ends after more consecutive misses.
    :param max_time_since_update_s: a track ends after this time without a detection.
    :param max_coasting_misses: a track is published, at its predicted position, for at most this
        number of consecutive misses.
    """

    noise: Noise = field(default_factory=Noise)
    gate: float = 9.21
    min_hits: int = 2
    max_tentative_misses: int = 1
    max_time_since_update_s: float = 1.0
    max_coasting_misses: int = 1

    def __post_init__(self) -> None:
        """Raise ValueError for values with which no track can exist."""
        if not (self.gate > 0 and self.max_time_since_update_s > 0 and self.min_hits >= 1):
            raise ValueError(
                'gate and max_time_since_update_s must be above 0 and min_hits at least 1, got '
                f'{self.gate}, {self.max_time_since_update_s} and {self.min_hits}'
            )


class CameraDetections(NamedTuple):
    """
    Detections of one camera at one time.

    :param camera: name of the camera.
    :param objects: N objects in the camera frame; N may be 0.
    :param stamp_ns: time of the image.
    :param fixed_T_cam: (4, 4) from the camera to the frame of the tracks, z up, at that time.
    """

    camera: str
    objects: Objects3D
    stamp_ns: int
    fixed_T_cam: Array


@dataclass(frozen=True)
class Tracks:
    """
    All tracks in one fixed frame.

    :param states: states of the tracks at stamp_ns.
    :param stamp_ns: time of the last processed detections.
    :param next_id: id of the next new track.
    :param last_stamp_ns: camera -> stamp of its last detections.
    """

    states: TrackStates
    stamp_ns: int = 0
    next_id: int = 0
    last_stamp_ns: Mapping[str, int] = field(default_factory=dict)


#: Tracks before the first detections.
NO_TRACKS = Tracks(TrackStates.empty())


@dataclass(frozen=True)
class TrackerState:
    """
    The tracks of all cameras.

    :param shared: tracks of the cameras whose pose in the fixed frame is known.
    :param per_camera: other camera -> its tracks, in its upright frame.
    """

    shared: Tracks = NO_TRACKS
    per_camera: Mapping[str, Tracks] = field(default_factory=dict)


#: State before the first frame.
INITIAL_STATE = TrackerState()


class TrackedDetections(NamedTuple):
    """
    The tracks to publish for the detections of one camera.

    :param objects: N smoothed objects in the camera frame.
    :param ids: N track ids.
    :param velocity_m_s: (N, 3) along the axes of the camera, relative to the frame of the tracks.
    """

    objects: Objects3D
    ids: tuple[int, ...]
    velocity_m_s: Array


def track_objects(
    state: TrackerState,
    results: Sequence[FrameResult],
    fixed_T_cams: Sequence[Array | None],
    config: TrackerConfig,
) -> tuple[TrackerState, list[FrameResult]]:
    """
    Replace the objects of results by tracks.

    :param state: state after the last step, INITIAL_STATE before the first.
    :param results: at most one per camera.
    :param fixed_T_cams: (4, 4) from each camera to the fixed frame at the time of its frame; None
        if unknown: such a camera has its own tracks.
    :param config: configuration of the tracker.
    :return: the new state, and the results with smoothed objects, stable unique ids and
        velocities: over the ground, or relative to a camera of unknown pose.
    """
    detections = [
        CameraDetections(
            each.camera, each.objects, each.stamp_ns, UPRIGHT_T_CAM if pose is None else pose
        )
        for each, pose in zip(results, fixed_T_cams, strict=True)
    ]
    with_pose = [i for i, pose in enumerate(fixed_T_cams) if pose is not None]
    shared, outputs = update_tracks(state.shared, [detections[i] for i in with_pose], config)
    tracked = dict(zip(with_pose, outputs, strict=True))
    per_camera, next_id = dict(state.per_camera), shared.next_id
    for i, each in enumerate(detections):
        before = per_camera.pop(each.camera, NO_TRACKS)  # these end once the pose is known
        if i not in tracked:
            tracks, (tracked[i],) = update_tracks(replace(before, next_id=next_id), [each], config)
            per_camera[each.camera], next_id = tracks, tracks.next_id
    tracked_results = [
        replace(result, objects=objects, ids=ids, velocity_m_s=velocity)
        for result, (objects, ids, velocity) in zip(
            results, (tracked[i] for i in range(len(results))), strict=True
        )
    ]
    return TrackerState(replace(shared, next_id=next_id), per_camera), tracked_results


def update_tracks(
    tracks: Tracks, detections: Sequence[CameraDetections], config: TrackerConfig
) -> tuple[Tracks, list[TrackedDetections]]:
    """
    Update tracks with the detections of several cameras at about the same time.

    A track is published for the camera of its last detection only. It counts a miss if that
    camera and all others do not detect it. If time jumps back (a bag is played again), all tracks
    end; ids are not reused.

    :param tracks: tracks after the last update, NO_TRACKS before the first.
    :param detections: at most one per camera.
    :param config: configuration of the tracker.
    :return: the updated tracks, and for each camera its tracks to publish.
    """
    if not detections:
        return tracks, []
    tracks = _reset_on_time_jump(tracks, detections, config)
    after: dict[int, TrackStates] = {}
    for i in sorted(range(len(detections)), key=lambda i: detections[i].stamp_ns):
        tracks = _process_camera(tracks, detections[i], config)
        after[i] = tracks.states
    states = tracks.states
    lost = (states.hits < config.min_hits) & (states.misses > config.max_tentative_misses)
    tracks = replace(tracks, states=states[~lost])
    return tracks, [
        _to_tracked_detections(
            _published_states(after[i], tracks.states, each.camera, config), each.fixed_T_cam
        )
        for i, each in enumerate(detections)
    ]


def _reset_on_time_jump(
    tracks: Tracks, detections: Sequence[CameraDetections], config: TrackerConfig
) -> Tracks:
    """End all tracks if the stamp of one camera jumped back, or those of all cameras far back."""
    replayed = any(each.stamp_ns < tracks.last_stamp_ns.get(each.camera, 0) for each in detections)
    first_ns = min(each.stamp_ns for each in detections)
    if replayed or first_ns < tracks.stamp_ns - config.max_time_since_update_s * 1e9:
        return replace(NO_TRACKS, next_id=tracks.next_id)
    return tracks


def _process_camera(tracks: Tracks, detections: CameraDetections, config: TrackerConfig) -> Tracks:
    """Predict tracks to the time of an image, update them, and initialise new tracks."""
    dt_s = (detections.stamp_ns - tracks.stamp_ns) / 1e9
    states = predict_states(tracks.states, dt_s, config.noise)
    states = states[states.time_since_update_s <= config.max_time_since_update_s]
    measurements = to_measurements(
        detections.camera, detections.objects, detections.fixed_T_cam, config.noise
    )
    rows, columns = _associate(states, measurements, config.gate)
    missed = states[np.setdiff1d(np.arange(len(states)), rows)]
    missed = replace(missed, misses=missed.misses + (missed.camera == detections.camera))
    updated = update_states(states[rows], measurements[columns], config.noise)
    new = measurements[np.setdiff1d(np.arange(len(measurements)), columns)]
    return Tracks(
        states=concatenate_states(
            concatenate_states(updated, missed), init_tracks(new, tracks.next_id, config.noise)
        ),
        stamp_ns=detections.stamp_ns,
        next_id=tracks.next_id + len(new),
        last_stamp_ns={**tracks.last_stamp_ns, detections.camera: detections.stamp_ns},
    )


def _published_states(
    at_image: TrackStates, latest: TrackStates, camera: str, config: TrackerConfig
) -> TrackStates:
    """
    Return the states to publish for one camera.

    :param at_image: states at the time of the camera's image.
    :param latest: states after the images of all cameras.
    :param camera: name of the camera.
    :param config: configuration of the tracker.
    :return: rows of at_image.
    """
    published = (latest.camera == camera) & (latest.hits >= config.min_hits)
    published &= latest.misses <= config.max_coasting_misses
    return at_image[np.isin(at_image.id, latest.id[published])]


def _associate(
    states: TrackStates, measurements: Measurements, gate: float
) -> tuple[Array, Array]:
    """
    Assign measurements to tracks: most pairs within the gate, then the highest likelihood.

    Ignores height, because a bump in the road shifts all objects in the image vertically.

    :return: (M,) rows of states and (M,) rows of measurements.
    """
    offset = states.motion[:, None, :2] - measurements.center_m[None, :, :2]
    covariance = states.covariance[:, None, :2, :2] + measurements.covariance[None, :, :2, :2]
    distance_squared = np.einsum('tni,tnij,tnj->tn', offset, np.linalg.inv(covariance), offset)
    allowed = (states.class_id[:, None] == measurements.class_id) & (distance_squared <= gate)
    cost = np.where(allowed, distance_squared + np.log(np.linalg.det(covariance)), _FORBIDDEN_COST)
    rows, columns = linear_sum_assignment(cost)
    valid = allowed[rows, columns]
    return rows[valid], columns[valid]


def _to_tracked_detections(states: TrackStates, fixed_T_cam: Array) -> TrackedDetections:
    """Transform tracks to the camera frame, the oldest first."""
    states = states[np.argsort(states.id)]
    rotation, translation = fixed_T_cam[:3, :3], fixed_T_cam[:3, 3]
    zeros = np.zeros(len(states))
    heading = np.column_stack([np.cos(states.yaw), np.sin(states.yaw), zeros]) @ rotation
    depth_variance = np.einsum(
        'i,tij,j->t', rotation[:, 2], states.covariance[:, :3, :3], rotation[:, 2]
    )
    objects = Objects3D(
        class_id=states.class_id,
        score=states.score,
        center_m=(states.motion[:, :3] - translation) @ rotation,
        size_hwl_m=states.size_hwl_m,
        rotation_y=wrap_angle(np.arctan2(-heading[:, 2], heading[:, 0])),
        box_px=states.box_px,
        depth_sigma_m=np.sqrt(depth_variance),
    )
    velocity_m_s = np.column_stack([states.motion[:, 3:], zeros]) @ rotation
    return TrackedDetections(objects, tuple(states.id.tolist()), velocity_m_s)
