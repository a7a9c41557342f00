"""The 13 tables of a synthetic nuScenes database."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stl_core.data.synthetic.nuscenes import rig
from stl_core.data.synthetic.nuscenes.sample import (
    BoxRecord,
    DatabaseJob,
    SampleRecord,
    scene_name,
)
from stl_core.evaluation.nuscenes.names import ATTRIBUTES, LIDAR
from stl_core.files import write_atomically
from stl_core.rotations import matrix_to_quaternion, yaw_to_quaternion

VERSION = 'v1.0-synthetic'
#: Class of the renderer -> category. Trailers, buses, motorcycles and so on do not exist yet.
CATEGORIES = {
    'Car': 'vehicle.car',
    'Van': 'vehicle.car',
    'Truck': 'vehicle.truck',
    'Pedestrian': 'human.pedestrian.adult',
    'Cyclist': 'vehicle.bicycle',
}
#: Speed from which an object moves, m/s.
MOVING_MPS = 0.2
#: Least visible part of levels 2, 3 and 4.
VISIBILITY_LEVELS = (0.4, 0.6, 0.8)
#: Every fifth scene is for validation; of two to four scenes the last one.
VAL_EVERY = 5

Row = dict[str, Any]


def write_tables(job: DatabaseJob, samples: Sequence[SampleRecord]) -> dict[str, list[Row]]:
    """
    Write all tables and splits.json; return the tables.

    :param job: settings of the database.
    :param samples: records of all samples, by scene and number.
    """
    root = Path(job.out)
    tables = build_tables(job, samples)
    (root / 'maps').mkdir(exist_ok=True)
    (root / 'maps/none.png').write_bytes(b'')
    folder = root / VERSION
    folder.mkdir(exist_ok=True)
    scenes = sorted({sample.scene for sample in samples})
    val = scenes[VAL_EVERY - 1 :: VAL_EVERY] or scenes[1:][-1:]
    splits = {
        'synthetic_train': [scene_name(each) for each in scenes if each not in val],
        'synthetic_val': [scene_name(each) for each in val],
    }
    write_atomically(folder / 'splits.json', json.dumps(splits, indent=1).encode())
    for name, rows in tables.items():
        write_atomically(folder / f'{name}.json', json.dumps(rows, indent=0).encode())
    return tables


def build_tables(job: DatabaseJob, samples: Sequence[SampleRecord]) -> dict[str, list[Row]]:
    """Return the 13 tables; tokens are readable and unique."""
    scenes: dict[int, list[SampleRecord]] = defaultdict(list)
    for sample in samples:
        scenes[sample.scene].append(sample)
    tables: dict[str, list[Row]] = {**_fixed_tables(job), 'scene': [], 'sample': []}
    tables |= {'sample_data': [], 'ego_pose': [], 'instance': [], 'sample_annotation': []}
    for scene, records in scenes.items():
        tokens = [_sample_token(each) for each in records]
        tables['scene'].append(
            {
                'token': scene_name(scene),
                'name': scene_name(scene),
                'log_token': 'log',
                'nbr_samples': len(records),
                'first_sample_token': tokens[0],
                'last_sample_token': tokens[-1],
                'description': 'synthetic',
            }
        )
        for record, links in zip(records, _chain(tokens), strict=True):
            tables['sample'].append(
                {**links, 'timestamp': record.stamp_us, 'scene_token': scene_name(scene)}
            )
        _add_sensor_data(tables, records, (job.width_px, job.height_px))
        _add_annotations(tables, scene, records)
    return tables


def _fixed_tables(job: DatabaseJob) -> dict[str, list[Row]]:
    """Return the tables that do not depend on the samples."""
    log = {'token': 'log', 'logfile': 'synthetic', 'vehicle': 'synthetic'}
    sensors = [(each.channel, 'camera') for each in rig.RIG] + [(LIDAR, 'lidar')]
    calibrated = [
        {
            'token': camera.channel,
            'sensor_token': camera.channel,
            'translation': list(camera.place_m),
            'rotation': matrix_to_quaternion(camera.vehicle_R_camera()).tolist(),
            'camera_intrinsic': camera.camera(job.width_px, job.height_px).P[:, :3].tolist(),
        }
        for camera in rig.RIG
    ]
    calibrated.append(
        {
            'token': LIDAR,
            'sensor_token': LIDAR,
            'translation': list(rig.LIDAR_M),
            'rotation': [1.0, 0.0, 0.0, 0.0],
            'camera_intrinsic': [],
        }
    )
    levels = ('v0-40', 'v40-60', 'v60-80', 'v80-100')
    return {
        'log': [{**log, 'date_captured': '2023-11-14', 'location': 'synthetic'}],
        'map': [
            {
                'token': 'map',
                'log_tokens': ['log'],
                'category': 'semantic_prior',
                'filename': 'maps/none.png',
            }
        ],
        'category': _named(sorted(set(CATEGORIES.values()))),
        'attribute': _named(ATTRIBUTES),
        'visibility': [
            {'token': str(index + 1), 'level': level, 'description': ''}
            for index, level in enumerate(levels)
        ],
        'sensor': [
            {'token': channel, 'channel': channel, 'modality': modality}
            for channel, modality in sensors
        ],
        'calibrated_sensor': calibrated,
    }


def _named(names: Sequence[str]) -> list[Row]:
    return [{'token': name, 'name': name, 'description': ''} for name in names]


def _add_sensor_data(
    tables: dict[str, list[Row]], records: Sequence[SampleRecord], size_px: tuple[int, int]
) -> None:
    """Add pictures and scans of a scene, with their poses; each channel is a chain in time."""
    by_channel: dict[str, list[tuple[SampleRecord, Any]]] = defaultdict(list)
    for record in records:
        for sensor in record.sensors:
            by_channel[sensor.channel].append((record, sensor))
    width_px, height_px = size_px
    for channel, frames in by_channel.items():
        is_camera = channel != LIDAR
        tokens = [f'{_scene_of(r)}-{channel}-{sensor.stamp_us}' for r, sensor in frames]
        for (record, sensor), links in zip(frames, _chain(tokens), strict=True):
            tables['ego_pose'].append(
                {
                    'token': links['token'],
                    'timestamp': sensor.stamp_us,
                    'translation': sensor.ego_m,
                    'rotation': yaw_to_quaternion(np.array(sensor.ego_yaw)).tolist(),
                }
            )
            tables['sample_data'].append(
                {
                    **links,
                    'sample_token': _sample_token(record),
                    'ego_pose_token': links['token'],
                    'calibrated_sensor_token': channel,
                    'timestamp': sensor.stamp_us,
                    'fileformat': sensor.filename.split('.')[1],
                    'is_key_frame': sensor.is_key_frame,
                    'width': width_px if is_camera else 0,
                    'height': height_px if is_camera else 0,
                    'filename': sensor.filename,
                }
            )


def _add_annotations(
    tables: dict[str, list[Row]], scene: int, records: Sequence[SampleRecord]
) -> None:
    """Add the objects of a scene: an instance each, with a chain of annotations."""
    by_actor: dict[int, list[tuple[SampleRecord, BoxRecord]]] = defaultdict(list)
    for record in records:
        for box in record.boxes:
            by_actor[box.actor].append((record, box))
    for actor, boxes in by_actor.items():
        instance = f'{scene_name(scene)}-object{actor}'
        tokens = [f'{instance}-{record.number}' for record, _ in boxes]
        tables['instance'].append(
            {
                'token': instance,
                'category_token': CATEGORIES[boxes[0][1].name],
                'nbr_annotations': len(boxes),
                'first_annotation_token': tokens[0],
                'last_annotation_token': tokens[-1],
            }
        )
        for (record, box), links in zip(boxes, _chain(tokens), strict=True):
            level = 1 + sum(box.visibility >= limit for limit in VISIBILITY_LEVELS)
            tables['sample_annotation'].append(
                {
                    **links,
                    'sample_token': _sample_token(record),
                    'instance_token': instance,
                    'visibility_token': str(level),
                    'attribute_tokens': [_attribute(box)],
                    'translation': box.center_m,
                    'size': box.size_wlh_m,
                    'rotation': yaw_to_quaternion(np.array(box.yaw)).tolist(),
                    'num_lidar_pts': box.num_points,
                    'num_radar_pts': 0,
                }
            )


def _attribute(box: BoxRecord) -> str:
    moving = box.speed_mps > MOVING_MPS
    if box.name == 'Cyclist':
        return 'cycle.with_rider'
    if box.name == 'Pedestrian':
        return 'pedestrian.moving' if moving else 'pedestrian.standing'
    return 'vehicle.moving' if moving else 'vehicle.parked'


def _chain(tokens: Sequence[str]) -> list[Row]:
    """Return token, prev and next of each record of a chain."""
    return [
        {
            'token': token,
            'prev': tokens[index - 1] if index else '',
            'next': tokens[index + 1] if index + 1 < len(tokens) else '',
        }
        for index, token in enumerate(tokens)
    ]


def _scene_of(record: SampleRecord) -> str:
    return scene_name(record.scene)


def _sample_token(record: SampleRecord) -> str:
    return f'{scene_name(record.scene)}-{record.number:03d}'
