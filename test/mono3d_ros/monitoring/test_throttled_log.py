from mono3d_ros.monitoring.counters import Counters
from mono3d_ros.monitoring.throttled_log import REPEAT_DEFAULT_S, IssueLog, Throttle


class Clock:
    now_s = 100.0

    def __call__(self):
        return self.now_s


def test_the_same_is_said_again_after_a_while_and_once_where_it_will_not_change():
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


def test_each_camera_and_each_kind_of_trouble_is_said_for_itself():
    throttle = Throttle(Clock())
    for camera in ('front', 'left'):
        for what in ('bad', 'too_old'):
            assert throttle.allows(camera, what)
            assert not throttle.allows(camera, what)


def test_all_is_counted_but_not_all_is_said():
    counters, said, warned = {'front': Counters(), 'left': Counters()}, [], []
    complaints = IssueLog(counters, said.append, warned.append)
    for number in range(3):
        complaints.add('front', 'no_camera_info', f'image {number}')
    assert said == ['front: no camera info: image 0']
    snapshot = counters['front'].snapshot()
    assert snapshot.counts == {'no_camera_info': 3}
    assert snapshot.last_texts == {'no_camera_info': 'image 2'}
    assert counters['left'].snapshot().counts == {}
    assert warned == []


def test_what_does_not_cost_the_answer_is_a_warning_only():
    said, warned = [], []
    complaints = IssueLog({'front': Counters()}, said.append, warned.append)
    complaints.add('front', 'no_transform', 'odom is late')
    assert (said, warned) == ([], ['front: no transform: odom is late'])
