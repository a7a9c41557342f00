"""Parameters as the tools of ROS see them, and a node without listeners or images."""

import os
import signal
import subprocess
import sys
import time

import pytest

pytest.importorskip('rclpy', reason='rclpy is not installed')
pytest.importorskip('visualization_msgs', reason='ROS messages are not installed')

from fake_vehicle import ENVIRONMENT, TIMEOUT_S, NodeHarness, finish, image, start
from nodes import node_in_this_process
from rclpy.parameter import Parameter

from mono3d_ros.node import parameters


@pytest.fixture
def node(request):
    with node_in_this_process(*getattr(request, 'param', ())) as node:
        yield node


def dump(node):
    """Return all parameters as `ros2 param dump` reads them."""
    return list(node.get_parameters_by_prefix('').values())


@pytest.mark.parametrize(
    'node', [(), ('-p', 'cameras:=[]', '-p', 'class_thresholds:=[]')], indirect=True
)
def test_an_empty_list_has_the_type_of_its_items(node):
    kinds = {name: node.get_parameter(name).type_ for name in ('cameras', 'class_names_kept')}
    assert set(kinds.values()) == {Parameter.Type.STRING_ARRAY}
    for name in ('class_thresholds', 'distance_thresholds'):
        assert node.get_parameter(name).type_ == Parameter.Type.DOUBLE_ARRAY, name
    types = {each.type_ for each in dump(node)}
    assert Parameter.Type.BYTE_ARRAY not in types
    assert node.describe_parameter('cameras').read_only


def test_a_list_that_becomes_empty_keeps_its_type(node):
    change = [Parameter('class_names_kept', Parameter.Type.STRING_ARRAY, ['Car'])]
    assert node.set_parameters_atomically(change).successful
    empty = [Parameter('class_names_kept', Parameter.Type.BOOL_ARRAY, [])]
    assert node.set_parameters_atomically(empty).successful
    assert node.get_parameter('class_names_kept').type_ == Parameter.Type.STRING_ARRAY


@pytest.mark.parametrize('value', [5, 0, 0.3, True, False, 'Car', '', [True], ['Car'], None])
@pytest.mark.parametrize('name', ['class_thresholds', 'distance_thresholds', 'class_names_kept'])
def test_a_list_parameter_of_any_other_type_is_refused(name, value, node):
    """An exception would end the node: the service of rclpy catches none."""
    result = node.set_parameters_atomically([Parameter(name, value=value)])
    fits = value is None or (name == 'class_names_kept' and value == ['Car'])
    assert result.successful == fits
    assert fits or f'parameter {name}: expected' in result.reason


def test_every_parameter_can_be_loaded_from_its_dump(node):
    """`ros2 param load` sets one after another, also those that are read only."""
    saved = dump(node)
    assert len(saved) > len(parameters.fields(parameters.Params))  # and those of rclpy
    assert all(node.set_parameters_atomically([each]).successful for each in saved)
    refused = node.set_parameters_atomically([Parameter('image_topic', value='other')])
    assert not refused.successful
    assert 'read-only' in refused.reason


@pytest.mark.parametrize(
    'node', [('-p', 'imge_topic:=/front', '-p', 'zzz:=1', '-p', 'tracking:=true')], indirect=True
)
def test_misspelt_parameters_are_reported(node):
    health = node._health_input('camera', *(node.counters['camera'].snapshot() for _ in range(2)))
    assert health.unknown_parameters == ('imge_topic (did you mean image_topic?)', 'zzz')


@pytest.mark.parametrize(
    'node',
    [('-p', 'cameras:=[front, back]', '-p', 'image_topic:=/front', '-p', 'front.transport:=raw')],
    indirect=True,
)
def test_parameters_of_a_single_camera_are_reported_if_there_are_several(node):
    health = node._health_input('front', *(node.counters['front'].snapshot() for _ in range(2)))
    expected = 'image_topic (parameter cameras is set: use front.image_topic)'
    assert health.unknown_parameters == (expected,)


def test_misspelt_names():
    assert parameters.misspelt_names(['a', 'b'], ['a', 'b', 'c']) == ()
    assert parameters.misspelt_names(['qq', 'a'], ['a']) == ('qq',)


def test_network_runs_only_for_listeners_unless_a_parameter_says_otherwise(model):
    process = start(model, '-r', '__node:=idle', '-p', 'device:=cpu')
    harness = NodeHarness()  # subscribes to the outputs of `detector`, not of `idle`
    try:
        harness.wait_until_images_are_subscribed()
        send = lambda: harness.send(image(cars=1))  # noqa: E731
        status = harness.poll_status(lambda each: 'idle: no output has' in each.message, send)
        assert status.level == status.OK
        values = {each.key: each.value for each in status.values}
        assert (values['answered'], values['received'] != '0') == ('0', True)
        harness.set_parameter('run_without_subscribers', True, node='idle')
        harness.poll_status(
            lambda each: {v.key: v.value for v in each.values}['answered'] != '0', send
        )
    finally:
        harness.close()
        code, log = finish(process)
    assert code == 0, log
    assert 'ERROR' not in log, log


@pytest.mark.parametrize(('active_s', 'code'), [(0.0, 0), (4.0, 3)])
def test_expected_images(model, active_s, code):
    process = start(model, '-p', 'expect_images:=true', '-r', '__ns:=/nobody')
    lines = iter(process.stdout.readline, '')
    assert any('listening to' in line for line in lines)
    time.sleep(active_s)
    returned, log = finish(process)
    assert returned == code, log
    assert ('camera camera: no image was processed of 0 received' in log) == bool(code), log


@pytest.mark.parametrize('delay_s', [0.3, 1.0, 2.0, 4.0])
def test_repeated_signals_at_any_time_end_the_node_cleanly(delay_s):
    """As a supervisor that signals the group does, or a second and third Ctrl-C."""
    process = subprocess.Popen(
        [sys.executable, '-m', 'mono3d_ros.node', '--ros-args', '-r', '__ns:=/signals'],
        env={**ENVIRONMENT, '_ROS_WHEELS_BOOTSTRAP_COMPLETE': '1', **library_path()},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    time.sleep(delay_s)
    for _ in range(3):
        process.send_signal(signal.SIGINT)
        time.sleep(0.2)
    log, _ = process.communicate(timeout=3 * TIMEOUT_S)
    assert process.returncode == 0, log
    assert 'Traceback' not in log, log


def library_path():
    """Return the variable that PyPI's rclpy otherwise sets by starting Python twice."""
    name = 'LD_LIBRARY_PATH'
    return {name: os.environ[name]} if name in os.environ else {}
