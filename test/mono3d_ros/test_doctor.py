import ast
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from mono3d_ros.doctor import __main__
from mono3d_ros.doctor.checks import (
    MISSING,
    NOTE,
    OPTIONAL_ROS_PACKAGES,
    REQUIRED_MODULES,
    REQUIRED_ROS_PACKAGES,
    TOOL_MODULES,
    WARNING,
    can_run,
    run_checks,
)
from mono3d_ros.doctor.environment import (
    MODULES,
    Environment,
    collect_environment,
)
from mono3d_ros.subprocess_probe import ProbeResult, run_probe

ROOT = Path(__file__).resolve().parents[2]
PYTHON = '/home/a/.venv/bin/python'
TORCH = {
    'version': '2.9.0+cu130',
    'cuda': '13.0',
    'device': 'NVIDIA RTX A2000 (sm_86)',
    'told': '',
}

#: A vehicle without problems.
HEALTHY = Environment(
    python='3.12.3',
    executable=PYTHON,
    abi='cpython-312',
    in_venv=True,
    sees_system=True,
    machine='x86_64',
    variables={'ROS_DISTRO': 'jazzy', 'FASTDDS_BUILTIN_TRANSPORTS': 'LARGE_DATA'},
    underlays=('jazzy',),
    modules=frozenset(MODULES),
    versions={'numpy': '1.26.4', 'opencv-python-headless': '4.11.0.86', 'torch': '2.9.0'},
    rclpy_abis=('cpython-312',),
    other_pythons=(),
    rmws=('rmw_cyclonedds_cpp', 'rmw_fastrtps_cpp'),
    gpus=('NVIDIA RTX A2000, 580.65',),
    settings={'net.core.rmem_max': 2147483647},
    students={'/models/student.safetensors': ''},
    commands={'/ws/install/lib/mono3d_ros/detector': '/home/a/.venv/bin/python3'},
    trials={
        'rclpy': ProbeResult({'rmw': 'rmw_fastrtps_cpp'}),
        'torch': ProbeResult(TORCH),
        'cv2': ProbeResult({'version': '4.11.0', 'path': '/cv2'}),
        'cv_bridge': ProbeResult({}),
    },
)


def without_modules(*names):
    return {'modules': HEALTHY.modules - set(names)}


def probe(name, said=None, error=''):
    return {'trials': {**HEALTHY.trials, name: ProbeResult(said or {}, error)}}


def torch_without_gpu(**changes):
    return probe('torch', {**TORCH, 'device': '', **changes})


def with_versions(**versions):
    renamed = {name.replace('_', '-'): version for name, version in versions.items()}
    return {'versions': {**HEALTHY.versions, **renamed}}


#: Name of a case -> changes of HEALTHY, level, patterns of description and remedy.
PROBLEMS = {
    'old python': ({'python': '3.8.10'}, MISSING, '3.8.10 is too old', 'Python 3.10 or newer'),
    'no ros': (
        {**without_modules('rclpy'), 'underlays': ()},
        MISSING,
        'ROS 2 is not installed',
        'pip install "mono3d_ros',
    ),
    'ros not sourced': (
        without_modules('rclpy'),
        MISSING,
        'not sourced',
        r'^\. /opt/ros/jazzy/setup.bash',
    ),
    'ros of another python': (
        {**without_modules('rclpy'), 'other_pythons': ('3.10',)},
        MISSING,
        'for Python 3.10, but this is 3.12.3',
        '^make .*: /usr/bin/python3.10 -m venv --system-site-packages',
    ),
    'rclpy of another python': (
        {'rclpy_abis': ('cpython-310',)},
        MISSING,
        f'built for cpython-310, but this is cpython-312 .{PYTHON}',
        '/usr/bin/python3 -m venv --system-site-packages',
    ),
    'rmw not installed': (
        {
            **probe('rclpy', error='ImportError: no rmw'),
            'variables': {**HEALTHY.variables, 'RMW_IMPLEMENTATION': 'rmw_zenoh_cpp'},
        },
        MISSING,
        'does not start: ImportError: no rmw',
        'apt install ros-jazzy-rmw-zenoh-cpp, or unset RMW_IMPLEMENTATION',
    ),
    'hidden system packages': (
        {
            **probe('rclpy', error="ModuleNotFoundError: No module named 'yaml'"),
            'sees_system': False,
        },
        MISSING,
        "No module named 'yaml'",
        "hides the system's packages: .*--system-site-packages",
    ),
    'broken rclpy': (probe('rclpy', error='OSError: x'), MISSING, 'OSError: x', 'source ROS'),
    'rclpy of pypi': (with_versions(ros_rclpy='9.1.2'), NOTE, 'unofficial', 'docs/vehicle.md'),
    'no torch': (
        without_modules('torch', 'cv2'),
        MISSING,
        'torch, cv2',
        f'^{PYTHON} -m pip install torch opencv-python-headless$',
    ),
    'no torch for the system': (
        {**without_modules('torch'), 'in_venv': False},
        MISSING,
        'torch',
        'venv --system-site-packages .venv && .venv/bin/pip install torch$',
    ),
    'broken torch': (
        probe('torch', error='ImportError: libcudart'),
        MISSING,
        'torch does not import: ImportError: libcudart',
        'pip install --force-reinstall torch',
    ),
    'no rosbags': (
        without_modules('rosbags'),
        NOTE,
        'bag and training tools.*rosbags',
        'install rosbags',
    ),
    'no messages': (
        without_modules('std_srvs', 'visualization_msgs'),
        MISSING,
        'ROS lacks std_srvs, visualization_msgs',
        '^sudo apt install ros-jazzy-std-srvs ros-jazzy-visualization-msgs$',
    ),
    'no vision_msgs': (
        without_modules('vision_msgs'),
        NOTE,
        'no ~/detections',
        'sudo apt install ros-jazzy-vision-msgs',
    ),
    'no tf': (without_modules('tf2_msgs'), NOTE, 'no target_frame', 'ros-jazzy-tf2-msgs'),
    'no model': ({'students': {}}, MISSING, 'contains no model file', 'parameter model'),
    'cut model': ({'students': {'/a': 'truncated: 9'}}, MISSING, '/a: truncated: 9', 'reinstall'),
    'old torch': (
        probe('torch', {**TORCH, 'version': '2.1.0'}),
        WARNING,
        '2.1.0 is older',
        '>=2.4',
    ),
    'no gpu': (
        {**torch_without_gpu(), 'gpus': ()},
        WARNING,
        'no NVIDIA GPU or no driver',
        'device: cpu',
    ),
    'torch without cuda': (
        torch_without_gpu(cuda=''),
        WARNING,
        'built without CUDA, but there is NVIDIA RTX A2000, 580.65',
        'force-reinstall torch torchvision',
    ),
    'old driver': (
        torch_without_gpu(**{'told': 'The NVIDIA driver on your system is too old'}),
        WARNING,
        'cannot use NVIDIA RTX A2000, 580.65: The NVIDIA driver on your system is too old',
        'a driver for CUDA 13.0',
    ),
    'two opencvs': (
        with_versions(opencv_python='4.11.0.86'),
        WARNING,
        'opencv-python and opencv-python-headless overwrite each other',
        'uninstall opencv-python opencv-python-headless, then .*install opencv-python-headless',
    ),
    'default transports': (
        {'variables': {'ROS_DISTRO': 'jazzy'}},
        WARNING,
        'lose large images',
        'export FASTDDS_BUILTIN_TRANSPORTS=LARGE_DATA',
    ),
    'localhost only': (
        {'variables': {**HEALTHY.variables, 'ROS_AUTOMATIC_DISCOVERY_RANGE': 'LOCALHOST'}},
        WARNING,
        'ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST makes Fast DDS ignore FASTDDS_BUILTIN_TRANSPORTS',
        'ROS_AUTOMATIC_DISCOVERY_RANGE=SUBNET and .*=LARGE_DATA for cameras .*, or .*reliable',
    ),
    'small buffers': (
        {
            **probe('rclpy', {'rmw': 'rmw_cyclonedds_cpp'}),
            'settings': {'net.core.rmem_max': 212992},
        },
        WARNING,
        'net.core.rmem_max is 212992 bytes',
        r'sysctl -w net.core.rmem_max=2147483647.*min="10MB"',
    ),
    'cyclone by default': (
        probe('rclpy', {'rmw': 'rmw_cyclonedds_cpp'}),
        NOTE,
        'small receive buffers',
        'SocketReceiveBufferSize min="10MB" in the CYCLONEDDS_URI file',
    ),
    'command of another python': (
        {'commands': {'/ws/install/lib/mono3d_ros/detector': '/usr/bin/python3'}},
        WARNING,
        f'starts /usr/bin/python3, not {PYTHON}',
        'python -m colcon build.*/usr/bin/python3 -m mono3d_ros.doctor',
    ),
    'crashing cv_bridge': (
        probe('cv_bridge', error='crashed with signal 11'),
        NOTE,
        'cv_bridge does not work: crashed with signal 11. The node works without it',
        'numpy<2',
    ),
    'pytest 9': (
        with_versions(pytest='9.0.1', launch_testing='3.4.0'),
        NOTE,
        'pytest 9.0.1 cannot load the plugins of launch_testing 3.4.0',
        'PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 for the tests, or .*pytest<8',
    ),
    'pytest 8 on Humble': (
        with_versions(pytest='8.4.2', launch_testing='1.0.10'),
        NOTE,
        'pytest 8.4.2 cannot load',
        'PYTEST_DISABLE_PLUGIN_AUTOLOAD=1',
    ),
    'setuptools 80': (with_versions(setuptools='82.0'), NOTE, 'symlink-install', 'setuptools<80'),
}


def test_a_healthy_vehicle_has_no_problems():
    assert run_checks(HEALTHY) == []
    assert __main__.format_report(HEALTHY, []).endswith('the node can run')


@pytest.mark.parametrize('name', PROBLEMS)
def test_each_problem_has_a_description_and_a_remedy(name):
    changes, level, what, remedy = PROBLEMS[name]
    (result,) = run_checks(replace(HEALTHY, **changes))
    assert result.level == level
    assert re.search(what, result.what), result.what
    assert re.search(remedy, result.remedy), result.remedy
    assert can_run([result]) == (level != MISSING)


@pytest.mark.parametrize(
    ('rmw', 'variables'),
    [
        ('rmw_zenoh_cpp', {}),
        ('rmw_fastrtps_cpp', {'FASTDDS_DEFAULT_PROFILES_FILE': '/etc/dds.xml'}),
        ('rmw_cyclonedds_cpp', {'CYCLONEDDS_URI': 'file:///etc/cyclone.xml'}),
    ],
)
def test_configured_transports_are_not_reported(rmw, variables):
    assert run_checks(replace(HEALTHY, **probe('rclpy', {'rmw': rmw}), variables=variables)) == []


def test_a_command_that_uses_env_is_not_reported():
    commands = {'/ws/lib/mono3d_ros/detector': '/usr/bin/env python3'}
    assert run_checks(replace(HEALTHY, commands=commands)) == []


def test_missing_comes_first_and_consequences_are_not_reported():
    bare = replace(
        HEALTHY, modules=frozenset(), versions={}, underlays=(), trials={}, commands={}, gpus=()
    )
    levels = [each.level for each in run_checks(bare)]
    assert levels == [MISSING, MISSING, NOTE]
    report = __main__.format_report(bare, run_checks(bare))
    assert 'the node cannot run: 2 missing' in report


def test_doctor_looks_for_the_modules_that_the_node_imports():
    """ROS packages that the modules import must be among the required ones."""
    roots = set()
    for path in (ROOT / 'mono3d_ros').rglob('*.py'):
        for node in ast.walk(ast.parse(path.read_text())):
            modules = [node.module] if isinstance(node, ast.ImportFrom) else []
            modules += [each.name for each in node.names] if isinstance(node, ast.Import) else []
            roots |= {each.split('.')[0] for each in modules}
    ros = {name for name in roots if '_msgs' in name or name.startswith(('std_srvs', 'ament_'))}
    assert ros <= set(REQUIRED_ROS_PACKAGES)
    assert {
        *REQUIRED_MODULES,
        *TOOL_MODULES,
        *REQUIRED_ROS_PACKAGES,
        *OPTIONAL_ROS_PACKAGES,
    } <= set(MODULES)


def test_doctor_looks_for_the_packages_that_pip_installs():
    tree = ast.parse((ROOT / 'setup.py').read_text())
    (listed,) = (
        keyword.value
        for keyword in ast.walk(tree)
        if isinstance(keyword, ast.keyword) and keyword.arg == 'install_requires'
    )
    names = {each.value.split('>')[0] for each in listed.elts} - {'setuptools'}
    assert names == {*REQUIRED_MODULES.values(), *TOOL_MODULES.values()}


def test_probes_return_their_output_or_their_error():
    assert run_probe('print(1); print(\'{"a": "b"}\')') == ProbeResult({'a': 'b'})
    assert run_probe('raise OSError("gone")').error == 'OSError: gone'
    assert run_probe('print("no JSON")').error == "no JSON in its output: 'no JSON\\n'"
    assert run_probe('import os; os.abort()').error == 'crashed with signal 6'
    assert run_probe('import time; time.sleep(60)', timeout_s=0.5).error == 'timed out after 0.5 s'


def test_this_machine(capsys):
    """Check the interpreter, NumPy, torch and the shipped model of this machine."""
    env = collect_environment()
    assert env.executable == sys.executable
    assert {'numpy', 'torch'} <= env.modules
    assert env.trials['torch'].said['version']
    assert list(env.students.values()) == ['']
    assert [each for each in run_checks(env) if 'model' in each.what] == []
    assert env.abi.endswith(f'{sys.version_info[0]}{sys.version_info[1]}')


def run(*arguments):
    """Run the command without site-packages, PYTHONPATH and ROS."""
    environment = {
        k: v for k, v in os.environ.items() if k not in ('PYTHONPATH', 'AMENT_PREFIX_PATH')
    }
    return subprocess.run(
        [sys.executable, '-S', '-m', 'mono3d_ros.doctor', *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )


def test_doctor_runs_on_plain_python():
    done = run()
    assert done.returncode == 1, done.stderr
    assert 'missing' in done.stdout
    assert 'rclpy' in done.stdout
    assert 'the node cannot run' in done.stdout
    assert not done.stderr


def test_json_contains_the_same():
    done = run('--json')
    report = json.loads(done.stdout)
    assert done.returncode == 1
    assert report['can_run'] is False
    assert report['facts']['python'] == '.'.join(map(str, sys.version_info[:3]))
    assert {'level', 'what', 'remedy'} == set(report['findings'][0])
