"""A session without DDS: late transforms, and the time that the node waits for them."""

import time
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip('rclpy', reason='rclpy is not installed')
pytest.importorskip('sensor_msgs', reason='ROS messages are not installed')

from bag_messages import camera_info, image, picture, tf_message

from mono3d_ros.monitoring.counters import Counters
from mono3d_ros.node import session as session_module
from mono3d_ros.node.session import CameraIO, DetectorSession, Perception
from mono3d_ros.node.subscriptions import TRANSPORTS, CameraSubscriptions, ResolvedTopics
from mono3d_ros.node.tf_listener import TF_TOPIC, BufferListener
from mono3d_ros.params import Camera, Params
from mono3d_ros.perception.pipeline import Pipeline
from stl_core.types import Objects3D

S = 1_000_000_000
TOPICS = ResolvedTopics('/image', {'/image': object}, '/camera_info')
TIMEOUT_S = 10.0


class Vehicle:
    """A session whose topics are method calls, with one camera and the frame base."""

    def __init__(self, monkeypatch, **params):
        self.params = Params(target_frame='base', **params)
        self.cameras = (Camera('camera', '', self.params.single_camera()),)
        self.counters = {'camera': Counters()}
        self.context = SimpleNamespace(ok=lambda: True)
        self.published, self.callbacks = [], {}
        publishers = SimpleNamespace(
            publish=lambda result, frame, target, lifetime_s: self.published.append(target),
            publish_timings=lambda timings_ms: None,
            clear_markers=lambda: None,
            have_subscribers=True,
        )
        endpoints = SimpleNamespace(
            create_subscription=lambda kind, topic, callback, qos: self.callbacks.update(
                {topic: callback}
            ),
            destroy_subscriptions=lambda: None,
            has_kept_messages=lambda topic: False,
        )
        pipeline = Pipeline.from_params(Nothing(), self.params, time.perf_counter)
        monkeypatch.setattr(
            session_module,
            'make_listener',
            lambda node, endpoints, on_note: BufferListener(endpoints, object, on_note),
        )
        self.session = DetectorSession(
            self,
            endpoints,
            Perception(pipeline, None, 'cpu'),
            {'camera': CameraIO(TOPICS, publishers)},
        )

    def get_clock(self):
        return SimpleNamespace(now=lambda: SimpleNamespace(nanoseconds=0))

    def get_logger(self):
        ignore = lambda text: None  # noqa: E731
        return SimpleNamespace(info=ignore, warning=ignore, error=ignore)

    def send(self, stamp_ns):
        """Receive an image with its camera_info."""
        self.callbacks['/camera_info'](camera_info(stamp_ns))
        self.callbacks['/image'](image(stamp_ns, picture()))

    def move(self, stamp_ns):
        """Receive a transform of the camera."""
        self.callbacks[TF_TOPIC](tf_message(stamp_ns, ('base', 'cam_optical', 2.0)))

    def wait_until(self, condition):
        end = time.monotonic() + TIMEOUT_S
        while not condition() and time.monotonic() < end:
            time.sleep(0.001)
        assert condition()

    def count(self, kind):
        return self.counters['camera'].snapshot().counts.get(kind, 0)


class Nothing:
    """A predictor that detects nothing."""

    spec, device = SimpleNamespace(classes=('Car',)), 'cpu'

    def __call__(self, images, Ps):
        return [Objects3D.empty() for _ in images]


@pytest.fixture
def make(monkeypatch):
    vehicles = []

    def build(**params):
        vehicles.append(Vehicle(monkeypatch, **params))
        return vehicles[-1]

    yield build
    for each in vehicles:
        each.session.close()


@pytest.mark.parametrize(('late_tf', 'published'), [('camera_frame', [None]), ('drop', [])])
def test_an_image_without_transform_is_published_in_its_frame_or_dropped(make, late_tf, published):
    vehicle = make(late_tf=late_tf, tf_wait_s=0.0)
    vehicle.move(9 * S)  # the latest transform is older than the image
    vehicle.send(10 * S)
    vehicle.wait_until(lambda: vehicle.count('answered'))
    assert vehicle.published == published
    assert vehicle.count('not_placed') == 1 - len(published)
    assert vehicle.count('no_transform') == 1
    vehicle.move(12 * S)
    vehicle.send(11 * S)
    vehicle.wait_until(lambda: vehicle.count('answered') == 2)
    assert vehicle.published[-1].frame_id == 'base'
    assert vehicle.count('not_placed') == 1 - len(published)


def test_the_node_waits_for_a_transform_as_long_as_the_parameter_says(make, monkeypatch):
    """The transform arrives while the node looks for it: at its second look-up at the earliest."""
    vehicle = make(late_tf='drop', tf_wait_s=TIMEOUT_S)
    looked_up = []
    lookup = BufferListener.lookup
    monkeypatch.setattr(
        BufferListener, 'lookup', lambda self, *args: looked_up.append(args) or lookup(self, *args)
    )
    vehicle.move(9 * S)
    vehicle.send(10 * S)
    vehicle.wait_until(lambda: len(looked_up) > 30)  # the default wait ends at about 15
    assert vehicle.count('answered') == 0
    vehicle.move(11 * S)
    vehicle.wait_until(lambda: vehicle.count('answered'))
    (target,) = vehicle.published
    np.testing.assert_array_equal(target.target_T_cam[:3, 3], [2.0, 0.0, 0.0])
    assert vehicle.count('no_transform') == vehicle.count('not_placed') == 0


def test_a_subscription_that_failed_is_made_at_the_next_time():
    """Otherwise the topic would stay without subscription, and no issue would say so."""
    created, failing = [], []

    def create(kind, topic, callback, qos):
        if failing:
            raise RuntimeError(failing.pop())
        created.append((topic, kind))

    endpoints = SimpleNamespace(
        create_subscription=create,
        destroy_subscription=lambda topic: None,
        published_types=lambda topic: (
            frozenset({'sensor_msgs/msg/CompressedImage'}) if topic == '/image' else frozenset()
        ),
    )
    images = {f'/image{suffix}': kind for suffix, kind in TRANSPORTS['auto']}
    topics = ResolvedTopics('/image', images, '/camera_info')
    subscriptions = CameraSubscriptions(
        endpoints, 'camera', topics, 'best_effort', None, lambda text: None
    )
    failing.append('out of resources')
    with pytest.raises(RuntimeError, match='out of resources'):
        subscriptions.follow_types()
    assert subscriptions.follow_types() == {}
    assert created[-1] == ('/image', images['/image/compressed'])
    assert len(created) == 4
    subscriptions.follow_types()
    assert len(created) == 4
