"""The launch files: read where there is Python, run where launch_ros and the package are."""

import ast
import json
import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
from launch_arguments import ARGUMENTS

ROOT = Path(__file__).resolve().parents[2]
LAUNCH = ROOT / 'launch'
FILES = ('detector', 'surround', 'replay')
RUN = """
import sys
from launch import LaunchService
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch import LaunchDescription

file, *arguments = sys.argv[1:]
arguments = [tuple(each.split(':=', 1)) for each in arguments]
source = PythonLaunchDescriptionSource(file)
service = LaunchService()
service.include_launch_description(
    LaunchDescription([IncludeLaunchDescription(source, launch_arguments=arguments)])
)
sys.exit(service.run())
"""
#: Stands in front of the real command, whose player has tests of its own.
ROS2 = """#!{python}
import json, sys
print('bag asked for:', json.dumps(sys.argv[1:]), flush=True)
"""


def path_of(name):
    return LAUNCH / f'{name}.launch.py'


def tree_of(name):
    return ast.parse(path_of(name).read_text())


def words_of(name):
    return {node.value for node in ast.walk(tree_of(name)) if isinstance(node, ast.Constant)}


def table_of(name, table):
    """Keys of a dict at the top of a launch file."""
    (keys,) = (
        [key.value for key in node.value.keys]
        for node in tree_of(name).body
        if isinstance(node, ast.Assign) and node.targets[0].id == table
    )
    return set(keys)


@pytest.fixture(scope='module')
def share():
    """The share folder of the installed package."""
    pytest.importorskip('launch_ros', reason='launch_ros comes with ROS only')
    from ament_index_python.packages import PackageNotFoundError, get_package_share_directory

    try:
        return Path(get_package_share_directory('mono3d_ros'))
    except PackageNotFoundError:
        pytest.skip('mono3d_ros is not installed: colcon build, then source install/setup.bash')


@pytest.fixture
def environment(tmp_path):
    """Of a launch that nobody else hears, with a `ros2` that only tells what it was asked for."""
    command = tmp_path / 'ros2'
    command.write_text(ROS2.format(python=sys.executable))
    command.chmod(0o755)
    return {
        **os.environ,
        'PATH': os.pathsep.join([str(tmp_path), os.environ['PATH']]),
        'ROS_DOMAIN_ID': str(101 + os.getpid() % 100),
        'ROS_LOG_DIR': str(tmp_path),
    }


def test_all_launch_files_are_known():
    assert {path.name for path in LAUNCH.iterdir()} == {path_of(name).name for name in FILES}


@pytest.mark.parametrize('name', FILES)
def test_arguments_by_reading(name):
    """Without launch there is no running it, but a word left out is seen all the same."""
    assert ARGUMENTS[name] <= words_of(name)
    functions = {node.name for node in tree_of(name).body if isinstance(node, ast.FunctionDef)}
    assert 'generate_launch_description' in functions


def test_the_detector_has_its_transport():
    words = words_of('detector')
    assert {'FASTDDS_BUILTIN_TRANSPORTS', 'LARGE_DATA', 'mono3d_ros', 'detector'} <= words


def test_handed_on_parameters_are_parameters():
    from mono3d_ros.params import Params

    assert table_of('detector', 'PARAMETERS') <= {each.name for each in fields(Params)}


def test_what_others_set_the_detector_has():
    assert table_of('surround', 'FILES') <= ARGUMENTS['detector']
    assert {'use_sim_time', 'required'} <= table_of('replay', 'ARGUMENTS') & ARGUMENTS['detector']


def test_files_named_in_launch_files_exist():
    named = [
        w for w in words_of('surround') if isinstance(w, str) and w.endswith(('.yaml', '.rviz'))
    ]
    assert len(named) == 2
    assert all((ROOT / each).is_file() for each in named)
    assert (ROOT / 'config' / 'detector.yaml').is_file()
    assert (ROOT / 'rviz' / 'detector.rviz').is_file()


@pytest.mark.parametrize('name', FILES)
def test_arguments_by_running(name):
    pytest.importorskip('launch_ros', reason='launch_ros comes with ROS only')
    from launch.actions import DeclareLaunchArgument

    names = {'__file__': str(path_of(name)), '__name__': f'{name}_launch'}
    exec(compile(path_of(name).read_text(), str(path_of(name)), 'exec'), names)
    entities = names['generate_launch_description']().entities
    declared = {each.name for each in entities if isinstance(each, DeclareLaunchArgument)}
    assert declared == ARGUMENTS[name]


@pytest.mark.parametrize('name', ['detector', 'surround'])
def test_launched(name, share, environment):
    """By launch_testing, in a process of its own: its plugins for pytest are not of every age."""
    pytest.importorskip('launch_testing', reason='launch_testing comes with ROS only')
    done = subprocess.run(
        [
            sys.executable,
            '-m',
            'launch_testing.launch_test',
            ROOT / 'test/support/launched' / f'{name}.py',
        ],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def launch(share, environment, *arguments):
    return subprocess.run(
        [sys.executable, '-c', RUN, str(share / 'launch' / 'replay.launch.py'), *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )


def test_a_bag_is_played_when_the_node_is_active_and_ends_it_all(share, environment):
    arguments = ['bag:=/my bag', 'rate:=0.5', 'loop:=true', 'remap:=/a:=/b /c:=/d']
    more = ['play_args:=--start-offset 2', 'device:=cpu']
    done = launch(share, environment, *arguments, *more)
    lines = done.stdout.splitlines()
    (active,) = [i for i, line in enumerate(lines) if 'listening to' in line]
    (played,) = [i for i, line in enumerate(lines) if 'bag asked for:' in line]
    assert active < played, done.stdout
    asked = json.loads(lines[played].partition('asked for: ')[2])
    assert asked == [
        *('bag', 'play', '/my bag', '--disable-keyboard-controls'),
        *('--clock', '100', '--rate', '0.5', '--loop', '--remap', '/a:=/b', '/c:=/d'),
        *('--start-offset', '2'),
    ]
    assert done.returncode == 0, done.stdout
    assert 'ERROR' not in done.stdout, done.stdout


def test_a_replay_ends_when_the_node_cannot_start(share, environment):
    done = launch(share, environment, 'bag:=/my_bag', 'device:=moon')
    assert "got 'moon'" in done.stdout
    assert 'bag asked for' not in done.stdout


def test_ros_knows_what_the_player_is_told():
    """The options of replay.launch.py, by the command of this ROS."""
    play = pytest.importorskip('ros2bag.verb.play', reason='ros2bag comes with ROS only')
    import argparse

    parser = argparse.ArgumentParser()
    play.PlayVerb().add_arguments(parser, 'ros2')
    known = {option for action in parser._actions for option in action.option_strings}
    told = {word for word in words_of('replay') if isinstance(word, str) and word.startswith('--')}
    assert {word for word in told if ' ' not in word} <= known
