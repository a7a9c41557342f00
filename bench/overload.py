"""
Measure latency and memory of the node when images arrive faster than the network runs.

python bench/overload.py [--seconds 120] [--factor 5] [--size 1242x375] [--json FILE]

The real node with the shipped model runs in a separate process; this process is the camera and
the viewer. It measures in three phases: (1) each image is sent when the markers of the previous
one have arrived, which gives the rate of the network alone; (2) images are sent at that rate times
--factor, which gives the rate under load; (3) images are sent at the rate under load times
--factor. The age of a result is the time from the stamp of its image, taken when the image is
published, to the arrival of its markers here: it includes DDS in both directions. The inference
period is the median time between two results. The goals: no age above two periods, and at most
2 % more memory in the last quarter than in the first.
"""

from __future__ import annotations

import argparse
import array
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rich.console import Console
from rich.table import Table
from sensor_msgs.msg import CameraInfo, Image
from visualization_msgs.msg import MarkerArray

#: Duration of phases 1 and 2, seconds, and number of first results to skip.
PROBE_S, WARM_UP = 8.0, 5
#: Margin on the rate of phase 3, because the network speeds up when fewer images arrive.
MARGIN = 1.05
#: Memory is compared between the first and the last quarter of the run.
QUARTER = 4
TIMEOUT_S = 60.0
#: Focal length that the shipped model was trained for, on its canvas of 512x160 pixels.
TRAINED_FOCAL_PX = 297.0
#: The goals: maximum age in inference periods, and growth of memory as a fraction.
AGE_PERIODS, GROWTH = 2.0, 0.02


def main() -> None:
    """Measure, print the figures and exit with 1 if a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__.strip().split('\n')[0])
    parser.add_argument('--seconds', type=float, default=120.0, help='duration of the overload')
    parser.add_argument('--factor', type=float, default=5.0, help='number of images per result')
    parser.add_argument('--size', default='1242x375', help='image size, WIDTHxHEIGHT')
    parser.add_argument('--json', type=Path, help='also write the figures to this file')
    args = parser.parse_args()
    # low domain ids do not collide with ephemeral ports of the system
    os.environ.setdefault('ROS_DOMAIN_ID', str(1 + os.getpid() % 100))
    os.environ['FASTDDS_BUILTIN_TRANSPORTS'] = 'LARGE_DATA'
    width, height = map(int, args.size.split('x'))
    node = subprocess.Popen([sys.executable, '-m', 'mono3d_ros.node'])
    rclpy.init()
    camera = Camera(width, height, node.pid)
    try:
        camera.wait_for_detector()
        camera.run(PROBE_S, hz=0.0)
        alone_ms = camera.period_ms()
        camera.run(PROBE_S, hz=args.factor * 1e3 / alone_ms)
        loaded_ms = camera.period_ms()
        camera.run(args.seconds, hz=MARGIN * args.factor * 1e3 / loaded_ms)
    finally:
        node.send_signal(signal.SIGINT)
        node.wait()
        camera.close()
    figures = figures_of(camera, alone_ms)
    show(figures)
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1) + '\n')
    met = figures['age_max_periods'] <= AGE_PERIODS and figures['memory_growth'] <= GROWTH
    if figures['overload'] < args.factor:
        raise SystemExit('the images were not --factor times as fast as the results; run again')
    raise SystemExit(0 if met else 1)


class Camera:
    """Publishes images at a given rate and records when their markers arrive."""

    def __init__(self, width: int, height: int, detector: int) -> None:
        """
        Prepare an image message of random pixels and the publishers.

        :param width: width of the images.
        :param height: height of the images.
        :param detector: process id of the node, whose memory is recorded.
        """
        self.node, self.executor = Node('camera'), SingleThreadedExecutor()
        self.executor.add_node(self.node)
        self.detector = detector
        pixels = np.random.default_rng(0).integers(0, 255, height * width * 3, np.uint8)
        self.image = Image(height=height, width=width, encoding='bgr8', step=3 * width)
        self.image.data = array.array('B', pixels.tobytes())
        focal = TRAINED_FOCAL_PX / min(512 / width, 160 / height)
        self.info = CameraInfo(height=height, width=width)
        self.info.k = [focal, 0.0, width / 2, 0.0, focal, height / 2, 0.0, 0.0, 1.0]
        self.info.p = [*self.info.k[:3], 0.0, *self.info.k[3:6], 0.0, 0.0, 0.0, 1.0, 0.0]
        self.images = self.node.create_publisher(Image, 'image_raw', 1)
        self.infos = self.node.create_publisher(CameraInfo, 'camera_info', 10)
        self.node.create_subscription(MarkerArray, 'detector/markers', self.on_markers, 10)
        self.forget()

    def forget(self) -> None:
        """Discard the records and start counting from 0."""
        self.sent = 0
        self.ages_s: list[float] = []
        self.received_s: list[float] = []
        self.memory_mib: list[float] = []

    def wait_for_detector(self) -> None:
        """Wait until the detector subscribes; exit after a timeout."""
        end_s = time.monotonic() + TIMEOUT_S
        while not self.images.get_subscription_count():
            if time.monotonic() > end_s:
                raise SystemExit('the detector does not subscribe to the images')
            self.executor.spin_once(timeout_sec=0.1)

    def run(self, seconds: float, hz: float) -> None:
        """Publish at a rate; with hz 0, publish when the markers of the last image arrive."""
        start_s = next_s = memory_due_s = time.monotonic()
        while (now_s := time.monotonic()) < start_s + seconds:
            alone = hz <= 0 and (len(self.received_s) >= self.sent or now_s > next_s)
            if alone or (hz > 0 and now_s >= next_s):
                self.publish()
                next_s = now_s + 1.0 if hz <= 0 else max(next_s + 1 / hz, now_s - 1 / hz)
            if now_s >= memory_due_s:
                self.memory_mib.append(memory_mib(self.detector))
                memory_due_s += 1.0
            self.executor.spin_once(timeout_sec=max(0.0, min(next_s - now_s, 0.005)))

    def period_ms(self) -> float:
        """Return the median time between results so far, and discard the records."""
        period_ms = 1e3 * float(np.median(np.diff(self.received_s[WARM_UP:])))
        self.forget()
        return period_ms

    def publish(self) -> None:
        """Send an image and its camera_info, stamped now."""
        self.image.header.stamp = self.info.header.stamp = self.node.get_clock().now().to_msg()
        self.infos.publish(self.info)
        self.images.publish(self.image)
        self.sent += 1

    def on_markers(self, message: MarkerArray) -> None:
        """Record the age of a result."""
        stamp = message.markers[0].header.stamp
        now_ns = self.node.get_clock().now().nanoseconds
        self.ages_s.append((now_ns - stamp.sec * 10**9 - stamp.nanosec) / 1e9)
        self.received_s.append(time.monotonic())

    def close(self) -> None:
        """Destroy the ROS node."""
        self.executor.shutdown()
        self.node.destroy_node()
        rclpy.try_shutdown()


def memory_mib(process: int) -> float:
    """Return the resident memory of a process, MiB; NaN if it is unknown."""
    for line in Path(f'/proc/{process}/status').read_text().splitlines():
        if line.startswith('VmRSS'):
            return int(line.split()[1]) / 1024
    return float('nan')


def figures_of(camera: Camera, alone_ms: float) -> dict[str, float]:
    """Return the figures of the last phase."""
    if len(camera.ages_s) < WARM_UP:
        raise SystemExit('the node processed no image')
    ages_ms = 1e3 * np.array(camera.ages_s)
    period_ms = 1e3 * float(np.median(np.diff(camera.received_s)))
    part = max(1, len(camera.memory_mib) // QUARTER)
    first, last = np.mean(camera.memory_mib[:part]), np.mean(camera.memory_mib[-part:])
    return {
        'sent': camera.sent,
        'answered': len(ages_ms),
        'overload': camera.sent / len(ages_ms),
        'period_alone_ms': alone_ms,
        'period_ms': period_ms,
        'age_median_ms': float(np.median(ages_ms)),
        'age_p99_ms': float(np.percentile(ages_ms, 99)),
        'age_max_ms': float(ages_ms.max()),
        'age_max_periods': float(ages_ms.max() / period_ms),
        'older_than_2_periods': int((ages_ms > AGE_PERIODS * period_ms).sum()),
        'memory_first_mib': float(first),
        'memory_last_mib': float(last),
        'memory_growth': float(last / first - 1),
    }


def show(figures: dict[str, float]) -> None:
    """Print the table."""
    table = Table(title='overload', title_justify='left', show_header=False)
    for name, value in figures.items():
        table.add_row(
            name.replace('_', ' '), f'{value:g}' if value == int(value) else f'{value:.3g}'
        )
    Console().print(table)


if __name__ == '__main__':
    main()
