"""Reading recorded markers, drawing pictures, replaying a bag over DDS, and the demo's checks."""

import csv
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
from kitti_scenes import make_scenes

from mono3d_ros.bag_evaluation import pictures
from mono3d_ros.bags import drive_writer, kitti_to_bag, recorded_boxes
from mono3d_ros.bags.bag_io import BagError, BagReader, BagWriter
from mono3d_ros.bags.drive_reader import Scan
from mono3d_ros.bags.message_types import make_message_factory, make_typestore
from mono3d_ros.camera_frame import FrameResult
from mono3d_ros.messages import markers
from mono3d_ros.tf.history import TransformHistory
from stl_core import geometry
from stl_core.types import Objects3D
from stl_core.visualization import draw, style

ROOT = Path(__file__).resolve().parents[3]
MARKERS = 'visualization_msgs/msg/MarkerArray'
#: Low ids are safe from the system's own ports; other runs on this machine have other ids.
DOMAIN = str(1 + os.getpid() % 100)


def one_car(x=1.0):
    return Objects3D(
        class_id=[0],
        score=[0.87],
        center_m=[[x, 0.5, 12.0]],
        size_hwl_m=[[1.5, 1.6, 4.0]],
        rotation_y=[0.4],
        box_px=[[0, 0, 1, 1]],
        depth_sigma_m=[0.3],
    )


def record(path, stamps, detected):
    """Write a bag of detections as replay_bag.py does: one car for each stamp in detected."""
    store = make_typestore()
    with BagWriter(path, store) as bag:
        bag.add_topic('/detector/markers', MARKERS)
        for i, stamp in enumerate(detected):
            result = FrameResult('camera', stamp, 'c', one_car(), ('Car',), (0,), {})
            array = markers.to_marker_array(result, (), make_message_factory(store))
            bag.write('/detector/markers', 10**12 + i * 10**9 + 30_000_000, array)
    with (path / 'sent.csv').open('w', newline='') as file:
        rows = [(stamp, 10**12 + i * 10**9) for i, stamp in enumerate(stamps)]
        csv.writer(file).writerows([('stamp_ns', 'sent_ns'), *rows])


def test_recorded_markers_are_read_as_the_detected_boxes(tmp_path):
    record(tmp_path / 'answers', [5, 6, 7], [5, 6])
    detections = recorded_boxes.read_recorded_detections(tmp_path / 'answers')
    car = one_car()
    expected = geometry.box_corners(car.center_m, car.size_hwl_m, car.rotation_y)[0]
    edges = detections.boxes[5].edges_m[0]
    np.testing.assert_allclose(edges, expected[np.array(geometry.BOX_EDGES).ravel()])
    assert detections.boxes[5].labels == ('Car 0.87 12.0 m',)
    assert detections.boxes[5].colours == [style.class_colour('Car')]
    figures = detections.summary()
    assert (figures['frames_in'], figures['frames_answered'], figures['boxes']) == (3, 2, 2)
    assert figures['latency_ms_median'] == pytest.approx(30.0)


def test_a_bag_without_detections_has_a_summary(tmp_path):
    record(tmp_path / 'answers', [5], [])
    assert (
        recorded_boxes.read_recorded_detections(tmp_path / 'answers').summary()['frames_answered']
        == 0
    )


def test_missing_send_times_and_cameras_are_errors(tmp_path):
    with pytest.raises(BagError, match=r'sent\.csv: no such file'):
        recorded_boxes.read_recorded_detections(tmp_path)


def test_a_table_of_another_recording_is_an_error(tmp_path):
    record(tmp_path / 'answers', [8, 9], [5, 6])
    with pytest.raises(BagError, match=r'sent\.csv: none of its 2 stamps is one of the 2 Marker'):
        recorded_boxes.read_recorded_detections(tmp_path / 'answers')


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('', 'no line; expected the send time'),
        ('stamp_ns,sent_ns\n', 'no line; expected the send time'),
        ('time,value\n5,6\n', 'expected the columns'),
        ('stamp_ns,sent_ns\n5\n', 'expected the columns'),
        ('stamp_ns,sent_ns\n5,now\n', 'expected the columns'),
        (b'\xff\xfe\x00\n', 'expected the columns'),
    ],
)
def test_a_foreign_table_is_an_error(text, message, tmp_path):
    record(tmp_path / 'answers', [5], [5])
    data = text if isinstance(text, bytes) else text.encode()
    (tmp_path / 'answers' / 'sent.csv').write_bytes(data)
    with pytest.raises(BagError, match=rf'sent\.csv: {message}'):
        recorded_boxes.read_recorded_detections(tmp_path / 'answers')


@pytest.mark.parametrize('text', [None, 'Car 0.87'])
def test_markers_of_another_origin_are_an_error(text, tmp_path):
    """A line list without label, or of another number of points than a box has."""
    store = make_typestore()
    new = make_message_factory(store)
    header = new('std_msgs/msg/Header', frame_id='map')
    point = new('geometry_msgs/msg/Point', x=1.0)
    lines = new(
        'visualization_msgs/msg/Marker',
        header=header,
        type=markers.LINE_LIST,
        points=[point] * (24 if text is None else 2),
    )
    labels = [] if text is None else [new('visualization_msgs/msg/Marker', type=9, text=text)]
    with BagWriter(tmp_path / 'bag', store) as bag:
        bag.write('/lanes', 1, new('visualization_msgs/msg/MarkerArray', markers=[lines, *labels]))
    (tmp_path / 'bag' / 'sent.csv').write_text('stamp_ns,sent_ns\n0,1\n')
    with pytest.raises(BagError, match=r'/lanes: marker 0 has .* expected a box of the detector'):
        recorded_boxes.read_recorded_detections(tmp_path / 'bag')


def test_a_bag_without_markers_is_an_error(tmp_path):
    with BagWriter(tmp_path / 'bag') as bag:
        bag.add_topic('/clock', 'rosgraph_msgs/msg/Clock')
    (tmp_path / 'bag' / 'sent.csv').write_text('stamp_ns,sent_ns\n0,1\n')
    with pytest.raises(BagError, match='no topic of visualization_msgs/msg/MarkerArray'):
        recorded_boxes.read_recorded_detections(tmp_path / 'bag')


def test_a_picture_shows_the_projected_box(tmp_path):
    make_scenes(tmp_path / 'kitti', frames=1)
    kitti_to_bag.main([str(tmp_path / 'kitti'), str(tmp_path / 'bag')])
    (scene,) = pictures.read_scenes(tmp_path / 'bag')
    plain = pictures.draw_scene(scene, None)
    edges = draw.box_edges(one_car(0.0))
    drawn = pictures.draw_scene(scene, recorded_boxes.RecordedBoxes(edges, ('Car 0.87',)))
    assert plain.shape == drawn.shape
    assert plain.shape[0] % 2 == plain.shape[1] % 2 == 0  # video codecs need even sizes
    changed = (plain != drawn).any(2)
    assert 0.005 < changed.mean() < 0.3
    pictures.write_picture(tmp_path / 'p/a.png', drawn)
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / 'p/a.png'))[..., ::-1], drawn)
    pictures.write_picture(tmp_path / 'p/b.png', plain[:-20])
    pictures.write_video(tmp_path / 'a.mp4', sorted((tmp_path / 'p').iterdir()), hold_s=0.5)
    video = cv2.VideoCapture(str(tmp_path / 'a.mp4'))
    assert video.get(cv2.CAP_PROP_FRAME_COUNT) == 10


def test_a_bag_played_over_dds_is_detected_and_recorded(tmp_path):
    """Player, detector and recorder are real; only the network is fake."""
    pytest.importorskip('rclpy')
    make_scenes(tmp_path / 'kitti', frames=4)
    kitti_to_bag.main([str(tmp_path / 'kitti'), str(tmp_path / 'bag')])
    environment = {
        **os.environ,
        'ROS_DOMAIN_ID': DOMAIN,
        'ROS_AUTOMATIC_DISCOVERY_RANGE': 'LOCALHOST',
        'FASTDDS_BUILTIN_TRANSPORTS': 'LARGE_DATA',
    }
    (tmp_path / 'model').touch()
    parameters = {
        'model': tmp_path / 'model',
        'image_topic': '/camera/image_raw',
        'reliability': 'reliable',
    }
    arguments = [part for k, v in parameters.items() for part in ('-p', f'{k}:={v}')]
    node = subprocess.Popen(
        [sys.executable, str(ROOT / 'test/support/fake_node.py'), '--ros-args', *arguments],
        env=environment,
    )
    try:
        played = subprocess.run(
            [
                sys.executable,
                str(ROOT / 'examples/replay_bag.py'),
                str(tmp_path / 'bag'),
                str(tmp_path / 'answers'),
                *('--rate', '0.5'),
            ],
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
    finally:
        node.terminate()
        assert node.wait(timeout=30) == 0
    assert played.returncode == 0, played.stderr
    detections = recorded_boxes.read_recorded_detections(tmp_path / 'answers')
    assert detections.num_sent == len(detections.boxes) == len(detections.latency_ms) == 4
    stamps = [scene.frame.stamp_ns for scene in pictures.read_scenes(tmp_path / 'bag')]
    assert sorted(detections.boxes) == stamps
    assert all(0 < latency < 5000 for latency in detections.latency_ms.values())


def test_replay_without_subscribers_or_bag_exits_with_code_2(tmp_path):
    pytest.importorskip('rclpy')
    make_scenes(tmp_path / 'kitti', frames=1)
    kitti_to_bag.main([str(tmp_path / 'kitti'), str(tmp_path / 'bag')])
    for bag, topic, message in (
        ('bag', '/camera/image_raw', 'no subscriber to /camera/'),
        ('bag', '/x', 'no topic /x; the bag has /camera/'),
        ('bag', '/camera/camera_info', 'no Image or CompressedImage topic'),
        ('none', '/x', 'no such bag'),
    ):
        played = subprocess.run(
            [
                sys.executable,
                str(ROOT / 'examples/replay_bag.py'),
                str(tmp_path / bag),
                str(tmp_path / 'answers'),
                *('--timeout', '1', '--topics', topic),
            ],
            env={**os.environ, 'ROS_DOMAIN_ID': DOMAIN},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert played.returncode == 2
        assert message in played.stderr
        assert not (tmp_path / 'answers').exists()


def test_the_shared_recorded_drive_is_read(mono3d_data):
    bag = mono3d_data / 'bag_tracking0001_mcap'
    if not bag.is_dir():
        pytest.skip(f'no recorded drive at {bag}')
    scenes = list(pictures.read_scenes(bag))
    assert len(scenes) == 3
    with BagReader(bag) as reader:
        assert pictures.first_camera_topics(reader)[0] == '/camera/image_raw/compressed'
    assert all(scene.frame.image.shape == (375, 1242, 3) for scene in scenes)
    assert all(scene.truth is None and scene.points_m is None for scene in scenes)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--bag', 'none'], 'no such bag'),
        (['--bag', 'out/played', '--out', 'out'], 'the demo replaces it in out'),
        (['--bag', 'out/played', '--student', 'x.onnx'], r'x.onnx: no such file'),
        (['--bag', 'out/played', '--rate', '0'], '--rate must be above 0'),
    ],
)
def test_the_demo_checks_its_arguments_before_training_or_removing(tmp_path, arguments, message):
    make_scenes(tmp_path / 'kitti', frames=1)
    kitti_to_bag.main([str(tmp_path / 'kitti'), str(tmp_path / 'out/played')])
    before = sorted(tmp_path.rglob('*'))
    ran = subprocess.run(
        [sys.executable, str(ROOT / 'examples/demo.py'), *arguments],
        cwd=tmp_path,
        env={**os.environ, 'MONO3D_DATA': str(tmp_path / 'no data'), 'PYTHONPATH': str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ran.returncode == 2
    assert message in ran.stderr
    assert sorted(tmp_path.rglob('*')) == before


def padded_cloud(new):
    """Return a PointCloud2 of three points, one of them not finite, with padding."""
    points = np.zeros(
        3,
        np.dtype(
            {
                'names': ['z', 'y', 'x'],
                'formats': ['<f4'] * 3,
                'offsets': [2, 6, 14],
                'itemsize': 22,
            }
        ),
    )
    points['x'], points['y'], points['z'] = [1, 2, np.nan], 3, 4
    fields = [
        new(
            'sensor_msgs/msg/PointField',
            name=n,
            offset=o,
            datatype=drive_writer.POINT_FIELD_FLOAT32,
            count=1,
        )
        for n, o in (('z', 2), ('y', 6), ('x', 14))
    ]
    header = new('std_msgs/msg/Header', frame_id='lidar')
    return new(
        'sensor_msgs/msg/PointCloud2',
        header=header,
        fields=fields,
        height=1,
        width=len(points),
        point_step=22,
        data=points.tobytes(),
    )


def test_clouds_are_drawn_only_with_a_transform_to_the_camera():
    """A recorded drive may have other transforms in /tf and clouds of any layout."""
    new = make_message_factory(make_typestore())
    cloud = padded_cloud(new)
    odom_T_base, lidar_T_camera = (
        new(
            'geometry_msgs/msg/TransformStamped',
            header=new('std_msgs/msg/Header', frame_id=a),
            child_frame_id=b,
            transform=new(
                'geometry_msgs/msg/Transform', translation=new('geometry_msgs/msg/Vector3', x=1.0)
            ),
        )
        for a, b in (('odom', 'base_link'), ('lidar', 'optical'))
    )

    def in_camera(*transforms):
        tf = new('tf2_msgs/msg/TFMessage', transforms=transforms)
        camera_T_cloud = TransformHistory([], [tf]).lookup_between('optical', 0, 'lidar', 0)
        return pictures.scan_in_camera_frame(Scan(cloud, 0.0, camera_T_cloud), Counter())

    assert in_camera(odom_T_base) is None
    assert in_camera() is None
    expected = [[0, 3, 4], [1, 3, 4]]
    np.testing.assert_array_equal(in_camera(odom_T_base, lidar_T_camera), expected)
