"""Rectification: P follows crop, binning and resizing; rectified points lie where P projects."""

import re
from dataclasses import replace

import cv2
import numpy as np
import pytest

from mono3d_ros.messages.intrinsics import CameraInfoError, Intrinsics, UncalibratedError
from mono3d_ros.messages.rectification import (
    Rectifier,
    named_rectified,
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


def fisheye_pixels(points, D):
    """Project by the formula r = f (theta + k1 theta^3 + k2 theta^5 + ...)."""
    x, y, z = points.T
    radius = np.hypot(x, y)
    theta = np.arctan2(radius, z)
    distorted = sum(k * theta ** (2 * i + 1) for i, k in enumerate((1.0, *D)))
    scale = np.divide(distorted, radius, out=np.zeros_like(radius), where=radius > 0)
    return np.stack([K[0, 0] * x * scale + K[0, 2], K[1, 1] * y * scale + K[1, 2]], 1)


def distorted(model, D, rotation):
    """Project POINTS to pixels of the raw image."""
    points = POINTS @ rotation  # from the rectified frame to the raw one
    if model in ('equidistant', 'fisheye', 'Kannala Brandt4'):
        return fisheye_pixels(points, (*D, 0.0, 0.0, 0.0, 0.0)[:4])
    D = D[:5] if model == 'Plumb_Bob' else D
    pixels, _ = cv2.projectPoints(points[:, None], np.zeros(3), np.zeros(3), K, np.array(D))
    return pixels.reshape(-1, 2)


@pytest.mark.parametrize('scale', [1, 2])
@pytest.mark.parametrize(
    ('model', 'D'),
    [
        ('plumb_bob', PLUMB_BOB),
        ('rational_polynomial', RATIONAL),
        ('equidistant', EQUIDISTANT),
        ('equidistant', (*EQUIDISTANT, 0.0)),  # as librealsense publishes it for the T265
        ('equidistant', (0.0, 0.0, 0.0, 0.0)),  # a fisheye of the exact formula r = f * theta
        ('equidistant', ()),
        ('fisheye', (0.0,) * 5),
        ('Kannala Brandt4', EQUIDISTANT),
        ('radtan', PLUMB_BOB[:4]),
        ('Plumb_Bob', (*PLUMB_BOB, 0.0, 0.0)),
        ('plumb_bob', RATIONAL),
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


def test_a_point_at_45_degrees_through_an_exact_fisheye():
    """Its pixel is f * pi / 4 from the middle in the raw image, and f in the rectified one."""
    square = (400.0, 0.0, 640.0, 0.0, 400.0, 360.0, 0.0, 0.0, 1.0)
    fisheye = Intrinsics(1280, 720, 'equidistant', (0.0,) * 4, square, (0.0,) * 9, (0.0,) * 12)
    raw = picture(1280, 720)
    cv2.circle(raw, (round(640 + 400 * np.pi / 4), 360), 5, (255, 255, 255), -1)
    image, projection = rectify_image(raw, fisheye)
    moments = cv2.moments(image[..., 0])
    u = moments['m10'] / moments['m00']
    angle = np.degrees(np.arctan((u - projection[0, 2]) / projection[0, 0]))
    assert angle == pytest.approx(45, abs=0.2)
    with pytest.raises(UncalibratedError, match=r'P of camera_info is empty though .*equidistant'):
        passthrough_image(raw, fisheye)


@pytest.mark.parametrize(
    ('model', 'length', 'expected'),
    [
        *(('plumb_bob', n, '4 or 5 or 8 or 12 or 14') for n in (1, 2, 3, 6, 7, 9, 10, 13, 15)),
        *(('rational_polynomial', n, '4 or 5 or 8') for n in (3, 6, 10)),
        *(('equidistant', n, '4') for n in (1, 2, 3, 5, 8, 10)),
        ('fisheye', 5, '4'),
    ],
)
def test_wrong_numbers_of_coefficients(model, length, expected):
    match = f'^D of camera_info has {length} coefficients, but {model} has {expected}'
    with pytest.raises(CameraInfoError, match=match):
        rectify_image(picture(), intrinsics(distortion_model=model, D=(0.01,) * length))


@pytest.mark.parametrize(
    ('changes', 'text'),
    [
        ({'D': (float('nan'),) * 5}, r'D\[0\] of camera_info is nan'),
        ({'R': (float('inf'), *[0.0] * 8)}, r'R\[0\] of camera_info is inf'),
        ({'R': (2.0, 0, 0, 0, 2.0, 0, 0, 0, 2.0)}, 'R of camera_info is not a rotation'),
        ({'R': (1.0, 0, 0, 0, 1.0, 0, 0, 0, -1.0)}, 'R of camera_info is not a rotation'),
        ({'K': tuple(K.T.ravel())}, 'K of camera_info is no camera matrix'),
        ({'K': (500.0, 0, 320, 0, 0, 240, 0, 0, 1)}, 'K of camera_info is no camera matrix'),
        ({'K': (500.0, 0, 320, 0, 500, 240, 0, 0, 0)}, 'K of camera_info is no camera matrix'),
        ({'P': (-500.0, 0, 320, 0, 0, 500, 240, 0, 0, 0, 1, 0)}, 'P of camera_info is no camera'),
        ({'P': (500.0, 0, 320, 0, 0, 500, 240, 0, 0, 0, 0, 0)}, 'P of camera_info is no camera'),
        ({'P': (0.8, 0, 0.5, 0, 0, 1.1, 0.5, 0, 0, 0, 1, 0)}, 'focal lengths of 0.8 and 1.1'),
        ({'P': (500.0, 0, 320, 0, 0, 50, 240, 0, 0, 0, 1, 0)}, 'focal lengths of 500 and 50'),
        ({'P': (500.0, 0, 3200, 0, 0, 500, 240, 0, 0, 0, 1, 0)}, 'far outside of its 640x480'),
        ({'R': (0.0, 0, 1, 0, 1, 0, -1, 0, 0)}, '0.0% of the rectified image lie in the raw'),
        ({'binning': (1000, 1)}, 'binning of camera_info is 1000x1, more than its 640x480'),
        ({'roi_px': (600, 0, 100, 480)}, 'roi of camera_info ends at width 700, outside of 640x'),
        ({'roi_px': (10, 20, 0, 0)}, r'roi of camera_info is 0x0 at \(10, 20\)'),
        ({'roi_px': (0, 0, 100, 0)}, 'roi of camera_info is 100x0'),
    ],
)
def test_impossible_camera_infos_are_one_line_that_names_the_field(changes, text):
    with pytest.raises(CameraInfoError, match=text) as raised:
        rectify_image(picture(), intrinsics(**changes))
    assert '\n' not in str(raised.value)


def test_unused_fields_are_not_checked():
    """The P of a rectified topic is enough, as with image_proc."""
    odd = intrinsics(R=(2.0,) * 9, K=tuple(K.T.ravel()), D=(0.1,) * 7, distortion_model='x')
    np.testing.assert_array_equal(passthrough_image(picture(), odd)[1], P)


def test_an_image_too_wide_for_opencv_is_one_line():
    wide_K = (9e4, 0.0, 2e4, 0.0, 9e4, 0.5, 0.0, 0.0, 1.0)
    wide = intrinsics(width_px=0, height_px=0, K=wide_K, P=(0.0,) * 12, D=(1e-9,) * 4)
    with pytest.raises(ValueError, match='an image of 40000x2 cannot be rectified'):
        rectify_image(picture(40000, 2), wide)


def test_binning_and_crop_apply_without_a_size_in_camera_info():
    crop = intrinsics(width_px=0, height_px=0, binning=(2, 2))
    _, projection = passthrough_image(picture(320, 240), crop)
    np.testing.assert_allclose(world_to_pixel(projection), (world_to_pixel(P) + 0.5) / 2 - 0.5)


@pytest.mark.parametrize(
    ('topic', 'expected'),
    [
        ('/front/image_raw', False),
        ('/cam_front/raw', False),
        ('/raw/front/image', False),
        ('/zed/left/imageUnrectified', False),
        ('/front/image_rect', True),
        ('/front/image_rect_color/compressed', True),
        ('/CAM_FRONT/image_rect_compressed', True),
        ('/zed/rgb/color/rect/image', True),
        ('/raw/front/image_rect', True),
        ('/front/imageUndistorted', True),
        ('/front/image', None),
        ('/front/image_color', None),
        ('/direct/image', None),  # neither contains the word, only its letters
        ('/strawberry/image', None),
    ],
)
def test_names_of_topics(topic, expected):
    assert named_rectified(topic) is expected


LENS, PINHOLE, FISHEYE = {'D': PLUMB_BOB}, {}, {'distortion_model': 'equidistant'}
AUTO, TRUE, FALSE = 'auto', 'true', 'false'


@pytest.mark.parametrize(
    ('rectified', 'topic', 'changes', 'rectifies', 'concern'),
    [
        (AUTO, '/a/image_raw', LENS, True, ''),
        (AUTO, '/a/image_raw', FISHEYE, True, ''),
        (AUTO, '/a/image_rect', LENS, False, ''),  # image_proc's camera_info keeps its D
        (AUTO, '/a/image_rect', FISHEYE, False, ''),
        (AUTO, '/a/image', PINHOLE, False, ''),
        (AUTO, '/a/image', LENS, True, 'assumed that /a/image is raw.*camera_info has D'),
        (AUTO, '/a/image', FISHEYE, True, 'assumed that /a/image is raw.*lens is equidistant'),
        (AUTO, '/a/image', {'distortion_model': 'mei'}, False, "pinhole: .* 'mei' .*not known"),
        (AUTO, '/a/image_rect', {'distortion_model': 'mei'}, False, ''),
        (TRUE, '/a/image_rect', LENS, False, ''),
        (TRUE, '/a/image_raw', PINHOLE, False, ''),
        (TRUE, '/a/image', LENS, False, ''),
        (TRUE, '/a/image_raw', LENS, False, 'ERROR rectified is true, but /a/image_raw is named'),
        (TRUE, '/a/image_raw', FISHEYE, False, 'ERROR rectified is true, but'),
        (FALSE, '/a/image_raw', LENS, True, ''),
        (FALSE, '/a/image', LENS, True, ''),
        (FALSE, '/a/image_rect', LENS, True, 'rectified is false, but /a/image_rect is named'),
    ],
)
def test_choice_and_concern(rectified, topic, changes, rectifies, concern):
    rectifier, camera = Rectifier(rectified, topic), intrinsics(**changes)
    assert rectifier.rectifies(camera) is rectifies
    concerns = [('ERROR ' if c.is_error else '') + c.text for c in rectifier.concerns(camera)]
    assert len(concerns) == bool(concern)
    assert not concern or re.search(concern, concerns[0])
    image = np.random.default_rng(0).integers(0, 255, (H, W, 3), np.uint8)
    expected = (rectify_image if rectifies else passthrough_image)(image, camera)
    for actual, wanted in zip(rectifier(image, camera), expected, strict=True):
        np.testing.assert_array_equal(actual, wanted)


def test_K_of_another_resolution_is_doubted():
    """raspicam_node's camerav2_1640x1232.yaml has the K of its 1280x960 file."""
    K_1280 = (999.461170663331, 0, 642.2582577578172, 0, 996.9611451866272, 474.1471906434548)
    camera = intrinsics(width_px=1640, height_px=1232, K=(*K_1280, 0, 0, 1))
    (concern,) = Rectifier(AUTO, '/a/image_raw').concerns(camera)
    assert 'the middle of 1285x948 pixels, but width and height are 1640x1232' in concern.text
    right = replace(camera, width_px=1280, height_px=960)
    assert Rectifier(AUTO, '/a/image_raw').concerns(right) == ()
