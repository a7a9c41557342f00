"""A camera, a viewer and an operator for tests of the real node, which runs beside them."""

import array
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
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from visualization_msgs.msg import Marker, MarkerArray

ROOT = Path(__file__).resolve().parents[2]
HEIGHT, WIDTH = 24, 32
#: Low ids are safe from the system's own ports; other runs on this machine have other ids.
DOMAIN = 1 + os.getpid() % 100
FOCAL = 300.0
#: The best a loaded machine may need; nothing waits so long when all is well.
PATIENCE_S = 20.0
ENVIRONMENT = {
    **os.environ,
    'ROS_DOMAIN_ID': str(DOMAIN),
    'FASTDDS_BUILTIN_TRANSPORTS': 'LARGE_DATA',
    'PYTHONPATH': os.pathsep.join([str(ROOT), os.environ.get('PYTHONPATH', '')]),
}


class Eye:
    """One camera of the vehicle, and what the detector answers to its images."""

    def __init__(self, node, name='camera', prefix=''):
        self.name, self.prefix, self.node = name, prefix, node
        self.answers = {}
        self.hears_files = True  # whether the detector subscribes to compressed images as well
        self.open()
        node.create_subscription(MarkerArray, f'detector/{prefix}markers', self.on_markers, 10)

    def open(self):
        """Begin to publish; again after close, as a driver does that was restarted."""
        self.images = self.node.create_publisher(Image, f'{self.prefix}image_raw', 1)
        self.files = self.node.create_publisher(
            CompressedImage, f'{self.prefix}image_raw/compressed', 1
        )
        self.infos = self.node.create_publisher(CameraInfo, f'{self.prefix}camera_info', 10)

    def close(self):
        for each in self.outputs():
            self.node.destroy_publisher(each)

    def outputs(self):
        return self.images, self.files, self.infos

    def heard(self):
        return self.outputs() if self.hears_files else (self.images, self.infos)

    def on_markers(self, message):
        first = message.markers[0]
        assert first.ns == f'{self.name}/frame'
        self.answers[stamp_of(first.header)] = message.markers


class Vehicle:
    """Cameras, a viewer and an operator in one ROS node."""

    def __init__(self, cameras=()):
        os.environ['FASTDDS_BUILTIN_TRANSPORTS'] = 'LARGE_DATA'
        self.context = Context()
        rclpy.init(context=self.context, domain_id=DOMAIN)
        self.node = Node('vehicle', context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        if cameras:
            self.eyes = {name: Eye(self.node, name, f'{name}/') for name in cameras}
        else:
            self.eyes = {'camera': Eye(self.node)}
        self.eye = next(iter(self.eyes.values()))
        self.stamp_ns = 1_000_000_000
        self.configured = 1  # by itself, at the start
        self.statuses = []
        self.node.create_subscription(DiagnosticArray, '/diagnostics', self.on_diagnostics, 10)

    def on_diagnostics(self, message):
        self.statuses += message.status

    def until(self, condition, timeout_s=PATIENCE_S):
        end = time.monotonic() + timeout_s
        while not (value := condition()) and time.monotonic() < end:
            self.executor.spin_once(timeout_sec=0.02)
        return value

    def rest(self, seconds):
        """Let time go by."""
        self.until(lambda: False, seconds)

    def ready(self):
        outputs = [each for eye in self.eyes.values() for each in eye.heard()]
        assert self.until(lambda: all(each.get_subscription_count() for each in outputs))
        markers = [f'detector/{eye.prefix}markers' for eye in self.eyes.values()]
        assert self.until(lambda: all(self.node.count_publishers(each) for each in markers))

    def listen(self, kind, topic):
        """Return the list that messages of a topic are put into from now on."""
        heard = []
        self.node.create_subscription(kind, topic, heard.append, 10)
        assert self.until(lambda: self.node.count_publishers(topic)), topic
        return heard

    def call(self, kind, name, request):
        client = self.node.create_client(kind, f'detector/{name}')
        assert self.until(client.service_is_ready), name
        future = client.call_async(request)
        assert self.until(future.done), name
        self.node.destroy_client(client)
        return future.result()

    def change(self, transition):
        """Take the detector through a transition of its life."""
        request = ChangeState.Request()
        request.transition.label = transition
        assert self.call(ChangeState, 'change_state', request).success, transition
        self.configured += transition == 'configure'

    def set(self, name, value):
        """Set a parameter of the detector."""
        request = SetParameters.Request(parameters=[parameter(name, value)])
        return self.call(SetParameters, 'set_parameters', request).results[0]

    def send(self, message, eye=None, stamp_ns=None, **info):
        """Send an image, raw or compressed, with its camera_info and return its stamp."""
        eye = eye or self.eye
        self.stamp_ns = self.stamp_ns + 100_000_007 if stamp_ns is None else stamp_ns
        numbers = camera_info(**info)
        for each in (message, numbers):
            stamp(each, self.stamp_ns, f'{eye.name}_optical')
        eye.infos.publish(numbers)
        (eye.files if isinstance(message, CompressedImage) else eye.images).publish(message)
        return self.stamp_ns

    def ask(self, message, eye=None, **info):
        """Send until answered: best effort may lose one. Returns the markers."""
        eye = eye or self.eye
        for _ in range(10):
            stamp_ns = self.send(message, eye, **info)
            if answer := self.until(lambda s=stamp_ns: eye.answers.get(s), PATIENCE_S / 10):
                return answer
        raise AssertionError('no answer')

    def status(self, condition):
        """Wait for a diagnostic status."""
        self.statuses.clear()
        assert self.until(lambda: any(map(condition, self.statuses))), self.statuses[-1:]
        return next(filter(condition, self.statuses))

    def close(self):
        self.executor.shutdown()
        self.node.destroy_node()
        self.context.try_shutdown()


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


def drawn(markers, kind='boxes'):
    return [m for m in markers if m.ns.endswith(f'/{kind}') and m.action == Marker.ADD]


def labels(markers):
    return [each.text for each in drawn(markers, 'labels')]


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


def start(model, *arguments):
    node = str(ROOT / 'test/support/fake_node.py')
    command = [sys.executable, node, '--ros-args', '-p', f'model:={model}']
    return subprocess.Popen(
        [*command, *arguments],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process, number=signal.SIGINT):
    """Signal, wait, and return exit code and log."""
    process.send_signal(number)
    log, _ = process.communicate(timeout=PATIENCE_S)
    return process.returncode, log
