"""
KITTI object detection format: read images, calib, labels, results and scans; format text files.

Only this module handles bottom centres, column order and DontCare's -1000. A label line is:
name truncated occluded alpha x0 y0 x1 y1 h w l x y z rotation_y [score], where x y z is the centre
of the box's bottom face in the camera frame (the KITTI object devkit).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from stl_core.data.depth_maps import read_depth, velo_to_camera
from stl_core.data.frame_source import (
    DataError,
    LazyArray,
    SourceImage,
    SourceSample,
    explain_unknown_id,
    read_split,
    read_text,
    require_exists,
)
from stl_core.data.picture_size import decode_picture, read_picture_size
from stl_core.data.scan_file import read_velodyne
from stl_core.data.sources.kitti_calib import lidar_pose_fault, parse_floats, read_calib
from stl_core.evaluation import ap_result
from stl_core.geometry import wrap_angle
from stl_core.types import Array, Labels, Objects3D

#: The classes of KITTI's benchmark.
CLASSES = ap_result.CLASSES
#: Suffixes of images, in small or capital letters.
IMAGE_SUFFIXES = ('.png', '.jpg', '.jpeg')
#: Columns of a label and the score.
RESULT_COLUMNS = 16
#: KITTI has -1 (unset) to 3 (unknown); other sets have more levels.
OCCLUSION_LEVELS = range(-1, 100)


@dataclass(frozen=True)
class KittiFolders:
    """
    Folders of a KITTI-layout data set, as full paths.

    :param image_2: folder of images, ID.png or ID.jpg.
    :param calib: folder of ID.txt, or a single file for all frames.
    :param label_2: folder of ID.txt, or empty for unlabelled data.
    :param velodyne: folder of ID.bin, or empty.
    :param depth_2: folder of ID.png, 16-bit depth (see depth_maps), or empty.
    :param split: file of the frame ids to keep, or empty.
    """

    image_2: str
    calib: str
    label_2: str = ''
    velodyne: str = ''
    depth_2: str = ''
    split: str = ''


@dataclass(frozen=True)
class FrameFiles:
    """The files of one frame; None for label, scan or depth that the data set lacks."""

    id: str
    image_2: Path
    calib: Path
    label_2: Path | None
    velodyne: Path | None
    depth_2: Path | None = None


def list_kitti_frames(folders: KittiFolders, ids: tuple[str, ...] = ()) -> list[FrameFiles]:
    """
    List the frames of a KITTI-layout data set.

    :param folders: the folders.
    :param ids: ids of the frames to list; a split of the folders overrides them; empty lists all
        images.
    :return: frames in order of id, or in the order of the given ids.
    :raises DataError: for a missing folder, image, calib or label, or two images of one id, naming
        it.
    """
    folder = require_exists(Path(folders.image_2), 'a folder of images')
    images: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in IMAGE_SUFFIXES:
            if path.stem in images:
                raise DataError(
                    f'{path}: one image of two with this id, as {images[path.stem].name}'
                )
            images[path.stem] = path
    if not images:
        raise DataError(f'{folder}: no .png or .jpg image in this folder')
    ids = read_split(folders.split) if folders.split else ids
    frames = []
    for frame_id in ids or tuple(images):
        if frame_id not in images:
            reason = explain_unknown_id(frame_id, images)
            raise DataError(f'{folder / frame_id}.png: listed but missing ({reason})')
        calib = Path(folders.calib)
        calib = calib if calib.is_file() else calib / f'{frame_id}.txt'
        label = Path(folders.label_2) / f'{frame_id}.txt' if folders.label_2 else None
        cloud = Path(folders.velodyne) / f'{frame_id}.bin' if folders.velodyne else None
        depth = Path(folders.depth_2) / f'{frame_id}.png' if folders.depth_2 else None
        frames.append(
            FrameFiles(
                id=frame_id,
                image_2=images[frame_id],
                calib=require_exists(calib, 'a KITTI calib file'),
                label_2=require_exists(label, 'a KITTI label file') if label else None,
                velodyne=cloud if cloud and cloud.exists() else None,
                depth_2=depth if depth and depth.exists() else None,
            )
        )
    return frames


class KittiSource:
    """A KITTI-layout data set as a FrameSource: samples of one image."""

    def __init__(self, folders: KittiFolders, ids: tuple[str, ...] = ()) -> None:
        """List the frames; parameters and errors as in list_kitti_frames."""
        frames = list_kitti_frames(folders, ids)
        self.ids = tuple(files.id for files in frames)
        self._folders, self._frames = folders, {files.id: files for files in frames}

    def read(self, sample_id: str) -> SourceSample:
        """Read calib and labels of a frame; raise DataError if a file is malformed."""
        image = read_source_image(self._frames[sample_id], self._folders)
        return SourceSample(sample_id, (image,))


def folders_below(root: Path, labelled: bool) -> KittiFolders:
    """Return the folders of a data set in one folder; with label_2 if it is `labelled`."""
    return KittiFolders(
        image_2=str(root / 'image_2'),
        calib=str(root / 'calib'),
        label_2=str(root / 'label_2') if labelled else '',
        velodyne=str(root / 'velodyne'),
        depth_2=str(root / 'depth_2'),
    )


def read_source_image(
    files: FrameFiles, folders: KittiFolders = KittiFolders('', '')
) -> SourceImage:
    """
    Read calib and labels of a frame.

    :param files: files of the frame.
    :param folders: where scan and depth would be, for the error messages if they are missing.
    :return: the frame's image; its camera is image_2.
    :raises DataError: for a malformed file, naming it.
    """
    calib = read_calib(files.calib)
    depth = LazyArray(str(Path(folders.depth_2 or 'depth_2') / f'{files.id}.png'))
    points = LazyArray(str(Path(folders.velodyne or 'velodyne') / f'{files.id}.bin'))
    if files.depth_2:
        depth = LazyArray(str(files.depth_2), partial(read_depth, files.depth_2))
    if files.velodyne and calib.cam_T_velo is None:
        fault = f'{files.velodyne}, whose pose is missing: {files.calib}: '
        points = LazyArray(fault + lidar_pose_fault(files.calib))
    elif files.velodyne and calib.cam_T_velo is not None:
        read_points = partial(_read_camera_points, files.velodyne, calib.cam_T_velo)
        points = LazyArray(str(files.velodyne), read_points)
    lines = label_lines(files.label_2) if files.label_2 else []
    return SourceImage(
        id=files.id,
        camera='image_2',
        pixels=LazyArray(str(files.image_2), partial(read_image, files.image_2)),
        P=calib.P2,
        labels=parse_labels(lines) if files.label_2 else None,
        depth=depth,
        points=points,
        size_px=LazyArray(str(files.image_2), partial(read_picture_size, files.image_2)),
        P_location=str(files.calib),
        label_locations=tuple(location for location, _ in lines),
    )


def read_image(path: str | Path) -> Array:
    """Read an image file as (H, W, 3) uint8 RGB; raise DataError if it does not decode."""
    image = decode_picture(require_exists(Path(path), 'an image').read_bytes())
    if image is None:
        raise DataError(f'{path}: not a readable PNG or JPEG image')
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def read_labels(path: str | Path) -> Labels:
    """
    Read a label or result file.

    :param path: lines of 15 columns, or 16 with a score.
    :return: every object in file order; centres moved from the bottom face to the box centre.
    :raises DataError: naming the file and the malformed line.
    """
    return parse_labels(label_lines(path))


def label_lines(path: str | Path) -> list[tuple[str, str]]:
    """Return location, such as 'FILE:3', and text of every line that is not blank."""
    lines = enumerate(read_text(path, 'a KITTI label file').splitlines(), 1)
    return [(f'{path}:{number}', line) for number, line in lines if line.strip()]


def read_results(path: str | Path) -> Labels:
    """
    Read a result file: a score is required in every line.

    :param path: lines of 16 columns.
    :return: as read_labels.
    :raises DataError: as read_labels, and for a line without a score, as in a label file.
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
    Parse the lines of a label file.

    :param lines: location of each line for error messages, such as 'FILE:3', and its text.
    :return: as read_labels.
    :raises DataError: as read_labels.
    """
    names, table = [], []
    for location, line in lines:
        name, *values = line.split() or ['']
        if not name:
            continue
        if len(values) not in (14, 15):
            raise DataError(
                f'{location}: expected 15 columns, or 16 with a score, got {1 + len(values)}'
            )
        row = parse_floats(values, location)
        if not np.isfinite(row).all():
            raise DataError(f'{location}: expected finite numbers')
        if row[1] not in OCCLUSION_LEVELS:
            raise DataError(f'{location}: occluded {values[1]}: expected a whole number, 0 to 3')
        names.append(name.strip('"\''))
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


def _read_camera_points(path: Path, cam_T_velo: Array) -> Array:
    return velo_to_camera(read_velodyne(path), cam_T_velo)


def to_labels(objects: Objects3D, classes: tuple[str, ...]) -> Labels:
    """Convert predicted objects to Labels, to write or evaluate them like labels."""
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
    """Format objects as the lines of a result file: 16 columns, the score last."""
    bottom = labels.center_m.copy()
    bottom[:, 1] += labels.size_hwl_m[:, 0] / 2
    lines = []
    for i, name in enumerate(labels.name):
        numbers = [*labels.box_px[i], *labels.size_hwl_m[i], *bottom[i], labels.rotation_y[i]]
        text = ' '.join(f'{value:.4f}' for value in numbers)
        head = f'{name} {labels.truncated[i]:.2f} {labels.occluded[i]} {labels.alpha[i]:.4f}'
        lines.append(f'{head} {text} {labels.score[i]:.6f}\n')
    return ''.join(lines)
