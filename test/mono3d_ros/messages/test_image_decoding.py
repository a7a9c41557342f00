"""Decoders of image encodings: every encoding yields the same RGB image."""

import array

import cv2
import numpy as np
import pytest

from mono3d_ros.messages.image_decoding import ENCODINGS, RawImage, decode_raw

H, W = 6, 8
RGB = (200, 40, 90)
GREY = 120
PATTERNS = ('rggb', 'bggr', 'gbrg', 'grbg')
WIDE = [encoding for encoding in ENCODINGS if '16' in encoding]


def rgb(pixel=RGB):
    return np.full((H, W, 3), pixel, np.uint8)


def mosaic(pattern):
    """Build a Bayer image of one colour; each letter of the pattern is the channel of a pixel."""
    cell = np.array([RGB['rgb'.index(letter)] for letter in pattern], np.uint8).reshape(2, 2)
    return np.tile(cell, (H // 2, W // 2))


def wide(image):
    """Return the bytes of a little-endian 16-bit image whose low bytes are not zero."""
    return (image.astype('<u2') * 256 + 250).view(np.uint8)


def encoded():
    """Return encoding -> rows of bytes of an RGB image (of GREY for encodings without colour)."""
    i420 = cv2.cvtColor(rgb(), cv2.COLOR_RGB2YUV_I420)
    y, u, v = i420[0, 0], i420[H, 0], i420[-1, 0]
    packed = {'y': y, 'u': u, 'v': v}

    def pack(order):
        return np.tile(np.array([packed[each] for each in order], np.uint8), (H, W // 2))

    chroma = np.tile(np.array([u, v], np.uint8), (H // 2, W // 2))
    bgr, bgra = rgb()[..., ::-1], np.dstack([rgb()[..., ::-1], np.full((H, W), 7)])
    grey = np.full((H, W), GREY, np.uint8)
    rgba16, bgra16 = wide(np.dstack([rgb(), bgra[..., 3]])), wide(bgra)
    images = {
        'rgb8': rgb(),
        'bgr8': bgr,
        'rgba8': np.dstack([rgb(), np.full((H, W), 7)]),
        'bgra8': bgra,
        'mono8': grey,
        'rgb16': wide(rgb()),
        'bgr16': wide(bgr),
        'rgba16': rgba16,
        'bgra16': bgra16,
        'mono16': wide(grey),
        '8UC1': grey,
        '8UC3': bgr,
        '8UC4': bgra,
        **{f'bayer_{pattern}8': mosaic(pattern) for pattern in PATTERNS},
        **{f'bayer_{pattern}16': wide(mosaic(pattern)) for pattern in PATTERNS},
        'yuv422': pack('uyvy'),
        'uyvy': pack('uyvy'),
        'yuv422_yuy2': pack('yuyv'),
        'yuyv': pack('yuyv'),
        'nv12': np.vstack([np.full((H, W), y, np.uint8), chroma]),
        'nv21': np.vstack(
            [np.full((H, W), y, np.uint8), chroma.reshape(-1, 2)[:, ::-1].reshape(chroma.shape)]
        ),
    }
    return {key: image.reshape(len(image), -1).astype(np.uint8) for key, image in images.items()}


def raw(rows, padding=0, is_bigendian=False):
    padded = np.pad(rows, ((0, 0), (0, padding)), constant_values=255)
    return RawImage(array.array('B', padded.tobytes()), H, W, padded.shape[1], is_bigendian)


def expected(encoding):
    grey = encoding in ('mono8', 'mono16', '8UC1')
    return rgb((GREY,) * 3 if grey else RGB)


@pytest.mark.parametrize('padding', [0, 5])
@pytest.mark.parametrize('encoding', ENCODINGS)
def test_every_encoding_yields_the_same_image(encoding, padding):
    image = decode_raw(encoding, raw(encoded()[encoding], padding))
    assert image.dtype == np.uint8
    assert image.shape == (H, W, 3)
    tolerance = 3 if encoding.startswith(('yuv', 'uyvy', 'yuyv', 'nv')) else 0
    np.testing.assert_allclose(image.astype(int), expected(encoding), atol=tolerance)


def test_order_of_columns_is_kept():
    columns = np.arange(W, dtype=np.uint8) * 10
    picture = np.repeat(np.broadcast_to(columns, (H, W))[..., None], 3, 2)
    image = decode_raw('bgr8', raw(picture.reshape(H, -1), padding=3))
    np.testing.assert_array_equal(image, picture)


@pytest.mark.parametrize('encoding', WIDE)
def test_big_endian(encoding):
    rows = encoded()[encoding].reshape(H, -1, 2)[..., ::-1].reshape(H, -1)
    np.testing.assert_array_equal(
        decode_raw(encoding, raw(rows, padding=4, is_bigendian=True)), expected(encoding)
    )


def test_last_row_may_lack_its_padding():
    whole = raw(encoded()['bgr8'], padding=5)
    cut = RawImage(whole.data[:-5], H, W, whole.step_bytes)
    np.testing.assert_array_equal(decode_raw('bgr8', cut), rgb())


def test_read_only_bytes():
    rows = encoded()['rgb8']
    assert decode_raw('rgb8', RawImage(rows.tobytes(), H, W, W * 3)).shape == (H, W, 3)


def test_error_for_unknown_encoding_lists_known_ones():
    with pytest.raises(ValueError, match=r'rgb9.*known are rgb8, bgr8.*nv12'):
        decode_raw('rgb9', raw(encoded()['rgb8']))


@pytest.mark.parametrize('encoding', ENCODINGS)
def test_truncated(encoding):
    whole = raw(encoded()[encoding])
    cut = RawImage(whole.data[:-1], H, W, whole.step_bytes)
    with pytest.raises(ValueError, match=f'expected {len(whole.data)} bytes .*{len(cut.data)}'):
        decode_raw(encoding, cut)


@pytest.mark.parametrize(
    ('image', 'message'),
    [
        (RawImage(b'\0' * (H * W * 3), H, W, W * 3 - 1), 'step is 23 bytes, but a row takes 24'),
        (RawImage(b'\0' * (H * W * 3 + 1), H, W, W * 3), 'expected 144 bytes .* got 145'),
        (RawImage(b'', H, W, W * 3), 'got 0'),
        (RawImage(b'', 0, W, W * 3), '8x0'),
    ],
)
def test_wrong_number_of_bytes(image, message):
    with pytest.raises(ValueError, match=message):
        decode_raw('rgb8', image)


@pytest.mark.parametrize('encoding', ['yuv422', 'nv12', 'bayer_rggb8'])
def test_odd_width(encoding):
    with pytest.raises(ValueError, match='width must be even, got 7'):
        decode_raw(encoding, RawImage(b'\0' * 200, 4, 7, 14))


@pytest.mark.parametrize('encoding', ['16UC1', '16SC1', '32FC1', '32SC1', '64FC1', '32FC2'])
def test_depth_and_other_measurements_are_refused_by_name(encoding):
    depth = np.full((H, W), 2500, np.uint16).view(np.uint8)
    with pytest.raises(ValueError, match=f'{encoding} carries depth .*not a picture'):
        decode_raw(encoding, raw(depth))
