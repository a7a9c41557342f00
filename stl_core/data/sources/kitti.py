"""
KITTI object files <-> types. Only here: bottom centres, column order, DontCare's -1000.

A label line is: name truncated occluded alpha x0 y0 x1 y1 h w l x y z rotation_y [score], where
x y z is the centre of the box's bottom face in the camera frame (the KITTI object devkit).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from stl_core.geometry import wrap_angle
from stl_core.types import Array, Labels, Objects3D

CLASSES = ('Car', 'Pedestrian', 'Cyclist')
#: Those of a label, and a score.
RESULT_COLUMNS = 16


class DataError(ValueError):
    """A file that is missing or is not what it should be; the message names it."""


@dataclass(frozen=True)
class Calibration:
    """
    The parts of a calib file that the project needs.

    :param P2: (3, 4) projection of the left colour camera (P0 where a file has no P2).
    :param cam_T_velo: (4, 4) LiDAR frame -> rectified camera frame; identity where absent.
    :param velo_T_imu: (4, 4) frame of the inertial unit (x forward, y left, z up) -> LiDAR frame;
        None where absent.
    """

    P2: Array
    cam_T_velo: Array
    velo_T_imu: Array | None


@dataclass(frozen=True)
class KittiFolders:
    """
    Where the parts of a KITTI-layout data set lie; relative to nothing, so give full paths.

    :param image_2: folder of images, ID.png or ID.jpg.
    :param calib: folder of ID.txt, or one file for all frames.
    :param label_2: folder of ID.txt, or empty for unlabelled data.
    :param velodyne: folder of ID.bin, or empty.
    :param depth_2: folder of ID.png, 16-bit depth (see depth_maps), or empty.
    :param split: a file of the frame ids to keep, or empty.
    """

    image_2: str
    calib: str
    label_2: str = ''
    velodyne: str = ''
    depth_2: str = ''
    split: str = ''


@dataclass(frozen=True)
class FrameFiles:
    """The files of one frame; the last three are None where the data set has none."""

    id: str
    image_2: Path
    calib: Path
    label_2: Path | None
    velodyne: Path | None
    depth_2: Path | None = None


def list_kitti_frames(folders: KittiFolders, ids: tuple[str, ...] = ()) -> list[FrameFiles]:
    """
    List the frames of a source.

    :param folders: the folders.
    :param ids: the frames wanted, unless the source has a split; all images when empty.
    :return: frames in order of id, or of ids where given.
    :raises DataError: for a missing folder, image, calib or label, naming it.
    """
    folder = _require_exists(Path(folders.image_2), 'a folder of images')
    images = {p.stem: p for p in sorted(folder.iterdir()) if p.suffix in ('.png', '.jpg')}
    if not images:
        raise DataError(f'{folder}: no .png or .jpg image in this folder')
    ids = read_split(folders.split) if folders.split else ids
    frames = []
    for frame_id in ids or tuple(images):
        if frame_id not in images:
            raise DataError(f'{folder / frame_id}.png: listed but missing')
        calib = Path(folders.calib)
        calib = calib if calib.is_file() else calib / f'{frame_id}.txt'
        label = Path(folders.label_2) / f'{frame_id}.txt' if folders.label_2 else None
        cloud = Path(folders.velodyne) / f'{frame_id}.bin' if folders.velodyne else None
        depth = Path(folders.depth_2) / f'{frame_id}.png' if folders.depth_2 else None
        frames.append(
            FrameFiles(
                id=frame_id,
                image_2=images[frame_id],
                calib=_require_exists(calib, 'a KITTI calib file'),
                label_2=_require_exists(label, 'a KITTI label file') if label else None,
                velodyne=cloud if cloud and cloud.exists() else None,
                depth_2=depth if depth and depth.exists() else None,
            )
        )
    return frames


def read_split(path: str | Path) -> tuple[str, ...]:
    """Read an ImageSets file, one frame id a line; DataError where it is missing or has none."""
    ids = tuple(read_text(path, 'a list of frame ids').split())
    if not ids:  # for find_frames no ids are all frames
        raise DataError(f'{path}: no frame id in this file')
    return ids


def read_text(path: str | Path, expected: str) -> str:
    """Read a text file; DataError, naming it and `what` was expected, where it is none."""
    try:
        return _require_exists(Path(path), expected).read_text()
    except (UnicodeDecodeError, IsADirectoryError) as err:
        raise DataError(f'{path}: not a text file; expected {expected}') from err


def read_image(path: str | Path) -> Array:
    """Read an image file -> (H, W, 3) uint8 RGB; DataError when it does not decode."""
    data = np.frombuffer(_require_exists(Path(path), 'an image').read_bytes(), np.uint8)
    image = cv2.imdecode(data, cv2.IMREAD_COLOR) if len(data) else None
    if image is None:
        raise DataError(f'{path}: not a readable PNG or JPEG image')
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def read_calib(path: str | Path) -> Calibration:
    """
    Read a calib file of the object or the tracking benchmark.

    :param path: a file with lines such as 'P2: <12 numbers>'.
    :return: P2, and where LiDAR and inertial unit are.
    :raises DataError: naming the file and the line or key that is wrong.
    """
    rows: dict[str, Array] = {}
    for number, line in enumerate(read_text(path, 'a KITTI calib file').splitlines(), 1):
        key, *values = line.replace(':', ' ').split() or ['']
        if key:
            rows[key] = _parse_floats(values, f'{path}:{number}: {key}')
    projection = rows.get('P2', rows.get('P0'))
    if projection is None or projection.shape != (12,):
        raise DataError(f'{path}: expected a line "P2:" with 12 numbers')
    if not np.isfinite(projection).all() or projection[0] <= 0:
        raise DataError(f'{path}: P2 must be finite with a positive focal length')
    cam_T_velo = np.eye(4)
    rect = rows.get('R0_rect', rows.get('R_rect', np.eye(3).ravel()))
    velo = rows.get('Tr_velo_to_cam', rows.get('Tr_velo_cam', np.eye(3, 4).ravel()))
    if rect.shape != (9,) or velo.shape != (12,):
        raise DataError(f'{path}: expected 9 numbers in R0_rect and 12 in Tr_velo_to_cam')
    cam_T_velo[:3] = rect.reshape(3, 3) @ velo.reshape(3, 4)
    imu = rows.get('Tr_imu_to_velo', rows.get('Tr_imu_velo'))
    if imu is not None and imu.shape != (12,):
        raise DataError(f'{path}: expected 12 numbers in Tr_imu_to_velo')
    velo_T_imu = None if imu is None else np.vstack([imu.reshape(3, 4), [0.0, 0.0, 0.0, 1.0]])
    return Calibration(projection.reshape(3, 4), cam_T_velo, velo_T_imu)


def read_labels(path: str | Path) -> Labels:
    """
    Read a label or result file.

    :param path: lines of 15 columns, or 16 with a score.
    :return: every object of the file in its order; centres moved from the bottom to the middle.
    :raises DataError: naming the file and line that is wrong.
    """
    lines = read_text(path, 'a KITTI label file').splitlines()
    return parse_labels((f'{path}:{number}', line) for number, line in enumerate(lines, 1))


def read_results(path: str | Path) -> Labels:
    """
    Read a result file, which has a score in every line.

    :param path: lines of 16 columns.
    :return: as read_labels.
    :raises DataError: as read_labels, and for a line without a score, such as a label file's.
    """
    for number, line in enumerate(read_text(path, 'a KITTI result file').splitlines(), 1):
        columns = len(line.split())
        if columns not in (0, RESULT_COLUMNS):
            raise DataError(
                f'{path}:{number}: expected {RESULT_COLUMNS} columns of a result, the last its'
                f' score, got {columns}; labels have no score'
            )
    return read_labels(path)


def parse_labels(lines: Iterable[tuple[str, str]]) -> Labels:
    """
    Read the lines of a label file.

    :param lines: what an error calls the line, such as 'FILE:3', and its text.
    :return: as read_labels.
    :raises DataError: as read_labels.
    """
    names, table = [], []
    for where, line in lines:
        name, *values = line.split() or ['']
        if not name:
            continue
        if len(values) not in (14, 15):
            raise DataError(
                f'{where}: expected 15 columns, or 16 with a score, got {1 + len(values)}'
            )
        row = _parse_floats(values, where)
        if not np.isfinite(row).all():
            raise DataError(f'{where}: expected finite numbers')
        names.append(name)
        table.append(row if len(row) == 15 else np.append(row, 1.0))
    columns = np.array(table).reshape(-1, 15)
    center_m = columns[:, 10:13].copy()
    center_m[:, 1] -= columns[:, 7] / 2
    return Labels(
        name=np.array(names, np.str_),
        truncated=columns[:, 0],
        occluded=columns[:, 1],
        alpha=columns[:, 2],
        score=columns[:, 14],
        center_m=center_m,
        size_hwl_m=columns[:, 7:10],
        rotation_y=columns[:, 13],
        box_px=columns[:, 3:7],
    )


def read_velodyne(path: str | Path) -> Array:
    """Read a LiDAR scan -> (N, 4) float32 x forward, y left, z up, metres, and reflectance."""
    data = _require_exists(Path(path), 'a velodyne scan').read_bytes()
    if len(data) % 16:
        raise DataError(f'{path}: {len(data)} bytes are not a whole number of 16-byte points')
    return np.frombuffer(data, np.float32).reshape(-1, 4)


def to_labels(objects: Objects3D, classes: tuple[str, ...]) -> Labels:
    """Name predicted objects, so that they can be written or evaluated like labels."""
    count = len(objects)
    bearing = np.arctan2(objects.center_m[:, 0], objects.center_m[:, 2])
    return Labels(
        name=np.array([classes[i] for i in objects.class_id], np.str_),
        truncated=np.full(count, -1.0),
        occluded=np.full(count, -1),
        alpha=wrap_angle(objects.rotation_y - bearing),
        score=objects.score,
        center_m=objects.center_m,
        size_hwl_m=objects.size_hwl_m,
        rotation_y=objects.rotation_y,
        box_px=objects.box_px,
    )


def format_results(labels: Labels) -> str:
    """Write objects as the lines of a result file, 16 columns, the score last."""
    bottom = labels.center_m.copy()
    bottom[:, 1] += labels.size_hwl_m[:, 0] / 2
    lines = []
    for i, name in enumerate(labels.name):
        numbers = [*labels.box_px[i], *labels.size_hwl_m[i], *bottom[i], labels.rotation_y[i]]
        text = ' '.join(f'{value:.4f}' for value in numbers)
        head = f'{name} {labels.truncated[i]:.2f} {labels.occluded[i]} {labels.alpha[i]:.4f}'
        lines.append(f'{head} {text} {labels.score[i]:.6f}\n')
    return ''.join(lines)


def _require_exists(path: Path, expected: str) -> Path:
    if not path.exists():
        raise DataError(f'{path}: no such file or folder; expected {expected}')
    return path


def _parse_floats(values: list[str], location: str) -> Array:
    try:
        return np.array([float(value) for value in values])
    except ValueError as err:
        raise DataError(f'{location}: expected numbers ({err})') from err
