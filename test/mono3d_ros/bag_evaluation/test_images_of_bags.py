"""bag_to_kitti and evaluate_bag on images from the field: choices are printed, faults counted."""

import json
import struct

import cv2
import numpy as np
import pytest

from mono3d_ros.bag_evaluation import evaluate_bag
from mono3d_ros.bags import bag_to_kitti
from mono3d_ros.bags.bag_io import BagWriter
from mono3d_ros.bags.message_types import make_message_factory, make_typestore
from mono3d_ros.messages.primitives import to_header
from stl_core.data.sources import kitti

pytestmark = pytest.mark.usefixtures('one_thread')

STORE = make_typestore()
NEW = make_message_factory(STORE)
H, W = 48, 160
PICTURE = cv2.resize(np.random.default_rng(0).integers(0, 256, (6, 20, 3), np.uint8), (W, H))


def image(number, encoding, pixels):
    pixels = np.ascontiguousarray(pixels)
    return NEW(
        'sensor_msgs/msg/Image',
        header=to_header(number * 10**8, 'cam', NEW),
        height=H,
        width=W,
        encoding=encoding,
        step=pixels.nbytes // H,
        data=pixels.view(np.uint8),
    )


def compressed(number, format, data):
    header = to_header(number * 10**8, 'cam', NEW)
    return NEW('sensor_msgs/msg/CompressedImage', header=header, format=format, data=data)


def jpeg(width=W, height=H):
    """Return a JPEG of PICTURE with another size in its header."""
    file = cv2.imencode('.jpg', PICTURE[..., ::-1])[1].tobytes()
    at = file.index(b'\xff\xc0') + 5
    return file[:at] + struct.pack('>HH', height, width) + file[at + 4 :]


def record(path, *topics, info='/cam/camera_info'):
    """Record pairs of a topic and its messages, with one camera_info."""
    K = [100.0, 0, W / 2, 0, 100, H / 2, 0, 0, 1]
    fields = {'width': W, 'height': H, 'k': K, 'p': [*K[:3], 0, *K[3:6], 0, *K[6:], 0]}
    header = to_header(1, 'cam', NEW)
    with BagWriter(path, STORE) as bag:
        bag.write(info, 1, NEW('sensor_msgs/msg/CameraInfo', header=header, **fields))
        for topic, messages in topics:
            for number, message in enumerate(messages, 1):
                bag.write(topic, number * 10**8, message)
    return path


def extract(bag, *options):
    """Run bag_to_kitti; return its exit code and the written images, RGB."""
    out = bag.parent / 'frames'
    code = bag_to_kitti.main([str(bag), str(out), *map(str, options)])
    return code, [kitti.read_image(each) for each in sorted(out.glob('image_2/*.png'))]


def evaluate(bag, *options):
    """Run evaluate_bag with the shipped model; return its exit code and figures.json."""
    out = bag.parent / 'evaluated'
    arguments = [str(bag), str(out), '--device', 'cpu', '--pictures', '0', *map(str, options)]
    code = evaluate_bag.main(arguments)
    return code, json.loads((out / 'figures.json').read_text()) if code == 0 else {}


def test_depth_before_colour(tmp_path, capsys):
    depth = np.full((H, W), 2500, np.uint16)
    bag = record(
        tmp_path / 'bag',
        ('/oak/depth', [image(1, '16UC1', depth)]),
        ('/oak/rgb', [image(1, 'rgb8', PICTURE)]),
        info='/oak/camera_info',
    )
    code, (written,) = extract(bag)
    assert code == 0
    np.testing.assert_array_equal(written, PICTURE)
    line = (
        'bag: camera oak: images /oak/rgb (sensor_msgs/msg/Image, rgb8, color), camera_info '
        '/oak/camera_info (in the same namespace); not /oak/depth (16UC1, measurement, "depth" in '
        'its name)'
    )
    assert line in capsys.readouterr().out.splitlines()
    assert evaluate(bag)[1]['frames'] == {'oak': 1}
    assert line in ' '.join(capsys.readouterr().out.split('\n')).replace('  ', ' ')


def test_depth_on_request_is_an_error_that_names_it(tmp_path, capsys):
    depth = image(1, '16UC1', np.full((H, W), 2500, np.uint16))
    bag = record(tmp_path / 'bag', ('/cam/depth', [depth]))
    for run in (extract, evaluate):
        assert run(bag, '--image', '/cam/depth')[0] == 2
        (line,) = capsys.readouterr().err.strip().splitlines()[-1:]
        assert '/cam/depth' in line
        assert 'encoding 16UC1 carries depth' in line


def test_options_name_image_and_camera_info(tmp_path, capsys):
    bag = record(
        tmp_path / 'bag',
        ('/sensors/a', [compressed(1, 'jpeg', np.frombuffer(jpeg(), np.uint8))]),
        ('/sensors/b', [image(1, 'rgb8', PICTURE)]),
        info='/calibration',
    )
    code, (written,) = extract(bag, '--image', '/sensors/a', '--camera-info', '/calibration')
    assert code == 0
    assert np.abs(written.astype(int) - PICTURE).max() < 40
    assert (
        '/sensors/a (sensor_msgs/msg/CompressedImage, jpeg, requested)' in capsys.readouterr().out
    )
    options = ('--image', '/sensors/b', '--camera-info', '/calibration')
    assert evaluate(bag, *options)[1]['frames'] == {'sensors': 1}


@pytest.mark.parametrize('size', [(40000, 40000), (16000, 60000), (W, 33143)])
def test_a_damaged_header_costs_its_image_only(tmp_path, capsys, size):
    files = [np.frombuffer(each, np.uint8) for each in (jpeg(), jpeg(*size), jpeg())]
    messages = [compressed(i, 'jpeg', each) for i, each in enumerate(files, 1)]
    bag = record(tmp_path / 'bag', ('/cam/image/compressed', messages))
    code, written = extract(bag)
    assert (code, len(written)) == (0, 2)
    output = capsys.readouterr().out
    assert '1 images omitted: ' in output
    assert f'{size[0]}x{size[1]}' in output
    code, figures = evaluate(bag)
    assert code == 0
    assert figures['frames'] == {'cam': 2}
    assert sum(figures['skipped'].values()) == 1


def test_cut_images_and_garbage_are_counted(tmp_path, capsys):
    whole = jpeg()
    files = [whole, whole[:-200], b'garbage', b'', whole]
    messages = [
        compressed(i, 'jpeg', np.frombuffer(each, np.uint8) if each else np.zeros(0, np.uint8))
        for i, each in enumerate(files, 1)
    ]
    bag = record(tmp_path / 'bag', ('/cam/image/compressed', messages))
    code, written = extract(bag)
    assert (code, len(written)) == (0, 2)
    output = capsys.readouterr().out
    assert 'the JPEG is cut off' in output
    assert 'begins with 67 61 72 62' in output
    assert 'is empty' in output


def test_twelve_bits_are_scaled_alike_in_every_image(tmp_path, capsys):
    grey = PICTURE[..., 0]
    values = [grey, grey // 20]  # a dark image keeps the depth of the stream
    messages = [
        image(i, 'mono16', (each.astype(np.uint16) << 4)) for i, each in enumerate(values, 1)
    ]
    bag = record(tmp_path / 'bag', ('/cam/image', messages))
    code, written = extract(bag)
    assert code == 0
    for each, expected in zip(written, values, strict=True):
        np.testing.assert_array_equal(each[..., 0], expected)
    assert capsys.readouterr().out.count('mono16 images of at most 12 bits so far') == 1
    code, _ = evaluate(bag)
    assert code == 0
    printed = ' '.join(capsys.readouterr().out.split())
    assert printed.count('/cam/image: mono16 images of at most 12 bits so far') == 1


def test_bit_depth_option(tmp_path):
    values = PICTURE[..., 0].astype(np.uint16)  # 8 bits of 16: nearly black
    bag = record(tmp_path / 'bag', ('/cam/image', [image(1, 'mono16', values)]))
    code, (written,) = extract(bag, '--bit-depth', 16)
    assert code == 0
    assert written.max() == 0


def test_format_decides_the_colours(tmp_path, capsys):
    file = cv2.imencode('.png', PICTURE)[1].ravel()  # red and blue in the order of OpenCV
    messages = [compressed(1, 'rgb8; png compressed ', file)]
    bag = record(tmp_path / 'bag', ('/cam/image/compressed', messages))
    code, (written,) = extract(bag)
    assert code == 0
    np.testing.assert_array_equal(written, PICTURE)
    assert 'red and blue of the files are exchanged' in capsys.readouterr().out
