"""Scan files: other layouts, types and units are refused by name; real and odd scans are read."""

import numpy as np
import pytest

from stl_core.data.frame_source import DataError
from stl_core.data.scan_file import read_velodyne


@pytest.fixture(scope='module')
def points():
    """A scan as a spinning LiDAR makes it: 64 beams over flat ground with two walls, (N, 4)."""
    rng = np.random.default_rng(3)
    elevation = np.radians(np.linspace(2, -24.8, 64))[:, None]
    azimuth = np.radians(np.arange(-179.8, 180, 0.5))[None]
    x, y = np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth)
    ray = np.stack(np.broadcast_arrays(x, y, np.sin(elevation)), axis=-1)
    ground = np.where(ray[..., 2] < 0, -1.73 / np.minimum(ray[..., 2], -1e-9), np.inf)
    walls = np.minimum(60 / np.abs(ray[..., 0]), 12 / np.abs(ray[..., 1]))
    distance = np.minimum(ground, walls) + rng.normal(0, 0.02, ray.shape[:2])
    reflectance = rng.uniform(0, 0.6, distance.shape)
    table = np.concatenate([ray * distance[..., None], reflectance[..., None]], axis=-1)
    return table.reshape(-1, 4).astype(np.float32)


def with_columns(points, columns):
    """Return points with `columns` columns: intensity 0 to 255, then ring, time and zeros."""
    ring = np.repeat(np.arange(64), len(points) // 64)
    others = [points[:, 3] * 255, ring, np.linspace(0, 0.1, len(points))]
    others += [np.zeros(len(points))] * 4
    return np.stack([*points[:, :3].T, *others[: columns - 3]], axis=1).astype(np.float32)


def write(folder, data):
    path = folder / '000007.bin'
    path.write_bytes(data if isinstance(data, bytes) else np.ascontiguousarray(data).tobytes())
    return path


OTHERS = {
    'float64': (lambda p: p.astype(np.float64), 'float64 points of 4 numbers'),
    'float64 x y z': (lambda p: p[:, :3].astype(np.float64), 'float64 points of 3 numbers'),
    'big endian': (lambda p: p.astype('>f4'), 'big-endian float32'),
    '3 columns': (lambda p: p[:, :3], 'float32 points of 3 numbers'),
    '5 columns': (lambda p: with_columns(p, 5), 'float32 points of 5 numbers'),
    '6 columns': (lambda p: with_columns(p, 6), 'float32 points of 6 numbers'),
    '8 columns': (lambda p: with_columns(p, 8), 'float32 points of 8 numbers'),
    '3 columns, shuffled': (
        lambda p: np.random.default_rng(0).permutation(p[:, :3]),
        'float32 points of 3 numbers',
    ),
    '5 columns, shuffled': (
        lambda p: np.random.default_rng(0).permutation(with_columns(p, 5)),
        'float32 points of 5 numbers',
    ),
    'millimetres': (lambda p: p * np.float32(1000), 'in millimetres'),
    'centimetres': (lambda p: p * np.float32(100), 'in centimetres'),
    'int32 millimetres': (lambda p: (p * 1000).astype(np.int32), 'int32 points .* in millimetres'),
    'int16 centimetres': (lambda p: (p * 100).astype(np.int16), 'int16 points .* in centimetres'),
    'all NaN': (lambda p: np.full_like(p, np.nan), 'points are not finite'),
    'all zero': (np.zeros_like, 'points are zero'),
    'noise': (lambda p: np.random.default_rng(0).bytes(64_000), 'numbers that are no metres'),
    'empty': (lambda p: b'', 'an empty file'),
    'text': (lambda p: '\n'.join(map(str, p[:200])).encode(), 'a text file'),
    'LFS pointer': (
        lambda p: b'version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 123\n',
        'a Git LFS pointer',
    ),
    'page': (lambda p: b'<!DOCTYPE html>\n<html>' + bytes(42), 'an HTML page'),
    'PCD': (lambda p: b'# .PCD v0.7 - Point Cloud Data file format\n' + p.tobytes(), 'a PCD file'),
    'truncated': (lambda p: p.tobytes()[:-7], 'not a whole number of 16-byte points'),
}


@pytest.mark.parametrize('name', OTHERS)
def test_other_files_are_refused_by_name(tmp_path, points, name):
    change, message = OTHERS[name]
    with pytest.raises(DataError, match=f'000007.bin: .*{message}.*expected a KITTI scan'):
        read_velodyne(write(tmp_path, change(points)))


ODD_SCANS = {
    'as it is': lambda p: p,
    'shuffled': lambda p: np.random.default_rng(0).permutation(p),
    'every 16th point': lambda p: p[::16],
    'beams in turn': lambda p: p.reshape(64, -1, 4).swapaxes(0, 1).reshape(-1, 4),
    'intensity to 255': lambda p: p * np.float32([1, 1, 1, 255]),
    'without intensity': lambda p: p * np.float32([1, 1, 1, 0]),
    'y forward': lambda p: p[:, [1, 0, 2, 3]],
    'a third not finite': lambda p: np.where(np.arange(len(p))[:, None] % 3, p, np.nan),
    'every second point missing': lambda p: np.where(np.arange(len(p))[:, None] % 2, p, 0),
    'one point': lambda p: p[:1],
}


@pytest.mark.parametrize('name', ODD_SCANS)
def test_scans_of_any_order_and_intensity_are_read(tmp_path, points, name):
    expected = ODD_SCANS[name](points).astype(np.float32)
    np.testing.assert_array_equal(read_velodyne(write(tmp_path, expected)), expected)


def test_real_scans_are_read_and_refused_with_five_columns(tmp_path, mono3d_data):
    paths = sorted(mono3d_data.glob('training/velodyne*/*.bin'))
    assert len(paths) >= 15
    for path in paths:
        points = np.fromfile(path, np.float32).reshape(-1, 4)
        np.testing.assert_array_equal(read_velodyne(path), points)
        five = np.column_stack([points, np.arange(len(points)) // 1800]).astype(np.float32)
        with pytest.raises(DataError, match=r'points of 5 numbers|whole number'):
            read_velodyne(write(tmp_path, five))
