"""
The tables of a nuScenes database: JSON lists of records that refer to each other by tokens.

Read are the tables that detection needs, and of the large ones, sample_data and ego_pose (2.6
million records in v1.0-trainval), only the records of the key frames of the cameras and of the
LiDAR's scans. Times are integer microseconds: a float32 of them has steps of two minutes.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stl_core.data.frame_source import DataError, read_text, require_exists
from stl_core.evaluation.nuscenes.names import LIDAR
from stl_core.rotations import rigid_transform
from stl_core.types import Array

#: A record of a table.
Row = Mapping[str, Any]

#: The tables that are read.
TABLES = (
    'attribute',
    'calibrated_sensor',
    'category',
    'ego_pose',
    'instance',
    'sample',
    'sample_annotation',
    'sample_data',
    'scene',
    'sensor',
)


@dataclass(frozen=True)
class SensorFrame:
    """
    One picture or scan.

    :param channel: name of the sensor.
    :param path: file of the picture or scan, which may be missing.
    :param stamp_us: time, microseconds.
    :param global_T_ego: (4, 4) pose of the vehicle at that time.
    :param ego_T_sensor: (4, 4) pose of the sensor on the vehicle.
    :param K: (3, 3) intrinsics of a camera; None of other sensors.
    :param size_px: width and height of a picture; 0 of other sensors.
    :param previous: token of the frame before; '' for none.
    """

    channel: str
    path: Path
    stamp_us: int
    global_T_ego: Array
    ego_T_sensor: Array
    K: Array | None
    size_px: tuple[int, int]
    previous: str

    @property
    def global_T_sensor(self) -> Array:
        """Pose of the sensor at the time of the frame, (4, 4)."""
        return self.global_T_ego @ self.ego_T_sensor


@dataclass(frozen=True)
class NuscenesTables:
    """
    A database; every mapping is by token.

    :param folder: the version's folder, such as ROOT/v1.0-mini.
    :param scenes: scene -> its record.
    :param samples: sample -> its record, by scene and time.
    :param frames: sample -> channel -> token of its key frame.
    :param sensor_frames: frame token -> frame: key frames, and scans of the LiDAR between them.
    :param annotations: annotation -> its record.
    :param sample_annotations: sample -> tokens of its annotations.
    :param categories: instance -> name of its category.
    :param attributes: attribute -> its name.
    """

    folder: Path
    scenes: Mapping[str, Row]
    samples: Mapping[str, Row]
    frames: Mapping[str, Mapping[str, str]]
    sensor_frames: Mapping[str, SensorFrame]
    annotations: Mapping[str, Row]
    sample_annotations: Mapping[str, Sequence[str]]
    categories: Mapping[str, str]
    attributes: Mapping[str, str]


def find_version(root: Path, version: str) -> Path:
    """
    Return the folder of a version.

    :param root: folder of the data set, with folders `samples` and v1.0-....
    :param version: name of the folder with the tables; '' if there is only one.
    :raises DataError: naming the versions that exist.
    """
    require_exists(root, 'a nuScenes folder, with v1.0-mini or another version in it')
    names = sorted(path.parent.name for path in root.glob('*/sample_data.json'))
    if version in names:
        return root / version
    if not names:
        raise DataError(
            f'{root}: no version of nuScenes in this folder; expected tables such as'
            ' v1.0-mini/sample_data.json'
        )
    if version:
        raise DataError(f'{root / version}: no such version; there is {", ".join(names)}')
    if len(names) > 1:
        raise DataError(f'{root}: several versions, {", ".join(names)}; set version')
    return root / names[0]


def read_tables(folder: Path, cameras: Collection[str], sweeps: bool) -> NuscenesTables:
    """
    Read a version's tables.

    :param folder: from find_version.
    :param cameras: channels of the cameras whose key frames are kept.
    :param sweeps: keep the LiDAR's scans between key frames, too.
    :raises DataError: for a table that is missing, no list of records, or refers to a record that
        does not exist, naming it.
    """
    try:
        return _build_tables(folder, cameras, sweeps)
    except KeyError as err:
        raise DataError(
            f'{folder}: a record refers to {err}, which no table has, or lacks this key'
        ) from err
    except (TypeError, ValueError) as err:
        if isinstance(err, DataError):
            raise
        raise DataError(f'{folder}: malformed record: {err}') from err


def _build_tables(folder: Path, cameras: Collection[str], sweeps: bool) -> NuscenesTables:
    def by_token(name: str) -> dict[str, Row]:
        return {row['token']: row for row in read_rows(folder, name)}

    channels = {row['token']: row['channel'] for row in read_rows(folder, 'sensor')}
    sensors = by_token('calibrated_sensor')
    wanted = {
        token: channels[row['sensor_token']]
        for token, row in sensors.items()
        if channels[row['sensor_token']] in {*cameras, LIDAR}
    }

    def keep_frame(row: Row) -> bool:
        channel = wanted.get(row['calibrated_sensor_token'])
        return bool(channel and (row['is_key_frame'] or (sweeps and channel == LIDAR)))

    rows = list(read_rows(folder, 'sample_data', keep_frame))
    sensor_frames = _sensor_frames(folder, rows, sensors, wanted)
    frames: dict[str, dict[str, str]] = defaultdict(dict)
    for row in rows:
        if row['is_key_frame']:
            channel = wanted[row['calibrated_sensor_token']]
            frames[row['sample_token']][channel] = row['token']
    samples, scenes = by_token('sample'), by_token('scene')
    scene_order = {token: index for index, token in enumerate(scenes)}
    ordered = sorted(
        samples.values(), key=lambda row: (scene_order[row['scene_token']], int(row['timestamp']))
    )
    annotations = by_token('sample_annotation')
    sample_annotations: dict[str, list[str]] = defaultdict(list)
    for token, row in annotations.items():
        sample_annotations[row['sample_token']].append(token)
    names = {row['token']: row['name'] for row in read_rows(folder, 'category')}
    return NuscenesTables(
        folder=folder,
        scenes=scenes,
        samples={row['token']: row for row in ordered},
        frames=dict(frames),
        sensor_frames=sensor_frames,
        annotations=annotations,
        sample_annotations=dict(sample_annotations),
        categories={
            row['token']: names[row['category_token']] for row in read_rows(folder, 'instance')
        },
        attributes={row['token']: row['name'] for row in read_rows(folder, 'attribute')},
    )


def read_rows(
    folder: Path, name: str, keep: Callable[[Row], bool] = lambda row: True
) -> Iterator[Row]:
    """
    Yield the records of a table, parsed one by one, so that those not kept take no memory.

    :param folder: the version's folder.
    :param name: the table.
    :param keep: whether a record is kept.
    :raises DataError: for a missing file, and one that is no JSON list of records.
    """
    path = folder / f'{name}.json'
    text = read_text(path, 'a table of nuScenes')
    fault = f'{path}: not a table of nuScenes; expected a JSON list of records'
    if text.lstrip()[:1] != '[':
        raise DataError(fault)
    decoder, at = json.JSONDecoder(), _skip(text, 0, '[')
    while text[at : at + 1] != ']':
        try:
            row, at = decoder.raw_decode(text, at)
        except json.JSONDecodeError as err:
            raise DataError(f'{fault}, complete to its end') from err
        if not isinstance(row, dict):
            raise DataError(fault)
        if keep(row):
            yield row
        at = _skip(text, at, ',')


def _skip(text: str, at: int, mark: str) -> int:
    """Return the position after white space, a mark if there is one, and white space."""
    while text[at : at + 1].isspace():
        at += 1
    if text[at : at + 1] == mark:
        at += 1
    while text[at : at + 1].isspace():
        at += 1
    return at


def _sensor_frames(
    folder: Path, rows: Sequence[Row], sensors: Mapping[str, Row], channels: Mapping[str, str]
) -> dict[str, SensorFrame]:
    """Return the frames of records of sample_data by token, with their poses of the vehicle."""
    needed = {row['ego_pose_token'] for row in rows}
    poses = {
        row['token']: rigid_transform(row['rotation'], row['translation'])
        for row in read_rows(folder, 'ego_pose', lambda row: row['token'] in needed)
    }
    frames = {}
    for row in rows:
        sensor = row['calibrated_sensor_token']
        frames[row['token']] = _sensor_frame(
            folder, row, channels[sensor], sensors[sensor], poses[row['ego_pose_token']]
        )
    return frames


def _sensor_frame(
    folder: Path, row: Row, channel: str, sensor: Row, global_T_ego: Array
) -> SensorFrame:
    intrinsics = sensor['camera_intrinsic']
    return SensorFrame(
        channel=channel,
        path=folder.parent / row['filename'],
        stamp_us=int(row['timestamp']),
        global_T_ego=global_T_ego,
        ego_T_sensor=rigid_transform(sensor['rotation'], sensor['translation']),
        K=_as_intrinsics(intrinsics, folder) if intrinsics else None,
        size_px=(int(row['width']), int(row['height'])),
        previous=str(row['prev']),
    )


def _as_intrinsics(values: Any, folder: Path) -> Array:
    K = np.asarray(values, np.float64)
    if K.shape != (3, 3) or not np.isfinite(K).all() or not K[0, 0] > 0:
        raise DataError(f'{folder}/calibrated_sensor.json: camera_intrinsic {values}: not 3 x 3')
    return K
