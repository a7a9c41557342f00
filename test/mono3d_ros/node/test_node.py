"""The real node in a separate process over real DDS, with a fake network."""

import importlib.util
import re
import time

import pytest

pytest.importorskip('rclpy', reason='rclpy is not installed')
pytest.importorskip('visualization_msgs', reason='ROS messages are not installed')

import cv2
import numpy as np
from fake_vehicle import (
    FOCAL,
    HEIGHT,
    NodeHarness,
    added,
    camera_info,
    finish,
    image,
    labels,
    png,
    stamp,
    stamp_of,
    start,
)
from lifecycle_msgs.srv import GetState
from rcl_interfaces.srv import DescribeParameters
from rclpy.qos import QoSDurabilityPolicy, QoSProfile
from sensor_msgs.msg import CompressedImage
from std_msgs.msg import Float64
from std_srvs.srv import SetBool
from visualization_msgs.msg import Marker, MarkerArray

from mono3d_ros.perception.worker import STAGES

#: The node switches between raw and compressed images after this much silence of one, seconds.
SWITCH_S = 1.1


@pytest.fixture(scope='module')
def harness(model):
    process = start(model)
    harness = NodeHarness()
    harness.wait_until_ready()
    yield harness
    harness.close()
    code, log = finish(process)
    assert code == 0, log
    assert 'Traceback' not in log, log
    assert log.count('NO CUDA DEVICE') == harness.configured, log
    assert log.count('no image on') <= 5, log  # throttled: half a minute of it would be 30


def test_image_in_markers_out(harness):
    markers = harness.detect(image(cars=3))
    assert {stamp_of(each.header) for each in markers} == {harness.stamp_ns}
    assert {each.header.frame_id for each in markers} == {'camera_optical'}
    assert len(added(markers)) == 3
    assert len(added(markers)[0].points) == 24
    assert labels(markers) == ['Car 0.90 30.0 m', 'Car 0.70 30.0 m', 'Car 0.50 30.0 m']


def test_bgr_is_not_rgb(harness):
    assert len(added(harness.detect(image(cars=3, encoding='bgr8')))) == 3


def test_full_hd(harness):
    size = (1920, 1080)
    markers = harness.detect(image(cars=2, size=size), size=size)
    assert len(added(markers)) == 2
    wrong = 'image is 1920x1080 but camera_info is of 32x24'
    for _ in range(3):  # one may be lost
        harness.send(image(cars=2, size=size))
    assert harness.wait_for_status(lambda each: wrong in each.message)


def test_fewer_objects_delete_the_surplus_and_an_empty_result_is_published(harness):
    harness.detect(image(cars=3))
    markers = harness.detect(image(cars=0))
    assert not added(markers)
    deleted = [each for each in markers if each.action == Marker.DELETE]
    assert sorted(each.id for each in deleted if each.ns == 'camera/boxes') == [0, 1, 2]
    assert len(deleted) == len(markers) == 1 + 3 * 3
    assert len(harness.detect(image(cars=0))) == 1


def test_info_after_its_image(harness):
    """Each image is used with its own P, even if camera_info changes and arrives late."""
    harness.detect(image(cars=1))
    message, info = image(cars=1), camera_info(focal=555.0)
    for _ in range(5):
        harness.stamp_ns += 100_000_007
        for each in (message, info):
            stamp(each, harness.stamp_ns, 'camera_optical')
        harness.camera.images.publish(message)
        time.sleep(0.015)
        harness.camera.infos.publish(info)
        if markers := harness.wait_until(
            lambda: harness.camera.markers.get(harness.stamp_ns), 2.0
        ):
            break
    assert labels(markers) == ['Car 0.90 55.5 m']


def test_a_changed_camera_info_takes_effect(harness):
    """Also if it has a stamp that matches no image, as published by calibration tools."""
    assert labels(harness.detect(image(cars=1))) == [f'Car 0.90 {FOCAL / 10:.1f} m']
    info, message = camera_info(focal=420.0), image(cars=1)
    stamp(info, 0, 'camera_optical')

    def uses_new_focal():
        harness.camera.infos.publish(info)
        harness.stamp_ns += 100_000_007
        stamp(message, harness.stamp_ns, 'camera_optical')
        harness.camera.images.publish(message)
        harness.wait(0.1)
        markers = harness.camera.markers.get(harness.stamp_ns)
        return markers and labels(markers) == ['Car 0.90 42.0 m']

    assert harness.wait_until(uses_new_focal)


@pytest.mark.parametrize('number', range(2))
def test_compressed(harness, number):
    harness.wait(SWITCH_S if number == 0 else 0.0)
    assert len(added(harness.detect(png(cars=2)))) == 2


def bad_frames():
    truncated = image(cars=1)
    truncated.data = truncated.data[:-7]
    unknown = image(cars=1)
    unknown.encoding = 'rgb7'
    larger = image(cars=1)
    larger.height, larger.data = 2 * HEIGHT, larger.data + larger.data
    empty = image(cars=1)
    empty.height = empty.width = empty.step = 0
    empty.data = empty.data[:0]
    padded = image(cars=1)
    padded.step = 3
    broken = png(cars=1)
    broken.data = broken.data[: len(broken.data) // 3]
    return {
        'no file': (broken, 'the PNG is cut off or damaged'),
        'truncated': (truncated, 'expected 2304 bytes .* got 2297'),
        'encoding': (unknown, "encoding 'rgb7' is not known"),
        'size': (larger, '32x48 but camera_info is of 32x24'),
        'empty': (empty, 'an image of 0x0 pixels'),
        'step': (padded, 'step is 3 bytes, but a row takes 96'),
        'network': (image(cars=25), 'RuntimeError: this image is too red'),
    }


@pytest.mark.parametrize('kind', bad_frames())
def test_a_bad_frame_is_reported_and_the_next_is_processed(harness, kind):
    message, text = bad_frames()[kind]
    harness.wait(SWITCH_S if kind == 'truncated' else 0.0)  # switch back from compressed to raw
    for _ in range(2):
        stamp_ns = harness.send(message)
        harness.wait(0.1)
    status = harness.wait_for_status(lambda each: re.search(text, each.message))
    assert status.level == status.WARN
    assert stamp_ns not in harness.camera.markers
    good = png(cars=1) if kind == 'no file' else image(cars=1)
    assert len(added(harness.detect(good))) == 1


def test_uncalibrated(harness):
    for _ in range(3):
        stamp_ns = harness.send(image(cars=1), k=[0.0] * 9, p=[0.0] * 12)
        harness.wait(0.1)
    status = harness.wait_for_status(lambda each: 'uncalibrated' in each.message)
    assert status.level == status.ERROR
    assert stamp_ns not in harness.camera.markers
    harness.detect(image(cars=1))


def test_diagnostics_count(harness):
    harness.detect(image(cars=1))
    status = harness.wait_for_status(lambda each: each.name == 'detector: camera')
    values = {each.key: each.value for each in status.values}
    assert values['device'] == 'cpu'
    assert 0 < int(values['answered']) <= int(values['received'])
    for stage in STAGES:
        assert stage == 'end_to_end' or f'{stage} ms (p50, p95)' in values
    assert 'running on the CPU' in status.message


def test_latency_is_published_stage_by_stage(harness):
    messages = {
        stage: harness.record(Float64, f'detector/latency/{stage}') for stage in STAGES[:-1]
    }

    def all_received():
        harness.detect(image(cars=1))
        return all(messages.values())

    assert harness.wait_until(all_received)
    assert messages['total'][-1].data > messages['decode'][-1].data > 0.0


def test_the_annotated_image_is_published_while_it_has_a_subscriber(harness):
    messages = harness.record(CompressedImage, 'detector/annotated_image/compressed')

    def received():
        harness.detect(image(cars=1))
        return messages

    assert harness.wait_until(received)
    assert messages[-1].format == 'jpeg'
    assert stamp_of(messages[-1].header) in harness.camera.markers
    pixels = cv2.imdecode(np.frombuffer(messages[-1].data, np.uint8), cv2.IMREAD_COLOR)
    assert pixels.shape == (HEIGHT, 32, 3)


def test_boxes_as_vision_msgs(harness):
    vision_msgs = pytest.importorskip('vision_msgs.msg', reason='vision_msgs comes with ROS only')
    messages = harness.record(vision_msgs.Detection3DArray, 'detector/detections')
    assert harness.wait_until(lambda: harness.detect(image(cars=2)) and messages)
    assert messages[-1].header.frame_id == 'camera_optical'
    assert stamp_of(messages[-1].header) in harness.camera.markers
    first, second = messages[-1].detections
    assert first.results[0].hypothesis.class_id == 'Car'
    assert first.results[0].hypothesis.score > second.results[0].hypothesis.score
    center, size = first.bbox.center.position, first.bbox.size
    assert (center.x, center.y, center.z) == (0.0, 1.0, FOCAL / 10)
    assert (size.x, size.y, size.z) == pytest.approx((4.0, 1.6, 1.5))


def test_boxes_as_autoware_messages(harness):
    reason = 'autoware_perception_msgs comes with Autoware only'
    autoware = pytest.importorskip('autoware_perception_msgs.msg', reason=reason)
    messages = harness.record(autoware.DetectedObjects, 'detector/detected_objects')
    assert harness.wait_until(lambda: harness.detect(image(cars=2)) and messages)
    first, second = messages[-1].objects
    assert first.classification[0].label == autoware.ObjectClassification.CAR
    assert first.existence_probability > second.existence_probability
    size = first.shape.dimensions
    assert (size.x, size.y, size.z) == pytest.approx((4.0, 1.6, 1.5))


def test_topics_without_their_message_package_are_reported(harness):
    status = harness.wait_for_status(lambda each: each.name == 'detector: camera')
    (not_sent,) = (each.value for each in status.values if each.key == 'not sent')
    for package, topic in (
        ('vision_msgs', 'detections'),
        ('autoware_perception_msgs', 'detected_objects'),
    ):
        installed = importlib.util.find_spec(package) is not None
        assert (f'{topic} ({package}/' in not_sent) is not installed


def test_thresholds_at_run_time(harness):
    assert harness.set_parameter('score_threshold', 0.8).successful
    assert len(added(harness.detect(image(cars=3)))) == 1
    assert harness.set_parameter('score_threshold', 1).successful  # an integer is accepted
    for value in (1.5, -1, 'high'):
        result = harness.set_parameter('score_threshold', value)
        assert not result.successful
        assert 'score_threshold' in result.reason
    assert not harness.set_parameter('device', 'cpu').successful  # read only
    assert harness.set_parameter('score_threshold', 0.3).successful
    assert len(added(harness.detect(image(cars=3)))) == 3


@pytest.mark.parametrize(
    ('name', 'value', 'boxes', 'default'),
    [
        ('class_thresholds', [0.6, 0.1], 2, []),
        ('distance_thresholds', [20.0, 0.95, 40.0, 0.8], 1, []),  # the cars are 30 m away
        ('class_names_kept', ['Pedestrian'], 0, []),
    ],
)
def test_more_thresholds_at_run_time(harness, name, value, boxes, default):
    assert harness.set_parameter(name, value).successful
    assert len(added(harness.detect(image(cars=3)))) == boxes
    assert harness.set_parameter(name, default).successful
    assert len(added(harness.detect(image(cars=3)))) == 3


@pytest.mark.parametrize(
    ('name', 'value', 'reason'),
    [
        ('class_thresholds', [0.5], 'expected 2 numbers, for Car, Pedestrian'),
        ('distance_thresholds', [30.0, 0.2, 20.0, 0.1], 'expected ascending distances above 0'),
        ('class_names_kept', ['Truck'], 'expected names among Car, Pedestrian, got Truck'),
        ('max_rate_hz', -1.0, 'max_rate_hz'),
    ],
)
def test_invalid_thresholds_are_rejected_with_the_reason(harness, name, value, reason):
    result = harness.set_parameter(name, value)
    assert not result.successful
    assert reason in result.reason


def test_the_rate_can_be_limited(harness):
    assert harness.set_parameter('max_rate_hz', 2.0).successful
    before = len(harness.camera.markers)
    start_s = time.monotonic()
    while time.monotonic() < start_s + 2.0:
        harness.send(image(cars=0))
        harness.wait(0.05)
    elapsed_s = time.monotonic() - start_s
    assert harness.set_parameter('max_rate_hz', 0.0).successful
    harness.wait(0.2)
    assert 1 <= len(harness.camera.markers) - before <= 2.0 * elapsed_s + 1.5
    harness.detect(image(cars=0))


def test_parameters_are_described(harness):
    names = ['score_threshold', 'model', 'transport']
    request = DescribeParameters.Request(names=names)
    descriptors = harness.call(DescribeParameters, 'describe_parameters', request).descriptors
    threshold, model, transport = descriptors
    assert all(each.description for each in descriptors)
    (limits,) = threshold.floating_point_range
    assert (limits.from_value, limits.to_value) == (0.0, 1.0)
    assert model.read_only
    assert transport.additional_constraints == 'raw, compressed, auto'


def test_detection_can_be_disabled_and_enabled(harness):
    harness.detect(image(cars=2))
    messages = harness.record(MarkerArray, 'detector/markers')
    harness.wait(0.2)
    off = harness.call(SetBool, 'enable', SetBool.Request(data=False))
    assert off.success, off.message
    assert harness.wait_until(lambda: messages)  # they delete the boxes
    assert {each.action for each in messages[-1].markers} == {Marker.DELETE}
    assert harness.wait_until(lambda: not harness.camera.images.get_subscription_count())
    status = harness.wait_for_status(lambda each: 'switched off' in each.message)
    assert status.level == status.OK
    on = harness.call(SetBool, 'enable', SetBool.Request(data=True))
    assert on.success, on.message
    harness.wait_until_ready()
    harness.detect(image(cars=2))


def test_images_of_a_restarted_camera_are_processed_again(harness):
    for _ in range(2):
        harness.camera.close()
        assert harness.wait_for_status(lambda each: 'nobody publishes it' in each.message)
        harness.camera.open()
        harness.wait_until_ready()
        assert len(added(harness.detect(image(cars=2)))) == 2


def test_an_incompatible_subscriber_is_reported(harness):
    latched = QoSProfile(depth=1, durability=QoSDurabilityPolicy.TRANSIENT_LOCAL)
    subscription = harness.node.create_subscription(
        MarkerArray, 'detector/markers', print, latched
    )
    text = 'a subscriber of /detector/markers requests an incompatible DURABILITY'
    status = harness.wait_for_status(lambda each: text in each.message)
    assert status.level == status.ERROR
    harness.node.destroy_subscription(subscription)
    assert harness.wait_for_status(
        lambda each: text not in each.message
    )  # no longer reported once it has gone


def test_lifecycle_and_a_camera_info_that_arrives_five_seconds_late(harness):
    def state():
        return harness.call(GetState, 'get_state', GetState.Request()).current_state.label

    for _ in range(2):
        assert state() == 'active'
        harness.change_state('deactivate')
        response = harness.call(SetBool, 'enable', SetBool.Request(data=True))
        assert not response.success
        stamp_ns = harness.send(image(cars=1))
        harness.wait(0.2)
        assert stamp_ns not in harness.camera.markers
        harness.change_state('cleanup')
        assert state() == 'unconfigured'
        assert harness.wait_for_status(lambda each: each.message == 'not active')
        harness.change_state('configure')
        harness.change_state('activate')
        harness.wait_until_ready()
    message, start_s = image(cars=1), time.monotonic()
    while time.monotonic() < start_s + 5.0:
        harness.stamp_ns += 100_000_007
        stamp(message, harness.stamp_ns, 'camera_optical')
        harness.camera.images.publish(message)
        harness.wait(0.1)
    assert harness.stamp_ns not in harness.camera.markers
    status = harness.wait_for_status(lambda each: 'images without camera_info' in each.message)
    assert status.level == status.ERROR
    assert len(added(harness.detect(image(cars=1)))) == 1
