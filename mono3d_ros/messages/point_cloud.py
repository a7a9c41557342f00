"""
Read PointCloud2 messages of any layout as arrays.

sensor_msgs_py, which comes with ROS, is not used: it accepts only ROS's own message class, but the
bag tools read messages without ROS; and it returns the padding of rows as points.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from stl_core.types import Array

#: sensor_msgs/msg/PointField: datatype -> NumPy type string without byte order.
DATATYPES: Mapping[int, str] = {
    1: 'i1', 2: 'u1', 3: 'i2', 4: 'u2', 5: 'i4', 6: 'u4', 7: 'f4', 8: 'f8',
}  # fmt: skip


def read_points(cloud: Any) -> Array:
    """
    Read the finite points of a cloud.

    :param cloud: sensor_msgs PointCloud2.
    :return: (L, 4) float32 x y z, metres in the frame of the cloud, and intensity in units of the
        sensor, 0 if the cloud has none; points that are not finite are left out.
    :raises ValueError: for a cloud without x, y or z, or with too few bytes.
    """
    order = '>' if cloud.is_bigendian else '<'
    layouts = {
        field.name: (order + DATATYPES[field.datatype], field.offset)
        for field in cloud.fields
        if field.datatype in DATATYPES
    }
    if missing := sorted({'x', 'y', 'z'} - set(layouts)):
        raise ValueError(f'a cloud without {", ".join(missing)}')
    names = [name for name in ('x', 'y', 'z', 'intensity') if name in layouts]
    formats, offsets = zip(*(layouts[name] for name in names), strict=True)
    dtype_spec: Any = {
        'names': names,
        'formats': formats,
        'offsets': offsets,
        'itemsize': cloud.point_step,
    }
    rows = _packed_bytes(cloud).view(np.dtype(dtype_spec))
    points = np.zeros((len(rows), 4), np.float32)
    for column, name in enumerate(names):
        points[:, column] = rows[name]
    finite = np.isfinite(points).all(1)
    return points if finite.all() else points[finite]


def _packed_bytes(cloud: Any) -> Array:
    """Return the bytes of the points without padding at the ends of rows, uint8, contiguous."""
    data = np.ascontiguousarray(cloud.data, np.uint8)
    row_bytes = cloud.width * cloud.point_step
    if cloud.height <= 1 or cloud.row_step == row_bytes:
        return data[: len(data) // cloud.point_step * cloud.point_step]
    if len(data) < cloud.height * cloud.row_step or cloud.row_step < row_bytes:
        needed = f'{cloud.height} rows of {cloud.row_step}'
        raise ValueError(f'a cloud of {len(data)} bytes, expected {needed}')
    rows = data[: cloud.height * cloud.row_step].reshape(cloud.height, cloud.row_step)
    return np.ascontiguousarray(rows[:, :row_bytes]).reshape(-1)
