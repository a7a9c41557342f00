"""Which images and which camera_info a bag tool reads, on layouts of topics from the field."""

import cv2
import numpy as np
import pytest

from mono3d_ros.bags.bag_io import BagError, BagReader, BagWriter
from mono3d_ros.bags.cameras.choice import find_cameras
from mono3d_ros.bags.drive_query import DriveQuery, prefer_raw
from mono3d_ros.bags.message_types import make_message_factory, make_typestore
from mono3d_ros.messages.primitives import to_header

STORE = make_typestore()
NEW = make_message_factory(STORE)
H, W = 48, 64
RNG = np.random.default_rng(0)
COLOR = RNG.integers(0, 256, (H, W, 3), np.uint8)
GREY = COLOR[..., 0]
MASK = np.where(GREY > 99, 255, 0).astype(np.uint8)
BLACK = np.zeros((H, W), np.uint8)
DEPTH = RNG.integers(300, 9000, (H, W), np.uint16)
LABELS = RNG.integers(0, 12, (H, W), np.uint8)  # classes
PALETTE = RNG.integers(0, 256, (12, 3), np.uint8)


def image(encoding, pixels, frame_id='cam'):
    pixels = np.ascontiguousarray(pixels)
    return NEW(
        'sensor_msgs/msg/Image',
        header=to_header(1, frame_id, NEW),
        height=H,
        width=W,
        encoding=encoding,
        step=pixels.nbytes // H,
        data=pixels.view(np.uint8),
    )


def compressed(format, pixels, suffix='.png', frame_id='cam'):
    return NEW(
        'sensor_msgs/msg/CompressedImage',
        header=to_header(1, frame_id, NEW),
        format=format,
        data=cv2.imencode(suffix, pixels)[1].ravel(),
    )


def camera_info(frame_id='cam', size=(W, H)):
    return NEW(
        'sensor_msgs/msg/CameraInfo',
        header=to_header(1, frame_id, NEW),
        width=size[0],
        height=size[1],
        k=[50, 0, W / 2, 0, 50, H / 2, 0, 0, 1],
    )


RGB, MONO = image('rgb8', COLOR), image('mono8', GREY)
MASK_IMAGE, DEPTH_MM = image('mono8', MASK), image('16UC1', DEPTH)
DEPTH_M = image('32FC1', DEPTH.astype(np.float32) / 1e3)
BAYER, INFO = image('bayer_rggb8', GREY), camera_info()
JPEG = compressed('jpeg', COLOR, '.jpg')


@pytest.fixture
def open_bag(tmp_path):
    """Return a function that writes messages, or types of topics without messages, to a bag."""
    readers = []

    def build(messages):
        path = tmp_path / f'bag{len(readers)}'
        with BagWriter(path, STORE) as bag:
            for topic, message in messages.items():
                if isinstance(message, str):
                    bag.add_topic(topic, message)
                else:
                    bag.write(topic, 1, message)
        readers.append(BagReader(path))
        return readers[-1]

    yield build
    for each in readers:
        each.__exit__()


@pytest.mark.parametrize(
    ('messages', 'chosen'),
    [
        ({'/oak/depth': DEPTH_MM, '/oak/rgb': RGB, '/oak/camera_info': INFO}, '/oak/rgb'),
        (
            {'/cam/dynamic_mask': MASK_IMAGE, '/cam/image_raw': RGB, '/cam/camera_info': INFO},
            '/cam/image_raw',
        ),
        (  # a mask beside a grey camera
            {'/cam/dynamic_mask': MASK_IMAGE, '/cam/image_raw': MONO, '/cam/camera_info': INFO},
            '/cam/image_raw',
        ),
        (  # a mask without a name that says so
            {'/cam/a': MASK_IMAGE, '/cam/b': MONO, '/cam/camera_info': INFO},
            '/cam/b',
        ),
        (
            {'/cam/image_rect': MONO, '/cam/image_rect_color': RGB, '/cam/camera_info': INFO},
            '/cam/image_rect_color',
        ),
        (
            {'/rgbd/depth_image': DEPTH_M, '/rgbd/image': RGB, '/rgbd/camera_info': INFO},
            '/rgbd/image',
        ),
        ({'/depth': DEPTH_M, '/rgb': RGB, '/camera_info': INFO}, '/rgb'),
        (
            {'/mogi/depth_image': DEPTH_M, '/mogi/image_raw': RGB, '/mogi/camera_info': INFO},
            '/mogi/image_raw',
        ),
        (
            {'/c/image_color': RGB, '/c/image_mono': MONO, '/c/image_raw': BAYER,
             '/c/camera_info': INFO},
            '/c/image_color',
        ),
        ({'/c/image_mono': MONO, '/c/image_raw': BAYER, '/c/camera_info': INFO}, '/c/image_raw'),
        ({'/c/image_raw': MONO, '/c/image_rect': MONO, '/c/camera_info': INFO}, '/c/image_rect'),
        (
            {'/c/disparity': MONO, '/c/image_raw': MONO, '/c/camera_info': INFO},
            '/c/image_raw',
        ),
        (  # colours of classes
            {'/c/a_semantic': image('rgb8', PALETTE[LABELS]), '/c/image': MONO,
             '/c/camera_info': INFO},
            '/c/image',
        ),
        (  # drawn boxes beside a grey camera
            {'/c/annotated': RGB, '/c/image_raw': MONO, '/c/camera_info': INFO},
            '/c/image_raw',
        ),
        (
            {'/c/image_raw': RGB, '/c/image_raw/compressed': JPEG, '/c/camera_info': INFO},
            '/c/image_raw',
        ),
        (  # recorded without its messages
            {'/c/image_raw': 'sensor_msgs/msg/Image', '/c/image_raw/compressed': JPEG,
             '/c/camera_info': INFO},
            '/c/image_raw/compressed',
        ),
        (
            {'/c/a/compressedDepth': compressed('16UC1; compressedDepth png', DEPTH),
             '/c/b/compressed': compressed('16UC1; png compressed ', DEPTH),
             '/c/z': RGB, '/c/camera_info': INFO},
            '/c/z',
        ),
        (
            {'/c/a/compressed': compressed('mono8; jpeg compressed mono8', GREY, '.jpg'),
             '/c/b/compressed': compressed('bayer_rggb8; png compressed ', GREY),
             '/c/camera_info': INFO},
            '/c/b/compressed',
        ),
        (
            {'/CAM_FRONT/image_rect_compressed': JPEG, '/CAM_FRONT/camera_info': INFO},
            '/CAM_FRONT/image_rect_compressed',
        ),
        ({'/cam_front/raw': JPEG, '/cam_front/camera_info': INFO}, '/cam_front/raw'),
        ({'/cam/image_compressed': JPEG, '/cam/camera_info': INFO}, '/cam/image_compressed'),
        (  # the first image is black: no mask
            {'/c/image_raw': image('mono8', BLACK), '/c/camera_info': INFO},
            '/c/image_raw',
        ),
        (  # a bright square of a test picture: few values alone do not exclude
            {'/c/image_raw': MASK_IMAGE, '/c/camera_info': INFO},
            '/c/image_raw',
        ),
        ({'/infra1/image_rect': MONO, '/infra1/camera_info': INFO}, '/infra1/image_rect'),
    ],
)  # fmt: skip
def test_the_picture_is_chosen(open_bag, messages, chosen):
    (camera,) = find_cameras(open_bag(messages), DriveQuery()).cameras
    assert camera.image == chosen
    assert camera.info in messages
    for others in messages:
        assert others in camera.reason


def test_raw_images_are_chosen_if_they_are_to_be_rectified(open_bag):
    messages = {'/c/image_raw': RGB, '/c/image_rect_color': RGB, '/c/camera_info': INFO}
    reader = open_bag(messages)
    for query, chosen in (
        (DriveQuery(), '/c/image_rect_color'),
        (DriveQuery(topic_order=prefer_raw), '/c/image_raw'),
    ):
        assert find_cameras(reader, query).cameras[0].image == chosen


REALSENSE = {
    '/camera/aligned_depth_to_color/image_raw': image('16UC1', DEPTH, 'color'),
    '/camera/aligned_depth_to_color/camera_info': camera_info('color'),
    '/camera/color/image_raw': image('rgb8', COLOR, 'color'),
    '/camera/color/camera_info': camera_info('color'),
    '/camera/depth/image_rect_raw': image('16UC1', DEPTH, 'depth'),
    '/camera/depth/camera_info': camera_info('depth'),
    '/camera/infra1/image_rect_raw': image('mono8', GREY, 'infra1'),
    '/camera/infra1/camera_info': camera_info('infra1'),
}


def test_depth_and_infrared_cameras_beside_a_colour_camera_are_listed_not_read(open_bag):
    choice = find_cameras(open_bag(REALSENSE), DriveQuery())
    assert [each.name for each in choice.cameras] == ['camera/color']
    assert len(choice.unused) == 3
    (camera, others) = choice.lines()
    assert camera == (
        'camera camera/color: images /camera/color/image_raw (sensor_msgs/msg/Image, rgb8, '
        'color), camera_info /camera/color/camera_info (in the same namespace); its only image '
        'topic'
    )
    assert '/camera/infra1/image_rect_raw (mono8, grey, "infra1" in its name)' in others
    assert '/camera/depth/image_rect_raw (16UC1, measurement' in others


@pytest.mark.parametrize('name', ['camera/infra1', '/camera/infra1/image_rect_raw'])
def test_an_infrared_camera_is_read_on_request(open_bag, name):
    (camera,) = find_cameras(open_bag(REALSENSE), DriveQuery(camera=name)).cameras
    assert camera.image == '/camera/infra1/image_rect_raw'


def test_every_camera_of_a_vehicle_is_read(open_bag):
    messages = {
        **{f'/{name}/image_raw': RGB for name in ('front', 'back')},
        **{f'/{name}/camera_info': INFO for name in ('front', 'back', 'left')},
        '/left/image_raw': MONO,
        '/left/mask': MASK_IMAGE,
    }
    choice = find_cameras(open_bag(messages), DriveQuery())
    assert [each.name for each in choice.cameras] == ['back', 'front', 'left']
    assert choice.unused == ()


def test_camera_info_elsewhere_is_found_by_frame_and_size(open_bag):
    messages = {
        '/sensing/front_jpg': compressed('jpeg', COLOR, '.jpg', 'front'),
        '/calibration/front': camera_info('front'),
        '/calibration/rear': camera_info('rear'),
        '/calibration/front_small': camera_info('front', (W // 2, H // 2)),
    }
    (camera,) = find_cameras(open_bag(messages), DriveQuery()).cameras
    assert (camera.image, camera.info) == ('/sensing/front_jpg', '/calibration/front')
    assert 'the only one of this frame_id and size' in camera.reason


def test_ambiguous_camera_info_is_an_error_that_options_resolve(open_bag):
    messages = {'/x/jpg': JPEG, '/a/info': INFO, '/b/info': INFO, '/tf': 'tf2_msgs/msg/TFMessage'}
    reader = open_bag(messages)
    with pytest.raises(BagError, match=r'images of the bag: /x/jpg .*infos: /a/info, /b/info; '
                       r'other topics: /tf \(tf2_msgs/msg/TFMessage\); --image and '):  # fmt: skip
        find_cameras(reader, DriveQuery())
    with pytest.raises(BagError, match=r'no camera_info belongs to /x/jpg .* /a/info, /b/info'):
        find_cameras(reader, DriveQuery(image='/x/jpg'))
    for query in (DriveQuery(image='/x/jpg', info='/b/info'), DriveQuery(info='/b/info')):
        (camera,) = find_cameras(reader, query).cameras
        assert (camera.image, camera.info) == ('/x/jpg', '/b/info')


def test_requested_camera_info_of_a_named_camera(open_bag):
    messages = {'/a/image': RGB, '/a/camera_info': INFO, '/b/image': RGB, '/b/camera_info': INFO}
    query = DriveQuery(camera='a', info='/b/camera_info')
    (camera,) = find_cameras(open_bag(messages), query).cameras
    assert (camera.image, camera.info) == ('/a/image', '/b/camera_info')
    assert '(requested)' in camera.reason


@pytest.mark.parametrize(
    ('query', 'message'),
    [
        (DriveQuery(image='/c/none'), r'no image topic /c/none; the bag has /c/image_raw'),
        (DriveQuery(image='/tf'), r'/tf is of type tf2_msgs/msg/TFMessage; expected sensor_msgs'),
        (
            DriveQuery(image='/c/image_raw', info='/tf'),
            r'--camera-info /tf is of type tf2_msgs/msg/TFMessage; the camera_infos are /c/camera',
        ),
        (DriveQuery(info='/none'), r'--camera-info /none is not in it; the camera_infos are /c'),
        (DriveQuery(camera='rear'), r'no camera rear; the bag has c \(/c/image_raw\)'),
    ],
)
def test_requests_that_the_bag_cannot_meet(open_bag, query, message):
    messages = {
        '/c/image_raw': RGB,
        '/c/camera_info': INFO,
        '/tf': 'tf2_msgs/msg/TFMessage',
    }
    with pytest.raises(BagError, match=message):
        find_cameras(open_bag(messages), query)


def test_a_bag_of_depth_alone_has_no_camera(open_bag):
    messages = {'/oak/depth': DEPTH_MM, '/oak/camera_info': INFO}
    with pytest.raises(BagError, match=r'/oak/depth \(16UC1, measurement, "depth" in its name\)'):
        find_cameras(open_bag(messages), DriveQuery())


def test_a_bag_of_a_mask_alone_has_no_camera(open_bag):
    messages = {'/cam/mask': MASK_IMAGE, '/cam/camera_info': INFO}
    with pytest.raises(BagError, match=r'/cam/mask \(mono8, grey, few values, as a mask, "mask"'):
        find_cameras(open_bag(messages), DriveQuery())


def test_video_and_other_types_are_named(open_bag):
    messages = {'/c/camera_info': INFO, '/c/image_raw/stereo': 'stereo_msgs/msg/DisparityImage'}
    with pytest.raises(BagError, match=r'/c/image_raw/stereo \(stereo_msgs/msg/DisparityImage\)'):
        find_cameras(open_bag(messages), DriveQuery())
