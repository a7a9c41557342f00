"""
Which object of this frame is which of the last: stable ids, speeds and smoothed boxes.

Tracks are followed by motion.py in a fixed frame. That is odom where the caller knows where the
cameras stand in it: then a parked car has no speed, and what leaves the image of one camera goes
on in that of another. Else it is each camera's own place, turned upright, and speeds are relative
to the camera.

Objects meet tracks of their class by Mahalanobis distance over the ground, weighed as a
likelihood, not by IoU: boxes whose depth errs by metres do not overlap from frame to frame, while
an ellipse along the ray still tells two cars side by side apart. The pairs are chosen all at once
(Hungarian).

Pure: no clock, no ROS; the state is a value that goes in and comes out.
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

#: (4, 4) frame of an upright camera -> x forward, y left, z up, where the camera is the origin.
UPRIGHT_T_CAM = np.array([[0.0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]])

#: A cost that no pair within the gate can have.
_FORBIDDEN_COST = 1e6


@dataclass(frozen=True)
class TrackerConfig:
    """
    How objects are followed.

    :param noise: of the filter.
    :param gate: most squared Mahalanobis distance over the ground of an object from its track;
        9.21 holds 99 % of the true ones.
    :param min_hits: a track is answered once it was seen so often.
    :param max_tentative_misses: a track not yet answered ends when missed in more frames in a row.
    :param max_time_since_update_s: a track ends after so long unseen.
    :param max_coasting_misses: a track is answered while it was missed in at most so many frames
        in a row, from where it should be.
    """

    noise: Noise = field(default_factory=Noise)
    gate: float = 9.21
    min_hits: int = 2
    max_tentative_misses: int = 1
    max_time_since_update_s: float = 1.0
    max_coasting_misses: int = 1

    def __post_init__(self) -> None:
        """Refuse a gate that lets nothing in, and tracks that end before they begin."""
        if not (self.gate > 0 and self.max_time_since_update_s > 0 and self.min_hits >= 1):
            raise ValueError(
                'gate and death_s must be above 0 and birth_hits at least 1, got '
                f'{self.gate}, {self.max_time_since_update_s} and {self.min_hits}'
            )


class CameraDetections(NamedTuple):
    """
    What one camera saw at one time.

    :param camera: its name.
    :param objects: N objects in the camera frame; none is a look like any other.
    :param stamp_ns: when.
    :param fixed_T_cam: (4, 4) where the camera was then, in the frame of the tracks, z up.
    """

    camera: str
    objects: Objects3D
    stamp_ns: int
    fixed_T_cam: Array


@dataclass(frozen=True)
class Tracks:
    """
    All that is remembered between two times, in one fixed frame.

    :param states: of the objects, at stamp_ns.
    :param stamp_ns: of the last look.
    :param next_id: the id of the next new track.
    :param last_stamp_ns: camera -> the stamp of its last look.
    """

    states: TrackStates
    stamp_ns: int = 0
    next_id: int = 0
    last_stamp_ns: Mapping[str, int] = field(default_factory=dict)


#: Before the first look.
NO_TRACKS = Tracks(TrackStates.empty())


@dataclass(frozen=True)
class TrackerState:
    """
    The tracks of all cameras.

    :param shared: of the cameras whose place in the fixed frame is known.
    :param per_camera: camera -> its tracks in a frame of its own.
    """

    shared: Tracks = NO_TRACKS
    per_camera: Mapping[str, Tracks] = field(default_factory=dict)


#: Before the first frame.
INITIAL_STATE = TrackerState()


class TrackedDetections(NamedTuple):
    """
    What is told of a look.

    :param objects: N objects in the camera frame, smoothed.
    :param ids: N numbers, the same for one object in all looks.
    :param velocity_m_s: (N, 3) along the axes of the camera, in the frame of the tracks.
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
    Put tracks in the place of the results' objects.

    :param state: what the last step left, NO_MEMORY before the first.
    :param results: at most one a camera.
    :param fixed_T_cams: where each camera was at the time of its frame, see Look; None where that
        is not known: such a camera has tracks of its own.
    :param config: how objects are followed.
    :return: what the next step needs, and the results with smoothed objects, stable ids, no id
        twice, and velocities: over the ground or, without a place, relative to the camera.
    """
    looks = [
        CameraDetections(
            each.camera, each.objects, each.stamp_ns, UPRIGHT_T_CAM if place is None else place
        )
        for each, place in zip(results, fixed_T_cams, strict=True)
    ]
    placed = [i for i, place in enumerate(fixed_T_cams) if place is not None]
    together, told = update_tracks(state.shared, [looks[i] for i in placed], config)
    answers = dict(zip(placed, told, strict=True))
    alone, next_id = dict(state.per_camera), together.next_id
    for i, look in enumerate(looks):
        before = alone.pop(look.camera, NO_TRACKS)  # a camera whose place is known begins anew
        if i not in answers:
            tracks, (answers[i],) = update_tracks(replace(before, next_id=next_id), [look], config)
            alone[look.camera], next_id = tracks, tracks.next_id
    followed = [
        replace(result, objects=objects, ids=ids, velocity_m_s=velocity)
        for result, (objects, ids, velocity) in zip(
            results, (answers[i] for i in range(len(results))), strict=True
        )
    ]
    return TrackerState(replace(together, next_id=next_id), alone), followed


def update_tracks(
    tracks: Tracks, detections: Sequence[CameraDetections], config: TrackerConfig
) -> tuple[Tracks, list[TrackedDetections]]:
    """
    Take in what some cameras saw at about one time.

    A track is told to the camera that saw it last, so to one only. It is missed where that camera
    does not see it and no other one does. Where time jumps back (a bag that is played again) all
    tracks end; ids go on.

    :param tracks: what the last looks left, NO_TRACKS before the first.
    :param detections: at most one a camera.
    :param config: how objects are followed.
    :return: what the next looks need, and for each look the tracks seen often enough.
    """
    if not detections:
        return tracks, []
    tracks = _reset_on_time_jump(tracks, detections, config)
    after: dict[int, TrackStates] = {}
    for i in sorted(range(len(detections)), key=lambda i: detections[i].stamp_ns):
        tracks = _process_camera(tracks, detections[i], config)
        after[i] = tracks.states
    states = tracks.states
    young = (states.hits < config.min_hits) & (states.misses > config.max_tentative_misses)
    tracks = replace(tracks, states=states[~young])
    return tracks, [
        _to_tracked_detections(
            _published_states(after[i], tracks.states, look.camera, config), look.fixed_T_cam
        )
        for i, look in enumerate(detections)
    ]


def _reset_on_time_jump(
    tracks: Tracks, detections: Sequence[CameraDetections], config: TrackerConfig
) -> Tracks:
    """End all tracks where time jumped back: for one camera at all, for all of them by far."""
    again = any(look.stamp_ns < tracks.last_stamp_ns.get(look.camera, 0) for look in detections)
    first_ns = min(look.stamp_ns for look in detections)
    if again or first_ns < tracks.stamp_ns - config.max_time_since_update_s * 1e9:
        return replace(NO_TRACKS, next_id=tracks.next_id)
    return tracks


def _process_camera(tracks: Tracks, detections: CameraDetections, config: TrackerConfig) -> Tracks:
    """Move tracks to the time of a look, correct those that it saw, begin those that are new."""
    since_s = (detections.stamp_ns - tracks.stamp_ns) / 1e9
    states = predict_states(tracks.states, since_s, config.noise)
    states = states[states.time_since_update_s <= config.max_time_since_update_s]
    seen = to_measurements(
        detections.camera, detections.objects, detections.fixed_T_cam, config.noise
    )
    rows, found = _associate(states, seen, config.gate)
    rest = states[np.setdiff1d(np.arange(len(states)), rows)]
    rest = replace(rest, misses=rest.misses + (rest.camera == detections.camera))
    states = concatenate_states(update_states(states[rows], seen[found], config.noise), rest)
    new = np.setdiff1d(np.arange(len(seen)), found)
    return Tracks(
        states=concatenate_states(states, init_tracks(seen[new], tracks.next_id, config.noise)),
        stamp_ns=detections.stamp_ns,
        next_id=tracks.next_id + len(new),
        last_stamp_ns={**tracks.last_stamp_ns, detections.camera: detections.stamp_ns},
    )


def _published_states(
    at_image: TrackStates, latest: TrackStates, camera: str, config: TrackerConfig
) -> TrackStates:
    """
    Choose the tracks that are told of a look.

    :param at_image: as they were at the time of the look.
    :param latest: as they are after all looks.
    :param camera: of the look.
    """
    told = (latest.camera == camera) & (latest.hits >= config.min_hits)
    told &= latest.misses <= config.max_coasting_misses
    return at_image[np.isin(at_image.id, latest.id[told])]


def _associate(
    states: TrackStates, measurements: Measurements, gate: float
) -> tuple[Array, Array]:
    """
    Pair tracks with objects: as many as the gate lets, then the likeliest of all ways to do so.

    Height is left out, for a bump in the road lifts and lowers the whole picture.

    :return: (M,) rows of states and (M,) rows of seen.
    """
    apart = states.motion[:, None, :2] - measurements.center_m[None, :, :2]
    spread = states.covariance[:, None, :2, :2] + measurements.covariance[None, :, :2, :2]
    squared = np.einsum('tni,tnij,tnj->tn', apart, np.linalg.inv(spread), apart)
    can = (states.class_id[:, None] == measurements.class_id) & (squared <= gate)
    cost = np.where(can, squared + np.log(np.linalg.det(spread)), _FORBIDDEN_COST)
    rows, found = linear_sum_assignment(cost)
    kept = can[rows, found]
    return rows[kept], found[kept]


def _to_tracked_detections(states: TrackStates, fixed_T_cam: Array) -> TrackedDetections:
    """Bring tracks into the camera frame, the oldest first."""
    states = states[np.argsort(states.id)]
    turn, place = fixed_T_cam[:3, :3], fixed_T_cam[:3, 3]
    flat = np.zeros(len(states))
    heading = np.column_stack([np.cos(states.yaw), np.sin(states.yaw), flat]) @ turn
    depth_variance = np.einsum('i,tij,j->t', turn[:, 2], states.covariance[:, :3, :3], turn[:, 2])
    objects = Objects3D(
        class_id=states.class_id,
        score=states.score,
        center_m=(states.motion[:, :3] - place) @ turn,
        size_hwl_m=states.size_hwl_m,
        rotation_y=wrap_angle(np.arctan2(-heading[:, 2], heading[:, 0])),
        box_px=states.box_px,
        depth_sigma_m=np.sqrt(depth_variance),
    )
    velocity_m_s = np.column_stack([states.motion[:, 3:], flat]) @ turn
    return TrackedDetections(objects, tuple(states.id.tolist()), velocity_m_s)
