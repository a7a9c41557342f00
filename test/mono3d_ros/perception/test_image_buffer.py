import threading
import time

import pytest

from mono3d_ros.monitoring.counters import Counters
from mono3d_ros.perception.image_buffer import INFOS_KEPT, ImageBuffer, SyncReference

MS = 1_000_000
WAIT_NS = 50 * MS


class Clock:
    now_ns = 1000

    def __call__(self):
        return self.now_ns


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def counters():
    return {name: Counters() for name in 'ab'}


@pytest.fixture
def latest(counters, clock):
    return ImageBuffer(counters, clock, wait_ns=WAIT_NS)


@pytest.fixture
def anchored(counters, clock):
    """Camera a lets both go; images of b may be 10 ms from its own."""
    latest = ImageBuffer(counters, clock, wait_ns=WAIT_NS, reference=SyncReference('a', 10 * MS))
    for camera in 'ab':
        latest.put_info(camera, 0, f'info {camera}')
    return latest


def counted(counters, camera, what):
    return counters[camera].snapshot().counts.get(what, 0)


def taken(latest):
    return [(each.camera, each.message, each.info) for each in latest.take(0.0)]


def test_newest_wins_and_the_older_is_counted(latest, counters):
    latest.put_info('a', 3, 'info')
    for stamp in (1, 2, 3):
        latest.put_image('a', stamp, f'image {stamp}')
    assert taken(latest) == [('a', 'image 3', 'info')]
    assert taken(latest) == []
    assert counters['a'].snapshot().counts == {'infos': 1, 'received': 3, 'superseded': 2}


def test_cameras_do_not_disturb_each_other(latest, counters):
    for camera in 'ab':
        latest.put_info(camera, 1, f'info {camera}')
        latest.put_image(camera, 1, f'image {camera}')
    assert taken(latest) == [('a', 'image a', 'info a'), ('b', 'image b', 'info b')]
    for camera in 'ab':
        assert counters[camera].snapshot().counts == {'infos': 1, 'received': 1}


def test_the_info_of_the_stamp_is_found_among_newer_ones(latest):
    for stamp in range(1, INFOS_KEPT + 1):
        latest.put_info('a', stamp, stamp)
    latest.put_image('a', 1, 'image')
    assert taken(latest) == [('a', 'image', 1)]


def test_infos_are_forgotten(latest):
    for stamp in range(1, INFOS_KEPT + 2):
        latest.put_info('a', stamp, stamp)
    latest.put_image('a', 1, 'image')
    assert taken(latest) == [('a', 'image', INFOS_KEPT + 1)]


def test_one_info_for_all_images(latest):
    """A calibration that is sent once, or with stamps of its own, is used at once."""
    latest.put_info('a', 0, 'info')
    for stamp in (5, 6, 7):
        latest.put_image('a', stamp, stamp)
        assert taken(latest) == [('a', stamp, 'info')]


def test_first_image_waits_for_the_first_info(latest):
    latest.put_image('a', 1, 'image')
    assert taken(latest) == []
    latest.put_info('a', 1, 'info')
    assert taken(latest) == [('a', 'image', 'info')]


def test_without_any_info_it_is_handed_out_without(latest, clock):
    latest.put_image('a', 1, 'image')
    clock.now_ns += WAIT_NS
    assert taken(latest) == [('a', 'image', None)]


@pytest.mark.parametrize('info_first', [True, False])
def test_once_stamps_matched_an_image_waits_for_its_own_info(latest, clock, info_first):
    puts = [lambda: latest.put_info('a', 1, 'info 1'), lambda: latest.put_image('a', 1, 'image 1')]
    for put in puts if info_first else puts[::-1]:
        put()
    assert taken(latest) == [('a', 'image 1', 'info 1')]
    latest.put_image('a', 2, 'image 2')
    clock.now_ns += WAIT_NS - 1
    assert taken(latest) == []
    latest.put_info('a', 2, 'info 2')
    assert taken(latest) == [('a', 'image 2', 'info 2')]


def test_a_lost_info_costs_one_wait(latest, clock):
    latest.put_info('a', 1, 'info 1')
    latest.put_image('a', 1, 'image 1')
    taken(latest)
    latest.put_image('a', 2, 'image 2')
    assert taken(latest) == []
    clock.now_ns += WAIT_NS
    assert taken(latest) == [('a', 'image 2', 'info 1')]
    latest.put_image('a', 3, 'image 3')  # not waited for again until stamps match again
    assert taken(latest) == [('a', 'image 3', 'info 1')]
    latest.put_info('a', 3, 'info 3')
    latest.put_image('a', 4, 'image 4')
    assert taken(latest) == []


def test_images_faster_than_their_infos_do_not_wait_for_ever(latest, clock):
    latest.put_info('a', 0, 'info 0')
    latest.put_image('a', 0, 'image 0')
    taken(latest)
    answers = []
    for stamp in range(1, 5):  # a new image every 20 ms, its info 30 ms late
        latest.put_image('a', stamp, stamp)
        clock.now_ns += 20 * MS
        answers += taken(latest)
    assert answers == [('a', 3, 'info 0'), ('a', 4, 'info 0')]


def test_take_wakes_up_for_an_image():
    latest = ImageBuffer({'a': Counters()}, time.monotonic_ns)
    latest.put_info('a', 0, 'info')
    threading.Timer(0.05, latest.put_image, ('a', 1, 'image')).start()
    start = time.monotonic()
    (arrival,) = latest.take(5.0)
    assert (arrival.message, arrival.info) == ('image', 'info')
    assert time.monotonic() - start < 2.0


def test_take_wakes_up_when_an_image_has_waited_long_enough():
    latest = ImageBuffer({'a': Counters()}, time.monotonic_ns, wait_ns=20 * MS)
    latest.put_image('a', 1, 'image')
    start = time.monotonic()
    assert latest.take(5.0)[0].info is None
    assert 0.015 < time.monotonic() - start < 2.0


def test_close_ends_take():
    latest = ImageBuffer({'a': Counters()}, time.monotonic_ns)
    threading.Timer(0.05, latest.close).start()
    start = time.monotonic()
    assert latest.take(5.0) == []
    assert latest.closed
    assert time.monotonic() - start < 2.0


def test_a_changed_info_takes_effect_whether_stamps_match_or_not(latest):
    for stamp, info in ((0, 'old'), (0, 'new'), (7, 'newer')):  # latched again, or of another lens
        latest.put_info('a', stamp, info)
        latest.put_image('a', 3, 'image')
        assert taken(latest) == [('a', 'image', info)]
    latest.put_image('a', 8, 'image')
    latest.put_info('a', 8, 'its own')
    assert taken(latest) == [('a', 'image', 'its own')]


def test_a_limited_rate_keeps_the_newest_and_counts_the_others(latest, clock, counters):
    latest.put_info('a', 0, 'info')
    latest.max_rate_hz = 20.0
    answered = []
    for number in range(60):  # 30 images a second for 2 s
        clock.now_ns = 1000 + number * 1000 * MS // 30
        latest.put_image('a', 1 + number, number)
        answered += taken(latest)
    assert 40 <= len(answered) <= 41
    assert counted(counters, 'a', 'rate_limited') == 60 - len(answered)
    assert counted(counters, 'a', 'superseded') == 0
    latest.max_rate_hz = 0.0
    for number in (60, 61):
        latest.put_image('a', number, number)
        assert taken(latest)


def test_a_camera_at_the_limit_may_tremble(latest, clock):
    latest.put_info('a', 0, 'info')
    latest.max_rate_hz = 10.0
    for number, late_ms in enumerate((0, 7, -6, 3, -9, 8, -2, -8, 9, 0)):
        clock.now_ns = (number * 100 + 50 + late_ms) * MS
        latest.put_image('a', 1 + number, number)
        assert taken(latest), number


def test_the_anchor_lets_all_go_in_one_batch(anchored):
    anchored.put_image('b', 1003 * MS, 'image b')
    assert taken(anchored) == []
    anchored.put_image('a', 1000 * MS, 'image a')
    assert taken(anchored) == [('a', 'image a', 'info a'), ('b', 'image b', 'info b')]


def test_the_anchor_waits_a_little_for_those_that_went_with_it(anchored, clock):
    anchored.put_image('a', 1000 * MS, 'image a')
    assert taken(anchored) == []
    clock.now_ns += 5 * MS
    anchored.put_image('b', 1000 * MS, 'image b')
    assert [camera for camera, *_ in taken(anchored)] == ['a', 'b']


def test_a_camera_that_fell_silent_costs_one_wait(anchored, clock, counters):
    anchored.put_image('a', 1000 * MS, 1)
    assert taken(anchored) == []
    clock.now_ns += WAIT_NS
    assert taken(anchored) == [('a', 1, 'info a')]
    anchored.put_image('a', 1100 * MS, 2)
    assert taken(anchored) == [('a', 2, 'info a')]
    for stamp, images in ((1200, 'ab'), (1300, 'ab')):  # it is back
        for camera in images:
            anchored.put_image(camera, stamp * MS, stamp)
        assert [camera for camera, *_ in taken(anchored)] == ['a', 'b']
    anchored.put_image('a', 1400 * MS, 3)
    assert taken(anchored) == []


def test_an_image_of_another_time_does_not_go_with_the_anchors(anchored, clock, counters):
    anchored.put_image('b', 989 * MS, 'old')
    anchored.put_image('a', 1000 * MS, 'image a')
    clock.now_ns += WAIT_NS
    assert taken(anchored) == [('a', 'image a', 'info a')]
    anchored.put_image('b', 1100 * MS, 'new')
    assert counted(counters, 'b', 'superseded') == 1
    anchored.put_image('a', 1100 * MS, 'image a')
    assert [camera for camera, *_ in taken(anchored)] == ['a', 'b']


def test_without_its_anchor_a_camera_waits_without_work():
    """Its image has waited long enough, but nothing may spin on that."""
    looked = []

    def clock_ns():
        looked.append(time.monotonic_ns())
        return looked[-1]

    counters = {name: Counters() for name in 'ab'}
    latest = ImageBuffer(counters, clock_ns, wait_ns=0, reference=SyncReference('a', 10 * MS))
    latest.put_image('b', 1, 'image')
    assert latest.take(0.1) == []
    assert len(looked) < 20


def test_the_rate_of_the_anchor_is_the_rate_of_all(anchored, clock):
    anchored.max_rate_hz = 10.0
    batches = []
    for number in range(20):  # 20 images a second of each
        clock.now_ns = number * 50 * MS
        for camera in 'ba':
            anchored.put_image(camera, 1 + number * 50 * MS, number)
        batches += [[camera for camera, *_ in taken(anchored)]]
    assert 10 <= batches.count(['a', 'b']) <= 11
    assert batches.count([]) == 20 - batches.count(['a', 'b'])
