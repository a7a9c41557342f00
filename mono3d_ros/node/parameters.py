"""ROS parameters of the node, declared with description, range and default."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import Field, fields, replace
from typing import Any, Protocol

from rcl_interfaces.msg import FloatingPointRange, ParameterDescriptor

from mono3d_ros.params import Camera, CameraParams, Params


class ParameterNode(Protocol):
    """A ROS node on which parameters are declared."""

    def declare_parameter(self, name: str, value: Any, descriptor: Any) -> Any:
        """Declare a parameter with its default and return it with its value."""
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
    value = list(default) if isinstance(default, tuple) else default
    return node.declare_parameter(name, value, descriptor).value
