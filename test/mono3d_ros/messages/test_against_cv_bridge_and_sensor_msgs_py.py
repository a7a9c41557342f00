"""Image and point cloud decoders, compared with cv_bridge and sensor_msgs_py of ROS."""

import array
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from mono3d_ros.messages.compressed_decoding import decode_compressed
from mono3d_ros.messages.image_decoding import ENCODINGS, RawImage, decode_raw
from mono3d_ros.messages.point_cloud import read_points
from mono3d_ros.subprocess_probe import PROBES, run_probe

ROOT = Path(__file__).resolve().parents[3]
H, W = 24, 32
#: Bytes per pixel of each encoding that cv_bridge converts to RGB.
PIXEL = {
    **{'rgb8': 3, 'bgr8': 3, 'rgba8': 4, 'bgra8': 4, 'mono8': 1},
    **{'rgb16': 6, 'bgr16': 6, 'rgba16': 8, 'bgra16': 8, 'mono16': 2},
    **{
        f'bayer_{p}{bits}': bits // 8 for p in ('rggb', 'bggr', 'gbrg', 'grbg') for bits in (8, 16)
    },
    'yuv422': 2,
}


@pytest.fixture(scope='module')
def bridge():
    """Return a CvBridge; skip without one that works with the installed NumPy."""
    pytest.importorskip('cv_bridge', reason='cv_bridge comes with ROS only')
    if error := run_probe(PROBES['cv_bridge']).error:
        pytest.skip(f'cv_bridge does not work here: {error}')
    from cv_bridge import CvBridge

    return CvBridge()


def message(encoding, raw):
    return SimpleNamespace(
        encoding=encoding,
        height=raw.height_px,
        width=raw.width_px,
        step=raw.step_bytes,
        is_bigendian=0,
        data=raw.data,
    )


@pytest.mark.parametrize('encoding', PIXEL)
def test_raw_images_equal_those_of_cv_bridge(bridge, encoding):
    noise = np.random.default_rng(7).integers(0, 256, H * W * PIXEL[encoding], np.uint8)
    raw = RawImage(array.array('B', noise.tobytes()), H, W, W * PIXEL[encoding])
    expected = bridge.imgmsg_to_cv2(message(encoding, raw), 'rgb8')
    # for 16 bits cv_bridge rounds value / 257, our decoder takes value >> 8; for a Bayer pattern
    # cv_bridge rounds after the interpolation, our decoder before
    tolerance = 2 if encoding.startswith('bayer') and '16' in encoding else '16' in encoding
    np.testing.assert_allclose(
        decode_raw(encoding, raw).astype(int), expected, atol=int(tolerance)
    )


def test_compressed_images_equal_those_of_cv_bridge(bridge):
    import cv2

    picture = np.random.default_rng(8).integers(0, 256, (H, W, 3), np.uint8)
    file = cv2.imencode('.png', picture)[1].tobytes()
    expected = bridge.compressed_imgmsg_to_cv2(SimpleNamespace(data=file, format='png'), 'rgb8')
    np.testing.assert_array_equal(decode_compressed('png', file), expected)


CV_BRIDGE = """
import os
from types import SimpleNamespace
import numpy as np

class CvBridge:
    def cv2_to_imgmsg(self, image, encoding):
        return SimpleNamespace(encoding=encoding)

    def imgmsg_to_cv2(self, message, encoding):
        {body}
        return np.full((2, 2, 3), 9, np.uint8)
"""
DECODE = """
from mono3d_ros.messages.image_decoding import RawImage, decode_raw
try:
    print(decode_raw('{encoding}', RawImage(bytes([1, 2, 3] * 4), 2, 2, 6))[0, 0].tolist())
except ValueError as err:
    print(err)
"""


@pytest.mark.parametrize(
    ('encoding', 'body', 'expected'),
    [
        ('new8', '', '[9, 9, 9]'),
        ('rgb8', '', '[1, 2, 3]'),
        ('new8', 'raise AttributeError("_ARRAY_API not found")', "'new8' is not known; known are"),
        ('new8', 'os.abort()', "'new8' is not known; known are"),
        ('new8', 'assert message.encoding == "bgr8", "no new8"', "cv_bridge says 'no new8'"),
    ],
    ids=['used', 'unused for known encodings', 'broken', 'crashing', 'unknown to both'],
)
def test_cv_bridge_is_the_fallback_for_unknown_encodings(tmp_path, encoding, body, expected):
    """Decode in a subprocess with a fake cv_bridge."""
    (tmp_path / 'cv_bridge.py').write_text(CV_BRIDGE.format(body=body))
    done = subprocess.run(
        [sys.executable, '-c', DECODE.format(encoding=encoding)],
        env={**os.environ, 'PYTHONPATH': f'{tmp_path}{os.pathsep}{ROOT}'},
        capture_output=True,
        text=True,
    )
    assert expected in done.stdout, done.stderr


def test_decoders_cover_all_encodings_of_cv_bridge():
    assert set(PIXEL) <= set(ENCODINGS)


@pytest.fixture(scope='module')
def point_cloud2():
    pytest.importorskip('sensor_msgs.msg', reason='ROS messages are not installed')
    reason = 'sensor_msgs_py comes with ROS only'
    return pytest.importorskip('sensor_msgs_py.point_cloud2', reason=reason)


def organised(point_cloud2, padding):
    """Build a cloud of 2 rows with a gap in each point, a ring number, and 2 non-finite points."""
    from sensor_msgs.msg import PointCloud2, PointField
    from std_msgs.msg import Header

    layout = np.dtype(
        {
            'names': ['x', 'y', 'z', 'intensity', 'ring'],
            'formats': ['<f4', '<f4', '<f4', '<f4', '<u2'],
            'offsets': [0, 4, 8, 16, 20],
            'itemsize': 32,
        }
    )
    points = np.zeros((2, 5), layout)
    for seed, name in enumerate(('x', 'y', 'z', 'intensity')):
        points[name] = np.random.default_rng(seed).normal(size=(2, 5))
    points['x'][0, 1] = np.nan
    points['z'][1, 4] = np.inf
    rows = [row.tobytes() + bytes(padding) for row in points]
    cloud = PointCloud2(header=Header(), height=2, width=5, point_step=32, is_dense=False)
    cloud.row_step = 5 * 32 + padding
    cloud.data = array.array('B', b''.join(rows))
    kinds = {'f': PointField.FLOAT32, 'u': PointField.UINT16}
    cloud.fields = [
        PointField(
            name=name, offset=layout.fields[name][1], datatype=kinds[layout[name].kind], count=1
        )
        for name in layout.names
    ]
    return cloud


def test_points_equal_those_of_sensor_msgs_py(point_cloud2):
    cloud = organised(point_cloud2, padding=0)
    names = ['x', 'y', 'z', 'intensity']
    reference = point_cloud2.read_points(cloud, field_names=names).reshape(-1)
    columns = np.stack([reference[name] for name in names], 1)
    points = read_points(cloud)
    assert len(points) == 8
    np.testing.assert_array_equal(points, columns[np.isfinite(columns).all(1)])


def test_row_padding_is_not_read_as_points(point_cloud2):
    """sensor_msgs_py does so; hence the comparison with a cloud without padding."""
    padded, plain = (organised(point_cloud2, padding) for padding in (24, 0))
    np.testing.assert_array_equal(read_points(padded), read_points(plain))
