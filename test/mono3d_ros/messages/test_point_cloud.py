"""Clouds of any layout: read as sensor_msgs_py would, or refused by the field at fault."""

import struct

import numpy as np
import pytest
from bag_messages import cloud

from mono3d_ros.messages.point_cloud import read_points

POINTS = np.arange(24.0).reshape(6, 4)


def organised(**changes):
    """Return a cloud of 3 rows of 2 points, without padding."""
    return cloud(0, POINTS, **{'height': 3, 'width': 2, 'row_step': 32, **changes})


@pytest.mark.parametrize('row_step', [32, 0, 96, 1, 48, 2**32 - 1])
def test_wrong_row_steps(row_step):
    np.testing.assert_array_equal(read_points(organised(row_step=row_step)), POINTS)


def test_padded_rows():
    """Also without the padding of the last row."""
    rows = POINTS.astype('<f4').reshape(3, 8)
    data = np.hstack([rows, np.full((3, 2), 7, '<f4')]).tobytes()
    for end in (None, -8):
        padded = organised(row_step=40, data=data[:end])
        np.testing.assert_array_equal(read_points(padded), POINTS)


@pytest.mark.parametrize('dtype', ['<f4', '>f4', '<f8', '>f8'])
def test_float_types_and_byte_orders(dtype):
    np.testing.assert_array_equal(read_points(cloud(0, POINTS, dtype=dtype)), POINTS)


def test_fields_in_another_order_and_others_between_them():
    names = ('ring', 'z', 'time', 'x', 'y')
    points = np.arange(10.0).reshape(2, 5)
    expected = [[3, 4, 1, 0], [8, 9, 6, 0]]
    np.testing.assert_array_equal(read_points(cloud(0, points, names=names)), expected)


def test_points_are_read_one_by_one_as_struct_does():
    message = cloud(0, POINTS, names=('x', 'y', 'z', 'intensity'))
    expected = list(struct.iter_unpack('<4f', bytes(message.data)))
    np.testing.assert_array_equal(read_points(message), expected)


def test_width_limits_the_points():
    """Drivers with a fixed buffer set the width to the number of valid points."""
    np.testing.assert_array_equal(read_points(cloud(0, POINTS, width=4)), POINTS[:4])


def test_points_without_intensity_are_kept_and_infinite_ones_are_not():
    points = [[1, 2, 3, np.nan], [np.nan, 0, 0, 1], [1e300, 0, 0, 1], [4, 5, 6, 7]]
    expected = [[1, 2, 3, 0], [4, 5, 6, 7]]
    np.testing.assert_array_equal(read_points(cloud(0, points, dtype='<f8')), expected)


@pytest.mark.parametrize(
    ('changes', 'text'),
    [
        ({'fields': []}, 'without x, y, z; its fields are none'),
        ({'names': ('X', 'Y', 'Z', 'intensity')}, 'without x, y, z; its fields are X, Y, Z, int'),
        ({'names': ('x', 'y', 'range', 'i')}, 'without z; its fields are x, y, range, i'),
        ({'point_step': 0}, 'point_step 0, but x ends at byte 4'),
        ({'point_step': 10}, 'point_step 10, but z ends at byte 12'),
        ({'width': 0}, r'0 \* 1 points, with 96 bytes'),
        ({'height': 0}, r'6 \* 0 points, with 96 bytes'),
        ({'width': 7}, r'96 bytes, too few for 7 \* 1 points of 16 bytes'),
        ({'width': 2**31, 'height': 2**31}, 'too few'),
        ({'data': np.zeros(0, np.uint8)}, r'0 bytes, too few for 6 \* 1 points'),
    ],
)
def test_clouds_that_cannot_be_read(changes, text):
    with pytest.raises(ValueError, match=f'^a cloud .*{text}'):
        read_points(cloud(0, POINTS, **changes))


def test_a_cloud_without_a_finite_point():
    with pytest.raises(ValueError, match='a cloud of 6 points, none of them finite'):
        read_points(cloud(0, np.full((6, 4), np.nan)))
