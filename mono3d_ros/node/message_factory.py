"""
ROS message classes by type name; the counterpart for bags is in mono3d_ros.bags.message_types.

vision_msgs, autoware_perception_msgs and tf2_msgs are optional: message_class returns None if
they are not installed, and callers then leave out the feature.
"""

from __future__ import annotations

import importlib
from functools import cache
from typing import Any


@cache
def message_class(type_name: str) -> Any:
    """
    Return a message class by type name.

    :param type_name: such as 'std_msgs/msg/Header'.
    :return: the class; None if its package is not installed.
    """
    package, _, name = type_name.split('/')
    try:
        return getattr(importlib.import_module(f'{package}.msg'), name)
    except (ImportError, AttributeError):
        return None


def make_message(type_name: str, /, **values: Any) -> Any:
    """Build a message; fields that are not given keep their defaults."""
    return message_class(type_name)(**values)
