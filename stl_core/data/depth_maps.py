"""
Depth maps of frames: completed from a LiDAR scan, or read from 16-bit PNG files.

A pixel's depth is z in metres in the camera frame of P, like the depth of an object's centre; 0
means unknown. Files hold round(metres * 256), as in KITTI's depth benchmark. OpenCV reads them:
Pillow from 10.3 on blends the two bytes of such pixels separately when it warps them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from stl_core.data.depth_completion import DEFAULT_COMPLETION, CompletionConfig, complete_depth
from stl_core.data.frame_source import DataError, SourceImage
from stl_core.data.picture_size import decode_picture
from stl_core.files import atomic_file
from stl_core.geometry import project_points
from stl_core.types import Array

DEPTH_SCALE = 256
#: Greater depths do not fit into 16 bits and count as unknown.
MAX_DEPTH_M = 65535 / DEPTH_SCALE
#: Rays up to this far below the image help to fill its last rows.
MARGIN_BELOW_PX = 64
_FAST_PNG = (cv2.IMWRITE_PNG_COMPRESSION, 1)


def load_frame_depth(
    image: SourceImage,
    width_px: int,
    height_px: int,
    completion: CompletionConfig = DEFAULT_COMPLETION,
) -> Array:
    """
    Return the depth map of an image: its stored depth, else its completed scan.

    :param image: the image.
    :param width_px: image width.
    :param height_px: image height.
    :param completion: parameters of depth completion.
    :return: (H, W) float32 metres, 0 where unknown.
    :raises DataError: if both are missing, or the stored depth has another size.
    """
    if not image.depth.exists:
        return depth_from_scan(image, width_px, height_px, completion)
    depth_m = image.depth.read()
    if depth_m.shape != (height_px, width_px):
        raise DataError(
            f'{image.depth.location}: {depth_m.shape[1]}x{depth_m.shape[0]} pixels, but the image'
            f' has {width_px}x{height_px}'
        )
    return depth_m


def require_depth(images: Sequence[SourceImage]) -> None:
    """Raise DataError naming the first image that has neither stored depth nor a scan."""
    for image in images:
        if not (image.depth.exists or image.points.exists):
            raise _missing_depth_error(image)


def depth_from_scan(
    image: SourceImage,
    width_px: int,
    height_px: int,
    completion: CompletionConfig = DEFAULT_COMPLETION,
) -> Array:
    """Return the completed scan of an image; parameters and errors as in load_frame_depth."""
    if not image.points.exists:
        raise _missing_depth_error(image)
    points_m = image.points.read()[:, :3]
    sparse_m = sparse_depth(points_m, image.P, width_px, height_px + MARGIN_BELOW_PX)
    return complete_depth(sparse_m, completion)[:height_px]


def velo_to_camera(scan: Array, cam_T_velo: Array) -> Array:
    """Transform (N, 3+) LiDAR points, x y z first, by a (4, 4) pose -> (N, 3) camera frame."""
    return scan[:, :3] @ cam_T_velo[:3, :3].T + cam_T_velo[:3, 3]


def sparse_depth(points_m: Array, P: Array, width_px: int, height_px: int) -> Array:
    """
    Rasterise points into a sparse depth map; the nearest point of a pixel wins.

    :param points_m: (N, 3) camera frame; points behind the camera or not finite are skipped.
    :param P: (3, 4) projection matrix of the image.
    :param width_px: image width.
    :param height_px: image height.
    :return: (H, W) float32 z, 0 where no point is.
    """
    points_m = points_m[(points_m[:, 2] > 0) & np.isfinite(points_m).all(1)]
    pixels, w = project_points(points_m, P)
    u, v = pixels.T + 0.5  # pixel 0 spans -0.5 to 0.5
    in_image = (w > 0) & (u >= 0) & (u < width_px) & (v >= 0) & (v < height_px)
    z = points_m[in_image, 2].astype(np.float32)
    out = np.full((height_px, width_px), np.inf, np.float32)
    np.minimum.at(out, (v[in_image].astype(int), u[in_image].astype(int)), z)
    out[np.isinf(out)] = 0
    return out


def read_depth(path: str | Path) -> Array:
    """
    Read a 16-bit depth PNG.

    :param path: the file.
    :return: (H, W) float32 metres, exact; 0 where unknown.
    :raises DataError: if it is missing, or is not a PNG of one channel with 16 bits.
    """
    expected = f'expected a PNG of one channel with 16 bits, metres * {DEPTH_SCALE}'
    try:
        data = Path(path).read_bytes()
    except (FileNotFoundError, IsADirectoryError) as err:
        raise DataError(f'{path}: no such file; {expected}') from err
    coded = decode_picture(data, cv2.IMREAD_UNCHANGED)
    if coded is None or coded.dtype != np.uint16 or coded.ndim != 2:
        raise DataError(f'{path}: {expected}')
    return coded.astype(np.float32) / DEPTH_SCALE


def write_depth(path: str | Path, depth_m: Array) -> None:
    """
    Write a 16-bit depth PNG, the format of read_depth.

    :param path: a .png file; an existing file is replaced atomically.
    :param depth_m: (H, W) metres; values that are not positive, or too large for 16 bits, are
        written as unknown.
    """
    known = (depth_m > 0) & (depth_m < MAX_DEPTH_M)
    coded = np.where(known, np.round(np.where(known, depth_m, 0) * DEPTH_SCALE), 0)
    _, data = cv2.imencode('.png', coded.astype(np.uint16), _FAST_PNG)
    with atomic_file(path, sync=False) as part:  # thousands of files, made again if lost
        part.write_bytes(data.tobytes())


def _missing_depth_error(image: SourceImage) -> DataError:
    expected = ' or '.join(each.location for each in (image.depth, image.points) if each.location)
    hint = f'; expected {expected} among the files of its source' if expected else ''
    return DataError(f'{image.pixels.location}: no depth of this frame{hint}')
