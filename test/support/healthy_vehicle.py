"""Environment of a vehicle without problems, and changes of it, for the tests of `doctor`."""

from mono3d_ros.doctor.environment import MODULES, Environment
from mono3d_ros.subprocess_probe import ProbeResult

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
