"""
The command doctor: what is installed, what is missing for the node, and what to do about it.

Runs wherever Python does, with or without ROS, torch or the rest; exit code 0 when the node can
run, 1 when it cannot.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict

from mono3d_ros.doctor.checks import MISSING, Finding, advise, can_run
from mono3d_ros.doctor.environment import Facts, gather

EXIT_CANNOT_RUN = 1
WIDTH = 10


def tell(facts: Facts, findings: Sequence[Finding]) -> str:
    """Write down facts and findings for a person."""
    lines = [f'{name:{WIDTH}} {text}' for name, text in summary(facts).items()]
    for each in findings:
        lines += ['', f'{each.level:{WIDTH}} {each.what}', f'{"":{WIDTH}} -> {each.remedy}']
    missing = sum(each.level == MISSING for each in findings)
    verdict = 'the node can run' if not missing else f'the node cannot run: {missing} missing'
    return '\n'.join([*lines, '', verdict])


def summary(facts: Facts) -> dict[str, str]:
    """Say in a line each what there is."""
    said = {name: trial.said for name, trial in facts.trials.items()}
    torch, rclpy, cv2 = (said.get(name, {}) for name in ('torch', 'rclpy', 'cv2'))
    versions = facts.versions
    return {
        'python': f'{facts.python} ({facts.machine}), {_where(facts)}',
        'ros': f'{_distro(facts)}; rclpy for {_listed(facts.rclpy_abis)}',
        'rmw': f'{rclpy.get("rmw", "none")} of {_listed(facts.rmws)}; {_set(facts.variables)}',
        'packages': _listed(_found(facts, '_msgs', 'tf2_ros', 'cv_bridge', 'sensor_msgs_py')),
        'torch': f'{versions.get("torch", "none")}, CUDA {torch.get("cuda") or "none"}; '
        f'timm {versions.get("timm", "none")}',
        'gpu': f'{torch.get("device") or "torch can use none"}; driver: {_listed(facts.gpus)}',
        'numpy': f'{versions.get("numpy", "none")}; scipy {versions.get("scipy", "none")}; OpenCV '
        f'{cv2.get("version", "none")}',
        'kernel': ', '.join(f'{name} {value}' for name, value in facts.settings.items()),
        'commands': _listed(f'{path} ({python})' for path, python in facts.commands.items()),
        'students': _listed(facts.students),
    }


def _where(facts: Facts) -> str:
    """Say which interpreter this is."""
    if not facts.in_venv:
        return facts.executable
    seen = 'sees' if facts.sees_system else 'does not see'
    return f"{facts.executable}, a virtual environment that {seen} the system's packages"


def _distro(facts: Facts) -> str:
    if 'ros-rclpy' in facts.versions:
        return f'rclpy {facts.versions["ros-rclpy"]} from PyPI'
    return (
        facts.variables.get('ROS_DISTRO') or f'none sourced, /opt/ros: {_listed(facts.underlays)}'
    )


def _found(facts: Facts, *parts: str) -> list[str]:
    return sorted(name for name in facts.modules if any(part in name for part in parts))


def _set(variables: Mapping[str, str]) -> str:
    """Say which variables are set."""
    return ' '.join(f'{name}={value}' for name, value in variables.items()) or 'no variables set'


def _listed(texts: Iterable[str]) -> str:
    return ', '.join(texts) or 'none'


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser('doctor', description=__doc__.split('\n')[1])
    parser.add_argument('--json', action='store_true', help='print facts and findings as JSON')
    args = parser.parse_args(argv)
    facts = gather()
    findings = advise(facts)
    if args.json:
        told = {
            'can_run': can_run(findings),
            'findings': [asdict(each) for each in findings],
            'facts': asdict(facts),
        }
        print(json.dumps(told, indent=2, default=sorted))
    else:
        print(tell(facts, findings))
    return 0 if can_run(findings) else EXIT_CANNOT_RUN


if __name__ == '__main__':
    sys.exit(main())
