"""Small bags for tests: images, camera_infos, clouds and transforms, written in any order."""

import numpy as np
from kitti_scenes import HEIGHT, P2, WIDTH

from mono3d_ros.bags.bag_io import BagWriter
from mono3d_ros.bags.message_types import make_message_factory, make_typestore
from mono3d_ros.messages.primitives import to_header
from mono3d_ros.tf import transforms

STORE = make_typestore()
NEW = make_message_factory(STORE)
MS = 1_000_000
#: sensor_msgs/PointField
FLOAT32, FLOAT64 = 7, 8


def picture(seed=0):
    """Return (HEIGHT, WIDTH, 3) uint8 noise."""
    return np.random.default_rng(seed).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)


def image(stamp_ns, pixels, frame_id='cam_optical'):
    return NEW(
        'sensor_msgs/msg/Image',
        header=to_header(stamp_ns, frame_id, NEW),
        height=HEIGHT,
        width=WIDTH,
        encoding='rgb8',
        step=3 * WIDTH,
        data=pixels,
    )


def camera_info(stamp_ns, frame_id='cam_optical', **changes):
    fields = {
        'width': WIDTH,
        'height': HEIGHT,
        'distortion_model': 'plumb_bob',
        'd': np.zeros(0),
        'k': P2[:, :3],
        'r': np.eye(3),
        'p': P2,
    }
    fields = {
        **fields,
        **{name: np.array(each) if name in 'dkrp' else each for name, each in changes.items()},
    }
    header = to_header(stamp_ns, frame_id, NEW)
    return NEW('sensor_msgs/msg/CameraInfo', header=header, **fields)


def tf_message(stamp_ns, *poses):
    """Return a TFMessage of (parent, child, x in metres)."""
    matrices = []
    for parent, child, x_m in poses:
        matrix = np.eye(4)
        matrix[0, 3] = x_m
        matrices.append(transforms.Pose(parent, child, matrix))
    return transforms.make_tf_message(matrices, stamp_ns, NEW)


def cloud(
    stamp_ns, points, frame_id='lidar', dtype='<f4', names=('x', 'y', 'z', 'intensity'), **changes
):
    """Return a PointCloud2 of (L, C) points; keyword arguments replace its fields."""
    array = np.asarray(points, dtype)
    size = array.dtype.itemsize
    fields = [
        NEW(
            'sensor_msgs/msg/PointField',
            name=name,
            offset=size * i,
            datatype=FLOAT32 if size == 4 else FLOAT64,
            count=1,
        )
        for i, name in enumerate(names)
    ]
    return NEW(
        'sensor_msgs/msg/PointCloud2',
        header=to_header(stamp_ns, frame_id, NEW),
        **{
            'height': 1,
            'width': len(array),
            'fields': fields,
            'is_bigendian': array.dtype.byteorder == '>',
            'point_step': size * len(names),
            'row_step': size * len(names) * len(array),
            'data': array.tobytes(),
            **changes,
        },
    )


def record(path, messages):
    """Write a bag of (topic, time of recording in ns, message) in the given order."""
    with BagWriter(path, STORE) as bag:
        for topic, recorded_ns, message in messages:
            bag.write(topic, recorded_ns, message)
    return path


def record_camera(path, topic='/cam/image_raw', count=1, others=(), **info):
    """
    Record images 100 ms apart, each with its camera_info, and other messages.

    :param others: (topic, time of recording in ns, message).
    :param info: fields of the camera_info.
    :return: the pixels of the images.
    """
    space, pixels = topic.rsplit('/', 1)[0], [picture(i) for i in range(count)]
    messages = list(others)
    for i, each in enumerate(pixels):
        stamp_ns = (i + 1) * 100 * MS
        messages.append((f'{space}/camera_info', stamp_ns, camera_info(stamp_ns, **info)))
        messages.append((topic, stamp_ns, image(stamp_ns, each)))
    record(path, sorted(messages, key=lambda each: each[1]))
    return pixels
