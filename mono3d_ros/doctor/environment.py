"""
Collect the environment of the node: interpreter, ROS, packages, GPU, kernel settings, models.

Collects facts only; checks.py judges them. Packages are located, not imported, so that a broken
one cannot crash `doctor`. Whatever only an import can show runs in a separate process. Needs only
Python.
"""

from __future__ import annotations

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

from mono3d_ros.subprocess_probe import NODE_PROBE, PROBES, ProbeResult, run_probe
from stl_core.inference.runtimes import RUNTIMES

#: Modules to look for, by import name.
MODULES = (
    *('torch', 'torchvision', 'timm', 'safetensors', 'numpy', 'scipy', 'cv2', 'yaml'),
    *('rosbags', 'rich', 'matplotlib'),
    *('nuscenes', 'pyquaternion', 'cachetools', 'sklearn', 'tqdm', 'PIL'),
    *('rclpy', 'ament_index_python', 'launch_ros', 'cv_bridge', 'sensor_msgs_py'),
    *('builtin_interfaces', 'diagnostic_msgs', 'geometry_msgs', 'lifecycle_msgs'),
    *('rcl_interfaces', 'sensor_msgs', 'std_msgs', 'std_srvs', 'visualization_msgs'),
    *('tf2_msgs', 'tf2_ros', 'vision_msgs', 'autoware_perception_msgs'),
)
#: Distributions to look for, by pip name.
DISTRIBUTIONS = (
    *('torch', 'torchvision', 'timm', 'safetensors', 'numpy', 'scipy', 'rosbags', 'rich'),
    *('opencv-python', 'opencv-python-headless', 'opencv-contrib-python'),
    *('opencv-contrib-python-headless', 'matplotlib', 'setuptools', 'pytest', 'mono3d_ros'),
    *('ros-rclpy', 'launch-testing', 'nuscenes-devkit'),
)
#: Environment variables to read.
VARIABLES = (
    *('ROS_DISTRO', 'ROS_DOMAIN_ID', 'ROS_LOCALHOST_ONLY', 'ROS_AUTOMATIC_DISCOVERY_RANGE'),
    *('RMW_IMPLEMENTATION', 'FASTDDS_BUILTIN_TRANSPORTS', 'FASTDDS_DEFAULT_PROFILES_FILE'),
    *('FASTRTPS_DEFAULT_PROFILES_FILE', 'CYCLONEDDS_URI', 'CUDA_VISIBLE_DEVICES'),
)
#: Kernel settings to read, below /proc/sys.
KERNEL_SETTINGS = ('net/core/rmem_max', 'net/ipv4/ipfrag_high_thresh', 'net/ipv4/ipfrag_time')


@dataclass(frozen=True)
class Environment:
    """
    Facts about this machine.

    :param python: version of this interpreter.
    :param executable: path of this interpreter.
    :param abi: ABI tag of its extension modules, such as cpython-312.
    :param in_venv: whether it belongs to a virtual environment.
    :param sees_system: whether it can import the packages of the system's Python.
    :param machine: processor architecture.
    :param variables: those of VARIABLES that are set.
    :param underlays: names of the ROS distributions below /opt/ros.
    :param modules: those of MODULES that are installed.
    :param versions: those of DISTRIBUTIONS that are installed -> version.
    :param rclpy_abis: ABI tags of the interpreters that rclpy was built for.
    :param other_pythons: versions of other interpreters that the sourced ROS was built for.
    :param rmws: the RMW implementations that are installed.
    :param gpus: name and driver version of each GPU, from nvidia-smi.
    :param settings: those of KERNEL_SETTINGS that the kernel has, with dots in their names.
    :param students: path of each model file in the package -> its fault; '' if it is complete.
    :param commands: path of each installed command `detector` -> the interpreter that it starts.
    :param trials: name of each probe that ran -> its result.
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
    """Collect the facts about this machine; takes as long as the import of torch."""
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
        trials=_run_probes(modules),
    )


def _run_probes(modules: frozenset[str]) -> dict[str, ProbeResult]:
    """Return the results of the probes whose modules are installed; the node's is the last."""
    results = {name: run_probe(code) for name, code in PROBES.items() if name in modules}
    needed = [results.get(name) for name in ('rclpy', 'torch', 'cv2')]
    if all(each is not None and not each.error for each in needed):
        results[NODE_PROBE] = run_probe(PROBES[NODE_PROBE])
    return results


def check_model_files(folder: Path) -> dict[str, str]:
    """Return each model file in a folder -> its fault (truncated, Git LFS pointer), or ''."""
    return {
        str(file): RUNTIMES[file.suffix].file_fault(file)
        for file in sorted(folder.glob('*'))  # none if there is no folder
        if file.suffix in RUNTIMES
    }


def read_command_interpreters(prefixes: Iterable[Path]) -> dict[str, str]:
    """Return each installed command `detector` -> the interpreter named in its first line."""
    interpreters = {}
    for prefix in prefixes:
        for name in ('lib/mono3d_ros/detector', 'bin/detector'):
            path = prefix / name
            try:
                line = path.read_text().splitlines()[0]
            except (OSError, UnicodeDecodeError, IndexError):
                continue
            interpreters[str(path)] = line[2:].strip() if line.startswith('#!') else ''
    return interpreters


def _module_folder(module: str) -> Path | None:
    """Return the folder of a package, or the file of a module; None if it is not installed."""
    try:
        spec = util.find_spec(module)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    locations = list(spec.submodule_search_locations or [spec.origin or ''])
    return Path(locations[0])


def _distribution_versions() -> dict[str, str]:
    versions = {}
    for name in DISTRIBUTIONS:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _has_system_packages() -> bool:
    """Return whether the system's packages are visible: no venv, or --system-site-packages."""
    try:
        text = (Path(sys.prefix) / 'pyvenv.cfg').read_text()
    except OSError:
        return True
    return re.search(r'include-system-site-packages\s*=\s*true', text, re.IGNORECASE) is not None


def _find_rclpy_abis(folder: Path | None) -> tuple[str, ...]:
    """Return the ABI tags that the extension modules of rclpy were built for."""
    files = folder.glob('_rclpy_pybind11.*.so') if folder is not None else ()
    return tuple(sorted({'-'.join(each.name.split('.')[1].split('-')[:2]) for each in files}))


def _find_other_pythons(prefixes: Iterable[Path]) -> tuple[str, ...]:
    """Return the versions of other Pythons that have rclpy in a sourced workspace."""
    this_version = '{}.{}'.format(*sys.version_info[:2])
    versions = {
        each.parents[1].name[len('python') :]
        for prefix in prefixes
        for packages in ('site-packages', 'dist-packages')
        for each in prefix.glob(f'l*/python3*/{packages}/rclpy')
    }
    return tuple(sorted(versions - {this_version, '3'}))


def _find_rmws(prefixes: Iterable[Path]) -> tuple[str, ...]:
    """Return the RMW implementations in the ament index of installed packages."""
    index = 'share/ament_index/resource_index/rmw_typesupport'
    names = {each.name for prefix in prefixes for each in prefix.glob(f'{index}/*')}
    return tuple(sorted(names - {'rmw_implementation'}))


def _list_gpus() -> tuple[str, ...]:
    """Return each GPU as nvidia-smi lists it; older releases on Jetson lack that command."""
    query = ['nvidia-smi', '--query-gpu=name,driver_version', '--format=csv,noheader']
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return ()
    return tuple(done.stdout.strip().splitlines()) if done.returncode == 0 else ()


def _kernel_settings() -> dict[str, int]:
    settings = {}
    for name in KERNEL_SETTINGS:
        try:
            settings[name.replace('/', '.')] = int(Path('/proc/sys', name).read_text())
        except (OSError, ValueError):
            continue
    return settings
