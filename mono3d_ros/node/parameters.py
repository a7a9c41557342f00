"""ROS parameters of the node, declared with description, range and default."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import Field, fields, replace
from typing import Any, Protocol

from rcl_interfaces.msg import FloatingPointRange, ParameterDescriptor
from rclpy.parameter import Parameter

from mono3d_ros.param_validators import as_names, as_str_list
from mono3d_ros.params import Camera, CameraParams, Params

#: Prefix of the parameters that rclpy declares for the QoS of each topic.
QOS_PREFIX = 'qos_overrides.'
#: Parameters that count for one camera only; each of several has those of CameraParams.
SINGLE_CAMERA = ('image_topic', 'camera_info_topic')
#: Casts of the parameters that are lists of strings; other lists are of numbers.
STRING_LISTS = (as_names, as_str_list)


class ParameterNode(Protocol):
    """A ROS node on which parameters are declared."""

    def declare_parameter(self, name: str, value: Any, descriptor: Any) -> Any:
        """Declare a parameter with its default and return it with its value."""
        ...

    def set_parameters(self, parameter_list: Sequence[Any]) -> Any:
        """Set parameters to values of possibly other types."""
        ...

    def set_descriptor(self, name: str, descriptor: Any) -> Any:
        """Replace the descriptor of a parameter."""
        ...


def declare_params(node: ParameterNode) -> Params:
    """
    Declare every field of Params as a ROS parameter.

    :param node: node that declares them.
    :return: the parameter values.
    :raises ValueError: for an invalid value; rclpy raises ParameterException for some.
    """
    values = {
        each.name: _declare_parameter(node, each.name, each, each.default)
        for each in fields(Params)
    }
    return Params(**values)


def declare_cameras(node: ParameterNode, params: Params) -> tuple[Camera, ...]:
    """
    Declare the parameters of each camera (NAME.image_topic ...) if `cameras` names several.

    :param node: node that declares them.
    :param params: parameters of the node that are already declared.
    :return: all cameras, at least one.
    :raises ValueError: for an invalid value.
    """
    if not params.cameras:
        return (Camera(params.camera_name, '', params.single_camera()),)
    cameras = []
    for name in params.cameras:
        default = params.camera_defaults(name)
        values = {
            each.name: _declare_parameter(
                node, f'{name}.{each.name}', each, getattr(default, each.name)
            )
            for each in fields(CameraParams)
        }
        try:
            cameras.append(Camera(name, f'{name}/', CameraParams(**values)))
        except ValueError as err:
            raise ValueError(f'camera {name}: {err}') from None
    return tuple(cameras)


def apply_changes(params: Params, changes: Iterable[Any]) -> Params:
    """
    Return the parameters with changes applied.

    :param params: the current parameters.
    :param changes: rclpy parameters; names that are not fields of Params are ignored.
    :raises ValueError: for an invalid value.
    """
    names = {each.name for each in fields(Params)}
    return replace(params, **{each.name: each.value for each in changes if each.name in names})


def is_same_value(first: Any, second: Any) -> bool:
    """Return whether two parameter values are equal; None is an empty list, an array a list."""
    first, second = ([] if each is None else each for each in (first, second))
    is_text = isinstance(first, str) or isinstance(second, str)
    if hasattr(first, '__len__') and hasattr(second, '__len__') and not is_text:
        return list(first) == list(second)
    return bool(first == second)


def with_list_type(parameter: Any) -> Any:
    """Return a parameter of Params; an empty list, which has no type, with that of the field."""
    known = {each.name: each for each in fields(Params)}
    field, value = known.get(parameter.name), parameter.value
    # any value may come from `ros2 param set`; apply_changes refuses those that are no list
    if field is None or not isinstance(field.default, tuple) or not is_same_value(value, []):
        return parameter
    return Parameter(parameter.name, _list_type(field), [])


def misspelt_names(given: Iterable[str], declared: Iterable[str]) -> tuple[str, ...]:
    """
    Return the names of parameters that were given but not declared, each with a similar name.

    :param given: names in parameter files and on the command line.
    :param declared: names of all parameters of the node.
    """
    known, texts = set(declared), []
    for name in sorted(set(given) - known):
        near = difflib.get_close_matches(name, known, 1)
        texts.append(f'{name} (did you mean {near[0]}?)' if near else name)
    return tuple(texts)


def unused_names(params: Params) -> tuple[str, ...]:
    """Return the parameters of the only camera that are set though `cameras` names others."""
    if not params.cameras:
        return ()
    single = {each.name: each for each in fields(Params) if each.name in SINGLE_CAMERA}
    return tuple(
        f'{name} (parameter cameras is set: use {params.cameras[0]}.{name})'
        for name, each in single.items()
        if getattr(params, name) != each.default
    )


def _list_type(field: Field[Any]) -> Parameter.Type:
    """Return the ROS type of a parameter that is a list."""
    is_text = field.metadata['cast'] in STRING_LISTS
    return Parameter.Type.STRING_ARRAY if is_text else Parameter.Type.DOUBLE_ARRAY


def _declare_parameter(node: ParameterNode, name: str, field: Field[Any], default: Any) -> Any:
    """Declare one ROS parameter and return its value."""
    metadata = field.metadata
    descriptor = ParameterDescriptor(
        description=metadata['description'],
        additional_constraints=', '.join(metadata['choices']),
        read_only=not metadata['live'],
        dynamic_typing=True,  # otherwise ROS rejects 1 in YAML where 1.0 is meant
    )
    if metadata['limits'] is not None and isinstance(default, float):
        low, high = metadata['limits']
        descriptor.floating_point_range = [FloatingPointRange(from_value=low, to_value=high)]
    if not isinstance(default, tuple):
        return node.declare_parameter(name, default, descriptor).value
    changeable = ParameterDescriptor(dynamic_typing=True)
    value = node.declare_parameter(name, list(default), changeable).value
    if not value:  # otherwise ROS shows an empty list, in YAML or the default, as a byte array
        node.set_parameters([Parameter(name, _list_type(field), [])])
    node.set_descriptor(name, descriptor)
    return value
