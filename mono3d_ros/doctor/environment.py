"""
What is installed on this machine, gathered in one place for doctor.py; nothing is judged here.

Packages are looked up, not imported: a broken one must not take the doctor with it. What can only
be known by trying is tried in a process of its own. Needs nothing but Python.
"""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path

from mono3d_ros.subprocess_probe import PROBES, ProbeResult, run_probe

#: What is looked up: modules by the name they are imported under, ...
MODULES = (
    *('torch', 'torchvision', 'timm', 'safetensors', 'numpy', 'scipy', 'cv2', 'yaml'),
    *('rosbags', 'rich', 'matplotlib'),
    *('rclpy', 'ament_index_python', 'launch_ros', 'cv_bridge', 'sensor_msgs_py'),
    *('builtin_interfaces', 'diagnostic_msgs', 'geometry_msgs', 'lifecycle_msgs'),
    *('rcl_interfaces', 'sensor_msgs', 'std_msgs', 'std_srvs', 'visualization_msgs'),
    *('tf2_msgs', 'tf2_ros', 'vision_msgs', 'autoware_perception_msgs'),
)
#: ... distributions as pip calls them, ...
DISTRIBUTIONS = (
    *('torch', 'torchvision', 'timm', 'safetensors', 'numpy', 'scipy', 'rosbags', 'rich'),
    *('opencv-python', 'opencv-python-headless', 'opencv-contrib-python'),
    *('opencv-contrib-python-headless', 'matplotlib', 'setuptools', 'pytest', 'mono3d_ros'),
    *('ros-rclpy', 'launch-testing'),
)
#: ... variables of the environment, ...
VARIABLES = (
    *('ROS_DISTRO', 'ROS_DOMAIN_ID', 'ROS_LOCALHOST_ONLY', 'ROS_AUTOMATIC_DISCOVERY_RANGE'),
    *('RMW_IMPLEMENTATION', 'FASTDDS_BUILTIN_TRANSPORTS', 'FASTDDS_DEFAULT_PROFILES_FILE'),
    *('FASTRTPS_DEFAULT_PROFILES_FILE', 'CYCLONEDDS_URI', 'CUDA_VISIBLE_DEVICES'),
)
#: ... and settings of the kernel, below /proc/sys.
KERNEL_SETTINGS = ('net/core/rmem_max', 'net/ipv4/ipfrag_high_thresh', 'net/ipv4/ipfrag_time')


@dataclass(frozen=True)
class Environment:
    """
    What was found.

    :param python: version of this interpreter.
    :param executable: its path.
    :param abi: what its extension modules are called after, such as cpython-312.
    :param in_venv: whether it is that of a virtual environment.
    :param sees_system: whether it sees the packages of the system's Python.
    :param machine: kind of processor.
    :param variables: of VARIABLES those that are set.
    :param underlays: names of the ROS distributions below /opt/ros.
    :param modules: of MODULES those that can be found.
    :param versions: of DISTRIBUTIONS those that are installed, with their version.
    :param rclpy_abis: the interpreters that rclpy was built for.
    :param other_pythons: versions of other interpreters that the sourced ROS was built for.
    :param rmws: the RMW implementations that are installed.
    :param gpus: name and driver of each GPU, as nvidia-smi tells them.
    :param settings: of SETTINGS those that the kernel has.
    :param students: file of each student that comes with the package -> what is wrong with it.
    :param commands: each installed command `detector` -> the interpreter that it starts.
    :param trials: name of each trial that was made -> what came of it.
    """

    python: str
    executable: str
    abi: str
    in_venv: bool
    sees_system: bool
    machine: str
    variables: Mapping[str, str]
    underlays: tuple[str, ...]
    modules: frozenset[str]
    versions: Mapping[str, str]
    rclpy_abis: tuple[str, ...]
    other_pythons: tuple[str, ...]
    rmws: tuple[str, ...]
    gpus: tuple[str, ...]
    settings: Mapping[str, int]
    students: Mapping[str, str]
    commands: Mapping[str, str]
    trials: Mapping[str, ProbeResult]


def collect_environment() -> Environment:
    """Look around; takes as long as torch needs to be imported."""
    modules = frozenset(name for name in MODULES if _module_folder(name) is not None)
    prefixes = [Path(each) for each in os.environ.get('AMENT_PREFIX_PATH', '').split(os.pathsep)]
    prefixes = [each for each in prefixes if each.is_dir()]
    return Environment(
        python=platform.python_version(),
        executable=sys.executable,
        abi='-'.join((sysconfig.get_config_var('SOABI') or '').split('-')[:2]),
        in_venv=sys.prefix != sys.base_prefix,
        sees_system=_has_system_packages(),
        machine=platform.machine(),
        variables={name: os.environ[name] for name in VARIABLES if name in os.environ},
        underlays=tuple(sorted(each.parent.name for each in Path('/opt/ros').glob('*/setup.sh'))),
        modules=modules,
        versions=_distribution_versions(),
        rclpy_abis=_find_rclpy_abis(_module_folder('rclpy')),
        other_pythons=_find_other_pythons(prefixes),
        rmws=_find_rmws([*prefixes, Path(sys.prefix)]),
        gpus=_list_gpus(),
        settings=_kernel_settings(),
        students=check_model_files(Path(__file__).parents[1] / 'models'),
        commands=read_command_interpreters([*prefixes, Path(sys.prefix)]),
        trials={name: run_probe(code) for name, code in PROBES.items() if name in modules},
    )


def check_model_files(folder: Path) -> dict[str, str]:
    """Look at the students of the package: a file that was cut, or a pointer to one, is told."""
    return {str(file): _model_file_fault(file) for file in sorted(folder.glob('*.safetensors'))}


def read_command_interpreters(prefixes: Iterable[Path]) -> dict[str, str]:
    """Return which interpreter each installed `detector` starts, by its first line."""
    found = {}
    for prefix in prefixes:
        for place in ('lib/mono3d_ros/detector', 'bin/detector'):
            try:
                line = (prefix / place).read_text().splitlines()[0]
            except (OSError, UnicodeDecodeError, IndexError):
                continue
            found[str(prefix / place)] = line[2:].strip() if line.startswith('#!') else ''
    return found


def _module_folder(module: str) -> Path | None:
    """Return where a module lies; None where it cannot be found."""
    try:
        spec = util.find_spec(module)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    places = list(spec.submodule_search_locations or [spec.origin or ''])
    return Path(places[0])


def _distribution_versions() -> dict[str, str]:
    found = {}
    for name in DISTRIBUTIONS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _has_system_packages() -> bool:
    """Tell whether a virtual environment was made with --system-site-packages."""
    try:
        text = (Path(sys.prefix) / 'pyvenv.cfg').read_text()
    except OSError:
        return True
    return re.search(r'include-system-site-packages\s*=\s*true', text, re.IGNORECASE) is not None


def _find_rclpy_abis(folder: Path | None) -> tuple[str, ...]:
    """Return what interpreters the extension of rclpy was built for."""
    found = folder.glob('_rclpy_pybind11.*.so') if folder is not None else ()
    return tuple(sorted({'-'.join(each.name.split('.')[1].split('-')[:2]) for each in found}))


def _find_other_pythons(prefixes: Iterable[Path]) -> tuple[str, ...]:
    """Return the versions of Python, other than ours, that have rclpy in a sourced workspace."""
    ours = '{}.{}'.format(*sys.version_info[:2])
    found = {
        each.parents[1].name[len('python') :]
        for prefix in prefixes
        for packages in ('site-packages', 'dist-packages')
        for each in prefix.glob(f'l*/python3*/{packages}/rclpy')
    }
    return tuple(sorted(found - {ours, '3'}))


def _find_rmws(prefixes: Iterable[Path]) -> tuple[str, ...]:
    """Return the RMW implementations that the index of installed packages lists."""
    index = 'share/ament_index/resource_index/rmw_typesupport'
    names = {each.name for prefix in prefixes for each in prefix.glob(f'{index}/*')}
    return tuple(sorted(names - {'rmw_implementation'}))


def _list_gpus() -> tuple[str, ...]:
    """Ask the driver for its GPUs; Jetsons have no such command in older releases."""
    query = ['nvidia-smi', '--query-gpu=name,driver_version', '--format=csv,noheader']
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return ()
    return tuple(done.stdout.strip().splitlines()) if done.returncode == 0 else ()


def _kernel_settings() -> dict[str, int]:
    found = {}
    for name in KERNEL_SETTINGS:
        try:
            found[name.replace('/', '.')] = int(Path('/proc/sys', name).read_text())
        except (OSError, ValueError):
            continue
    return found


def _model_file_fault(path: Path) -> str:
    """Say what is wrong with a file; its first eight bytes count the header that follows."""
    try:
        size = path.stat().st_size
        with path.open('rb') as file:
            length = int.from_bytes(file.read(8), 'little')
            header = json.loads(file.read(min(length, size)))
        ends = [each['data_offsets'][1] for name, each in header.items() if name != '__metadata__']
        missing = 8 + length + max(ends, default=0) - size
    except OSError as err:
        return f'not readable: {err}'
    except (ValueError, TypeError, AttributeError, LookupError):
        return f'not a student file ({size} bytes)'
    return f'cut: {missing} bytes are missing' if missing > 0 else ''
