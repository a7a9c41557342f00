"""Storage files: every storage and compression, metadata.yaml as a hint, logs, unfinished bags."""

import shutil
import sqlite3
from collections import Counter
from pathlib import Path

import pytest
from mcap_writer import message_record, write_mcap, zstd
from rosbags.highlevel import AnyReader
from rosbags.rosbag2 import CompressionMode, StoragePlugin
from small_bags import (
    SMALL_BAGS,
    STORE,
    TYPES,
    bag_files,
    camera_messages,
    camera_topics,
    edit_metadata,
    write_camera_folder,
    write_camera_mcap,
)

from mono3d_ros.bags import bag_to_kitti
from mono3d_ros.bags.bag_io import BagError, BagReader
from mono3d_ros.bags.storage.folder import find_bags

NUM_MESSAGES = {topic: 1 if topic == '/tf_static' else 6 for topic in TYPES}
SQLITE = StoragePlugin.SQLITE3


def read(path):
    """Return the messages of a bag and its report."""
    with BagReader(path) as reader:
        return list(reader.messages()), reader.report()


def counts(messages):
    return dict(Counter(each.topic for each in messages))


@pytest.mark.parametrize('name', SMALL_BAGS)
def test_every_message_of_every_storage_is_read_in_the_order_of_time(name, tmp_path):
    messages, report = read(SMALL_BAGS[name](tmp_path / 'bag'))
    assert [(m.topic, m.recorded_ns, m.cdr) for m in messages] == camera_messages()
    assert {topic: each.num_read for topic, each in report.read.items()} == NUM_MESSAGES
    assert report.skipped == {}
    assert len(report.remarks) == (name == 'mcap_unfinished')


@pytest.mark.parametrize('name', sorted(SMALL_BAGS.keys() - {'mcap_unfinished'}))
def test_messages_equal_those_that_rosbags_reads(name, tmp_path):
    bag = SMALL_BAGS[name](tmp_path / 'bag')
    with AnyReader([bag], default_typestore=STORE) as reader:
        theirs = [(c.topic, ns, bytes(data)) for c, ns, data in reader.messages()]
    assert [(m.topic, m.recorded_ns, m.cdr) for m in read(bag)[0]] == theirs


@pytest.mark.parametrize('storage', list(StoragePlugin))
@pytest.mark.parametrize('qos', ['', None, [], [{'history': 1, 'depth': 3}], 'none: [', 7])
def test_qos_of_metadata_does_not_choose_the_messages(storage, qos, tmp_path):
    bag = write_camera_folder(tmp_path / 'bag', storage)

    def change(content):
        for each in content['topics_with_message_count']:
            each['topic_metadata']['offered_qos_profiles'] = qos

    edit_metadata(bag, change)
    assert counts(read(bag)[0]) == NUM_MESSAGES


@pytest.mark.parametrize('identifier', ['', 'sqlite3', 'mcap', 'other'])
def test_the_storage_follows_from_the_file(identifier, tmp_path):
    bag = write_camera_folder(tmp_path / 'bag')
    edit_metadata(bag, lambda content: content.update(storage_identifier=identifier))
    assert counts(read(bag)[0]) == NUM_MESSAGES


@pytest.mark.parametrize('storage', list(StoragePlugin))
def test_promised_messages_that_are_not_there_are_an_error_that_names_the_topic(storage, tmp_path):
    bag = write_camera_folder(tmp_path / 'bag', storage)

    def change(content):
        content['topics_with_message_count'][0]['message_count'] = 9

    edit_metadata(bag, change)
    with BagReader(bag) as reader:
        assert len(list(reader.messages(['/points']))) == 6  # the promise for it is kept
        with pytest.raises(BagError, match='camera_info: only 6 of 9 messages that metadata'):
            list(reader.messages(['/camera/camera_info']))


def test_a_topic_that_only_metadata_knows_is_an_error_when_it_is_read(tmp_path):
    bag = write_camera_folder(tmp_path / 'bag')

    def change(content):
        content['topics_with_message_count'][1]['topic_metadata']['name'] = '/camera/image_x'

    edit_metadata(bag, change)
    with BagReader(bag) as reader:
        assert '/camera/image_x' in reader.topics
        with pytest.raises(BagError, match='/camera/image_x: only 0 of 6'):
            list(reader.messages())


def test_statistics_of_an_mcap_file_are_a_promise(tmp_path):
    bag = write_camera_mcap(tmp_path / 'bag', per_chunk=100)
    data = bag.read_bytes()
    count = b'\x02\x00' + (6).to_bytes(8, 'little')  # channel 2: 6 messages
    assert data.count(count) == 1
    # the summary of this writer has a CRC; 0 means none
    data = (
        data.replace(count, b'\x02\x00' + (8).to_bytes(8, 'little'))[:-12] + bytes(4) + data[-8:]
    )
    bag.write_bytes(data)
    with BagReader(bag) as reader, pytest.raises(BagError, match='image_raw: only 6 of 8'):
        list(reader.messages())


def test_a_missing_storage_file_is_named_with_those_that_are_there(tmp_path):
    bag = write_camera_folder(tmp_path / 'bag')
    (bag / 'bag.mcap').rename(bag / 'other.mcap')
    with pytest.raises(BagError, match=r'lists bag\.mcap, not found; the folder has other\.mcap'):
        BagReader(bag)


def test_a_file_that_metadata_does_not_list_is_named(tmp_path):
    bag = write_camera_folder(tmp_path / 'bag')
    shutil.copy(bag / 'bag.mcap', bag / 'bag_1.mcap')
    messages, report = read(bag)
    assert counts(messages) == NUM_MESSAGES
    (remark,) = report.remarks
    assert remark.startswith('bag_1.mcap: not in metadata.yaml and not read')
    assert 'ros2 bag reindex bag' in remark


@pytest.mark.parametrize('text', ['', '[', '{a: b: c', 'x: 1', '\0', '!!python/none', '[' * 9999])
def test_storage_files_are_read_without_a_usable_metadata_yaml(text, tmp_path):
    bag = write_camera_folder(tmp_path / 'bag')
    (bag / 'metadata.yaml').write_text(text)
    messages, report = read(bag)
    assert counts(messages) == NUM_MESSAGES
    (remark,) = report.remarks
    assert remark.startswith('metadata.yaml cannot be used (')
    assert 'ros2 bag reindex' in remark


def split_into_files(folder, count=12):
    """Write the messages of the small bag into count files, FOLDER_0.mcap and on."""
    folder.mkdir()
    rows = camera_messages()
    for number in range(count):
        part = rows[number * len(rows) // count : (number + 1) * len(rows) // count]
        write_mcap(folder / f'{folder.name}_{number}.mcap', camera_topics(), part)
    return folder


def test_a_folder_without_metadata_is_read_in_the_order_of_the_file_numbers(tmp_path):
    messages, report = read(split_into_files(tmp_path / 'drive'))
    assert [(m.topic, m.recorded_ns, m.cdr) for m in messages] == camera_messages()
    (remark,) = report.remarks
    assert remark.startswith('no metadata.yaml')
    assert 'ros2 bag reindex drive' in remark


def test_several_bags_in_a_folder_are_not_read_as_one(tmp_path):
    for name in ('a', 'b'):
        write_camera_mcap(tmp_path / name)
    with pytest.raises(BagError, match=r'several bags \(a\.mcap, b\.mcap\); name one'):
        BagReader(tmp_path)


def test_a_folder_of_bags_lists_unfinished_and_compressed_ones(tmp_path):
    write_camera_folder(tmp_path / 'whole')
    write_camera_folder(tmp_path / 'unfinished')
    (tmp_path / 'unfinished/metadata.yaml').unlink()
    packed = write_camera_folder(tmp_path / 'packed', mode=CompressionMode.FILE)
    shutil.move(packed / 'packed.mcap.zstd', tmp_path / 'alone.mcap.zstd')
    shutil.rmtree(packed)
    write_camera_mcap(tmp_path / 'file')
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'notes.txt').touch()
    names = [each.name for each in find_bags(tmp_path)]
    assert names == ['alone.mcap.zstd', 'file.mcap', 'unfinished', 'whole']
    for each in find_bags(tmp_path):
        assert counts(read(each)[0]) == NUM_MESSAGES
    assert find_bags(split_into_files(tmp_path / 'split')) == []  # one bag, though interrupted
    assert find_bags(tmp_path / 'whole') == []


def test_a_compressed_file_beside_the_same_file_is_not_read_twice(tmp_path):
    bag = write_camera_folder(tmp_path / 'bag', mode=CompressionMode.FILE)
    (bag / 'metadata.yaml').unlink()
    write_camera_mcap(bag / 'bag')
    assert counts(read(bag)[0]) == NUM_MESSAGES


def write_with_log(folder, in_log):
    """Write a sqlite3 bag whose last `in_log` messages are in its write-ahead log only."""
    bag = write_camera_folder(folder / 'source', SQLITE)
    rows = camera_messages()
    with sqlite3.connect(bag / 'source.db3') as source:
        ids = dict(source.execute('SELECT name, id FROM topics'))
        source.execute('DELETE FROM messages WHERE id > ?', (len(rows) - in_log,))
    source.close()
    source = sqlite3.connect(bag / 'source.db3', isolation_level=None)
    source.execute('PRAGMA journal_mode=WAL')
    source.execute('PRAGMA wal_autocheckpoint=0')
    for topic, ns, cdr in rows[len(rows) - in_log :]:
        insert = 'INSERT INTO messages (topic_id, timestamp, data) VALUES (?, ?, ?)'
        source.execute(insert, (ids[topic], ns, cdr))
    killed = folder / 'killed'
    killed.mkdir()
    for suffix in ('', '-wal'):
        shutil.copy(bag / f'source.db3{suffix}', killed / f'killed.db3{suffix}')
    source.close()
    return killed


def contents(folder):
    return {each.name: (each.read_bytes(), each.stat().st_mtime_ns) for each in folder.iterdir()}


@pytest.mark.parametrize('in_log', [1, 10, 18])
def test_messages_in_the_log_of_a_killed_recorder_are_read_and_no_file_changes(in_log, tmp_path):
    bag = write_with_log(tmp_path, in_log)
    before = contents(bag)
    with BagReader(bag) as reader:
        messages = list(reader.messages())
        assert contents(bag) == before
    assert [(m.topic, m.recorded_ns, m.cdr) for m in messages] == camera_messages()
    assert counts(read(bag / 'killed.db3')[0]) == NUM_MESSAGES
    assert contents(bag) == before


def test_a_journal_that_must_be_rolled_back_is_an_error(tmp_path):
    bag = write_camera_folder(tmp_path / 'bag', SQLITE)
    (bag / 'bag.db3-journal').write_bytes(bytes.fromhex('d9d505f920a163d7') + bytes(500))
    with pytest.raises(BagError, match=r'a transaction is unfinished \(bag\.db3-journal\)'):
        BagReader(bag)
    (bag / 'bag.db3-journal').write_bytes(bytes(500))  # journal_mode PERSIST after a commit
    assert counts(read(bag)[0]) == NUM_MESSAGES


def test_names_with_characters_of_uris_are_read(tmp_path):
    file = write_camera_folder(tmp_path / 'bag', SQLITE) / 'bag.db3'
    named = file.rename(tmp_path / 'what?is#100%25 & ü.db3')
    assert counts(read(named)[0]) == NUM_MESSAGES


@pytest.mark.parametrize('per_chunk', [0, 1, 3])
@pytest.mark.parametrize('has_summary', [True, False])
def test_messages_out_of_order_are_sorted(per_chunk, has_summary, tmp_path):
    rows = camera_messages()
    swapped = [rows[7], *rows[:4], rows[10], *rows[4:7], rows[8], rows[9], *rows[11:]]
    bag = write_mcap(
        tmp_path / 'bag.mcap',
        camera_topics(),
        swapped,
        per_chunk=per_chunk,
        has_summary=has_summary and per_chunk > 0,
    )
    assert [(m.topic, m.recorded_ns, m.cdr) for m in read(bag)[0]] == rows


def end_of_record(data, offset):
    return offset + 9 + int.from_bytes(data[offset + 1 : offset + 9], 'little')


@pytest.mark.parametrize('compression', ['', 'zstd', 'lz4'])
def test_an_unfinished_mcap_file_is_read_as_far_as_it_is_whole(compression, tmp_path):
    whole = write_camera_mcap(tmp_path / 'whole', compression=compression).read_bytes()
    rows, cut = camera_messages(), tmp_path / 'cut.mcap'
    numbers, first_chunk = set(), end_of_record(whole, end_of_record(whole, 8))
    for size in range(0, len(whole), max(1, len(whole) // 40)):
        cut.write_bytes(whole[:size])
        if size < first_chunk:
            with pytest.raises(BagError, match='not a readable bag'):
                read(cut)
            continue
        messages, report = read(cut)
        assert [(m.topic, m.recorded_ns, m.cdr) for m in messages] == rows[: len(messages)]
        (remark,) = report.remarks
        assert f'the {len(messages)} messages that are whole' in remark
        assert 'mcap recover cut.mcap' in remark
        numbers.add(len(messages))
    assert numbers == {4, 8, 12, 16, 19}  # chunks of 4 messages


def test_an_unfinished_bag_says_how_many_of_the_promised_messages_were_read(tmp_path):
    bag = write_camera_folder(tmp_path / 'bag')
    data = write_camera_mcap(tmp_path / 'whole').read_bytes()
    (bag / 'bag.mcap').write_bytes(data[: len(data) // 2])
    messages, report = read(bag)
    assert 0 < len(messages) < 19
    assert str(report.read['/camera/image_raw']) == f'{counts(messages)["/camera/image_raw"]} of 6'


def test_zeros_at_the_end_of_a_file_are_not_messages(tmp_path):
    """After a power failure the end of a file may be zeros."""
    bag = write_camera_mcap(tmp_path / 'bag', has_end=False)
    bag.write_bytes(bag.read_bytes() + bytes(5000))
    messages, report = read(bag)
    assert counts(messages) == NUM_MESSAGES
    assert 'zeros instead of a record' in report.remarks[0]


def test_a_cut_compressed_file_is_read_as_far_as_it_goes(tmp_path):
    data = write_camera_mcap(tmp_path / 'whole').read_bytes()
    half = len(data) // 2
    cut = tmp_path / 'cut.mcap.zstd'
    cut.write_bytes(zstd.compress(data[:half]) + zstd.compress(data[half:])[:-9])
    messages, report = read(cut)
    assert [(m.topic, m.recorded_ns, m.cdr) for m in messages] == camera_messages()[:8]
    assert 'cut.mcap.zstd: the zstd stream is damaged or cut off' in report.remarks[0]
    cut.write_bytes(zstd.compress(data)[:-9])
    with pytest.raises(BagError, match='the zstd stream is damaged or cut off'):
        BagReader(cut)


@pytest.mark.parametrize('name', ['folder_mcap', 'folder_db3', 'folder_mcap_file'])
def test_the_storage_file_can_be_named(name, tmp_path):
    bag = SMALL_BAGS[name](tmp_path / 'bag')
    (file,) = (each for each in bag_files(bag) if each.name != 'metadata.yaml')
    assert counts(read(file)[0]) == NUM_MESSAGES


def test_a_message_outside_chunks_is_read_with_those_in_chunks(tmp_path):
    bag = write_camera_mcap(tmp_path / 'bag', has_summary=False)
    data, end = bag.read_bytes(), 9 + 4 + 9 + 20 + 8  # data end, footer, magic
    topic, ns, cdr = '/camera/image_raw', 5, camera_messages()[2][2]
    bag.write_bytes(data[:-end] + message_record(2, ns, cdr) + data[-end:])
    messages, _ = read(bag)
    assert (messages[1].topic, messages[1].recorded_ns) == (topic, ns)
    assert len(messages) == len(camera_messages()) + 1


def test_a_bag_of_ros_1_is_named_with_its_converter(tmp_path):
    (tmp_path / 'a.bag').write_bytes(b'#ROSBAG V2.0\n')
    with pytest.raises(BagError, match=r'a bag of ROS 1; "rosbags-convert --src a\.bag'):
        BagReader(tmp_path / 'a.bag')


def test_the_tools_print_what_they_read_and_skipped(tmp_path, capsys):
    whole = write_camera_mcap(tmp_path / 'whole').read_bytes()
    cut = Path(tmp_path / 'cut.mcap')
    cut.write_bytes(whole[: len(whole) // 2])
    assert bag_to_kitti.main([str(tmp_path / 'whole.mcap'), str(tmp_path / 'a')]) == 0
    out = capsys.readouterr().out
    assert '/camera/image_raw 6 of 6' in out
    assert '/points 6 of 6' in out
    assert '0 topics not used' in out
    assert bag_to_kitti.main([str(cut), str(tmp_path / 'b')]) == 0
    assert 'cut.mcap: it is unfinished or cut off at byte' in capsys.readouterr().out
