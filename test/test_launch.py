import ast
from pathlib import Path

import pytest

LAUNCH = Path(__file__).resolve().parents[1] / 'launch' / 'detector.launch.py'
ARGUMENTS = {
    'params_file',
    'use_sim_time',
    'namespace',
    'log_level',
    'model',
    'device',
    'image_topic',
    'camera_info_topic',
}


def test_arguments_by_reading():
    """Without launch there is no running it, but a word left out is seen all the same."""
    tree = ast.parse(LAUNCH.read_text())
    words = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    assert ARGUMENTS <= words
    assert {'FASTDDS_BUILTIN_TRANSPORTS', 'LARGE_DATA', 'mono3d_ros', 'detector'} <= words
    functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert 'generate_launch_description' in functions


def test_handed_on_parameters_are_parameters():
    from dataclasses import fields

    from mono3d_ros.params import Params

    tree = ast.parse(LAUNCH.read_text())
    (handed_on,) = (
        [key.value for key in node.value.keys]
        for node in tree.body
        if isinstance(node, ast.Assign) and node.targets[0].id == 'PARAMETERS'
    )
    assert set(handed_on) <= {each.name for each in fields(Params)}


def test_arguments_by_running():
    pytest.importorskip('launch_ros', reason='launch_ros comes with ROS only')
    from launch.actions import DeclareLaunchArgument

    names = {'__file__': str(LAUNCH), '__name__': 'detector_launch'}
    exec(compile(LAUNCH.read_text(), str(LAUNCH), 'exec'), names)
    entities = names['generate_launch_description']().entities
    declared = {each.name for each in entities if isinstance(each, DeclareLaunchArgument)}
    assert declared == ARGUMENTS
