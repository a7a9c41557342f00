"""Thread-safe counters of events and stage latencies."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

#: Number of latest timings per stage that the percentiles are computed from.
TIMINGS_KEPT = 200


@dataclass(frozen=True)
class CounterSnapshot:
    """
    Values of the counters at one time.

    :param counts: event -> number of occurrences.
    :param last_texts: event -> its latest text.
    :param latency_ms: stage -> median and 95th percentile of its durations.
    """

    counts: Mapping[str, int]
    last_texts: Mapping[str, str]
    latency_ms: Mapping[str, tuple[float, float]]


class Counters:
    """Counters and timings that the threads of the node share."""

    def __init__(self) -> None:
        """Start with empty counters."""
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._texts: dict[str, str] = {}
        self._timings: dict[str, deque[float]] = {}

    def add(self, name: str, text: str = '') -> None:
        """Count an event and keep its text."""
        with self._lock:
            self._counts[name] += 1
            self._texts[name] = text

    def record_timings(self, timings_ms: Mapping[str, float]) -> None:
        """Record the durations of the stages of one frame."""
        with self._lock:
            for stage, ms in timings_ms.items():
                self._timings.setdefault(stage, deque(maxlen=TIMINGS_KEPT)).append(ms)

    def snapshot(self) -> CounterSnapshot:
        """Return the current counts, texts and latency percentiles."""
        with self._lock:
            counts, texts = dict(self._counts), dict(self._texts)
            timings = {stage: list(each) for stage, each in self._timings.items()}
        latency = {}
        for stage, each in timings.items():
            median, high = np.percentile(each, [50, 95])
            latency[stage] = (float(median), float(high))
        return CounterSnapshot(counts, texts, latency)
