"""The detector's node and its participant in the process of the tests."""

import contextlib
import gc
import os
from collections.abc import Iterator
from unittest import mock

import rclpy

from mono3d_ros.node.detector_node import DetectorNode


@contextlib.contextmanager
def transports(name: str) -> Iterator[None]:
    """Let participants that are created inside use these transports of Fast DDS."""
    with mock.patch.dict(os.environ, FASTDDS_BUILTIN_TRANSPORTS=name):
        yield


@contextlib.contextmanager
def node_in_this_process(*arguments: str) -> Iterator[DetectorNode]:
    """
    Yield a node that was started with these ROS arguments, and end its participant at once.

    Participants of one process never speak TCP here: where several live, Fast DDS may wait for
    ever when one is destroyed, and without a collection they live until some later test.
    """
    context = rclpy.Context()
    rclpy.init(args=['--ros-args', *arguments], context=context)
    try:
        with transports('UDPv4'):
            node = DetectorNode(context=context)
        try:
            yield node
        finally:
            node.destroy_node()
    finally:
        rclpy.shutdown(context=context)
        gc.collect()
