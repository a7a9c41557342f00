"""bag_to_kitti: round trip with kitti_to_bag, and association of messages of recorded bags."""

import csv

import cv2
import numpy as np
import pytest
from kitti_scenes import HEIGHT, P2, WIDTH, make_scenes

from mono3d_ros.bags import bag_to_kitti, kitti_to_bag
from mono3d_ros.bags.bag_io import BagReader, BagWriter
from mono3d_ros.bags.drive_query import DriveQuery
from mono3d_ros.bags.drive_reader import DriveReader
from mono3d_ros.bags.drive_writer import POINT_FIELD_FLOAT32, POINT_FIELDS
from mono3d_ros.bags.message_types import make_message_factory, make_typestore
from mono3d_ros.messages.primitives import to_header
from mono3d_ros.tf import transforms
from stl_core.data.sources import kitti, kitti_calib

STORE = make_typestore()
NEW = make_message_factory(STORE)
CAM_T_VELO = '0.01 -0.99995 0 0.1 0 0 -1 0.2 0.99995 0.01 0 0.3'
MS = 1_000_000
LENS = (-0.3, 0.1, 0.001, -0.001, 0.0)


def run(*arguments):
    return bag_to_kitti.main([str(each) for each in arguments])


@pytest.fixture
def scenes(tmp_path):
    """Create three labelled frames with scans."""
    root = make_scenes(tmp_path / 'kitti', frames=3)
    (root / 'velodyne').mkdir()
    for i, path in enumerate(sorted((root / 'calib').iterdir())):
        path.write_text(path.read_text() + f'Tr_velo_to_cam: {CAM_T_VELO}\n')
        points = np.random.default_rng(i).normal(size=(50, 4)).astype(np.float32)
        (root / f'velodyne/{path.stem}.bin').write_bytes(points.tobytes())
    return root


def same_frame(one, other, frame_id):
    image = kitti.read_image(one / f'image_2/{frame_id}.png')
    np.testing.assert_array_equal(kitti.read_image(other / f'image_2/{frame_id}.png'), image)
    before, after = (
        kitti_calib.read_calib(each / f'calib/{frame_id}.txt') for each in (one, other)
    )
    np.testing.assert_array_equal(after.P2, before.P2)
    np.testing.assert_allclose(after.cam_T_velo, before.cam_T_velo, atol=5e-5)  # not a rotation
    for part in (f'velodyne/{frame_id}.bin', f'label_2/{frame_id}.txt'):
        assert (other / part).read_bytes() == (one / part).read_bytes()


@pytest.mark.parametrize('options', [[], ['--compressed'], ['--storage', 'sqlite3']])
def test_frames_survive_the_round_trip_through_a_bag(scenes, tmp_path, options, capsys):
    assert kitti_to_bag.main([str(scenes), str(tmp_path / 'bag'), *options]) == 0
    assert run(tmp_path / 'bag', tmp_path / 'out') == 0
    for number in range(3):
        same_frame(scenes, tmp_path / 'out', f'{number:06d}')
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].startswith('3 frames')
    assert not any('without' in line for line in lines)
    frames = kitti.list_kitti_frames(kitti_to_bag._kitti_folders(tmp_path / 'out'))
    assert [each.id for each in frames] == ['000000', '000001', '000002']
    with (tmp_path / 'out/frames.csv').open() as file:
        rows = list(csv.DictReader(file))
    assert int(rows[0]['stamp_ns']) == kitti_to_bag.START_NS
    assert {row['labelled'] for row in rows} == {'1'}


def test_every_selects_every_second_image(scenes, tmp_path):
    kitti_to_bag.main([str(scenes), str(tmp_path / 'bag')])
    assert run(tmp_path / 'bag', tmp_path / 'out', '--every', 2) == 0
    out = tmp_path / 'out'
    assert sorted(p.name for p in (out / 'image_2').iterdir()) == ['000000.png', '000001.png']
    second = kitti.read_image(scenes / 'image_2/000002.png')
    np.testing.assert_array_equal(kitti.read_image(out / 'image_2/000001.png'), second)


def pictures(count):
    rng = np.random.default_rng(5)
    return [
        cv2.GaussianBlur(rng.integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8), (0, 0), 4)
        for _ in range(count)
    ]


def info(stamp_ns, space, P=P2, D=()):
    return NEW(
        'sensor_msgs/msg/CameraInfo',
        header=to_header(stamp_ns, f'{space}_optical', NEW),
        width=WIDTH,
        height=HEIGHT,
        distortion_model='plumb_bob',
        d=np.array(D, float),
        k=P2[:, :3],
        r=np.eye(3),
        p=P,
    )


def image(stamp_ns, space, pixels):
    return NEW(
        'sensor_msgs/msg/Image',
        header=to_header(stamp_ns, f'{space}_optical', NEW),
        height=HEIGHT,
        width=WIDTH,
        encoding='rgb8',
        step=3 * WIDTH,
        data=pixels,
    )


def cloud(stamp_ns, x):
    points = np.array([[x, 1, 2, 0.5], [np.nan, 0, 0, 0]], np.float32)
    fields = [
        NEW(
            'sensor_msgs/msg/PointField',
            name=name,
            offset=4 * i,
            datatype=POINT_FIELD_FLOAT32,
            count=1,
        )
        for i, name in enumerate(POINT_FIELDS)
    ]
    return NEW(
        'sensor_msgs/msg/PointCloud2',
        header=to_header(stamp_ns, 'lidar', NEW),
        height=1,
        width=2,
        fields=fields,
        point_step=16,
        row_step=32,
        data=points.tobytes(),
    )


def moved(x):
    pose = np.eye(4)
    pose[0, 3] = x
    return pose


def record(path, messages):
    """Write a bag of (topic, time of recording, message) in the given order."""
    with BagWriter(path, STORE) as bag:
        for topic, recorded_ns, message in messages:
            bag.write(topic, recorded_ns, message)


def vehicle(path, scans_ms, images_ms=(100, 200, 300), lens=()):
    """Record a car at 10 m/s; messages arrive late and out of order. Returns the images."""
    images = pictures(len(images_ms))
    sensors = [
        transforms.Pose('base', 'cam_optical', moved(1.0)),
        transforms.Pose('base', 'lidar', moved(0.0)),
    ]
    messages = [('/tf_static', 0, transforms.make_tf_message(sensors, 0, NEW))]
    for at in (0, 1000):
        poses = [transforms.Pose('odom', 'base', moved(10 * at / 1000))]
        messages.append(('/tf', at * MS, transforms.make_tf_message(poses, at * MS, NEW)))
    for at in scans_ms:
        messages.append(('/lidar', (at + 70) * MS, cloud(at * MS, at)))
    for at, pixels in zip(images_ms, images, strict=True):
        messages.append(('/cam/image', (at + 10) * MS, image(at * MS, 'cam', pixels)))
        P = P2 + [[at, 0, 0, 0], [0, at, 0, 0], [0, 0, 0, 0]] if not lens else P2
        messages.append(('/cam/camera_info', (at + 12) * MS, info(at * MS, 'cam', P, lens)))
    record(path, sorted(messages, key=lambda each: each[1]))
    return images


def test_images_get_the_camera_info_of_their_stamp_and_the_nearest_scan(tmp_path, capsys):
    images = vehicle(tmp_path / 'bag', scans_ms=(60, 110, 230))
    assert run(tmp_path / 'bag', tmp_path / 'out') == 0
    out = tmp_path / 'out'
    for number, (at, scan) in enumerate([(100, 110), (200, 230), (300, None)]):
        frame_id = f'{number:06d}'
        calib = kitti_calib.read_calib(out / f'calib/{frame_id}.txt')
        assert calib.P2[0, 0] == P2[0, 0] + at
        picture = kitti.read_image(out / f'image_2/{frame_id}.png')
        np.testing.assert_array_equal(picture, images[number])
        path = out / f'velodyne/{frame_id}.bin'
        assert path.exists() == (scan is not None)
        if scan:
            # points that are not finite are omitted
            np.testing.assert_array_equal(np.fromfile(path, '<f4'), [scan, 1, 2, 0.5])
            # the camera is 1 m ahead, at its pose when the image was taken
            x = calib.cam_T_velo[0, 3]
            assert x == pytest.approx(-1.0 + 10 * (scan - at) / 1000)
    assert '1 without a scan: none of /lidar within 0.05 s' in capsys.readouterr().out
    assert not (out / 'label_2').exists()
    assert run(tmp_path / 'bag', tmp_path / 'near', '--max-offset', 0.02) == 0
    assert [p.stem for p in (tmp_path / 'near/velodyne').iterdir()] == ['000000']
    assert '2 without a scan' in capsys.readouterr().out


def test_a_scan_without_a_transform_is_written_and_reported(tmp_path, capsys):
    (pixels,) = pictures(1)
    messages = [
        ('/cam/camera_info', 1, info(1, 'cam')),
        ('/cam/image', 2, image(1, 'cam', pixels)),
        ('/lidar', 3, cloud(1, 7)),
    ]
    record(tmp_path / 'bag', messages)
    assert run(tmp_path / 'bag', tmp_path / 'out') == 0
    assert '1 without Tr_velo_to_cam: no transform from lidar' in capsys.readouterr().out
    assert 'Tr_velo' not in (tmp_path / 'out/calib/000000.txt').read_text()
    assert (tmp_path / 'out/velodyne/000000.bin').exists()


def test_rectify_option_rectifies_raw_images(tmp_path):
    images = vehicle(tmp_path / 'bag', scans_ms=(), lens=LENS)
    assert run(tmp_path / 'bag', tmp_path / 'out', '--rectify') == 0
    written = kitti.read_image(tmp_path / 'out/image_2/000001.png')
    expected = cv2.undistort(images[1], P2[:, :3], np.array(LENS), None, P2[:, :3])
    inner = np.s_[20:-20, 40:-40]  # the two may fill the border differently
    assert np.abs(written[inner].astype(int) - expected[inner]).max() <= 2
    assert np.abs(written[inner].astype(int) - images[1][inner]).max() > 20
    np.testing.assert_array_equal(kitti_calib.read_calib(tmp_path / 'out/calib/000001.txt').P2, P2)


def two_cameras(path):
    (pixels,) = pictures(1)
    messages = []
    for space in ('a', 'b'):
        messages.append((f'/{space}/camera_info', 1, info(1, space)))
        for topic in ('image_raw', 'image_rect'):
            messages.append((f'/{space}/{topic}', 1, image(1, space, pixels)))
    record(path, messages)


def test_cameras_are_selected_by_name_or_topic(tmp_path, capsys):
    two_cameras(tmp_path / 'bag')
    assert run(tmp_path / 'bag', tmp_path / 'out') == 2
    assert 'several cameras (a, b); choose one with --camera' in capsys.readouterr().err
    assert run(tmp_path / 'bag', tmp_path / 'out', '--camera', 'c') == 2
    assert 'no camera c; the bag has a (/a/image_rect), b' in capsys.readouterr().err
    for camera, options, topic in (
        ('b', [], '/b/image_rect'),
        ('/b', ['--rectify'], '/b/image_raw'),
        ('/a/image_raw', [], '/a/image_raw'),
    ):
        out = tmp_path / f'out{len(list(tmp_path.iterdir()))}'
        assert run(tmp_path / 'bag', out, '--camera', camera, *options) == 0
        assert topic in (out / 'frames.csv').read_text()


def test_bad_input_exits_with_code_2_after_one_line_and_writes_nothing(tmp_path, capsys):
    scenes = make_scenes(tmp_path / 'kitti', frames=1)
    kitti_to_bag.main([str(scenes), str(tmp_path / 'bag')])
    file = next((tmp_path / 'bag').glob('*.mcap'))
    (tmp_path / 'cut.mcap').write_bytes(file.read_bytes()[:3000])
    (tmp_path / 'there').mkdir()
    record(tmp_path / 'no_camera', [('/tf', 1, transforms.make_tf_message([], 1, NEW))])
    frame = image(1, 'cam', pictures(1)[0])
    frame.encoding = 'unknown'
    record(tmp_path / 'unknown', [('/cam/camera_info', 1, info(1, 'cam')), ('/cam/i', 1, frame)])
    before = sorted(tmp_path.iterdir())
    capsys.readouterr()
    for bag, options, message in (
        ('none', [], 'none: no such bag'),
        ('kitti', [], 'this folder has no metadata.yaml'),
        ('cut.mcap', [], 'cut.mcap: not a readable bag'),
        ('no_camera', [], 'no image topic with a camera_info; images of the bag: none'),
        ('unknown', [], "nothing to write (images omitted: encoding 'unknown' is not known"),
        ('bag', ['--cloud', '/x'], 'no PointCloud2 topic /x; the bag has none'),
        ('bag', ['--every', 0], 'every 0: expected 1 or more'),
        ('bag', ['--max-offset', -1], 'max-offset -1: expected 0 or more'),
    ):
        assert run(tmp_path / bag, tmp_path / 'out', *options) == 2
        stderr = capsys.readouterr().err.strip()
        assert message in stderr
        assert '\n' not in stderr
        assert sorted(tmp_path.iterdir()) == before
    assert run(tmp_path / 'bag', tmp_path / 'there') == 2
    assert 'there: exists already' in capsys.readouterr().err


def test_images_are_read_in_order_although_scans_arrive_late(tmp_path):
    vehicle(tmp_path / 'bag', scans_ms=(100, 300), images_ms=range(100, 400, 20))
    with BagReader(tmp_path / 'bag') as reader:
        drive = DriveReader(reader, DriveQuery(max_offset_s=0.01))
        samples = list(drive)
    assert [each.image_index for each in samples] == list(range(15))
    with_scan = [each.image_index for each in samples if each.scan]
    assert with_scan == [0, 10]
    assert len(drive) == 15


def test_real_drive_is_extracted(mono3d_data, tmp_path):
    bag = mono3d_data / 'bag_tracking0001_mcap'
    if not bag.is_dir():
        pytest.skip(f'no recorded drive at {bag}')
    assert run(bag, tmp_path / 'out') == 0
    frames = kitti.list_kitti_frames(kitti_to_bag._kitti_folders(tmp_path / 'out'))
    assert [kitti.read_image(each.image_2).shape for each in frames] == [(375, 1242, 3)] * 3
    assert all(kitti_calib.read_calib(each.calib).P2[0, 0] > 700 for each in frames)
