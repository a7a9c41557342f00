"""How the real node starts and ends: wrong parameters, signals, remapping, autostart."""

import signal
import time
from pathlib import Path

import pytest

pytest.importorskip('rclpy', reason='rclpy is not installed')
pytest.importorskip('visualization_msgs', reason='ROS messages are not installed')

from fake_vehicle import PATIENCE_S, Vehicle, finish, start
from lifecycle_msgs.srv import GetState
from rclpy.qos import QoSProfile, QoSReliabilityPolicy
from sensor_msgs.msg import Image
from visualization_msgs.msg import MarkerArray

CONFIG = Path(__file__).resolve().parents[3] / 'config' / 'detector.yaml'

WRONG_STARTS = {
    'model': (('model:=/nowhere/x',), "parameter model: '/nowhere/x' not found; tried /nowhere/x"),
    'range': (('score_threshold:=2',), 'parameter score_threshold: expected 0 to 1, got 2'),
    'cuda': (('require_cuda:=true',), 'require_cuda: there is no CUDA device'),
    'classes': (('class_thresholds:=[0.5]',), 'expected 2 numbers, for Car, Pedestrian'),
    'topic': (('image_topic:=1st/image',), 'topic name'),
    'a camera': (
        ('cameras:=[front, left]', 'left.transport:=jpeg'),
        'camera left: parameter transport: expected one of raw, compressed, auto',
    ),
    'quality': (
        ('qos_overrides./detector/markers.publisher.reliability:=sometimes',),
        'reliability',
    ),
}


@pytest.fixture(scope='module')
def wrong_starts(model):
    """All of them side by side: name -> process."""
    processes = {}
    for name, (parameters, _) in WRONG_STARTS.items():
        arguments = [part for each in parameters for part in ('-p', each)]
        processes[name] = start(model, *arguments)
    yield processes
    for process in processes.values():
        process.kill()


@pytest.mark.parametrize('name', WRONG_STARTS)
def test_a_wrong_start_is_told_in_a_line(wrong_starts, name):
    log, _ = wrong_starts[name].communicate(timeout=3 * PATIENCE_S)
    assert wrong_starts[name].returncode == 2, log
    assert 'Traceback' not in log, log
    assert WRONG_STARTS[name][1] in log, log


def test_a_broken_model_is_told_in_a_line(tmp_path):
    model = tmp_path / 'student.safetensors'
    model.write_text('broken')
    log, _ = (process := start(model)).communicate(timeout=PATIENCE_S)
    assert process.returncode == 2, log
    assert 'Traceback' not in log, log
    assert f'{model}: not a readable student file' in log, log


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


def test_whoever_does_not_hear_the_other_is_told_and_quality_can_be_overridden(model):
    overrides = {
        'reliability': 'reliable',
        'qos_overrides./deaf/detector/markers.publisher.reliability': 'best_effort',
        'qos_overrides./deaf/camera_info.subscription.reliability': 'best_effort',
    }
    arguments = [part for k, v in overrides.items() for part in ('-p', f'{k}:={v}')]
    process = start(model, *arguments, '-r', '__ns:=/deaf')
    vehicle = Vehicle()
    quality = QoSProfile(depth=1, reliability=QoSReliabilityPolicy.BEST_EFFORT)
    vehicle.node.create_publisher(Image, '/deaf/image_raw', quality)
    vehicle.node.create_publisher(Image, '/deaf/camera_info', quality)
    vehicle.node.create_subscription(MarkerArray, '/deaf/detector/markers', print, 10)
    heard = 'a publisher of /deaf/image_raw offers another RELIABILITY'
    spoken = 'a subscriber of /deaf/detector/markers asks for another RELIABILITY'
    status = vehicle.status(lambda each: heard in each.message and spoken in each.message)
    assert status.level == status.ERROR
    assert '/deaf/camera_info offers' not in status.message
    vehicle.close()
    code, log = finish(process)
    assert code == 0, log
    assert log.count(heard) == log.count(spoken) == 1, log


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
