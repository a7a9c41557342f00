"""16-bit images of sensors with fewer bits: scaled by the depth of the stream, without flicker."""

from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from mono3d_ros.messages.images import ImageDecoder

H, W = 20, 32
FULL = np.random.default_rng(3).integers(0, 256, (H, W), np.uint8)  # the same scene in 8 bits
FULL[0, 0] = 255


def fits(width_px, height_px):
    """Accept every size."""


def raw(encoding, values, is_bigendian=0):
    order = '>u2' if is_bigendian else '<u2'
    data = values.astype(order).tobytes()
    return SimpleNamespace(
        encoding=encoding,
        height=H,
        width=W,
        step=len(data) // H,
        is_bigendian=is_bigendian,
        data=data,
    )


def png(format, values):
    return SimpleNamespace(format=format, data=cv2.imencode('.png', values)[1].tobytes())


def at_depth(bits, picture=FULL):
    """Return the picture as a sensor of so many bits delivers it; low bits are not zero."""
    return (picture.astype(np.uint16) << (bits - 8)) + (1 << (bits - 8)) - 1


def grey(picture):
    return np.repeat(picture[..., None], 3, 2)


@pytest.mark.parametrize('bits', [8, 10, 12, 14, 16])
@pytest.mark.parametrize('is_bigendian', [0, 1])
def test_mono16_of_any_depth_is_the_picture_of_8_bits(bits, is_bigendian):
    message = raw('mono16', at_depth(bits), is_bigendian)
    np.testing.assert_array_equal(ImageDecoder().decode(message, fits), grey(FULL))


@pytest.mark.parametrize('format', ['mono16; png compressed ', 'png', ''])
def test_png_of_12_in_16_bits_is_the_picture_of_8_bits(format):
    message = png(format, at_depth(12))
    np.testing.assert_array_equal(ImageDecoder().decode(message, fits), grey(FULL))


@pytest.mark.parametrize('compressed', [False, True])
def test_mosaic_of_12_bits_is_that_of_8_bits(compressed):
    eight = SimpleNamespace(
        encoding='bayer_rggb8', height=H, width=W, step=W, is_bigendian=0, data=FULL.tobytes()
    )
    twelve = at_depth(12)
    message = (
        png('bayer_rggb16; png compressed ', twelve) if compressed else raw('bayer_rggb16', twelve)
    )
    expected = ImageDecoder().decode(eight, fits)
    assert expected.std(axis=2).max() > 0  # colours, not grey
    np.testing.assert_array_equal(ImageDecoder().decode(message, fits), expected)


def test_alpha_does_not_count():
    color = np.dstack([FULL, FULL // 2, FULL // 4])
    values = np.dstack([at_depth(12, color), np.full((H, W), 65535)])
    message = raw('rgba16', values)
    np.testing.assert_array_equal(ImageDecoder().decode(message, fits), color)


def test_a_dark_image_keeps_the_depth_of_its_stream():
    decoder = ImageDecoder()
    decoder.decode(raw('mono16', at_depth(12)), fits)
    dark = FULL // 20
    np.testing.assert_array_equal(
        decoder.decode(raw('mono16', at_depth(12, dark)), fits), grey(dark)
    )


def test_one_note_for_each_depth_of_a_stream():
    notes = []
    decoder = ImageDecoder(on_note=notes.append)
    for values in (at_depth(10), at_depth(12), at_depth(12), at_depth(10), at_depth(12)):
        decoder.decode(raw('mono16', values), fits)
    assert len(notes) == 2
    assert 'mono16' in notes[1]
    assert '12 bits' in notes[1]
    assert 'bit_depth' in notes[1]


def test_full_range_needs_no_note():
    notes = []
    decoder = ImageDecoder(on_note=notes.append)
    decoder.decode(raw('mono16', at_depth(16)), fits)
    decoder.decode(raw('mono16', at_depth(12)), fits)
    assert notes == []


def test_given_depth():
    dark = at_depth(12, FULL // 20)
    decoder = ImageDecoder(12)
    np.testing.assert_array_equal(decoder.decode(raw('mono16', dark), fits), grey(FULL // 20))
    with pytest.raises(ValueError, match=r'mono16 .*value 65535 exceeds the given 12 bits'):
        decoder.decode(raw('mono16', at_depth(16)), fits)


def test_given_16_bits_leave_the_values_as_they_are():
    image = ImageDecoder(16).decode(raw('mono16', at_depth(12)), fits)
    np.testing.assert_array_equal(image, grey(FULL // 16))
