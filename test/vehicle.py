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
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from visualization_msgs.msg import Marker, MarkerArray

TEST = Path(__file__).resolve().parent
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
    'PYTHONPATH': os.pathsep.join([str(TEST.parent), os.environ.get('PYTHONPATH', '')]),
}


class Vehicle:
    """A camera, a viewer and an operator in one ROS node."""

    def __init__(self):
        os.environ['FASTDDS_BUILTIN_TRANSPORTS'] = 'LARGE_DATA'
        self.context = Context()
        rclpy.init(context=self.context, domain_id=DOMAIN)
        self.node = Node('vehicle', context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.images = self.node.create_publisher(Image, 'image_raw', 1)
        self.files = self.node.create_publisher(CompressedImage, 'image_raw/compressed', 1)
        self.infos = self.node.create_publisher(CameraInfo, 'camera_info', 10)
        self.stamp_ns = 1_000_000_000
        self.answers = {}
        self.statuses = []
        self.node.create_subscription(MarkerArray, 'detector/markers', self.on_markers, 10)
        self.node.create_subscription(DiagnosticArray, '/diagnostics', self.on_diagnostics, 10)

    def on_markers(self, message):
        first = message.markers[0]
        assert first.ns == 'camera/frame'
        self.answers[stamp_of(first.header)] = message.markers

    def on_diagnostics(self, message):
        self.statuses += message.status

    def until(self, condition, timeout_s=PATIENCE_S):
        end = time.monotonic() + timeout_s
        while not (value := condition()) and time.monotonic() < end:
            self.executor.spin_once(timeout_sec=0.02)
        return value

    def ready(self):
        outputs = (self.images, self.files, self.infos)
        assert self.until(lambda: all(each.get_subscription_count() for each in outputs))
        assert self.until(lambda: self.node.count_publishers('detector/markers'))

    def call(self, kind, name, request):
        client = self.node.create_client(kind, f'detector/{name}')
        assert self.until(client.service_is_ready), name
        future = client.call_async(request)
        assert self.until(future.done), name
        self.node.destroy_client(client)
        return future.result()

    def send(self, publisher, message, **info):
        """Send an image with its camera_info and return its stamp."""
        self.stamp_ns += 100_000_007
        sec, nanosec = divmod(self.stamp_ns, 10**9)
        for each in (message, numbers := camera_info(**info)):
            each.header.stamp.sec, each.header.stamp.nanosec = sec, nanosec
            each.header.frame_id = 'front_optical'
        self.infos.publish(numbers)
        publisher.publish(message)
        return self.stamp_ns

    def ask(self, publisher, message, **info):
        """Send until answered: best effort may lose one. Returns stamp and markers."""
        for _ in range(5):
            stamp_ns = self.send(publisher, message, **info)
            if answer := self.until(lambda s=stamp_ns: self.answers.get(s), 4.0):
                return stamp_ns, answer
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


def stamp_of(header):
    return header.stamp.sec * 10**9 + header.stamp.nanosec


def camera_info(focal=FOCAL, **changes):
    fields = {
        'width': WIDTH,
        'height': HEIGHT,
        'distortion_model': 'plumb_bob',
        'k': [focal, 0.0, 16.0, 0.0, focal, 12.0, 0.0, 0.0, 1.0],
        'r': [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0],
        'p': [focal, 0.0, 16.0, 0.0, 0.0, focal, 12.0, 0.0, 0.0, 0.0, 1.0, 0.0],
    }
    return CameraInfo(**{**fields, **changes})


def pixels(cars):
    return np.full((HEIGHT, WIDTH, 3), (10 * cars, 60, 60), np.uint8)


def image(cars, encoding='rgb8'):
    data = pixels(cars)[..., :: 1 if encoding == 'rgb8' else -1]
    return Image(
        height=HEIGHT,
        width=WIDTH,
        encoding=encoding,
        step=WIDTH * 3,
        data=array.array('B', data.tobytes()),
    )


def png(cars):
    _, file = cv2.imencode('.png', pixels(cars)[..., ::-1])
    return CompressedImage(format='png', data=array.array('B', file.tobytes()))


def drawn(markers, kind='boxes'):
    return [m for m in markers if m.ns == f'camera/{kind}' and m.action == Marker.ADD]


def parameter(name, value):
    kinds = {float: 'double', str: 'string', int: 'integer'}
    kind = kinds[type(value)]
    fields = {'type': getattr(ParameterType, f'PARAMETER_{kind.upper()}'), f'{kind}_value': value}
    return Parameter(name=name, value=ParameterValue(**fields))


def start(model, *arguments):
    command = [sys.executable, str(TEST / 'fake_node.py'), '--ros-args', '-p', f'model:={model}']
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
