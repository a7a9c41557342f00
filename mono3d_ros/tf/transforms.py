"""Transforms between coordinate frames: /tf and /tf_static messages, and lookups in a tree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.spatial.transform import Rotation

from mono3d_ros.messages.primitives import MessageFactory, to_header
from stl_core.types import Array

#: Child frame -> its parent and the (4, 4) transform from child to parent.
TransformTree = Mapping[str, 'tuple[str, Array]']


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


def read_tf_message(message: Any) -> dict[str, tuple[str, Array]]:
    """Return the transform tree of a TFMessage; merge trees with |, the newer on the right."""
    tree = {}
    for each in message.transforms:
        translation, q = each.transform.translation, each.transform.rotation
        quaternion = np.array([q.x, q.y, q.z, q.w])
        if not np.isfinite(quaternion).all() or not quaternion.any():
            continue  # not a rotation; tf2 ignores these too
        matrix = np.eye(4)
        matrix[:3, :3] = Rotation.from_quat(quaternion).as_matrix()
        matrix[:3, 3] = translation.x, translation.y, translation.z
        tree[each.child_frame_id] = (each.header.frame_id, matrix)
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
