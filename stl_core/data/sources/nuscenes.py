"""
nuScenes: samples of six cameras with LiDAR and objects around the vehicle.

The layout is the devkit's: ROOT/v1.0-.../TABLE.json, ROOT/samples, ROOT/sweeps. Every camera has
the pose of the vehicle at its own exposure: within a sample the cameras fire up to 43 ms apart.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from stl_core.data.frame_source import (
    Benchmark,
    DataError,
    LazyArray,
    SourceImage,
    SourceSample,
    explain_unknown_id,
)
from stl_core.data.picture_size import read_picture_size
from stl_core.data.sources.kitti import read_image
from stl_core.data.sources.nuscenes_boxes import (
    GlobalBoxes,
    camera_labels,
    global_boxes,
    vehicle_labels,
)
from stl_core.data.sources.nuscenes_splits import split_scenes
from stl_core.data.sources.nuscenes_sweeps import CameraScan
from stl_core.data.sources.nuscenes_tables import (
    NuscenesTables,
    SensorFrame,
    find_version,
    read_tables,
)
from stl_core.evaluation.nuscenes.names import CAMERAS, CLASSES, LIDAR
from stl_core.rotations import invert_rigid
from stl_core.types import Array

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class NuscenesFolder:
    """
    A nuScenes database.

    :param root: folder with `samples` and the version's folder.
    :param version: folder of the tables, such as v1.0-trainval; '' if there is only one.
    :param split: split of scenes: train, val, test, mini_train, mini_val, or one of the version's
        splits.json; '' for all scenes.
    :param cameras: the cameras, in the order in which samples list them.
    :param sweeps: number of earlier LiDAR scans that depth comes from, beside the sample's own.
    :param labelled: whether annotations are read; a test set has none.
    :param format: 'nuscenes'.
    """

    root: str
    version: str = ''
    split: str = ''
    cameras: tuple[str, ...] = CAMERAS
    sweeps: int = 0
    labelled: bool = True
    format: str = 'nuscenes'

    def __post_init__(self) -> None:
        """Raise ValueError for no camera, a camera twice, or a negative number of sweeps."""
        if not self.cameras or len(set(self.cameras)) < len(self.cameras):
            raise ValueError(f'cameras: expected one or more, each once, got {self.cameras}')
        if self.sweeps < 0:
            raise ValueError(f'sweeps: expected 0 or more, got {self.sweeps}')


class NuscenesSource:
    """A nuScenes database as a FrameSource; a sample's id is its token."""

    def __init__(self, config: NuscenesFolder, ids: tuple[str, ...] = ()) -> None:
        """
        Read the tables and log their counts.

        :param config: the database.
        :param ids: tokens of the samples to keep, unless the configuration names a split.
        :raises DataError: for a missing or malformed table, an unknown split, camera or token, and
            a labelled database without annotations.
        """
        self.config = config
        folder = find_version(Path(config.root), config.version)
        self.tables = read_tables(folder, config.cameras, sweeps=config.sweeps > 0)
        _check_cameras(self.tables, config.cameras)
        if config.labelled and not self.tables.annotations:
            raise DataError(
                f'{folder}/sample_annotation.json: no annotation; set labelled: false for a'
                ' database without labels'
            )
        listed = () if config.split else ids
        self.ids = listed or _split_samples(self.tables, config.split)
        for each in self.ids:
            if each not in self.tables.samples:
                reason = explain_unknown_id(each, self.tables.samples)
                raise DataError(f'{folder}/sample.json: no sample {each!r} ({reason})')
        log.info('%s', _summary(self.tables, self.ids, config))

    def read(self, sample_id: str) -> SourceSample:
        """Read a sample; DataError for a reference to a record that does not exist."""
        tables = self.tables
        try:
            boxes = global_boxes(tables, sample_id) if self.config.labelled else None
            stamp_us = int(tables.samples[sample_id]['timestamp'])
        except KeyError as err:
            raise DataError(
                f'{tables.folder}: sample {sample_id}: no record {err}, which another one names'
            ) from err
        except ValueError as err:
            raise DataError(f'{tables.folder}: sample {sample_id}: {err}') from err
        frames = {
            channel: tables.sensor_frames[token]
            for channel, token in tables.frames.get(sample_id, {}).items()
        }
        for channel in (LIDAR, *self.config.cameras):
            if channel not in frames:
                raise DataError(
                    f'{tables.folder}/sample_data.json: sample {sample_id} has no key frame of'
                    f' {channel}'
                )
        global_T_vehicle = frames[LIDAR].global_T_ego
        scans = _previous_scans(tables, frames[LIDAR], self.config.sweeps)
        return SourceSample(
            id=sample_id,
            images=tuple(
                _source_image(sample_id, frames[channel], global_T_vehicle, boxes, scans, stamp_us)
                for channel in self.config.cameras
            ),
            labels=None
            if boxes is None
            else vehicle_labels(boxes, invert_rigid(global_T_vehicle)),
            global_T_vehicle=global_T_vehicle,
            stamp_us=stamp_us,
            benchmark=Benchmark(self.config.root, tables.folder.name, self.config.split)
            if self.config.split
            else None,
        )


def database_below(root: Path, labelled: bool) -> NuscenesFolder:
    """Return all scenes of the database in a folder with one version, or of a version's folder."""
    if (root / 'sample_data.json').exists():
        return NuscenesFolder(root=str(root.parent), version=root.name, labelled=labelled)
    return NuscenesFolder(root=str(root), labelled=labelled)


def _source_image(
    sample_id: str,
    frame: SensorFrame,
    global_T_vehicle: Array,
    boxes: GlobalBoxes | None,
    scans: Sequence[SensorFrame],
    stamp_us: int,
) -> SourceImage:
    if frame.K is None:
        raise DataError(f'{frame.path}: {frame.channel} has no intrinsics; expected a camera')
    vehicle_T_global, location = invert_rigid(global_T_vehicle), str(frame.path)
    labels = None
    if boxes is not None:
        size_px = frame.size_px if all(frame.size_px) else tuple(read_picture_size(frame.path))
        camera_T_global = invert_rigid(frame.global_T_sensor)
        labels = camera_labels(boxes, camera_T_global, vehicle_T_global, frame.K, size_px)
    return SourceImage(
        id=f'{sample_id}_{frame.channel}',
        camera=frame.channel,
        pixels=LazyArray(location, partial(read_image, frame.path)),
        P=np.column_stack([frame.K, np.zeros(3)]),
        labels=labels,
        vehicle_T_cam=vehicle_T_global @ frame.global_T_sensor,
        points=LazyArray(str(scans[0].path), CameraScan(scans, frame, boxes, stamp_us)),
        size_px=LazyArray(location, partial(read_picture_size, frame.path)),
        P_location=f'calibrated_sensor of {location}',
        stamp_us=frame.stamp_us,
    )


def _previous_scans(
    tables: NuscenesTables, scan: SensorFrame, count: int
) -> tuple[SensorFrame, ...]:
    """Return a scan and up to `count` scans before it, the latest first."""
    scans = [scan]
    while len(scans) <= count and scans[-1].previous:
        scans.append(tables.sensor_frames[scans[-1].previous])
    return tuple(scans)


def _split_samples(tables: NuscenesTables, split: str) -> tuple[str, ...]:
    names = {token: str(row['name']) for token, row in tables.scenes.items()}
    kept = split_scenes(tables.folder, split, names.values()) if split else set(names.values())
    return tuple(
        token for token, row in tables.samples.items() if names[row['scene_token']] in kept
    )


def _check_cameras(tables: NuscenesTables, cameras: Sequence[str]) -> None:
    """Raise DataError for a camera of which the database has no key frame."""
    known = {channel for frames in tables.frames.values() for channel in frames}
    for camera in cameras:
        if camera not in known:
            raise DataError(
                f'{tables.folder}/sensor.json: no key frame of {camera!r}; cameras of nuScenes:'
                f' {", ".join(CAMERAS)}'
            )


def _summary(tables: NuscenesTables, ids: Sequence[str], config: NuscenesFolder) -> str:
    scenes = {tables.samples[each]['scene_token'] for each in ids}
    text = (
        f'{tables.folder}: {len(scenes)} of {len(tables.scenes)} scenes, {len(ids)} samples,'
        f' {len(ids) * len(config.cameras)} images of {len(config.cameras)} cameras'
    )
    if not config.labelled:
        return f'{text}, without labels'
    count = Counter(str(name) for each in ids for name in global_boxes(tables, each).name.tolist())
    listed = ', '.join(f'{name} {count[name]}' for name in CLASSES if count[name])
    boxes = sum(count.values())
    return f'{text}, {boxes} boxes ({listed}; {count[""]} of other categories)'
