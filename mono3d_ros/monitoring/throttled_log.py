"""What goes wrong, counted each time for /diagnostics and said in the log only now and then."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping

from mono3d_ros.monitoring.counters import Counters

#: The same kind of trouble of a camera is said at most this often, seconds.
REPEAT_DEFAULT_S = 5.0
#: What is not likely to change by itself is said less often, or once.
REPEAT_S = {
    'uncalibrated': math.inf,
    'unfamiliar_lens': math.inf,
    'no_transform': 30.0,
    'silent': 30.0,
    'superseded': math.inf,
    'unpaired': 60.0,
}
#: What does not cost the image its answer.
WARNING_KINDS = ('no_transform', 'unfamiliar_lens')


class Throttle:
    """Tells what may be said now and what was said just before."""

    def __init__(self, clock_s: Callable[[], float] = time.monotonic) -> None:
        """Begin with nothing said."""
        self._clock_s = clock_s
        self._quiet_until_s: dict[tuple[str, str], float] = {}

    def allows(self, camera: str, kind: str) -> bool:
        """Tell whether to say this now; if so, it will not be admitted again for a while."""
        now_s = self._clock_s()
        if now_s < self._quiet_until_s.get((camera, kind), now_s):
            return False
        self._quiet_until_s[camera, kind] = now_s + REPEAT_S.get(kind, REPEAT_DEFAULT_S)
        return True


class IssueLog:
    """Counts and says what goes wrong; any thread may complain."""

    def __init__(
        self,
        counters: Mapping[str, Counters],
        error: Callable[[str], None],
        warn: Callable[[str], None],
    ) -> None:
        """
        Begin with nothing said.

        :param counters: of each camera.
        :param error: writes a line into the log for an image that will not be answered.
        :param warn: writes one for an image that will be, but not as well as it could.
        """
        self._counters, self._error, self._warn = counters, error, warn
        self._throttle = Throttle()

    def add(self, camera: str, kind: str, text: str) -> None:
        """
        Count trouble, and say it unless it was said just before.

        :param camera: whose image it was.
        :param kind: kind of trouble, one of diagnostics.COUNTED.
        :param text: what happened, and what to do about it.
        """
        self._counters[camera].add(kind, text)
        if self._throttle.allows(camera, kind):
            say = self._warn if kind in WARNING_KINDS else self._error
            say(f'{camera}: {kind.replace("_", " ")}: {text}')
