"""Transforms between coordinate frames: /tf and /tf_static messages, and lookups in a tree."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.spatial.transform import Rotation

from mono3d_ros.messages.primitives import MessageFactory, to_header
from stl_core.types import Array

#: Child frame -> its parent and the (4, 4) transform from child to parent.
TransformTree = Mapping[str, 'tuple[str, Array]']


#: Largest deviation of the squared length of a quaternion from 1, as in tf2.
QUATERNION_TOLERANCE = 0.01


class Pose(NamedTuple):
    """
    Pose of a child frame in its parent frame.

    :param parent: name of the parent frame.
    :param child: name of the child frame.
    :param parent_T_child: (4, 4) transform from child to parent.
    """

    parent: str
    child: str
    parent_T_child: Array


def make_tf_message(poses: Sequence[Pose], stamp_ns: int, make_message: MessageFactory) -> Any:
    """Build the TFMessage of some poses, all with one stamp."""
    return make_message(
        'tf2_msgs/msg/TFMessage',
        transforms=[_transform_stamped(p, stamp_ns, make_message) for p in poses],
    )


def strip_slash(frame_id: str) -> str:
    """Return a frame name without one leading slash: tf2 strips those of received transforms."""
    return frame_id.removeprefix('/')


def slash_hint(names: Sequence[str]) -> str:
    """Return why frames of headers or parameters that begin with a slash are not in tf."""
    right = ' and '.join(repr(strip_slash(name)) for name in names)
    given = ' and '.join(map(repr, names))
    return f'names of tf frames begin without a slash: {right}, not {given}'


def refusal(transform: Any) -> str:
    """
    Return why a received transform is ignored; '' if it is not.

    The rules are those of tf2's BufferCore::setTransform; infinite translations, which tf2 stores,
    are ignored too.

    :param transform: geometry_msgs TransformStamped.
    """
    parent, child = strip_slash(transform.header.frame_id), strip_slash(transform.child_frame_id)
    move, turn = transform.transform.translation, transform.transform.rotation
    quaternion = (turn.x, turn.y, turn.z, turn.w)
    name = f'transform from {child!r} to {parent!r}'
    if not parent or not child:
        return f'{name}: a frame has no name'
    if parent == child:
        return f'{name}: a frame is its parent'
    if not all(map(math.isfinite, (move.x, move.y, move.z, *quaternion))):
        return f'{name}: numbers that are not finite'
    if not abs(sum(each * each for each in quaternion) - 1.0) < QUATERNION_TOLERANCE:
        return f'{name}: a quaternion of a length other than 1'
    return ''


def read_tf_message(message: Any) -> dict[str, tuple[str, Array]]:
    """
    Return the transform tree of a TFMessage; merge trees with |, the newer on the right.

    Names have no leading slash; transforms with a refusal are left out.
    """
    tree = {}
    for each in message.transforms:
        if refusal(each):
            continue
        translation, q = each.transform.translation, each.transform.rotation
        matrix = np.eye(4)
        matrix[:3, :3] = Rotation.from_quat([q.x, q.y, q.z, q.w]).as_matrix()
        matrix[:3, 3] = translation.x, translation.y, translation.z
        tree[strip_slash(each.child_frame_id)] = (strip_slash(each.header.frame_id), matrix)
    return tree


def lookup_in_tree(tree: TransformTree, target: str, source: str) -> Array | None:
    """Return the (4, 4) transform from source to target; None if they are not connected."""
    from_source, from_target = _to_ancestors(tree, source), _to_ancestors(tree, target)
    shared = next((name for name in from_source if name in from_target), None)
    if shared is None:
        return None
    return np.linalg.inv(from_target[shared]) @ from_source[shared]


def _to_ancestors(tree: TransformTree, name: str) -> dict[str, Array]:
    """Return the (4, 4) from a frame to itself, to its parent and so on, up to the root."""
    transforms = {name: np.eye(4)}
    while name in tree and tree[name][0] not in transforms:  # stop at a loop
        parent, parent_T_name = tree[name]
        transforms[parent] = parent_T_name @ transforms[name]
        name = parent
    return transforms


def _transform_stamped(pose: Pose, stamp_ns: int, make_message: MessageFactory) -> Any:
    # KITTI prints rotations to 7 digits: use the nearest true rotation
    u, _, vt = np.linalg.svd(pose.parent_T_child[:3, :3])
    x, y, z, w = Rotation.from_matrix(u @ vt).as_quat().tolist()
    tx, ty, tz = pose.parent_T_child[:3, 3].tolist()
    return make_message(
        'geometry_msgs/msg/TransformStamped',
        header=to_header(stamp_ns, pose.parent, make_message),
        child_frame_id=pose.child,
        transform=make_message(
            'geometry_msgs/msg/Transform',
            translation=make_message('geometry_msgs/msg/Vector3', x=tx, y=ty, z=tz),
            rotation=make_message('geometry_msgs/msg/Quaternion', x=x, y=y, z=z, w=w),
        ),
    )
