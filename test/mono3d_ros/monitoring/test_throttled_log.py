"""Throttled logging: repeat times per camera and kind; every issue is counted."""

from mono3d_ros.monitoring.counters import Counters
from mono3d_ros.monitoring.throttled_log import REPEAT_DEFAULT_S, IssueLog, Throttle


class Clock:
    now_s = 100.0

    def __call__(self):
        return self.now_s


def test_issue_is_logged_again_after_its_repeat_time():
    clock = Clock()
    throttle = Throttle(clock)
    assert throttle.allows('front', 'bad')
    assert throttle.allows('front', 'uncalibrated')
    clock.now_s += REPEAT_DEFAULT_S - 0.1
    assert not throttle.allows('front', 'bad')
    clock.now_s += 0.2
    assert throttle.allows('front', 'bad')
    clock.now_s += 1e6
    assert not throttle.allows('front', 'uncalibrated')


def test_cameras_and_kinds_are_throttled_separately():
    throttle = Throttle(Clock())
    for camera in ('front', 'left'):
        for kind in ('bad', 'too_old'):
            assert throttle.allows(camera, kind)
            assert not throttle.allows(camera, kind)


def test_every_issue_is_counted_but_not_logged():
    counters, errors, warnings = {'front': Counters(), 'left': Counters()}, [], []
    issue_log = IssueLog(counters, errors.append, warnings.append)
    for number in range(3):
        issue_log.add('front', 'no_camera_info', f'image {number}')
    assert errors == ['front: no camera info: image 0']
    snapshot = counters['front'].snapshot()
    assert snapshot.counts == {'no_camera_info': 3}
    assert snapshot.last_texts == {'no_camera_info': 'image 2'}
    assert counters['left'].snapshot().counts == {}
    assert warnings == []


def test_issue_of_a_processed_image_is_a_warning():
    errors, warnings = [], []
    issue_log = IssueLog({'front': Counters()}, errors.append, warnings.append)
    issue_log.add('front', 'no_transform', 'odom is late')
    assert (errors, warnings) == ([], ['front: no transform: odom is late'])
