"""Image buffer: newest image per camera, waits for camera_info, batches, rate limit."""

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
def buffer(counters, clock):
    return ImageBuffer(counters, clock, wait_ns=WAIT_NS)


@pytest.fixture
def synced(counters, clock):
    """Return a buffer in which camera a triggers both; images of b may be 10 ms apart."""
    buffer = ImageBuffer(counters, clock, wait_ns=WAIT_NS, reference=SyncReference('a', 10 * MS))
    for camera in 'ab':
        buffer.put_info(camera, 0, f'info {camera}')
    return buffer


def counted(counters, camera, name):
    return counters[camera].snapshot().counts.get(name, 0)


def taken(buffer):
    return [(each.camera, each.message, each.info) for each in buffer.take(0.0)]


def test_newest_image_is_taken_and_older_ones_are_counted(buffer, counters):
    buffer.put_info('a', 3, 'info')
    for stamp in (1, 2, 3):
        buffer.put_image('a', stamp, f'image {stamp}')
    assert taken(buffer) == [('a', 'image 3', 'info')]
    assert taken(buffer) == []
    assert counters['a'].snapshot().counts == {'infos': 1, 'received': 3, 'superseded': 2}


def test_cameras_are_independent(buffer, counters):
    for camera in 'ab':
        buffer.put_info(camera, 1, f'info {camera}')
        buffer.put_image(camera, 1, f'image {camera}')
    assert taken(buffer) == [('a', 'image a', 'info a'), ('b', 'image b', 'info b')]
    for camera in 'ab':
        assert counters[camera].snapshot().counts == {'infos': 1, 'received': 1}


def test_camera_info_of_the_stamp_is_used_among_newer_ones(buffer):
    for stamp in range(1, INFOS_KEPT + 1):
        buffer.put_info('a', stamp, stamp)
    buffer.put_image('a', 1, 'image')
    assert taken(buffer) == [('a', 'image', 1)]


def test_old_camera_infos_are_removed(buffer):
    for stamp in range(1, INFOS_KEPT + 2):
        buffer.put_info('a', stamp, stamp)
    buffer.put_image('a', 1, 'image')
    assert taken(buffer) == [('a', 'image', INFOS_KEPT + 1)]


def test_one_camera_info_for_all_images(buffer):
    """A camera_info that is sent once, or with other stamps, is used without waiting."""
    buffer.put_info('a', 0, 'info')
    for stamp in (5, 6, 7):
        buffer.put_image('a', stamp, stamp)
        assert taken(buffer) == [('a', stamp, 'info')]


def test_first_image_waits_for_the_first_camera_info(buffer):
    buffer.put_image('a', 1, 'image')
    assert taken(buffer) == []
    buffer.put_info('a', 1, 'info')
    assert taken(buffer) == [('a', 'image', 'info')]


def test_image_without_any_camera_info_is_returned_after_the_wait(buffer, clock):
    buffer.put_image('a', 1, 'image')
    clock.now_ns += WAIT_NS
    assert taken(buffer) == [('a', 'image', None)]


@pytest.mark.parametrize('info_first', [True, False])
def test_after_matching_stamps_an_image_waits_for_its_camera_info(buffer, clock, info_first):
    calls = [
        lambda: buffer.put_info('a', 1, 'info 1'),
        lambda: buffer.put_image('a', 1, 'image 1'),
    ]
    for call in calls if info_first else calls[::-1]:
        call()
    assert taken(buffer) == [('a', 'image 1', 'info 1')]
    buffer.put_image('a', 2, 'image 2')
    clock.now_ns += WAIT_NS - 1
    assert taken(buffer) == []
    buffer.put_info('a', 2, 'info 2')
    assert taken(buffer) == [('a', 'image 2', 'info 2')]


def test_lost_camera_info_causes_one_wait(buffer, clock):
    buffer.put_info('a', 1, 'info 1')
    buffer.put_image('a', 1, 'image 1')
    taken(buffer)
    buffer.put_image('a', 2, 'image 2')
    assert taken(buffer) == []
    clock.now_ns += WAIT_NS
    assert taken(buffer) == [('a', 'image 2', 'info 1')]
    buffer.put_image('a', 3, 'image 3')  # no wait until stamps match again
    assert taken(buffer) == [('a', 'image 3', 'info 1')]
    buffer.put_info('a', 3, 'info 3')
    buffer.put_image('a', 4, 'image 4')
    assert taken(buffer) == []


def test_images_that_are_faster_than_their_camera_infos_do_not_wait_for_ever(buffer, clock):
    buffer.put_info('a', 0, 'info 0')
    buffer.put_image('a', 0, 'image 0')
    taken(buffer)
    images = []
    for stamp in range(1, 5):  # a new image every 20 ms, its info 30 ms late
        buffer.put_image('a', stamp, stamp)
        clock.now_ns += 20 * MS
        images += taken(buffer)
    assert images == [('a', 3, 'info 0'), ('a', 4, 'info 0')]


def test_take_wakes_up_for_an_image():
    buffer = ImageBuffer({'a': Counters()}, time.monotonic_ns)
    buffer.put_info('a', 0, 'info')
    threading.Timer(0.05, buffer.put_image, ('a', 1, 'image')).start()
    start = time.monotonic()
    (received,) = buffer.take(5.0)
    assert (received.message, received.info) == ('image', 'info')
    assert time.monotonic() - start < 2.0


def test_take_wakes_up_when_an_image_has_waited_long_enough():
    buffer = ImageBuffer({'a': Counters()}, time.monotonic_ns, wait_ns=20 * MS)
    buffer.put_image('a', 1, 'image')
    start = time.monotonic()
    assert buffer.take(5.0)[0].info is None
    assert 0.015 < time.monotonic() - start < 2.0


def test_close_ends_take():
    buffer = ImageBuffer({'a': Counters()}, time.monotonic_ns)
    threading.Timer(0.05, buffer.close).start()
    start = time.monotonic()
    assert buffer.take(5.0) == []
    assert buffer.closed
    assert time.monotonic() - start < 2.0


def test_changed_camera_info_is_used_with_and_without_matching_stamps(buffer):
    for stamp, info in (
        (0, 'old'),
        (0, 'new'),
        (7, 'newer'),
    ):  # also if published again
        buffer.put_info('a', stamp, info)
        buffer.put_image('a', 3, 'image')
        assert taken(buffer) == [('a', 'image', info)]
    buffer.put_image('a', 8, 'image')
    buffer.put_info('a', 8, 'its own')
    assert taken(buffer) == [('a', 'image', 'its own')]


def test_rate_limit_counts_the_images_above_it(buffer, clock, counters):
    buffer.put_info('a', 0, 'info')
    buffer.max_rate_hz = 20.0
    processed = []
    for number in range(60):  # 30 images a second for 2 s
        clock.now_ns = 1000 + number * 1000 * MS // 30
        buffer.put_image('a', 1 + number, number)
        processed += taken(buffer)
    assert 40 <= len(processed) <= 41
    assert counted(counters, 'a', 'rate_limited') == 60 - len(processed)
    assert counted(counters, 'a', 'superseded') == 0
    buffer.max_rate_hz = 0.0
    for number in (60, 61):
        buffer.put_image('a', number, number)
        assert taken(buffer)


def test_camera_at_the_rate_limit_may_have_jitter(buffer, clock):
    buffer.put_info('a', 0, 'info')
    buffer.max_rate_hz = 10.0
    for number, late_ms in enumerate((0, 7, -6, 3, -9, 8, -2, -8, 9, 0)):
        clock.now_ns = (number * 100 + 50 + late_ms) * MS
        buffer.put_image('a', 1 + number, number)
        assert taken(buffer), number


def test_reference_image_triggers_one_batch(synced):
    synced.put_image('b', 1003 * MS, 'image b')
    assert taken(synced) == []
    synced.put_image('a', 1000 * MS, 'image a')
    assert taken(synced) == [('a', 'image a', 'info a'), ('b', 'image b', 'info b')]


def test_reference_waits_for_the_cameras_of_the_last_batch(synced, clock):
    synced.put_image('a', 1000 * MS, 'image a')
    assert taken(synced) == []
    clock.now_ns += 5 * MS
    synced.put_image('b', 1000 * MS, 'image b')
    assert [camera for camera, *_ in taken(synced)] == ['a', 'b']


def test_silent_camera_causes_one_wait(synced, clock, counters):
    synced.put_image('a', 1000 * MS, 1)
    assert taken(synced) == []
    clock.now_ns += WAIT_NS
    assert taken(synced) == [('a', 1, 'info a')]
    synced.put_image('a', 1100 * MS, 2)
    assert taken(synced) == [('a', 2, 'info a')]
    for stamp, images in ((1200, 'ab'), (1300, 'ab')):  # it is back
        for camera in images:
            synced.put_image(camera, stamp * MS, stamp)
        assert [camera for camera, *_ in taken(synced)] == ['a', 'b']
    synced.put_image('a', 1400 * MS, 3)
    assert taken(synced) == []


def test_image_of_another_time_is_not_in_the_batch(synced, clock, counters):
    synced.put_image('b', 989 * MS, 'old')
    synced.put_image('a', 1000 * MS, 'image a')
    clock.now_ns += WAIT_NS
    assert taken(synced) == [('a', 'image a', 'info a')]
    synced.put_image('b', 1100 * MS, 'new')
    assert counted(counters, 'b', 'superseded') == 1
    synced.put_image('a', 1100 * MS, 'image a')
    assert [camera for camera, *_ in taken(synced)] == ['a', 'b']


def test_camera_without_its_reference_waits_without_polling():
    """The deadline of its image has passed, but that must not cause a busy loop."""
    clock_reads = []

    def clock_ns():
        clock_reads.append(time.monotonic_ns())
        return clock_reads[-1]

    counters = {name: Counters() for name in 'ab'}
    buffer = ImageBuffer(counters, clock_ns, wait_ns=0, reference=SyncReference('a', 10 * MS))
    buffer.put_image('b', 1, 'image')
    assert buffer.take(0.1) == []
    assert len(clock_reads) < 20


def test_rate_limit_applies_to_the_reference(synced, clock):
    synced.max_rate_hz = 10.0
    batches = []
    for number in range(20):  # 20 images a second of each
        clock.now_ns = number * 50 * MS
        for camera in 'ba':
            synced.put_image(camera, 1 + number * 50 * MS, number)
        batches += [[camera for camera, *_ in taken(synced)]]
    assert 10 <= batches.count(['a', 'b']) <= 11
    assert batches.count([]) == 20 - batches.count(['a', 'b'])
