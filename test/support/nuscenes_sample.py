"""The real sample of nuScenes in the shared data as a database of one sample."""

import json
from pathlib import Path

import numpy as np

from stl_core.evaluation.nuscenes.names import LIDAR
from stl_core.rotations import invert_rigid, matrix_to_quaternion, yaw_to_quaternion


def write_database(sample_folder, root):
    """Write tables below root that refer to links of the sample's pictures and scan."""
    sample_folder, root = Path(sample_folder).resolve(), Path(root)
    info = json.loads((sample_folder / 'sample.json').read_text())
    names = {number: name for name, number in info['metainfo']['categories'].items()}
    sample = info['data_list'][0]
    global_T_ego, ego_T_lidar = (
        np.array(each) for each in (sample['ego2global'], sample['lidar_points']['lidar2ego'])
    )
    stamp_us = round(sample['timestamp'] * 1e6)
    tables = {
        'log': [{'token': 'log', 'logfile': 'x', 'vehicle': 'x', 'date_captured': 'x'}],
        'map': [{'token': 'map', 'log_tokens': ['log'], 'category': 'x', 'filename': 'x'}],
        'visibility': [],
        'attribute': [],
        'category': [{'token': n, 'name': CATEGORIES[n], 'description': ''} for n in CATEGORIES],
        'scene': [{'token': 'scene', 'name': 'scene-0061', 'log_token': 'log'}],
        'sample': [
            {'token': 's', 'timestamp': stamp_us, 'scene_token': 'scene', 'prev': '', 'next': ''}
        ],
        'sensor': [],
        'calibrated_sensor': [],
        'ego_pose': [],
        'sample_data': [],
        'instance': [],
        'sample_annotation': [],
    }
    scan = sample_folder / sample['lidar_points']['lidar_path']
    _add_frame(tables, root, LIDAR, scan, stamp_us, global_T_ego, ego_T_lidar, [])
    for channel, image in sample['images'].items():
        ego_T_cam = np.array(image['cam2ego'])
        # the composed transform holds the vehicle's way between scan and exposure
        cam_T_lidar = np.array(image['lidar2cam'])
        pose = global_T_ego @ ego_T_lidar @ np.linalg.inv(cam_T_lidar) @ invert_rigid(ego_T_cam)
        _add_frame(
            tables,
            root,
            channel,
            sample_folder / image['img_path'],
            round(image['timestamp'] * 1e6),
            pose,
            ego_T_cam,
            np.array(image['cam2img'])[:3, :3].tolist(),
        )
    for index, box in enumerate(sample['instances']):
        name = names.get(box['bbox_label_3d'], 'animal')  # -1: another category
        _add_box(tables, index, box, name, global_T_ego @ ego_T_lidar)
    (root / 'v1.0-mini').mkdir(parents=True)
    for name, rows in tables.items():
        (root / 'v1.0-mini' / f'{name}.json').write_text(json.dumps(rows))
    return root


CATEGORIES = {
    'car': 'vehicle.car',
    'truck': 'vehicle.truck',
    'trailer': 'vehicle.trailer',
    'bus': 'vehicle.bus.rigid',
    'construction_vehicle': 'vehicle.construction',
    'bicycle': 'vehicle.bicycle',
    'motorcycle': 'vehicle.motorcycle',
    'pedestrian': 'human.pedestrian.adult',
    'traffic_cone': 'movable_object.trafficcone',
    'barrier': 'movable_object.barrier',
    'animal': 'animal',
}


def _add_frame(tables, root, channel, path, stamp_us, global_T_ego, ego_T_sensor, K):
    link = root / 'samples' / channel / path.name
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(path)
    tables['sensor'].append({'token': channel, 'channel': channel, 'modality': 'x'})
    tables['calibrated_sensor'].append(
        {
            'token': channel,
            'sensor_token': channel,
            'translation': ego_T_sensor[:3, 3].tolist(),
            'rotation': matrix_to_quaternion(ego_T_sensor[:3, :3]).tolist(),
            'camera_intrinsic': K,
        }
    )
    tables['ego_pose'].append(
        {
            'token': channel,
            'timestamp': stamp_us,
            'translation': global_T_ego[:3, 3].tolist(),
            'rotation': matrix_to_quaternion(global_T_ego[:3, :3]).tolist(),
        }
    )
    tables['sample_data'].append(
        {
            'token': channel,
            'sample_token': 's',
            'ego_pose_token': channel,
            'calibrated_sensor_token': channel,
            'timestamp': stamp_us,
            'fileformat': path.suffix[1:],
            'is_key_frame': True,
            'width': 1600 if K else 0,
            'height': 900 if K else 0,
            'filename': str(link.relative_to(root)),
            'prev': '',
            'next': '',
        }
    )


def _add_box(tables, index, box, name, global_T_lidar):
    x, y, z, length, width, height, yaw = box['bbox_3d']
    # boxes of nuScenes stand upright in the global frame, those of the file in that of the LiDAR
    along = global_T_lidar[:3, :3] @ [np.cos(yaw), np.sin(yaw), 0]
    center = global_T_lidar[:3, :3] @ [x, y, z] + global_T_lidar[:3, 3]
    tables['instance'].append({'token': f'{index}', 'category_token': name})
    tables['sample_annotation'].append(
        {
            'token': f'{index}',
            'sample_token': 's',
            'instance_token': f'{index}',
            'visibility_token': '',
            'attribute_tokens': [],
            'translation': center.tolist(),
            'size': [width, length, height],
            'rotation': yaw_to_quaternion(np.arctan2(along[1], along[0])).tolist(),
            'prev': '',
            'next': '',
            'num_lidar_pts': box['num_lidar_pts'],
            'num_radar_pts': box['num_radar_pts'],
        }
    )
