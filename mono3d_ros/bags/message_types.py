"""
Message types of bags, and a factory that builds messages by type name, without ROS.

make_message_factory is the counterpart of mono3d_ros.node.message_factory.make_message:
mono3d_ros.messages builds messages by type name with either, and gets rosbags' classes here and
ROS's classes in the node.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from rosbags.interfaces import Nodetype
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

#: Definitions of vision_msgs 4, which no type store of rosbags contains.
VISION_MSGS = {
    'vision_msgs/msg/ObjectHypothesis': 'string class_id\nfloat64 score',
    'vision_msgs/msg/ObjectHypothesisWithPose': (
        'vision_msgs/ObjectHypothesis hypothesis\ngeometry_msgs/PoseWithCovariance pose'
    ),
    'vision_msgs/msg/BoundingBox3D': 'geometry_msgs/Pose center\ngeometry_msgs/Vector3 size',
    'vision_msgs/msg/Detection3D': (
        'std_msgs/Header header\nvision_msgs/ObjectHypothesisWithPose[] results\n'
        'vision_msgs/BoundingBox3D bbox\nstring id'
    ),
    'vision_msgs/msg/Detection3DArray': (
        'std_msgs/Header header\nvision_msgs/Detection3D[] detections'
    ),
}

#: Non-zero defaults of the .msg files; ROS applies them, rosbags does not store them.
FIELD_DEFAULTS: Mapping[tuple[str, str], Any] = {('geometry_msgs/msg/Quaternion', 'w'): 1.0}

ZERO_VALUES: Mapping[str, Any] = {'string': '', 'bool': False, 'float32': 0.0, 'float64': 0.0}
ARRAY_DTYPES: Mapping[str, str] = {'bool': 'bool', 'char': 'uint8', 'byte': 'uint8'}


def make_typestore() -> Typestore:
    """Build a type store with the message types of current ROS 2 and vision_msgs."""
    store = get_typestore(Stores.LATEST)
    for name, text in VISION_MSGS.items():
        if name not in store.types:
            store.register(get_types_from_msg(text, name))
    return store


def make_message_factory(store: Typestore) -> Callable[..., Any]:
    """
    Make a function that builds messages by type name.

    :param store: the message types.
    :return: new('visualization_msgs/msg/Marker', **fields), which gives absent fields ROS's
        defaults, accepts numeric sequences as any sequence, bytes or array, and raises
        LookupError for an unknown type and TypeError for an unknown field.
    """

    def new(type_name: str, /, **fields: Any) -> Any:
        if type_name not in store.fielddefs:
            raise LookupError(f'{type_name}: no such message type in the type store')
        kinds = dict(store.fielddefs[type_name][1])
        if unknown := sorted(set(fields) - set(kinds)):
            raise TypeError(f'{type_name} has no field {", ".join(unknown)}')
        values = {}
        for name, kind in kinds.items():
            if name in fields:
                values[name] = _to_field_value(fields[name], kind)
            elif (type_name, name) in FIELD_DEFAULTS:
                values[name] = FIELD_DEFAULTS[type_name, name]
            else:
                values[name] = _default_value(kind, new)
        return store.types[type_name](**values)

    return new


def _default_value(kind: tuple[Any, Any], new: Callable[..., Any]) -> Any:
    """Return the zero value of a field; kind is (node type, description) of rosbags' fielddefs."""
    node, description = kind
    if node == Nodetype.NAME:
        return new(description)
    if node == Nodetype.BASE:
        return ZERO_VALUES.get(description[0], 0)
    (inner, element), length = description
    count = length if node == Nodetype.ARRAY else 0
    if inner == Nodetype.BASE and element[0] != 'string':
        return np.zeros(count, ARRAY_DTYPES.get(element[0], element[0]))
    return [_default_value(description[0], new) for _ in range(count)]


def _to_field_value(value: Any, kind: tuple[Any, Any]) -> Any:
    """Convert numeric sequences to the arrays that rosbags expects; return others unchanged."""
    node, description = kind
    if node in (Nodetype.BASE, Nodetype.NAME):
        return value
    (inner, element), _ = description
    if inner == Nodetype.NAME or element[0] == 'string':
        return list(value)
    dtype = np.dtype(ARRAY_DTYPES.get(element[0], element[0]))
    if isinstance(value, (bytes, bytearray, memoryview)):
        return np.frombuffer(value, dtype)
    return np.ascontiguousarray(value, dtype).ravel()
