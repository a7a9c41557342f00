"""The real node in a process of its own, over real DDS; only the network is a fake one."""

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
    Vehicle,
    camera_info,
    drawn,
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

#: So long after the last raw image the node heeds compressed ones, and the other way round.
SWITCH_S = 1.1


@pytest.fixture(scope='module')
def vehicle(model):
    process = start(model)
    vehicle = Vehicle()
    vehicle.ready()
    yield vehicle
    vehicle.close()
    code, log = finish(process)
    assert code == 0, log
    assert 'Traceback' not in log, log
    assert log.count('NO CUDA DEVICE') == vehicle.configured, log
    assert log.count('no image on') <= 5, log  # throttled: half a minute of it would be 30


def test_image_in_markers_out(vehicle):
    markers = vehicle.ask(image(cars=3))
    assert {stamp_of(each.header) for each in markers} == {vehicle.stamp_ns}
    assert {each.header.frame_id for each in markers} == {'camera_optical'}
    assert len(drawn(markers)) == 3
    assert len(drawn(markers)[0].points) == 24
    assert labels(markers) == ['Car 0.90 30.0 m', 'Car 0.70 30.0 m', 'Car 0.50 30.0 m']


def test_bgr_is_not_rgb(vehicle):
    assert len(drawn(vehicle.ask(image(cars=3, encoding='bgr8')))) == 3


def test_full_hd(vehicle):
    size = (1920, 1080)
    markers = vehicle.ask(image(cars=2, size=size), size=size)
    assert len(drawn(markers)) == 2
    wrong = 'image is 1920x1080 but camera_info is of 32x24'
    for _ in range(3):  # one may be lost
        vehicle.send(image(cars=2, size=size))
    assert vehicle.status(lambda each: wrong in each.message)


def test_fewer_objects_delete_the_surplus_and_none_is_an_answer_too(vehicle):
    vehicle.ask(image(cars=3))
    markers = vehicle.ask(image(cars=0))
    assert not drawn(markers)
    gone = [each for each in markers if each.action == Marker.DELETE]
    assert sorted(each.id for each in gone if each.ns == 'camera/boxes') == [0, 1, 2]
    assert len(gone) == len(markers) == 1 + 3 * 3
    assert len(vehicle.ask(image(cars=0))) == 1


def test_info_after_its_image(vehicle):
    """P differs from frame to frame, and the info comes late: its own P is used all the same."""
    vehicle.ask(image(cars=1))
    message, info = image(cars=1), camera_info(focal=555.0)
    for _ in range(5):
        vehicle.stamp_ns += 100_000_007
        for each in (message, info):
            stamp(each, vehicle.stamp_ns, 'camera_optical')
        vehicle.eye.images.publish(message)
        time.sleep(0.015)
        vehicle.eye.infos.publish(info)
        if answer := vehicle.until(lambda: vehicle.eye.answers.get(vehicle.stamp_ns), 2.0):
            break
    assert labels(answer) == ['Car 0.90 55.5 m']


def test_a_changed_camera_info_takes_effect(vehicle):
    """Once more where it is sent only once, with a stamp of its own, as calibrations are."""
    assert labels(vehicle.ask(image(cars=1))) == [f'Car 0.90 {FOCAL / 10:.1f} m']
    info, message = camera_info(focal=420.0), image(cars=1)
    stamp(info, 0, 'camera_optical')

    def answered():
        vehicle.eye.infos.publish(info)
        vehicle.stamp_ns += 100_000_007
        stamp(message, vehicle.stamp_ns, 'camera_optical')
        vehicle.eye.images.publish(message)
        vehicle.rest(0.1)
        found = vehicle.eye.answers.get(vehicle.stamp_ns)
        return found and labels(found) == ['Car 0.90 42.0 m']

    assert vehicle.until(answered)


@pytest.mark.parametrize('number', range(2))
def test_compressed(vehicle, number):
    vehicle.rest(SWITCH_S if number == 0 else 0.0)
    assert len(drawn(vehicle.ask(png(cars=2)))) == 2


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
        'no file': (broken, 'bytes of format .png. are not a JPEG or PNG'),
        'truncated': (truncated, 'expected 2304 bytes .* got 2297'),
        'encoding': (unknown, "encoding 'rgb7' is not known"),
        'size': (larger, '32x48 but camera_info is of 32x24'),
        'empty': (empty, 'an image of 0x0 pixels'),
        'step': (padded, 'step is 3 bytes, but a row takes 96'),
        'network': (image(cars=25), 'RuntimeError: this picture is too red'),
    }


@pytest.mark.parametrize('kind', bad_frames())
def test_a_bad_frame_is_told_and_the_next_is_answered(vehicle, kind):
    message, text = bad_frames()[kind]
    vehicle.rest(SWITCH_S if kind == 'truncated' else 0.0)  # raw again after compressed
    for _ in range(2):
        stamp_ns = vehicle.send(message)
        vehicle.rest(0.1)
    status = vehicle.status(lambda each: re.search(text, each.message))
    assert status.level == status.WARN
    assert stamp_ns not in vehicle.eye.answers
    good = png(cars=1) if kind == 'no file' else image(cars=1)
    assert len(drawn(vehicle.ask(good))) == 1


def test_uncalibrated(vehicle):
    for _ in range(3):
        stamp_ns = vehicle.send(image(cars=1), k=[0.0] * 9, p=[0.0] * 12)
        vehicle.rest(0.1)
    status = vehicle.status(lambda each: 'uncalibrated' in each.message)
    assert status.level == status.ERROR
    assert stamp_ns not in vehicle.eye.answers
    vehicle.ask(image(cars=1))


def test_diagnostics_count(vehicle):
    vehicle.ask(image(cars=1))
    status = vehicle.status(lambda each: each.name == 'detector: camera')
    values = {each.key: each.value for each in status.values}
    assert values['device'] == 'cpu'
    assert 0 < int(values['answered']) <= int(values['received'])
    for stage in STAGES:
        assert stage == 'end_to_end' or f'{stage} ms (p50, p95)' in values
    assert 'running on the CPU' in status.message


def test_latency_is_published_stage_by_stage(vehicle):
    heard = {stage: vehicle.listen(Float64, f'detector/latency/{stage}') for stage in STAGES[:-1]}

    def all_heard():
        vehicle.ask(image(cars=1))
        return all(heard.values())

    assert vehicle.until(all_heard)
    assert heard['total'][-1].data > heard['decode'][-1].data > 0.0


def test_the_picture_is_published_while_somebody_listens(vehicle):
    heard = vehicle.listen(CompressedImage, 'detector/annotated_image/compressed')

    def drawn_on():
        vehicle.ask(image(cars=1))
        return heard

    assert vehicle.until(drawn_on)
    assert heard[-1].format == 'jpeg'
    assert stamp_of(heard[-1].header) in vehicle.eye.answers
    picture = cv2.imdecode(np.frombuffer(heard[-1].data, np.uint8), cv2.IMREAD_COLOR)
    assert picture.shape == (HEIGHT, 32, 3)


def test_boxes_as_numbers(vehicle):
    vision_msgs = pytest.importorskip('vision_msgs.msg', reason='vision_msgs comes with ROS only')
    heard = vehicle.listen(vision_msgs.Detection3DArray, 'detector/detections')
    assert vehicle.until(lambda: vehicle.ask(image(cars=2)) and heard)
    assert heard[-1].header.frame_id == 'camera_optical'
    assert stamp_of(heard[-1].header) in vehicle.eye.answers
    sure, unsure = heard[-1].detections
    assert sure.results[0].hypothesis.class_id == 'Car'
    assert sure.results[0].hypothesis.score > unsure.results[0].hypothesis.score
    center, size = sure.bbox.center.position, sure.bbox.size
    assert (center.x, center.y, center.z) == (0.0, 1.0, FOCAL / 10)
    assert (size.x, size.y, size.z) == pytest.approx((4.0, 1.6, 1.5))


def test_boxes_for_autoware(vehicle):
    reason = 'autoware_perception_msgs comes with Autoware only'
    autoware = pytest.importorskip('autoware_perception_msgs.msg', reason=reason)
    heard = vehicle.listen(autoware.DetectedObjects, 'detector/detected_objects')
    assert vehicle.until(lambda: vehicle.ask(image(cars=2)) and heard)
    sure, unsure = heard[-1].objects
    assert sure.classification[0].label == autoware.ObjectClassification.CAR
    assert sure.existence_probability > unsure.existence_probability
    size = sure.shape.dimensions
    assert (size.x, size.y, size.z) == pytest.approx((4.0, 1.6, 1.5))


def test_what_is_not_sent_for_want_of_its_messages_is_told(vehicle):
    status = vehicle.status(lambda each: each.name == 'detector: camera')
    (told,) = (each.value for each in status.values if each.key == 'not sent')
    for package, topic in (
        ('vision_msgs', 'detections'),
        ('autoware_perception_msgs', 'detected_objects'),
    ):
        installed = importlib.util.find_spec(package) is not None
        assert (f'{topic} ({package}/' in told) is not installed


def test_thresholds_at_run_time(vehicle):
    assert vehicle.set('score_threshold', 0.8).successful
    assert len(drawn(vehicle.ask(image(cars=3)))) == 1
    assert vehicle.set('score_threshold', 1).successful  # an integer will do
    for value in (1.5, -1, 'high'):
        refused = vehicle.set('score_threshold', value)
        assert not refused.successful
        assert 'score_threshold' in refused.reason
    assert not vehicle.set('device', 'cpu').successful  # read only
    assert vehicle.set('score_threshold', 0.3).successful
    assert len(drawn(vehicle.ask(image(cars=3)))) == 3


@pytest.mark.parametrize(
    ('name', 'value', 'boxes', 'default'),
    [
        ('class_thresholds', [0.6, 0.1], 2, []),
        ('distance_thresholds', [20.0, 0.95, 40.0, 0.8], 1, []),  # the cars are 30 m away
        ('class_names_kept', ['Pedestrian'], 0, []),
    ],
)
def test_more_thresholds_at_run_time(vehicle, name, value, boxes, default):
    assert vehicle.set(name, value).successful
    assert len(drawn(vehicle.ask(image(cars=3)))) == boxes
    assert vehicle.set(name, default).successful
    assert len(drawn(vehicle.ask(image(cars=3)))) == 3


@pytest.mark.parametrize(
    ('name', 'value', 'reason'),
    [
        ('class_thresholds', [0.5], 'expected 2 numbers, for Car, Pedestrian'),
        ('distance_thresholds', [30.0, 0.2, 20.0, 0.1], 'distances that ascend'),
        ('class_names_kept', ['Truck'], 'expected names among Car, Pedestrian, got Truck'),
        ('max_rate_hz', -1.0, 'max_rate_hz'),
    ],
)
def test_thresholds_that_cannot_be_meant_are_refused_with_the_reason(vehicle, name, value, reason):
    refused = vehicle.set(name, value)
    assert not refused.successful
    assert reason in refused.reason


def test_the_rate_can_be_limited(vehicle):
    assert vehicle.set('max_rate_hz', 2.0).successful
    before = len(vehicle.eye.answers)
    start_s = time.monotonic()
    while time.monotonic() < start_s + 2.0:
        vehicle.send(image(cars=0))
        vehicle.rest(0.05)
    took_s = time.monotonic() - start_s
    assert vehicle.set('max_rate_hz', 0.0).successful
    vehicle.rest(0.2)
    assert 1 <= len(vehicle.eye.answers) - before <= 2.0 * took_s + 1.5
    vehicle.ask(image(cars=0))


def test_parameters_are_described(vehicle):
    names = ['score_threshold', 'model', 'transport']
    request = DescribeParameters.Request(names=names)
    found = vehicle.call(DescribeParameters, 'describe_parameters', request).descriptors
    threshold, model, transport = found
    assert all(each.description for each in found)
    (limits,) = threshold.floating_point_range
    assert (limits.from_value, limits.to_value) == (0.0, 1.0)
    assert model.read_only
    assert transport.additional_constraints == 'raw, compressed, auto'


def test_it_can_be_switched_off_and_on(vehicle):
    vehicle.ask(image(cars=2))
    heard = vehicle.listen(MarkerArray, 'detector/markers')
    vehicle.rest(0.2)
    off = vehicle.call(SetBool, 'enable', SetBool.Request(data=False))
    assert off.success, off.message
    assert vehicle.until(lambda: heard)  # the boxes are taken away
    assert {each.action for each in heard[-1].markers} == {Marker.DELETE}
    assert vehicle.until(lambda: not vehicle.eye.images.get_subscription_count())
    status = vehicle.status(lambda each: 'switched off' in each.message)
    assert status.level == status.OK
    on = vehicle.call(SetBool, 'enable', SetBool.Request(data=True))
    assert on.success, on.message
    vehicle.ready()
    vehicle.ask(image(cars=2))


def test_a_camera_that_was_restarted_is_heard_again(vehicle):
    for _ in range(2):
        vehicle.eye.close()
        assert vehicle.status(lambda each: 'nobody publishes it' in each.message)
        vehicle.eye.open()
        vehicle.ready()
        assert len(drawn(vehicle.ask(image(cars=2)))) == 2


def test_a_subscriber_that_never_hears_is_told(vehicle):
    latched = QoSProfile(depth=1, durability=QoSDurabilityPolicy.TRANSIENT_LOCAL)
    deaf = vehicle.node.create_subscription(MarkerArray, 'detector/markers', print, latched)
    text = 'a subscriber of /detector/markers asks for another DURABILITY'
    status = vehicle.status(lambda each: text in each.message)
    assert status.level == status.ERROR
    vehicle.node.destroy_subscription(deaf)
    assert vehicle.status(lambda each: text not in each.message)  # and when it has gone


def test_lifecycle_and_an_info_that_comes_five_seconds_late(vehicle):
    def state():
        return vehicle.call(GetState, 'get_state', GetState.Request()).current_state.label

    for _ in range(2):
        assert state() == 'active'
        vehicle.change('deactivate')
        refused = vehicle.call(SetBool, 'enable', SetBool.Request(data=True))
        assert not refused.success
        stamp_ns = vehicle.send(image(cars=1))
        vehicle.rest(0.2)
        assert stamp_ns not in vehicle.eye.answers
        vehicle.change('cleanup')
        assert state() == 'unconfigured'
        assert vehicle.status(lambda each: each.message == 'not active')
        vehicle.change('configure')
        vehicle.change('activate')
        vehicle.ready()
    message, start_s = image(cars=1), time.monotonic()
    while time.monotonic() < start_s + 5.0:
        vehicle.stamp_ns += 100_000_007
        stamp(message, vehicle.stamp_ns, 'camera_optical')
        vehicle.eye.images.publish(message)
        vehicle.rest(0.1)
    assert vehicle.stamp_ns not in vehicle.eye.answers
    status = vehicle.status(lambda each: 'images without camera_info' in each.message)
    assert status.level == status.ERROR
    assert len(drawn(vehicle.ask(image(cars=1)))) == 1
