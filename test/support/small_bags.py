"""Small bags of one camera in every storage and compression, to test readers with."""

from collections import Counter
from functools import partial

import numpy as np
import yaml
from mcap_writer import Topic, write_mcap
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer

from mono3d_ros.bags.bag_io import BagError, BagReader
from mono3d_ros.bags.drive_query import DriveQuery
from mono3d_ros.bags.drive_reader import DriveReader
from mono3d_ros.bags.message_types import make_message_factory, make_typestore
from mono3d_ros.messages.images import to_frame
from mono3d_ros.messages.rectification import Rectifier

STORE = make_typestore()
NEW = make_message_factory(STORE)
WIDTH, HEIGHT = 16, 8
TYPES = {
    '/camera/camera_info': 'sensor_msgs/msg/CameraInfo',
    '/camera/image_raw': 'sensor_msgs/msg/Image',
    '/points': 'sensor_msgs/msg/PointCloud2',
    '/tf_static': 'tf2_msgs/msg/TFMessage',
}


def header(ns, frame_id):
    stamp = NEW('builtin_interfaces/msg/Time', sec=ns // 10**9, nanosec=ns % 10**9)
    return NEW('std_msgs/msg/Header', stamp=stamp, frame_id=frame_id)


def make_info(ns):
    K = np.array([[10.0, 0, WIDTH / 2], [0, 10, HEIGHT / 2], [0, 0, 1]])
    P = np.concatenate([K, np.zeros((3, 1))], 1)
    size = {'width': WIDTH, 'height': HEIGHT, 'distortion_model': 'plumb_bob'}
    return NEW(
        TYPES['/camera/camera_info'],
        header=header(ns, 'optical'),
        **size,
        d=np.zeros(5),
        k=K,
        r=np.eye(3),
        p=P,
    )


def make_image(ns, value):
    pixels = np.full(WIDTH * HEIGHT * 3, value % 256, np.uint8)
    size = {'width': WIDTH, 'height': HEIGHT, 'step': WIDTH * 3}
    return NEW(
        TYPES['/camera/image_raw'],
        header=header(ns, 'optical'),
        encoding='rgb8',
        data=pixels,
        **size,
    )


def make_cloud(ns):
    fields = [
        NEW('sensor_msgs/msg/PointField', name=name, offset=4 * i, datatype=7, count=1)
        for i, name in enumerate(('x', 'y', 'z', 'intensity'))
    ]
    points = np.ones((4, 4), np.float32).tobytes()
    size = {'height': 1, 'width': 4, 'point_step': 16, 'row_step': 64}
    return NEW(TYPES['/points'], header=header(ns, 'lidar'), fields=fields, data=points, **size)


def make_tf(ns):
    transform = NEW(
        'geometry_msgs/msg/TransformStamped',
        header=header(ns, 'optical'),
        child_frame_id='lidar',
        transform=NEW('geometry_msgs/msg/Transform'),
    )
    return NEW(TYPES['/tf_static'], transforms=[transform])


def camera_messages(num_images=6):
    """Return (topic, time in ns, CDR bytes) in the order of time: tf, then info, image, scan."""
    rows = [('/tf_static', 1, make_tf(1))]
    for number in range(num_images):
        ns = 10**8 * (number + 1)
        rows.append(('/camera/camera_info', ns, make_info(ns)))
        rows.append(('/camera/image_raw', ns + 1, make_image(ns, number)))
        rows.append(('/points', ns + 2, make_cloud(ns)))
    return [(topic, ns, bytes(STORE.serialize_cdr(m, TYPES[topic]))) for topic, ns, m in rows]


def definition(type_name):
    """Return the definition of a type as MCAP files have it."""
    return STORE.generate_msgdef(type_name, ros_version=2)[0].encode()


def camera_topics():
    """Return the Topics of the small bags for write_mcap."""
    return [Topic(name, kind, 'ros2msg', definition(kind)) for name, kind in TYPES.items()]


def write_camera_mcap(path, **options):
    """Write the small bag as one MCAP file; options as for write_mcap."""
    return write_mcap(path.with_suffix('.mcap'), camera_topics(), camera_messages(), **options)


def write_camera_folder(path, storage=StoragePlugin.MCAP, mode=CompressionMode.NONE):
    """Write the small bag as a folder with rosbags' writer."""
    writer = Writer(path, version=8, storage_plugin=storage)
    if mode != CompressionMode.NONE:
        writer.set_compression(mode, CompressionFormat.ZSTD)
    with writer:
        connections = {
            topic: writer.add_connection(topic, kind, typestore=STORE)
            for topic, kind in TYPES.items()
        }
        for topic, ns, cdr in camera_messages():
            writer.write(connections[topic], ns, cdr)
    return path


#: Name -> function that writes the small bag to a path and returns the path of the bag.
SMALL_BAGS = {
    'mcap': write_camera_mcap,
    'mcap_zstd': partial(write_camera_mcap, compression='zstd'),
    'mcap_lz4': partial(write_camera_mcap, compression='lz4'),
    'mcap_fastwrite': partial(write_camera_mcap, per_chunk=0, has_summary=False),
    'mcap_unfinished': partial(write_camera_mcap, compression='zstd', has_end=False),
    'folder_mcap': write_camera_folder,
    'folder_mcap_file': partial(write_camera_folder, mode=CompressionMode.FILE),
    'folder_mcap_message': partial(write_camera_folder, mode=CompressionMode.MESSAGE),
    'folder_mcap_storage': partial(write_camera_folder, mode=CompressionMode.STORAGE),
    'folder_db3': partial(write_camera_folder, storage=StoragePlugin.SQLITE3),
    'folder_db3_file': partial(
        write_camera_folder, storage=StoragePlugin.SQLITE3, mode=CompressionMode.FILE
    ),
    'folder_db3_message': partial(
        write_camera_folder, storage=StoragePlugin.SQLITE3, mode=CompressionMode.MESSAGE
    ),
}


def bag_files(bag):
    """Return the files of a bag, sorted."""
    return sorted(bag.iterdir()) if bag.is_dir() else [bag]


def edit_metadata(bag, change):
    """Call change(content of rosbag2_bagfile_information) and write the file again."""
    path = bag / 'metadata.yaml'
    document = yaml.safe_load(path.read_text())
    change(document['rosbag2_bagfile_information'])
    path.write_text(yaml.safe_dump(document))


def read_bag(path):
    """
    Read and decode a whole bag, and its drive with pictures, as the bag tools do.

    :return: topic -> number of messages that could be decoded; BagError for an unreadable bag.
    """
    counts = Counter()
    with BagReader(path) as reader:
        for message in reader.messages(reader.decodable_topics):
            reader.decode(message)
            counts[message.topic] += 1
        assert all(reader.report().lines())
        for sample in DriveReader(reader, DriveQuery()):
            try:
                to_frame(sample.image, sample.info, 'camera', Rectifier())
            except ValueError:
                counts['pictures refused'] += 1
    return counts


#: Numbers that are written over size fields.
ABSURD_SIZES = (0, 1, 2**31 - 1, 2**32 - 1, 2**40, 2**63 - 1, 2**64 - 1)


def mutate(data, rng):
    """Return damaged bytes: flips, sizes overwritten, a part removed, doubled or cut off."""
    data = bytearray(data)
    for _ in range(int(rng.integers(1, 4))):
        kind, at = rng.integers(6), int(rng.integers(len(data) or 1))
        span = int(rng.integers(1, 64))
        if kind == 0:
            data[at : at + 1] = bytes([int(rng.integers(256))])
        elif kind == 1 and data:
            data[at % len(data)] ^= 1 << int(rng.integers(8))
        elif kind == 2:
            size = ABSURD_SIZES[int(rng.integers(len(ABSURD_SIZES)))]
            data[at : at + 8] = size.to_bytes(8, 'little')
        elif kind == 3:
            del data[at : at + span]
        elif kind == 4:
            data[at:at] = data[at : at + span]
        else:
            del data[at:]
    return bytes(data)


def damage_bag(bag, rng):
    """Damage one file of a bag in place."""
    files = bag_files(bag)
    file = files[int(rng.integers(len(files)))]
    file.write_bytes(mutate(file.read_bytes(), rng))


def read_damaged(bag, originals, rng):
    """
    Damage a bag, read it and restore its files.

    :param bag: path of the bag.
    :param originals: file -> bytes, of all files of the bag.
    :param rng: NumPy generator.
    :return: message of the BagError; empty if the bag could be read.
    """
    damage_bag(bag, rng)
    try:
        read_bag(bag)
    except BagError as err:
        return str(err)
    finally:
        for file, data in originals.items():
            file.write_bytes(data)
    return ''
