"""Choose what to read from a bag: the topics of its cameras and of its LiDAR scans."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mono3d_ros.bags.bag_io import BagError
from mono3d_ros.messages.rectification import AUTO, RAW, RECTIFIED, named_rectified

IMAGE_TYPE, COMPRESSED_IMAGE_TYPE = 'sensor_msgs/msg/Image', 'sensor_msgs/msg/CompressedImage'
CAMERA_INFO_TYPE, POINT_CLOUD_TYPE = 'sensor_msgs/msg/CameraInfo', 'sensor_msgs/msg/PointCloud2'


@dataclass(frozen=True)
class CameraTopics:
    """
    The topics of one camera in a bag.

    :param name: namespace of the topics, such as 'front'; 'camera' without a namespace.
    :param image: topic of the images, raw or compressed.
    :param info: topic of camera_info.
    :param labels: topic of the labels; empty if the bag has none.
    :param reason: the topics, their type and encoding, and why they were chosen.
    """

    name: str
    image: str
    info: str
    labels: str
    reason: str = ''


def prefer_rectified(camera: CameraTopics) -> tuple[bool, bool]:
    """Return a sort key: rectified images before others, Image before CompressedImage."""
    base = camera.image.removesuffix('/compressed')
    return not named_rectified(base), base != camera.image


def prefer_raw(camera: CameraTopics) -> tuple[bool, bool]:
    """Return a sort key: rectified images after others, Image before CompressedImage."""
    is_other, compressed = prefer_rectified(camera)
    return not is_other, compressed


@dataclass(frozen=True)
class DriveQuery:
    """
    Which part of a bag to read.

    :param camera: name or image topic of one camera; empty for all cameras.
    :param topic_order: sort key; the first of several image topics of a camera is used.
    :param cloud_topic: topic of the LiDAR scans; empty for the first PointCloud2 topic.
    :param every: use every n-th image of each camera.
    :param max_offset_s: maximum time between an image and its scan, seconds.
    :param vehicle_frame: frame of the vehicle, for CameraPose.vehicle_T_cam.
    :param fixed_frame: frame that does not move, for CameraPose.fixed_T_cam.
    :param image: topic of the images of the only camera to read; empty: chosen.
    :param info: topic of its camera_info; empty: chosen.
    """

    camera: str = ''
    topic_order: Callable[[CameraTopics], Any] = prefer_rectified
    cloud_topic: str = ''
    every: int = 1
    max_offset_s: float = 0.05
    vehicle_frame: str = 'base_link'
    fixed_frame: str = 'odom'
    image: str = ''
    info: str = ''

    def __post_init__(self) -> None:
        """Raise BagError for numbers out of range."""
        if self.every < 1:
            raise BagError(f'every {self.every}: expected 1 or more')
        if not self.max_offset_s >= 0:
            raise BagError(f'max-offset {self.max_offset_s:g}: expected 0 or more seconds')


def add_rectified_option(parser: argparse.ArgumentParser) -> None:
    """Add --rectified, the parameter `rectified` of the node, and its short form --rectify."""
    parser.add_argument(
        '--rectified',
        choices=(AUTO, RECTIFIED, RAW),
        default=AUTO,
        help='whether the images are rectified: true, false (rectify them), or auto (by the name '
        'of their topic); default: %(default)s',
    )
    parser.add_argument(
        '--rectify',
        dest='rectified',
        action='store_const',
        const=RAW,
        help='rectify raw images: --rectified false',
    )


def add_camera_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose images and camera_info, and the bit depth of the images."""
    parser.add_argument(
        '--camera', default='', help='use one camera: its namespace or image topic'
    )
    parser.add_argument(
        '--image',
        default='',
        metavar='TOPIC',
        help='use this topic of Image or CompressedImage; default: chosen for each camera',
    )
    parser.add_argument(
        '--camera-info',
        default='',
        metavar='TOPIC',
        help='the camera_info of that camera; default: the one in the namespace of the images',
    )
    parser.add_argument(
        '--bit-depth',
        type=int,
        default=0,
        choices=(0, *range(8, 17)),
        metavar='BITS',
        help='significant bits of 16-bit images, 8 to 16; default: found from their values',
    )


def choose_cloud_topic(topics: Mapping[str, str], query: DriveQuery, bag: str | Path) -> str:
    """
    Choose the topic of the LiDAR scans.

    :param topics: topic -> message type.
    :param query: its cloud_topic, or the first PointCloud2 topic if that is empty.
    :param bag: name of the bag, for error messages.
    :return: the topic; empty if the bag has no scans and none are requested.
    :raises BagError: if the requested topic has no scans; the message lists those of the bag.
    """
    clouds = [topic for topic, kind in topics.items() if kind == POINT_CLOUD_TYPE]
    if query.cloud_topic and query.cloud_topic not in clouds:
        has = ', '.join(clouds) or 'none'
        raise BagError(f'{bag}: no PointCloud2 topic {query.cloud_topic}; the bag has {has}')
    return query.cloud_topic or next(iter(clouds), '')
