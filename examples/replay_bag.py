"""
Play a bag's cameras over real DDS and record what a detector answers: replay_bag.py BAG OUT.

Messages go out as the bytes that the bag holds and answers are written as the bytes that arrive,
so nothing is decoded on the way. OUT is a bag of the answers, stamped with the time of arrival;
OUT/sent.csv tells when each image was sent.
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

from mono3d_ros.bags.bag_io import BagError, BagReader, BagWriter, header_stamp_ns

IMAGES = ('sensor_msgs/msg/Image', 'sensor_msgs/msg/CompressedImage')
INFO = 'sensor_msgs/msg/CameraInfo'
CAMERAS = (*IMAGES, INFO)
ANSWERS = 'visualization_msgs/msg/MarkerArray'


class Replay(Node):
    """Publishes the cameras of a bag and collects the answers."""

    def __init__(self, topics, answers):
        """
        Set up publishers and the recording.

        :param topics: topic -> message type, what will be played.
        :param answers: topic of the MarkerArrays to record.
        """
        super().__init__('replay_bag')
        qos = QoSProfile(depth=10)
        self.outputs = {
            topic: self.create_publisher(message_class(kind), topic, qos)
            for topic, kind in topics.items()
        }
        self.answers = []
        keep = lambda cdr: self.answers.append((time.time_ns(), cdr))  # noqa: E731
        self.create_subscription(message_class(ANSWERS), answers, keep, qos, raw=True)

    def wait_for_listeners(self, timeout_s):
        """Spin until every topic has a subscriber; tell whether that was in time."""
        end_s = time.monotonic() + timeout_s
        while time.monotonic() < end_s:
            if all(output.get_subscription_count() for output in self.outputs.values()):
                return True
            rclpy.spin_once(self, timeout_sec=0.05)
        return False

    def prime(self, first, timeout_s):
        """
        Send the first message of each camera_info topic and wait until it has arrived.

        A publisher knows of a subscriber before the subscriber knows of it. What is sent in
        between arrives with the next heartbeat, seconds later, when the images are gone.

        :param first: mono3d_ros.bags.bag_io.Message of each such topic.
        :param timeout_s: how long to wait for each topic.
        """
        for message in first:
            output = self.outputs[message.topic]
            output.publish(message.cdr)
            output.wait_for_all_acked(Duration(seconds=timeout_s))

    def spin_until(self, moment_s):
        """Collect answers until a moment on the monotonic clock."""
        while (left_s := moment_s - time.monotonic()) > 0:
            rclpy.spin_once(self, timeout_sec=left_s)

    def play(self, reader, rate):
        """
        Send messages as far apart as they were recorded, divided by rate.

        A drive may be longer than memory: messages are read one by one.

        :param reader: the open bag.
        :param rate: 1 is real time.
        :return: for each image the stamp of its header and the time it was sent, ns.
        """
        start_s, start_ns, sent = time.monotonic() + 0.2, None, []
        for message in reader.messages(self.outputs):
            start_ns = message.recorded_ns if start_ns is None else start_ns
            stamp = header_stamp_ns(reader.decode(message)) if message.type in IMAGES else None
            self.spin_until(start_s + (message.recorded_ns - start_ns) / 1e9 / rate)
            if stamp is not None:
                sent.append((stamp, time.time_ns()))
            self.outputs[message.topic].publish(message.cdr)
        return sent

    def wait_for_answers(self, count, patience_s):
        """Collect until there are so many answers, or none has come for a while."""
        last_s, had = time.monotonic(), len(self.answers)
        while len(self.answers) < count and time.monotonic() < last_s + patience_s:
            rclpy.spin_once(self, timeout_sec=0.05)
            if len(self.answers) > had:
                last_s, had = time.monotonic(), len(self.answers)


def message_class(kind):
    """Find a ROS message class by its type name, such as 'sensor_msgs/msg/Image'."""
    package, _, name = kind.split('/')
    return getattr(importlib.import_module(f'{package}.msg'), name)


def chosen_topics(reader, wanted):
    """Pick what to play: the topics wanted, or every camera; BagError without an image in it."""
    unknown = sorted(set(wanted) - set(reader.topics))
    if unknown:
        has = ', '.join(reader.topics) or 'nothing'
        raise BagError(f'{reader.path}: no topic {", ".join(unknown)}; the bag has {has}')
    kinds = {t: kind for t, kind in reader.topics.items() if kind in CAMERAS}
    topics = {t: reader.topics[t] for t in wanted or kinds}
    if not set(topics.values()) & set(IMAGES):
        raise BagError(f'{reader.path}: no Image or CompressedImage topic to play in this bag')
    return topics


def replay(bag, out, wanted, answers, *, rate, timeout_s):
    """
    Play, record and write.

    :param bag: folder or file to play.
    :param out: bag of answers to make.
    :param wanted: topics to play; every camera's when empty.
    :param answers: topic of the answers.
    :param rate: 1 is real time.
    :param timeout_s: how long to wait for somebody to listen to every topic.
    :return: how many images were sent, and how many answers came.
    """
    if Path(out).exists():
        raise BagError(f'{out}: exists already and is not overwritten; name a new folder')
    with BagReader(bag) as reader:
        topics = chosen_topics(reader, wanted)
        infos = [topic for topic, kind in topics.items() if kind == INFO]
        node = Replay(topics, answers)
        if not node.wait_for_listeners(timeout_s):
            deaf = [t for t, output in node.outputs.items() if not output.get_subscription_count()]
            raise BagError(f'{bag}: nobody listens to {", ".join(deaf)} after {timeout_s:g} s')
        firsts = [next(reader.messages([topic]), None) for topic in infos]
        node.prime([first for first in firsts if first is not None], timeout_s=10.0)
        rows = node.play(reader, rate)
        node.wait_for_answers(len(rows), patience_s=5.0)
    with BagWriter(out) as writer:
        writer.add_topic(answers, ANSWERS)
        for when_ns, cdr in node.answers:
            writer.write_cdr(answers, when_ns, cdr)
    with (Path(out) / 'sent.csv').open('w', newline='') as file:
        csv.writer(file).writerows([('stamp_ns', 'sent_ns'), *rows])
    return len(rows), len(node.answers)


def main():
    """Run the command; exit code 2 and one line where it cannot."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[1])
    parser.add_argument('bag', help='folder, .mcap or .db3 file')
    parser.add_argument('out', help='folder of the new bag of answers')
    parser.add_argument('--topics', nargs='+', default=[], help='to play; default: all cameras')
    parser.add_argument('--answers', default='/detector/markers', help='topic to record')
    parser.add_argument('--rate', type=float, default=1.0, help='1 is real time')
    parser.add_argument('--timeout', type=float, default=60.0, help='seconds to wait for a node')
    args = parser.parse_args()
    if args.rate <= 0:
        parser.error(f'--rate must be above 0, got {args.rate:g}')
    rclpy.init()
    try:
        sent, answered = replay(
            args.bag, args.out, args.topics, args.answers, rate=args.rate, timeout_s=args.timeout
        )
    except BagError as err:
        print(f'replay_bag: {err}', file=sys.stderr)
        return 2
    except (KeyboardInterrupt, ExternalShutdownException):
        return 130
    finally:
        rclpy.try_shutdown()
    print(f'{sent} images sent, {answered} answers recorded: {args.out}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
