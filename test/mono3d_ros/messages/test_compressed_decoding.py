"""Compressed images: the format field as image_transport's subscriber reads it; damaged files."""

import array
import struct
import zlib

import cv2
import numpy as np
import pytest

from mono3d_ros.messages.compressed_decoding import decode_compressed, parse_format
from mono3d_ros.messages.image_decoding import RawImage, decode_raw
from stl_core.image_header import MAX_PIXELS, read_header

H, W = 24, 32
RNG = np.random.default_rng(1)
#: RGB, smooth, so that JPEG keeps it.
PICTURE = cv2.resize(RNG.integers(0, 256, (3, 4, 3), np.uint8), (W, H))
PATTERNS = ('rggb', 'bggr', 'gbrg', 'grbg')


def encode(suffix, pixels):
    """Encode a grey image, or one whose channels are in OpenCV's order."""
    return cv2.imencode(suffix, pixels)[1].tobytes()


def mosaic(pattern, picture=PICTURE):
    """Return the Bayer mosaic of a picture."""
    values = np.empty(picture.shape[:2], np.uint8)
    for i, letter in enumerate(pattern):
        y, x = divmod(i, 2)
        values[y::2, x::2] = picture[y::2, x::2, 'rgb'.index(letter)]
    return values


def subscriber(format, file):
    """
    Decode as compressed_image_transport's subscriber, then interpret its message as RGB.

    The steps of compressed_subscriber.cpp: imdecode unchanged, the text before ';' as encoding,
    and conversions of colours that depend on 'compressed bgr' in the rest.
    """
    pixels = cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_UNCHANGED)
    encoding, semicolon, rest = format.partition(';')
    if not semicolon:
        encoding = 'mono8' if pixels.ndim == 2 else 'bgr8'
    elif encoding in ('rgb8', 'bgr8', 'rgba8', 'bgra8'):
        codes = {
            True: {
                'rgb8': cv2.COLOR_BGR2RGB,
                'rgba8': cv2.COLOR_BGR2RGBA,
                'bgra8': cv2.COLOR_BGR2BGRA,
            },
            False: {
                'bgr8': cv2.COLOR_RGB2BGR,
                'bgra8': cv2.COLOR_RGB2BGRA,
                'rgba8': cv2.COLOR_RGB2RGBA,
            },
        }['compressed bgr' in rest]
        if encoding in codes:
            pixels = cv2.cvtColor(pixels, codes[encoding])
    data = np.ascontiguousarray(pixels)
    return decode_raw(encoding, RawImage(data.tobytes(), H, W, data.nbytes // H))


@pytest.mark.parametrize('codec', ['jpeg', 'png', 'tiff'])
@pytest.mark.parametrize('target', ['bgr8', '', 'rgb8'])
@pytest.mark.parametrize('encoding', ['rgb8', 'bgr8', 'rgba8', 'bgra8'])
def test_colours_are_in_the_order_that_the_subscriber_of_image_transport_gives_them(
    encoding, target, codec
):
    format, file = f'{encoding}; {codec} compressed {target}', encode(f'.{codec}', PICTURE)
    image = decode_compressed(format, file)
    np.testing.assert_array_equal(image, subscriber(format, file))
    # PICTURE was encoded as if it were BGR
    expected = PICTURE[..., ::-1] if target == 'bgr8' else PICTURE
    np.testing.assert_allclose(image.astype(int), expected, atol=40 if codec == 'jpeg' else 0)


@pytest.mark.parametrize(
    'format', ['jpeg', 'png', '', 'jpg', 'JPEG', 'mono8; jpeg compressed mono8']
)
@pytest.mark.parametrize('suffix', ['.png', '.jpg', '.webp', '.tiff'])
def test_plain_formats_and_files_of_another_kind(format, suffix):
    file = encode(suffix, PICTURE[..., ::-1])
    np.testing.assert_allclose(decode_compressed(format, file).astype(int), PICTURE, atol=60)


@pytest.mark.parametrize('pattern', PATTERNS)
@pytest.mark.parametrize(
    ('format', 'suffix'),
    [
        ('bayer_{}8; jpeg compressed ', '.jpg'),
        ('bayer_{}8; png compressed ', '.png'),
        ('bayer_{0}8; jpeg compressed bayer_{0}8', '.jpg'),  # parameter jpeg_compress_bayer
        ('bayer_{}8;png compressed', '.png'),
    ],
)
def test_mosaic_in_a_grey_file_is_decoded_to_colours(pattern, format, suffix):
    color = np.broadcast_to(np.array((200, 120, 60), np.uint8), (H, W, 3))
    # 2x2 cells survive JPEG of quality 100 only roughly
    values = mosaic(pattern, color)
    file = cv2.imencode(suffix, values, [cv2.IMWRITE_JPEG_QUALITY, 100])[1].tobytes()
    image = decode_compressed(format.format(pattern), file)
    np.testing.assert_allclose(image.astype(int), color, atol=6)
    if suffix == '.png':
        expected = decode_raw(f'bayer_{pattern}8', RawImage(values.tobytes(), H, W, W))
        np.testing.assert_array_equal(image, expected)


def test_mosaic_that_the_publisher_made_grey_stays_grey():
    grey = PICTURE[..., 1]
    image = decode_compressed('bayer_rggb8; jpeg compressed mono8', encode('.png', grey))
    np.testing.assert_array_equal(image, np.repeat(grey[..., None], 3, 2))


@pytest.mark.parametrize(
    ('format', 'message'),
    [
        ('16UC1; png compressed ', '16UC1 carries depth'),
        ('32FC1; tiff compressed ', '32FC1 carries depth'),
        ('16UC1; compressedDepth png', 'depth'),
        ('compressedDepth', 'depth'),
        ('h264', 'h264 video'),
        ('bgr8; H.265', 'H.265 video'),
        ('hevc', 'hevc video'),
    ],
)
def test_depth_and_video_are_refused_by_name(format, message):
    with pytest.raises(ValueError, match=message):
        decode_compressed(format, encode('.png', PICTURE[..., 1].astype(np.uint16) * 9))


def test_files_of_numbers_are_refused():
    with pytest.raises(ValueError, match='float32 numbers is not a picture'):
        decode_compressed('tiff', encode('.tiff', PICTURE[..., 0].astype(np.float32)))


@pytest.mark.parametrize('suffix', ['.png', '.jpg'])
@pytest.mark.parametrize('kind', [bytes, np.frombuffer, lambda b: array.array('B', b)])
def test_any_buffer(suffix, kind):
    data = encode(suffix, PICTURE[..., ::-1])
    data = np.frombuffer(data, np.uint8) if kind is np.frombuffer else kind(data)
    image = decode_compressed('bgr8; jpeg compressed bgr8', data)
    np.testing.assert_allclose(image.astype(int), PICTURE, atol=40)


def test_grey_files_have_three_channels():
    grey = PICTURE[..., 1]
    np.testing.assert_array_equal(
        decode_compressed('png', encode('.png', grey)), np.repeat(grey[..., None], 3, 2)
    )


def test_contradictions_are_noted():
    notes = []
    for format in ('rgb8; jpeg compressed bgr8', 'rgb8; png compressed '):
        decode_compressed(format, encode('.png', PICTURE), note=notes.append)
    assert len(notes) == 2
    assert "'rgb8; jpeg compressed bgr8', but the files are PNG" in notes[0]
    assert 'red and blue' in notes[1]


def test_parts_of_a_format():
    parts = parse_format('bayer_rggb8; jpeg compressed mono8')
    assert (parts.encoding, parts.kind, parts.target) == ('bayer_rggb8', 'JPEG', 'mono8')


# damaged files


def with_jpeg_size(file, width, height):
    """Return a JPEG with another size in its frame header."""
    at = file.index(b'\xff\xc0')
    return file[: at + 5] + struct.pack('>HH', height, width) + file[at + 9 :]


def with_png_size(file, width, height):
    """Return a PNG with another size in its header, whose checksum is right."""
    header = struct.pack('>II', width, height) + file[24:29]
    return file[:16] + header + struct.pack('>I', zlib.crc32(b'IHDR' + header)) + file[33:]


@pytest.mark.parametrize('suffix', ['.jpg', '.png', '.tiff', '.webp'])
@pytest.mark.parametrize('size', [(W, H), (7, 5), (1, 1)])
def test_size_in_the_header(suffix, size):
    file = encode(suffix, cv2.resize(PICTURE, size))
    assert read_header(file)[1:] == size


def test_size_in_the_header_of_other_variants():
    for options in ([cv2.IMWRITE_JPEG_PROGRESSIVE, 1], [cv2.IMWRITE_JPEG_RST_INTERVAL, 1]):
        assert read_header(cv2.imencode('.jpg', PICTURE, options)[1].tobytes())[1:] == (W, H)
    lossy = cv2.imencode('.webp', PICTURE, [cv2.IMWRITE_WEBP_QUALITY, 40])[1].tobytes()
    assert read_header(lossy)[1:] == (W, H)
    file = encode('.jpg', PICTURE)
    thumbnail = b'\xff\xe1' + struct.pack('>H', 2 + len(file)) + file  # a JPEG within the JPEG
    larger = encode('.jpg', cv2.resize(PICTURE, (2 * W, 2 * H)))
    assert read_header(larger[:2] + thumbnail + larger[2:])[1:] == (2 * W, 2 * H)


@pytest.mark.parametrize('size', [(40000, 40000), (16000, 60000), (W, 0)])
def test_impossible_sizes_are_refused_without_decoding(size, monkeypatch):
    monkeypatch.setattr(cv2, 'imdecode', None)
    files = [with_jpeg_size(encode('.jpg', PICTURE), *size)]
    files.append(with_png_size(encode('.png', PICTURE), *size))
    for file in files:
        with pytest.raises(ValueError, match=f'says {size[0]}x{size[1]} pixels'):
            decode_compressed('jpeg', file)


def test_sizes_are_checked_before_decoding(monkeypatch):
    monkeypatch.setattr(cv2, 'imdecode', None)
    sizes = []

    def check(width_px, height_px):
        sizes.append((width_px, height_px))
        raise ValueError('does not fit')

    file = with_jpeg_size(encode('.jpg', PICTURE), 1242, 33143)
    assert 1242 * 33143 < MAX_PIXELS
    with pytest.raises(ValueError, match='does not fit'):
        decode_compressed('jpeg', file, check_size=check)
    assert sizes == [(1242, 33143)]


@pytest.mark.parametrize(
    ('data', 'message'),
    [
        (b'', 'is empty'),
        (b'no image', 'begins with 6e 6f 20 69'),
        (b'\0\0\0\1\x67 H.264', 'begins with 00 00 00 01'),
        (b'\xff\xd8\xff\xe0 cut off', 'JPEG is cut off'),
        (b'\x89PNG\r\n\x1a\n', 'PNG is cut off'),
        (b'II*\0\x08', 'TIFF is cut off'),
        (b'RIFF\0\0\0\0WEBP', 'WebP is cut off'),
    ],
)
def test_files_that_are_not_images(data, message):
    with pytest.raises(ValueError, match=f"format 'jpeg': .*{message}"):
        decode_compressed('jpeg', data)


@pytest.mark.parametrize('suffix', ['.jpg', '.png', '.tiff', '.webp'])
def test_every_cut_file_raises_value_error(suffix):
    file = encode(suffix, PICTURE)
    for length in range(0, len(file) - 12, 7):
        with pytest.raises(ValueError, match=r'JPEG|PNG|TIFF|WebP|empty'):
            decode_compressed('', file[:length])


def test_jpeg_without_its_last_bytes_is_refused_with_any_opencv(monkeypatch):
    """OpenCV 4 fills the missing rows with grey."""
    monkeypatch.setattr(cv2, 'imdecode', lambda *_: PICTURE)
    file = encode('.jpg', PICTURE)
    assert decode_compressed('jpeg', file + b'\0' * 9).shape == (H, W, 3)  # padded by the driver
    with pytest.raises(ValueError, match='no end marker'):
        decode_compressed('jpeg', file[:-2])


@pytest.mark.parametrize('suffix', ['.jpg', '.png', '.tiff', '.webp'])
def test_damaged_bytes_raise_nothing_but_value_error(suffix):
    file, rng = encode(suffix, PICTURE), np.random.default_rng(11)
    for _ in range(300):
        damaged = bytearray(file)
        for _ in range(rng.integers(1, 4)):
            damaged[rng.integers(len(damaged))] = rng.integers(256)
        try:
            image = decode_compressed('rgb8; jpeg compressed bgr8', bytes(damaged))
        except ValueError:
            continue
        assert image.dtype == np.uint8
        assert image.ndim == 3
        assert image.shape[2] == 3


def test_a_decoded_size_that_differs_from_the_header_is_refused(monkeypatch):
    monkeypatch.setattr(cv2, 'imdecode', lambda *_: PICTURE.transpose(1, 0, 2))
    with pytest.raises(ValueError, match=r'24x32 pixels, but the header of the JPEG says 32x24'):
        decode_compressed('jpeg', encode('.jpg', PICTURE))


def test_a_chunk_longer_than_its_png_is_refused_before_decoding():
    """OpenCV allocates a chunk of the length that it states, and takes seconds."""
    file = bytearray(encode('.png', PICTURE))
    at = file.index(b'IDAT') - 4
    file[at : at + 4] = (2**31 - 1).to_bytes(4, 'big')
    with pytest.raises(ValueError, match=r'cut off or damaged: 2147483647 bytes in a chunk'):
        read_header(bytes(file))
    with pytest.raises(ValueError, match='cut off or damaged'):
        read_header(encode('.png', PICTURE)[:-1])
