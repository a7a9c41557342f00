"""
One answer for each thing, also where the images of two cameras overlap.

stl_core/distinct.py keeps one object of a class in one place within an image; here the images are
those of cameras whose places on the vehicle are known.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stl_core.geometry import bev_intersection_area
from stl_core.types import Array, Objects3D


def suppress_duplicates(
    objects_per_camera: Sequence[Objects3D],
    vehicle_T_cams: Sequence[Array | None],
    max_overlap: float,
) -> list[Objects3D]:
    """
    Leave out objects that stand where another camera saw a surer one of their class.

    Objects of one camera do not compete: whether they are one thing is decided in its own image.

    :param objects_per_camera: objects of each camera, in its own frame.
    :param vehicle_T_cams: (4, 4) where each camera stands, in one frame of z up for all of them;
        None where that is not known: what such a camera sees is kept.
    :param max_overlap: greatest intersection over union of two footprints seen from above.
    :return: what is kept of each camera, in its order.
    """
    placed = {i: place for i, place in enumerate(vehicle_T_cams) if place is not None}
    if len(placed) < 2:
        return list(objects_per_camera)
    camera = np.repeat(list(placed), [len(objects_per_camera[i]) for i in placed])
    class_id = np.concatenate([objects_per_camera[i].class_id for i in placed])
    score = np.concatenate([objects_per_camera[i].score for i in placed])
    footprint = np.concatenate(
        [_footprint(objects_per_camera[i], place) for i, place in placed.items()]
    )
    order = np.argsort(-score, kind='stable')
    first, second = (order[part] for part in np.triu_indices(len(order), 1))
    rivals = (camera[first] != camera[second]) & (class_id[first] == class_id[second])
    rivals &= _circles_overlap(footprint, first, second)
    first, second = first[rivals], second[rivals]
    clash = _bev_iou(footprint[first], footprint[second]) > max_overlap
    beaten = np.zeros(len(order), bool)
    # pairs come by falling score of the first, so whether it is beaten itself is known by then
    for winner, loser in zip(first[clash], second[clash], strict=True):
        beaten[loser] |= not beaten[winner]
    kept = list(objects_per_camera)
    for i in placed:
        kept[i] = objects_per_camera[i][~beaten[camera == i]]
    return kept


def _footprint(objects: Objects3D, vehicle_T_cam: Array) -> Array:
    """(N, 5) x, y, width, length and the angle from x to -y: what overlap_bev takes."""
    turn, place = vehicle_T_cam[:3, :3], vehicle_T_cam[:3, 3]
    center = objects.center_m @ turn.T + place
    cos, sin = np.cos(objects.rotation_y), np.sin(objects.rotation_y)
    ahead = np.column_stack([cos, np.zeros(len(cos)), -sin]) @ turn.T
    angle = -np.arctan2(ahead[:, 1], ahead[:, 0])
    return np.column_stack([center[:, :2], objects.size_hwl_m[:, 1:], angle])


def _circles_overlap(footprint: Array, first: Array, second: Array) -> Array:
    """(P,) whether the circles round two footprints meet."""
    reach = np.hypot(footprint[:, 2], footprint[:, 3]) / 2
    apart = footprint[first, :2] - footprint[second, :2]
    return np.hypot(apart[:, 0], apart[:, 1]) < reach[first] + reach[second]


def _bev_iou(a: Array, b: Array) -> Array:
    """(P, 5) and (P, 5) footprints -> (P,) intersection over union."""
    shared = bev_intersection_area(a, b)
    area = a[:, 2] * a[:, 3] + b[:, 2] * b[:, 3]
    return shared / np.maximum(area - shared, 1e-9)
