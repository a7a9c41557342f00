"""
The small parts of messages, and the frame that a message speaks in.

No message class is imported: new('geometry_msgs/msg/Point', **fields) makes one, from ROS in the
node, from rosbags in bag.py, and fields that are not given take the defaults of ROS.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

#: Makes a message: type name and fields -> message.
New = Callable[..., Any]

UNTURNED = (0.0, 0.0, 0.0, 1.0)


def stamp_ns(header: Any) -> int:
    """Return a header's stamp in nanoseconds."""
    return header.stamp.sec * 1_000_000_000 + header.stamp.nanosec


def to_header(stamp_ns: int, frame_id: str, new: New) -> Any:
    """Make a header of a stamp in nanoseconds and a coordinate frame."""
    sec, nanosec = divmod(stamp_ns, 1_000_000_000)
    stamp = new('builtin_interfaces/msg/Time', sec=sec, nanosec=nanosec)
    return new('std_msgs/msg/Header', stamp=stamp, frame_id=frame_id)


def to_duration(seconds: float, new: New) -> Any:
    """Make a duration."""
    sec, nanosec = divmod(round(seconds * 1e9), 1_000_000_000)
    return new('builtin_interfaces/msg/Duration', sec=sec, nanosec=nanosec)


def to_point(xyz: Sequence[float], new: New) -> Any:
    """Make a point."""
    x, y, z = xyz
    return new('geometry_msgs/msg/Point', x=x, y=y, z=z)


def to_vector(xyz: Sequence[float], new: New) -> Any:
    """Make a vector: a size, a scale, a speed."""
    x, y, z = xyz
    return new('geometry_msgs/msg/Vector3', x=x, y=y, z=z)


def to_pose(xyz: Sequence[float], new: New, turn: Sequence[float] = UNTURNED) -> Any:
    """Make a pose of a place and a quaternion x y z w; RViz warns of one of zeros."""
    x, y, z, w = turn
    orientation = new('geometry_msgs/msg/Quaternion', x=x, y=y, z=z, w=w)
    return new('geometry_msgs/msg/Pose', position=to_point(xyz, new), orientation=orientation)
