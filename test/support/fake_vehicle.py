"""Cameras, a viewer and an operator, to test the real node in another process."""

import array
import gc
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.srv import ChangeState
from nodes import transports
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from visualization_msgs.msg import Marker, MarkerArray

ROOT = Path(__file__).resolve().parents[2]
HEIGHT, WIDTH = 24, 32
#: Low ids do not collide with ephemeral ports; other runs on this machine use other ids.
DOMAIN = 1 + os.getpid() % 100
FOCAL = 300.0
#: Upper limit for a loaded machine; a test that passes waits much less.
TIMEOUT_S = 20.0
#: On a busy machine a node needs long to import and to be discovered.
START_TIMEOUT_S = 60.0
ENVIRONMENT = {
    **os.environ,
    'ROS_DOMAIN_ID': str(DOMAIN),
    'FASTDDS_BUILTIN_TRANSPORTS': 'LARGE_DATA',
    'PYTHONPATH': os.pathsep.join([str(ROOT), os.environ.get('PYTHONPATH', '')]),
}


class FakeCamera:
    """One camera: publishes images and stores the markers that the detector returns."""

    def __init__(self, node, name='camera', prefix=''):
        self.name, self.prefix, self.node = name, prefix, node
        self.markers = {}  # stamp of an image, ns -> its markers
        self.compressed_used = True  # whether the detector also subscribes to compressed images
        self.open()
        node.create_subscription(MarkerArray, f'detector/{prefix}markers', self.on_markers, 10)

    def open(self):
        """Create the publishers; after close this simulates the restart of a driver."""
        self.images = self.node.create_publisher(Image, f'{self.prefix}image_raw', 1)
        self.compressed_images = self.node.create_publisher(
            CompressedImage, f'{self.prefix}image_raw/compressed', 1
        )
        self.infos = self.node.create_publisher(CameraInfo, f'{self.prefix}camera_info', 10)

    def close(self):
        for each in self.publishers():
            self.node.destroy_publisher(each)

    def publishers(self):
        return self.images, self.compressed_images, self.infos

    def used_publishers(self):
        return self.publishers() if self.compressed_used else (self.images, self.infos)

    def on_markers(self, message):
        first = message.markers[0]
        assert first.ns == f'{self.name}/frame'
        self.markers[stamp_of(first.header)] = message.markers


class NodeHarness:
    """Cameras, a viewer and an operator in one ROS node, which test the detector."""

    def __init__(self, cameras=()):
        self.context = Context()
        rclpy.init(context=self.context, domain_id=DOMAIN)
        with transports('LARGE_DATA'):
            self.node = Node('vehicle', context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        if cameras:
            self.cameras = {name: FakeCamera(self.node, name, f'{name}/') for name in cameras}
        else:
            self.cameras = {'camera': FakeCamera(self.node)}
        self.camera = next(iter(self.cameras.values()))
        self.stamp_ns = 1_000_000_000
        self.configured = 1  # the node configures itself at the start
        self.statuses = []
        self.node.create_subscription(DiagnosticArray, '/diagnostics', self.on_diagnostics, 10)

    def on_diagnostics(self, message):
        self.statuses += message.status

    def wait_until(self, condition, timeout_s=TIMEOUT_S):
        end = time.monotonic() + timeout_s
        while not (value := condition()) and time.monotonic() < end:
            self.executor.spin_once(timeout_sec=0.02)
        return value

    def wait(self, seconds):
        """Spin for this many seconds."""
        self.wait_until(lambda: False, seconds)

    def wait_until_ready(self):
        """Wait until the detector subscribes to all cameras and publishes their markers."""
        cameras = self.cameras.values()
        publishers = [each for camera in cameras for each in camera.used_publishers()]
        ready = lambda: all(each.get_subscription_count() for each in publishers)  # noqa: E731
        assert self.wait_until(ready, START_TIMEOUT_S)
        topics = [f'detector/{camera.prefix}markers' for camera in cameras]
        assert self.wait_until(lambda: all(self.node.count_publishers(each) for each in topics))

    def wait_until_images_are_subscribed(self):
        """Wait until a node subscribes to the images and camera_infos of the first camera."""
        publishers = self.camera.images, self.camera.infos
        ready = lambda: all(each.get_subscription_count() for each in publishers)  # noqa: E731
        assert self.wait_until(ready, START_TIMEOUT_S)

    def record(self, msg_type, topic):
        """Subscribe to a topic and return the list that its messages are appended to."""
        messages = []
        self.node.create_subscription(msg_type, topic, messages.append, 10)
        assert self.wait_until(lambda: self.node.count_publishers(topic)), topic
        return messages

    def call(self, srv_type, name, request, node='detector'):
        client = self.node.create_client(srv_type, f'{node}/{name}')
        assert self.wait_until(client.service_is_ready), name
        future = client.call_async(request)
        assert self.wait_until(future.done), name
        self.node.destroy_client(client)
        return future.result()

    def change_state(self, transition):
        """Request a lifecycle transition of the detector."""
        request = ChangeState.Request()
        request.transition.label = transition
        assert self.call(ChangeState, 'change_state', request).success, transition
        self.configured += transition == 'configure'

    def set_parameter(self, name, value, node='detector'):
        """Set a parameter of the detector."""
        request = SetParameters.Request(parameters=[parameter(name, value)])
        return self.call(SetParameters, 'set_parameters', request, node).results[0]

    def send(self, message, camera=None, stamp_ns=None, **info):
        """Publish an image, raw or compressed, with its camera_info and return its stamp."""
        camera = camera or self.camera
        self.stamp_ns = self.stamp_ns + 100_000_007 if stamp_ns is None else stamp_ns
        info_message = camera_info(**info)
        for each in (message, info_message):
            stamp(each, self.stamp_ns, f'{camera.name}_optical')
        camera.infos.publish(info_message)
        compressed = isinstance(message, CompressedImage)
        (camera.compressed_images if compressed else camera.images).publish(message)
        return self.stamp_ns

    def detect(self, message, camera=None, **info):
        """Send an image until its markers arrive (best effort may lose one) and return them."""
        camera = camera or self.camera
        for _ in range(10):
            stamp_ns = self.send(message, camera, **info)
            if markers := self.wait_until(
                lambda s=stamp_ns: camera.markers.get(s), TIMEOUT_S / 10
            ):
                return markers
        raise AssertionError('no markers')

    def wait_for_status(self, condition):
        """Wait for a diagnostic status that meets a condition and return it."""
        self.statuses.clear()
        assert self.wait_until(lambda: any(map(condition, self.statuses))), self.statuses[-1:]
        return next(filter(condition, self.statuses))

    def poll_status(self, condition, action):
        """Repeat an action until a diagnostic status meets a condition, and return it."""
        self.statuses.clear()
        end_s = time.monotonic() + TIMEOUT_S
        while not any(map(condition, self.statuses)) and time.monotonic() < end_s:
            action()
            self.wait(0.2)
        assert any(map(condition, self.statuses)), self.statuses[-1:]
        return next(filter(condition, self.statuses))

    def close(self):
        self.executor.shutdown()
        self.node.destroy_node()
        self.context.try_shutdown()
        gc.collect()  # ends the participant now, not in a later test


def stamp(message, stamp_ns, frame_id):
    message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp_ns, 10**9)
    message.header.frame_id = frame_id


def stamp_of(header):
    return header.stamp.sec * 10**9 + header.stamp.nanosec


def camera_info(focal=FOCAL, size=(WIDTH, HEIGHT), **changes):
    fields = {
        'width': size[0],
        'height': size[1],
        'distortion_model': 'plumb_bob',
        'k': [focal, 0.0, 16.0, 0.0, focal, 12.0, 0.0, 0.0, 1.0],
        'r': [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0],
        'p': [focal, 0.0, 16.0, 0.0, 0.0, focal, 12.0, 0.0, 0.0, 0.0, 1.0, 0.0],
    }
    return CameraInfo(**{**fields, **changes})


def pixels(cars, size=(WIDTH, HEIGHT)):
    return np.full((size[1], size[0], 3), (10 * cars, 60, 60), np.uint8)


def image(cars, encoding='rgb8', size=(WIDTH, HEIGHT)):
    data = pixels(cars, size)[..., :: 1 if encoding == 'rgb8' else -1]
    return Image(
        height=size[1],
        width=size[0],
        encoding=encoding,
        step=size[0] * 3,
        data=array.array('B', data.tobytes()),
    )


def png(cars):
    _, file = cv2.imencode('.png', pixels(cars)[..., ::-1])
    return CompressedImage(format='png', data=array.array('B', file.tobytes()))


def added(markers, kind='boxes'):
    """Return the markers of a kind that are added, not deleted."""
    return [m for m in markers if m.ns.endswith(f'/{kind}') and m.action == Marker.ADD]


def labels(markers):
    return [each.text for each in added(markers, 'labels')]


def parameter(name, value):
    kinds = {bool: 'bool', float: 'double', str: 'string', int: 'integer'}
    if isinstance(value, list):
        kind = kinds[type(value[0])] if value else 'string'
        fields = {'type': getattr(ParameterType, f'PARAMETER_{kind.upper()}_ARRAY')}
        fields[f'{kind}_array_value'] = value
    else:
        kind = kinds[type(value)]
        fields = {'type': getattr(ParameterType, f'PARAMETER_{kind.upper()}')}
        fields[f'{kind}_value'] = value
    return Parameter(name=name, value=ParameterValue(**fields))


def start(model, *arguments, script='fake_node.py'):
    node = str(ROOT / 'test/support' / script)
    command = [sys.executable, node, '--ros-args', '-p', f'model:={model}']
    return subprocess.Popen(
        [*command, *arguments],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process, number=signal.SIGINT):
    """
    Send a signal, wait for the end, and return the exit code and the log.

    A node that does not end is killed, else it would answer the images of all later tests; its
    exit code, -9, fails the test.
    """
    process.send_signal(number)
    try:
        log, _ = process.communicate(timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        log, _ = process.communicate()
    return process.returncode, log
