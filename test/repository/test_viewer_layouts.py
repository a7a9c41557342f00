"""RViz and Foxglove layouts and surround.yaml use topics and parameters that the node has."""

import json
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
SURROUND = ROOT / 'config' / 'surround.yaml'
#: Topics that viewers show and the node does not publish: camera, LiDAR and diagnostics topics.
OTHER_TOPICS = {'/image_raw', '/camera_info', '/points', '/diagnostics'}


def surround():
    return yaml.safe_load(SURROUND.read_text())['/**']['ros__parameters']


def strings(tree):
    """Yield every string in a tree of dicts and lists, keys included."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield key
            yield from strings(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from strings(value)
    elif isinstance(tree, str):
        yield tree


def topics(tree):
    """Return the topics in a tree; for the path of a plot, the topic without the field."""
    return {each.partition('.')[0] for each in strings(tree) if each.startswith('/')}


@pytest.fixture
def published():
    """Return a function: topic prefix of a camera, '' of a single one -> published topics."""
    pytest.importorskip('rclpy', reason='rclpy is not installed')
    from mono3d_ros.node.publishers import message_types

    return lambda camera: {f'/detector/{camera}{topic}' for topic in message_types()}


def displays(file):
    """Return the displays of an RViz file that have a topic."""
    manager = yaml.safe_load((ROOT / 'rviz' / file).read_text())['Visualization Manager']
    assert manager['Global Options']['Fixed Frame'] == 'base_link'
    return [each for each in manager['Displays'] if 'Topic' in each]


@pytest.mark.parametrize(('file', 'cameras'), [('detector', ['']), ('surround', None)])
def test_rviz_shows_topics_that_the_node_publishes(file, cameras, published):
    cameras = cameras or [f'{name}/' for name in surround()['cameras']]
    shown = {each['Topic']['Value'] for each in displays(f'{file}.rviz')}
    assert shown <= set.union(OTHER_TOPICS, *map(published, cameras))
    for camera in cameras:
        assert f'/detector/{camera}markers' in shown
        assert f'/detector/{camera}annotated_image/compressed' in shown


@pytest.mark.parametrize('file', ['detector', 'surround'])
def test_rviz_qos_matches_every_publisher(file):
    """The node publishes reliably; cameras and LiDARs may publish best effort."""
    for each in displays(f'{file}.rviz'):
        topic = each['Topic']
        of_node = topic['Value'].startswith('/detector/')
        assert topic['Reliability Policy'] == ('Reliable' if of_node else 'Best Effort')
        assert topic['Durability Policy'] == 'Volatile'


def test_foxglove_shows_topics_that_the_node_publishes(published):
    layout = json.loads((ROOT / 'foxglove' / 'detector.json').read_text())
    shown = topics(layout['configById'])
    assert shown <= OTHER_TOPICS | published('')
    assert {'/detector/markers', '/detector/annotated_image/compressed', '/diagnostics'} <= shown


def test_the_layout_contains_every_panel_once():
    layout = json.loads((ROOT / 'foxglove' / 'detector.json').read_text())

    def panels(node):
        return [node] if isinstance(node, str) else panels(node['first']) + panels(node['second'])

    assert sorted(panels(layout['layout'])) == sorted(layout['configById'])


def test_surround_parameters_are_parameters():
    from dataclasses import fields

    from mono3d_ros.params import CameraParams, Params

    params = surround()
    camera_params = {name: params.pop(name) for name in params['cameras']}
    assert set(params) <= {each.name for each in fields(Params)}
    assert Params(**params).trigger == 'front'
    for each in camera_params.values():
        assert set(each) <= {each.name for each in fields(CameraParams)}
        CameraParams(**each)


def test_surround_matches_the_cameras_of_the_synthetic_world():
    """A bag of synthesize_bag --surround then plays without remapping."""
    from stl_core.data.synthetic.sequence import SURROUND_CAMERAS

    params = surround()
    assert set(params['cameras']) == set(SURROUND_CAMERAS)
    topics_of_cameras = {params[name]['image_topic'] for name in SURROUND_CAMERAS}
    assert topics_of_cameras == {f'{name}/image_raw' for name in SURROUND_CAMERAS}
