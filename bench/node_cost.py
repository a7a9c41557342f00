"""
What the node adds to its network: from an image's arrival to its markers, less the Predictor.

python bench/node_cost.py [--frames 200] [--hz 8] [--boxes 10] [--json FILE]

The real node and the real network run in this process, a camera and a viewer of the markers in
another one; all times are of this process's clock. The network's answers are replaced by as many
boxes as asked for, since what markers cost depends on their number. Arrival is when rclpy begins
to read the message off the wire; its reading is timed apart, on the same message.
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
PATIENCE_S = 30.0
#: Of the lens that the shipped student has learnt, on its canvas of 512x160.
LEARNT_FOCAL_PX = 297.0


def main() -> None:
    """Measure every size, each with a node and a camera of its own, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.strip().split('\n')[0])
    parser.add_argument('--frames', type=int, default=200, help='images measured of each size')
    parser.add_argument('--hz', type=float, default=8.0, help='images a second')
    parser.add_argument('--boxes', type=int, default=10, help='boxes in each answer')
    parser.add_argument('--json', type=Path, help='write the figures here as well')
    parser.add_argument('--camera', metavar='SIZE', help=argparse.SUPPRESS)
    args = parser.parse_args()
    # low ids are safe from the system's own ports
    os.environ.setdefault('ROS_DOMAIN_ID', str(1 + os.getpid() % 100))
    os.environ['FASTDDS_BUILTIN_TRANSPORTS'] = 'LARGE_DATA'
    if args.camera:
        play_camera(args.camera, args.hz)
        return
    figures = {size: measure(size, args) for size in SIZES}
    show(figures)
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1) + '\n')


class Rows(Counters):
    """Counters that keep the timings of every frame."""

    def __init__(self) -> None:
        """Begin with none."""
        super().__init__()
        self.rows: list[dict[str, float]] = []

    def record_timings(self, timings_ms):
        """Keep them."""
        super().record_timings(timings_ms)
        self.rows.append(dict(timings_ms))


def load_with_boxes(boxes: int):
    """Return a loader whose network computes as ever, but answers with so many boxes."""
    answer = Objects3D(
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

        class Answering:
            spec = predictor.spec

            def __call__(self, images, Ps):
                predictor(images, Ps)
                return [answer for _ in images]

        return Answering()

    return load


def measure(size: str, args: argparse.Namespace) -> dict[str, float]:
    """Run node and camera -> milliseconds."""
    rclpy.init()
    node = DetectorNode(load_with_boxes(args.boxes))
    rows = node.counters['camera'] = Rows()
    node.trigger_configure()
    node.trigger_activate()
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    spinning = threading.Thread(target=executor.spin)
    command = [sys.executable, __file__, '--camera', size, '--hz', str(args.hz)]
    camera = subprocess.Popen(command)
    try:
        spinning.start()
        end_s, wanted = time.monotonic() + PATIENCE_S, WARM_UP_FRAMES + args.frames
        end_s += wanted / args.hz
        while len(rows.rows) < wanted and time.monotonic() < end_s:
            time.sleep(0.1)
    finally:
        camera.terminate()
        camera.wait()
        executor.shutdown()
        spinning.join()
        node.stop()
        node.destroy_node()
        rclpy.shutdown()
    return figures_of(rows.rows[WARM_UP_FRAMES:], reading_ms(size))


def figures_of(rows: list[dict[str, float]], reading: float) -> dict[str, float]:
    """Medians of the stages and of their sum without the network."""
    if not rows:
        raise SystemExit('no image was answered')
    own = [row['total'] - row['inference'] for row in rows]
    stages = ('queue', 'decode', 'place', 'inference', 'postprocess', 'publish')
    return {
        'frames': len(rows),
        'reading': reading,
        **{stage: float(np.median([row[stage] for row in rows])) for stage in stages},
        'cost': float(np.median(own)) + reading,
        'cost_p95': float(np.percentile(own, 95)) + reading,
    }


def reading_ms(size: str) -> float:
    """Median time that rclpy takes to read an image off the wire."""
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
    """Make an image message of noise."""
    width, height, _ = SIZES[size]
    pixels = np.random.default_rng(0).integers(0, 255, height * width * 3, np.uint8)
    message = Image(height=height, width=width, encoding='bgr8', step=3 * width)
    message.data = array.array('B', pixels.tobytes())
    return message


def play_camera(size: str, hz: float) -> None:
    """Publish images and camera_infos, and listen to the markers, until the bench has ended."""
    bench = os.getppid()
    width, height, _ = SIZES[size]
    rclpy.init()
    node = Node('camera')
    message, info = image(size), CameraInfo(height=height, width=width)
    focal = LEARNT_FOCAL_PX / min(512 / width, 160 / height)
    info.k = [focal, 0.0, width / 2, 0.0, focal, height / 2, 0.0, 0.0, 1.0]
    info.p = [*info.k[:3], 0.0, *info.k[3:6], 0.0, 0.0, 0.0, 1.0, 0.0]
    images = node.create_publisher(Image, 'image_raw', 1)
    infos = node.create_publisher(CameraInfo, 'camera_info', 10)
    node.create_subscription(MarkerArray, 'detector/markers', lambda message: None, 10)

    def publish() -> None:
        if os.getppid() != bench:
            raise ExternalShutdownException
        message.header.stamp = info.header.stamp = node.get_clock().now().to_msg()
        infos.publish(info)
        images.publish(message)

    node.create_timer(1.0 / hz, publish)
    with contextlib.suppress(ExternalShutdownException):
        rclpy.spin(node)


if __name__ == '__main__':
    main()
