"""Sizes from headers equal those of the decoded pictures."""

import struct

import cv2
import numpy as np
import pytest

from stl_core.data.frame_source import DataError
from stl_core.data.picture_size import read_picture_size
from stl_core.data.sources import kitti


def write(path, size, options=()):
    cv2.imwrite(str(path), np.zeros((size[1], size[0], 3), np.uint8), options)
    return path


def decoded_size(path):
    height, width = kitti.read_image(path).shape[:2]
    return [width, height]


@pytest.mark.parametrize('size', [(1, 1), (31, 17), (1242, 375)])
@pytest.mark.parametrize(
    ('suffix', 'options'),
    [
        ('png', ()),
        ('jpg', ()),
        ('jpg', (cv2.IMWRITE_JPEG_PROGRESSIVE, 1)),
        ('jpg', (cv2.IMWRITE_JPEG_RST_INTERVAL, 2)),
    ],
)
def test_sizes_equal_those_of_the_pixels(tmp_path, size, suffix, options):
    path = write(tmp_path / f'a.{suffix}', size, options)
    assert read_picture_size(path).tolist() == decoded_size(path) == list(size)


def test_a_jpeg_turned_by_exif_has_the_size_of_the_turned_pixels(tmp_path):
    data = write(tmp_path / 'a.jpg', (40, 24)).read_bytes()
    entry = struct.pack('>HHII', 0x0112, 3, 1, 6 << 16)  # orientation 6: turn by 90 degrees
    exif = b'Exif\0\0MM\0*' + struct.pack('>IH', 8, 1) + entry + bytes(4)
    segment = b'\xff\xe1' + struct.pack('>H', 2 + len(exif)) + exif
    (tmp_path / 'b.jpg').write_bytes(data[:2] + segment + data[2:])
    assert decoded_size(tmp_path / 'b.jpg') == [24, 40]
    assert read_picture_size(tmp_path / 'b.jpg').tolist() == [24, 40]


def test_a_comment_longer_than_the_bytes_read_first_is_passed_over(tmp_path):
    data = write(tmp_path / 'a.jpg', (40, 24)).read_bytes()
    comment = b'\xff\xfe\xff\xff' + bytes(0xFFFF - 2)
    (tmp_path / 'b.jpg').write_bytes(data[:2] + comment * 2 + data[2:])
    assert read_picture_size(tmp_path / 'b.jpg').tolist() == [40, 24]


@pytest.mark.parametrize(
    'data',
    [b'', b'no picture', b'\x89PNG\r\n\x1a\n', b'\xff\xd8\xff', b'version https://git-lfs'],
)
def test_files_that_are_no_pictures_are_named(tmp_path, data):
    (tmp_path / 'a.png').write_bytes(data)
    with pytest.raises(DataError, match=r'a\.png: not a readable PNG or JPEG'):
        read_picture_size(tmp_path / 'a.png')
    with pytest.raises(DataError, match=r'b\.png: no such file'):
        read_picture_size(tmp_path / 'b.png')


def test_a_picture_too_large_for_opencv_is_named(tmp_path):
    data = bytearray(write(tmp_path / 'a.jpg', (16, 16)).read_bytes())
    frame = data.index(b'\xff\xc0')
    data[frame + 5 : frame + 9] = struct.pack('>HH', 65000, 65000)
    (tmp_path / 'a.jpg').write_bytes(data)
    with pytest.raises(DataError, match=r'a\.jpg: not a readable PNG or JPEG'):
        kitti.read_image(tmp_path / 'a.jpg')
