"""
Command `doctor`: report the dependencies of the node that are missing, and how to fix them.

Needs only Python: ROS, torch and the other packages may be missing. The exit code is 0 if the
node can run, 1 if it cannot.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict

from mono3d_ros.doctor.checks import MISSING, CheckResult, can_run, run_checks
from mono3d_ros.doctor.environment import Environment, collect_environment
from stl_core.cli.command import CommandParser

EXIT_CANNOT_RUN = 1
COLUMN_WIDTH = 10


def format_report(env: Environment, results: Sequence[CheckResult]) -> str:
    """Format the environment and the check results as text."""
    lines = [f'{name:{COLUMN_WIDTH}} {text}' for name, text in summary_lines(env).items()]
    for each in results:
        lines += [
            '',
            f'{each.level:{COLUMN_WIDTH}} {each.what}',
            f'{"":{COLUMN_WIDTH}} -> {each.remedy}',
        ]
    missing = sum(each.level == MISSING for each in results)
    verdict = 'the node can run' if not missing else f'the node cannot run: {missing} missing'
    return '\n'.join([*lines, '', verdict])


def summary_lines(env: Environment) -> dict[str, str]:
    """Return one line of text for each topic: interpreter, ROS, packages, GPU, kernel ..."""
    outputs = {name: probe.said for name, probe in env.trials.items()}
    torch, rclpy, cv2 = (outputs.get(name, {}) for name in ('torch', 'rclpy', 'cv2'))
    versions = env.versions
    return {
        'python': f'{env.python} ({env.machine}), {_describe_python(env)}',
        'ros': f'{_describe_ros(env)}; rclpy for {_join_or_none(env.rclpy_abis)}',
        'rmw': f'{rclpy.get("rmw", "none")}, installed: {_join_or_none(env.rmws)};'
        f' {_format_variables(env.variables)}',
        'packages': _join_or_none(
            _matching_modules(env, '_msgs', 'tf2_ros', 'cv_bridge', 'sensor_msgs_py')
        ),
        'torch': f'{versions.get("torch", "none")}, CUDA {torch.get("cuda") or "none"}; '
        f'timm {versions.get("timm", "none")}',
        'gpu': f'{torch.get("device") or "none for torch"}; driver: {_join_or_none(env.gpus)}',
        'numpy': f'{versions.get("numpy", "none")}; scipy {versions.get("scipy", "none")}; OpenCV '
        f'{cv2.get("version", "none")}',
        'kernel': ', '.join(f'{name} {value}' for name, value in env.settings.items()),
        'commands': _join_or_none(f'{path} ({python})' for path, python in env.commands.items()),
        'models': _join_or_none(env.students),
    }


def _describe_python(env: Environment) -> str:
    """Return the path of the interpreter and whether it is in a virtual environment."""
    if not env.in_venv:
        return env.executable
    verb = 'sees' if env.sees_system else 'does not see'
    return f"{env.executable}, a virtual environment that {verb} the system's packages"


def _describe_ros(env: Environment) -> str:
    if 'ros-rclpy' in env.versions:
        return f'rclpy {env.versions["ros-rclpy"]} from PyPI'
    return (
        env.variables.get('ROS_DISTRO')
        or f'none sourced, /opt/ros: {_join_or_none(env.underlays)}'
    )


def _matching_modules(env: Environment, *parts: str) -> list[str]:
    return sorted(name for name in env.modules if any(part in name for part in parts))


def _format_variables(variables: Mapping[str, str]) -> str:
    """Format environment variables as NAME=VALUE."""
    return ' '.join(f'{name}={value}' for name, value in variables.items()) or 'no variables set'


def _join_or_none(texts: Iterable[str]) -> str:
    return ', '.join(texts) or 'none'


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0 if the node can run, 1 if it cannot."""
    parser = CommandParser('doctor', description=__doc__.split('\n')[1])
    parser.add_argument(
        '--json', action='store_true', help='print environment and results as JSON'
    )
    args = parser.parse_args(argv)
    env = collect_environment()
    results = run_checks(env)
    if args.json:
        report = {
            'can_run': can_run(results),
            'findings': [asdict(each) for each in results],
            'facts': asdict(env),
        }
        print(json.dumps(report, indent=2, default=sorted))
    else:
        print(format_report(env, results))
    return 0 if can_run(results) else EXIT_CANNOT_RUN


if __name__ == '__main__':
    sys.exit(main())
