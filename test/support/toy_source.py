"""
A data set format that is not KITTI's: one .npz file per drive, two cameras per sample.

Arrays of a file, of S samples, C cameras and up to N objects: pixels (S, C, H, W, 3) uint8,
P (C, 3, 4), vehicle_T_cam (C, 4, 4), names (S, C, N) with '' for no object, boxes (S, C, N, 14):
the other columns of a KITTI label, but with the centre of the box as its position.
Labels, depth_m (S, C, H, W) and points_m (S, C, L, 3) are optional. A sample's id is
DRIVE-NUMBER.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from stl_core.data.frame_source import (
    DataError,
    LazyArray,
    SourceFormat,
    SourceImage,
    SourceSample,
)
from stl_core.data.sources import SOURCES
from stl_core.types import Labels

CAMERAS = ('left', 'right')


@dataclass(frozen=True)
class ToyConfig:
    """A folder of .npz files; labels are optional."""

    folder: str
    format: str = 'toy'


class ToySource:
    def __init__(self, config, ids=()):
        self._drives = {path.stem: path for path in sorted(Path(config.folder).glob('*.npz'))}
        if not self._drives:
            raise DataError(f'{config.folder}: no .npz drive in this folder')
        self.ids = tuple(ids) or tuple(
            f'{drive}-{number}'
            for drive, path in self._drives.items()
            for number in range(len(np.load(path)['pixels']))
        )

    def read(self, sample_id):
        drive, _, number = sample_id.rpartition('-')
        if drive not in self._drives:
            raise DataError(f'{sample_id}: no such sample; drives: {", ".join(self._drives)}')
        path, number = self._drives[drive], int(number)
        with np.load(path) as arrays:
            images = tuple(
                _source_image(path, arrays, number, camera) for camera in range(len(CAMERAS))
            )
        return SourceSample(sample_id, images)


def _source_image(path, arrays, number, camera):
    def lazy(name):
        location = f'{path}[{name}][{number}, {camera}]'
        there = name in arrays
        return LazyArray(location, partial(_load, path, name, number, camera) if there else None)

    return SourceImage(
        id=f'{path.stem}-{number}-{CAMERAS[camera]}',
        camera=CAMERAS[camera],
        pixels=lazy('pixels'),
        P=arrays['P'][camera],
        labels=_labels(arrays, number, camera) if 'names' in arrays else None,
        vehicle_T_cam=arrays['vehicle_T_cam'][camera],
        depth=lazy('depth_m'),
        points=lazy('points_m'),
    )


def _load(path, name, number, camera):
    with np.load(path) as arrays:
        return arrays[name][number, camera]


def _labels(arrays, number, camera):
    names = arrays['names'][number, camera]
    rows = arrays['boxes'][number, camera][names != '']
    return Labels(
        name=names[names != ''],
        truncated=rows[:, 0],
        occluded=rows[:, 1],
        alpha=rows[:, 2],
        score=np.ones(len(rows)),
        center_m=rows[:, 10:13],
        size_hwl_m=rows[:, 7:10],
        rotation_y=rows[:, 13],
        box_px=rows[:, 3:7],
    )


SOURCES['toy'] = SourceFormat(
    ToyConfig, ToySource, lambda folder, labelled: ToyConfig(str(folder))
)


def write_drive(path, frames):
    """Write pixels, P, labels and depth of images as a drive: two for the cameras of a sample."""
    pairs = [frames[at : at + 2] for at in range(0, len(frames), 2)]
    most = max(len(frame.labels) for frame in frames)
    names = np.full((len(pairs), 2, most), '', 'U20')
    boxes = np.zeros((len(pairs), 2, most, 14))
    for number, pair in enumerate(pairs):
        for camera, labels in enumerate(frame.labels for frame in pair):
            names[number, camera, : len(labels)] = labels.name
            boxes[number, camera, : len(labels)] = _rows(labels)
    poses = np.tile(np.eye(4), (2, 1, 1))
    poses[:, :3, :3] = [[0, 0, 1], [-1, 0, 0], [0, -1, 0]]
    poses[:, 1, 3] = (0.3, -0.3)
    depths = {}
    if all(frame.depth.exists for frame in frames):
        depths['depth_m'] = np.stack([[f.depth.read() for f in pair] for pair in pairs])
    np.savez(
        path,
        pixels=np.stack([[frame.pixels.read() for frame in pair] for pair in pairs]),
        P=np.stack([frame.P for frame in pairs[0]]),
        vehicle_T_cam=poses,
        names=names,
        boxes=boxes,
        **depths,
    )


def _rows(labels):
    columns = (
        *(labels.truncated, labels.occluded, labels.alpha, labels.box_px),
        *(labels.size_hwl_m, labels.center_m, labels.rotation_y),
    )
    return np.column_stack(columns)
