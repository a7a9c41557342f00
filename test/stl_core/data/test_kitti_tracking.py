"""KITTI tracking format: drives, labels, odometry and the errors of malformed files."""

import cv2
import numpy as np
import pytest

from stl_core.data.sources import kitti_tracking
from stl_core.data.sources.kitti import DataError

CALIB = """P2: 700 0 600 45 0 700 170 0.2 0 0 1 0.003
R_rect 1 0 0 0 1 0 0 0 1
Tr_velo_cam 0 -1 0 0 0 0 -1 -0.08 1 0 0 -0.27
Tr_imu_velo 1 0 0 -0.8 0 1 0 0.3 0 0 1 -0.8
"""
CAR = 'Car 1 2 -1.5 100 150 200 190 1.5 1.6 3.9 -4.0 1.7 12.0 -1.8'
NOTHING = 'DontCare -1 -1 -10 1 2 3 4 -1000 -1000 -1000 -10 -1 -1 -1'


def make_drive(root, numbers=(0, 1), name='0000'):
    for part in ('image_02', 'velodyne'):
        (root / part / name).mkdir(parents=True)
    for part in ('calib', 'label_02', 'oxts', 'poses'):
        (root / part).mkdir(exist_ok=True)
    for number in numbers:
        cv2.imwrite(
            str(root / f'image_02/{name}/{number:06d}.png'), np.zeros((8, 24, 3), np.uint8)
        )
    (root / f'velodyne/{name}/{numbers[0]:06d}.bin').write_bytes(np.zeros(8, np.float32).tobytes())
    (root / f'calib/{name}.txt').write_text(CALIB)
    rows = f'{numbers[-1]} 7 {CAR}\n{numbers[-1]} -1 {NOTHING}\n'
    (root / f'label_02/{name}.txt').write_text(rows)
    return root


def oxts_row(latitude=0.0, longitude=0.0, altitude=0.0, roll=0.0, pitch=0.0, yaw=0.0):
    first = (latitude, longitude, altitude, roll, pitch, yaw)
    return ' '.join(map(str, [*first, *[0.0] * 24])) + '\n'


def test_read_drive_reads_images_scans_tracks_and_calibration(tmp_path):
    drive = kitti_tracking.read_drive(make_drive(tmp_path / 'a', numbers=(3, 5)))
    (front,) = drive.cameras
    assert front.name == 'front'
    assert list(front.images) == [3, 5]
    assert list(drive.scans) == [3]
    assert set(front.tracks) == {5}
    assert drive.odom_T_base is None
    np.testing.assert_allclose(drive.base_T_velo[:3, 3], [0.8, -0.3, 0.8])
    # the camera 0.27 m ahead of the LiDAR and 0.08 m below it, looking along the car
    np.testing.assert_allclose(drive.base_T_cam(front)[:3, 3], [1.07, -0.3, 0.72], atol=1e-12)
    np.testing.assert_allclose(drive.base_T_cam(front)[:3, 2], [1, 0, 0])


def test_read_tracks_groups_labels_by_frame(tmp_path):
    path = tmp_path / 'a.txt'
    path.write_text(f'4 7 {CAR}\n9 8 {CAR}\n4 -1 {NOTHING}\n\n')
    tracks_by_frame = kitti_tracking.read_tracks(path)
    assert {frame: tracks.track_ids for frame, tracks in tracks_by_frame.items()} == {
        4: (7, -1),
        9: (8,),
    }
    assert tracks_by_frame[4].labels.name.tolist() == ['Car', 'DontCare']
    assert tracks_by_frame[4].labels.truncated.tolist() == [
        0.5,
        -1,
    ]  # truncation level 1 as a fraction
    assert tracks_by_frame[4].labels.occluded.tolist() == [2, -1]
    np.testing.assert_allclose(tracks_by_frame[4].labels.center_m[0], [-4.0, 1.7 - 0.75, 12.0])
    assert tracks_by_frame[9].label_lines == CAR.replace('Car 1', 'Car 0.5') + '\n'


def test_gps_becomes_metres_north_east_and_up(tmp_path):
    metre = 180 / np.pi / kitti_tracking.EARTH_RADIUS_M  # of latitude, degrees
    east = metre / np.cos(np.radians(49.0))
    rows = [
        oxts_row(49.0, 8.4, 100.0, yaw=np.pi / 2),
        oxts_row(49.0 + 30 * metre, 8.4, 100.0, yaw=np.pi / 2),
        oxts_row(49.0, 8.4 + 20 * east, 101.0, yaw=0.0),
        oxts_row(49.0, 8.4, 100.0, pitch=-0.1, yaw=np.pi / 2),
    ]
    (tmp_path / 'a.txt').write_text(''.join(rows))
    poses = kitti_tracking.read_oxts(tmp_path / 'a.txt')
    np.testing.assert_array_equal(poses[0], np.eye(4))
    # the drive starts heading north: north is ahead (x), east to the right (-y)
    np.testing.assert_allclose(poses[1, :3, 3], [30, 0, 0], atol=1e-3)
    np.testing.assert_allclose(poses[2, :3, 3], [0, -20, 1], atol=1e-3)
    np.testing.assert_allclose(poses[2, :3, 0], [0, -1, 0], atol=1e-9)
    # pitch rotates about y (left), so a negative pitch lifts the nose
    np.testing.assert_allclose(poses[3, :3, 0], [np.cos(0.1), 0, np.sin(0.1)], atol=1e-9)


def test_camera_poses_are_converted_to_base_poses(tmp_path):
    root = make_drive(tmp_path / 'a')
    ahead, turned = np.eye(4)[:3], np.eye(4)[:3]
    ahead[2, 3] = 2.0
    turned[:, :3] = [[0, 0, 1], [0, 1, 0], [-1, 0, 0]]  # a quarter turn to the right
    for second, position_m in ((ahead, [2, 0, 0]), (turned, [1.07 + 0.3, -0.3 + 1.07, 0])):
        rows = [' '.join(map(str, pose.ravel())) for pose in (np.eye(4)[:3], second)]
        (root / 'poses/0000.txt').write_text('\n'.join(rows))
        odom_T_base = kitti_tracking.read_drive(root).odom_T_base
        np.testing.assert_allclose(odom_T_base[0], np.eye(4), atol=1e-12)
        np.testing.assert_allclose(odom_T_base[1, :3, 3], position_m, atol=1e-12)


def test_surround_cameras_are_read_from_their_folders(tmp_path):
    for name in ('training', 'left/training', 'back/training'):
        make_drive(tmp_path / name)
    assert [camera.name for camera in kitti_tracking.read_drive(tmp_path).cameras] == [
        'front',
        'back',
        'left',
    ]
    assert [
        camera.name for camera in kitti_tracking.read_drive(tmp_path / 'training').cameras
    ] == ['front']
    (tmp_path / 'left/training/image_02/0000/000001.png').unlink()
    with pytest.raises(DataError, match=r'left/training/image_02/0000/000001\.png: missing'):
        kitti_tracking.read_drive(tmp_path)


def test_a_drive_is_selected_by_its_name(tmp_path):
    make_drive(tmp_path, name='0000')
    make_drive(tmp_path, numbers=(4,), name='0001')
    assert list(kitti_tracking.read_drive(tmp_path, '0001').cameras[0].images) == [4]
    with pytest.raises(DataError, match=r'image_02: which drive\?; it has 0000, 0001'):
        kitti_tracking.read_drive(tmp_path)
    with pytest.raises(DataError, match='no drive 0002; it has 0000, 0001'):
        kitti_tracking.read_drive(tmp_path, '0002')


@pytest.mark.parametrize(
    ('path', 'text', 'message'),
    [
        ('label_02/0000.txt', 'Car 1 2', '0000.txt:1: expected 17 columns'),
        ('label_02/0000.txt', f'x 7 {CAR}', '0000.txt:1: expected a frame and a track number'),
        ('label_02/0000.txt', f'\n0 7 {CAR.replace("100", "a")}', '0000.txt:2: expected numbers'),
        ('calib/0000.txt', CALIB.replace('Tr_velo_cam', 'x'), 'no line "Tr_velo_to_cam"'),
        ('calib/0000.txt', CALIB.replace('-0.8\n', '\n'), '12 numbers in Tr_imu_velo'),
        ('poses/0000.txt', '1 2 3', '0000.txt:1: expected 12 finite numbers'),
        ('poses/0000.txt', '1 a', '0000.txt:1: expected numbers'),
        ('poses/0000.txt', '', 'empty; expected rows of 12'),
        ('oxts/0000.txt', oxts_row(), 'has 1 rows, none for image 000001'),
        ('image_02/0000/x.png', '', 'x.png: expected a name such as 000000.png'),
    ],
)
def test_malformed_files_raise_data_error_with_location(tmp_path, path, text, message):
    root = make_drive(tmp_path)
    (root / path).write_text(text)
    with pytest.raises(DataError, match=message):
        kitti_tracking.read_drive(root)


def test_a_folder_without_a_drive_raises_data_error(tmp_path):
    assert not kitti_tracking.is_drive(tmp_path)
    with pytest.raises(DataError, match='no folder image_02'):
        kitti_tracking.read_drive(tmp_path)
    (tmp_path / 'image_02').mkdir()
    with pytest.raises(DataError, match='no drive'):
        kitti_tracking.read_drive(tmp_path)


def test_the_real_drive(mono3d_data):
    root = mono3d_data / 'extras/tracking_0001'
    if not root.is_dir():
        pytest.skip(f'no KITTI tracking frames at {root}')
    drive = kitti_tracking.read_drive(root)
    (front,) = drive.cameras
    assert list(front.images) == [10, 15, 20]
    assert drive.odom_T_base is None
    # KITTI's drawing of the sensor setup: the inertial unit is 0.81 m behind and 0.8 m below the
    # LiDAR, the camera 0.27 m in front of and 0.08 m below it
    np.testing.assert_allclose(drive.base_T_cam(front)[:3, 3], [1.1, -0.3, 0.72], atol=0.05)
    for number, tracks in front.tracks.items():
        expected = (root / f'label_02_object_format/{number:06d}.txt').read_text().splitlines()
        result = [line.split() for line in tracks.label_lines.splitlines()]
        assert [[*row[:1], *row[2:]] for row in result] == [
            [*row.split()[:1], *row.split()[2:]] for row in expected
        ]
