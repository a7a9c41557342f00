"""
Facts about a machine -> what keeps the node from running, or from running well, and what to do.

Pure, and nothing but Python, as doctor.py has to run where all else fails.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from types import MappingProxyType

from mono3d_ros.doctor.environment import Facts

#: Levels of a finding: the node cannot run; it runs, but not well; something it can do without.
MISSING, WARNING, NOTE = 'missing', 'warning', 'note'

OLDEST_PYTHON, OLDEST_TORCH = (3, 10), (2, 4)
#: What the node imports -> what pip calls it.
NEEDED = MappingProxyType(
    {
        **{name: name for name in ('torch', 'torchvision', 'timm', 'safetensors', 'numpy')},
        'scipy': 'scipy',
        'cv2': 'opencv-python-headless',
        'yaml': 'pyyaml',
    }
)
#: What the bag and training tools import besides.
FOR_TOOLS = MappingProxyType({name: name for name in ('rosbags', 'rich', 'matplotlib')})
#: Packages of ROS that the node imports.
MESSAGES = (
    *('ament_index_python', 'builtin_interfaces', 'diagnostic_msgs', 'geometry_msgs'),
    *('rcl_interfaces', 'sensor_msgs', 'std_msgs', 'std_srvs', 'visualization_msgs'),
)
#: Packages of ROS that it can do without -> what is then not there.
OPTIONAL = MappingProxyType(
    {
        'vision_msgs': 'no ~/detections (vision_msgs/Detection3DArray)',
        'tf2_msgs': 'no tf, so no target_frame, vehicle_frame or fixed_frame',
        'tf2_ros': 'tf is heard by the node itself',
    }
)
OPENCVS = tuple(
    f'opencv-{kind}python{tail}' for kind in ('', 'contrib-') for tail in ('', '-headless')
)
#: Cyclone DDS asks for so much to take a raw 1080p image in, bytes.
LARGE_BUFFER = 10_000_000
RAISE_BUFFER = 'sudo sysctl -w net.core.rmem_max=2147483647 (for good: a file in /etc/sysctl.d)'


#: Newest of each that something older than it still works with, as pip is told.
CV_BRIDGE_NEEDS = '"numpy<2" "opencv-python-headless<5"'
PYTEST, SETUPTOOLS = '"pytest<8"', '"setuptools<80"'
#: launch_testing that pytest 8 can load the plugins of; Humble's is older.
HEEDS_PYTEST_8 = (3, 0)


@dataclass(frozen=True)
class Finding:
    """
    Something that is not as it should be.

    :param level: MISSING, WARNING or NOTE.
    :param what: one line.
    :param remedy: what exactly to do.
    """

    level: str
    what: str
    remedy: str


def advise(facts: Facts) -> list[Finding]:
    """Judge a machine; the worst first."""
    found = [finding for rule in RULES for finding in rule(facts)]
    return sorted(found, key=lambda each: (MISSING, WARNING, NOTE).index(each.level))


def can_run(findings: list[Finding]) -> bool:
    """Tell whether nothing keeps the node from running."""
    return all(each.level != MISSING for each in findings)


def _python(facts: Facts) -> Iterator[Finding]:
    if _numbers(facts.python) < OLDEST_PYTHON:
        oldest = '.'.join(map(str, OLDEST_PYTHON))
        yield Finding(
            MISSING,
            f'Python {facts.python} is too old',
            f'use Python {oldest} or newer: Ubuntu 22.04 (Humble) and later have it',
        )


def _rclpy(facts: Facts) -> Iterator[Finding]:
    """Judge ROS: not there, not sourced, for another Python, or broken."""
    if 'rclpy' not in facts.modules:
        yield Finding(MISSING, *_no_rclpy(facts))
    elif facts.rclpy_abis and facts.abi not in facts.rclpy_abis:
        built = ', '.join(facts.rclpy_abis)
        yield Finding(
            MISSING,
            f'rclpy was built for {built}, but this is {facts.abi} ({facts.executable})',
            f'make the virtual environment with that Python: {_make_venv(facts)}',
        )
    elif error := _error(facts, 'rclpy'):
        yield Finding(MISSING, f'rclpy does not start: {error}', _start_rclpy(facts, error))
    if 'ros-rclpy' in facts.versions:
        yield Finding(
            NOTE,
            'rclpy is that of PyPI (unofficial wheels), good for tests and demos',
            "on a vehicle use ROS's own packages: docs/vehicle.md",
        )


def _no_rclpy(facts: Facts) -> tuple[str, str]:
    """Return what and remedy for an rclpy that cannot be found."""
    if facts.other_pythons:
        built = ', '.join(facts.other_pythons)
        return (
            f'the sourced ROS is for Python {built}, but this is {facts.python}',
            f'make the virtual environment with that Python: {_make_venv(facts)}',
        )
    if facts.underlays:
        setup = f'/opt/ros/{facts.underlays[-1]}/setup.bash'
        return 'ROS is installed but not sourced', f'. {setup}'
    return (
        'no rclpy: ROS 2 is not installed',
        'install ROS 2 (docs/vehicle.md), or for tests on x86_64: pip install "mono3d_ros[ros]"',
    )


def _start_rclpy(facts: Facts, error: str) -> str:
    """Return the remedy for an rclpy that is found but does not start."""
    wanted = facts.variables.get('RMW_IMPLEMENTATION', '')
    if wanted and wanted not in facts.rmws:
        return f'{_apt(facts, wanted)}, or unset RMW_IMPLEMENTATION'
    if 'ModuleNotFoundError' in error and facts.in_venv and not facts.sees_system:
        return f"the virtual environment hides the system's packages: {_make_venv(facts)}"
    return f'source ROS in this shell first; if it was: {_apt(facts, "rclpy")} --reinstall'


def _packages(facts: Facts) -> Iterator[Finding]:
    """Judge the libraries of Python."""
    for level, wanted in ((MISSING, NEEDED), (NOTE, FOR_TOOLS)):
        absent = [name for name in wanted if name not in facts.modules]
        if absent:
            whom = 'the node' if level == MISSING else 'bag and training tools'
            yield Finding(
                level,
                f'what {whom} cannot do without: {", ".join(absent)}',
                _install(facts, *(wanted[name] for name in absent)),
            )
    for name in ('torch', 'cv2'):
        if name in facts.modules and (error := _error(facts, name)):
            yield Finding(
                MISSING,
                f'{name} does not import: {error}',
                _install(facts, '--force-reinstall', NEEDED[name]),
            )


def _messages(facts: Facts) -> Iterator[Finding]:
    """Judge the packages of ROS, where there is a ROS at all."""
    if 'rclpy' not in facts.modules:
        return
    absent = [name for name in MESSAGES if name not in facts.modules]
    if absent:
        yield Finding(MISSING, f'ROS lacks {", ".join(absent)}', _apt(facts, *absent))
    for name, loss in OPTIONAL.items():
        if name not in facts.modules:
            yield Finding(NOTE, f'without {name}: {loss}', _apt(facts, name))


def _gpu(facts: Facts) -> Iterator[Finding]:
    """Judge torch and the card."""
    trial = facts.trials.get('torch')
    if trial is None or trial.error:
        return
    said = trial.said
    if _numbers(said['version']) < OLDEST_TORCH:
        yield Finding(
            WARNING,
            f'torch {said["version"]} is older than what is tested',
            _install(facts, f'"torch>={".".join(map(str, OLDEST_TORCH))}"'),
        )
    if said['device']:
        return
    if not facts.gpus:
        yield Finding(
            WARNING,
            'no NVIDIA GPU or no driver: the network runs on the CPU, many times slower',
            'with a card: install its driver until nvidia-smi lists it; without: parameter '
            'device: cpu says that it is meant',
        )
    elif not said['cuda']:
        yield Finding(
            WARNING,
            f'torch {said["version"]} is built without CUDA, but there is {facts.gpus[0]}',
            f'{_install(facts, "--force-reinstall torch torchvision")}, from the index that '
            'pytorch.org names for your CUDA',
        )
    else:
        yield Finding(
            WARNING,
            f'torch {said["version"]} cannot use {facts.gpus[0]}: {said["told"] or "no reason"}',
            f'a driver for CUDA {said["cuda"]}, or a torch for the CUDA of your driver; and look '
            'at CUDA_VISIBLE_DEVICES',
        )


def _opencv(facts: Facts) -> Iterator[Finding]:
    """Judge OpenCV: its distributions overwrite one another's files."""
    several = [name for name in OPENCVS if name in facts.versions]
    if len(several) > 1:
        yield Finding(
            WARNING,
            f'{" and ".join(several)} are one package, cv2, installed over one another',
            f'{facts.executable} -m pip uninstall {" ".join(several)}, then '
            f'{_install(facts, "opencv-python-headless")}',
        )


def _cv_bridge(facts: Facts) -> Iterator[Finding]:
    error = _error(facts, 'cv_bridge')
    if error:
        yield Finding(
            NOTE,
            f'cv_bridge does not work: {error}. The node does without it; other nodes in this '
            'environment may not',
            f'{_install(facts, CV_BRIDGE_NEEDS)}, or leave it',
        )


def _transport(facts: Facts) -> Iterator[Finding]:
    """Judge what loses large images on the way: transports and the kernel's buffers."""
    trial = facts.trials.get('rclpy')
    rmw = trial.said.get('rmw', '') if trial else ''
    set_up = {'FASTDDS_BUILTIN_TRANSPORTS', 'FASTDDS_DEFAULT_PROFILES_FILE'}
    set_up |= {'FASTRTPS_DEFAULT_PROFILES_FILE'}
    if 'fastrtps' in rmw and not set_up & set(facts.variables):
        yield Finding(
            WARNING,
            "Fast DDS's default transports lose large images silently",
            'export FASTDDS_BUILTIN_TRANSPORTS=LARGE_DATA for cameras and detector; the launch '
            'files set it for the detector',
        )
    buffer = facts.settings.get('net.core.rmem_max', LARGE_BUFFER)
    if 'cyclonedds' in rmw and buffer < LARGE_BUFFER:
        yield Finding(
            WARNING,
            f'net.core.rmem_max is {buffer} bytes: Cyclone DDS loses large images',
            f'{RAISE_BUFFER}, and SocketReceiveBufferSize min="10MB" by CYCLONEDDS_URI',
        )
    elif 'cyclonedds' in rmw and 'CYCLONEDDS_URI' not in facts.variables:
        yield Finding(
            NOTE,
            'Cyclone DDS asks for small receive buffers by default',
            'SocketReceiveBufferSize min="10MB" by CYCLONEDDS_URI: docs/vehicle.md',
        )


def _students(facts: Facts) -> Iterator[Finding]:
    if not facts.students:
        yield Finding(
            MISSING,
            'the package comes without its student',
            'install it anew; or give a file of your own by parameter model',
        )
    for path, fault in facts.students.items():
        if fault:
            yield Finding(MISSING, f'{path}: {fault}', 'install the package anew')


def _commands(facts: Facts) -> Iterator[Finding]:
    """Judge what `ros2 run` and `ros2 launch` start: their first line names an interpreter."""
    for path, interpreter in facts.commands.items():
        if '/lib/mono3d_ros/' in path and not _same(interpreter, facts.executable):
            yield Finding(
                WARNING,
                f'{path} starts {interpreter or "no interpreter"}, not {facts.executable}',
                'build with this environment active (python -m colcon build), or run the doctor '
                f'with that one: {interpreter} -m mono3d_ros.doctor',
            )


def _for_developers(facts: Facts) -> Iterator[Finding]:
    """Name traps that only tests and builds fall into."""
    plugins = facts.versions.get('launch-testing')
    newest = 8 if plugins and _numbers(plugins) < HEEDS_PYTEST_8 else 9
    if plugins and _numbers(facts.versions.get('pytest', '0')) >= (newest,):
        yield Finding(
            NOTE,
            f'pytest {facts.versions["pytest"]} stops at the plugins of launch_testing {plugins}',
            f'PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 for the tests, or {_install(facts, PYTEST)}',
        )
    if _numbers(facts.versions.get('setuptools', '0')) >= (80,) and 'rclpy' in facts.modules:
        yield Finding(
            NOTE,
            'older colcon cannot build --symlink-install with setuptools 80 and later',
            f'{_install(facts, SETUPTOOLS)}, or build without --symlink-install',
        )


RULES = (
    *(_python, _rclpy, _packages, _messages, _students),
    *(_gpu, _opencv, _transport, _commands, _cv_bridge, _for_developers),
)


def _error(facts: Facts, name: str) -> str:
    """Return what went wrong in a trial; nothing where it was not made."""
    return facts.trials[name].error if name in facts.trials else ''


def _numbers(version: str) -> tuple[int, ...]:
    """Return the first two numbers of a version."""
    parts = version.split('+')[0].split('.')[:2]
    return tuple(int(''.join(filter(str.isdigit, each)) or 0) for each in parts)


def _same(interpreter: str, executable: str) -> bool:
    """Tell whether two interpreters are of one environment: python, python3 and python3.12 are."""
    if interpreter.startswith('/usr/bin/env '):
        return True  # whatever is first on the path
    return interpreter.rpartition('/')[0] == executable.rpartition('/')[0]


def _install(facts: Facts, *packages: str) -> str:
    """Return the command that installs packages of Python, never into the system's own."""
    if facts.in_venv:
        return f'{facts.executable} -m pip install {" ".join(packages)}'
    return f'{_make_venv(facts)} && .venv/bin/pip install {" ".join(packages)}'


def _apt(facts: Facts, *packages: str) -> str:
    """Return the command that installs packages of ROS."""
    if 'ros-rclpy' in facts.versions:
        return "PyPI's ROS has few packages: install ROS's own (docs/vehicle.md)"
    distro = facts.variables.get('ROS_DISTRO', '$ROS_DISTRO')
    names = ' '.join(f'ros-{distro}-{name.replace("_", "-")}' for name in packages)
    return f'sudo apt install {names}'


def _make_venv(facts: Facts) -> str:
    """Return the command that makes an environment which ROS's packages can be seen from."""
    python = f'python{facts.other_pythons[-1]}' if facts.other_pythons else 'python3'
    return f'/usr/bin/{python} -m venv --system-site-packages .venv'
