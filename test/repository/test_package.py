"""Packaging: installed data files, console commands, and package.xml against setup.py."""

import ast
import re
import runpy
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = (
    'docs/vehicle.md',
    'launch/*.launch.py',
    'config/*.yaml',
    'config/train/*.yaml',
    'config/train/*.txt',
    'config/study/*.yaml',
    'rviz/*',
    'foxglove/*',
)


@pytest.fixture(scope='module')
def setup():
    """Return the arguments that setup.py passes to setuptools.setup."""
    import setuptools

    arguments = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        patch.setattr(setuptools, 'setup', lambda **options: arguments.update(options))
        runpy.run_path('setup.py')
    return arguments


@pytest.fixture(scope='module')
def package():
    return ElementTree.parse(ROOT / 'package.xml').getroot()


@pytest.mark.parametrize('pattern', SHIPPED)
def test_data_files_are_installed_into_the_share_folder(setup, pattern):
    folders = {file: folder for folder, files in setup['data_files'] for file in files}
    files = [path.relative_to(ROOT) for path in ROOT.glob(pattern)]
    assert files
    for file in files:
        assert folders.get(str(file)) == f'share/mono3d_ros/{file.parent}'


def test_every_command_is_a_function(setup):
    for command in setup['entry_points']['console_scripts']:
        name, _, target = command.partition(' = ')
        module, _, function = target.partition(':')
        tree = ast.parse((ROOT / f'{module.replace(".", "/")}.py').read_text())
        assert function in {
            node.name for node in tree.body if isinstance(node, ast.FunctionDef)
        }, name


def test_package_xml_matches_setup_py(setup, package):
    for key in ('name', 'version', 'license'):
        assert package.find(key).text == setup[key]
    assert package.find('export/build_type').text == 'ament_python'


def test_package_xml_depends_on_the_ros_packages_of_the_node(package):
    from mono3d_ros.doctor.checks import (
        OPTIONAL_ROS_PACKAGES,
        REQUIRED_ROS_PACKAGES,
        ROS_PACKAGES,
    )

    dependencies = {each.text for each in package.findall('exec_depend')}
    assert {
        'rclpy',
        'launch',
        'launch_ros',
        *REQUIRED_ROS_PACKAGES,
        *OPTIONAL_ROS_PACKAGES,
        *ROS_PACKAGES.values(),
    } <= dependencies


def test_package_xml_depends_on_what_the_launch_files_start(package):
    dependencies = {each.text for each in package.findall('exec_depend')}
    started = set()
    for path in (ROOT / 'launch').iterdir():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.keyword) and node.arg == 'package':
                started |= {getattr(node.value, 'value', 'mono3d_ros')}
    assert {'rviz2', 'tf2_ros'} <= started
    assert {*(started - {'mono3d_ros'}), 'ros2bag', 'rosbag2_storage_mcap'} <= dependencies


def test_package_xml_depends_on_what_the_tests_import(setup, package):
    """rosdep installs it from apt, so that pip brings no other NumPy."""
    names = {each.text for each in package.findall('test_depend')}
    imported = set()
    for path in (ROOT / 'test').rglob('*.py'):
        for node in ast.walk(ast.parse(path.read_text())):
            modules = [node.module or ''] if isinstance(node, ast.ImportFrom) else []
            modules += [each.name for each in node.names] if isinstance(node, ast.Import) else []
            imported |= {each.split('.')[0] for each in modules}
    extras = {re.split('[<>=]', each)[0] for each in setup['extras_require']['test']}
    required = (extras & imported) - {'tensorboard'}  # tests skip without it
    assert {'pytest', 'hypothesis', 'shapely'} <= required
    assert {f'python3-{each}' for each in required} <= names


def test_colcon_finds_pytest(setup):
    """colcon test runs pytest only if the extra `test` lists it."""
    assert any(each.startswith('pytest') for each in setup['extras_require']['test'])
