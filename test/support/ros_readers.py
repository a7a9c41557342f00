"""
Every bag and message that the ROS side reads, as FileReaders; messages are files of CDR bytes.

The names of topics and bags are added by the callers of the message readers.
"""

import tempfile
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import small_bags
from file_readers import KINDS, NO_UNIT, WHOLE_NUMBERS, FileReader, file_with, half, replaced
from small_bags import NEW, SMALL_BAGS, STORE, TYPES, bag_files, header

from mono3d_ros.bags.bag_io import BagError, BagReader
from mono3d_ros.messages.images import to_frame
from mono3d_ros.messages.point_cloud import read_points
from mono3d_ros.messages.rectification import RECTIFIED, Rectifier
from mono3d_ros.tf.buffer import TransformBuffer, TransformUnavailableError

EXPECTED_ERRORS = (BagError, ValueError, TransformUnavailableError)
COMPRESSED = 'sensor_msgs/msg/CompressedImage'
NO_MESSAGE = 'a topic without messages is named by the tools, and by the diagnostics of the node'
FIXED_TYPE = 'the message defines the type of every field'


# ---- bags


def storage_file(name):
    """Return the path of a small bag's largest file in the folder that it was written to."""
    with tempfile.TemporaryDirectory() as folder:
        bag = SMALL_BAGS[name](Path(folder) / 'bag')
        largest = max(bag_files(bag), key=lambda path: path.stat().st_size)
        return str(largest.relative_to(folder))


def make_bag(name, folder):
    SMALL_BAGS[name](folder / 'bag')


def read_whole_bag(path):
    """Read a bag by the path of one of its files; return the remarks on its unread parts."""
    bag = path.parent if path.parent.name == 'bag' else path
    small_bags.read_bag(bag)
    with BagReader(bag) as reader:
        for message in reader.messages(reader.decodable_topics):
            reader.decode(message)
        return list(reader.report().remarks)


BAG_FAULTS = {
    'empty': lambda data: b'',
    'truncated': half,
    'foreign': lambda data: b'<!DOCTYPE html><html><body>404: not found</body></html>\n' * 4,
    **dict.fromkeys(('wrong unit', 'wrong dtype', 'nan', 'out of range'), 'see its messages'),
}
METADATA_FAULTS = {
    **BAG_FAULTS,
    'empty': lambda data: b'',
    'wrong unit': NO_UNIT,
    'wrong dtype': 'a count that is no number promises nothing; all messages are read',
    'nan': WHOLE_NUMBERS,
    'out of range': replaced('message_count: 6', 'message_count: 600'),
}

# ---- messages


def decode(data, kind):
    """Decode CDR bytes; ValueError for others, which ROS does not hand to a node."""
    try:
        return STORE.deserialize_cdr(data, kind)
    except Exception as err:
        raise ValueError('no message of this type') from err


def cdr(message, kind):
    return bytes(STORE.serialize_cdr(message, kind))


def changed(kind, **values):
    """Return a change of fields of a message; a value may be a function of the old one."""

    def change(data):
        message = STORE.deserialize_cdr(data, kind)
        for name, value in values.items():
            setattr(message, name, value(getattr(message, name)) if callable(value) else value)
        return cdr(message, kind)

    return change


def read_image(kind, path):
    message = decode(path.read_bytes(), kind)
    return to_frame(message, small_bags.make_info(1), 'camera', Rectifier(RECTIFIED))


def read_info(path):
    info = decode(path.read_bytes(), TYPES['/camera/camera_info'])
    return to_frame(small_bags.make_image(1, 7), info, 'camera', Rectifier(RECTIFIED))


def read_cloud(path):
    return read_points(decode(path.read_bytes(), TYPES['/points']))


def read_tf(path):
    buffer = TransformBuffer()
    buffer.put_static(decode(path.read_bytes(), TYPES['/tf_static']))
    return buffer.lookup('optical', 'lidar', 1)


def compressed_image():
    pixels = np.full((small_bags.HEIGHT, small_bags.WIDTH, 3), 90, np.uint8)
    data = np.frombuffer(cv2.imencode('.jpg', pixels)[1].tobytes(), np.uint8)
    return NEW(
        COMPRESSED, header=header(1, 'optical'), format='rgb8; jpeg compressed bgr8', data=data
    )


def huge_jpeg(data):
    """Write 40000 x 40000 pixels into the frame header of a JPEG."""
    jpeg = bytes(data)
    at = jpeg.index(b'\xff\xc0') + 5
    return np.frombuffer(jpeg[:at] + b'\x9c\x40\x9c\x40' + jpeg[at + 4 :], np.uint8)


def transform(**values):
    def change(data):
        message = STORE.deserialize_cdr(data, TYPES['/tf_static'])
        for name, value in values.items():
            part, field = name.split('_')
            setattr(getattr(message.transforms[0].transform, part), field, value)
        return cdr(message, TYPES['/tf_static'])

    return change


def without_transforms(data):
    message = STORE.deserialize_cdr(data, TYPES['/tf_static'])
    message.transforms = []
    return cdr(message, TYPES['/tf_static'])


def other_frame(data):
    return data.replace(b'lidar\0', b'radar\0')


IMAGE, INFO, CLOUD = TYPES['/camera/image_raw'], TYPES['/camera/camera_info'], TYPES['/points']
PIXELS = np.zeros(0, np.uint8)
MESSAGE_FAULTS = {
    'Image': {
        'empty': changed(IMAGE, data=PIXELS),
        'truncated': changed(IMAGE, data=half),
        'foreign': changed(IMAGE, encoding='theora'),
        'wrong unit': changed(IMAGE, encoding='16UC1'),
        'wrong dtype': changed(IMAGE, encoding='rgb16'),
        'nan': WHOLE_NUMBERS,
        'out of range': changed(IMAGE, width=10**6, step=3 * 10**6),
    },
    'CompressedImage': {
        'empty': changed(COMPRESSED, data=PIXELS),
        'truncated': changed(COMPRESSED, data=half),
        'foreign': changed(COMPRESSED, data=np.frombuffer(b'<html>' * 9, np.uint8)),
        'wrong unit': changed(COMPRESSED, format='16UC1; png compressed '),
        'wrong dtype': changed(COMPRESSED, format='h264'),
        'nan': WHOLE_NUMBERS,
        'out of range': changed(COMPRESSED, data=huge_jpeg),
    },
    'CameraInfo': {
        'empty': changed(INFO, k=np.zeros(9), p=np.zeros(12)),
        'truncated': changed(INFO, distortion_model='plumb_bob', d=np.ones(3), p=np.zeros(12)),
        'foreign': changed(INFO, distortion_model='stereographic', d=np.ones(5), p=np.zeros(12)),
        'wrong unit': changed(INFO, width=64, height=64),
        'wrong dtype': FIXED_TYPE,
        'nan': changed(INFO, p=lambda p: p * np.nan, k=lambda k: k * np.nan),
        'out of range': changed(INFO, p=lambda p: -p, k=lambda k: -k),
    },
    'PointCloud2': {
        'empty': changed(CLOUD, data=PIXELS, width=0),
        'truncated': changed(CLOUD, data=half),
        'foreign': changed(CLOUD, fields=lambda fields: fields[3:]),
        'wrong unit': 'depth maps of the scans and the LiDAR check show it',
        'wrong dtype': changed(
            CLOUD, fields=lambda fields: [set_datatype(each) for each in fields]
        ),
        'nan': changed(CLOUD, data=lambda data: np.full(len(data), 255, np.uint8)),
        'out of range': changed(CLOUD, point_step=0),
    },
    'TFMessage': {
        'empty': without_transforms,
        'truncated': FIXED_TYPE,
        'foreign': other_frame,
        'wrong unit': 'depth maps of the scans and the LiDAR check show it',
        'wrong dtype': FIXED_TYPE,
        'nan': transform(translation_x=np.nan),
        'out of range': transform(rotation_w=0.0),
    },
}


def set_datatype(field):
    field.datatype = 99
    return field


MESSAGES = {
    'Image': (small_bags.make_image(1, 7), IMAGE, partial(read_image, IMAGE)),
    'CompressedImage': (compressed_image(), COMPRESSED, partial(read_image, COMPRESSED)),
    'CameraInfo': (small_bags.make_info(1), INFO, read_info),
    'PointCloud2': (small_bags.make_cloud(1), CLOUD, read_cloud),
    'TFMessage': (small_bags.make_tf(1), TYPES['/tf_static'], read_tf),
}

BAGS = tuple(
    FileReader(
        *(f'bag {name}', storage_file(name), partial(make_bag, name), read_whole_bag, BAG_FAULTS)
    )
    for name in SMALL_BAGS
    if name != 'mcap_unfinished'  # it is no good file
)
METADATA = FileReader(
    'metadata of a bag',
    'bag/metadata.yaml',
    partial(make_bag, 'folder_mcap'),
    read_whole_bag,
    {**METADATA_FAULTS, 'missing': 'it is a hint: the storage file is read'},
    ('bag',),
)
MESSAGE_READERS = tuple(
    FileReader(
        name,
        f'{name}.cdr',
        file_with(f'{name}.cdr', cdr(message, kind)),
        read,
        {'missing': NO_MESSAGE, **MESSAGE_FAULTS[name]},
        ('',),
    )
    for name, (message, kind, read) in MESSAGES.items()
)
READERS = (*BAGS, METADATA, *MESSAGE_READERS)
assert all(set(reader.faults) | {'missing'} == set(KINDS) for reader in READERS)
