"""
Which object of this frame is which of the last: stable ids, speeds and smoothed boxes.

Tracks are followed by motion.py in a fixed frame. That is odom where the caller knows where the
camera stands in it, so that a parked car has no speed. Else it is the camera's own place, turned
upright, and speeds are relative to the camera.

Objects meet tracks of their class by Mahalanobis distance over the ground, weighed as a
likelihood, not by IoU: boxes whose depth errs by metres do not overlap from frame to frame, while
an ellipse along the ray still tells two cars side by side apart. The pairs are chosen all at once
(Hungarian).

Pure: no clock, no ROS; the state is a value that goes in and comes out.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment

from mono3d_ros.motion import Noise, Seen, States, born, correct, join, observe, predict
from mono3d_ros.stream import FrameResult
from stl_core.geometry import wrap_angle
from stl_core.types import Array, Objects3D

#: (4, 4) frame of an upright camera -> x forward, y left, z up, where the camera is the origin.
UPRIGHT_T_CAM = np.array([[0.0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]])

#: A cost that no pair within the gate can have.
_NEVER = 1e6


@dataclass(frozen=True)
class Config:
    """
    How objects are followed.

    :param noise: of the filter.
    :param gate: most squared Mahalanobis distance over the ground of an object from its track;
        9.21 holds 99 % of the true ones.
    :param birth_hits: a track is answered once it was seen so often.
    :param birth_misses: a track not yet answered ends when missed in more frames in a row.
    :param death_s: a track ends after so long unseen.
    :param shown_misses: a track is answered while it was missed in at most so many frames in a
        row, from where it should be.
    """

    noise: Noise = field(default_factory=Noise)
    gate: float = 9.21
    birth_hits: int = 2
    birth_misses: int = 1
    death_s: float = 1.0
    shown_misses: int = 1

    def __post_init__(self) -> None:
        """Refuse a gate that lets nothing in, and tracks that end before they begin."""
        if not (self.gate > 0 and self.death_s > 0 and self.birth_hits >= 1):
            raise ValueError(
                'gate and death_s must be above 0 and birth_hits at least 1, got '
                f'{self.gate}, {self.death_s} and {self.birth_hits}'
            )


@dataclass(frozen=True)
class Tracks:
    """
    All that is remembered of one camera between two frames.

    :param states: of the objects.
    :param stamp_ns: of the last frame.
    :param next_id: the id of the next new track.
    :param in_odom: whether the fixed frame is odom.
    """

    states: States
    stamp_ns: int
    next_id: int
    in_odom: bool


#: Before the first frame.
NO_TRACKS = Tracks(States.empty(), 0, 0, False)


class Answers(NamedTuple):
    """
    What is told of a frame.

    :param objects: N objects in the camera frame, smoothed.
    :param ids: N numbers, the same for one object in all frames.
    :param velocity_m_s: (N, 3) along the axes of the camera: over the ground where odom is known,
        else relative to the camera.
    """

    objects: Objects3D
    ids: tuple[int, ...]
    velocity_m_s: Array


def update(
    tracks: Tracks,
    objects: Objects3D,
    stamp_ns: int,
    config: Config,
    odom_T_cam: Array | None = None,
) -> tuple[Tracks, Answers]:
    """
    Take in a frame.

    Where the stamp is before the last one (a bag that is played again), or odom comes or goes,
    all tracks end; ids go on.

    :param tracks: what the last frame of this camera left, NO_TRACKS before the first.
    :param objects: N objects in the camera frame; none is a frame like any other.
    :param stamp_ns: when the frame was taken.
    :param config: how objects are followed.
    :param odom_T_cam: (4, 4) place of the camera at that time in a frame that does not move, z
        up; None where it is not known.
    :return: what the next frame needs, and the tracks seen often enough.
    """
    in_odom = odom_T_cam is not None
    fixed_T_cam = UPRIGHT_T_CAM if odom_T_cam is None else np.asarray(odom_T_cam, np.float64)
    states = tracks.states
    if stamp_ns < tracks.stamp_ns or in_odom != tracks.in_odom:
        states = states[:0]
    states = predict(states, (stamp_ns - tracks.stamp_ns) / 1e9, config.noise)
    states = states[states.unseen_s <= config.death_s]
    seen = observe(objects, fixed_T_cam, config.noise)
    rows, found = _associate(states, seen, config.gate)
    lost = _missed(states[np.setdiff1d(np.arange(len(states)), rows)], config)
    states = join(correct(states[rows], seen[found], config.noise), lost)
    new = np.setdiff1d(np.arange(len(objects)), found)
    states = join(states, born(seen[new], tracks.next_id, config.noise))
    tracks = Tracks(states, stamp_ns, tracks.next_id + len(new), in_odom)
    told = (states.hits >= config.birth_hits) & (states.misses <= config.shown_misses)
    return tracks, _answer(states[told], fixed_T_cam)


def follow(
    tracks: Tracks, result: FrameResult, config: Config, odom_T_cam: Array | None = None
) -> tuple[Tracks, FrameResult]:
    """Put tracks in the place of a result's objects; parameters as in update."""
    tracks, answers = update(tracks, result.objects, result.stamp_ns, config, odom_T_cam)
    return tracks, replace(result, objects=answers.objects, ids=answers.ids)


def _associate(states: States, seen: Seen, gate: float) -> tuple[Array, Array]:
    """
    Pair tracks with objects: as many as the gate lets, then the likeliest of all ways to do so.

    Height is left out, for a bump in the road lifts and lowers the whole picture.

    :return: (M,) rows of states and (M,) rows of seen.
    """
    apart = states.motion[:, None, :2] - seen.center_m[None, :, :2]
    spread = states.covariance[:, None, :2, :2] + seen.covariance[None, :, :2, :2]
    squared = np.einsum('tni,tnij,tnj->tn', apart, np.linalg.inv(spread), apart)
    can = (states.class_id[:, None] == seen.class_id) & (squared <= gate)
    cost = np.where(can, squared + np.log(np.linalg.det(spread)), _NEVER)
    rows, found = linear_sum_assignment(cost)
    kept = can[rows, found]
    return rows[kept], found[kept]


def _missed(states: States, config: Config) -> States:
    """Count that tracks were missed; those not yet answered may end with it."""
    states = replace(states, misses=states.misses + 1)
    return states[(states.hits >= config.birth_hits) | (states.misses <= config.birth_misses)]


def _answer(states: States, fixed_T_cam: Array) -> Answers:
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
    return Answers(objects, tuple(states.id.tolist()), velocity_m_s)
