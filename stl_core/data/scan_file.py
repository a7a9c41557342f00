"""
Read KITTI scan files, and refuse files of another layout, type or unit instead of misreading them.

A scan file has no header: any bytes can be read as points. Three properties set the scans of any
sensor apart: their numbers have the magnitude of metres, their points lie within the range of a
LiDAR, and numbers of one column resemble each other more than numbers of different columns, even
in shuffled points.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from stl_core.data.frame_source import DataError, require_exists
from stl_core.files import foreign_start
from stl_core.types import Array

EXPECTED = 'expected a KITTI scan: float32 x y z (metres, x forward, z up) and reflectance'
#: LiDARs reach 200 to 500 m; half of the points of a scan are nearer than this.
MAX_MEDIAN_RANGE_M = 200.0
#: Fewer points than this are too few to recognise columns.
MIN_POINTS = 64
_POINT_BYTES = 16
_MAX_COLUMNS = 10
#: Numbers to look at; the columns of a scan are recognised from far fewer.
_SAMPLE_NUMBERS = 24_000
#: A number of another type, read as float32, is often far smaller or larger than any of a scan.
_MIN_MAGNITUDE, _MAX_MAGNITUDE = 1e-12, 1e6


class _Layout(NamedTuple):
    """A layout that points may have: NumPy's type, and the numbers of a point."""

    dtype: str
    columns: int
    name: str


_LAYOUTS = (
    *(_Layout('<f4', columns, 'float32') for columns in (4, 3, 5, 6, 7, 8, 9, 10)),
    *(_Layout('<f8', columns, 'float64') for columns in (3, 4, 5, 6)),
    *(_Layout('>f4', columns, 'big-endian float32') for columns in (3, 4)),
    *(_Layout('<i4', columns, 'int32') for columns in (3, 4)),
    *(_Layout('<i2', columns, 'int16') for columns in (3, 4)),
)
_UNITS = {'': 1.0, ' in centimetres': 1e-2, ' in millimetres': 1e-3}


def read_velodyne(path: str | Path) -> Array:
    """
    Read a scan file.

    :param path: a file of 16-byte points.
    :return: (N, 4) float32: x forward, y left, z up in metres, LiDAR frame, and reflectance in any
        unit; N > 0. Some of the points may be non-finite.
    :raises DataError: naming the file and the fault, for a missing file, no point, text, or
        bytes that are no such points: another type (float64, integers), another number of columns,
        another unit, mostly not finite, or all zero.
    """
    data = require_exists(Path(path), 'a velodyne scan').read_bytes()
    if (text := _describe_text(data)) is not None:
        raise DataError(f'{path}: {text}; {EXPECTED}')
    if len(data) % _POINT_BYTES:
        likely = _find_layout(data)
        hint = f', but of {likely}' if likely else ''
        raise DataError(
            f'{path}: {len(data)} bytes are not a whole number of 16-byte points{hint}; {EXPECTED}'
        )
    points = np.frombuffer(data, np.float32).reshape(-1, 4)
    if (fault := _find_fault(points)) is not None:
        likely = _find_layout(data)
        looks = f'; the bytes look like {likely}' if likely else ''
        raise DataError(f'{path}: {fault}{looks}; {EXPECTED}')
    return points


def _describe_text(data: bytes) -> str | None:
    """Describe a file that is empty, text, or has a text header; None for binary data."""
    head = data[:64]
    if content := foreign_start(data[:512]):
        return content
    for start, name in (
        (b'# .PCD', 'a PCD file'),
        (b'ply\n', 'a PLY file'),
        (b'ply\r', 'a PLY file'),
    ):
        if head.startswith(start):
            return name
    printable = sum(32 <= byte < 127 or byte in b'\t\r\n' for byte in head)
    return 'a text file' if printable == len(head) else None


def _find_fault(points: Array) -> str | None:
    """Return why points in metres, (N, C) float, cannot be a scan; None if they can."""
    finite = np.isfinite(points).all(1)
    if finite.mean() < 0.5:
        return f'{np.count_nonzero(~finite)} of {len(points)} points are not finite'
    with np.errstate(over='ignore', invalid='ignore'):
        magnitude = np.abs(points[finite])
        odd = (magnitude > _MAX_MAGNITUDE) | ((magnitude > 0) & (magnitude < _MIN_MAGNITUDE))
        range_m = np.linalg.norm(magnitude[:, :3].astype(np.float64), axis=1)
    if odd.any(1).mean() > 0.02:
        return f'{odd.any(1).mean():.0%} of the points have numbers that are no metres'
    range_m = range_m[range_m > 0]
    if not len(range_m):
        return f'all {len(points)} points are zero'
    if np.median(range_m) > MAX_MEDIAN_RANGE_M:
        return f'half of the points are farther than {np.median(range_m):.0f} m (another unit?)'
    columns = _count_columns(points[finite].ravel())
    if columns and (columns % points.shape[1] or _differ_by_parity(points[finite], columns)):
        return f'the numbers repeat every {columns}, not every {points.shape[1]}'
    return None


def _differ_by_parity(points: Array, columns: int) -> bool:
    """Return whether every other row of C numbers has an x or y of another magnitude."""
    if columns != 2 * points.shape[1]:
        return False
    halves = [half[half.any(1), :2] for half in (points[::2], points[1::2])]
    if not all(len(half) for half in halves):
        return False
    first, second = (np.median(np.abs(half), axis=0) for half in halves)
    return bool((np.minimum(first, second) < 0.2 * np.maximum(first, second)).any())


def _count_columns(numbers: Array) -> int:
    """
    Return the number of columns of a flat table of points; 0 if it shows none.

    Numbers of one column differ less than numbers of different columns, so the median difference
    between numbers k apart is least if k is the number of columns, or a multiple.

    :param numbers: (M,) row-major.
    """
    if len(numbers) < MIN_POINTS * _MAX_COLUMNS:
        return 0
    numbers = numbers[:_SAMPLE_NUMBERS].astype(np.float64)
    differences = {
        k: float(np.median(np.abs(numbers[k:] - numbers[:-k]))) for k in range(3, _MAX_COLUMNS + 1)
    }
    # in shuffled points, a multiple of the true number is as good up to noise
    best = min(differences.values())
    columns = min(k for k, value in differences.items() if value <= 1.2 * best)
    others = [value for k, value in differences.items() if k % columns]
    return columns if others and differences[columns] < 0.8 * min(others) else 0


def _find_layout(data: bytes) -> str | None:
    """Describe the layout that the bytes of a refused file seem to have; None if none fits."""
    for layout in _LAYOUTS:
        size = np.dtype(layout.dtype).itemsize * layout.columns
        if len(data) % size or len(data) // size < MIN_POINTS:
            continue
        with np.errstate(over='ignore', invalid='ignore'):
            numbers = np.frombuffer(data, layout.dtype).astype(np.float64)
            points = numbers.reshape(-1, layout.columns)
            # the unit in which half of the points are closest to 10 m
            fits = {
                unit: abs(np.log(np.median(np.linalg.norm(points[:, :3] * scale, axis=1)) / 10))
                for unit, scale in _UNITS.items()
                if layout.columns != 4 or layout.dtype != '<f4' or unit
                if _is_scan(points * scale)
            }
        if fits:
            unit = min(fits, key=fits.__getitem__)
            return f'{layout.name} points of {layout.columns} numbers{unit}'
    return None


def _is_scan(points: Array) -> bool:
    """Return whether (N, C) numbers can be points in metres, with columns that show."""
    if _find_fault(points) is not None:
        return False
    finite = points[np.isfinite(points).all(1)]
    range_m = np.median(np.linalg.norm(finite[:, :3], axis=1))
    return bool(_count_columns(finite.ravel()) == points.shape[1] and range_m > 0.5)
