"""The real node has the members of NodeContext and accepts the arguments; no types are checked."""

import inspect

import pytest

pytest.importorskip('rclpy', reason='rclpy is not installed')
pytest.importorskip('visualization_msgs', reason='ROS messages are not installed')

from nodes import node_in_this_process
from rclpy.lifecycle import LifecycleNode

from mono3d_ros.node.node_context import NodeContext

#: Attributes that DetectorNode sets in its constructor.
ATTRIBUTES = {'params', 'cameras', 'counters'}
#: Methods that take any keyword -> the method that they pass it to.
FORWARDED = {'create_lifecycle_publisher': 'create_publisher'}


def members():
    return {name for name in vars(NodeContext) if not name.startswith('_')} - ATTRIBUTES


def test_rclpy_has_every_member():
    assert {'get_logger', 'create_publisher', 'context'} <= members()
    assert members() <= set(dir(LifecycleNode))


def test_the_constructor_sets_the_attributes():
    with node_in_this_process() as node:
        names = {name for name in ATTRIBUTES if hasattr(node, name)}
    assert names == ATTRIBUTES


def test_rclpy_accepts_the_arguments():
    for name in members():
        protocol = getattr(NodeContext, name)
        real = getattr(LifecycleNode, FORWARDED.get(name, name))
        if callable(protocol):
            wanted = inspect.signature(protocol).parameters.values()
            assert not any(each.kind == each.VAR_KEYWORD for each in wanted), name
            names = [each.name for each in wanted if each.kind == each.KEYWORD_ONLY]
            count = sum(each.kind == each.POSITIONAL_OR_KEYWORD for each in wanted)
            values = {key: None for key in names}
            inspect.signature(real).bind(*[None] * count, **values)
