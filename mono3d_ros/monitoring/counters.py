"""What flows through the node: frames, what was found in them, and the counts of both."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

#: How many timings of a stage the percentiles are taken over.
TIMINGS_KEPT = 200


@dataclass(frozen=True)
class CounterSnapshot:
    """
    Counters at one moment.

    :param counts: how often each thing happened.
    :param last_texts: the last thing said about each.
    :param latency_ms: median and 95th percentile of each stage.
    """

    counts: Mapping[str, int]
    last_texts: Mapping[str, str]
    latency_ms: Mapping[str, tuple[float, float]]


class Counters:
    """Counts and timings, shared by the threads of the node."""

    def __init__(self) -> None:
        """Start at nothing."""
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._texts: dict[str, str] = {}
        self._timings: dict[str, deque[float]] = {}

    def add(self, name: str, text: str = '') -> None:
        """Count something, and keep what there is to say about it."""
        with self._lock:
            self._counts[name] += 1
            self._texts[name] = text

    def record_timings(self, timings_ms: Mapping[str, float]) -> None:
        """Keep how long the stages of a frame took."""
        with self._lock:
            for stage, ms in timings_ms.items():
                self._timings.setdefault(stage, deque(maxlen=TIMINGS_KEPT)).append(ms)

    def snapshot(self) -> CounterSnapshot:
        """Return all of it."""
        with self._lock:
            counts, texts = dict(self._counts), dict(self._texts)
            timings = {stage: list(each) for stage, each in self._timings.items()}
        latency = {}
        for stage, each in timings.items():
            median, high = np.percentile(each, [50, 95])
            latency[stage] = (float(median), float(high))
        return CounterSnapshot(counts, texts, latency)
