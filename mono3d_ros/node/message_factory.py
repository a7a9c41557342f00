"""
Message classes by name, as ROS has them: the twin of bag.maker. What is optional is decided here.

vision_msgs, autoware_perception_msgs and tf2_msgs need not be installed; find answers None then,
and who asks does without.
"""

from __future__ import annotations

import importlib
from functools import cache
from typing import Any


@cache
def message_class(type_name: str) -> Any:
    """
    Find a message class.

    :param type_name: such as 'std_msgs/msg/Header'.
    :return: the class; None where its package is not installed.
    """
    package, _, name = type_name.split('/')
    try:
        return getattr(importlib.import_module(f'{package}.msg'), name)
    except (ImportError, AttributeError):
        return None


def make_message(type_name: str, /, **values: Any) -> Any:
    """Make a message; fields that are not given take their defaults."""
    return message_class(type_name)(**values)
