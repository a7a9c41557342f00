"""Throttled logging: count every issue for /diagnostics, log it at most every few seconds."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping

from mono3d_ros.monitoring.counters import Counters

#: Shortest time between two log lines of the same camera and kind of issue, seconds.
REPEAT_DEFAULT_S = 5.0
#: Kinds of issue that rarely change by themselves are logged less often, or once.
REPEAT_S = {
    'uncalibrated': math.inf,
    'unfamiliar_lens': math.inf,
    'distorted': math.inf,
    'assumed': math.inf,
    'no_transform': 30.0,
    'odd_header': 30.0,
    'tf_note': 30.0,
    'silent': 30.0,
    'wrong_type': 30.0,
    'superseded': math.inf,
    'unpaired': 60.0,
    'image_note': 0.0,  # each text comes once
}
#: Kinds of issue after which the image is processed all the same.
WARNING_KINDS = (
    *('no_transform', 'unfamiliar_lens', 'assumed', 'odd_header', 'image_note', 'tf_note'),
)
#: Kinds of issue that are no fault, and are counted only.
COUNTED_KINDS = ('early', 'unwanted')


class Throttle:
    """Limits how often each camera and kind of issue is logged."""

    def __init__(self, clock_s: Callable[[], float] = time.monotonic) -> None:
        """Start without any logged issue."""
        self._clock_s = clock_s
        self._quiet_until_s: dict[tuple[str, str], float] = {}

    def allows(self, camera: str, kind: str) -> bool:
        """Return whether to log now; if True, the same issue is suppressed for its repeat time."""
        now_s = self._clock_s()
        if now_s < self._quiet_until_s.get((camera, kind), now_s):
            return False
        self._quiet_until_s[camera, kind] = now_s + REPEAT_S.get(kind, REPEAT_DEFAULT_S)
        return True


class IssueLog:
    """Counts and logs issues; thread-safe."""

    def __init__(
        self,
        counters: Mapping[str, Counters],
        error: Callable[[str], None],
        warn: Callable[[str], None],
    ) -> None:
        """
        Start without any logged issue.

        :param counters: camera -> its counters.
        :param error: logs an issue because of which an image is not processed.
        :param warn: logs an issue of an image that is processed all the same, see WARNING_KINDS.
        """
        self._counters, self._error, self._warn = counters, error, warn
        self._throttle = Throttle()

    def add(self, camera: str, kind: str, text: str) -> None:
        """
        Count an issue, and log it unless it was logged recently.

        :param camera: name of the camera.
        :param kind: kind of issue, one of diagnostics.COUNTER_NAMES.
        :param text: description and remedy.
        """
        self._counters[camera].add(kind, text)
        if kind not in COUNTED_KINDS and self._throttle.allows(camera, kind):
            log = self._warn if kind in WARNING_KINDS else self._error
            log(f'{camera}: {kind.replace("_", " ")}: {text}')
