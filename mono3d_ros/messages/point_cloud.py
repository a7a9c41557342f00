"""
PointCloud2 -> arrays, whatever the layout of its points.

sensor_msgs_py, which comes with ROS, is not used: it takes messages of ROS's own class only, and
ours come out of bags without ROS; where rows are padded it takes the padding for points.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from stl_core.types import Array

#: sensor_msgs/msg/PointField: datatype -> NumPy's name of it, less the order of bytes.
DATATYPES: Mapping[int, str] = {
    1: 'i1', 2: 'u1', 3: 'i2', 4: 'u2', 5: 'i4', 6: 'u4', 7: 'f4', 8: 'f8',
}  # fmt: skip


def read_points(cloud: Any) -> Array:
    """
    Read a cloud.

    :param cloud: sensor_msgs PointCloud2.
    :return: (L, 4) float32 x y z, metres in the cloud's own frame, and intensity as the sensor
        counts it, 0 where it has none; points that are not finite are left out.
    :raises ValueError: for a cloud without x, y and z, or with fewer bytes than it says.
    """
    order = '>' if cloud.is_bigendian else '<'
    places = {
        field.name: (order + DATATYPES[field.datatype], field.offset)
        for field in cloud.fields
        if field.datatype in DATATYPES
    }
    if missing := sorted({'x', 'y', 'z'} - set(places)):
        raise ValueError(f'a cloud without {", ".join(missing)}')
    names = [name for name in ('x', 'y', 'z', 'intensity') if name in places]
    formats, offsets = zip(*(places[name] for name in names), strict=True)
    layout: Any = {
        'names': names,
        'formats': formats,
        'offsets': offsets,
        'itemsize': cloud.point_step,
    }
    rows = _packed_bytes(cloud).view(np.dtype(layout))
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
