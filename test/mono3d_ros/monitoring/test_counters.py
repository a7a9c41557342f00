"""Counters: counts, latest texts and latency percentiles."""

from mono3d_ros.monitoring.counters import Counters


def test_counters():
    counters = Counters()
    counters.add('bad', 'why')
    counters.add('bad', 'why not')
    for ms in range(101):
        counters.record_timings({'decode': float(ms)})
    snapshot = counters.snapshot()
    counters.add('bad')
    assert snapshot.counts == {'bad': 2}
    assert snapshot.last_texts == {'bad': 'why not'}
    assert snapshot.latency_ms == {'decode': (50.0, 95.0)}
