"""The real node on simulated time: what is too old, and a bag that is played again."""

import pytest

pytest.importorskip('rclpy', reason='rclpy is not installed')
pytest.importorskip('visualization_msgs', reason='ROS messages are not installed')

from fake_vehicle import Vehicle, finish, image, start
from rosgraph_msgs.msg import Clock

S = 1_000_000_000


class Replay:
    """A bag that is played with its clock."""

    def __init__(self, vehicle):
        self.vehicle = vehicle
        self.clock = vehicle.node.create_publisher(Clock, '/clock', 10)

    def play(self, now_ns, age_ns=0):
        """Send the time and an image of so long ago, and tell whether it was answered."""
        message = Clock()
        message.clock.sec, message.clock.nanosec = divmod(now_ns, S)
        self.clock.publish(message)
        self.vehicle.rest(0.05)
        stamp_ns = self.vehicle.send(image(cars=1), stamp_ns=now_ns - age_ns)
        return self.vehicle.until(lambda: stamp_ns in self.vehicle.eye.answers, 0.5)


@pytest.fixture(scope='module')
def replay(model):
    process = start(model, '-p', 'use_sim_time:=true', '-p', 'max_age_s:=0.5')
    vehicle = Vehicle()
    vehicle.ready()
    yield Replay(vehicle)
    vehicle.close()
    code, log = finish(process)
    assert code == 0, log
    assert 'Traceback' not in log, log
    assert 'time was set back by' in log, log


def test_without_a_clock_images_are_answered_and_the_node_still_reports(replay):
    replay.vehicle.ask(image(cars=1))
    status = replay.vehicle.status(lambda each: each.name == 'detector: camera')
    assert not any(each.key.startswith('end to end') for each in status.values)


def test_age_is_judged_by_the_clock_of_the_bag(replay):
    assert replay.vehicle.until(lambda: replay.play(100 * S))
    assert replay.vehicle.until(lambda: replay.play(101 * S, age_ns=S // 5))
    for number in range(3):
        assert not replay.play((102 + number) * S, age_ns=5 * S // 2)
    status = replay.vehicle.status(lambda each: 'dropped for their age' in each.message)
    assert '2.5 s old, more than max_age_s 0.5' in status.message
    assert any(each.key.startswith('end to end') for each in status.values)


def test_a_bag_that_is_played_again_is_answered_again(replay):
    """Time jumps back by a minute; the same stamps come once more."""
    for _ in range(2):
        replay.vehicle.eye.answers.clear()
        for number in range(5):
            now_ns = 50 * S + number * S // 10
            assert replay.vehicle.until(lambda at=now_ns: replay.play(at)), number
        replay.play(110 * S)
