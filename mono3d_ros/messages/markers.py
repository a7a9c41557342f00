"""Marker messages of a result: outline, heading, label and velocity of each object."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from mono3d_ros.camera_frame import FrameResult, TargetFrame, identity_target
from mono3d_ros.messages.primitives import (
    MessageFactory,
    to_duration,
    to_header,
    to_point,
    to_pose,
    to_vector,
)
from stl_core.geometry import BOX_EDGES, box_corners
from stl_core.visualization.style import class_colour

# visualization_msgs/msg/Marker
ARROW, LINE_LIST, TEXT_VIEW_FACING = 0, 5, 9
ADD, DELETE = 0, 2

#: Kinds of marker per object, the last part of their namespace.
MARKER_KINDS = ('boxes', 'heading', 'labels')
#: One more kind for tracked objects.
VELOCITY_KIND = 'velocity'

LINE_WIDTH_M = 0.08
TEXT_HEIGHT_M = 0.6
#: Distance of the label above the box.
TEXT_GAP_M = 0.5
#: Length of the heading arrow beyond the front of the box.
ARROW_REACH_M = 1.0
#: The velocity arrow ends at the predicted centre after this time.
VELOCITY_ARROW_S = 1.0
#: Slower objects have no velocity arrow.
MIN_SPEED_M_S = 0.5


class _ArrayContext(NamedTuple):
    """Values that all markers of an array share."""

    header: Any
    lifetime: Any
    make_message: MessageFactory


class _Shape(NamedTuple):
    """
    Coordinates of the markers of one object, metres, in the frame of the markers.

    :param corners: the 8 corners of the box.
    :param heading: tail and tip of the heading arrow.
    :param text_position: centre of the label.
    :param velocity: tail and tip of the velocity arrow; None for an object that is slower than
        MIN_SPEED_M_S or not tracked.
    """

    corners: list[list[float]]
    heading: list[list[float]]
    text_position: list[float]
    velocity: list[list[float]] | None


def to_marker_array(
    result: FrameResult,
    previous_ids: Iterable[int],
    make_message: MessageFactory,
    *,
    lifetime_s: float = 0.3,
    target: TargetFrame | None = None,
) -> Any:
    """
    Build the markers of a result: outline, heading, label and, if tracked, velocity.

    The first marker of every array, with or without objects, is a DELETE in '<camera>/frame' that
    carries the stamp and frame of the image: viewers ignore it; recorders and tests use it to
    identify the processed image.

    :param result: objects to draw.
    :param previous_ids: result.ids of the camera's previous array; markers of ids that are gone
        are deleted in this same array, so nothing flickers and no marker stays behind.
    :param make_message: message factory.
    :param lifetime_s: viewers remove the boxes after this time; 0 means never.
    :param target: frame of the markers; None: the camera's own.
    :return: visualization_msgs MarkerArray.
    """
    target = target or identity_target(result.frame_id)
    header = to_header(result.stamp_ns, target.frame_id, make_message)
    context = _ArrayContext(header, to_duration(lifetime_s, make_message), make_message)
    removed = sorted(set(previous_ids) - set(result.ids))
    drawn = [_delete_marker(f'{result.camera}/frame', 0, context)]
    for row, shape in enumerate(_object_shapes(result, target)):
        drawn += _object_markers(result, row, shape, context)
    kinds = MARKER_KINDS if result.velocity_m_s is None else (*MARKER_KINDS, VELOCITY_KIND)
    drawn += [
        _delete_marker(f'{result.camera}/{kind}', id, context) for id in removed for kind in kinds
    ]
    return make_message('visualization_msgs/msg/MarkerArray', markers=drawn)


def object_label(result: FrameResult, row: int) -> str:
    """Format class, score and depth of an object, and its id if it is tracked."""
    objects = result.objects
    name, z = result.classes[objects.class_id[row]], objects.center_m[row, 2]
    id = '' if result.velocity_m_s is None else f' #{result.ids[row]}'
    return f'{name} {objects.score[row]:.2f} {z:.1f} m{id}'


def _object_shapes(result: FrameResult, target: TargetFrame) -> list[_Shape]:
    """Compute the marker coordinates of each object."""
    objects = result.objects
    box = box_corners(objects.center_m, objects.size_hwl_m, objects.rotation_y)
    front, back = box[:, [0, 1, 4, 5]].mean(1), box[:, [2, 3, 6, 7]].mean(1)
    reach = ARROW_REACH_M / np.maximum(objects.size_hwl_m[:, 2:], 1e-6)
    tip = front + (front - back) * reach
    above = objects.center_m.copy()
    above[:, 1] -= objects.size_hwl_m[:, 0] / 2 + TEXT_GAP_M  # y is down
    corners = target.transform_points(box).tolist()
    headings = target.transform_points(np.stack([front, tip], 1)).tolist()
    velocities = _velocity_arrows(result, target)
    return [
        _Shape(*each)
        for each in zip(
            corners, headings, target.transform_points(above).tolist(), velocities, strict=True
        )
    ]


def _velocity_arrows(result: FrameResult, target: TargetFrame) -> list[list[list[float]] | None]:
    """Compute tail and tip of each velocity arrow, see _Shape."""
    center, velocity = result.objects.center_m, result.velocity_m_s
    if velocity is None:
        return [None] * len(center)
    arrows = target.transform_points(
        np.stack([center, center + VELOCITY_ARROW_S * velocity], 1)
    ).tolist()
    fast = np.linalg.norm(velocity, axis=1) >= MIN_SPEED_M_S
    return [arrow if moves else None for arrow, moves in zip(arrows, fast, strict=True)]


def _object_markers(
    result: FrameResult, row: int, shape: _Shape, context: _ArrayContext
) -> list[Any]:
    """Build the markers of one object, one of each kind."""
    make, id = context.make_message, result.ids[row]
    name = result.classes[result.objects.class_id[row]]
    shared = {
        'header': context.header,
        'id': id,
        'action': ADD,
        'pose': to_pose((0.0, 0.0, 0.0), make),
        'color': _to_colour(name, make),
        'lifetime': context.lifetime,
        'frame_locked': False,
    }
    line = to_vector((LINE_WIDTH_M, 0.0, 0.0), make)
    # ROS points are slow to create, so the edges share the points of the corners
    points = _to_points(shape.corners, make)
    ends = [points[corner] for edge in BOX_EDGES for corner in edge]
    outline = {'type': LINE_LIST, 'points': ends, 'scale': line}
    label = {
        'type': TEXT_VIEW_FACING,
        'text': object_label(result, row),
        'pose': to_pose(shape.text_position, make),
        'scale': to_vector((0.0, 0.0, TEXT_HEIGHT_M), make),
    }
    parts = dict(
        zip(MARKER_KINDS, (outline, _arrow_fields(shape.heading, make), label), strict=True)
    )
    if shape.velocity is not None:
        parts[VELOCITY_KIND] = _arrow_fields(shape.velocity, make)
    object_markers = [
        make('visualization_msgs/msg/Marker', **{**shared, **part}, ns=f'{result.camera}/{kind}')
        for kind, part in parts.items()
    ]
    if VELOCITY_KIND not in parts and result.velocity_m_s is not None:
        # the arrow of the previous frame must not stay
        object_markers.append(_delete_marker(f'{result.camera}/{VELOCITY_KIND}', id, context))
    return object_markers


def _arrow_fields(
    tail_and_tip: Sequence[Sequence[float]], make_message: MessageFactory
) -> dict[str, Any]:
    scale = to_vector((LINE_WIDTH_M, 3 * LINE_WIDTH_M, 3 * LINE_WIDTH_M), make_message)
    return {'type': ARROW, 'points': _to_points(tail_and_tip, make_message), 'scale': scale}


def _to_points(points_m: Sequence[Sequence[float]], make_message: MessageFactory) -> list[Any]:
    return [to_point(each, make_message) for each in points_m]


def _delete_marker(ns: str, id: int, context: _ArrayContext) -> Any:
    """Build a marker that deletes another one."""
    return context.make_message(
        'visualization_msgs/msg/Marker',
        header=context.header,
        ns=ns,
        id=id,
        action=DELETE,
        pose=to_pose((0.0, 0.0, 0.0), context.make_message),
    )


def _to_colour(name: str, make_message: MessageFactory) -> Any:
    r, g, b = (level / 255 for level in class_colour(name))
    return make_message('std_msgs/msg/ColorRGBA', r=r, g=g, b=b, a=1.0)
