"""Exact KITTI labels from the first hits of a camera's rays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stl_core.data.synthetic.sensors.ray_caster import Hits
from stl_core.geometry import BOX_EDGES, box_corners, project_points, wrap_angle
from stl_core.types import Array, Camera, Labels

#: Least visible fraction for KITTI's occlusion levels 0, 1 and 2; below it is 3, unknown.
OCCLUSION_LEVEL_VISIBILITY = (0.99, 0.50, 0.10)

#: Objects of less height, farther away or with fewer pixels are DontCare; below MIN_VISIBILITY
#: objects are not labelled at all.
MIN_HEIGHT_PX = 13.0
MAX_DEPTH_M = 85.0
MIN_PIXELS = 12
MIN_VISIBILITY = 0.03

_NEAR_M = 0.1
#: Centre of a DontCare area: KITTI writes size -1 and a bottom at -1000.
_DONT_CARE_CENTER_M = np.array([-1000.0, -999.5, -1000.0])


@dataclass(frozen=True)
class Annotations:
    """
    Labels with the measured visibility of their objects.

    :param labels: N objects, DontCare last.
    :param actor_id: (N,) number of the road user.
    :param visibility: (N,) fraction of its pixels in the image that no other object hides.
    """

    labels: Labels
    actor_id: Array
    visibility: Array


def annotate(
    name: Array,
    center_m: Array,
    size_hwl_m: Array,
    rotation_y: Array,
    camera: Camera,
    hits: Hits,
    pixel_scale: float = 1.0,
) -> Annotations:
    """
    Label the visible road users.

    As in KITTI, the 2D box is tight round the object's pixels in the image, hidden ones included;
    truncated is the fraction of its projected 3D box outside the image.

    :param name: (M,) classes; the index is the actor id.
    :param center_m: (M, 3) box centres, camera frame.
    :param size_hwl_m: (M, 3) height, width, length.
    :param rotation_y: (M,) yaw in the camera frame, radians.
    :param camera: the camera.
    :param hits: first hits of the camera's rays.
    :param pixel_scale: focal length relative to KITTI's; pixel limits scale with it.
    :return: labels in order of actor id, DontCare areas last.
    """
    visibility = hits.num_visible / np.maximum(hits.num_unoccluded, 1)
    visible = (hits.num_visible > 0) & (center_m[:, 2] > 0) & (visibility >= MIN_VISIBILITY)
    is_labelled = _large_enough(hits, pixel_scale) & (center_m[:, 2] <= MAX_DEPTH_M)
    level = np.select([visibility >= limit for limit in OCCLUSION_LEVEL_VISIBILITY], [0, 1, 2], 3)
    order = np.concatenate(
        [np.flatnonzero(visible & is_labelled), np.flatnonzero(visible & ~is_labelled)]
    )
    has_box = is_labelled[order][:, None]
    truncated = truncated_fraction(center_m, size_hwl_m, rotation_y, camera)
    alpha = wrap_angle(rotation_y - np.arctan2(center_m[:, 0], center_m[:, 2]))
    labels = Labels(
        name=np.where(is_labelled, name, 'DontCare')[order].astype(np.str_),
        truncated=np.where(is_labelled, truncated, -1)[order],
        occluded=np.where(is_labelled, level, -1)[order],
        alpha=np.where(is_labelled, alpha, -10.0)[order],
        score=np.ones(len(order)),
        center_m=np.where(has_box, center_m[order], _DONT_CARE_CENTER_M),
        size_hwl_m=np.where(has_box, size_hwl_m[order], -1.0),
        rotation_y=np.where(is_labelled, wrap_angle(rotation_y), -10.0)[order],
        box_px=hits.extent_px[order],
    )
    return Annotations(labels, order, visibility[order])


def _large_enough(hits: Hits, pixel_scale: float) -> Array:
    """Return which objects are large enough in the image for a label, (M,) bool."""
    height = hits.extent_px[:, 3] - hits.extent_px[:, 1] + 1
    return (hits.num_visible >= MIN_PIXELS * pixel_scale**2) & (
        height >= MIN_HEIGHT_PX * pixel_scale
    )


def project_boxes(center_m: Array, size_hwl_m: Array, rotation_y: Array, P: Array) -> Array:
    """Project 3D boxes, clipped at the near plane: (M, 4) 2D boxes, not clipped to an image."""
    corners = box_corners(center_m, size_hwl_m, rotation_y)
    edges = np.array(BOX_EDGES)
    start, end = corners[:, edges[:, 0]], corners[:, edges[:, 1]]
    step = end[..., 2] - start[..., 2]
    crosses = (start[..., 2] < _NEAR_M) != (end[..., 2] < _NEAR_M)
    t = np.where(crosses, (_NEAR_M - start[..., 2]) / np.where(step == 0, 1.0, step), 0.0)
    points = np.concatenate([corners, start + t[..., None] * (end - start)], 1)
    valid = np.concatenate([corners[..., 2] >= _NEAR_M, crosses], 1)[..., None]
    pixels, _ = project_points(points, P)
    low = np.where(valid, pixels, np.inf).min(1)
    high = np.where(valid, pixels, -np.inf).max(1)
    return np.concatenate([low, high], 1)


def truncated_fraction(
    center_m: Array, size_hwl_m: Array, rotation_y: Array, camera: Camera
) -> Array:
    """Return the fraction of each projected box outside the image, (M,) 0 to 1."""
    whole = project_boxes(center_m, size_hwl_m, rotation_y, camera.P)
    last = np.array([camera.width_px - 1.0, camera.height_px - 1.0])
    inside = np.clip(whole, 0.0, np.tile(last, 2))
    area = np.maximum(whole[:, 2] - whole[:, 0], 0) * np.maximum(whole[:, 3] - whole[:, 1], 0)
    kept = (inside[:, 2] - inside[:, 0]) * (inside[:, 3] - inside[:, 1])
    with np.errstate(invalid='ignore', divide='ignore'):
        fraction = np.where((area > 0) & np.isfinite(area), 1 - kept / area, 1.0)
    return np.clip(fraction, 0.0, 1.0)
