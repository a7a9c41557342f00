"""
Play the cameras of a bag over DDS and record the detector's markers: replay_bag.py BAG OUT.

The replay publishes the bytes of the bag and records the received bytes without decoding them.
OUT is a bag of the detections, stamped with the time of arrival; OUT/sent.csv lists the time at
which each image was sent.
"""

import argparse
import csv
import importlib
import sys
import time
from pathlib import Path

import rclpy
from rclpy.duration import Duration
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.qos import QoSProfile

from mono3d_ros.bags.bag_io import BagError, BagReader, BagWriter
from mono3d_ros.messages.primitives import message_stamp_ns

IMAGE_TYPES = ('sensor_msgs/msg/Image', 'sensor_msgs/msg/CompressedImage')
CAMERA_INFO_TYPE = 'sensor_msgs/msg/CameraInfo'
CAMERA_TYPES = (*IMAGE_TYPES, CAMERA_INFO_TYPE)
MARKERS_TYPE = 'visualization_msgs/msg/MarkerArray'


class Replay(Node):
    """Node that publishes the cameras of a bag and collects the detection messages."""

    def __init__(self, topics, markers_topic):
        """
        Create the publishers and the subscription.

        :param topics: topic -> message type of the messages to play.
        :param markers_topic: topic of the MarkerArrays to record.
        """
        super().__init__('replay_bag')
        qos = QoSProfile(depth=10)
        self.camera_publishers = {
            topic: self.create_publisher(message_class(kind), topic, qos)
            for topic, kind in topics.items()
        }
        self.received = []
        keep = lambda cdr: self.received.append((time.time_ns(), cdr))  # noqa: E731
        self.create_subscription(message_class(MARKERS_TYPE), markers_topic, keep, qos, raw=True)

    def wait_for_subscribers(self, timeout_s):
        """Spin until every topic has a subscriber; returns False after the timeout."""
        end_s = time.monotonic() + timeout_s
        while time.monotonic() < end_s:
            if all(each.get_subscription_count() for each in self.camera_publishers.values()):
                return True
            rclpy.spin_once(self, timeout_sec=0.05)
        return False

    def prime(self, first, timeout_s):
        """
        Send the first message of each camera_info topic and wait until it has arrived.

        A publisher discovers a subscriber before the subscriber discovers it. A message sent in
        between arrives with the next heartbeat, seconds later, after the images were dropped.

        :param first: first mono3d_ros.bags.bag_io.Message of each camera_info topic.
        :param timeout_s: maximum time to wait for each topic.
        """
        for message in first:
            publisher = self.camera_publishers[message.topic]
            publisher.publish(message.cdr)
            publisher.wait_for_all_acked(Duration(seconds=timeout_s))

    def spin_until(self, end_s):
        """Collect detection messages until a time on the monotonic clock."""
        while (left_s := end_s - time.monotonic()) > 0:
            rclpy.spin_once(self, timeout_sec=left_s)

    def play(self, reader, rate):
        """
        Publish the messages at their recorded intervals, divided by rate.

        A drive may be larger than memory, so messages are read one by one.

        :param reader: the open bag.
        :param rate: playback speed; 1 is real time.
        :return: for each image the header stamp and the time at which it was sent, ns.
        """
        start_s, start_ns, sent = time.monotonic() + 0.2, None, []
        for message in reader.messages(self.camera_publishers):
            start_ns = message.recorded_ns if start_ns is None else start_ns
            stamp = (
                message_stamp_ns(reader.decode(message)) if message.type in IMAGE_TYPES else None
            )
            self.spin_until(start_s + (message.recorded_ns - start_ns) / 1e9 / rate)
            if stamp is not None:
                sent.append((stamp, time.time_ns()))
            self.camera_publishers[message.topic].publish(message.cdr)
        return sent

    def wait_for_detections(self, count, patience_s):
        """Collect until count messages have arrived, or none has arrived for patience_s."""
        last_s, known = time.monotonic(), len(self.received)
        while len(self.received) < count and time.monotonic() < last_s + patience_s:
            rclpy.spin_once(self, timeout_sec=0.05)
            if len(self.received) > known:
                last_s, known = time.monotonic(), len(self.received)


def message_class(kind):
    """Import a ROS message class by its type name, such as 'sensor_msgs/msg/Image'."""
    package, _, name = kind.split('/')
    return getattr(importlib.import_module(f'{package}.msg'), name)


def select_topics(reader, requested):
    """Return the requested topics, or those of all cameras; BagError without an image topic."""
    unknown = sorted(set(requested) - set(reader.topics))
    if unknown:
        has = ', '.join(reader.topics) or 'nothing'
        raise BagError(f'{reader.path}: no topic {", ".join(unknown)}; the bag has {has}')
    camera_topics = [topic for topic, kind in reader.topics.items() if kind in CAMERA_TYPES]
    topics = {topic: reader.topics[topic] for topic in requested or camera_topics}
    if not set(topics.values()) & set(IMAGE_TYPES):
        raise BagError(f'{reader.path}: no Image or CompressedImage topic to play in this bag')
    return topics


def replay(bag, out, requested, markers_topic, *, rate, timeout_s):
    """
    Play a bag, record the detections and write both to a new bag and sent.csv.

    :param bag: folder or file to play.
    :param out: new bag of detections.
    :param requested: topics to play; those of all cameras if empty.
    :param markers_topic: topic of the detections.
    :param rate: playback speed; 1 is real time.
    :param timeout_s: maximum time to wait for a subscriber on every topic.
    :return: number of images sent, number of detection messages received.
    """
    if Path(out).exists():
        raise BagError(f'{out}: exists already and is not overwritten; choose a new folder')
    with BagReader(bag) as reader:
        topics = select_topics(reader, requested)
        infos = [topic for topic, kind in topics.items() if kind == CAMERA_INFO_TYPE]
        node = Replay(topics, markers_topic)
        if not node.wait_for_subscribers(timeout_s):
            unused = [
                topic
                for topic, publisher in node.camera_publishers.items()
                if not publisher.get_subscription_count()
            ]
            raise BagError(f'{bag}: no subscriber to {", ".join(unused)} after {timeout_s:g} s')
        firsts = [next(reader.messages([topic]), None) for topic in infos]
        node.prime([first for first in firsts if first is not None], timeout_s=10.0)
        rows = node.play(reader, rate)
        node.wait_for_detections(len(rows), patience_s=5.0)
    with BagWriter(out) as writer:
        writer.add_topic(markers_topic, MARKERS_TYPE)
        for arrival_ns, cdr in node.received:
            writer.write_cdr(markers_topic, arrival_ns, cdr)
    with (Path(out) / 'sent.csv').open('w', newline='') as file:
        csv.writer(file).writerows([('stamp_ns', 'sent_ns'), *rows])
    return len(rows), len(node.received)


def main():
    """Run the command; returns exit code 2 after one line on stderr for bad input."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[1])
    parser.add_argument('bag', help='folder, .mcap or .db3 file')
    parser.add_argument('out', help='folder of the new bag of detections')
    parser.add_argument(
        '--topics', nargs='+', default=[], help='topics to play; default: all cameras'
    )
    parser.add_argument('--answers', default='/detector/markers', help='markers topic to record')
    parser.add_argument('--rate', type=float, default=1.0, help='playback speed; 1: real time')
    parser.add_argument(
        '--timeout', type=float, default=60.0, help='seconds to wait for subscribers'
    )
    args = parser.parse_args()
    if args.rate <= 0:
        parser.error(f'--rate must be above 0, got {args.rate:g}')
    rclpy.init()
    try:
        num_sent, num_received = replay(
            args.bag, args.out, args.topics, args.answers, rate=args.rate, timeout_s=args.timeout
        )
    except BagError as err:
        print(f'replay_bag: {err}', file=sys.stderr)
        return 2
    except (KeyboardInterrupt, ExternalShutdownException):
        return 130
    finally:
        rclpy.try_shutdown()
    print(f'{num_sent} images sent, {num_received} detection messages recorded: {args.out}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
