"""
Annotations of nuScenes as objects around the vehicle and in the pictures of its cameras.

An annotation is a box in the global frame whose rotation turns x to the direction of its length.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stl_core.data.sources.nuscenes_tables import NuscenesTables, Row
from stl_core.evaluation.nuscenes.names import CATEGORY_CLASSES
from stl_core.geometry import wrap_angle
from stl_core.rotations import move_points, quaternion_to_matrix
from stl_core.types import Array, Labels
from stl_core.vehicle_types import VehicleLabels

#: Longest time between the two annotations of a velocity, seconds; twice for both neighbours.
MAX_TIME_DIFFERENCE_S = 1.5
#: Depth beyond which a corner counts as seen, and that all corners must have, metres.
MIN_SEEN_DEPTH_M, MIN_DEPTH_M = 1.0, 0.1
#: Visibility level (1: up to 40 % over all cameras, ... 4: 80 to 100 %) -> KITTI's occlusion.
OCCLUDED = {'4': 0, '3': 1, '2': 1, '1': 2}
_UNKNOWN_OCCLUSION = 3


@dataclass(frozen=True)
class GlobalBoxes:
    """
    The annotations of a sample in the global frame.

    :param name: (N,) class, or the category of an object of no class.
    :param center_m: (N, 3) geometric centre.
    :param size_hwl_m: (N, 3) height, width, length.
    :param rotation: (N, 3, 3) columns: directions of length, width and height.
    :param velocity_mps: (N, 3) over ground; nan where unknown.
    :param attribute: (N,) '' where unknown.
    :param num_points: (N,) points of LiDAR and radar inside the box.
    :param occluded: (N,) KITTI's level, 3 where unknown.
    """

    name: Array
    center_m: Array
    size_hwl_m: Array
    rotation: Array
    velocity_mps: Array
    attribute: Array
    num_points: Array
    occluded: Array


def global_boxes(tables: NuscenesTables, sample: str) -> GlobalBoxes:
    """Return the annotations of a sample; KeyError for a token that no table has."""
    rows = [tables.annotations[each] for each in tables.sample_annotations.get(sample, ())]
    categories = [tables.categories[row['instance_token']] for row in rows]
    attributes = [row['attribute_tokens'] for row in rows]
    quaternions = np.array([row['rotation'] for row in rows], float).reshape(-1, 4)
    width_length_height = np.array([row['size'] for row in rows], float).reshape(-1, 3)
    return GlobalBoxes(
        name=np.array([CATEGORY_CLASSES.get(each, each) for each in categories], np.str_),
        center_m=np.array([row['translation'] for row in rows], float).reshape(-1, 3),
        size_hwl_m=width_length_height[:, [2, 0, 1]],
        rotation=quaternion_to_matrix(quaternions),
        velocity_mps=np.array([_velocity(tables, row) for row in rows]).reshape(-1, 3),
        attribute=np.array([tables.attributes[a[0]] if a else '' for a in attributes], np.str_),
        num_points=np.array(
            [row['num_lidar_pts'] + row['num_radar_pts'] for row in rows], np.int64
        ),
        occluded=np.array(
            [OCCLUDED.get(str(row['visibility_token']), _UNKNOWN_OCCLUSION) for row in rows],
            np.int64,
        ),
    )


def _velocity(tables: NuscenesTables, row: Row) -> Array:
    """
    Return the velocity (3,) of an annotation from its neighbours in time, as the devkit.

    Unknown (nan) where an object is annotated once, or the neighbours are too far apart in time.
    """
    first = tables.annotations[row['prev']] if row['prev'] else row
    last = tables.annotations[row['next']] if row['next'] else row
    if first is last:
        return np.full(3, np.nan)
    stamps = [int(tables.samples[each['sample_token']]['timestamp']) for each in (first, last)]
    seconds = (stamps[1] - stamps[0]) * 1e-6
    longest = MAX_TIME_DIFFERENCE_S * (2 if row['prev'] and row['next'] else 1)
    if not 0 < seconds <= longest:
        return np.full(3, np.nan)
    way = np.subtract(last['translation'], first['translation'])
    velocity: Array = way / seconds
    return velocity


def vehicle_labels(boxes: GlobalBoxes, vehicle_T_global: Array) -> VehicleLabels:
    """
    Return annotations as objects around the vehicle, see VehicleLabels.

    :param boxes: of the sample.
    :param vehicle_T_global: (4, 4) at the time of the sample.
    """
    length_axis = vehicle_T_global[:3, :3] @ boxes.rotation[..., 0, None]
    return VehicleLabels(
        name=boxes.name,
        center_m=move_points(vehicle_T_global, boxes.center_m),
        size_hwl_m=boxes.size_hwl_m,
        yaw=wrap_angle(np.arctan2(length_axis[:, 1, 0], length_axis[:, 0, 0])),
        velocity_mps=_level_velocity(boxes, vehicle_T_global)[:, :2],
        attribute=boxes.attribute,
        num_points=boxes.num_points,
    )


def camera_labels(
    boxes: GlobalBoxes,
    camera_T_global: Array,
    vehicle_T_global: Array,
    K: Array,
    size_px: tuple[int, int],
) -> Labels:
    """
    Return the annotations that a picture shows, in the frame of its camera.

    As the devkit, it shows a box if at least one corner lies in the picture and more than 1 m
    before the camera, and all corners lie more than 0.1 m before it.

    :param boxes: of the sample.
    :param camera_T_global: (4, 4) at the time of the exposure.
    :param vehicle_T_global: (4, 4) at the time of the sample.
    :param K: (3, 3) intrinsics.
    :param size_px: width and height of the picture.
    :return: box_px is the hull of the projected corners, clipped to the picture, `truncated` the
        part of the hull outside of it; rotation_y is the heading of the rotated length axis.
    """
    corners_m = move_points(camera_T_global, global_corners(boxes))
    depth_m = corners_m[..., 2]
    with np.errstate(divide='ignore', invalid='ignore'):
        pixels = (corners_m @ K.T)[..., :2] / depth_m[..., None]
    inside = ((pixels > 0) & (pixels < size_px)).all(-1) & (depth_m > MIN_SEEN_DEPTH_M)
    shown = inside.any(1) & (depth_m > MIN_DEPTH_M).all(1)
    low, high = pixels[shown].min(1), pixels[shown].max(1)
    limit = np.array(size_px) - 1.0
    box_px = np.clip(np.concatenate([low, high], 1), 0, np.tile(limit, 2))
    whole, part = (high - low).prod(1), (box_px[:, 2:] - box_px[:, :2]).prod(1)
    center_m = move_points(camera_T_global, boxes.center_m)[shown]
    length_axis = camera_T_global[:3, :3] @ boxes.rotation[shown][..., 0, None]
    rotation_y = wrap_angle(np.arctan2(-length_axis[:, 2, 0], length_axis[:, 0, 0]))
    camera_R_vehicle = camera_T_global[:3, :3] @ vehicle_T_global[:3, :3].T
    return Labels(
        name=boxes.name[shown],
        truncated=np.clip(1 - part / whole, 0, 1),
        occluded=boxes.occluded[shown],
        alpha=wrap_angle(rotation_y - np.arctan2(center_m[:, 0], center_m[:, 2])),
        score=np.ones(len(center_m)),
        center_m=center_m,
        size_hwl_m=boxes.size_hwl_m[shown],
        rotation_y=rotation_y,
        box_px=box_px,
        velocity_mps=_level_velocity(boxes, vehicle_T_global)[shown] @ camera_R_vehicle.T,
        attribute=boxes.attribute[shown],
        num_points=boxes.num_points[shown],
    )


def global_corners(boxes: GlobalBoxes) -> Array:
    """Return the (N, 8, 3) corners of boxes in the global frame."""
    signs: Sequence[tuple[int, int, int]] = [
        (x, y, z) for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)
    ]
    half_lwh = boxes.size_hwl_m[:, [2, 1, 0]] / 2
    corners = half_lwh[:, None] * np.array(signs, float)
    return corners @ np.swapaxes(boxes.rotation, 1, 2) + boxes.center_m[:, None]


def _level_velocity(boxes: GlobalBoxes, vehicle_T_global: Array) -> Array:
    """Return (N, 3) velocities in the vehicle frame, without a component along its vertical."""
    velocity = boxes.velocity_mps @ vehicle_T_global[:3, :3].T
    velocity[:, 2] = np.where(np.isnan(velocity[:, 2]), np.nan, 0.0)
    return velocity
