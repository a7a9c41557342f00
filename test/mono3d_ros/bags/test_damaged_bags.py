"""Damaged bags: one BagError on one line, no other exception, and bounded memory."""

import contextlib
import sqlite3
import tracemalloc

import numpy as np
import pytest
from mcap_writer import record, write_mcap, zstd
from small_bags import (
    NEW,
    SMALL_BAGS,
    STORE,
    TYPES,
    bag_files,
    camera_messages,
    camera_topics,
    damage_bag,
    make_tf,
    read_bag,
    read_damaged,
    write_camera_folder,
    write_camera_mcap,
)

from mono3d_ros.bags.bag_io import BagError, BagReader

BOUND_BYTES = 2**26


@pytest.mark.parametrize('name', SMALL_BAGS)
def test_damaged_bytes_lead_to_one_line_or_to_all_messages_or_to_a_remark(name, tmp_path):
    bag = SMALL_BAGS[name](tmp_path / 'bag')
    originals = {each: each.read_bytes() for each in bag_files(bag)}
    errors = 0
    for seed in range(15):
        message = read_damaged(bag, originals, np.random.default_rng(seed))
        assert '\n' not in message
        assert len(message) < 800
        errors += message != ''
        damage_bag(bag, np.random.default_rng(seed))
        count, says_damage = count_messages(bag)
        assert says_damage or count == len(camera_messages())
        for file, data in originals.items():
            file.write_bytes(data)
    assert errors
    assert read_bag(bag)['/camera/image_raw'] == 6


def count_messages(bag):
    """Return the number of messages of a bag, and whether the reader says that it is damaged."""
    try:
        with BagReader(bag) as reader:
            count = len(list(reader.messages()))
            report = reader.report()
            return count, bool(report.remarks or report.skipped)
    except BagError:
        return 0, True


def peak_bytes(path):
    tracemalloc.start()
    try:
        with pytest.raises(BagError):
            read_bag(path)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def overwrite(path, offset, value, size=8):
    data = bytearray(path.read_bytes())
    data[offset : offset + size] = value.to_bytes(size, 'little')
    path.write_bytes(data)


@pytest.mark.parametrize('size', [2**31, 2**64 - 1])
@pytest.mark.parametrize('compression', ['', 'zstd', 'lz4'])
@pytest.mark.parametrize('has_end', [True, False])
def test_absurd_sizes_in_an_mcap_file_allocate_nothing(size, compression, has_end, tmp_path):
    whole = write_camera_mcap(tmp_path / 'bag', compression=compression, per_chunk=99)
    head = 8 + 9 + int.from_bytes(whole.read_bytes()[9:17], 'little')  # of the only chunk
    data = whole.read_bytes() if has_end else whole.read_bytes()[:-60]
    length_of_name = len(compression)
    for offset in (1, 9 + 16, 9 + 28, 9 + 32 + length_of_name):  # record, unpacked, name, packed
        whole.write_bytes(data)
        overwrite(whole, head + offset, size if offset != 9 + 28 else size % 2**32 or 2**31)
        assert peak_bytes(whole) < BOUND_BYTES


def test_a_chunk_that_unpacks_to_more_than_it_says_is_cut_short(tmp_path):
    bag = write_camera_mcap(tmp_path / 'bag', compression='zstd', per_chunk=99)
    data = bag.read_bytes()
    start = data.index(b'\x28\xb5\x2f\xfd')
    (length,) = np.frombuffer(data[start - 8 : start], '<u8')
    bomb = zstd.compress(bytes(2**28))
    bomb_length = len(bomb).to_bytes(8, 'little')
    head = 8 + 9 + int.from_bytes(data[9:17], 'little')
    old = int.from_bytes(data[head + 1 : head + 9], 'little')
    new = (old + len(bomb) - int(length)).to_bytes(8, 'little')
    data = data[: head + 1] + new + data[head + 9 : start - 8] + bomb_length + bomb
    bag.write_bytes(data)
    assert peak_bytes(bag) < BOUND_BYTES


@pytest.mark.parametrize('topic', list(TYPES))
def test_absurd_lengths_in_messages_allocate_nothing(topic, tmp_path):
    with BagReader(write_camera_mcap(tmp_path / 'bag')) as reader:
        message = next(reader.messages([topic]))
        for offset in range(4, min(len(message.cdr) - 4, 100), 4):
            for length in (2**16, 2**31 - 1, 2**32 - 1):
                changed = length.to_bytes(4, 'little')
                cdr = message.cdr[:offset] + changed + message.cdr[offset + 4 :]
                tracemalloc.start()
                try:
                    with contextlib.suppress(BagError):  # some numbers are not lengths
                        reader.decode(message._replace(cdr=cdr))
                    assert tracemalloc.get_traced_memory()[1] < BOUND_BYTES
                finally:
                    tracemalloc.stop()


def test_an_encapsulation_that_is_not_cdr_is_named(tmp_path):
    topic, ns, cdr = camera_messages()[0]
    rows = [(topic, ns, b'\0\7' + cdr[2:])]  # XCDR2
    with BagReader(write_mcap(tmp_path / 'a.mcap', camera_topics(), rows)) as reader:
        (message,) = reader.messages()
        with pytest.raises(BagError, match=r'/tf_static at 1 ns: not a .*encapsulation'):
            reader.decode(message)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda data: b'', 'the file is empty'),
        (lambda data: data[:7], 'neither MCAP nor sqlite3'),
        (lambda data: bytes(len(data)), 'neither MCAP nor sqlite3'),
        (lambda data: data[:8], 'no whole message'),
        (lambda data: data[:8] + data[-8:], 'no whole message'),
        (lambda data: data[:40] + bytes(len(data) - 40), 'no whole message'),
        (lambda data: b'#ROSBAG V2.0\n' + data, 'neither MCAP nor sqlite3'),
        (lambda data: data[:8] + record(6, b'') + data[8:], r'damaged at byte 8'),
    ],
)
def test_a_damaged_file_is_named_with_the_reason(change, message, tmp_path):
    bag = write_camera_mcap(tmp_path / 'bag', has_summary=False)
    bag.write_bytes(change(bag.read_bytes()))
    with pytest.raises(BagError, match=rf'bag\.mcap: not a readable bag \(.*{message}') as error:
        read_bag(bag)
    assert '\n' not in str(error.value)


@pytest.mark.parametrize('name', ['mcap_zstd', 'mcap_lz4'])
def test_damage_in_the_middle_says_the_file_and_how_many_messages_were_read(name, tmp_path):
    bag = SMALL_BAGS[name](tmp_path / 'bag')
    file = max(bag_files(bag), key=lambda each: each.stat().st_size)
    data = bytearray(file.read_bytes())
    frame = data.index(zstd.compress(b'')[:4] if 'lz4' not in name else b'\x04\x22\x4d\x18', 900)
    data[frame + 30 : frame + 60] = bytes(30)
    file.write_bytes(data)
    with pytest.raises(BagError, match=rf'cut off after \d+ messages \({file.name}: '):
        list(BagReader(bag).messages())


def test_an_error_of_sqlite_that_is_no_text_is_one_line(tmp_path):
    """The message quotes the damaged schema, and Python cannot decode it."""
    file = tmp_path / 'bag.db3'
    with contextlib.closing(sqlite3.connect(file)) as connection:
        for name in ('topics', 'messages', 'zzzz'):
            connection.execute(f'CREATE TABLE {name}(a)')
        connection.commit()
    data = file.read_bytes().replace(b'TABLE zzzz(a)', b'TABLE \xff\xfe\xff\xfe?a?')
    file.write_bytes(data.replace(b'zzzzzzzz', b'\xff\xfe' * 4))
    with (
        contextlib.closing(sqlite3.connect(file)) as connection,
        pytest.raises(UnicodeDecodeError),
    ):
        connection.execute('SELECT * FROM topics')
    with pytest.raises(BagError, match=r'bag\.db3: not a readable bag \(.*\.recover') as error:
        read_bag(file)
    assert '\n' not in str(error.value)


def test_a_message_without_a_header_is_no_stamp_of_zero(tmp_path):
    rows = [each for each in camera_messages(1) if each[0] != '/camera/image_raw']
    for cdr in (b'', b'\0', b'\0\1\0\0', b'\0\1\0\0\1\2'):
        path = tmp_path / 'bag.mcap'
        write_mcap(path, camera_topics(), [*rows, ('/camera/image_raw', 9**9, cdr)])
        with pytest.raises(
            BagError, match='image_raw at 387420489 ns: not a sensor_msgs/msg/Image'
        ):
            read_bag(path)


def test_a_folder_in_place_of_a_file_is_an_error(tmp_path):
    bag = write_camera_folder(tmp_path / 'bag')
    (bag / 'bag.mcap').unlink()
    (bag / 'bag.mcap').mkdir()
    with pytest.raises(BagError, match=r'lists bag\.mcap, not found'):
        BagReader(bag)


def test_a_transform_with_many_parts_is_decoded(tmp_path):
    """The bounds refuse no plausible message: 2000 transforms in one."""
    transforms = make_tf(1).transforms * 2000
    message = NEW(TYPES['/tf_static'], transforms=transforms)
    cdr = bytes(STORE.serialize_cdr(message, TYPES['/tf_static']))
    rows = [('/tf_static', 1, cdr), *camera_messages()[1:]]
    bag = write_mcap(tmp_path / 'bag.mcap', camera_topics(), rows, compression='zstd')
    assert read_bag(bag)['/tf_static'] == 1
