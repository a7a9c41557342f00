"""`doctor`: each problem of an environment has a description and a remedy."""

import re
from dataclasses import replace

import pytest
from healthy_vehicle import (
    HEALTHY,
    PYTHON,
    TORCH,
    probe,
    torch_without_gpu,
    with_versions,
    without_modules,
)

from mono3d_ros.doctor import __main__
from mono3d_ros.doctor.checks import MISSING, NOTE, WARNING, can_run, run_checks

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
        'reliability: reliable; or .*sysctl -w net.core.rmem_max=2147483647.*max="10MB".*not min=',
    ),
    'cyclone by default': (
        probe('rclpy', {'rmw': 'rmw_cyclonedds_cpp'}),
        NOTE,
        'small receive buffers',
        'reliability: reliable, or set .*BufferSize max="10MB"/> in the CYCLONEDDS_URI file',
    ),
    'numpy 2 before the scipy of the system': (
        {
            **with_versions(numpy='2.3.1'),
            **probe('node', error="ImportError: cannot import name 'Inf' from 'numpy'"),
        },
        MISSING,
        "the node does not start: ImportError: cannot import name 'Inf'",
        'pip install "numpy<2": NumPy 2.3.1 hides that of the system',
    ),
    'node that does not start': (
        probe('node', error='crashed with signal 11'),
        MISSING,
        'the node does not start: crashed with signal 11',
        f'{PYTHON} -c "import mono3d_ros.node.detector_node"',
    ),
    'no Python module of tf2': (
        without_modules('tf2_ros'),
        NOTE,
        'without tf2_ros: the node subscribes to tf itself',
        'sudo apt install ros-jazzy-tf2-ros-py',
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
