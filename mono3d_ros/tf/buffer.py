"""
The last seconds of /tf and all of /tf_static, for a node that has no tf2_ros.

Transforms are kept as they come; only those on the way between two frames, at the time that is
asked for, are read, by TransformHistory. Like tf2 it refuses to look ahead of what was heard.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple, Protocol

from mono3d_ros.messages.primitives import header_stamp_ns
from mono3d_ros.tf.history import TransformHistory
from stl_core.types import Array

#: Moving transforms are kept at least this long, as tf2 does.
CACHE_TIME_NS = 10_000_000_000


class TransformUnavailableError(LookupError):
    """
    No way leads from one frame to another at a time.

    :param text: why.
    :param retryable: it may come yet: the frames are known, but not so late.
    """

    def __init__(self, text: str, retryable: bool = False) -> None:
        """Say why."""
        super().__init__(text)
        self.retryable = retryable


class TransformSource(Protocol):
    """Where frames stand in each other."""

    def lookup(self, target: str, source: str, at_ns: int) -> Array:
        """Return the (4, 4) that takes points of source to target; else MissingTransform."""
        ...


class _Gap(NamedTuple):
    """Why the way ends, and whether it may yet go on."""

    text: str
    retryable: bool


class _TransformChain(NamedTuple):
    """The transforms from a frame outwards, and where they end too early."""

    static: list[Any]
    moving: list[Any]
    gap: _Gap | None


class TransformBuffer:
    """See the module; may be asked by another thread than that which puts."""

    def __init__(self) -> None:
        """Begin with nothing heard."""
        self._static: dict[str, Any] = {}
        self._moving: dict[str, list[Any]] = {}

    def put_static(self, message: Any) -> None:
        """Keep the transforms of a TFMessage for good."""
        self._static = {
            **self._static,
            **{each.child_frame_id: each for each in message.transforms},
        }

    def put_moving(self, message: Any) -> None:
        """Keep the transforms of a TFMessage for a while."""
        for each in message.transforms:
            heard = self._moving.get(each.child_frame_id, [])
            self._moving[each.child_frame_id] = _insert_transform(heard, each)

    def clear(self) -> None:
        """Forget what moves: time was set back."""
        self._moving = {}

    def lookup(self, target: str, source: str, at_ns: int) -> Array:
        """
        Tell where a frame stood in another.

        :param target: frame of the points wanted.
        :param source: frame of the points as they are.
        :param at_ns: when.
        :return: (4, 4).
        :raises MissingTransform: where no way leads there at that time.
        """
        ways = [self._collect_chain(name, at_ns) for name in (source, target)]
        static = [each for way in ways for each in way.static]
        moving = [each for way in ways for each in way.moving]
        history = TransformHistory([_tf_message(static)], [_tf_message([each]) for each in moving])
        found = history.lookup_between(target, at_ns, source, at_ns)
        if found is not None:
            return found
        gap = next((way.gap for way in ways if way.gap), None)
        strange = [name for name in (source, target) if not self._is_known(name)]
        why = gap.text if gap else 'tf knows both, but no way from one to the other'
        if strange:
            why = f'tf has not heard of {" and ".join(strange)}'
        late = not strange and gap is not None and gap.retryable
        raise TransformUnavailableError(f'no transform from {source} to {target}: {why}', late)

    def _collect_chain(self, name: str, at_ns: int) -> _TransformChain:
        """Collect the transforms from a frame outwards, of moving ones those around a time."""
        way, seen = _TransformChain([], [], None), set()
        while name not in seen:
            seen.add(name)
            if heard := self._moving.get(name):
                place = bisect_left(heard, at_ns, key=_transform_stamp_ns)
                if gap := _find_gap(heard, place, at_ns, name):
                    return way._replace(gap=gap)
                around = heard[max(0, place - 1) : place + 1]
                way.moving.extend(around)
                name = around[-1].header.frame_id
            elif name in self._static:
                way.static.append(self._static[name])
                name = self._static[name].header.frame_id
        return way

    def _is_known(self, name: str) -> bool:
        heard = [*self._static.values(), *(each[-1] for each in self._moving.values())]
        return any(name in (each.child_frame_id, each.header.frame_id) for each in heard)


def _insert_transform(received: list[Any], transform: Any) -> list[Any]:
    """Add a transform; the list changes at its end only, for another thread may be reading it."""
    now_ns = _transform_stamp_ns(transform)
    if received and now_ns < _transform_stamp_ns(received[-1]) - CACHE_TIME_NS:
        return [transform]  # a bag that is played again
    if received and now_ns < _transform_stamp_ns(received[-1]):
        received = list(received)
        insort(received, transform, key=_transform_stamp_ns)
        return received
    received.append(transform)
    if (
        _transform_stamp_ns(received[0]) < now_ns - 2 * CACHE_TIME_NS
    ):  # now and then, not each time
        return received[bisect_left(received, now_ns - CACHE_TIME_NS, key=_transform_stamp_ns) :]
    return received


def _find_gap(received: Sequence[Any], index: int, at_ns: int, name: str) -> _Gap | None:
    """Tell why the transforms of a frame do not reach to a time."""
    if index == len(received):
        ms = (at_ns - _transform_stamp_ns(received[-1])) / 1e6
        return _Gap(f'{name} was last heard of {ms:.0f} ms before the image', retryable=True)
    if index == 0 and _transform_stamp_ns(received[0]) > at_ns:
        ms = (_transform_stamp_ns(received[0]) - at_ns) / 1e6
        return _Gap(f'{name} was first heard of {ms:.0f} ms after the image', retryable=False)
    return None


def _transform_stamp_ns(transform: Any) -> int:
    return header_stamp_ns(transform.header)


def _tf_message(transforms: Any) -> Any:
    return SimpleNamespace(transforms=list(transforms))
