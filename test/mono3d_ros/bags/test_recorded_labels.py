"""Labels in a bag that ROS recorded anew: times of recording are those of arrival."""

import numpy as np
import pytest

from mono3d_ros.bags import kitti_to_bag
from mono3d_ros.bags.bag_io import BagError, BagReader, BagWriter
from mono3d_ros.bags.cameras.label_match import match_labels
from mono3d_ros.bags.drive_query import DriveQuery
from mono3d_ros.bags.drive_reader import DriveReader
from stl_core.cli import main

pytestmark = pytest.mark.usefixtures('one_thread')

FRAMES = 4
MS = 1_000_000
#: Ending of a topic -> time from publication to arrival, ns; large messages take longer.
DELAYS_NS = {'image_raw': 31 * MS, 'labels': 2 * MS, 'ground_truth': MS}


@pytest.fixture(scope='module')
def bag(tmp_path_factory):
    root = tmp_path_factory.mktemp('drive')
    size = ['--frames', str(FRAMES), '--seed', '3', '--size', '320x96', '--workers', '0']
    arguments = ['synthesize', str(root / 'drive'), '--sequence', '--no-depth', *size]
    main.main(arguments)
    assert kitti_to_bag.main([str(root / 'drive'), str(root / 'bag')]) == 0
    return root / 'bag'


def record_anew(bag, out, lost=()):
    """Write a bag as `ros2 bag record` does while the bag is played an hour later."""
    rng, num = np.random.default_rng(1), {}
    with BagReader(bag) as reader, BagWriter(out) as writer:
        for topic, kind in reader.topics.items():
            writer.add_topic(topic, kind)
        arrivals = []
        for message in reader.messages():
            number = num[message.topic] = num.get(message.topic, -1) + 1
            ending = message.topic.rsplit('/', 1)[-1]
            delay_ns = DELAYS_NS.get(ending, 0) + int(rng.integers(MS))
            if (ending, number) not in lost:
                arrivals.append((message.recorded_ns + 3600 * 1000 * MS + delay_ns, message))
        for arrival_ns, message in sorted(arrivals, key=lambda each: each[0]):
            writer.write_cdr(message.topic, arrival_ns, message.cdr)
    return out


def label_texts(bag):
    with BagReader(bag) as reader:
        return {
            sample.image.header.stamp.sec * 10**9 + sample.image.header.stamp.nanosec: (
                sample.label_text
            )
            for sample in DriveReader(reader, DriveQuery())
        }


def test_labels_are_found_in_a_bag_that_was_recorded_anew(bag, tmp_path):
    expected = label_texts(bag)
    assert len(set(expected.values())) == FRAMES
    assert all(expected.values())
    assert label_texts(record_anew(bag, tmp_path / 'anew')) == expected


def test_images_that_were_lost_do_not_shift_the_labels(bag, tmp_path):
    expected = label_texts(bag)
    texts = label_texts(record_anew(bag, tmp_path / 'anew', lost={('image_raw', 1)}))
    assert len(texts) == FRAMES - 1
    assert texts.items() < expected.items()


def test_lost_labels_are_an_error_that_counts(bag, tmp_path):
    with pytest.raises(BagError, match=r'3 label messages .* to 4 images: expected as many'):
        label_texts(record_anew(bag, tmp_path / 'anew', lost={('labels', 1)}))


def test_labels_without_markers_are_matched_if_there_is_one_per_image():
    labels = [(101, 'a'), (202, 'b')]
    assert match_labels(labels, [], [10, 20]) == {10: 'a', 20: 'b'}
    assert match_labels([(10, 'a')], [], [10, 20]) == {10: 'a'}  # as this package writes it
    assert match_labels([], [10], [10]) == {}
