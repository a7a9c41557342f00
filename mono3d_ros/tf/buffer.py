"""
Transform buffer of the last seconds of /tf and all of /tf_static, for a node without tf2_ros.

Messages are stored unread; a lookup reads only the transforms that connect two frames at the
requested time, with TransformHistory. Like tf2, it does not extrapolate into the future.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple, Protocol

from mono3d_ros.messages.primitives import header_stamp_ns
from mono3d_ros.tf.history import TransformHistory
from mono3d_ros.tf.transforms import refusal, slash_hint, strip_slash
from stl_core.types import Array

#: Moving transforms are kept at least this long, as in tf2.
CACHE_TIME_NS = 10_000_000_000


class TransformUnavailableError(LookupError):
    """
    No transform connects two frames at a time.

    :param text: the reason.
    :param retryable: True if the transform may still arrive: the frames are known, but their
        latest transform is older than the requested time.
    """

    def __init__(self, text: str, retryable: bool = False) -> None:
        """Store the reason and whether to retry."""
        super().__init__(text)
        self.retryable = retryable


class TransformSource(Protocol):
    """Source of transforms between coordinate frames."""

    def lookup(self, target: str, source: str, at_ns: int) -> Array:
        """Return the (4, 4) from source to target; raise TransformUnavailableError without one."""
        ...


class _Gap(NamedTuple):
    """Why a chain of transforms is incomplete, and whether it may still be completed."""

    text: str
    retryable: bool


class _TransformChain(NamedTuple):
    """The transforms from a frame to its root; gap: why they end before the root, if they do."""

    static: list[Any]
    moving: list[Any]
    gap: _Gap | None


class TransformBuffer:
    """
    Transform buffer, see the module; lookup may run in another thread than the put methods.

    Like tf2, it strips a leading slash of the names of received frames, ignores what cannot be a
    transform, and takes a frame for static or moving as its latest message says.
    """

    def __init__(self, on_note: Callable[[str], None] = lambda text: None) -> None:
        """
        Start without transforms.

        :param on_note: receives the reason for each transform that is ignored, and for each frame
            that changes between static and moving.
        """
        self._on_note = on_note
        self._static: dict[str, Any] = {}
        self._moving: dict[str, list[Any]] = {}

    def put_static(self, message: Any) -> None:
        """Store the static transforms of a TFMessage permanently."""
        for child, each in self._accepted(message):
            if child in self._moving:
                self._note_change(child)
                self._moving = {name: old for name, old in self._moving.items() if name != child}
            self._static = {**self._static, child: each}

    def put_moving(self, message: Any) -> None:
        """Store the moving transforms of a TFMessage for at least CACHE_TIME_NS."""
        for child, each in self._accepted(message):
            if child in self._static:
                self._note_change(child)
                self._static = {name: old for name, old in self._static.items() if name != child}
            self._moving[child] = _insert_transform(self._moving.get(child, []), each)

    def _accepted(self, message: Any) -> Iterator[tuple[str, Any]]:
        """Yield the usable transforms of a TFMessage by the names of their child frames."""
        for each in message.transforms:
            if reason := refusal(each):
                self._on_note(f'ignored, as tf2 does: {reason}')
            else:
                yield strip_slash(each.child_frame_id), each

    def _note_change(self, child: str) -> None:
        self._on_note(f'frame {child!r} is published as static and as moving: the latest counts')

    def clear(self) -> None:
        """Remove the moving transforms, after time was set back."""
        self._moving = {}

    def lookup(self, target: str, source: str, at_ns: int) -> Array:
        """
        Return the transform from one frame to another at a time.

        :param target: frame to transform points to.
        :param source: frame of the points.
        :param at_ns: requested time.
        :return: (4, 4).
        :raises TransformUnavailableError: if no transform connects the frames at that time.
        """
        chains = [self._collect_chain(name, at_ns) for name in (source, target)]
        static = [each for chain in chains for each in chain.static]
        moving = [each for chain in chains for each in chain.moving]
        history = TransformHistory([_tf_message(static)], [_tf_message([each]) for each in moving])
        target_T_source = history.lookup_between(target, at_ns, source, at_ns)
        if target_T_source is not None:
            return target_T_source
        gap = next((chain.gap for chain in chains if chain.gap), None)
        unknown = [name for name in (source, target) if not self._is_known(name)]
        reason = gap.text if gap else 'tf knows both frames, but they are not connected'
        if unknown:
            reason = f'tf does not know {" and ".join(unknown)}'
        if slashes := [name for name in (source, target) if name.startswith('/')]:
            reason = slash_hint(slashes)
        late = not unknown and gap is not None and gap.retryable
        raise TransformUnavailableError(f'no transform from {source} to {target}: {reason}', late)

    def _collect_chain(self, name: str, at_ns: int) -> _TransformChain:
        """Collect the transforms from a frame to its root, of moving ones those around a time."""
        chain, visited = _TransformChain([], [], None), set()
        while name not in visited:
            visited.add(name)
            if received := self._moving.get(name):
                index = bisect_left(received, at_ns, key=_transform_stamp_ns)
                if gap := _find_gap(received, index, at_ns, name):
                    return chain._replace(gap=gap)
                around = received[max(0, index - 1) : index + 1]
                chain.moving.extend(around)
                name = _parent(around[-1])
            elif name in self._static:
                chain.static.append(self._static[name])
                name = _parent(self._static[name])
        return chain

    def _is_known(self, name: str) -> bool:
        static, moving = dict(self._static), dict(self._moving)  # others may add frames meanwhile
        received = [*static.values(), *(each[-1] for each in moving.values())]
        return name in (*static, *moving, *map(_parent, received))


def _parent(transform: Any) -> str:
    return strip_slash(transform.header.frame_id)


def _insert_transform(received: list[Any], transform: Any) -> list[Any]:
    """Return the list with a transform added; in place only at its end, for concurrent readers."""
    now_ns = _transform_stamp_ns(transform)
    if received and now_ns < _transform_stamp_ns(received[-1]) - CACHE_TIME_NS:
        return [transform]  # a bag is played again
    if received and now_ns < _transform_stamp_ns(received[-1]):
        received = list(received)
        insort(received, transform, key=_transform_stamp_ns)
        return received
    received.append(transform)
    # prune at twice the cache time, so not at every message
    if _transform_stamp_ns(received[0]) < now_ns - 2 * CACHE_TIME_NS:
        return received[bisect_left(received, now_ns - CACHE_TIME_NS, key=_transform_stamp_ns) :]
    return received


def _find_gap(received: Sequence[Any], index: int, at_ns: int, name: str) -> _Gap | None:
    """Return why the transforms of a frame do not cover a time, or None if they do."""
    if index == len(received):
        ms = (at_ns - _transform_stamp_ns(received[-1])) / 1e6
        return _Gap(
            f'the latest transform of {name} is {ms:.0f} ms older than the image', retryable=True
        )
    if index == 0 and _transform_stamp_ns(received[0]) > at_ns:
        ms = (_transform_stamp_ns(received[0]) - at_ns) / 1e6
        return _Gap(
            f'the first transform of {name} is {ms:.0f} ms newer than the image', retryable=False
        )
    return None


def _transform_stamp_ns(transform: Any) -> int:
    return header_stamp_ns(transform.header)


def _tf_message(transforms: Any) -> Any:
    return SimpleNamespace(transforms=list(transforms))
