"""
Measure age and memory where images come five times as fast as the network answers them.

python bench/overload.py [--seconds 120] [--factor 5] [--size 1242x375] [--json FILE]

The real node with the shipped student runs in a process of its own; this one is the camera and
the viewer. First each image comes when the last is answered, which tells how fast the network is
alone; then, for a while, at that rate times the factor, which tells how fast it is while images
pour in; then at that second rate times the factor. The age of an answer is the time from its
image's stamp, taken as it is published, to its markers here: both ways over DDS are in it. The
inference period is the median time between two answers. The goals: no age above two periods, and
no more than 2 % more memory in the last quarter than in the first.
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

#: Of the network alone; the first answers are not counted.
PROBE_S, WARM_UP = 8.0, 5
#: The network is faster again when fewer images pour in; the factor shall be reached all the same.
MARGIN = 1.05
#: Memory is compared between the first and the last quarter of the run.
QUARTER = 4
PATIENCE_S = 60.0
#: Of the lens that the shipped student has learnt, on its canvas of 512x160.
LEARNT_FOCAL_PX = 297.0
#: The goals: oldest answer in inference periods, and growth of memory as a share.
AGE_PERIODS, GROWTH = 2.0, 0.02


def main() -> None:
    """Measure, print, and fail where a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__.strip().split('\n')[0])
    parser.add_argument('--seconds', type=float, default=120.0, help='of overload')
    parser.add_argument('--factor', type=float, default=5.0, help='images for each answer')
    parser.add_argument('--size', default='1242x375', help='of the images, WIDTHxHEIGHT')
    parser.add_argument('--json', type=Path, help='write the figures here as well')
    args = parser.parse_args()
    # low ids are safe from the system's own ports
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
        raise SystemExit('the images did not come so many times as fast as answers; again')
    raise SystemExit(0 if met else 1)


class Camera:
    """Publishes images as fast as asked, and notes when each is answered."""

    def __init__(self, width: int, height: int, detector: int) -> None:
        """
        Prepare an image of noise.

        :param width: of the images.
        :param height: of the images.
        :param detector: process of the node, whose memory is noted.
        """
        self.node, self.executor = Node('camera'), SingleThreadedExecutor()
        self.executor.add_node(self.node)
        self.detector = detector
        pixels = np.random.default_rng(0).integers(0, 255, height * width * 3, np.uint8)
        self.image = Image(height=height, width=width, encoding='bgr8', step=3 * width)
        self.image.data = array.array('B', pixels.tobytes())
        focal = LEARNT_FOCAL_PX / min(512 / width, 160 / height)
        self.info = CameraInfo(height=height, width=width)
        self.info.k = [focal, 0.0, width / 2, 0.0, focal, height / 2, 0.0, 0.0, 1.0]
        self.info.p = [*self.info.k[:3], 0.0, *self.info.k[3:6], 0.0, 0.0, 0.0, 1.0, 0.0]
        self.images = self.node.create_publisher(Image, 'image_raw', 1)
        self.infos = self.node.create_publisher(CameraInfo, 'camera_info', 10)
        self.node.create_subscription(MarkerArray, 'detector/markers', self.on_markers, 10)
        self.forget()

    def forget(self) -> None:
        """Begin to count anew."""
        self.sent = 0
        self.ages_s: list[float] = []
        self.answered_s: list[float] = []
        self.memory_mib: list[float] = []

    def wait_for_detector(self) -> None:
        """Until it listens."""
        end_s = time.monotonic() + PATIENCE_S
        while not self.images.get_subscription_count():
            if time.monotonic() > end_s:
                raise SystemExit('the detector does not listen')
            self.executor.spin_once(timeout_sec=0.1)

    def run(self, seconds: float, hz: float) -> None:
        """Publish for a while; hz 0 sends the next image as soon as one is answered."""
        start_s = next_s = noted_s = time.monotonic()
        while (now_s := time.monotonic()) < start_s + seconds:
            alone = hz <= 0 and (len(self.answered_s) >= self.sent or now_s > next_s)
            if alone or (hz > 0 and now_s >= next_s):
                self.publish()
                next_s = now_s + 1.0 if hz <= 0 else max(next_s + 1 / hz, now_s - 1 / hz)
            if now_s >= noted_s:
                self.memory_mib.append(memory_mib(self.detector))
                noted_s += 1.0
            self.executor.spin_once(timeout_sec=max(0.0, min(next_s - now_s, 0.005)))

    def period_ms(self) -> float:
        """Return the median time between answers so far, and forget them."""
        period_ms = 1e3 * float(np.median(np.diff(self.answered_s[WARM_UP:])))
        self.forget()
        return period_ms

    def publish(self) -> None:
        """Send an image and its camera_info, stamped now."""
        self.image.header.stamp = self.info.header.stamp = self.node.get_clock().now().to_msg()
        self.infos.publish(self.info)
        self.images.publish(self.image)
        self.sent += 1

    def on_markers(self, message: MarkerArray) -> None:
        """Note the age of an answer."""
        stamp = message.markers[0].header.stamp
        now_ns = self.node.get_clock().now().nanoseconds
        self.ages_s.append((now_ns - stamp.sec * 10**9 - stamp.nanosec) / 1e9)
        self.answered_s.append(time.monotonic())

    def close(self) -> None:
        """End the ROS node."""
        self.executor.shutdown()
        self.node.destroy_node()
        rclpy.try_shutdown()


def memory_mib(process: int) -> float:
    """Resident memory of a process."""
    for line in Path(f'/proc/{process}/status').read_text().splitlines():
        if line.startswith('VmRSS'):
            return int(line.split()[1]) / 1024
    return float('nan')


def figures_of(camera: Camera, alone_ms: float) -> dict[str, float]:
    """Sum up the run."""
    if len(camera.ages_s) < WARM_UP:
        raise SystemExit('no image was answered')
    ages_ms = 1e3 * np.array(camera.ages_s)
    period_ms = 1e3 * float(np.median(np.diff(camera.answered_s)))
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
