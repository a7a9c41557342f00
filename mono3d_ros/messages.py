"""
Message fields <-> Frame and FrameResult, for ROS and for bags alike.

No message class is imported: new('visualization_msgs/msg/Marker', **fields) makes one, from ROS
in node.py, from rosbags in bag.py, and fields that are not given take the defaults of ROS.
Messages that come in are read by field name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from mono3d_ros.calibration import Door, Intrinsics
from mono3d_ros.decoding import RawImage, decode, decode_compressed
from mono3d_ros.stream import Frame, FrameResult
from stl_core.geometry import BOX_EDGES, corners
from stl_core.strokes import class_colour
from stl_core.types import Array, Objects3D

#: Makes a message: type name and fields -> message.
New = Callable[..., Any]

# visualization_msgs/msg/Marker
ARROW, LINE_LIST, TEXT_VIEW_FACING = 0, 5, 9
ADD, DELETE = 0, 2

#: Kinds of marker that each object is drawn with, the last part of their namespace.
KINDS = ('boxes', 'heading', 'labels')

LINE_WIDTH_M = 0.08
TEXT_HEIGHT_M = 0.6
#: How far the label floats above the box.
TEXT_GAP_M = 0.5
#: How far the heading arrow reaches beyond the front of the box.
ARROW_REACH_M = 1.0


def stamp_ns(header: Any) -> int:
    """Return a header's stamp in nanoseconds."""
    return header.stamp.sec * 1_000_000_000 + header.stamp.nanosec


def to_frame(message: Any, info: Any, camera: str, door: Door) -> Frame:
    """
    Read an image message and its camera_info.

    :param message: sensor_msgs Image or CompressedImage.
    :param info: sensor_msgs CameraInfo.
    :param camera: our name of the camera.
    :param door: calibration.as_rectified or calibration.rectify.
    :return: a frame with the image's own stamp and frame.
    :raises Uncalibrated: where camera_info says so.
    :raises ValueError: for an image that cannot be read or does not fit camera_info.
    """
    image, P = door(to_image(message), to_intrinsics(info))
    frame_id = message.header.frame_id or info.header.frame_id
    return Frame(camera, image, P, stamp_ns(message.header), frame_id)


def to_image(message: Any) -> Array:
    """(H, W, 3) uint8 RGB of a sensor_msgs Image or CompressedImage."""
    if hasattr(message, 'format'):  # only a CompressedImage has one
        return decode_compressed(message.format, message.data)
    raw = RawImage(
        message.data, message.height, message.width, message.step, bool(message.is_bigendian)
    )
    return decode(message.encoding, raw)


def to_intrinsics(info: Any) -> Intrinsics:
    """Read the numbers of a sensor_msgs CameraInfo."""
    roi = info.roi
    return Intrinsics(
        width_px=info.width,
        height_px=info.height,
        distortion_model=info.distortion_model,
        D=_floats(info.d),
        K=_floats(info.k),
        R=_floats(info.r),
        P=_floats(info.p),
        binning=(info.binning_x, info.binning_y),
        roi_px=(roi.x_offset, roi.y_offset, roi.width, roi.height),
    )


def markers(
    result: FrameResult, previous_ids: Iterable[int], new: New, *, lifetime_s: float = 0.3
) -> Any:
    """
    Draw a result: outline, heading and label of each object, in the camera's own frame.

    The first marker of every array, objects or not, is a DELETE in '<camera>/frame' that carries
    the image's stamp and frame: viewers ignore it, and recorders and tests find by it which
    image was answered.

    :param result: what was found.
    :param previous_ids: result.ids of the camera's previous array; what is no longer there is
        deleted in this same array, so nothing flickers and nothing stays behind.
    :param new: maker of messages.
    :param lifetime_s: after this a viewer takes the boxes away by itself; 0 means never.
    :return: visualization_msgs MarkerArray.
    """
    header = to_header(result.stamp_ns, result.frame_id, new)
    gone = sorted(set(previous_ids) - set(result.ids))
    drawn = [_delete(f'{result.camera}/frame', 0, header, new)]
    lifetime = _duration(lifetime_s, new)
    for row in range(len(result.objects)):
        drawn += _object_markers(result, row, header, lifetime, new)
    drawn += [_delete(f'{result.camera}/{k}', id, header, new) for id in gone for k in KINDS]
    return new('visualization_msgs/msg/MarkerArray', markers=drawn)


def detections(result: FrameResult, new: New) -> Any:
    """
    Say a result in numbers, in the camera's own frame.

    A box has ROS's axes, x along the length, y to the left, z up, and sizes in that order: so it
    stays the usual box when a transform brings it into the frame of a vehicle.

    :param result: what was found.
    :param new: maker of messages.
    :return: vision_msgs Detection3DArray; depth variance at row and column z of the covariance.
    """
    header = to_header(result.stamp_ns, result.frame_id, new)
    found = [_detection(result, row, header, new) for row in range(len(result.objects))]
    return new('vision_msgs/msg/Detection3DArray', header=header, detections=found)


def _detection(result: FrameResult, row: int, header: Any, new: New) -> Any:
    one = result.objects[row]
    height, width, length = one.size_hwl_m[0].tolist()
    center = _pose(one.center_m[0], new, _upright(float(one.rotation_y[0])))
    covariance = np.zeros(36)
    covariance[14] = 2.0 * one.depth_sigma_m[0] ** 2  # variance of a Laplace distribution
    hypothesis = new(
        'vision_msgs/msg/ObjectHypothesis',
        class_id=result.classes[int(one.class_id[0])],
        score=float(one.score[0]),
    )
    pose = new('geometry_msgs/msg/PoseWithCovariance', pose=center, covariance=covariance)
    return new(
        'vision_msgs/msg/Detection3D',
        header=header,
        results=[
            new('vision_msgs/msg/ObjectHypothesisWithPose', hypothesis=hypothesis, pose=pose)
        ],
        bbox=new(
            'vision_msgs/msg/BoundingBox3D',
            center=center,
            size=_vector(length, width, height, new),
        ),
        id=str(result.ids[row]),
    )


def _object_markers(
    result: FrameResult, row: int, header: Any, lifetime: Any, new: New
) -> list[Any]:
    """Return one marker of each of KINDS."""
    name = result.classes[int(result.objects.class_id[row])]
    shared = {
        'header': header,
        'id': result.ids[row],
        'action': ADD,
        'color': _colour(name, new),
        'lifetime': lifetime,
        'frame_locked': False,
    }
    pose = _pose((0.0, 0.0, 0.0), new)
    return [
        new(
            'visualization_msgs/msg/Marker',
            **{'pose': pose, **shared, **fields},
            ns=f'{result.camera}/{kind}',
        )
        for kind, fields in zip(KINDS, _shapes(result.objects[row], name, new), strict=True)
    ]


def _shapes(one: Objects3D, name: str, new: New) -> tuple[dict[str, Any], ...]:
    """Return what differs between the markers of one object, in the order of KINDS."""
    box = corners(one.center_m, one.size_hwl_m, one.rotation_y)[0]
    front, back = box[[0, 1, 4, 5]].mean(0), box[[2, 3, 6, 7]].mean(0)
    tip = front + (front - back) * (ARROW_REACH_M / max(one.size_hwl_m[0, 2], 1e-6))
    above = box.mean(0) - [0.0, one.size_hwl_m[0, 0] / 2 + TEXT_GAP_M, 0.0]  # y is down
    outline = {
        'type': LINE_LIST,
        'points': [_point(box[corner], new) for edge in BOX_EDGES for corner in edge],
        'scale': _vector(LINE_WIDTH_M, 0.0, 0.0, new),
    }
    arrow = {
        'type': ARROW,
        'points': [_point(front, new), _point(tip, new)],
        'scale': _vector(LINE_WIDTH_M, 3 * LINE_WIDTH_M, 3 * LINE_WIDTH_M, new),
    }
    label = {
        'type': TEXT_VIEW_FACING,
        'text': f'{name} {one.score[0]:.2f} {one.center_m[0, 2]:.1f} m',
        'pose': _pose(above, new),
        'scale': _vector(0.0, 0.0, TEXT_HEIGHT_M, new),
    }
    return outline, arrow, label


def _delete(ns: str, id: int, header: Any, new: New) -> Any:
    """Return a marker that takes another one away."""
    pose = _pose((0.0, 0.0, 0.0), new)
    return new(
        'visualization_msgs/msg/Marker', header=header, ns=ns, id=id, action=DELETE, pose=pose
    )


def to_header(stamp_ns: int, frame_id: str, new: New) -> Any:
    """Make a header of a stamp in nanoseconds and a coordinate frame."""
    sec, nanosec = divmod(stamp_ns, 1_000_000_000)
    stamp = new('builtin_interfaces/msg/Time', sec=sec, nanosec=nanosec)
    return new('std_msgs/msg/Header', stamp=stamp, frame_id=frame_id)


def _duration(seconds: float, new: New) -> Any:
    sec, nanosec = divmod(round(seconds * 1e9), 1_000_000_000)
    return new('builtin_interfaces/msg/Duration', sec=sec, nanosec=nanosec)


def _point(xyz: Any, new: New) -> Any:
    x, y, z = (float(each) for each in xyz)
    return new('geometry_msgs/msg/Point', x=x, y=y, z=z)


def _vector(x: float, y: float, z: float, new: New) -> Any:
    return new('geometry_msgs/msg/Vector3', x=x, y=y, z=z)


def _upright(rotation_y: float) -> tuple[float, float, float, float]:
    """Return the quaternion x y z w that turns ROS's axes of a box into the camera's frame."""
    # a quarter turn about x brings z up to -y; the turn about y follows
    sin, cos = math.sqrt(0.5) * math.sin(rotation_y / 2), math.sqrt(0.5) * math.cos(rotation_y / 2)
    return cos, sin, -sin, cos


def _pose(xyz: Any, new: New, turn: Sequence[float] = (0.0, 0.0, 0.0, 1.0)) -> Any:
    """Return a pose, not turned unless told; RViz warns of a quaternion of zeros."""
    x, y, z, w = turn
    orientation = new('geometry_msgs/msg/Quaternion', x=x, y=y, z=z, w=w)
    return new('geometry_msgs/msg/Pose', position=_point(xyz, new), orientation=orientation)


def _colour(name: str, new: New) -> Any:
    r, g, b = (level / 255 for level in class_colour(name))
    return new('std_msgs/msg/ColorRGBA', r=r, g=g, b=b, a=1.0)


def _floats(numbers: Iterable[Any]) -> tuple[float, ...]:
    return tuple(float(number) for number in numbers)
