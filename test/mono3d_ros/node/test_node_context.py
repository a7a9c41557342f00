"""NodeContext lists what the parts of the node use; the real node has all of it."""

import inspect

import pytest

pytest.importorskip('rclpy', reason='rclpy is not installed')

from rclpy.lifecycle import LifecycleNode

from mono3d_ros.node.node_context import NodeContext

#: Attributes that DetectorNode sets in its constructor.
ATTRIBUTES = {'params', 'cameras', 'counters'}


def members():
    return {name for name in vars(NodeContext) if not name.startswith('_')} - ATTRIBUTES


def test_rclpy_has_every_member():
    assert {'get_logger', 'create_publisher', 'context'} <= members()
    assert members() <= set(dir(LifecycleNode))


def test_rclpy_accepts_the_arguments():
    for name in members():
        protocol, real = getattr(NodeContext, name), getattr(LifecycleNode, name)
        if callable(protocol):
            wanted = inspect.signature(protocol).parameters.values()
            names = [each.name for each in wanted if each.kind == each.KEYWORD_ONLY]
            count = sum(each.kind == each.POSITIONAL_OR_KEYWORD for each in wanted)
            values = {key: None for key in names}
            inspect.signature(real).bind(*[None] * count, **values)
