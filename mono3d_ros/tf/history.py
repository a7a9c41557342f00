"""Every transform of a recorded drive: where frames stood in each other, and when."""

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
    """What /tf and /tf_static said; between two messages, frames move evenly."""

    def __init__(self, static: Iterable[Any], moving: Iterable[Any]) -> None:
        """
        Read it all.

        :param static: TFMessages that hold for all times, in order of recording.
        :param moving: TFMessages whose transforms hold at their stamps, in any order.
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
                moment = _StampedTransform(stamps[child], parent, matrix)
                self._moving.setdefault(child, []).append(moment)
        for moments in self._moving.values():
            moments.sort(key=_transform_stamp_ns)

    def lookup_between(
        self, target: str, target_ns: int, source: str, source_ns: int
    ) -> Array | None:
        """
        Take points that were measured at one time to another frame at another time.

        Where the times differ, the way leads over the outermost frame, such as odom, that both
        frames hang on: so what the car drove between the two is allowed for.

        :param target: frame of the points wanted.
        :param target_ns: when it is looked at.
        :param source: frame of the points as they were measured.
        :param source_ns: when they were.
        :return: (4, 4); None where no transform leads there.
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
        """Return the transforms from a frame outwards, at one time."""
        chain: dict[str, tuple[str, Array]] = {}
        while name not in chain:
            step = self._parent_at(name, at_ns)
            if step is None:
                break
            chain[name] = step
            name = step[0]
        return chain

    def _parent_at(self, name: str, at_ns: int) -> tuple[str, Array] | None:
        """Return the parent of a frame, and where it stands in it, at one time."""
        moments = self._moving.get(name)
        if not moments:
            return self._static.get(name)
        place = bisect_left(moments, at_ns, key=_transform_stamp_ns)
        after = moments[min(place, len(moments) - 1)]
        before = moments[max(0, place - 1)]
        if after.stamp_ns == at_ns or place == 0:
            return after.parent, after.parent_T_child
        if place == len(moments) or before.parent != after.parent:
            return before.parent, before.parent_T_child
        share = (at_ns - before.stamp_ns) / (after.stamp_ns - before.stamp_ns)
        return before.parent, _interpolate_pose(before.parent_T_child, after.parent_T_child, share)


def _transform_stamp_ns(transform: _StampedTransform) -> int:
    return transform.stamp_ns


def _root(chain: dict[str, tuple[str, Array]], name: str) -> str:
    """Return the outermost frame of a chain."""
    seen = set()
    while name in chain and name not in seen:
        seen.add(name)
        name = chain[name][0]
    return name


def _interpolate_pose(before: Array, after: Array, fraction: float) -> Array:
    """Go a share of the way from one (4, 4) to another."""
    turns = Rotation.from_matrix(np.stack([before[:3, :3], after[:3, :3]]))
    mixed = np.eye(4)
    mixed[:3, :3] = Slerp([0.0, 1.0], turns)(fraction).as_matrix()
    mixed[:3, 3] = before[:3, 3] + fraction * (after[:3, 3] - before[:3, 3])
    return mixed
