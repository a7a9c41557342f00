"""
Geometry of one camera: projection, image transforms, the two shapes of an object, box overlap.

P is the (3, 4) projection of the image at hand; every image transform has its twin for P.
Pixels count from the centre of the top-left pixel. The camera frame is x right, y down, z
forward, metres.
"""

from __future__ import annotations

import numpy as np

from stl_core.types import Array, ImageObjects, Objects3D

#: Pairs of corner numbers (see corners) that are the 12 edges of a box, front face first.
BOX_EDGES: tuple[tuple[int, int], ...] = (
    (0, 1), (1, 5), (5, 4), (4, 0),
    (3, 2), (2, 6), (6, 7), (7, 3),
    (0, 3), (1, 2), (5, 6), (4, 7),
)  # fmt: skip


def wrap_angle(angle: Array) -> Array:
    """(...,) radians -> the same angles in [-pi, pi)."""
    return (np.asarray(angle) + np.pi) % (2 * np.pi) - np.pi


def project_points(points_m: Array, P: Array) -> tuple[Array, Array]:
    """
    Project points to pixels.

    :param points_m: (..., 3) camera frame.
    :param P: (3, 4).
    :return: (..., 2) pixels, not finite where the third homogeneous coordinate is 0; and (...,)
        that third coordinate, negative behind the camera.
    """
    homogeneous = points_m @ P[:, :3].T + P[:, 3]
    w = homogeneous[..., 2]
    with np.errstate(divide='ignore', invalid='ignore'):
        return homogeneous[..., :2] / w[..., None], w


def backproject_pixels(pixels: Array, depth_m: Array, P: Array) -> Array:
    """
    Find the point of given z that projects to a pixel: exact for every P, P[2, 3] included.

    The two rows (P[i] - pixel_i * P[2]) . (x, y, z, 1) = 0 are solved for x and y.

    :param pixels: (..., 2).
    :param depth_m: (...,) z in the camera frame.
    :param P: (3, 4).
    :return: (..., 3) camera frame.
    """
    rows = P[:2] - np.asarray(pixels)[..., None] * P[2]  # (..., 2, 4)
    right = -(rows[..., 2] * np.asarray(depth_m)[..., None] + rows[..., 3])
    (a, b), (c, d) = np.moveaxis(rows[..., :2], (-2, -1), (0, 1))
    det = a * d - b * c
    x = (d * right[..., 0] - b * right[..., 1]) / det
    y = (a * right[..., 1] - c * right[..., 0]) / det
    return np.stack([x, y, np.broadcast_to(depth_m, x.shape)], -1)


def warp_P(P: Array, A: Array) -> Array:
    """(3, 4) projection and (3, 3) transform new = A @ old -> projection of the new image."""
    return A @ P


def warp_box(box_px: Array, A: Array) -> Array:
    """(N, 4) boxes and an axis-aligned (3, 3) pixel transform -> (N, 4) boxes, x0 <= x1."""
    box = box_px * A[[0, 1, 0, 1], [0, 1, 0, 1]] + A[[0, 1, 0, 1], 2]
    return np.concatenate(
        [np.minimum(box[:, :2], box[:, 2:]), np.maximum(box[:, :2], box[:, 2:])], 1
    )


def flip_P(P: Array, width_px: int) -> Array:
    """
    Mirror an image left to right and the world with it, x -> -x.

    :param P: (3, 4) projection of the image before the mirror.
    :param width_px: its width; pixel u moves to width_px - 1 - u.
    :return: (3, 4) projection of mirrored points to mirrored pixels; focal lengths stay positive.
    """
    mirror = np.array([[-1.0, 0.0, width_px - 1.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    return mirror @ P @ np.diag([-1.0, 1.0, 1.0, 1.0])


def flip_objects(objects: Objects3D, width_px: int) -> Objects3D:
    """Mirror objects with their image (see flip_P): x -> -x, rotation_y -> pi - rotation_y."""
    mirror = np.array([[-1.0, 0.0, width_px - 1.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    return Objects3D(
        class_id=objects.class_id,
        score=objects.score,
        center_m=objects.center_m * [-1.0, 1.0, 1.0],
        size_hwl_m=objects.size_hwl_m,
        rotation_y=wrap_angle(np.pi - objects.rotation_y),
        box_px=warp_box(objects.box_px, mirror),
        depth_sigma_m=objects.depth_sigma_m,
    )


def project_objects(objects: Objects3D, P: Array) -> ImageObjects:
    """
    Describe objects as an image with projection P shows them; lift undoes it exactly.

    :param objects: N objects, camera frame; box_px already in pixels of P's image.
    :param P: (3, 4).
    :return: N image objects.
    """
    x, z = objects.center_m[:, 0], objects.center_m[:, 2]
    center_px, _ = project_points(objects.center_m, P)
    with np.errstate(divide='ignore'):  # a label's sigma is 0, its log -inf: exp brings 0 back
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
    )


def lift(objects: ImageObjects, P: Array) -> Objects3D:
    """
    Place image objects in the camera frame: the one decoding to 3D of the whole project.

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
    )


def box_corners(center_m: Array, size_hwl_m: Array, rotation_y: Array) -> Array:
    r"""
    Return the corners of boxes.

    Numbering, seen from above with the object heading to the right (+length)::

            0 ------- 3          0..3 left (before turning: +z) side has z > 0
           /|        /|
          4 ------- 7 |          0 1 4 5 are at the front (+length), 3 2 7 6 at the back;
          | 1 ------|-2          0 3 4 7 are at the top (y up in the drawing, -y in the frame)
          |/        |/
          5 ------- 6

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
    turned = np.stack([cos * along + sin * across, down, -sin * along + cos * across], -1)
    return turned + center_m[:, None]


def bev_intersection_area(a: Array, b: Array) -> Array:
    """
    Area shared by pairs of turned rectangles on the ground plane.

    b is brought into the frame of a and clipped by a's four sides in turn. A clip inserts the
    crossing of every edge with the side, then moves what lies beyond onto the side: what is
    walked along the side to and fro encloses nothing, so the shoelace area is exact, and it is
    continuous in the inputs, touching and zero-size rectangles included.

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
    """(M, 2) centre y and height of pairs of boxes, metres -> (M,) shared height."""
    top = np.maximum(a[:, 0] - a[:, 1] / 2, b[:, 0] - b[:, 1] / 2)
    bottom = np.minimum(a[:, 0] + a[:, 1] / 2, b[:, 0] + b[:, 1] / 2)
    return np.maximum(bottom - top, 0.0)


def _rectangle_corners(center: Array, size_wl: Array, rotation_y: Array) -> Array:
    """(M, 2) x z, (M, 2) width length, (M,) -> (M, 4, 2) corners in order round the rectangle."""
    along = size_wl[:, 1, None] / 2 * [1, 1, -1, -1]
    across = size_wl[:, 0, None] / 2 * [1, -1, -1, 1]
    cos, sin = np.cos(rotation_y)[:, None], np.sin(rotation_y)[:, None]
    return (
        np.stack([cos * along + sin * across, -sin * along + cos * across], -1) + center[:, None]
    )


def _clip_polygon(polygon: Array, axis: int, sign: float, bound: Array) -> Array:
    """Keep sign * coordinate <= bound of (M, K, 2) closed polygons -> (M, 2K, 2)."""
    following = np.roll(polygon, -1, 1)
    here, there = sign * polygon[..., axis], sign * following[..., axis]
    step = there - here
    with np.errstate(divide='ignore', invalid='ignore'):
        t = np.where(step == 0, 0.0, np.clip((bound - here) / step, 0.0, 1.0))
    crossing = polygon + t[..., None] * (following - polygon)
    out = np.stack([polygon, crossing], 2).reshape(len(polygon), 2 * polygon.shape[1], 2)
    out[..., axis] = sign * np.minimum(sign * out[..., axis], bound)
    return out


def depth_covariance(objects: Objects3D) -> Array:
    """
    Tell what depth_sigma_m makes uncertain of the centres: they may lie elsewhere on their rays.

    :param objects: N objects, camera frame.
    :return: (N, 3, 3) covariance in the camera frame, square metres; sigma squared at z, z.
    """
    # a network may say infinity; beyond the depth itself sigma says no more
    depth_m = np.maximum(np.abs(objects.center_m[:, 2]), 1e-6)
    share = np.minimum(objects.depth_sigma_m / depth_m, 1.0)
    along = objects.center_m * share[:, None]
    return along[:, :, None] * along[:, None, :]
