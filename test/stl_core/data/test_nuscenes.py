"""The nuScenes source on a database of known numbers."""

import json
from dataclasses import replace

import numpy as np
import pytest
from nuscenes_tables import CAMERA_YAW, CAMERAS, FOCAL_PX, PERIOD_US, START_US, Database, box

from stl_core import geometry
from stl_core.cli.frame_options import open_frames
from stl_core.data import dataset
from stl_core.data.frame_source import DataError, read_images
from stl_core.data.sources import nuscenes
from stl_core.preprocessing import InputSpec
from stl_core.rotations import move_points
from stl_core.training.config import build_train_config


def open_database(root, **options):
    return nuscenes.NuscenesSource(nuscenes.NuscenesFolder(str(root), **options))


def camera_of(sample, name):
    return next(image for image in sample.images if image.camera == name)


def around(distance_m=20.0, yaw=0.0, camera='CAM_FRONT', **fields):
    """Return a box in the middle of a camera's view, turned by yaw from its direction of view."""
    view = CAMERA_YAW[camera]
    center = [distance_m * np.cos(view), distance_m * np.sin(view), 1.5]
    return box(center_m=center, yaw=view + yaw, **fields)


@pytest.mark.parametrize('camera', CAMERAS)
def test_two_opposite_cars_have_opposite_headings_in_every_camera(tmp_path, camera):
    """N5: of the rotated length axis, not of an angle of a quaternion."""
    cars = [around(20.0, 0.3, camera), around(20.0, 0.3 + np.pi, camera)]
    source = open_database(Database(tmp_path, objects=cars).write())
    labels = camera_of(source.read('s0'), camera).labels
    # away from the camera is along its z, rotation_y -pi/2; left turns of the vehicle's yaw
    # are negative turns about the camera's y, which points down
    np.testing.assert_allclose(
        geometry.wrap_angle(labels.rotation_y - [-np.pi / 2 - 0.3, np.pi / 2 - 0.3]), 0, atol=1e-9
    )
    np.testing.assert_allclose(labels.size_hwl_m, [[1.6, 2.0, 4.5]] * 2)
    around_vehicle = source.read('s0').labels
    turn = geometry.wrap_angle(around_vehicle.yaw - CAMERA_YAW[camera] - 0.3)
    np.testing.assert_allclose(np.abs(turn), [0, np.pi], atol=1e-9)


def test_boxes_lie_on_the_projection_of_their_centres(tmp_path):
    cars = [around(camera=name, distance_m=15.0) for name in CAMERAS]
    source = open_database(Database(tmp_path, objects=cars, speed_mps=8.0, yaw=0.7).write())
    for sample in map(source.read, source.ids):
        for image in sample.images:
            centres, depth_m = geometry.project_points(image.labels.center_m, image.P)
            assert (depth_m > 0).all()
            inside = (centres >= image.labels.box_px[:, :2]) & (
                centres <= image.labels.box_px[:, 2:]
            )
            assert (inside.all(1) | (image.labels.truncated > 0)).all()


def test_every_camera_has_its_own_focal_length(tmp_path):
    """N14: the same car, as far ahead as behind, is seen through two lenses."""
    cars = [around(camera='CAM_FRONT'), around(camera='CAM_BACK')]
    source = open_database(Database(tmp_path, objects=cars).write())
    sample = source.read('s0')
    heights = {}
    for name in ('CAM_FRONT', 'CAM_BACK'):
        image = camera_of(sample, name)
        assert image.P[0, 0] == FOCAL_PX[name]
        (top, bottom), depth_m = image.labels.box_px[0, [1, 3]], image.labels.center_m[0, 2]
        heights[name] = bottom - top
        assert depth_m == pytest.approx(18.5)
    assert heights['CAM_FRONT'] / heights['CAM_BACK'] == pytest.approx(126 / 80, rel=1e-6)


def test_a_camera_has_the_pose_of_its_own_exposure(tmp_path):
    """N10: at 10 m/s, the front camera, 40 ms before the sample, is 0.4 m behind."""
    ahead = box(center_m=(30 * np.cos(1.1), 30 * np.sin(1.1), 1.0))
    root = Database(tmp_path, speed_mps=10.0, yaw=1.1, objects=[ahead]).write()
    sample = open_database(root).read('s1')
    front, back = (camera_of(sample, name) for name in ('CAM_FRONT', 'CAM_BACK_LEFT'))
    np.testing.assert_allclose(front.vehicle_T_cam[:3, 3], [1.5 - 0.4, 0, 1.5], atol=1e-5)
    assert front.stamp_us - sample.stamp_us == -40000
    assert back.stamp_us == sample.stamp_us
    # a box around the vehicle and in the picture is one box
    in_vehicle = move_points(front.vehicle_T_cam, front.labels.center_m)
    np.testing.assert_allclose(in_vehicle, sample.labels.center_m, atol=1e-6)


def test_velocity_is_the_way_between_neighbours_and_unknown_otherwise(tmp_path):
    """N6, N9: stamps are integers; a chain that is cut has no velocity, not velocity 0."""
    objects = [
        around(velocity_mps=(3.0, 4.0, 0.0)),
        around(samples=[1]),
        around(samples=[0, 4], velocity_mps=(1.0, 0.0, 0.0)),  # 2 s apart
    ]
    root = Database(tmp_path, objects=objects, samples=5, yaw=np.pi / 2).write()
    source = open_database(root)
    first, second = (source.read(name).labels.velocity_mps for name in ('s0', 's1'))
    np.testing.assert_allclose(first[0], [4, -3], atol=1e-9)  # the vehicle looks along global y
    assert np.isnan(first[1]).all()
    np.testing.assert_allclose(second[0], [4, -3], atol=1e-9)
    assert np.isnan(second[1]).all()
    assert source.read('s1').stamp_us - source.read('s0').stamp_us == PERIOD_US
    assert source.read('s0').stamp_us == START_US


def test_a_slope_is_no_vertical_speed(tmp_path):
    """N3: annotations carry the slope, poses do not, so that parked cars would rise."""
    parked = around(velocity_mps=(0.0, 0.0, 0.8), attribute='vehicle.parked')
    sample = open_database(Database(tmp_path, objects=[parked]).write()).read('s0')
    for image in sample.images:
        for velocity in image.labels.velocity_mps:
            assert np.abs(image.vehicle_T_cam[:3, :3] @ velocity).max() < 1e-9
    assert sample.labels.attribute.tolist() == ['vehicle.parked']


def test_what_a_camera_does_not_show_is_no_label_of_it(tmp_path):
    objects = [around(20.0), around(-20.0), around(1.6, size_wlh=(0.2, 0.2, 0.2)), around(0.0)]
    sample = open_database(Database(tmp_path, objects=objects).write()).read('s0')
    assert len(camera_of(sample, 'CAM_FRONT').labels) == 1
    assert len(sample.labels) == 4


def test_categories_become_classes_and_others_keep_their_name(tmp_path):
    objects = [around(name='traffic_cone'), around(name='animal'), around(visibility='1')]
    sample = open_database(Database(tmp_path, objects=objects).write()).read('s0')
    labels = camera_of(sample, 'CAM_FRONT').labels
    assert labels.name.tolist() == ['traffic_cone', 'animal', 'car']
    assert labels.occluded.tolist() == [0, 0, 2]
    assert labels.num_points.tolist() == [5, 5, 5]


def test_points_on_a_moving_car_stay_on_it(tmp_path):
    """N11: five scans of a car at 15 m/s, which goes 3.75 m in them."""
    car = box(center_m=(20.0, 0.0, 1.5), velocity_mps=(15.0, 0.0, 0.0))
    database = Database(tmp_path, objects=[car, box(center_m=(50.0, 9, 1))], sweeps=5)
    database.points_m = np.array([[8.0, 2.0, 0.2]])  # a standing thing, in every scan
    root = database.write()
    for row in database.tables['sample_data']:
        if row['filename'].endswith('.bin') and row['sample_token'] == 's0':
            age_s = (START_US - row['timestamp']) * 1e-6
            points = np.zeros((2, 5), np.float32)
            points[:, :3] = [[18.0 - 15 * age_s, 0.5, -0.3], [8.0, 2.0, -1.6]]
            (root / row['filename']).write_bytes(points.tobytes())
    source = open_database(root, sweeps=5, cameras=('CAM_FRONT',))
    points = source.read('s0').images[0].points.read()
    assert len(points) == 12
    on_car = points[points[:, 2] > 10]
    # 40 ms before the sample, the car is 0.6 m nearer
    np.testing.assert_allclose(on_car[:, :3], [[-0.5, 0.0, 18.0 - 0.6 - 1.5]] * 6, atol=1e-4)
    ages_s = np.unique(points[:, 4])  # the picture is older than the sample's scan
    np.testing.assert_allclose(ages_s, np.arange(-0.04, 0.22, 0.05), atol=1e-6)
    standing = points[points[:, 2] < 10]
    np.testing.assert_allclose(standing[:, :3], [[-2.0, 1.3, 6.5]] * 6, atol=1e-4)


def test_old_points_on_an_object_of_unknown_velocity_are_dropped(tmp_path):
    car = box(center_m=(20.0, 0.0, 1.5), samples=[0])
    database = Database(tmp_path, objects=[car], sweeps=2, points_m=np.array([[19.0, 0, 1.5]]))
    source = open_database(database.write(), sweeps=2, cameras=('CAM_FRONT',))
    points = source.read('s0').images[0].points.read()
    assert len(points) == 1  # of the sample's own scan


def test_detectors_train_on_it(tmp_path):
    """Six cameras of two focal lengths in one data set, each with its P."""
    root = Database(tmp_path, objects=[around(camera=name) for name in CAMERAS]).write()
    sources = [{'format': 'nuscenes', 'root': str(root), 'cameras': list(CAMERAS)}]
    config = build_train_config({'train': {'sources': sources}})
    frames = dataset.FrameDataset(config.train, InputSpec(160, 96), ('car',), 0)
    assert len(frames) == 12
    assert {round(float(frames[0, i].P[0, 0])) for i in range(12)} == {126, 80}
    assert all(len(frames[0, i].objects) for i in range(12))


def test_commands_open_a_version_by_its_folder(tmp_path):
    class Options:
        format, root, split = 'nuscenes', str(tmp_path / 'v1.0-mini'), 'mini_val'

    Database(tmp_path, scene='scene-0103').write()
    with pytest.raises(
        DataError, match=r'1 of 2 scenes of the split .* missing, such as scene-09'
    ):
        open_frames(Options, labelled=True)
    Options.split = ''
    assert len(read_images(open_frames(Options, labelled=True))) == 12


def test_the_split_of_a_source_prevails_over_ids(tmp_path, caplog):
    root = Database(tmp_path, version='v1.0-own', scene='street').write()
    (root / 'v1.0-own/splits.json').write_text(json.dumps({'street': ['street']}))
    folder = nuscenes.NuscenesFolder(str(root))
    assert nuscenes.NuscenesSource(folder, ('s1',)).ids == ('s1',)
    with caplog.at_level('INFO'):
        source = nuscenes.NuscenesSource(replace(folder, split='street'), ('s1',))
    assert source.ids == ('s0', 's1')
    assert source.read('s1').benchmark == (str(root), 'v1.0-own', 'street')
    assert '1 of 1 scenes, 2 samples, 12 images of 6 cameras, 2 boxes (car 2; 0 of' in caplog.text


def test_own_splits_are_read_and_unknown_ones_refused(tmp_path):
    root = Database(tmp_path, version='v1.0-own', scene='street').write()
    (root / 'v1.0-own/splits.json').write_text(json.dumps({'some': ['street'], 'none': ['road']}))
    assert len(open_database(root, split='some').ids) == 2
    with pytest.raises(DataError, match="no split 'val'; this version has some, none"):
        open_database(root, split='val')
    with pytest.raises(DataError, match=r'1 of 1 scenes of the split .* such as road'):
        open_database(root, split='none')
    with pytest.raises(DataError, match="no split 'val'; this version has mini_train, mini_val"):
        open_database(Database(tmp_path / 'mini').write(), split='val')


FAULTS = {
    'no version': (lambda r: (r / 'v1.0-mini').rename(r / 'tables_away'), None),
    'no table': (
        lambda r: (r / 'v1.0-mini/instance.json').unlink(),
        'instance.json: no such file',
    ),
    'half a table': (
        lambda r: cut_file(r / 'v1.0-mini/sample_annotation.json'),
        r'sample_annotation\.json: not a table of nuScenes; .* complete to its end',
    ),
    'no list': (
        lambda r: (r / 'v1.0-mini/sensor.json').write_text('{}'),
        'sensor.json: not a table of nuScenes; expected a JSON list of records',
    ),
    'unknown token': (
        lambda r: replace_text(r / 'v1.0-mini/sample_data.json', '"e-CAM_BACK-0-0"', '"gone"'),
        "refers to 'gone'",
    ),
    'no rotation': (
        lambda r: replace_text(r / 'v1.0-mini/ego_pose.json', '[1.0, 0.0', '[9.0, 0.0'),
        'malformed record: quaternion w x y z of unit length expected',
    ),
}


def cut_file(path):
    path.write_bytes(path.read_bytes()[:-40])


def replace_text(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize('fault', FAULTS)
def test_a_broken_database_is_one_line(tmp_path, fault):
    root = Database(tmp_path).write()
    damage, message = FAULTS[fault]
    damage(root)
    if fault == 'no version':
        assert open_database(root).ids == ('s0', 's1')  # any name is a version
        with pytest.raises(DataError, match='no such version; there is tables_away'):
            open_database(root, version='v1.0-trainval')
        return
    with pytest.raises(DataError, match=message) as raised:
        open_database(root)
    assert '\n' not in str(raised.value)


def test_missing_pictures_and_scans_are_named(tmp_path):
    root = Database(tmp_path).write()
    image = open_database(root).read('s0').images[0]
    for path in root.rglob('samples/*/*'):
        path.unlink()
    with pytest.raises(DataError, match=r'samples/CAM_FRONT/CAM_FRONT-0-0.jpg: no such file'):
        image.pixels.read()
    with pytest.raises(DataError, match=r'LIDAR_TOP-0-0.pcd.bin: no such file'):
        image.points.read()
    (root / 'samples/LIDAR_TOP/LIDAR_TOP-0-0.pcd.bin').write_bytes(b'x' * 30)
    with pytest.raises(DataError, match='30 bytes; expected 20 bytes a point'):
        image.points.read()


def test_a_database_without_labels(tmp_path):
    root = Database(tmp_path, objects=[]).write()
    with pytest.raises(DataError, match='no annotation; set labelled: false'):
        open_database(root)
    sample = open_database(root, labelled=False).read('s0')
    assert sample.labels is None
    assert sample.images[0].labels is None


def test_only_known_cameras_in_any_order(tmp_path):
    root = Database(tmp_path).write()
    source = open_database(root, cameras=('CAM_BACK', 'CAM_FRONT'))
    assert [image.camera for image in source.read('s0').images] == ['CAM_BACK', 'CAM_FRONT']
    with pytest.raises(
        DataError, match="no key frame of 'CAM_UP'; cameras of nuScenes: CAM_FRONT"
    ):
        open_database(root, cameras=('CAM_UP',))
    with pytest.raises(ValueError, match='cameras: expected one or more, each once'):
        nuscenes.NuscenesFolder('x', cameras=('CAM_BACK', 'CAM_BACK'))
