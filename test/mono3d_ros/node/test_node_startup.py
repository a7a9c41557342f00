"""Start and end of the real node: invalid parameters, signals, remapping, autostart."""

import signal
import time
from pathlib import Path

import pytest

pytest.importorskip('rclpy', reason='rclpy is not installed')
pytest.importorskip('visualization_msgs', reason='ROS messages are not installed')

from fake_vehicle import TIMEOUT_S, NodeHarness, finish, start
from lifecycle_msgs.srv import GetState
from rclpy.qos import QoSProfile, QoSReliabilityPolicy
from sensor_msgs.msg import Image
from visualization_msgs.msg import MarkerArray

CONFIG = Path(__file__).resolve().parents[3] / 'config' / 'detector.yaml'

INVALID_STARTS = {
    'model': (('model:=/nowhere/x',), "parameter model: '/nowhere/x' not found; tried /nowhere/x"),
    'range': (('score_threshold:=2',), 'parameter score_threshold: expected 0 to 1, got 2'),
    'cuda': (('require_cuda:=true',), 'require_cuda: there is no CUDA device'),
    'classes': (('class_thresholds:=[0.5]',), 'expected 2 numbers, for Car, Pedestrian'),
    'topic': (('image_topic:=1st/image',), 'topic name'),
    'a camera': (
        ('cameras:=[front, left]', 'left.transport:=jpeg'),
        'camera left: parameter transport: expected one of raw, compressed, auto',
    ),
    'qos': (
        ('qos_overrides./detector/markers.publisher.reliability:=sometimes',),
        'reliability',
    ),
}


@pytest.fixture(scope='module')
def processes(model):
    """Start a node for each entry of INVALID_STARTS, in parallel: name -> process."""
    processes = {}
    for name, (parameters, _) in INVALID_STARTS.items():
        arguments = [part for each in parameters for part in ('-p', each)]
        processes[name] = start(model, *arguments)
    yield processes
    for process in processes.values():
        process.kill()


@pytest.mark.parametrize('name', INVALID_STARTS)
def test_an_invalid_start_is_reported_in_one_line(processes, name):
    log, _ = processes[name].communicate(timeout=3 * TIMEOUT_S)
    assert processes[name].returncode == 2, log
    assert 'Traceback' not in log, log
    assert INVALID_STARTS[name][1] in log, log


def test_a_broken_model_is_reported_in_one_line(tmp_path):
    model = tmp_path / 'student.safetensors'
    model.write_text('broken')
    log, _ = (process := start(model)).communicate(timeout=TIMEOUT_S)
    assert process.returncode == 2, log
    assert 'Traceback' not in log, log
    assert f'{model}: not a readable model file' in log, log


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
    end_s = time.monotonic() + TIMEOUT_S
    while not model.with_suffix('.loading').exists() and time.monotonic() < end_s:
        time.sleep(0.02)
    code, log = finish(process, number)
    assert code == 0, log
    assert 'Traceback' not in log, log


def test_incompatible_qos_is_reported_and_qos_can_be_overridden(model):
    overrides = {
        'reliability': 'reliable',
        'qos_overrides./mismatch/detector/markers.publisher.reliability': 'best_effort',
        'qos_overrides./mismatch/camera_info.subscription.reliability': 'best_effort',
    }
    arguments = [part for k, v in overrides.items() for part in ('-p', f'{k}:={v}')]
    process = start(model, *arguments, '-r', '__ns:=/mismatch')
    harness = NodeHarness()
    best_effort = QoSProfile(depth=1, reliability=QoSReliabilityPolicy.BEST_EFFORT)
    harness.node.create_publisher(Image, '/mismatch/image_raw', best_effort)
    harness.node.create_publisher(Image, '/mismatch/camera_info', best_effort)
    harness.node.create_subscription(MarkerArray, '/mismatch/detector/markers', print, 10)
    publisher = 'a publisher of /mismatch/image_raw offers an incompatible RELIABILITY'
    subscriber = 'a subscriber of /mismatch/detector/markers requests an incompatible RELIABILITY'
    status = harness.wait_for_status(
        lambda each: publisher in each.message and subscriber in each.message
    )
    assert status.level == status.ERROR
    assert '/mismatch/camera_info offers' not in status.message
    harness.close()
    code, log = finish(process)
    assert code == 0, log
    assert log.count(publisher) == log.count(subscriber) == 1, log


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


def test_without_autostart_the_node_stays_unconfigured(model):
    process = start(model, '-p', 'autostart:=false', '-r', '__node:=manual')
    harness = NodeHarness()
    client = harness.node.create_client(GetState, 'manual/get_state')
    assert harness.wait_until(client.service_is_ready)
    future = client.call_async(GetState.Request())
    assert harness.wait_until(future.done)
    assert future.result().current_state.label == 'unconfigured'
    harness.close()
    code, log = finish(process)
    assert code == 0, log
