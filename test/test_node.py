"""The real node in a process of its own, over real DDS; only the network is a fake one."""

import re
import signal
import time
from pathlib import Path

import pytest

pytest.importorskip('rclpy', reason='rclpy is not installed')
pytest.importorskip('visualization_msgs', reason='ROS messages are not installed')

from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.srv import DescribeParameters, SetParameters
from rclpy.qos import QoSProfile, QoSReliabilityPolicy
from sensor_msgs.msg import Image
from vehicle import (
    HEIGHT,
    PATIENCE_S,
    Vehicle,
    camera_info,
    drawn,
    finish,
    image,
    parameter,
    png,
    stamp_of,
    start,
)
from visualization_msgs.msg import Marker

CONFIG = Path(__file__).resolve().parents[1] / 'config' / 'detector.yaml'


@pytest.fixture(scope='module')
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp('models') / 'student.safetensors'
    path.write_text('weights')
    return path


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
    assert log.count('NO CUDA DEVICE') == 3, log  # it was configured so often


def test_image_in_markers_out(vehicle):
    stamp_ns, markers = vehicle.ask(vehicle.images, image(cars=3))
    assert {stamp_of(each.header) for each in markers} == {stamp_ns}
    assert {each.header.frame_id for each in markers} == {'front_optical'}
    assert len(drawn(markers)) == 3
    assert len(drawn(markers)[0].points) == 24
    labels = [each.text for each in drawn(markers, 'labels')]
    assert labels == ['Car 0.90 30.0 m', 'Car 0.70 30.0 m', 'Car 0.50 30.0 m']


def test_bgr_is_not_rgb(vehicle):
    _, markers = vehicle.ask(vehicle.images, image(cars=3, encoding='bgr8'))
    assert len(drawn(markers)) == 3


def test_fewer_objects_delete_the_surplus_and_none_is_an_answer_too(vehicle):
    vehicle.ask(vehicle.images, image(cars=3))
    _, markers = vehicle.ask(vehicle.images, image(cars=0))
    assert not drawn(markers)
    gone = [each for each in markers if each.action == Marker.DELETE]
    assert sorted(each.id for each in gone if each.ns == 'camera/boxes') == [0, 1, 2]
    assert len(gone) == len(markers) == 1 + 3 * 3
    _, markers = vehicle.ask(vehicle.images, image(cars=0))
    assert len(markers) == 1


def test_info_after_its_image(vehicle):
    """P differs from frame to frame, and the info comes late: its own P is used all the same."""
    vehicle.ask(vehicle.images, image(cars=1))
    message, info = image(cars=1), camera_info(focal=555.0)
    for _ in range(5):
        vehicle.stamp_ns += 100_000_007
        sec, nanosec = divmod(vehicle.stamp_ns, 10**9)
        for each in (message, info):
            each.header.stamp.sec, each.header.stamp.nanosec = sec, nanosec
        vehicle.images.publish(message)
        time.sleep(0.015)
        vehicle.infos.publish(info)
        if answer := vehicle.until(lambda: vehicle.answers.get(vehicle.stamp_ns), 4.0):
            break
    assert [each.text for each in drawn(answer, 'labels')] == ['Car 0.90 55.5 m']


@pytest.mark.parametrize('number', range(2))
def test_compressed(vehicle, number):
    if number == 0:
        time.sleep(1.1)  # so long after the last raw image the node heeds the other transport
    _, markers = vehicle.ask(vehicle.files, png(cars=2))
    assert len(drawn(markers)) == 2


def bad_frames():
    truncated = image(cars=1)
    truncated.data = truncated.data[:-7]
    unknown = image(cars=1)
    unknown.encoding = 'rgb7'
    larger = image(cars=1)
    larger.height, larger.data = 2 * HEIGHT, larger.data + larger.data
    return {
        'truncated': (truncated, 'expected 2304 bytes .* got 2297'),
        'encoding': (unknown, "encoding 'rgb7' is not known"),
        'size': (larger, '32x48 but camera_info is of 32x24'),
        'network': (image(cars=25), 'RuntimeError: this picture is too red'),
    }


@pytest.mark.parametrize('kind', bad_frames())
def test_a_bad_frame_is_told_and_the_next_is_answered(vehicle, kind):
    message, text = bad_frames()[kind]
    time.sleep(1.1 if kind == 'truncated' else 0.0)  # raw again after compressed
    for _ in range(2):
        stamp_ns = vehicle.send(vehicle.images, message)
        vehicle.until(lambda: False, 0.1)
    status = vehicle.status(lambda each: re.search(text, each.message))
    assert status.level == status.WARN
    assert stamp_ns not in vehicle.answers
    _, markers = vehicle.ask(vehicle.images, image(cars=1))
    assert len(drawn(markers)) == 1


def test_uncalibrated(vehicle):
    for _ in range(3):
        stamp_ns = vehicle.send(vehicle.images, image(cars=1), k=[0.0] * 9, p=[0.0] * 12)
        vehicle.until(lambda: False, 0.1)
    status = vehicle.status(lambda each: 'uncalibrated' in each.message)
    assert status.level == status.ERROR
    assert stamp_ns not in vehicle.answers
    vehicle.ask(vehicle.images, image(cars=1))


def test_diagnostics_count(vehicle):
    vehicle.ask(vehicle.images, image(cars=1))
    status = vehicle.status(lambda each: each.name == 'detector: camera')
    values = {each.key: each.value for each in status.values}
    assert values['device'] == 'cpu'
    assert 0 < int(values['answered']) <= int(values['received'])
    for stage in ('queue', 'decode', 'inference', 'publish', 'total', 'end to end'):
        assert f'{stage} ms (p50, p95)' in values
    assert 'running on the CPU' in status.message


def test_parameters_at_run_time(vehicle):
    def set_one(name, value):
        request = SetParameters.Request(parameters=[parameter(name, value)])
        return vehicle.call(SetParameters, 'set_parameters', request).results[0]

    assert set_one('score_threshold', 0.8).successful
    _, markers = vehicle.ask(vehicle.images, image(cars=3))
    assert len(drawn(markers)) == 1
    assert set_one('score_threshold', 1).successful  # an integer will do
    for value in (1.5, -1, 'high'):
        refused = set_one('score_threshold', value)
        assert not refused.successful
        assert 'score_threshold' in refused.reason
    assert not set_one('device', 'cpu').successful  # read only
    assert set_one('score_threshold', 0.3).successful
    _, markers = vehicle.ask(vehicle.images, image(cars=3))
    assert len(drawn(markers)) == 3


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


def test_lifecycle(vehicle):
    def change(name):
        request = ChangeState.Request()
        request.transition.label = name
        return vehicle.call(ChangeState, 'change_state', request).success

    def state():
        return vehicle.call(GetState, 'get_state', GetState.Request()).current_state.label

    for _ in range(2):
        assert state() == 'active'
        assert change('deactivate')
        stamp_ns = vehicle.send(vehicle.images, image(cars=1))
        vehicle.until(lambda: False, 0.2)
        assert stamp_ns not in vehicle.answers
        assert change('cleanup')
        assert state() == 'unconfigured'
        assert change('configure')
        assert change('activate')
        vehicle.ready()
        vehicle.ask(vehicle.images, image(cars=1))


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_signals_end_the_node_cleanly(model, number):
    process = start(model, '-r', '__ns:=/other')
    lines = iter(process.stdout.readline, '')
    assert any('listening to /other/image_raw' in line for line in lines)
    code, log = finish(process, number)
    assert code == 0, log
    assert 'Traceback' not in log, log


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_signals_while_the_network_is_loaded(tmp_path, number):
    model = tmp_path / 'student.safetensors'
    model.write_text('slow')
    process = start(model)
    patience_s = time.monotonic() + PATIENCE_S
    while not model.with_suffix('.loading').exists() and time.monotonic() < patience_s:
        time.sleep(0.02)
    code, log = finish(process, number)
    assert code == 0, log
    assert 'Traceback' not in log, log


@pytest.mark.parametrize(
    ('arguments', 'text'),
    [
        (('-p', 'model:=/nowhere/x'), "parameter model: '/nowhere/x' not found; tried /nowhere/x"),
        (('-p', 'score_threshold:=2'), 'parameter score_threshold: expected 0 to 1, got 2'),
        (('-p', 'require_cuda:=true'), 'require_cuda: there is no CUDA device'),
        (('-p', 'class_thresholds:=[0.5]'), 'expected 2 numbers, for Car, Pedestrian'),
        (('-p', 'image_topic:=1st/image'), 'topic name'),
    ],
)
def test_a_wrong_start_is_told_in_a_line(model, arguments, text):
    process = start(model, *arguments)
    log, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 2, log
    assert 'Traceback' not in log, log
    assert text in log, log


def test_a_broken_model_is_told_in_a_line(tmp_path):
    model = tmp_path / 'student.safetensors'
    model.write_text('broken')
    log, _ = (process := start(model)).communicate(timeout=PATIENCE_S)
    assert process.returncode == 2, log
    assert 'Traceback' not in log, log
    assert f'{model}: not a readable student file' in log, log


def test_a_publisher_that_is_never_heard_is_told(model):
    process = start(model, '-p', 'reliability:=reliable', '-r', '__ns:=/deaf')
    vehicle = Vehicle()
    quality = QoSProfile(depth=1, reliability=QoSReliabilityPolicy.BEST_EFFORT)
    vehicle.node.create_publisher(Image, '/deaf/image_raw', quality)
    status = vehicle.status(lambda each: 'offers another RELIABILITY' in each.message)
    assert status.level == status.ERROR
    vehicle.close()
    code, log = finish(process)
    assert code == 0, log
    assert 'a publisher of /deaf/image_raw offers another RELIABILITY' in log


def test_topics_follow_remapping_and_the_parameter_file(model):
    process = start(
        model,
        *('--params-file', str(CONFIG), '-p', f'model:={model}'),
        *('-r', 'image_raw:=/front/image_rect', '-p', 'transport:=raw', '-r', '__ns:=/car'),
    )
    lines = iter(process.stdout.readline, '')
    listening = next(line for line in lines if 'listening' in line)
    code, log = finish(process)
    assert listening.rstrip().endswith('listening to /front/image_rect, /front/camera_info')
    assert code == 0, log


def test_without_autostart_it_waits(model):
    process = start(model, '-p', 'autostart:=false', '-r', '__node:=lazy')
    vehicle = Vehicle()
    client = vehicle.node.create_client(GetState, 'lazy/get_state')
    assert vehicle.until(client.service_is_ready)
    future = client.call_async(GetState.Request())
    assert vehicle.until(future.done)
    assert future.result().current_state.label == 'unconfigured'
    vehicle.close()
    code, log = finish(process)
    assert code == 0, log
