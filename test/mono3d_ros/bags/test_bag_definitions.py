"""Topics that cannot be decoded are skipped by name, and cost no other topic its messages."""

import dataclasses
import sqlite3

import numpy as np
import pytest
from mcap_writer import Topic, write_mcap
from rosbags.rosbag2 import StoragePlugin
from small_bags import (
    NEW,
    STORE,
    TYPES,
    camera_messages,
    camera_topics,
    definition,
    make_image,
    write_camera_folder,
)

from mono3d_ros.bags import bag_to_kitti
from mono3d_ros.bags.bag_io import BagError, BagReader

SEPARATOR = b'=' * 80 + b'\n'
SERVICE = (
    b'service_msgs/ServiceEventInfo info\nx_msgs/Add_Request[<=1] request\n'
    + SEPARATOR
    + b'MSG: x_msgs/srv/Add_Event\nint64 a\nint64 b\n---\nint64 sum\n'
)
IDL_WITH_MAP = b'module x_msgs { module msg { struct A { map<string, long> a; }; }; };'
CDR_INT = b'\0\1\0\0' + (7).to_bytes(4, 'little')

#: Foreign topics: name of the case -> Topic and the beginning of the reason.
FOREIGN = {
    'service event': (
        Topic('/x', 'x_msgs/srv/Add_Event', 'ros2msg', SERVICE),
        'its definition cannot be parsed',
    ),
    'protobuf': (
        Topic('/x', 'foxglove.Scene', 'protobuf', b'\x0a\x10', 'protobuf'),
        "messages of encoding 'protobuf'",
    ),
    'json': (
        Topic('/x', 'x.Y', 'jsonschema', b'{}', 'json'),
        "messages of encoding 'json'",
    ),
    'ros 1': (
        Topic('/x', 'sensor_msgs/Image', 'ros1msg', b'uint8 x', 'ros1'),
        "messages of encoding 'ros1'",
    ),
    'unknown definition': (
        Topic('/x', 'x_msgs/msg/Y', 'unknown', b''),
        'no definition of its type',
    ),
    'unknown encoding': (
        Topic('/x', 'x_msgs/msg/Y', 'flatbuffer', b'table'),
        "a definition of encoding 'flatbuffer'",
    ),
    'no schema': (Topic('/x', '', None, b''), "'' is not a message type"),
    'map in IDL': (
        Topic('/x', 'x_msgs/msg/A', 'ros2idl', IDL_WITH_MAP),
        'its definition cannot be parsed',
    ),
    'missing part': (
        Topic('/x', 'x_msgs/msg/A', 'ros2msg', b'x_msgs/B b'),
        'its definition cannot be parsed',
    ),
    'binary': (
        Topic('/x', 'x_msgs/msg/A', 'ros2msg', bytes(range(256))),
        'its definition cannot be parsed',
    ),
    'long': (
        Topic('/x', 'x_msgs/msg/A', 'ros2msg', b'int32 a\n' * 200_000),
        'its definition cannot be parsed',
    ),
    'other Image': (
        Topic('/x', 'sensor_msgs/msg/Image', 'ros2msg', b'uint32 height\nuint32 wide'),
        'its definition of sensor_msgs/msg/Image differs from that of ROS',
    ),
    'other Header': (
        Topic(
            '/x',
            TYPES['/points'],
            'ros2msg',
            definition(TYPES['/points']).replace(b'frame_id', b'frame_ix'),
        ),
        'its definition of std_msgs/msg/Header differs',
    ),
}


def write_with(path, topics, messages=()):
    rows = sorted([*camera_messages(), *messages], key=lambda row: row[1])
    return write_mcap(path.with_suffix('.mcap'), topics, rows)


@pytest.mark.parametrize('case', FOREIGN)
def test_a_foreign_topic_is_skipped_by_name_and_the_camera_is_read(case, tmp_path, capsys):
    foreign, reason = FOREIGN[case]
    topics = [foreign, *camera_topics()]
    bag = write_with(tmp_path / 'bag', topics, [('/x', 5, CDR_INT), ('/x', 6, CDR_INT)])
    with BagReader(bag) as reader:
        assert set(reader.decodable_topics) == set(TYPES)
        assert list(reader.skipped) == ['/x']
        assert reader.skipped['/x'].startswith(reason)
        messages = list(reader.messages(reader.decodable_topics))
        assert [(m.topic, m.recorded_ns, m.cdr) for m in messages] == camera_messages()
        for message in messages:
            reader.decode(message)
        if foreign.encoding == 'cdr':  # can be copied, not decoded
            (one, _) = reader.messages(['/x'])
            assert one.cdr == CDR_INT
            with pytest.raises(BagError, match='/x at 5 ns: not a'):
                reader.decode(one)
        else:
            with pytest.raises(BagError, match='/x cannot be read: messages of encoding'):
                list(reader.messages(['/x']))
    assert bag_to_kitti.main([str(bag), str(tmp_path / 'out')]) == 0
    out = capsys.readouterr().out
    (line,) = (line for line in out.splitlines() if 'skipped' in line)
    assert line.startswith(f'bag.mcap: skipped /x: {reason}')
    assert len(line) < 150


@pytest.mark.parametrize('name', ['FOO__BAR', 'kFoo', 'FOO_', '_X', 'FOO'])
def test_constants_of_any_name_do_not_matter(name, tmp_path):
    text = f'# comment\nuint8 {name}=3  # three\nstring {name}2="a = b"\nint32 value\n'.encode()
    topics = [Topic('/x', 'x_msgs/msg/A', 'ros2msg', text), *camera_topics()]
    bag = write_with(tmp_path / 'bag', topics, [('/x', 5, CDR_INT)])
    with BagReader(bag) as reader:
        assert reader.skipped == {}
        (message,) = reader.messages(['/x'])
        assert reader.decode(message).value == 7


def test_a_definition_in_latin_1_is_read(tmp_path):
    text = 'int32 value  # Winkel in °, gemäß\n'.encode('latin-1')
    topics = [Topic('/x', 'x_msgs/msg/A', 'ros2msg', text), *camera_topics()]
    bag = write_with(tmp_path / 'bag', topics, [('/x', 5, CDR_INT)])
    with BagReader(bag) as reader:
        (message,) = reader.messages(['/x'])
        assert reader.decode(message).value == 7


@pytest.mark.parametrize(('encoding', 'text'), [('', b''), ('unknown', b''), ('ros2msg', b'?!')])
@pytest.mark.parametrize('missing', [['/camera/image_raw'], list(TYPES)])
def test_types_of_ros_without_a_usable_definition_have_the_built_in_one(
    encoding, text, missing, tmp_path
):
    topics = [
        dataclasses.replace(each, schema_encoding=encoding, definition=text)
        if each.name in missing
        else each
        for each in camera_topics()
    ]
    with BagReader(write_with(tmp_path / 'bag', topics)) as reader:
        assert reader.skipped == {}
        decoded = [reader.decode(m) for m in reader.messages(['/camera/image_raw'])]
    np.testing.assert_array_equal(decoded[3].data, make_image(0, 3).data)


def test_two_definitions_of_one_nested_type_do_not_disturb_each_other(tmp_path):
    one = b'x_msgs/P p\n' + SEPARATOR + b'MSG: x_msgs/P\nint32 v\n'
    two = b'x_msgs/P p\n' + SEPARATOR + b'MSG: x_msgs/P\nint16 a\nint16 b\n'
    topics = [
        Topic('/x', 'x_msgs/msg/A', 'ros2msg', one),
        Topic('/y', 'x_msgs/msg/B', 'ros2msg', two),
        *camera_topics(),
    ]
    bag = write_with(tmp_path / 'bag', topics, [('/x', 5, CDR_INT), ('/y', 6, CDR_INT)])
    with BagReader(bag) as reader:
        x, y = (reader.decode(m) for m in reader.messages(['/x', '/y']))
    assert (x.p.v, y.p.a, y.p.b) == (7, 7, 0)


def test_of_a_topic_with_two_types_the_one_with_most_messages_is_read(tmp_path):
    string = NEW('std_msgs/msg/String', data='no image')
    cdr = bytes(STORE.serialize_cdr(string, 'std_msgs/msg/String'))
    topics = camera_topics()
    other = Topic('/other', 'std_msgs/msg/String', 'ros2msg', b'string data\n')
    # both channels get one topic: the new name has the same number of bytes
    name = b'/camera/image_raw'
    renamed = dataclasses.replace(other, name='/camera/image_raX')
    bag = write_with(tmp_path / 'bag', [*topics, renamed], [('/camera/image_raX', 5, cdr)])
    bag.write_bytes(_without_crc(bag.read_bytes().replace(b'/camera/image_raX', name)))
    with BagReader(bag) as reader:
        assert reader.topics['/camera/image_raw'] == TYPES['/camera/image_raw']
        assert reader.skipped == {
            '/camera/image_raw (std_msgs/msg/String)': (
                'sensor_msgs/msg/Image is read of this topic'
            )
        }
        assert len(list(reader.messages(['/camera/image_raw']))) == 6


def _without_crc(data):
    """Return MCAP bytes without the CRCs of uncompressed chunks and of the summary."""
    position = 8
    data = bytearray(data)
    while data[position] != 2:
        if data[position] == 6:
            data[position + 9 + 24 : position + 9 + 28] = bytes(4)
        position += 9 + int.from_bytes(data[position + 1 : position + 9], 'little')
    data[-12:-8] = bytes(4)
    return bytes(data)


def test_a_camera_that_cannot_be_decoded_is_named_with_the_reason(tmp_path):
    topics = [
        dataclasses.replace(each, definition=b'uint8 x') if each.name.endswith('raw') else each
        for each in camera_topics()
    ]
    bag = write_with(tmp_path / 'bag', topics)
    with BagReader(bag) as reader:
        assert '/camera/image_raw' not in reader.decodable_topics
    with pytest.raises(BagError, match=r'not readable: /camera/image_raw \(its definition'):
        _cameras(bag)


def _cameras(bag):
    from mono3d_ros.bags.drive_query import DriveQuery
    from mono3d_ros.bags.drive_reader import find_cameras

    with BagReader(bag) as reader:
        find_cameras(reader, DriveQuery())


def test_sqlite_rows_without_a_type_are_damage(tmp_path):
    bag = write_camera_folder(tmp_path / 'bag', StoragePlugin.SQLITE3)
    with sqlite3.connect(bag / 'bag.db3') as database:
        database.execute('PRAGMA writable_schema=1')
        database.execute("UPDATE topics SET type = x'00ff' WHERE id = 1")
    database.close()
    with pytest.raises(BagError, match=r'bag\.db3: a row of the table topics is damaged'):
        BagReader(bag)
