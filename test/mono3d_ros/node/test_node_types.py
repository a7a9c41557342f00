"""The real node over real DDS: topics that are published as another type than their name says."""

import pytest

pytest.importorskip('rclpy', reason='rclpy is not installed')
pytest.importorskip('visualization_msgs', reason='ROS messages are not installed')

import numpy as np
from fake_vehicle import NodeHarness, added, finish, image, png, start
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2

ERROR = b'\2'


@pytest.fixture
def started(model):
    """Return a function that starts the node and publishers; checks the log at the end."""
    nodes = []

    def start_node(*parameters, **types):
        process = start(model, *(word for each in parameters for word in ('-p', each)))
        harness = NodeHarness()
        nodes.append((process, harness))
        harness.camera.close()
        publishers = {
            name: harness.node.create_publisher(kind, f'/cam/{name}', 10)
            for name, kind in types.items()
        }
        infos = publishers.get('camera_info') or harness.node.create_publisher(
            CameraInfo, '/cam/camera_info', 10
        )
        harness.camera.infos = infos
        return harness, publishers

    yield start_node
    for process, harness in nodes:
        harness.close()
        code, log = finish(process)
        assert code == 0, log
        assert 'Traceback' not in log, log
        start_node.log = log


@pytest.mark.parametrize('transport', ['auto', 'compressed'])
def test_compressed_images_on_a_topic_of_any_name_are_used(started, transport):
    harness, publishers = started(
        'image_topic:=/cam/image_compressed',
        f'transport:={transport}',
        image_compressed=CompressedImage,
    )
    harness.camera.compressed_images = publishers['image_compressed']
    assert harness.wait_until(harness.camera.infos.get_subscription_count, 60.0)
    assert harness.wait_until(publishers['image_compressed'].get_subscription_count)
    assert len(added(harness.detect(png(cars=2)))) == 2
    harness.wait_for_status(lambda each: each.message == 'no CUDA device: running on the CPU')


def test_transport_raw_on_compressed_images_is_an_error_that_names_the_type(started):
    harness, _ = started(
        'image_topic:=/cam/image_compressed', 'transport:=raw', image_compressed=CompressedImage
    )
    said = (
        '/cam/image_compressed is published as sensor_msgs/msg/CompressedImage, not '
        'sensor_msgs/msg/Image: set transport to auto'
    )
    assert harness.wait_until(harness.camera.infos.get_subscription_count, 60.0)
    assert harness.wait_for_status(lambda each: each.message.startswith(said)).level == ERROR


def test_other_types_are_named(started):
    harness, _ = started('image_topic:=/cam/points', points=PointCloud2, camera_info=Image)
    said = (
        '/cam/camera_info is published as sensor_msgs/msg/Image, not sensor_msgs/msg/CameraInfo: '
        'see camera_info_topic; /cam/points is published as sensor_msgs/msg/PointCloud2, not '
        'sensor_msgs/msg/Image: see image_topic'
    )
    harness.wait_until(lambda: harness.node.count_subscribers('/cam/points'), 60.0)
    assert harness.wait_for_status(lambda each: each.message.startswith(said)).level == ERROR


def test_depth_images_fail_by_name(started):
    harness, publishers = started('image_topic:=/cam/depth', depth=Image)
    harness.camera.images = publishers['depth']
    assert harness.wait_until(publishers['depth'].get_subscription_count, 60.0)
    depth = image(cars=1)
    depth.encoding, depth.step = '16UC1', 2 * depth.width
    depth.data = depth.data[: depth.step * depth.height]
    assert np.prod((depth.height, depth.step)) == len(depth.data)
    status = harness.poll_status(
        lambda each: '16UC1 carries depth' in each.message, lambda: harness.send(depth)
    )
    assert 'images that failed' in status.message
