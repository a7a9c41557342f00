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


#: NumPy type string -> size in bytes.
SIZES: Mapping[str, int] = {kind: int(kind[1:]) for kind in DATATYPES.values()}


def read_points(cloud: Any) -> Array:
    """
    Read the finite points of a cloud.

    Like sensor_msgs_py, it reads width * height points of point_step bytes one after another if
    row_step cannot be right; unlike it, it leaves out the padding of rows if row_step is right.

    :param cloud: sensor_msgs PointCloud2.
    :return: (L, 4) float32 x y z, metres in the frame of the cloud, and intensity in units of the
        sensor, 0 if the cloud has none; points that are not finite are left out; L is at least 1.
    :raises ValueError: for a cloud without x, y or z, without a finite point, or whose sizes do
        not fit its data; the message names the field and the numbers.
    """
    layouts = _field_layouts(cloud)
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
    with np.errstate(over='ignore'):  # too large for float32: not finite, and left out
        for column, name in enumerate(names):
            points[:, column] = rows[name]
    points[~np.isfinite(points[:, 3]), 3] = 0.0
    finite = np.isfinite(points[:, :3]).all(1)
    if not finite.any():
        raise ValueError(f'a cloud of {len(points)} points, none of them finite')
    return points if finite.all() else points[finite]


def _field_layouts(cloud: Any) -> dict[str, tuple[str, int]]:
    """Return the fields of a cloud: name -> NumPy type and offset in bytes."""
    order = '>' if cloud.is_bigendian else '<'
    layouts = {
        field.name: (order + DATATYPES[field.datatype], field.offset)
        for field in cloud.fields
        if field.datatype in DATATYPES
    }
    if missing := sorted({'x', 'y', 'z'} - set(layouts)):
        has = ', '.join(field.name for field in cloud.fields) or 'none'
        raise ValueError(f'a cloud without {", ".join(missing)}; its fields are {has}')
    for name, (kind, offset) in layouts.items():
        if offset + SIZES[kind[1:]] > cloud.point_step:
            raise ValueError(
                f'a cloud with point_step {cloud.point_step}, but {name} ends at byte '
                f'{offset + SIZES[kind[1:]]}'
            )
    return layouts


def _packed_bytes(cloud: Any) -> Array:
    """Return the bytes of the points without padding at the ends of rows, uint8, contiguous."""
    data = np.ascontiguousarray(cloud.data, np.uint8)
    row_bytes = cloud.width * cloud.point_step
    packed_bytes = row_bytes * cloud.height
    padded_bytes = (cloud.height - 1) * cloud.row_step + row_bytes
    if packed_bytes == 0:
        raise ValueError(
            f'a cloud of {cloud.width} * {cloud.height} points, with {len(data)} bytes of data'
        )
    if cloud.row_step > row_bytes and cloud.height > 1 and padded_bytes <= len(data):
        end = np.zeros(max(0, cloud.height * cloud.row_step - len(data)), np.uint8)
        padded = np.concatenate([data, end])[: cloud.height * cloud.row_step]
        rows = padded.reshape(cloud.height, cloud.row_step)
        return np.ascontiguousarray(rows[:, :row_bytes]).reshape(-1)
    if packed_bytes > len(data):
        raise ValueError(
            f'a cloud of {len(data)} bytes, too few for {cloud.width} * {cloud.height} points of '
            f'{cloud.point_step} bytes'
        )
    return data[:packed_bytes]
