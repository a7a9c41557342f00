import re
from dataclasses import replace

import pytest

from mono3d_ros.diagnostics import ERROR, OK, WARN, Health, assess
from mono3d_ros.stream import Snapshot


def snapshot(**counts):
    texts = {name: f'said of {name}' for name in counts}
    return Snapshot(counts, texts, {'inference': (12.34, 56.78)})


HEALTH = Health(
    active=True,
    silent_s=0.1,
    image_topics=('/a/image_raw', '/a/image_raw/compressed'),
    publishers=1,
    device='cuda:0',
    cpu_fallback=False,
    bad_qos={},
    now=snapshot(received=50, infos=50, answered=50),
    before=snapshot(),
)


def test_all_is_well():
    status = assess(HEALTH)
    assert (status.level, status.message) == (OK, 'ok')
    assert status.values['answered'] == '50'
    assert status.values['inference ms (p50, p95)'] == '12.3, 56.8'
    assert status.values['device'] == 'cuda:0'


@pytest.mark.parametrize(
    ('changes', 'level', 'message'),
    [
        ({'silent_s': 7.0}, WARN, 'no image on /a/image_raw and .*compressed for 7 s'),
        ({'silent_s': 7.0, 'publishers': 0}, WARN, 'nobody publishes'),
        ({'bad_qos': {'/a/image_raw': 'RELIABILITY'}}, ERROR, 'offers another RELIABILITY'),
        ({'now': snapshot(uncalibrated=1)}, ERROR, '1 images of an uncalibrated camera: said of'),
        ({'now': snapshot(no_camera_info=2)}, ERROR, '2 images without camera_info'),
        ({'now': snapshot(bad=3)}, WARN, '3 images that failed: said of bad'),
        ({'now': snapshot(too_old=4)}, WARN, '4 images dropped for their age'),
        ({'now': snapshot(received=10, infos=50)}, WARN, '40 camera_infos .*LARGE_DATA'),
        ({'cpu_fallback': True}, WARN, 'running on the CPU'),
    ],
)
def test_findings(changes, level, message):
    status = assess(replace(HEALTH, **changes))
    assert status.level == level
    assert re.search(message, status.message)


def test_the_worst_gives_the_level_and_all_are_told():
    status = assess(replace(HEALTH, silent_s=9.0, now=snapshot(uncalibrated=1)))
    assert status.level == ERROR
    assert 'no image' in status.message
    assert 'uncalibrated' in status.message


def test_what_is_over_is_over():
    now = snapshot(received=50, infos=50, answered=45, bad=5)
    status = assess(replace(HEALTH, now=now, before=now))
    assert (status.level, status.message) == (OK, 'ok')
    assert status.values['bad'] == '5'


def test_an_inactive_node_is_silent_by_right():
    assert assess(replace(HEALTH, active=False, silent_s=99.0)).level == OK


def test_a_few_infos_ahead_are_normal():
    assert assess(replace(HEALTH, now=snapshot(received=46, infos=50))).level == OK
