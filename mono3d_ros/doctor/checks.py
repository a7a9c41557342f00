"""
Checks of `doctor`: problems of the environment and their remedies.

Pure functions that need only Python, since `doctor` must run where everything else fails.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import MappingProxyType

from mono3d_ros.doctor.check_result import MISSING, NOTE, WARNING, CheckResult
from mono3d_ros.doctor.environment import Environment
from mono3d_ros.doctor.nuscenes_checks import check_nuscenes
from mono3d_ros.doctor.transport_checks import check_transport
from mono3d_ros.subprocess_probe import NODE_PROBE

MIN_PYTHON, MIN_TORCH = (3, 10), (2, 4)
#: Modules that the node imports -> their pip name.
REQUIRED_MODULES = MappingProxyType(
    {
        **{name: name for name in ('torch', 'torchvision', 'timm', 'safetensors', 'numpy')},
        'scipy': 'scipy',
        'cv2': 'opencv-python-headless',
        'yaml': 'pyyaml',
    }
)
#: Further modules that the bag and training tools import -> their pip name.
TOOL_MODULES = MappingProxyType({name: name for name in ('rosbags', 'rich', 'matplotlib')})
#: ROS packages that the node imports.
REQUIRED_ROS_PACKAGES = (
    *('ament_index_python', 'builtin_interfaces', 'diagnostic_msgs', 'geometry_msgs'),
    *('rcl_interfaces', 'sensor_msgs', 'std_msgs', 'std_srvs', 'visualization_msgs'),
)
#: Optional ROS packages -> the feature that is missing without them.
OPTIONAL_ROS_PACKAGES = MappingProxyType(
    {
        'vision_msgs': 'no ~/detections (vision_msgs/Detection3DArray)',
        'tf2_msgs': 'no tf, so no target_frame, vehicle_frame or fixed_frame',
        'tf2_ros': 'the node subscribes to tf itself',
    }
)
#: Module -> its ROS package, where the names differ.
ROS_PACKAGES = MappingProxyType({'tf2_ros': 'tf2_ros_py'})
OPENCV_DISTRIBUTIONS = tuple(
    f'opencv-{kind}python{tail}' for kind in ('', 'contrib-') for tail in ('', '-headless')
)
#: Newest versions that older cv_bridge, launch_testing and colcon work with, for pip.
NUMPY_1_REQUIREMENT = '"numpy<2"'
CV_BRIDGE_REQUIREMENTS = f'{NUMPY_1_REQUIREMENT} "opencv-python-headless<5"'
PYTEST_REQUIREMENT, SETUPTOOLS_REQUIREMENT = '"pytest<8"', '"setuptools<80"'
#: Oldest launch_testing whose plugins pytest 8 can load; Humble's is older.
PYTEST_8_LAUNCH_TESTING = (3, 0)


def run_checks(env: Environment) -> list[CheckResult]:
    """Run all checks and return the problems, worst first."""
    results = [result for check in CHECKS for result in check(env)]
    if can_run(results):  # otherwise the other results are the cause
        results += _check_node(env)
    return sorted(results, key=lambda each: (MISSING, WARNING, NOTE).index(each.level))


def can_run(results: list[CheckResult]) -> bool:
    """Return whether no result prevents the node from running."""
    return all(each.level != MISSING for each in results)


def _check_python(env: Environment) -> Iterator[CheckResult]:
    if _major_minor(env.python) < MIN_PYTHON:
        oldest = '.'.join(map(str, MIN_PYTHON))
        yield CheckResult(
            MISSING,
            f'Python {env.python} is too old',
            f'use Python {oldest} or newer: Ubuntu 22.04 (Humble) and later have it',
        )


def _check_rclpy(env: Environment) -> Iterator[CheckResult]:
    """Check that ROS is installed, sourced, built for this Python and not broken."""
    if 'rclpy' not in env.modules:
        yield CheckResult(MISSING, *_missing_rclpy(env))
    elif env.rclpy_abis and env.abi not in env.rclpy_abis:
        built = ', '.join(env.rclpy_abis)
        yield CheckResult(
            MISSING,
            f'rclpy was built for {built}, but this is {env.abi} ({env.executable})',
            f'make the virtual environment with that Python: {_venv_command(env)}',
        )
    elif error := _probe_error(env, 'rclpy'):
        yield CheckResult(MISSING, f'rclpy does not start: {error}', _rclpy_remedy(env, error))
    if 'ros-rclpy' in env.versions:
        yield CheckResult(
            NOTE,
            'rclpy is from PyPI (unofficial wheels), suitable for tests and demos',
            "on a vehicle use ROS's own packages: docs/vehicle.md",
        )


def _missing_rclpy(env: Environment) -> tuple[str, str]:
    """Return description and remedy if rclpy is not found."""
    if env.other_pythons:
        built = ', '.join(env.other_pythons)
        return (
            f'the sourced ROS is for Python {built}, but this is {env.python}',
            f'make the virtual environment with that Python: {_venv_command(env)}',
        )
    if env.underlays:
        setup = f'/opt/ros/{env.underlays[-1]}/setup.bash'
        return 'ROS is installed but not sourced', f'. {setup}'
    return (
        'no rclpy: ROS 2 is not installed',
        'install ROS 2 (docs/vehicle.md), or for tests on x86_64: pip install "mono3d_ros[ros]"',
    )


def _rclpy_remedy(env: Environment, error: str) -> str:
    """Return the remedy if rclpy is found but does not start."""
    rmw = env.variables.get('RMW_IMPLEMENTATION', '')
    if rmw and rmw not in env.rmws:
        return f'{_apt_command(env, rmw)}, or unset RMW_IMPLEMENTATION'
    if 'ModuleNotFoundError' in error and env.in_venv and not env.sees_system:
        return f"the virtual environment hides the system's packages: {_venv_command(env)}"
    return f'source ROS in this shell first; if it was: {_apt_command(env, "rclpy")} --reinstall'


def _check_packages(env: Environment) -> Iterator[CheckResult]:
    """Check the Python packages of the node and of the tools."""
    for level, required in ((MISSING, REQUIRED_MODULES), (NOTE, TOOL_MODULES)):
        absent = [name for name in required if name not in env.modules]
        if absent:
            user = 'the node' if level == MISSING else 'bag and training tools'
            yield CheckResult(
                level,
                f'missing Python packages of {user}: {", ".join(absent)}',
                _pip_command(env, *(required[name] for name in absent)),
            )
    for name in ('torch', 'cv2'):
        if name in env.modules and (error := _probe_error(env, name)):
            yield CheckResult(
                MISSING,
                f'{name} does not import: {error}',
                _pip_command(env, '--force-reinstall', REQUIRED_MODULES[name]),
            )


def _check_ros_packages(env: Environment) -> Iterator[CheckResult]:
    """Check the ROS packages, if there is a ROS."""
    if 'rclpy' not in env.modules:
        return
    absent = [name for name in REQUIRED_ROS_PACKAGES if name not in env.modules]
    if absent:
        yield CheckResult(MISSING, f'ROS lacks {", ".join(absent)}', _apt_command(env, *absent))
    for name, effect in OPTIONAL_ROS_PACKAGES.items():
        if name not in env.modules:
            yield CheckResult(NOTE, f'without {name}: {effect}', _apt_command(env, name))


def _check_gpu(env: Environment) -> Iterator[CheckResult]:
    """Check torch and the GPU."""
    probe = env.trials.get('torch')
    if probe is None or probe.error:
        return
    torch = probe.said
    if _major_minor(torch['version']) < MIN_TORCH:
        yield CheckResult(
            WARNING,
            f'torch {torch["version"]} is older than the oldest tested version',
            _pip_command(env, f'"torch>={".".join(map(str, MIN_TORCH))}"'),
        )
    if torch['device']:
        return
    if not env.gpus:
        yield CheckResult(
            WARNING,
            'no NVIDIA GPU or no driver: the network runs on the CPU, many times slower',
            'with a GPU: install its driver, until nvidia-smi lists the GPU; without: set '
            'parameter device: cpu, and the node does not warn',
        )
    elif not torch['cuda']:
        yield CheckResult(
            WARNING,
            f'torch {torch["version"]} is built without CUDA, but there is {env.gpus[0]}',
            f'{_pip_command(env, "--force-reinstall torch torchvision")}, from the index that '
            'pytorch.org names for your CUDA',
        )
    else:
        yield CheckResult(
            WARNING,
            f'torch {torch["version"]} cannot use {env.gpus[0]}: {torch["told"] or "no reason"}',
            f'install a driver for CUDA {torch["cuda"]}, or a torch for the CUDA of your driver; '
            'check CUDA_VISIBLE_DEVICES',
        )


def _check_opencv(env: Environment) -> Iterator[CheckResult]:
    """Check for several OpenCV distributions, which overwrite each other's files."""
    several = [name for name in OPENCV_DISTRIBUTIONS if name in env.versions]
    if len(several) > 1:
        yield CheckResult(
            WARNING,
            f'{" and ".join(several)} overwrite each other: all of them install cv2',
            f'{env.executable} -m pip uninstall {" ".join(several)}, then '
            f'{_pip_command(env, "opencv-python-headless")}',
        )


def _check_cv_bridge(env: Environment) -> Iterator[CheckResult]:
    error = _probe_error(env, 'cv_bridge')
    if error:
        yield CheckResult(
            NOTE,
            f'cv_bridge does not work: {error}. The node works without it; other nodes in this '
            'environment may need it',
            f'{_pip_command(env, CV_BRIDGE_REQUIREMENTS)}, or ignore this',
        )


def _check_node(env: Environment) -> Iterator[CheckResult]:
    """Check the trial of the node: all of its imports, and the network once."""
    error = _probe_error(env, NODE_PROBE)
    if not error:
        return
    numpy = env.versions.get('numpy', '')
    if 'numpy' in error.lower() and _major_minor(numpy) >= (2,):
        remedy = (
            f'{_pip_command(env, NUMPY_1_REQUIREMENT)}: NumPy {numpy} hides that of the system'
        )
    else:
        remedy = f'the whole error: {env.executable} -c "import mono3d_ros.node.detector_node"'
    yield CheckResult(MISSING, f'the node does not start: {error}', remedy)


def _check_model_files(env: Environment) -> Iterator[CheckResult]:
    if not env.students:
        yield CheckResult(
            MISSING,
            'the package contains no model file',
            'reinstall the package, or set parameter model to a file of your own',
        )
    for path, fault in env.students.items():
        if fault:
            yield CheckResult(MISSING, f'{path}: {fault}', 'reinstall the package')


def _check_commands(env: Environment) -> Iterator[CheckResult]:
    """Check the interpreter of the commands that `ros2 run` and `ros2 launch` start."""
    for path, interpreter in env.commands.items():
        if '/lib/mono3d_ros/' in path and not _is_same_environment(interpreter, env.executable):
            yield CheckResult(
                WARNING,
                f'{path} starts {interpreter or "no interpreter"}, not {env.executable}',
                'build with this environment active (python -m colcon build), or run the doctor '
                f'with that one: {interpreter} -m mono3d_ros.doctor',
            )


def _check_developer_tools(env: Environment) -> Iterator[CheckResult]:
    """Check for known problems of tests and builds."""
    plugins = env.versions.get('launch-testing')
    newest = 8 if plugins and _major_minor(plugins) < PYTEST_8_LAUNCH_TESTING else 9
    if plugins and _major_minor(env.versions.get('pytest', '0')) >= (newest,):
        yield CheckResult(
            NOTE,
            f'pytest {env.versions["pytest"]} cannot load the plugins of launch_testing {plugins}',
            'PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 for the tests, or '
            f'{_pip_command(env, PYTEST_REQUIREMENT)}',
        )
    if _major_minor(env.versions.get('setuptools', '0')) >= (80,) and 'rclpy' in env.modules:
        yield CheckResult(
            NOTE,
            'older colcon cannot build --symlink-install with setuptools 80 and later',
            f'{_pip_command(env, SETUPTOOLS_REQUIREMENT)}, or build without --symlink-install',
        )


CHECKS = (
    *(_check_python, _check_rclpy, _check_packages, _check_ros_packages, _check_model_files),
    *(
        _check_gpu,
        _check_opencv,
        check_transport,
        _check_commands,
        _check_cv_bridge,
        _check_developer_tools,
        check_nuscenes,
    ),
)


def _probe_error(env: Environment, name: str) -> str:
    """Return the error of a probe; '' if it succeeded or did not run."""
    return env.trials[name].error if name in env.trials else ''


def _major_minor(version: str) -> tuple[int, ...]:
    """Return the first two numbers of a version."""
    parts = version.split('+')[0].split('.')[:2]
    return tuple(int(''.join(filter(str.isdigit, each)) or 0) for each in parts)


def _is_same_environment(interpreter: str, executable: str) -> bool:
    """Return whether two interpreters are in the same folder, as python and python3.12 are."""
    if interpreter.startswith('/usr/bin/env '):
        return True  # the first one on the PATH, which may be this one
    return interpreter.rpartition('/')[0] == executable.rpartition('/')[0]


def _pip_command(env: Environment, *packages: str) -> str:
    """Return the command that installs Python packages, always in a virtual environment."""
    if env.in_venv:
        return f'{env.executable} -m pip install {" ".join(packages)}'
    return f'{_venv_command(env)} && .venv/bin/pip install {" ".join(packages)}'


def _apt_command(env: Environment, *packages: str) -> str:
    """Return the command that installs ROS packages, or advice if ROS is from PyPI."""
    if 'ros-rclpy' in env.versions:
        return "PyPI's ROS has few packages: install ROS's own (docs/vehicle.md)"
    distro = env.variables.get('ROS_DISTRO', '$ROS_DISTRO')
    packages = tuple(ROS_PACKAGES.get(name, name) for name in packages)
    names = ' '.join(f'ros-{distro}-{name.replace("_", "-")}' for name in packages)
    return f'sudo apt install {names}'


def _venv_command(env: Environment) -> str:
    """Return the command that creates a virtual environment that can import ROS packages."""
    python = f'python{env.other_pythons[-1]}' if env.other_pythons else 'python3'
    return f'/usr/bin/{python} -m venv --system-site-packages .venv'
