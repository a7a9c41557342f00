"""
Small parts of messages: headers, durations, points, vectors and poses.

No message class is imported: a MessageFactory makes messages, make('geometry_msgs/msg/Point', x=1)
for example, of ROS in the node (node/message_factory.py) and of rosbags in bags/message_types.py.
Fields that are not given take the defaults of ROS.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

#: (type name, **fields) -> message.
MessageFactory = Callable[..., Any]

IDENTITY_QUATERNION = (0.0, 0.0, 0.0, 1.0)


def header_stamp_ns(header: Any) -> int:
    """Return the stamp of a header in nanoseconds."""
    return int(header.stamp.sec) * 1_000_000_000 + int(header.stamp.nanosec)


def message_stamp_ns(message: Any) -> int | None:
    """
    Return the header stamp of a message of any type.

    For an array without a header, such as MarkerArray, it is the stamp of the first element.

    :param message: an instance of ROS's or of rosbags' classes.
    :return: nanoseconds; None for a message without a header.
    """
    header = getattr(message, 'header', None)
    if header is not None:
        return header_stamp_ns(header)
    for name in ('markers', 'transforms', 'detections'):
        for element in getattr(message, name, [])[:1]:
            return message_stamp_ns(element)
    return None


def to_header(stamp_ns: int, frame_id: str, make_message: MessageFactory) -> Any:
    """Build a std_msgs Header of a stamp in nanoseconds and a frame_id."""
    sec, nanosec = divmod(stamp_ns, 1_000_000_000)
    stamp = make_message('builtin_interfaces/msg/Time', sec=sec, nanosec=nanosec)
    return make_message('std_msgs/msg/Header', stamp=stamp, frame_id=frame_id)


def to_duration(seconds: float, make_message: MessageFactory) -> Any:
    """Build a builtin_interfaces Duration."""
    sec, nanosec = divmod(round(seconds * 1e9), 1_000_000_000)
    return make_message('builtin_interfaces/msg/Duration', sec=sec, nanosec=nanosec)


def to_point(xyz: Sequence[float], make_message: MessageFactory) -> Any:
    """Build a geometry_msgs Point."""
    x, y, z = xyz
    return make_message('geometry_msgs/msg/Point', x=x, y=y, z=z)


def to_vector(xyz: Sequence[float], make_message: MessageFactory) -> Any:
    """Build a geometry_msgs Vector3: a size, a scale or a velocity."""
    x, y, z = xyz
    return make_message('geometry_msgs/msg/Vector3', x=x, y=y, z=z)


def to_pose(
    xyz: Sequence[float],
    make_message: MessageFactory,
    quaternion_xyzw: Sequence[float] = IDENTITY_QUATERNION,
) -> Any:
    """Build a geometry_msgs Pose; the default rotation is identity: RViz warns of all zeros."""
    x, y, z, w = quaternion_xyzw
    orientation = make_message('geometry_msgs/msg/Quaternion', x=x, y=y, z=z, w=w)
    return make_message(
        'geometry_msgs/msg/Pose', position=to_point(xyz, make_message), orientation=orientation
    )
