"""Conversion of image and camera_info messages to a Frame."""

import array
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from frame_results import STAMP_NS

from mono3d_ros.messages import images
from mono3d_ros.messages.intrinsics import UncalibratedError
from mono3d_ros.messages.rectification import Rectifier


def info(**changes):
    fields = {
        'header': header('info_frame'),
        'width': 4,
        'height': 2,
        'distortion_model': 'plumb_bob',
        'd': [],
        'k': np.array([3.0, 0, 2, 0, 3, 1, 0, 0, 1]),
        'r': np.eye(3).ravel(),
        'p': array.array('d', [3.0, 0, 2, -6, 0, 3, 1, 0, 0, 0, 1, 0]),
        'binning_x': 0,
        'binning_y': 0,
        'roi': SimpleNamespace(x_offset=0, y_offset=0, width=0, height=0, do_rectify=False),
    }
    return SimpleNamespace(**{**fields, **changes})


def header(frame_id):
    sec, nanosec = divmod(STAMP_NS, 10**9)
    return SimpleNamespace(stamp=SimpleNamespace(sec=sec, nanosec=nanosec), frame_id=frame_id)


def image(frame_id='image_frame', **changes):
    fields = {
        'header': header(frame_id),
        'height': 2,
        'width': 4,
        'encoding': 'bgr8',
        'is_bigendian': 0,
        'step': 12,
        'data': array.array('B', [1, 2, 3] * 8),
    }
    return SimpleNamespace(**{**fields, **changes})


def test_to_frame():
    frame = images.to_frame(image(), info(), 'front', Rectifier('true'))
    assert (frame.camera, frame.stamp_ns, frame.frame_id) == ('front', STAMP_NS, 'image_frame')
    np.testing.assert_array_equal(frame.image, np.tile([3, 2, 1], (2, 4, 1)))
    np.testing.assert_array_equal(frame.P, [[3, 0, 2, -6], [0, 3, 1, 0], [0, 0, 1, 0]])


def test_to_frame_uses_the_frame_id_of_camera_info_if_the_image_has_none():
    assert images.to_frame(image(''), info(), 'front', Rectifier('true')).frame_id == 'info_frame'


def test_to_frame_maps_roi_and_binning():
    roi = SimpleNamespace(x_offset=10, y_offset=20, width=8, height=4)
    intrinsics = images.to_intrinsics(
        info(width=100, height=80, roi=roi, binning_x=2, binning_y=2)
    )
    assert intrinsics.roi_px == (10, 20, 8, 4)
    assert intrinsics.binning == (2, 2)
    assert hash(intrinsics) == hash(
        images.to_intrinsics(info(width=100, height=80, roi=roi, binning_x=2, binning_y=2))
    )


def test_to_frame_raises_for_unknown_encoding_and_missing_calibration():
    with pytest.raises(ValueError, match="encoding 'rgb7'"):
        images.to_frame(image(encoding='rgb7'), info(), 'front', Rectifier('true'))
    with pytest.raises(UncalibratedError):
        images.to_frame(image(), info(k=[0.0] * 9), 'front', Rectifier('true'))


def test_opencv_errors_become_value_errors():
    def rectifier(image, intrinsics):
        raise cv2.error('a failed\nassertion')

    with pytest.raises(ValueError, match=r'image cannot be converted: .*a failed assertion'):
        images.to_frame(image(), info(), 'front', rectifier)


def test_size_of_a_compressed_image_is_compared_with_camera_info_before_decoding(monkeypatch):
    file = cv2.imencode('.png', np.zeros((1400, 900), np.uint8))[1].tobytes()
    monkeypatch.setattr(cv2, 'imdecode', None)
    compressed = SimpleNamespace(header=header('f'), format='png', data=file)
    with pytest.raises(ValueError, match='image is 900x1400 but camera_info is of 4x2 pixels'):
        images.to_frame(compressed, info(), 'front', Rectifier('true'))
