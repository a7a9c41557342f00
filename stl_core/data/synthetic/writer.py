"""
Synthesize a data set of single frames and write it in KITTI's object layout, in parallel.

A frame's files depend on (seed, number) only, so an interrupted run resumes where it stopped and
the number of processes does not change the result.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from stl_core.data.depth_maps import write_depth
from stl_core.data.frame_source import DataError
from stl_core.data.sources.kitti import format_results
from stl_core.data.sources.kitti_calib import calib_text
from stl_core.data.synthetic.frame import SyntheticFrame, make_frame
from stl_core.data.synthetic.sensors.camera import CameraModel
from stl_core.data.synthetic.sensors.lidar import Lidar
from stl_core.data.worker_pool import describe_workers, map_ordered, with_progress
from stl_core.types import Array, Labels
from stl_core.visualization import draw

#: Every fifth frame is for validation.
VAL_EVERY = 5
SETTINGS_FILE = 'synthetic.json'
#: Digits of a calib file's numbers, as in KITTI's files.
CALIB_DIGITS = 12
#: Position of KITTI's inertial unit in the LiDAR frame; their axes are parallel.
IMU_IN_VELO_M = (-0.81, 0.32, -0.80)
RIG_R_VELO = np.array([[0.0, -1.0, 0.0], [0.0, 0.0, -1.0], [1.0, 0.0, 0.0]])
#: One PNG filter for all rows instead of the best of five per row: a third less time, files 1 to
#: 4 % larger. Older OpenCV versions cannot select the filter.
FAST_PNG: tuple[int, ...] = (cv2.IMWRITE_PNG_COMPRESSION, 1)
if hasattr(cv2, 'IMWRITE_PNG_FILTER'):
    FAST_PNG += (cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_UP)


@dataclass(frozen=True)
class SynthesisJob:
    """
    Settings of a synthetic data set.

    :param out: output folder.
    :param seed: root of all randomness.
    :param model: the camera model.
    :param lidar: the LiDAR, None for a data set without scans.
    :param depth: whether to write dense depth.
    :param suffix: suffix of the images, '.png' or '.jpg'.
    :param device: device of the shading, such as 'cpu' or 'cuda:0'.
    """

    out: str
    seed: int
    model: CameraModel
    lidar: Lidar | None = None
    depth: bool = True
    suffix: str = '.png'
    device: str = 'cpu'


def synthesize_dataset(
    job: SynthesisJob, frames: int, workers: int, show_progress: bool = True
) -> None:
    """
    Synthesize a data set: training/{image_2,calib,label_2,velodyne,depth_2} and ImageSets.

    :param job: settings of the data set.
    :param frames: number of frames.
    :param workers: number of processes; 0 runs everything in this one.
    :param show_progress: whether to draw a progress bar.
    :raises DataError: if the folder holds a data set made with other settings.
    """
    root = Path(job.out)
    claim_folder(root, {**asdict(job), 'out': '', 'device': ''})
    folders = ['image_2', 'calib', 'label_2', *(['velodyne'] if job.lidar else [])]
    for name in [*folders, *(['depth_2'] if job.depth else [])]:
        (root / 'training' / name).mkdir(parents=True, exist_ok=True)
    write_splits(root / 'ImageSets', [f'{i:06d}' for i in range(frames)])
    labels = root / 'training' / 'label_2'
    todo = [i for i in range(frames) if not (labels / f'{i:06d}.txt').exists()]
    for _ in with_progress(
        map_ordered(FrameWriter(job), todo, workers),
        len(todo),
        f'frames ({describe_workers(workers)})',
        show_progress,
    ):
        pass


@dataclass(frozen=True)
class FrameWriter:
    """Synthesizes and writes frames of a data set by number; picklable, for worker processes."""

    job: SynthesisJob

    def __call__(self, number: int) -> int:
        """Synthesize and write frame `number`; return the number."""
        job = self.job
        frame = make_frame(job.seed, number, job.model, job.lidar, job.device)
        write_frame(Path(job.out) / 'training', f'{number:06d}', frame, job)
        return number


def claim_folder(root: Path, settings: dict[str, Any]) -> None:
    """Write the settings file; raise DataError if the folder holds other settings."""
    path, text = root / SETTINGS_FILE, json.dumps(settings, indent=1) + '\n'
    if path.exists() and path.read_text() != text:
        raise DataError(f'{path}: this folder was made with other settings; choose a new one')
    root.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def write_splits(folder: Path, ids: list[str]) -> None:
    """Write train.txt, val.txt (every fifth frame; the last of 2 to 4) and trainval.txt."""
    folder.mkdir(parents=True, exist_ok=True)
    val_ids = ids[VAL_EVERY - 1 :: VAL_EVERY] or ids[1:][-1:]
    for name, rows in (
        ('train', [i for i in ids if i not in set(val_ids)]),
        ('val', val_ids),
        ('trainval', ids),
    ):
        (folder / f'{name}.txt').write_text(''.join(f'{row}\n' for row in rows))


def write_frame(root: Path, frame_id: str, frame: SyntheticFrame, job: SynthesisJob) -> None:
    """Write the files of one frame, the label file last: it marks the frame as complete."""
    write_image(root / 'image_2' / f'{frame_id}{job.suffix}', frame.image)
    matrices = calib_matrices(frame.camera.P, job.lidar)
    (root / 'calib' / f'{frame_id}.txt').write_text(calib_text(matrices, CALIB_DIGITS))
    if frame.scan is not None:
        (root / 'velodyne' / f'{frame_id}.bin').write_bytes(frame.scan.points.tobytes())
    if job.depth:
        write_depth(root / 'depth_2' / f'{frame_id}.png', frame.depth_m)
    (root / 'label_2' / f'{frame_id}.txt').write_text(label_text(frame.annotations.labels))


def write_image(path: Path, image: Array) -> None:
    """Write (H, W, 3) uint8 RGB as PNG or JPEG, by the suffix of the path."""
    options = FAST_PNG if path.suffix == '.png' else (cv2.IMWRITE_JPEG_QUALITY, 95)
    draw.write_picture(path, image, options)


def label_text(labels: Labels) -> str:
    """Format labels as a KITTI label file: 15 columns, no score."""
    rows = format_results(labels).splitlines()
    return ''.join(row.rsplit(' ', 1)[0] + '\n' for row in rows)


def calib_matrices(
    P: Array, lidar: Lidar | None, camera_R_rig: Array | None = None
) -> dict[str, Array]:
    """
    Return the matrices of a calib file of the object benchmark by key.

    :param P: (3, 4) projection of camera 2; the other cameras get KITTI's offsets from it.
    :param lidar: the LiDAR, for its position; None takes the default position.
    :param camera_R_rig: (3, 3) rotation rig -> camera; None is identity, for the front camera.
    """
    matrices = {}
    for number, offset_m in enumerate((0.0, 0.537, None, 0.473)):
        projection = P.copy()
        if offset_m is not None:
            projection[:, 3] = [-offset_m * P[0, 0], 0.0, 0.0]
        matrices[f'P{number}'] = projection
    camera_R_rig = np.eye(3) if camera_R_rig is None else camera_R_rig
    position_m = np.array((lidar or Lidar()).position_m)[:, None]
    return {
        **matrices,
        'R0_rect': np.eye(3),
        'Tr_velo_to_cam': camera_R_rig @ np.concatenate([RIG_R_VELO, position_m], 1),
        'Tr_imu_to_velo': np.column_stack([np.eye(3), IMU_IN_VELO_M]),
    }
