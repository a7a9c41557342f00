"""What is shipped for viewers and for several cameras names what the node says and hears."""

import json
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
SURROUND = ROOT / 'config' / 'surround.yaml'
#: Topics that viewers show besides: of the cameras and the LiDAR, as our bags have them.
GIVEN = {'/image_raw', '/camera_info', '/points', '/diagnostics'}


def surround():
    return yaml.safe_load(SURROUND.read_text())['/**']['ros__parameters']


def strings(tree):
    """Every text in a tree of dicts and lists, keys too."""
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
    """The topics in a tree, and of a plot's path the topic in front of the field."""
    return {each.partition('.')[0] for each in strings(tree) if each.startswith('/')}


@pytest.fixture
def said():
    """Name of a camera, '' of the only one -> the topics that the node advertises for it."""
    pytest.importorskip('rclpy', reason='rclpy is not installed')
    from mono3d_ros.node.publishers import MESSAGE_TYPES

    return lambda camera: {f'/detector/{camera}{topic}' for topic in MESSAGE_TYPES}


def displays(file):
    """RViz's displays that have a topic."""
    manager = yaml.safe_load((ROOT / 'rviz' / file).read_text())['Visualization Manager']
    assert manager['Global Options']['Fixed Frame'] == 'base_link'
    return [each for each in manager['Displays'] if 'Topic' in each]


@pytest.mark.parametrize(('file', 'cameras'), [('detector', ['']), ('surround', None)])
def test_rviz_shows_what_the_node_says(file, cameras, said):
    cameras = cameras or [f'{name}/' for name in surround()['cameras']]
    named = {each['Topic']['Value'] for each in displays(f'{file}.rviz')}
    assert named <= set.union(GIVEN, *map(said, cameras))
    for camera in cameras:
        assert f'/detector/{camera}markers' in named
        assert f'/detector/{camera}annotated_image/compressed' in named


@pytest.mark.parametrize('file', ['detector', 'surround'])
def test_rviz_hears_everybody(file):
    """What the node says is reliable; cameras and LiDARs may be best effort."""
    for each in displays(f'{file}.rviz'):
        topic = each['Topic']
        ours = topic['Value'].startswith('/detector/')
        assert topic['Reliability Policy'] == ('Reliable' if ours else 'Best Effort')
        assert topic['Durability Policy'] == 'Volatile'


def test_foxglove_shows_what_the_node_says(said):
    layout = json.loads((ROOT / 'foxglove' / 'detector.json').read_text())
    named = topics(layout['configById'])
    assert named <= GIVEN | said('')
    assert {'/detector/markers', '/detector/annotated_image/compressed', '/diagnostics'} <= named


def test_every_panel_of_the_layout_has_its_place():
    layout = json.loads((ROOT / 'foxglove' / 'detector.json').read_text())

    def panels(node):
        return [node] if isinstance(node, str) else panels(node['first']) + panels(node['second'])

    assert sorted(panels(layout['layout'])) == sorted(layout['configById'])


def test_surround_parameters_are_parameters():
    from dataclasses import fields

    from mono3d_ros.params import CameraParams, Params

    given = surround()
    own = {name: given.pop(name) for name in given['cameras']}
    assert set(given) <= {each.name for each in fields(Params)}
    assert Params(**given).trigger == 'front'
    for each in own.values():
        assert set(each) <= {each.name for each in fields(CameraParams)}
        CameraParams(**each)


def test_surround_fits_the_ring_of_our_own_world():
    """So that a bag of synthesize_bag --surround plays as it is."""
    from stl_core.data.synthetic.sequence import SURROUND_CAMERAS as RING

    given = surround()
    assert set(given['cameras']) == set(RING)
    assert {given[name]['image_topic'] for name in RING} == {f'{name}/image_raw' for name in RING}
