"""The nuScenes source on real calibration, poses and labels: 81 key frames, six cameras."""

import importlib.util
import json

import numpy as np
import nuscenes_sample
import pytest
from scipy.spatial.transform import Rotation

from stl_core import geometry
from stl_core.data.sources import nuscenes
from stl_core.data.sources.nuscenes_boxes import global_boxes
from stl_core.evaluation.nuscenes.names import CAMERAS
from stl_core.rotations import move_points


@pytest.fixture(scope='module')
def mini_val(mono3d_data):
    root = mono3d_data / 'extras/nuscenes_mini_val'
    if not root.exists():
        pytest.skip(f'{root} is absent')
    return root


@pytest.fixture(scope='module')
def source(mini_val):
    return nuscenes.NuscenesSource(nuscenes.NuscenesFolder(str(mini_val), split='mini_val'))


@pytest.fixture(scope='module')
def samples(source):
    return [source.read(each) for each in source.ids]


def rotation(row):
    w, x, y, z = row['rotation']
    return Rotation.from_quat([x, y, z, w])


def test_boxes_of_every_camera_equal_another_derivation(mini_val, samples):
    """Move box by box: less the ego's place, turned back; less the sensor's, turned back."""
    tables = {
        path.stem: {row['token']: row for row in json.loads(path.read_text())}
        for path in (mini_val / 'v1.0-mini').glob('*.json')
    }
    channel = {
        token: tables['sensor'][row['sensor_token']]['channel']
        for token, row in tables['calibrated_sensor'].items()
    }
    boxes = {}
    for row in tables['sample_annotation'].values():
        boxes.setdefault(row['sample_token'], []).append(row)
    pictures = {
        (row['sample_token'], channel[row['calibrated_sensor_token']]): row
        for row in tables['sample_data'].values()
    }
    shown = 0
    for sample in samples:
        for image in sample.images:
            picture = pictures[sample.id, image.camera]
            pose = tables['ego_pose'][picture['ego_pose_token']]
            sensor = tables['calibrated_sensor'][picture['calibrated_sensor_token']]
            centers, axes = [], []
            for row in boxes[sample.id]:
                center, turn = np.array(row['translation']), rotation(row)
                for frame in (pose, sensor):
                    center = rotation(frame).inv().apply(center - frame['translation'])
                    turn = rotation(frame).inv() * turn
                centers.append(center)
                axes.append(turn.apply([1, 0, 0]))
            distance = np.linalg.norm(
                np.array(centers)[:, None] - image.labels.center_m[None], axis=2
            )
            assert (distance.min(0) < 1e-6).all()
            axis = np.array(axes)[distance.argmin(0)]
            heading = np.arctan2(-axis[:, 2], axis[:, 0])
            turned = geometry.wrap_angle(image.labels.rotation_y - heading)
            np.testing.assert_allclose(turned, 0, atol=1e-6)
            shown += len(image.labels)
    assert shown > 5000


def test_boxes_of_cameras_return_to_the_vehicle_and_to_global(samples):
    for sample in samples:
        for image in sample.images:
            in_vehicle = move_points(image.vehicle_T_cam, image.labels.center_m)
            distance = np.linalg.norm(
                in_vehicle[:, None] - sample.labels.center_m[None], axis=2
            ).min(1)
            assert (distance < 1e-6).all()


def test_cameras_fire_up_to_50_ms_from_the_sample_and_have_two_focal_lengths(samples):
    apart_us = [abs(image.stamp_us - s.stamp_us) for s in samples for image in s.images]
    assert 20000 < max(apart_us) < 60000
    focal = {
        name: {round(i.P[0, 0]) for s in samples for i in s.images if i.camera == name}
        for name in CAMERAS
    }
    assert all(len(each) == 2 for each in focal.values())  # two vehicles
    assert max(focal['CAM_BACK']) < 820 < min(focal['CAM_FRONT'])


def test_velocities_without_a_chain_are_unknown(samples):
    assert all(np.isnan(sample.labels.velocity_mps).all() for sample in samples)


@pytest.mark.skipif(importlib.util.find_spec('nuscenes') is None, reason='nuscenes-devkit')
def test_boxes_equal_the_devkits(mini_val, samples):
    from nuscenes.nuscenes import NuScenes

    database = NuScenes('v1.0-mini', str(mini_val), verbose=False)
    for sample in samples:
        row = database.get('sample', sample.id)
        for image in sample.images:
            _, boxes, K = database.get_sample_data(row['data'][image.camera])
            assert len(boxes) == len(image.labels)
            np.testing.assert_allclose(
                image.labels.center_m, np.reshape([b.center for b in boxes], (-1, 3)), atol=1e-6
            )
            np.testing.assert_allclose(
                image.labels.size_hwl_m[:, [1, 2, 0]], np.reshape([b.wlh for b in boxes], (-1, 3))
            )
            np.testing.assert_array_equal(image.P[:, :3], K)
            for box, rotation_y in zip(boxes, image.labels.rotation_y, strict=True):
                along = box.rotation_matrix[:, 0]
                heading = np.arctan2(-along[2], along[0])
                assert abs(geometry.wrap_angle(rotation_y - heading)) < 1e-6


@pytest.fixture(scope='module')
def real_source(mono3d_data, tmp_path_factory):
    folder = mono3d_data / 'extras/nuscenes_mini_sample'
    if not folder.exists():
        pytest.skip(f'{folder} is absent')
    root = nuscenes_sample.write_database(folder, tmp_path_factory.mktemp('nuscenes'))
    return nuscenes.NuscenesSource(nuscenes.NuscenesFolder(str(root)))


def test_points_inside_the_boxes_of_a_real_scan_are_those_that_were_counted(real_source):
    """Through the front camera's frame, in which the points come, and back to global."""
    boxes, sample = global_boxes(real_source.tables, 's'), real_source.read('s')
    global_T_cam = sample.global_T_vehicle @ sample.images[0].vehicle_T_cam
    points = move_points(global_T_cam, sample.images[0].points.read()[:, :3].astype(np.float64))
    local = np.abs((points[None] - boxes.center_m[:, None]) @ boxes.rotation)
    counted = (local <= boxes.size_hwl_m[:, None, [2, 1, 0]] / 2).all(-1).sum(1)
    tables = real_source.tables
    lidar = [
        tables.annotations[token]['num_lidar_pts'] for token in tables.sample_annotations['s']
    ]
    assert len(lidar) == 69
    assert (counted == lidar).all()


def test_the_scan_lies_on_the_pictures(real_source):
    """Points of a box, seen by a camera, lie in its 2D box, and at its depth."""
    for image in real_source.read('s').images:
        points = image.points.read()[:, :3]
        for index in np.nonzero(image.labels.num_points > 30)[0]:
            center, size = image.labels.center_m[index], image.labels.size_hwl_m[index]
            near = np.linalg.norm(points - center, axis=1) < size.min() / 2
            pixels, depth_m = geometry.project_points(points[near], image.P)
            low, high = np.split(image.labels.box_px[index], 2)
            if image.labels.truncated[index] == 0:
                assert ((pixels >= low - 2) & (pixels <= high + 2)).all()
            assert (np.abs(depth_m - center[2]) < size.max()).all()
