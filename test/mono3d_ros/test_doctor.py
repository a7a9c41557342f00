import ast
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from healthy_vehicle import HEALTHY, probe, without_modules

from mono3d_ros.doctor import __main__
from mono3d_ros.doctor.checks import (
    MISSING,
    NOTE,
    OPTIONAL_ROS_PACKAGES,
    REQUIRED_MODULES,
    REQUIRED_ROS_PACKAGES,
    TOOL_MODULES,
    run_checks,
)
from mono3d_ros.doctor.environment import (
    MODULES,
    collect_environment,
)
from mono3d_ros.subprocess_probe import ProbeResult, run_probe

ROOT = Path(__file__).resolve().parents[2]
#: Packages that come with rosbags, of which doctor asks.
OF_ROSBAGS = {'lz4', 'backports.zstd'}


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
    names = {re.split('[>;]', each.value)[0] for each in listed.elts} - {'setuptools'}
    assert names - OF_ROSBAGS == {*REQUIRED_MODULES.values(), *TOOL_MODULES.values()}


def test_an_incomplete_devkit_of_nuscenes_is_a_note_with_the_command():
    assert not [each for each in run_checks(HEALTHY) if 'nuscenes' in each.what]
    assert not [
        each
        for each in run_checks(replace(HEALTHY, **without_modules('nuscenes', 'sklearn')))
        if 'nuscenes' in each.what
    ]
    (note,) = [
        each
        for each in run_checks(replace(HEALTHY, **without_modules('sklearn', 'pyquaternion')))
        if 'nuscenes' in each.what
    ]
    assert note.level == NOTE
    assert 'lacks pyquaternion, scikit-learn: it cannot judge' in note.what
    assert note.remedy.endswith('-m pip install pyquaternion scikit-learn')


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


def test_a_cause_hides_the_trial_of_the_node():
    changes = {**without_modules('timm'), **probe('node', error='No module named timm')}
    (result,) = run_checks(replace(HEALTHY, **changes))
    assert result.what.startswith('missing Python packages of the node: timm')


def test_doctor_fails_if_an_import_of_the_node_fails(tmp_path):
    """As SciPy of the system does under NumPy 2; no other trial imports it."""
    pytest.importorskip('rclpy', reason='without ROS the node cannot run anyway')
    (tmp_path / 'scipy').mkdir()
    text = "cannot import name 'Inf' from 'numpy'"
    (tmp_path / 'scipy' / '__init__.py').write_text(f'raise ImportError({text!r})')
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    done = subprocess.run(
        [sys.executable, '-m', 'mono3d_ros.doctor'],
        cwd=tmp_path,
        env={**os.environ, 'PYTHONPATH': path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1, done.stdout
    assert f'the node does not start: ImportError: {text}' in done.stdout


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
