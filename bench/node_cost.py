"""
Measure the overhead of the node: time from image arrival to markers, without the network.

python bench/node_cost.py [--frames 200] [--hz 8] [--boxes 10] [--json FILE]

The real node and the real network run in this process; a camera and a subscriber to the markers
run in another one. All times are by the clock of this process. The predictions of the network are
replaced by --boxes boxes, since the cost of the markers depends on their number. An image arrives
when rclpy begins to deserialise the message; deserialisation is timed separately, on the same
message.
"""

from __future__ import annotations

import argparse
import array
import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.serialization import deserialize_message, serialize_message
from rich.console import Console
from rich.table import Table
from sensor_msgs.msg import CameraInfo, Image
from visualization_msgs.msg import MarkerArray

from mono3d_ros.monitoring.counters import Counters
from mono3d_ros.node.detector_node import DetectorNode
from mono3d_ros.perception import model_loading
from stl_core.types import Objects3D

SIZES = {'1242x375': (1242, 375, 4.0), '1920x1080': (1920, 1080, 12.0)}
WARM_UP_FRAMES = 10
TIMEOUT_S = 30.0
#: Focal length that the shipped model was trained for, on its canvas of 512x160 pixels.
TRAINED_FOCAL_PX = 297.0


def main() -> None:
    """Measure each image size with a new node and a new camera, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.strip().split('\n')[0])
    parser.add_argument('--frames', type=int, default=200, help='number of images of each size')
    parser.add_argument('--hz', type=float, default=8.0, help='images per second')
    parser.add_argument('--boxes', type=int, default=10, help='boxes in each image')
    parser.add_argument('--json', type=Path, help='also write the figures to this file')
    parser.add_argument('--camera', metavar='SIZE', help=argparse.SUPPRESS)
    args = parser.parse_args()
    # low domain ids do not collide with ephemeral ports of the system
    os.environ.setdefault('ROS_DOMAIN_ID', str(1 + os.getpid() % 100))
    os.environ['FASTDDS_BUILTIN_TRANSPORTS'] = 'LARGE_DATA'
    if args.camera:
        play_camera(args.camera, args.hz)
        return
    figures = {size: measure(size, args) for size in SIZES}
    show(figures)
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1) + '\n')


class TimingLog(Counters):
    """Counters that also keep the timings of every frame, as rows."""

    def __init__(self) -> None:
        """Start without rows."""
        super().__init__()
        self.rows: list[dict[str, float]] = []

    def record_timings(self, timings_ms):
        """Append the timings of a frame."""
        super().record_timings(timings_ms)
        self.rows.append(dict(timings_ms))


def load_with_boxes(boxes: int):
    """Return a loader of models that run the network, but return this number of boxes."""
    objects = Objects3D(
        class_id=np.zeros(boxes, int),
        score=np.linspace(0.9, 0.5, boxes),
        center_m=np.column_stack([np.linspace(-8, 8, boxes), np.ones(boxes), np.full(boxes, 20)]),
        size_hwl_m=np.tile([1.5, 1.6, 4.0], (boxes, 1)),
        rotation_y=np.linspace(-3, 3, boxes),
        box_px=np.zeros((boxes, 4)),
        depth_sigma_m=np.ones(boxes),
    )

    def load(path, device, precision):
        predictor = model_loading.load_model(path, device, precision)

        class FixedPredictor:
            spec = predictor.spec

            def __call__(self, images, Ps):
                predictor(images, Ps)
                return [objects for _ in images]

        return FixedPredictor()

    return load


def measure(size: str, args: argparse.Namespace) -> dict[str, float]:
    """Run the node and the camera and return the figures of one image size, milliseconds."""
    rclpy.init()
    node = DetectorNode(load_with_boxes(args.boxes))
    log = node.counters['camera'] = TimingLog()
    node.trigger_configure()
    node.trigger_activate()
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    spinning = threading.Thread(target=executor.spin)
    command = [sys.executable, __file__, '--camera', size, '--hz', str(args.hz)]
    camera = subprocess.Popen(command)
    try:
        spinning.start()
        num_frames = WARM_UP_FRAMES + args.frames
        end_s = time.monotonic() + TIMEOUT_S + num_frames / args.hz
        while len(log.rows) < num_frames and time.monotonic() < end_s:
            time.sleep(0.1)
    finally:
        camera.terminate()
        camera.wait()
        executor.shutdown()
        spinning.join()
        node.stop()
        node.destroy_node()
        rclpy.shutdown()
    return figures_of(log.rows[WARM_UP_FRAMES:], reading_ms(size))


def figures_of(rows: list[dict[str, float]], reading: float) -> dict[str, float]:
    """Return the median of each stage and of the total without the network, milliseconds."""
    if not rows:
        raise SystemExit('the node processed no image')
    overhead = [row['total'] - row['inference'] for row in rows]
    stages = ('queue', 'decode', 'place', 'inference', 'postprocess', 'publish')
    return {
        'frames': len(rows),
        'reading': reading,
        **{stage: float(np.median([row[stage] for row in rows])) for stage in stages},
        'cost': float(np.median(overhead)) + reading,
        'cost_p95': float(np.percentile(overhead, 95)) + reading,
    }


def reading_ms(size: str) -> float:
    """Return the median time that rclpy takes to deserialise an image message."""
    cdr, times = serialize_message(image(size)), []
    for _ in range(50):
        start_s = time.perf_counter()
        deserialize_message(cdr, Image)
        times.append((time.perf_counter() - start_s) * 1e3)
    return float(np.median(times))


def show(figures: dict[str, dict[str, float]]) -> None:
    """Print the table."""
    table = Table(title='milliseconds, median', title_justify='left')
    table.add_column('image, raw bgr8')
    for name in next(iter(figures.values())):
        table.add_column(name.replace('_', ' '), justify='right')
    table.add_column('goal', justify='right')
    for size, row in figures.items():
        cells = (
            f'{value:g}' if name == 'frames' else f'{value:.2f}' for name, value in row.items()
        )
        table.add_row(size, *cells, f'{SIZES[size][2]:g}')
    Console(width=140).print(table)


def image(size: str) -> Image:
    """Return an image message of random pixels."""
    width, height, _ = SIZES[size]
    pixels = np.random.default_rng(0).integers(0, 255, height * width * 3, np.uint8)
    message = Image(height=height, width=width, encoding='bgr8', step=3 * width)
    message.data = array.array('B', pixels.tobytes())
    return message


def play_camera(size: str, hz: float) -> None:
    """Publish images and camera_infos, and subscribe to the markers, until the parent exits."""
    parent = os.getppid()
    width, height, _ = SIZES[size]
    rclpy.init()
    node = Node('camera')
    message, info = image(size), CameraInfo(height=height, width=width)
    focal = TRAINED_FOCAL_PX / min(512 / width, 160 / height)
    info.k = [focal, 0.0, width / 2, 0.0, focal, height / 2, 0.0, 0.0, 1.0]
    info.p = [*info.k[:3], 0.0, *info.k[3:6], 0.0, 0.0, 0.0, 1.0, 0.0]
    images = node.create_publisher(Image, 'image_raw', 1)
    infos = node.create_publisher(CameraInfo, 'camera_info', 10)
    node.create_subscription(MarkerArray, 'detector/markers', lambda message: None, 10)

    def publish() -> None:
        if os.getppid() != parent:
            raise ExternalShutdownException
        message.header.stamp = info.header.stamp = node.get_clock().now().to_msg()
        infos.publish(info)
        images.publish(message)

    node.create_timer(1.0 / hz, publish)
    with contextlib.suppress(ExternalShutdownException):
        rclpy.spin(node)


if __name__ == '__main__':
    main()
