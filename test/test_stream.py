import threading
import time

import pytest

from mono3d_ros.stream import INFOS_KEPT, Counters, LatestFrames

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
    return Counters()


@pytest.fixture
def latest(counters, clock):
    return LatestFrames(counters, clock, WAIT_NS)


def taken(latest):
    return [(each.camera, each.message, each.info) for each in latest.take(0.0)]


def test_newest_wins_and_the_older_is_counted(latest, counters):
    latest.put_info('a', 3, 'info')
    for stamp in (1, 2, 3):
        latest.put_image('a', stamp, f'image {stamp}')
    assert taken(latest) == [('a', 'image 3', 'info')]
    assert taken(latest) == []
    assert counters.snapshot().counts == {'superseded': 2}


def test_cameras_do_not_disturb_each_other(latest, counters):
    for camera in 'ab':
        latest.put_info(camera, 1, f'info {camera}')
        latest.put_image(camera, 1, f'image {camera}')
    assert taken(latest) == [('a', 'image a', 'info a'), ('b', 'image b', 'info b')]
    assert not counters.snapshot().counts


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
    latest = LatestFrames(Counters(), time.monotonic_ns)
    latest.put_info('a', 0, 'info')
    threading.Timer(0.05, latest.put_image, ('a', 1, 'image')).start()
    start = time.monotonic()
    (arrival,) = latest.take(5.0)
    assert (arrival.message, arrival.info) == ('image', 'info')
    assert time.monotonic() - start < 2.0


def test_take_wakes_up_when_an_image_has_waited_long_enough():
    latest = LatestFrames(Counters(), time.monotonic_ns, info_wait_ns=20 * MS)
    latest.put_image('a', 1, 'image')
    start = time.monotonic()
    assert latest.take(5.0)[0].info is None
    assert 0.015 < time.monotonic() - start < 2.0


def test_close_ends_take():
    latest = LatestFrames(Counters(), time.monotonic_ns)
    threading.Timer(0.05, latest.close).start()
    start = time.monotonic()
    assert latest.take(5.0) == []
    assert latest.closed
    assert time.monotonic() - start < 2.0


def test_counters():
    counters = Counters()
    counters.add('bad', 'why')
    counters.add('bad', 'why not')
    for ms in range(101):
        counters.record({'decode': float(ms)})
    snapshot = counters.snapshot()
    counters.add('bad')
    assert snapshot.counts == {'bad': 2}
    assert snapshot.texts == {'bad': 'why not'}
    assert snapshot.latency_ms == {'decode': (50.0, 95.0)}
