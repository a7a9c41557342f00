"""Assessment of camera health for /diagnostics."""

import re
from dataclasses import replace

import pytest

from mono3d_ros.monitoring.counters import CounterSnapshot
from mono3d_ros.monitoring.diagnostics import (
    COUNTER_NAMES,
    ERROR,
    OK,
    WARN,
    HealthInput,
    assess_health,
    missing_result,
)


def snapshot(**counts):
    texts = {name: f'text of {name}' for name in counts}
    return CounterSnapshot(counts, texts, {'inference': (12.34, 56.78), 'end_to_end': (1.0, 2.0)})


HEALTH = HealthInput(
    active=True,
    enabled=True,
    silent_s=0.1,
    image_topics=('/a/image_raw', '/a/image_raw/compressed'),
    publishers=1,
    device='cuda:0',
    cpu_fallback=False,
    qos_mismatches={},
    transport_advice='set this',
    missing_types={'detections': 'vision_msgs/msg/Detection3DArray'},
    now=snapshot(received=50, infos=50, answered=50),
    before=snapshot(),
)


def test_healthy_camera_is_ok():
    status = assess_health(HEALTH)
    assert (status.level, status.message) == (OK, 'ok')
    assert status.values['answered'] == '50'
    assert status.values['inference ms (p50, p95)'] == '12.3, 56.8'
    assert status.values['end to end ms (p50, p95)'] == '1.0, 2.0'
    assert status.values['device'] == 'cuda:0'
    assert status.values['not sent'] == 'detections (vision_msgs/msg/Detection3DArray)'


@pytest.mark.parametrize(
    ('changes', 'level', 'message'),
    [
        ({'silent_s': 7.0}, WARN, 'no image on /a/image_raw and .*compressed for 7 s'),
        ({'silent_s': 7.0}, WARN, r'publishers: 1; QoS\? Or set this\)'),
        ({'silent_s': 7.0, 'publishers': 0}, WARN, 'nobody publishes'),
        ({'wrong_types': {'/a/image_raw': 'is published as T'}}, ERROR, 'is published as T'),
        (
            {'silent_s': 7.0, 'wrong_types': {'/a/image_raw': 'is published as T'}},
            ERROR,
            '^is published as T$',
        ),
        ({'qos_mismatches': {'/a/image_raw': 'nothing arrives'}}, ERROR, 'nothing arrives'),
        ({'now': snapshot(uncalibrated=1)}, ERROR, '1 images of an uncalibrated camera: text of'),
        ({'now': snapshot(distorted=2)}, ERROR, '2 distorted images used as rectified ones: text'),
        ({'now': snapshot(assumed=2)}, WARN, '2 images with an assumption about the camera: text'),
        (
            {'now': snapshot(no_camera_info=2), 'info_hint': 'nobody publishes /b'},
            ERROR,
            r'2 images without camera_info: text of no_camera_info \(nobody publishes /b\)',
        ),
        ({'now': snapshot(no_camera_info=2)}, ERROR, '2 images without camera_info'),
        ({'now': snapshot(bad=3)}, WARN, '3 images that failed: text of bad'),
        ({'now': snapshot(too_old=4)}, WARN, '4 images dropped for their age'),
        ({'now': snapshot(received=10, infos=50)}, WARN, '40 camera_infos .*; set this'),
        (
            {'now': snapshot(no_transform=2)},
            WARN,
            '2 images without a camera pose: text',
        ),
        (
            {'now': snapshot(unfamiliar_lens=2)},
            WARN,
            '2 images with an unfamiliar focal',
        ),
        (
            {'now': snapshot(received=50, infos=50, superseded=26)},
            WARN,
            '26 of 50 images were superseded .* max_rate_hz',
        ),
        ({'cpu_fallback': True}, WARN, 'running on the CPU'),
        ({'now': snapshot(odd_header=2)}, WARN, '2 images with a faulty header: text of odd'),
        ({'now': snapshot(not_placed=2)}, WARN, '2 images whose boxes were not published: text'),
        ({'unknown_parameters': ('imge_topic',)}, WARN, 'unknown parameters: imge_topic'),
        ({'now': snapshot(received=9, unwanted=9)}, OK, 'idle: no output has a subscriber'),
        ({'now': snapshot(received=9, early=9)}, OK, '^ok$'),
    ],
)
def test_issues(changes, level, message):
    status = assess_health(replace(HEALTH, **changes))
    assert status.level == level
    assert re.search(message, status.message)


def test_transports_are_not_advised_beside_incompatible_qos():
    misfit = {'/a/image_raw': 'a publisher offers an incompatible RELIABILITY'}
    message = assess_health(replace(HEALTH, silent_s=7.0, qos_mismatches=misfit)).message
    assert 'publishers: 1, with incompatible QoS' in message
    assert 'set this' not in message


def test_worst_issue_gives_the_level_and_the_message_lists_all():
    status = assess_health(replace(HEALTH, silent_s=9.0, now=snapshot(uncalibrated=1)))
    assert status.level == ERROR
    assert 'no image' in status.message
    assert 'uncalibrated' in status.message


def test_issues_before_the_window_are_ignored():
    now = snapshot(received=50, infos=50, answered=45, bad=5)
    status = assess_health(replace(HEALTH, now=now, before=now))
    assert (status.level, status.message) == (OK, 'ok')
    assert status.values['bad'] == '5'


@pytest.mark.parametrize(
    ('changes', 'message'),
    [({'active': False}, 'not active'), ({'enabled': False}, 'switched off by ~/enable')],
)
def test_inactive_or_disabled_node_is_ok_without_images(changes, message):
    status = assess_health(replace(HEALTH, silent_s=99.0, **changes))
    assert (status.level, status.message) == (OK, message)


def test_few_superseded_images_and_rate_limited_images_are_ok():
    status = assess_health(replace(HEALTH, now=snapshot(received=50, infos=50, superseded=24)))
    assert status.level == OK
    assert status.message.startswith('24 of 50 images were superseded')
    now = snapshot(received=50, infos=50, rate_limited=40)
    assert assess_health(replace(HEALTH, now=now)).message == 'ok'


def test_kinds_of_issues():
    """The log throttles by the kind of an issue."""
    now = snapshot(**{**dict.fromkeys(COUNTER_NAMES, 100), 'received': 1})
    kinds = {each.kind for each in assess_health(replace(HEALTH, now=now, silent_s=9.0)).issues}
    assert kinds == {
        *('bad', 'too_old', 'uncalibrated', 'no_camera_info', 'no_transform'),
        *('unfamiliar_lens', 'superseded', 'unpaired', 'silent', 'odd_header', 'not_placed'),
        *('distorted', 'assumed', 'tf_note'),
    }


def test_few_unpaired_camera_infos_are_ok():
    assert assess_health(replace(HEALTH, now=snapshot(received=46, infos=50))).level == OK


def test_a_camera_of_which_nothing_was_published_is_named():
    """Results that late_tf: drop withholds are none, though the network ran."""
    assert missing_result('front', snapshot(received=3, answered=1)) == ''
    assert missing_result('front', snapshot(received=3, answered=2, not_placed=1)) == ''
    text = missing_result('front', snapshot(received=3, answered=2, not_placed=2))
    assert text == 'camera front: none of 2 results was published: text of not_placed'
    assert 'no image was processed of 3 received' in missing_result('front', snapshot(received=3))
