"""A small nuScenes database of hand-made records: every number is known."""

import json
from pathlib import Path

import cv2
import numpy as np

from stl_core.evaluation.nuscenes.names import CAMERAS, CATEGORY_CLASSES, LIDAR
from stl_core.rotations import matrix_to_quaternion, yaw_to_quaternion

SIZE_PX = (160, 90)
FOCAL_PX = {**dict.fromkeys(CAMERAS, 126.0), 'CAM_BACK': 80.0}
#: Direction of view of each camera, about z of the vehicle.
CAMERA_YAW = dict(zip(CAMERAS, np.radians([0, -55, -110, 180, 110, 55]), strict=True))
#: Time after the sample at which each camera fires, microseconds.
DELAY_US = dict(zip(CAMERAS, (-40000, -33000, -20000, -10000, 0, 3000), strict=True))
START_US = 1531281560162460
PERIOD_US = 500000
#: x right, y down, z forward as axes of a vehicle that looks along x.
VEHICLE_R_CAM = np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]])
CATEGORIES = {name: category for category, name in CATEGORY_CLASSES.items()}


def box(name='car', center_m=(20.0, 0.0, 1.0), yaw=0.0, size_wlh=(2.0, 4.5, 1.6), **fields):
    """Return an object that moves at `velocity_mps` from center_m, global frame."""
    row = {
        'name': name,
        'center_m': center_m,
        'yaw': yaw,
        'size_wlh': size_wlh,
        'velocity_mps': (0.0, 0.0, 0.0),
        'attribute': '',
        'num_points': 5,
        'samples': None,
        'visibility': '4',
    }
    return {**row, **fields}


def rotation_about_z(yaw):
    cos, sin = np.cos(yaw), np.sin(yaw)
    return np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1.0]])


class Database:
    """Records of one scene with a vehicle at constant velocity along its heading."""

    def __init__(self, root, version='v1.0-mini', scene='scene-0103', samples=2, **options):
        self.root, self.version, self.scene, self.samples = Path(root), version, scene, samples
        self.speed_mps = options.get('speed_mps', 0.0)
        self.yaw, self.slope = options.get('yaw', 0.0), options.get('slope', 0.0)
        self.points_m = options.get('points_m', np.array([[10.0, 0, 1]]))
        self.sweeps = options.get('sweeps', 0)
        self.objects = options.get('objects', [box()])
        self.tables = {}

    def pose_m(self, stamp_us):
        """Return the vehicle's position, whose z is 0 also on a slope, as nuScenes'."""
        way = self.speed_mps * (stamp_us - START_US) * 1e-6
        return way * np.array([np.cos(self.yaw), np.sin(self.yaw), 0])

    def write(self):
        """Write tables, pictures and scans; return the root."""
        folder = self.root / self.version
        folder.mkdir(parents=True)
        for name, rows in self.build().items():
            (folder / f'{name}.json').write_text(json.dumps(rows))
        for channel in (*CAMERAS, LIDAR, 'maps'):
            (self.root / 'samples' / channel).mkdir(parents=True, exist_ok=True)
        (self.root / 'maps').mkdir()
        (self.root / 'maps/none.png').write_bytes(b'')
        for row in self.tables['sample_data']:
            path = self.root / row['filename']
            if path.suffix == '.bin':
                points = np.zeros((len(self.points_m), 5), np.float32)
                points[:, :3] = self.points_m - [0.0, 0, 1.8]
                path.write_bytes(points.tobytes())
            else:
                cv2.imwrite(str(path), np.full((*SIZE_PX[::-1], 3), 90, np.uint8))
        return self.root

    def build(self):
        """Return the 13 tables."""
        stamps = [START_US + index * PERIOD_US for index in range(self.samples)]
        rows = self.tables = {
            'log': [
                {'token': 'log', 'logfile': 'x', 'vehicle': 'v', 'date_captured': '2026-01-01'}
            ],
            'map': [{'token': 'map', 'log_tokens': ['log'], 'category': 'semantic_prior'}],
            'visibility': [{'token': str(i), 'level': f'v{i}'} for i in range(1, 5)],
            'category': [{'token': f'c-{c}', 'name': c} for c in (*CATEGORY_CLASSES, 'animal')],
            'attribute': [],
            'sensor': [],
            'calibrated_sensor': [],
            'ego_pose': [],
            'sample_data': [],
            'instance': [],
            'sample_annotation': [],
        }
        rows['log'][0]['location'], rows['map'][0]['filename'] = 'x', 'maps/none.png'
        for each in (*rows['category'], *rows['visibility']):
            each['description'] = ''
        for channel in (*CAMERAS, LIDAR):
            self._add_sensor(channel)
        for index, stamp in enumerate(stamps):
            for channel in (*CAMERAS, LIDAR):
                self._add_frames(channel, index, stamp)
        for index, each in enumerate(self.objects):
            self._add_object(f'o{index}', each, stamps)
        rows['sample'] = [
            {
                'token': f's{i}',
                'timestamp': stamp,
                'scene_token': 'scene',
                'prev': f's{i - 1}' if i else '',
                'next': f's{i + 1}' if i + 1 < self.samples else '',
            }
            for i, stamp in enumerate(stamps)
        ]
        rows['scene'] = [
            {
                'token': 'scene',
                'name': self.scene,
                'log_token': 'log',
                'nbr_samples': self.samples,
                'first_sample_token': 's0',
                'last_sample_token': f's{self.samples - 1}',
                'description': '',
            }
        ]
        return rows

    def _add_sensor(self, channel):
        camera = channel in CAMERAS
        K = (
            [[FOCAL_PX[channel], 0, 80.0], [0, FOCAL_PX[channel], 45.0], [0, 0, 1]]
            if camera
            else []
        )
        yaw = CAMERA_YAW.get(channel, 0.0)
        rotation = rotation_about_z(yaw) @ VEHICLE_R_CAM if camera else np.eye(3)
        place = [1.5 * np.cos(yaw), 1.5 * np.sin(yaw), 1.5] if camera else [0.0, 0, 1.8]
        self.tables['sensor'].append(
            {'token': channel, 'channel': channel, 'modality': 'camera' if camera else 'lidar'}
        )
        self.tables['calibrated_sensor'].append(
            {
                'token': f'cs-{channel}',
                'sensor_token': channel,
                'translation': place,
                'rotation': matrix_to_quaternion(rotation).tolist(),
                'camera_intrinsic': K,
            }
        )

    def _add_frames(self, channel, index, stamp):
        sweeps = self.sweeps if channel == LIDAR else 0
        for back in range(sweeps, -1, -1):
            time_us = stamp + DELAY_US.get(channel, 0) - back * 50000
            token = f'{channel}-{index}-{back}'
            earlier = f'{channel}-{index}-{back + 1}' if back < sweeps else ''
            suffix = 'jpg' if channel in CAMERAS else 'pcd.bin'
            self.tables['ego_pose'].append(
                {
                    'token': f'e-{token}',
                    'timestamp': time_us,
                    'translation': self.pose_m(time_us).tolist(),
                    'rotation': yaw_to_quaternion(self.yaw).tolist(),
                }
            )
            self.tables['sample_data'].append(
                {
                    'token': token,
                    'sample_token': f's{index}',
                    'ego_pose_token': f'e-{token}',
                    'calibrated_sensor_token': f'cs-{channel}',
                    'timestamp': time_us,
                    'fileformat': suffix.split('.')[0],
                    'is_key_frame': back == 0,
                    'width': SIZE_PX[0] if channel in CAMERAS else 0,
                    'height': SIZE_PX[1] if channel in CAMERAS else 0,
                    'filename': f'samples/{channel}/{token}.{suffix}',
                    'prev': earlier,
                    'next': f'{channel}-{index}-{back - 1}' if back else '',
                }
            )

    def _add_object(self, token, each, stamps):
        if each['attribute'] and each['attribute'] not in {
            row['token'] for row in self.tables['attribute']
        }:
            self.tables['attribute'].append(
                {'token': each['attribute'], 'name': each['attribute'], 'description': ''}
            )
        numbers = range(len(stamps)) if each['samples'] is None else each['samples']
        names = [f'{token}-{number}' for number in numbers]
        self.tables['instance'].append(
            {
                'token': token,
                'category_token': f'c-{CATEGORIES.get(each["name"], each["name"])}',
                'nbr_annotations': len(names),
                'first_annotation_token': names[0],
                'last_annotation_token': names[-1],
            }
        )
        for at, (name, number) in enumerate(zip(names, numbers, strict=True)):
            seconds = (stamps[number] - START_US) * 1e-6
            center = np.add(each['center_m'], np.multiply(each['velocity_mps'], seconds))
            self.tables['sample_annotation'].append(
                {
                    'token': name,
                    'sample_token': f's{number}',
                    'instance_token': token,
                    'visibility_token': each['visibility'],
                    'attribute_tokens': [each['attribute']] if each['attribute'] else [],
                    'translation': center.tolist(),
                    'size': list(each['size_wlh']),
                    'rotation': yaw_to_quaternion(each['yaw']).tolist(),
                    'prev': names[at - 1] if at else '',
                    'next': names[at + 1] if at + 1 < len(names) else '',
                    'num_lidar_pts': each['num_points'],
                    'num_radar_pts': 0,
                }
            )
