"""Faults of image headers."""

import pytest

from mono3d_ros.perception.header_check import header_fault

S = 1_000_000_000


@pytest.mark.parametrize(
    ('stamp_ns', 'frame_id', 'now_ns', 'words'),
    [
        (10 * S, 'front', 10 * S, ()),
        (1 * S, 'front', 10 * S, ()),
        (10 * S + S // 2, 'front', 10 * S, ()),
        (10 * S + S // 2 + 1, 'front', 10 * S, ('0.5 s in the future', 'use_sim_time')),
        (10 * S, 'front', 0, ()),  # simulated time before the first /clock
        (0, 'front', 0, ('stamp is 0',)),
        (0, '', 10 * S, ('stamp is 0', 'frame_id is empty')),
    ],
)
def test_faults(stamp_ns, frame_id, now_ns, words):
    text = header_fault(stamp_ns, frame_id, now_ns)
    assert bool(text) == bool(words)
    assert all(word in text for word in words)
