"""The real node over real DDS: what it does with camera_info."""

import pytest

pytest.importorskip('rclpy', reason='rclpy is not installed')
pytest.importorskip('visualization_msgs', reason='ROS messages are not installed')

from fake_vehicle import (
    TIMEOUT_S,
    NodeHarness,
    added,
    camera_info,
    finish,
    image,
    labels,
    stamp,
    start,
)
from rclpy.qos import QoSDurabilityPolicy, QoSProfile
from sensor_msgs.msg import CameraInfo

#: A lens of which the corners of the rectified image are outside of the raw one, so black.
LENS = {'d': [0.9, 0.0, 0.0, 0.0, 0.0], 'focal': 20.0}
ERROR = b'\2'


@pytest.fixture
def started(model):
    """Return a function that starts the node with parameters; checks its log at the end."""
    nodes = []

    def start_node(*parameters):
        process = start(model, *(word for each in parameters for word in ('-p', each)))
        harness = NodeHarness()
        nodes.append((process, harness))
        harness.wait_until_ready()
        return harness

    yield start_node
    for process, harness in nodes:
        harness.close()
        code, log = finish(process)
        assert code == 0, log
        assert 'Traceback' not in log, log


def test_a_raw_topic_with_D_is_rectified_by_default(started):
    harness = started()
    assert len(added(harness.detect(image(cars=3)))) == 3
    assert not added(harness.detect(image(cars=3), **LENS))
    assert len(added(harness.detect(image(cars=3)))) == 3
    for _ in range(3):  # one may be lost
        harness.send(image(cars=3), distortion_model='equidistant', d=[0.1] * 5)
    wrong = 'D of camera_info has 5 coefficients, but equidistant has 4'
    status = harness.wait_for_status(lambda each: wrong in each.message)
    assert status.level == ERROR


def test_explicit_true_on_a_raw_topic_with_D_is_an_error_but_goes_on(started):
    harness = started('rectified:=true')
    assert len(added(harness.detect(image(cars=3), **LENS))) == 3
    said = 'rectified is true, but /image_raw is named raw and its camera_info has D'
    status = harness.wait_for_status(lambda each: said in each.message)
    assert status.level == ERROR


def test_camera_info_that_was_published_once_and_kept(started):
    """Published before the node subscribes: a best-effort subscriber never gets it."""
    harness = started()
    harness.change_state('deactivate')
    harness.node.destroy_publisher(harness.camera.infos)
    kept = QoSProfile(depth=1, durability=QoSDurabilityPolicy.TRANSIENT_LOCAL)
    harness.camera.infos = harness.node.create_publisher(CameraInfo, 'camera_info', kept)
    info = camera_info(focal=420.0)
    stamp(info, 1, 'camera_optical')
    harness.camera.infos.publish(info)
    harness.change_state('activate')
    message = image(cars=1)

    def markers_of_an_image():
        harness.stamp_ns += 100_000_007
        stamp(message, harness.stamp_ns, 'camera_optical')
        harness.camera.images.publish(message)
        harness.wait(0.1)
        return harness.camera.markers.get(harness.stamp_ns)

    markers = harness.wait_until(markers_of_an_image, 2 * TIMEOUT_S)
    assert labels(markers) == ['Car 0.90 42.0 m']
    changed = camera_info(focal=300.0)  # later ones are used, and counted once
    stamp(changed, 2, 'camera_optical')
    harness.camera.infos.publish(changed)
    uses_it = lambda: labels(markers_of_an_image() or []) == ['Car 0.90 30.0 m']  # noqa: E731
    assert harness.wait_until(uses_it, TIMEOUT_S)
    status = harness.wait_for_status(lambda each: True)
    assert {each.key: each.value for each in status.values}['infos'] == '2'
