"""
The small parts of messages, and the frame that a message speaks in.

No message class is imported: new('geometry_msgs/msg/Point', **fields) makes one, from ROS in the
node, from rosbags in bag.py, and fields that are not given take the defaults of ROS.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

#: Makes a message: type name and fields -> message.
MessageFactory = Callable[..., Any]

IDENTITY_QUATERNION = (0.0, 0.0, 0.0, 1.0)


def header_stamp_ns(header: Any) -> int:
    """Return a header's stamp in nanoseconds."""
    return header.stamp.sec * 1_000_000_000 + header.stamp.nanosec


def to_header(stamp_ns: int, frame_id: str, make_message: MessageFactory) -> Any:
    """Make a header of a stamp in nanoseconds and a coordinate frame."""
    sec, nanosec = divmod(stamp_ns, 1_000_000_000)
    stamp = make_message('builtin_interfaces/msg/Time', sec=sec, nanosec=nanosec)
    return make_message('std_msgs/msg/Header', stamp=stamp, frame_id=frame_id)


def to_duration(seconds: float, make_message: MessageFactory) -> Any:
    """Make a duration."""
    sec, nanosec = divmod(round(seconds * 1e9), 1_000_000_000)
    return make_message('builtin_interfaces/msg/Duration', sec=sec, nanosec=nanosec)


def to_point(xyz: Sequence[float], make_message: MessageFactory) -> Any:
    """Make a point."""
    x, y, z = xyz
    return make_message('geometry_msgs/msg/Point', x=x, y=y, z=z)


def to_vector(xyz: Sequence[float], make_message: MessageFactory) -> Any:
    """Make a vector: a size, a scale, a speed."""
    x, y, z = xyz
    return make_message('geometry_msgs/msg/Vector3', x=x, y=y, z=z)


def to_pose(
    xyz: Sequence[float],
    make_message: MessageFactory,
    quaternion_xyzw: Sequence[float] = IDENTITY_QUATERNION,
) -> Any:
    """Make a pose of a place and a quaternion x y z w; RViz warns of one of zeros."""
    x, y, z, w = quaternion_xyzw
    orientation = make_message('geometry_msgs/msg/Quaternion', x=x, y=y, z=z, w=w)
    return make_message(
        'geometry_msgs/msg/Pose', position=to_point(xyz, make_message), orientation=orientation
    )
