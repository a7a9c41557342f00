"""Parameters of the node, declared with ROS: each with its meaning, range and default."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import Field, fields, replace
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, ParameterDescriptor

from mono3d_ros.params import Camera, CameraParams, Params


def declare_params(node: Any) -> Params:
    """
    Declare every field of Params as a ROS parameter.

    :param node: where to.
    :return: their values.
    :raises ValueError: for a wrong one; rclpy raises ParameterException for some.
    """
    values = {
        each.name: _declare_parameter(node, each.name, each, each.default)
        for each in fields(Params)
    }
    return Params(**values)


def declare_cameras(node: Any, params: Params) -> tuple[Camera, ...]:
    """
    Declare the parameters that each of several cameras has for itself.

    :param node: where to.
    :param params: its parameters so far.
    :return: all cameras, at least one.
    :raises ValueError: for a wrong one.
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
    Return the parameters as they are to be.

    :param params: as they are.
    :param changes: rclpy parameters, some of them ours.
    :raises ValueError: for a wrong one.
    """
    ours = {each.name for each in fields(Params)}
    return replace(params, **{each.name: each.value for each in changes if each.name in ours})


def _declare_parameter(node: Any, name: str, field: Field[Any], default: Any) -> Any:
    """Declare one parameter and return its value as ROS has it."""
    about = field.metadata
    descriptor = ParameterDescriptor(
        description=about['description'],
        additional_constraints=', '.join(about['choices']),
        read_only=not about['live'],
        dynamic_typing=True,  # or 1 in YAML would be refused where 1.0 is meant
    )
    if about['limits'] is not None and isinstance(default, float):
        low, high = about['limits']
        descriptor.floating_point_range = [FloatingPointRange(from_value=low, to_value=high)]
    value = list(default) if isinstance(default, tuple) else default
    return node.declare_parameter(name, value, descriptor).value
