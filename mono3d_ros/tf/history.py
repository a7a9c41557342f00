"""Transform history of a recorded drive: interpolated lookups between frames and times."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from scipy.spatial.transform import Rotation, Slerp

from mono3d_ros.messages.primitives import header_stamp_ns
from mono3d_ros.tf import transforms
from stl_core.types import Array


class _StampedTransform(NamedTuple):
    stamp_ns: int
    parent: str
    parent_T_child: Array


class TransformHistory:
    """All transforms of /tf and /tf_static; poses between two messages are interpolated."""

    def __init__(self, static: Iterable[Any], moving: Iterable[Any]) -> None:
        """
        Read all messages.

        :param static: TFMessages that are valid at all times, in order of recording.
        :param moving: TFMessages that are valid at their stamps, in any order.
        """
        self._static: dict[str, tuple[str, Array]] = {}
        for message in static:
            self._static |= transforms.read_tf_message(message)
        self._moving: dict[str, list[_StampedTransform]] = {}
        for message in moving:
            stamps = {
                each.child_frame_id: header_stamp_ns(each.header) for each in message.transforms
            }
            for child, (parent, matrix) in transforms.read_tf_message(message).items():
                stamped = _StampedTransform(stamps[child], parent, matrix)
                self._moving.setdefault(child, []).append(stamped)
        for history in self._moving.values():
            history.sort(key=_transform_stamp_ns)

    def lookup_between(
        self, target: str, target_ns: int, source: str, source_ns: int
    ) -> Array | None:
        """
        Return the transform from a frame at one time to another frame at another time.

        If the times differ, the transform goes through the common root frame, such as odom, which
        accounts for the motion of the car between them.

        :param target: frame to transform points to.
        :param target_ns: time of the target frame.
        :param source: frame of the points.
        :param source_ns: time of the source frame.
        :return: (4, 4); None if the frames are not connected.
        """
        to_target, to_source = self._chain(target, target_ns), self._chain(source, source_ns)
        if target_ns == source_ns:
            return transforms.lookup_in_tree({**to_source, **to_target}, target, source)
        root = _root(to_target, target)
        if root != _root(to_source, source):
            return None
        target_T_root = transforms.lookup_in_tree(to_target, target, root)
        root_T_source = transforms.lookup_in_tree(to_source, root, source)
        if target_T_root is None or root_T_source is None:
            return None
        return target_T_root @ root_T_source

    def _chain(self, name: str, at_ns: int) -> dict[str, tuple[str, Array]]:
        """Return the transforms from a frame to its root, at one time."""
        chain: dict[str, tuple[str, Array]] = {}
        while name not in chain:
            step = self._parent_at(name, at_ns)
            if step is None:
                break
            chain[name] = step
            name = step[0]
        return chain

    def _parent_at(self, name: str, at_ns: int) -> tuple[str, Array] | None:
        """Return the parent of a frame and the (4, 4) to it, at one time; None for a root."""
        history = self._moving.get(name)
        if not history:
            return self._static.get(name)
        index = bisect_left(history, at_ns, key=_transform_stamp_ns)
        after = history[min(index, len(history) - 1)]
        before = history[max(0, index - 1)]
        if after.stamp_ns == at_ns or index == 0:
            return after.parent, after.parent_T_child
        if index == len(history) or before.parent != after.parent:
            return before.parent, before.parent_T_child
        fraction = (at_ns - before.stamp_ns) / (after.stamp_ns - before.stamp_ns)
        return before.parent, _interpolate_pose(
            before.parent_T_child, after.parent_T_child, fraction
        )


def _transform_stamp_ns(transform: _StampedTransform) -> int:
    return transform.stamp_ns


def _root(chain: dict[str, tuple[str, Array]], name: str) -> str:
    """Return the root frame of a chain."""
    visited = set()
    while name in chain and name not in visited:
        visited.add(name)
        name = chain[name][0]
    return name


def _interpolate_pose(before: Array, after: Array, fraction: float) -> Array:
    """Interpolate between two (4, 4) transforms: slerp of rotations, linear in translation."""
    rotations = Rotation.from_matrix(np.stack([before[:3, :3], after[:3, :3]]))
    matrix = np.eye(4)
    matrix[:3, :3] = Slerp([0.0, 1.0], rotations)(fraction).as_matrix()
    matrix[:3, 3] = before[:3, 3] + fraction * (after[:3, 3] - before[:3, 3])
    return matrix
