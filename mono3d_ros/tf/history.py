"""
Transform history of a recorded drive: interpolated lookups between frames and times.

Like tf2, it refuses what cannot be a transform, and does not extrapolate: before the first and
after the last message of a moving transform there is none.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable
from functools import cached_property
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


class _Chain(NamedTuple):
    """Transforms from a frame towards its root at one time; gap: why they end before the root."""

    tree: dict[str, tuple[str, Array]]
    gap: str


class TransformHistory:
    """All transforms of /tf and /tf_static; poses between two messages are interpolated."""

    def __init__(self, static: Iterable[Any], moving: Iterable[Any]) -> None:
        """
        Read all messages.

        :param static: TFMessages that are valid at all times, in order of recording.
        :param moving: TFMessages that are valid at their stamps, in any order. A frame that is
            moving, too, is moving: tf2 replaces its static transform.
        """
        #: Why transforms were ignored -> their number.
        self.notes = Counter[str]()
        self._static: dict[str, tuple[str, Array]] = {}
        for message in static:
            self._count_refusals(message)
            self._static |= transforms.read_tf_message(message)
        self._moving: dict[str, list[_StampedTransform]] = {}
        for message in moving:
            self._count_refusals(message)
            for each in message.transforms:
                # one by one: a message may contain several transforms of a frame
                for child, step in transforms.read_tf_message(_TfMessage([each])).items():
                    stamped = _StampedTransform(header_stamp_ns(each.header), *step)
                    self._moving.setdefault(child, []).append(stamped)
        for child, history in self._moving.items():
            history.sort(key=_transform_stamp_ns)
            if child in self._static:
                self.notes[f'frame {child!r} is static and moving: moving transforms used'] += 1

    def is_known(self, name: str) -> bool:
        """Return whether any transform has this frame."""
        return name in self._frames

    @cached_property
    def _frames(self) -> frozenset[str]:
        """The names of all frames."""
        steps = (step for history in self._moving.values() for step in history)
        static_parents = (parent for parent, _ in self._static.values())
        return frozenset(
            (*self._static, *static_parents, *self._moving, *(each.parent for each in steps))
        )

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
        :return: (4, 4); None if the frames are not connected at these times.
        """
        to_target, to_source = self._chain(target, target_ns), self._chain(source, source_ns)
        if target_ns == source_ns:
            return transforms.lookup_in_tree({**to_source.tree, **to_target.tree}, target, source)
        root = _root(to_target.tree, target)
        if root != _root(to_source.tree, source) or to_target.gap or to_source.gap:
            return None
        target_T_root = transforms.lookup_in_tree(to_target.tree, target, root)
        root_T_source = transforms.lookup_in_tree(to_source.tree, root, source)
        if target_T_root is None or root_T_source is None:
            return None
        return target_T_root @ root_T_source

    def explain_missing(self, target: str, target_ns: int, source: str, source_ns: int) -> str:
        """Return why lookup_between returned None: frames, slashes or times."""
        if slashes := [name for name in (source, target) if name.startswith('/')]:
            return transforms.slash_hint(slashes)
        if unknown := [name for name in (source, target) if not self.is_known(name)]:
            return f'tf does not know {" and ".join(map(repr, unknown))}'
        gaps = (self._chain(target, target_ns).gap, self._chain(source, source_ns).gap)
        return next(filter(None, gaps), 'tf knows both frames, but they are not connected')

    def _count_refusals(self, message: Any) -> None:
        reasons = filter(None, map(transforms.refusal, message.transforms))
        self.notes.update(f'ignored, as tf2 does: {reason}' for reason in reasons)

    def _chain(self, name: str, at_ns: int) -> _Chain:
        """Return the transforms from a frame to its root, at one time."""
        tree: dict[str, tuple[str, Array]] = {}
        while name not in tree:
            history = self._moving.get(name)
            if history:
                if not history[0].stamp_ns <= at_ns <= history[-1].stamp_ns:
                    begin_s, end_s = history[0].stamp_ns / 1e9, history[-1].stamp_ns / 1e9
                    covered = f'only from {begin_s:.3f} to {end_s:.3f} s'
                    return _Chain(tree, f'tf has the moving frame {name!r} {covered}')
                tree[name] = _pose_at(history, at_ns)
            elif name in self._static:
                tree[name] = self._static[name]
            else:
                break
            name = tree[name][0]
        return _Chain(tree, '')


class _TfMessage(NamedTuple):
    transforms: list[Any]


def _pose_at(history: list[_StampedTransform], at_ns: int) -> tuple[str, Array]:
    """Return parent and (4, 4) to it at a time within a history."""
    index = bisect_left(history, at_ns, key=_transform_stamp_ns)
    after, before = history[index], history[max(0, index - 1)]
    if after.stamp_ns == at_ns:
        return after.parent, after.parent_T_child
    if before.parent != after.parent:
        return before.parent, before.parent_T_child
    fraction = (at_ns - before.stamp_ns) / (after.stamp_ns - before.stamp_ns)
    pose = _interpolate_pose(before.parent_T_child, after.parent_T_child, fraction)
    return before.parent, pose


def _transform_stamp_ns(transform: _StampedTransform) -> int:
    return transform.stamp_ns


def _root(tree: dict[str, tuple[str, Array]], name: str) -> str:
    """Return the root frame of a chain."""
    visited = set()
    while name in tree and name not in visited:
        visited.add(name)
        name = tree[name][0]
    return name


def _interpolate_pose(before: Array, after: Array, fraction: float) -> Array:
    """Interpolate between two (4, 4) transforms: slerp of rotations, linear in translation."""
    rotations = Rotation.from_matrix(np.stack([before[:3, :3], after[:3, :3]]))
    matrix = np.eye(4)
    matrix[:3, :3] = Slerp([0.0, 1.0], rotations)(fraction).as_matrix()
    matrix[:3, 3] = before[:3, 3] + fraction * (after[:3, 3] - before[:3, 3])
    return matrix
