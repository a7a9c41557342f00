"""The real node on simulated time: images that are too old, and a bag that loops."""

from types import SimpleNamespace

import pytest

pytest.importorskip('rclpy', reason='rclpy is not installed')
pytest.importorskip('visualization_msgs', reason='ROS messages are not installed')

from fake_vehicle import NodeHarness, finish, image, start
from nodes import node_in_this_process
from rclpy.clock import ClockType
from rclpy.time import Time
from rosgraph_msgs.msg import Clock

S = 1_000_000_000


def test_only_larger_steps_back_clear_the_transforms():
    """The first messages of /clock may come out of order; a bag that loops jumps by seconds."""
    with node_in_this_process() as node:
        cleared, clock = [], node.get_clock()
        node._session = SimpleNamespace(
            on_time_jump=lambda: cleared.append(clock.now().nanoseconds), close=lambda: None
        )
        clock._set_ros_time_is_active(True)
        for now_ns in (100 * S, 100 * S - S // 20, 101 * S, 101 * S - S // 5, 50 * S):
            clock.set_ros_time_override(Time(nanoseconds=now_ns, clock_type=ClockType.ROS_TIME))
        node._session = None
    assert cleared == [101 * S - S // 5, 50 * S]


class Replay:
    """Publishes images and /clock, as a replayed bag does."""

    def __init__(self, harness):
        self.harness = harness
        self.clock = harness.node.create_publisher(Clock, '/clock', 10)

    def play(self, now_ns, age_ns=0):
        """Publish the time and an image of this age; return whether its markers arrive."""
        message = Clock()
        message.clock.sec, message.clock.nanosec = divmod(now_ns, S)
        self.clock.publish(message)
        self.harness.wait(0.05)
        stamp_ns = self.harness.send(image(cars=1), stamp_ns=now_ns - age_ns)
        return self.harness.wait_until(lambda: stamp_ns in self.harness.camera.markers, 0.5)


@pytest.fixture(scope='module')
def replay(model):
    process = start(model, '-p', 'use_sim_time:=true', '-p', 'max_age_s:=0.5')
    harness = NodeHarness()
    harness.wait_until_ready()
    yield Replay(harness)
    harness.close()
    code, log = finish(process)
    assert code == 0, log
    assert 'Traceback' not in log, log
    assert 'time was set back by' in log, log


def test_without_clock_images_are_processed_and_diagnostics_published(replay):
    replay.harness.detect(image(cars=1))
    status = replay.harness.wait_for_status(lambda each: each.name == 'detector: camera')
    assert not any(each.key.startswith('end to end') for each in status.values)


def test_age_is_measured_by_the_clock_of_the_bag(replay):
    assert replay.harness.wait_until(lambda: replay.play(100 * S))
    assert replay.harness.wait_until(lambda: replay.play(101 * S, age_ns=S // 5))
    for number in range(3):
        assert not replay.play((102 + number) * S, age_ns=5 * S // 2)
    status = replay.harness.wait_for_status(lambda each: 'dropped for their age' in each.message)
    assert '2.5 s old, more than max_age_s 0.5' in status.message
    assert any(each.key.startswith('end to end') for each in status.values)


def test_a_bag_that_loops_is_processed_again(replay):
    """Time jumps back by a minute, and the same stamps repeat."""
    for _ in range(2):
        replay.harness.camera.markers.clear()
        for number in range(5):
            now_ns = 50 * S + number * S // 10
            assert replay.harness.wait_until(lambda at=now_ns: replay.play(at)), number
        replay.play(110 * S)
