"""A synthetic drive in a bag: object poses agree between cameras, frames, tf and labels."""

from pathlib import Path

import numpy as np
import pytest

from mono3d_ros.bag_evaluation import pictures
from mono3d_ros.bags import drive_writer, kitti_to_bag, synthesize_bag
from mono3d_ros.bags.bag_io import BagReader
from mono3d_ros.messages.primitives import message_stamp_ns as stamp_of
from stl_core.cli import main
from stl_core.data.sources import kitti, kitti_tracking
from stl_core.data.synthetic import sequence, writer
from stl_core.data.synthetic.sensors import camera
from stl_core.data.synthetic.sensors.lidar import Lidar

pytestmark = pytest.mark.usefixtures('one_thread')

SEED, FRAMES = 6, 2
WORLD = ['--frames', FRAMES, '--seed', SEED, '--size', '320x96', '--workers', 0]
NEAR_M = 0.01


@pytest.fixture(scope='module')
def job(tmp_path_factory):
    """Render a drive with six cameras."""
    out = tmp_path_factory.mktemp('ring')
    model = camera.KITTI.scaled(320, 96)
    job = writer.SynthesisJob(str(out), SEED, model, Lidar(columns=400), depth=False)
    sequence.synthesize_drive(job, FRAMES, 0, surround=True, show_progress=False)
    return job


@pytest.fixture(scope='module')
def bag(job, tmp_path_factory):
    out = tmp_path_factory.mktemp('bags') / 'ring'
    assert convert(job.out, out) == 0
    return out


def convert(*arguments):
    return kitti_to_bag.main([str(each) for each in arguments])


def read(bag):
    """Return topic -> time of recording -> decoded message."""
    by_topic = {}
    with BagReader(bag) as reader:
        for message in reader.messages():
            decoded = reader.decode(message)
            stamp = stamp_of(decoded)
            assert stamp is None or stamp == message.recorded_ns
            by_topic.setdefault(message.topic, {})[message.recorded_ns] = decoded
    return by_topic


def matrix(position, q):
    """Return the (4, 4) matrix of a position and a quaternion, by the textbook formula."""
    w, x, y, z = q.w, q.x, q.y, q.z
    rotation = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    transform = np.eye(4)
    transform[:3, :3], transform[:3, 3] = rotation, [position.x, position.y, position.z]
    return transform


def poses(message):
    return {
        (each.header.frame_id, each.child_frame_id): matrix(
            each.transform.translation, each.transform.rotation
        )
        for each in message.transforms
    }


def sightings(by_topic):
    """Return track id -> [(camera, frame, odom_T_box)], from detections and tf only."""
    (static,) = (poses(each) for each in by_topic['/tf_static'].values())
    by_id = {}
    for name in sequence.SURROUND_CAMERAS:
        arrays = by_topic[f'/{name}/ground_truth/detections']
        for frame, (stamp, array) in enumerate(arrays.items()):
            odom_T_base = poses(by_topic['/tf'][stamp])['odom', 'base_link']
            odom_T_camera = odom_T_base @ static['base_link', f'{name}_optical']
            assert array.header.frame_id == f'{name}_optical'
            for each in array.detections:
                box = matrix(each.bbox.center.position, each.bbox.center.orientation)
                sighting = (name, frame, odom_T_camera @ box)
                by_id.setdefault(int(each.id), []).append(sighting)
    return by_id


def distance_m(one, other):
    return np.linalg.norm(one[:3, 3] - other[:3, 3])


def test_bag_has_the_topics_of_every_sensor_at_10_hz(bag):
    by_topic = read(bag)
    cameras = {
        'camera_info': 'CameraInfo',
        'image_raw': 'Image',
        'ground_truth': 'MarkerArray',
        'ground_truth/detections': 'Detection3DArray',
        'ground_truth/labels': 'String',
    }
    topics = {f'/{name}/{part}' for name in sequence.SURROUND_CAMERAS for part in cameras}
    assert set(by_topic) == topics | {'/points', '/tf', '/tf_static'}
    stamps = [kitti_to_bag.START_NS, kitti_to_bag.START_NS + 100_000_000]
    for topic, messages in by_topic.items():
        assert list(messages) == (stamps[:1] if topic == '/tf_static' else stamps)
        kind = cameras.get(topic.split('/', 2)[-1])
        assert kind is None or all(kind in type(each).__name__ for each in messages.values())
    image = next(iter(by_topic['/back_left/image_raw'].values()))
    assert (image.width, image.height, image.header.frame_id) == (320, 96, 'back_left_optical')
    assert next(iter(by_topic['/points'].values())).header.frame_id == 'velodyne'


def test_late_subscribers_receive_the_sensor_poses(bag):
    text = (bag / 'metadata.yaml').read_text().split('name: /tf_static')[1].split('name:')[0]
    assert 'durability: 1' in text  # transient local, which tf2's listeners require


def test_sensor_frames_follow_rep_103(bag):
    (static,) = (poses(each) for each in read(bag)['/tf_static'].values())
    for name, yaw_deg in zip(sequence.SURROUND_CAMERAS, camera.SURROUND_YAW_DEG, strict=True):
        base_T_camera = static['base_link', f'{name}_optical']
        ahead, down = base_T_camera[:3, 2], base_T_camera[:3, 1]
        yaw = np.radians(yaw_deg)  # positive to the right, while y of base_link points left
        np.testing.assert_allclose(ahead, [np.cos(yaw), -np.sin(yaw), 0], atol=1e-9)
        np.testing.assert_allclose(down, [0, 0, -1], atol=1e-9)
    np.testing.assert_allclose(static['base_link', 'velodyne'][:3, :3], np.eye(3), atol=1e-9)
    np.testing.assert_allclose(static['base_link', 'velodyne'][:3, 3], [0.81, -0.32, 0.8])


def test_parked_cars_stay_and_traffic_moves_at_its_speed(job, bag):
    actors = sequence.SyntheticDrive(job, FRAMES).world().actors
    by_topic = read(bag)
    first, second = (poses(each)['odom', 'base_link'] for each in by_topic['/tf'].values())
    np.testing.assert_allclose(first, np.eye(4), atol=1e-12)
    assert 0.5 < distance_m(first, second) < 1.3  # the ego vehicle drives at 6 to 12 m/s
    parked = moving = 0
    for id, boxes in sightings(by_topic).items():
        (_, start, before), (_, end, after) = boxes[0], boxes[-1]
        if (start, end) != (0, 1):
            continue
        if actors[id].speed_m_s == 0:
            parked += 1
            assert distance_m(before, after) < NEAR_M
        else:
            moving += 1
            expected_m = actors[id].speed_m_s / 10
            assert distance_m(before, after) == pytest.approx(expected_m, rel=0.05)
    assert min(parked, moving) > 0


def test_two_cameras_agree_on_the_pose_of_a_car(bag):
    shared = 0
    for boxes in sightings(read(bag)).values():
        for frame in range(FRAMES):
            one, *others = [box for _, number, box in boxes if number == frame] or [None]
            for other in others:
                shared += 1
                assert distance_m(one, other) < NEAR_M
                np.testing.assert_allclose(one[:3, :3], other[:3, :3], atol=1e-3)
    assert shared > 1


def test_the_scan_hits_the_boxes_that_are_not_occluded(bag):
    by_topic = read(bag)
    (static,) = (poses(each) for each in by_topic['/tf_static'].values())
    stamp, cloud = next(iter(by_topic['/points'].items()))
    points = np.frombuffer(cloud.data.tobytes(), np.float32).reshape(-1, 4) * [1, 1, 1, 0]
    points[:, 3] = 1.0
    cameras_with_hits = set()
    for name in sequence.SURROUND_CAMERAS:
        camera_T_velo = (
            np.linalg.inv(static['base_link', f'{name}_optical']) @ static['base_link', 'velodyne']
        )
        labels = drive_writer.parse_label_message(by_topic[f'/{name}/ground_truth/labels'][stamp])
        visible = labels.occluded[labels.name != 'DontCare'] == 0
        boxes = by_topic[f'/{name}/ground_truth/detections'][stamp].detections
        for each in (box for box, clear in zip(boxes, visible, strict=True) if clear):
            camera_T_box = matrix(each.bbox.center.position, each.bbox.center.orientation)
            in_box = points @ (np.linalg.inv(camera_T_box) @ camera_T_velo).T
            half = np.array([each.bbox.size.x, each.bbox.size.y, each.bbox.size.z]) / 2 + 0.1
            assert (np.abs(in_box[:, :3]) <= half).all(1).sum() > 10
            cameras_with_hits.add(name)
    assert len(cameras_with_hits) > 1


def test_oxts_poses_equal_those_of_the_drive(job):
    drive = kitti_tracking.read_drive(root := Path(job.out))
    odom_T_base = kitti_tracking.read_oxts(root / 'training/oxts/0000.txt')
    np.testing.assert_allclose(odom_T_base, drive.odom_T_base, atol=1e-3)


def test_labels_survive_the_round_trip(job, bag):
    by_topic = read(bag)
    for name in sequence.SURROUND_CAMERAS:
        root = sequence.camera_folder(Path(job.out), name)
        for frame, message in enumerate(by_topic[f'/{name}/ground_truth/labels'].values()):
            expected = kitti.read_labels(root / f'object/label_2/{frame:06d}.txt')
            parsed = drive_writer.parse_label_message(message)
            for field in ('name', 'occluded', 'alpha', 'center_m', 'size_hwl_m', 'box_px'):
                np.testing.assert_array_equal(getattr(parsed, field), getattr(expected, field))
            array = list(by_topic[f'/{name}/ground_truth/detections'].values())[frame]
            objects = expected[expected.name != 'DontCare']
            centers = [each.bbox.center.position for each in array.detections]
            positions = [(each.x, each.y, each.z) for each in centers]
            assert positions == list(map(tuple, objects.center_m))


@pytest.mark.parametrize('options', [[], ['--compressed'], ['--storage', 'sqlite3']])
def test_conversion_of_a_drive_is_deterministic(job, tmp_path, options):
    root = f'{job.out}/training'
    for folder in ('one', 'two'):
        assert convert(root, tmp_path / folder / 'bag', *options) == 0
    one, two = (
        {p.name: p.read_bytes() for p in (tmp_path / p / 'bag').iterdir()} for p in ('one', 'two')
    )
    assert one == two
    assert {p.rsplit('.')[-1] for p in one} == {'db3' if 'sqlite3' in options else 'mcap', 'yaml'}
    scenes = list(pictures.read_scenes(tmp_path / 'one/bag'))
    assert len(scenes) == FRAMES
    for number, scene in enumerate(scenes):
        picture = kitti.read_image(f'{root}/image_02/0000/{number:06d}.png')
        np.testing.assert_array_equal(scene.frame.image, picture)
        low, high = scene.truth.edges_m.min(1) - 0.1, scene.truth.edges_m.max(1) + 0.1
        points = scene.points_m[:, None]
        assert ((points > low) & (points < high)).all(2).any(0).mean() > 0.5


def test_synthesize_bag_equals_synthesize_and_kitti_to_bag(tmp_path, capsys):
    world = [*map(str, WORLD), '--no-lidar', '--jpg']
    main.main(['synthesize', f'{tmp_path}/drive', '--sequence', '--no-depth', *world])
    assert convert(tmp_path / 'drive', tmp_path / 'two/bag', '--compressed') == 0
    assert synthesize_bag.main([f'{tmp_path}/one/bag', '--compressed', *world]) == 0
    one, two = ((tmp_path / p / 'bag/bag.mcap').read_bytes() for p in ('one', 'two'))
    assert one == two
    assert [each.name for each in (tmp_path / 'one').iterdir()] == ['bag']
    assert '2 frames' in capsys.readouterr().out


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (['--frames', 0], '--frames 0: expected at least 1'),
        (['--seed', -1], '--seed -1: expected 0 or more'),
        (['--size', '320'], '--size 320: expected WIDTHxHEIGHT'),
        (['--camera', 'none.json'], 'none.json: neither kitti nor nuscenes'),
    ],
)
def test_bad_options_exit_with_code_2_after_one_line_and_write_nothing(
    tmp_path, capsys, options, message
):
    assert synthesize_bag.main([f'{tmp_path}/bag', *map(str, [*WORLD, *options])]) == 2
    stderr = capsys.readouterr().err.strip()
    assert message in stderr
    assert '\n' not in stderr
    assert list(tmp_path.iterdir()) == []


def test_synthesize_bag_prints_when_it_can_no_longer_be_stopped(tmp_path, monkeypatch, capsys):
    def interrupted(text):
        raise KeyboardInterrupt

    monkeypatch.setattr(synthesize_bag, 'synthesize_to_bag', lambda out, args: None)
    monkeypatch.setattr(synthesize_bag, 'print', interrupted, raising=False)
    with pytest.raises(KeyboardInterrupt):
        synthesize_bag.main([f'{tmp_path}/bag', *map(str, WORLD)])
    assert capsys.readouterr().err == ''


def test_an_existing_bag_is_not_overwritten(tmp_path, capsys):
    (tmp_path / 'bag').mkdir()
    assert synthesize_bag.main([f'{tmp_path}/bag', *map(str, WORLD)]) == 2
    assert 'exists already' in capsys.readouterr().err


def test_options_select_names_and_frames_of_a_drive(job, tmp_path, capsys):
    root, options = f'{job.out}/training', ('--camera-ns', 'car/eye', '--ids', '000001')
    assert convert(root, tmp_path / 'bag', *options) == 0
    by_topic = read(tmp_path / 'bag')
    ((stamp, image),) = by_topic['/car/eye/image_raw'].items()
    assert (stamp, image.header.frame_id) == (kitti_to_bag.START_NS + 10**8, 'car_eye_optical')
    assert convert(root, tmp_path / 'other', '--ids', '000009') == 2
    assert '000009.png: listed but missing' in capsys.readouterr().err
    assert convert(root, tmp_path / 'other', '--camera-ns', 'a b') == 2
    assert "'a b': not a valid topic name" in capsys.readouterr().err


def test_real_drive(mono3d_data, tmp_path):
    root = mono3d_data / 'extras/tracking_0001'
    if not root.is_dir():
        pytest.skip(f'no KITTI tracking frames at {root}')
    assert convert(root, tmp_path / 'bag', '--compressed') == 0
    by_topic = read(tmp_path / 'bag')
    stamps = list(by_topic['/front/image_raw/compressed'])
    assert np.diff(stamps).tolist() == [500_000_000] * 2  # every fifth frame at 10 Hz
    assert '/points' not in by_topic
    assert '/tf' not in by_topic
    labels = by_topic['/front/ground_truth/labels'].values()
    for number, message in zip((10, 15, 20), labels, strict=True):
        expected = kitti.read_labels(root / f'label_02_object_format/{number:06d}.txt')
        np.testing.assert_array_equal(
            drive_writer.parse_label_message(message).center_m, expected.center_m
        )
