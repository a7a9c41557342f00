"""Launch files: checked by reading anywhere, run if launch_ros and the package are installed."""

import ast
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from launch_arguments import ARGUMENTS, PARAMETERS

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
service = LaunchService(argv=sys.argv[2:])
service.include_launch_description(
    LaunchDescription([IncludeLaunchDescription(source, launch_arguments=arguments)])
)
sys.exit(service.run())
"""
#: Replaces the real command; the player of rosbag2 is not under test.
ROS2 = """#!{python}
import json, signal, sys, time
print('bag command:', json.dumps(sys.argv[1:]), flush=True)
signal.signal(signal.SIGINT, lambda *_: sys.exit(0))
if 'broken' in sys.argv[3]:
    sys.exit('[ERROR] [rosbag2_player]: no storage')
if '--loop' in sys.argv and 'forever' in sys.argv[3]:
    time.sleep(600)
"""


def path_of(name):
    return LAUNCH / f'{name}.launch.py'


def tree_of(name):
    return ast.parse(path_of(name).read_text())


def words_of(name):
    return {node.value for node in ast.walk(tree_of(name)) if isinstance(node, ast.Constant)}


def table_of(name, table):
    """Return the keys of a module-level dict of a launch file."""
    (keys,) = (
        [key.value for key in node.value.keys]
        for node in tree_of(name).body
        if isinstance(node, ast.Assign) and node.targets[0].id == table
    )
    return set(keys)


@pytest.fixture(scope='module')
def share():
    """Return the share folder of the installed package; skip if it is not installed."""
    pytest.importorskip('launch_ros', reason='launch_ros comes with ROS only')
    from ament_index_python.packages import PackageNotFoundError, get_package_share_directory

    try:
        return Path(get_package_share_directory('mono3d_ros'))
    except PackageNotFoundError:
        pytest.skip('mono3d_ros is not installed: colcon build, then source install/setup.bash')


@pytest.fixture
def environment(tmp_path):
    """Return an environment with a private ROS domain and a `ros2` that prints its arguments."""
    command = tmp_path / 'ros2'
    command.write_text(ROS2.format(python=sys.executable))
    command.chmod(0o755)
    for name in ('my bag', 'broken', 'forever'):
        (tmp_path / name).mkdir()
    return {
        **os.environ,
        'BAGS': str(tmp_path),
        'PATH': os.pathsep.join([str(tmp_path), os.environ['PATH']]),
        'ROS_DOMAIN_ID': str(101 + os.getpid() % 100),
        'ROS_LOG_DIR': str(tmp_path),
    }


def test_all_launch_files_are_known():
    assert {path.name for path in LAUNCH.iterdir()} == {path_of(name).name for name in FILES}


@pytest.mark.parametrize('name', FILES)
def test_arguments_by_reading(name):
    """Finds a missing argument even where launch is not installed."""
    read_from_yaml = PARAMETERS if name == 'detector' else set()
    assert ARGUMENTS[name] - read_from_yaml <= words_of(name)
    functions = {node.name for node in tree_of(name).body if isinstance(node, ast.FunctionDef)}
    assert 'generate_launch_description' in functions


def test_the_detector_sets_its_dds_transport():
    words = words_of('detector')
    assert {'FASTDDS_BUILTIN_TRANSPORTS', 'LARGE_DATA', 'mono3d_ros', 'detector'} <= words


def test_the_detector_declares_the_arguments_that_other_files_set():
    assert table_of('surround', 'FILES') <= ARGUMENTS['detector']
    assert {'use_sim_time', 'required'} <= table_of('replay', 'ARGUMENTS') & ARGUMENTS['detector']


def test_files_named_in_launch_files_exist():
    names = [
        w for w in words_of('surround') if isinstance(w, str) and w.endswith(('.yaml', '.rviz'))
    ]
    assert len(names) == 2
    assert all((ROOT / each).is_file() for each in names)
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
    """Run launch_testing in a separate process, since its plugins do not fit every pytest."""
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


def launch(share, environment, *arguments, file='replay'):
    return subprocess.run(
        [sys.executable, '-c', RUN, str(share / 'launch' / f'{file}.launch.py'), *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )


def test_a_bag_starts_when_the_node_is_active_and_its_end_shuts_the_launch_down(
    share, environment
):
    bag = environment['BAGS'] + '/my bag'
    arguments = [f'bag:={bag}', 'rate:=0.5', 'loop:=true', 'remap:=/a:=/b /c:=/d']
    more = ['play_args:=--start-offset 2', 'device:=cpu', 'expect_images:=false']
    done = launch(share, environment, *arguments, *more)
    lines = done.stdout.splitlines()
    (active,) = [i for i, line in enumerate(lines) if 'listening to' in line]
    (played,) = [i for i, line in enumerate(lines) if 'bag command:' in line]
    assert active < played, done.stdout
    command = json.loads(lines[played].partition('command: ')[2])
    assert command == [
        *('bag', 'play', bag, '--disable-keyboard-controls'),
        *('--clock', '100', '--rate', '0.5', '--loop', '--remap', '/a:=/b', '/c:=/d'),
        *('--start-offset', '2'),
    ]
    assert done.returncode == 0, done.stdout
    assert 'ERROR' not in done.stdout, done.stdout


def test_a_replay_ends_when_the_node_cannot_start(share, environment):
    done = launch(share, environment, f'bag:={environment["BAGS"]}/my bag', 'device:=moon')
    assert "got 'moon'" in done.stdout
    assert 'bag command' not in done.stdout
    assert 'the detector ended with exit code 2' in done.stdout
    assert done.returncode == 1, done.stdout


@pytest.mark.parametrize(
    ('file', 'arguments', 'line'),
    [
        ('replay', ['bag:=/nowhere'], 'bag /nowhere: no such file or folder'),
        ('replay', ['bag:={bags}/broken'], 'ros2 bag play ended with exit code 1'),
        ('replay', ['bag:={bags}/my bag'], 'no image was processed of 0 received'),
        ('replay', ['bag:={bags}/my bag', 'lop:=true'], 'argument lop: did you mean loop?'),
        ('detector', ['model:=/nowhere'], 'the detector ended with exit code 2'),
        ('detector', ['model:=/nowhere', 'required:=true'], 'detector ended with exit code 2'),
        ('surround', ['model:=/nowhere', 'required:=true'], 'detector ended with exit code 2'),
        ('detector', ['rectifed:=false'], 'argument rectifed: did you mean rectified?'),
        ('surround', ['zzz:=1'], 'unknown launch argument zzz: see --show-args'),
        ('detector', ['tracking:=maybe'], "tracking: expected true or false, got 'maybe'"),
        ('detector', ['max_age_s:=soon'], "max_age_s: expected a number, got 'soon'"),
        ('detector', ['class_thresholds:=0.1'], 'class_thresholds: expected a list'),
        ('detector', ['class_thresholds:=[0.1]'], 'expected 3 numbers'),
    ],
)
def test_a_launch_that_fails_says_so_in_its_exit_code(share, environment, file, arguments, line):
    bags = environment['BAGS']
    given = [each.format(bags=bags) for each in arguments]
    done = launch(share, environment, 'device:=cpu', *given, file=file)
    assert line in done.stdout, done.stdout
    assert done.returncode == 1, done.stdout
    assert 'Traceback' not in done.stdout, done.stdout


@pytest.mark.parametrize('count', [1, 3])
@pytest.mark.parametrize('file', ['detector', 'replay'])
def test_interrupts_end_a_launch_cleanly(share, environment, file, count):
    """Ctrl-C signals the whole group, once or repeatedly."""
    arguments = ['device:=cpu', 'namespace:=interrupted']
    if file == 'replay':
        arguments += [f'bag:={environment["BAGS"]}/forever', 'loop:=true', 'expect_images:=false']
    started = 'bag command' if file == 'replay' else 'listening to'
    process = subprocess.Popen(
        [sys.executable, '-c', RUN, str(share / 'launch' / f'{file}.launch.py'), *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    lines = []
    for line in iter(process.stdout.readline, ''):
        lines.append(line)
        if started in line:
            break
    for _ in range(count):
        os.killpg(process.pid, signal.SIGINT)
        time.sleep(0.3)
    lines.append(process.communicate(timeout=120)[0])
    log = ''.join(lines)
    assert process.returncode == 0, log
    assert 'Caught exception' not in log, log
    assert 'has died' not in log, log


def test_arguments_set_parameters_of_their_types(share, environment):
    """The node refuses a list of other types; the last one fails on purpose."""
    arguments = ['class_thresholds:=[0.5, 1]', 'rectified:=false', 'tracking:=true']
    done = launch(share, environment, 'device:=cpu', *arguments, 'max_age_s:=1', file='detector')
    assert 'parameter class_thresholds: expected 3 numbers' in done.stdout, done.stdout
    assert done.returncode == 1, done.stdout


def test_ros2_bag_play_has_the_options_that_replay_passes():
    """Compare the options in replay.launch.py with the parser of the installed ros2bag."""
    play = pytest.importorskip('ros2bag.verb.play', reason='ros2bag comes with ROS only')
    import argparse

    parser = argparse.ArgumentParser()
    play.PlayVerb().add_arguments(parser, 'ros2')
    known = {option for action in parser._actions for option in action.option_strings}
    options = {
        word for word in words_of('replay') if isinstance(word, str) and word.startswith('--')
    }
    assert {word for word in options if ' ' not in word} <= known
