"""Rectification: P follows crop, binning and resizing; rectified points lie where P projects."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from mono3d_ros.messages.rectification import (
    Intrinsics,
    UncalibratedError,
    passthrough_image,
    rectify_image,
)

W, H = 640, 480
K = np.array([[500.0, 0.0, 310.0], [0.0, 510.0, 245.0], [0.0, 0.0, 1.0]])
P = np.array([[480.0, 0.0, 320.0, -48.0], [0.0, 480.0, 240.0, 2.0], [0.0, 0.0, 1.0, 0.01]])
POINTS = np.array([[0.5, 0.2, 6.0], [-1.5, 0.6, 8.0], [1.2, -0.8, 5.0], [0.0, 0.0, 4.0]])
PLUMB_BOB = (-0.3, 0.1, 0.001, -0.002, 0.02)
RATIONAL = (0.4, -0.3, 0.0005, 0.0004, 0.1, 0.7, -0.35, 0.15)
EQUIDISTANT = (0.02, -0.01, 0.003, -0.001)


def intrinsics(**changes):
    default = Intrinsics(
        W, H, 'plumb_bob', (), tuple(K.ravel()), tuple(np.eye(3).ravel()), tuple(P.ravel())
    )
    return replace(default, **changes)


def picture(width=W, height=H):
    return np.zeros((height, width, 3), np.uint8)


def test_passthrough_returns_P():
    image, projection = passthrough_image(picture(), intrinsics(D=PLUMB_BOB))
    np.testing.assert_array_equal(projection, P)
    assert image.shape == (H, W, 3)


@pytest.mark.parametrize('rectifier', [passthrough_image, rectify_image])
def test_uncalibrated_camera_raises(rectifier):
    with pytest.raises(UncalibratedError, match=r'K\[0\]'):
        rectifier(picture(), intrinsics(K=(0.0,) * 9, P=(0.0,) * 12))
    with pytest.raises(UncalibratedError, match='not finite'):
        rectifier(picture(), intrinsics(P=(*P.ravel()[:11], float('nan'))))


def test_empty_P_is_replaced_by_K_without_distortion():
    _, projection = passthrough_image(picture(), intrinsics(P=(0.0,) * 12))
    np.testing.assert_array_equal(projection, np.hstack([K, np.zeros((3, 1))]))
    with pytest.raises(UncalibratedError, match='P of camera_info is empty'):
        passthrough_image(picture(), intrinsics(P=(0.0,) * 12, D=PLUMB_BOB))


def world_to_pixel(projection):
    u, v, w = projection @ np.append(POINTS[0], 1.0)
    return np.array([u / w, v / w])


@pytest.mark.parametrize(
    ('changes', 'size'),
    [
        ({'roi_px': (100, 50, 320, 200)}, (320, 200)),
        ({'binning': (2, 2)}, (320, 240)),
        ({'roi_px': (100, 50, 320, 200), 'binning': (2, 4)}, (160, 50)),
        ({}, (320, 240)),  # resized without a note in camera_info
        ({}, (321, 240)),  # and rounded
        ({}, (1280, 960)),
    ],
)
def test_P_follows_crop_binning_and_resize(changes, size):
    """A pixel is tracked by the area that it covers."""
    _, projection = passthrough_image(picture(*size), intrinsics(**changes))
    x, y, width, height = changes.get('roi_px', (0, 0, W, H))
    full = world_to_pixel(P)
    scale = np.array(size) / (width, height)
    expected = (full - (x, y) + 0.5) * scale - 0.5
    np.testing.assert_allclose(world_to_pixel(projection), expected, atol=1e-9)


def test_odd_binning_keeps_the_scale():
    _, projection = passthrough_image(
        picture(320, 240), intrinsics(width_px=641, height_px=481, binning=(2, 2))
    )
    assert projection[0, 0] == P[0, 0] / 2


@pytest.mark.parametrize('size', [(640, 360), (320, 480), (480, 640)])
def test_other_aspect_ratio_raises(size):
    with pytest.raises(ValueError, match=f'{size[0]}x{size[1]} but camera_info is of 640x480'):
        passthrough_image(picture(*size), intrinsics())


def test_camera_info_without_size():
    _, projection = passthrough_image(picture(100, 90), intrinsics(width_px=0, height_px=0))
    np.testing.assert_array_equal(projection, P)


def test_raw_image_without_distortion_is_returned_unchanged():
    image = picture()
    same = intrinsics(P=tuple(np.hstack([K, np.zeros((3, 1))]).ravel()), D=(0.0,) * 5)
    passed, projection = rectify_image(image, same)
    assert passed is image
    np.testing.assert_array_equal(projection[:, :3], K)


def distorted(model, D, rotation):
    """Project POINTS to pixels of the raw image."""
    points = POINTS @ rotation  # from the rectified frame to the raw one
    if model == 'equidistant':
        pixels, _ = cv2.fisheye.projectPoints(
            points[:, None], np.zeros(3), np.zeros(3), K, np.array(D)
        )
    else:
        pixels, _ = cv2.projectPoints(points[:, None], np.zeros(3), np.zeros(3), K, np.array(D))
    return pixels.reshape(-1, 2)


@pytest.mark.parametrize('scale', [1, 2])
@pytest.mark.parametrize(
    ('model', 'D'),
    [
        ('plumb_bob', PLUMB_BOB),
        ('rational_polynomial', RATIONAL),
        ('equidistant', EQUIDISTANT),
        ('', ()),
    ],
)
def test_rectified_points_lie_where_P_projects_them(model, D, scale):
    """Dots drawn in the raw image appear where P projects their points."""
    rotation = cv2.Rodrigues(np.array([0.01, -0.02, 0.015]))[0]
    camera_info = intrinsics(distortion_model=model, D=D, R=tuple(rotation.ravel()))
    for point, pixel in zip(POINTS, distorted(model, D, rotation), strict=True):
        raw = picture(W // scale, H // scale)
        u, v = (pixel + 0.5) / scale - 0.5
        shift = 4
        center = (round(u * 2**shift), round(v * 2**shift))
        cv2.circle(raw, center, 5 << shift, (255, 255, 255), -1, cv2.LINE_AA, shift)
        image, projection = rectify_image(raw, camera_info)
        moments = cv2.moments(image[..., 0])
        actual = np.array([moments['m10'], moments['m01']]) / moments['m00']
        # R rotates about the centre of the raw camera; then P[:, 3] shifts the origin
        expected = projection[:, :3] @ point
        np.testing.assert_allclose(actual, expected[:2] / expected[2], atol=0.3)


def test_unknown_distortion_model():
    with pytest.raises(ValueError, match="'thin_prism' is not known; known are plumb_bob"):
        rectify_image(picture(), intrinsics(distortion_model='thin_prism', D=(0.1,)))
