"""
Camera geometry: projection, image transforms, conversion between 2D and 3D objects, box overlap.

P is the (3, 4) projection matrix of an image; a function that transforms an image has a
counterpart that transforms P. Pixel coordinates start at the centre of the top-left pixel. The
camera frame is x right, y down, z forward, in metres.
"""

from __future__ import annotations

import numpy as np

from stl_core.types import Array, ImageObjects, Objects3D

#: Pairs of corner indices (see box_corners): the 12 edges of a box, front face first.
BOX_EDGES: tuple[tuple[int, int], ...] = (
    (0, 1), (1, 5), (5, 4), (4, 0),
    (3, 2), (2, 6), (6, 7), (7, 3),
    (0, 3), (1, 2), (5, 6), (4, 7),
)  # fmt: skip


def wrap_angle(angle: Array) -> Array:
    """Wrap (...,) angles in radians to [-pi, pi)."""
    return (np.asarray(angle) + np.pi) % (2 * np.pi) - np.pi


def project_points(points_m: Array, P: Array) -> tuple[Array, Array]:
    """
    Project points to pixels.

    :param points_m: (..., 3) camera frame.
    :param P: (3, 4).
    :return: (..., 2) pixels, not finite where the third homogeneous coordinate w is 0; and (...,)
        w, negative behind the camera.
    """
    homogeneous = points_m @ P[:, :3].T + P[:, 3]
    w = homogeneous[..., 2]
    with np.errstate(divide='ignore', invalid='ignore'):
        return homogeneous[..., :2] / w[..., None], w


def project_each(points_m: Array, Ps: Array) -> tuple[Array, Array]:
    """
    Project points to pixels, each by the projection of its image.

    :param points_m: (N, ..., 3) camera frame.
    :param Ps: (N, 3, 4).
    :return: (N, ..., 2) pixels and (N, ...) w, as project_points.
    """
    homogeneous = np.einsum('nij,n...j->n...i', Ps[:, :, :3], points_m)
    homogeneous += Ps[:, :, 3].reshape(len(Ps), *[1] * (points_m.ndim - 2), 3)
    w = homogeneous[..., 2]
    with np.errstate(divide='ignore', invalid='ignore'):
        return homogeneous[..., :2] / w[..., None], w


def backproject_pixels(pixels: Array, depth_m: Array, P: Array) -> Array:
    """
    Compute the points at given depths that project to given pixels, exactly for every P.

    Solves the two equations (P[i] - pixel_i * P[2]) . (x, y, z, 1) = 0 for x and y; P[2, 3] need
    not be 0.

    :param pixels: (..., 2).
    :param depth_m: (...,) z in the camera frame.
    :param P: (3, 4).
    :return: (..., 3) camera frame.
    """
    rows = P[:2] - np.asarray(pixels)[..., None] * P[2]  # (..., 2, 4)
    rhs = -(rows[..., 2] * np.asarray(depth_m)[..., None] + rows[..., 3])
    (a, b), (c, d) = np.moveaxis(rows[..., :2], (-2, -1), (0, 1))
    det = a * d - b * c
    x = (d * rhs[..., 0] - b * rhs[..., 1]) / det
    y = (a * rhs[..., 1] - c * rhs[..., 0]) / det
    return np.stack([x, y, np.broadcast_to(depth_m, x.shape)], -1)


def warp_P(P: Array, A: Array) -> Array:
    """Return the (3, 4) projection of an image warped by the (3, 3) transform new = A @ old."""
    return A @ P


def warp_box(box_px: Array, A: Array) -> Array:
    """Return (N, 4) boxes under an axis-aligned (3, 3) pixel transform, x0 <= x1 and y0 <= y1."""
    box = box_px * A[[0, 1, 0, 1], [0, 1, 0, 1]] + A[[0, 1, 0, 1], 2]
    return np.concatenate(
        [np.minimum(box[:, :2], box[:, 2:]), np.maximum(box[:, :2], box[:, 2:])], 1
    )


def flip_objects(objects: Objects3D, width_px: int) -> Objects3D:
    """Return objects mirrored with their image of that width: x -> -x, yaw -> pi - yaw."""
    mirror = np.array([[-1.0, 0.0, width_px - 1.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    return Objects3D(
        class_id=objects.class_id,
        score=objects.score,
        center_m=objects.center_m * [-1.0, 1.0, 1.0],
        size_hwl_m=objects.size_hwl_m,
        rotation_y=wrap_angle(np.pi - objects.rotation_y),
        box_px=warp_box(objects.box_px, mirror),
        depth_sigma_m=objects.depth_sigma_m,
        velocity_mps=objects.velocity_mps * [-1.0, 1.0, 1.0],
        attribute_id=objects.attribute_id,
    )


def project_objects(objects: Objects3D, P: Array) -> ImageObjects:
    """
    Convert objects to image objects of an image with projection P; lift is the exact inverse.

    :param objects: N objects, camera frame; box_px already in pixels of P's image.
    :param P: (3, 4).
    :return: N image objects.
    """
    x, z = objects.center_m[:, 0], objects.center_m[:, 2]
    center_px, _ = project_points(objects.center_m, P)
    with np.errstate(divide='ignore'):  # labels: sigma 0, log -inf; lift's exp gives 0
        depth_log_sigma = np.log(objects.depth_sigma_m)
    return ImageObjects(
        class_id=objects.class_id,
        score=objects.score,
        center_px=center_px,
        depth_m=z,
        size_hwl_m=objects.size_hwl_m,
        alpha=wrap_angle(objects.rotation_y - np.arctan2(x, z)),
        box_px=objects.box_px,
        depth_log_sigma=depth_log_sigma,
        velocity_mps=objects.velocity_mps,
        attribute_id=objects.attribute_id,
    )


def lift(objects: ImageObjects, P: Array) -> Objects3D:
    """
    Convert image objects to objects in the camera frame; all decoding to 3D uses this function.

    :param objects: N image objects, in pixels of P's image.
    :param P: (3, 4).
    :return: N objects, camera frame.
    """
    center_m = backproject_pixels(objects.center_px, objects.depth_m, P)
    bearing = np.arctan2(center_m[:, 0], center_m[:, 2])
    return Objects3D(
        class_id=objects.class_id,
        score=objects.score,
        center_m=center_m,
        size_hwl_m=objects.size_hwl_m,
        rotation_y=wrap_angle(objects.alpha + bearing),
        box_px=objects.box_px,
        depth_sigma_m=np.exp(objects.depth_log_sigma),
        velocity_mps=objects.velocity_mps,
        attribute_id=objects.attribute_id,
    )


def box_corners(center_m: Array, size_hwl_m: Array, rotation_y: Array) -> Array:
    """
    Return the corners of boxes.

    Corner indices, for a box with rotation_y 0 (heading right, +x) as the camera sees it::

            3 ------- 0          0 1 2 3 on the left side (+z here), 4 5 6 7 on the right side;
           /|        /|          0 1 4 5 at the front (+length), 2 3 6 7 at the back;
          7 ------- 4 |          0 3 4 7 at the top (-y), 1 2 5 6 at the bottom
          | 2 ------|-1
          |/        |/
          6 ------- 5

    :param center_m: (N, 3) geometric centres, camera frame.
    :param size_hwl_m: (N, 3) height, width, length.
    :param rotation_y: (N,) yaw about camera y.
    :return: (N, 8, 3) camera frame.
    """
    h, w, length = (size_hwl_m[:, i, None] / 2 for i in range(3))
    along = length * [1, 1, -1, -1, 1, 1, -1, -1]
    down = h * [-1, 1, 1, -1, -1, 1, 1, -1]
    across = w * [1, 1, 1, 1, -1, -1, -1, -1]
    cos, sin = np.cos(rotation_y)[:, None], np.sin(rotation_y)[:, None]
    rotated = np.stack([cos * along + sin * across, down, -sin * along + cos * across], -1)
    return rotated + center_m[:, None]


def bev_intersection_area(a: Array, b: Array) -> Array:
    """
    Compute the intersection areas of pairs of rotated rectangles on the ground plane.

    Transforms b into the frame of a and clips it at each of a's four sides. A clip inserts the
    intersection of every edge with the line of the side, then moves the vertices beyond the line
    onto it. The path back and forth along the line encloses no area, so the shoelace area is
    exact; it is continuous in the inputs, touching and zero-size rectangles included.

    :param a: (M, 5) x, z, width, length, rotation_y.
    :param b: (M, 5) likewise.
    :return: (M,) square metres.
    """
    polygon = _rectangle_corners(b[:, :2] - a[:, :2], b[:, 2:4], b[:, 4])
    cos, sin = np.cos(a[:, 4])[:, None], np.sin(a[:, 4])[:, None]
    x, z = polygon[..., 0], polygon[..., 1]
    polygon = np.stack([cos * x - sin * z, sin * x + cos * z], -1)
    for axis, half in ((0, a[:, 3] / 2), (1, a[:, 2] / 2)):
        for sign in (1.0, -1.0):
            polygon = _clip_polygon(polygon, axis, sign, half[:, None])
    x, z = polygon[..., 0], polygon[..., 1]
    area = (x * np.roll(z, -1, 1) - z * np.roll(x, -1, 1)).sum(1) / 2
    return np.abs(area)


def height_intersection(a: Array, b: Array) -> Array:
    """Return (M,) shared heights of pairs of boxes, each (M, 2) centre y and height, metres."""
    top = np.maximum(a[:, 0] - a[:, 1] / 2, b[:, 0] - b[:, 1] / 2)
    bottom = np.minimum(a[:, 0] + a[:, 1] / 2, b[:, 0] + b[:, 1] / 2)
    return np.maximum(bottom - top, 0.0)


def _rectangle_corners(center: Array, size_wl: Array, rotation_y: Array) -> Array:
    """Return (M, 4, 2) ordered corners of rectangles: (M, 2) x z, (M, 2) width length, yaw."""
    along = size_wl[:, 1, None] / 2 * [1, 1, -1, -1]
    across = size_wl[:, 0, None] / 2 * [1, -1, -1, 1]
    cos, sin = np.cos(rotation_y)[:, None], np.sin(rotation_y)[:, None]
    return (
        np.stack([cos * along + sin * across, -sin * along + cos * across], -1) + center[:, None]
    )


def _clip_polygon(polygon: Array, axis: int, sign: float, bound: Array) -> Array:
    """Clip (M, K, 2) closed polygons to sign * coordinate <= bound; return (M, 2K, 2) polygons."""
    next_vertex = np.roll(polygon, -1, 1)
    start, end = sign * polygon[..., axis], sign * next_vertex[..., axis]
    step = end - start
    with np.errstate(divide='ignore', invalid='ignore'):
        t = np.where(step == 0, 0.0, np.clip((bound - start) / step, 0.0, 1.0))
    crossing = polygon + t[..., None] * (next_vertex - polygon)
    out = np.stack([polygon, crossing], 2).reshape(len(polygon), 2 * polygon.shape[1], 2)
    out[..., axis] = sign * np.minimum(sign * out[..., axis], bound)
    return out


def depth_covariance(objects: Objects3D) -> Array:
    """
    Compute the covariance of object centres from depth_sigma_m, along their viewing rays.

    :param objects: N objects, camera frame.
    :return: (N, 3, 3) covariance in the camera frame, square metres; sigma squared at z, z.
    """
    # limit sigma to the depth itself: a network may predict infinity
    depth_m = np.maximum(np.abs(objects.center_m[:, 2]), 1e-6)
    fraction = np.minimum(objects.depth_sigma_m / depth_m, 1.0)
    along = objects.center_m * fraction[:, None]
    return along[:, :, None] * along[:, None, :]
