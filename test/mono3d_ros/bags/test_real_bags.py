"""Test bags of rosbag2 itself and damaged bags, if they are present: ../shared/cases/ros."""

import os
from collections import Counter
from pathlib import Path

import pytest

from mono3d_ros.bags.bag_io import BagError, BagReader

ROOT = Path(__file__).resolve().parents[3]
CASES = Path(os.environ.get('MONO3D_DATA', ROOT / '../shared/data')) / '../cases/ros'
RESOURCES = CASES / 'rosbag2_resources'
CPP = 'rosbag2_cpp/test/rosbag2_cpp/bags'
PY = 'rosbag2_py/test/resources'
TRANSPORT = 'rosbag2_transport/test/resources'
EVENTS = 'rosbag2_tests/resources/mcap/bag_with_topics_and_service_events'
EMPTY_50 = {'a_empty': 100, 'b_basictypes': 50}
STRINGS = {'a_empty': 25, 'c_strings': 50}
#: Bag -> numbers of messages by topic, as `ros2 bag info` of the storage files prints them.
COUNTS = {
    f'{CPP}/only_topics.mcap': {'/parameter_events': 7},
    f'{CPP}/only_services.mcap': {'/add_two_ints/_service_event': 12},
    f'{CPP}/topics_and_services.mcap': {
        '/parameter_events': 7,
        '/add_two_ints/_service_event': 6,
    },
    f'{CPP}/topics_and_services.db3': {
        '/parameter_events': 7,
        '/add_two_ints/_service_event': 6,
    },
    f'{PY}/mcap/talker': {'/rosout': 10, '/topic': 10},
    f'{PY}/mcap/convert_a': EMPTY_50,
    f'{PY}/sqlite3/convert_b': STRINGS,
    f'{TRANSPORT}/mcap/rewriter_a': EMPTY_50,
    f'{TRANSPORT}/sqlite3/rewriter_b': STRINGS,
}


@pytest.mark.parametrize('name', COUNTS)
def test_every_message_of_the_bags_of_rosbag2_is_read(name):
    if not (bag := RESOURCES / name).exists():
        pytest.skip(f'no bags of rosbag2 at {RESOURCES}')
    with BagReader(bag) as reader:
        assert Counter(each.topic for each in reader.messages()) == COUNTS[name]
        for message in reader.messages(reader.decodable_topics) if reader.decodable_topics else ():
            reader.decode(message)
        assert all(len(line) < 300 for line in reader.report().lines())


def test_service_events_are_skipped_and_topics_are_decoded():
    if not (bag := RESOURCES / EVENTS).exists():
        pytest.skip(f'no bags of rosbag2 at {RESOURCES}')
    with BagReader(bag) as reader:
        assert set(reader.decodable_topics) == {'/test_topic1', '/test_topic2'}
        assert {each.rsplit('/', 1)[1] for each in reader.skipped} == {'_service_event'}
        for message in reader.messages(reader.decodable_topics):
            reader.decode(message)


@pytest.mark.parametrize('suffix', ['.mcap', '.db3', '.zstd'])
def test_damaged_bags_are_one_line(suffix):
    bags = sorted((CASES / 'damaged_bags').glob(f'*{suffix}'))
    if not bags:
        pytest.skip(f'no damaged bags at {CASES}')
    for bag in bags:
        with pytest.raises(BagError, match=bag.name) as error:
            list(BagReader(bag).messages())
        assert '\n' not in str(error.value)
