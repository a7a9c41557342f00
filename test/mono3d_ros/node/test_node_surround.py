"""Three cameras in one real node over real DDS, with boxes in the vehicle frame."""

import re

import pytest

pytest.importorskip('rclpy', reason='rclpy is not installed')
pytest.importorskip('visualization_msgs', reason='ROS messages are not installed')

from fake_vehicle import NodeHarness, added, finish, image, labels, stamp_of, start
from geometry_msgs.msg import TransformStamped
from rclpy.qos import QoSDurabilityPolicy, QoSProfile

CAMERAS = ('front', 'left', 'right')
#: Focal length that, scaled to the canvas of the network, equals the one it was trained for.
FOCAL = 28.0
LABEL = 'Car 0.90 2.8 m'
#: left and right look forward like front, shifted sideways: each sees another car.
MOUNTS_Y_M = {'front': 0.0, 'left': 3.0, 'right': -3.0}


@pytest.fixture(scope='module')
def harness(tmp_path_factory):
    model = tmp_path_factory.mktemp('models') / 'student.safetensors'
    model.write_text('lens')
    parameters = {
        'cameras': f'[{", ".join(CAMERAS)}]',
        'trigger': 'front',
        'left.transport': 'raw',
        'target_frame': 'base_link',
    }
    process = start(model, *(part for k, v in parameters.items() for part in ('-p', f'{k}:={v}')))
    harness = NodeHarness(CAMERAS)
    harness.cameras['left'].compressed_used = False
    harness.wait_until_ready()
    yield harness
    harness.close()
    code, log = finish(process)
    assert code == 0, log
    assert 'Traceback' not in log, log
    sizes = [int(size) for size in re.findall(r'a batch of (\d)', log)]
    assert sizes[:3] == [1, 2, 3], 'the warm-up runs every batch size'
    assert sizes[3:].count(3) >= 1, log


def detect_all(harness, cars, cameras=CAMERAS, **info):
    """Send one image per camera with the same stamp until all have markers; return the markers."""
    for _ in range(10):
        stamp_ns = harness.stamp_ns + 100_000_007
        for name in cameras[::-1]:  # the trigger camera is last
            harness.send(image(cars[name]), harness.cameras[name], stamp_ns, focal=FOCAL, **info)
        fakes = [harness.cameras[name] for name in cameras]
        if harness.wait_until(
            lambda s=stamp_ns, f=fakes: all(s in each.markers for each in f), 2.0
        ):
            return {name: harness.cameras[name].markers[stamp_ns] for name in cameras}
    raise AssertionError('not all cameras have markers')


def wait_for_all_statuses(harness, condition):
    """Wait until the diagnostic status of each camera meets a condition; return the statuses."""
    return {
        name: harness.wait_for_status(
            lambda each, n=name: each.name == f'detector: {n}' and condition(each)
        )
        for name in CAMERAS
    }


def test_each_camera_has_its_markers_on_its_own_topic(harness):
    results = detect_all(harness, {'front': 1, 'left': 2, 'right': 0})
    assert [len(added(results[name])) for name in CAMERAS] == [1, 2, 0]
    for name, markers in results.items():
        assert {each.ns.split('/')[0] for each in markers} == {name}
        assert stamp_of(markers[0].header) == harness.stamp_ns
    assert labels(results['front']) == [LABEL]


def test_without_tf_boxes_stay_in_the_camera_frame_and_it_is_reported(harness):
    results = detect_all(harness, dict.fromkeys(CAMERAS, 1))
    for name, markers in results.items():
        assert {each.header.frame_id for each in markers} == {f'{name}_optical'}
    for name, status in wait_for_all_statuses(
        harness, lambda each: 'no transform from' in each.message
    ).items():
        assert status.level == status.WARN
        assert f'no transform from {name}_optical to base_link' in status.message


def test_one_bad_camera_does_not_silence_the_others(harness):
    for _ in range(10):
        stamp_ns = harness.stamp_ns + 100_000_007
        for name, red in (('left', 25), ('right', 1), ('front', 1)):
            harness.send(image(red), harness.cameras[name], stamp_ns, focal=FOCAL)
        good = [harness.cameras[name] for name in ('front', 'right')]
        if harness.wait_until(
            lambda s=stamp_ns, g=good: all(s in each.markers for each in g), 2.0
        ):
            break
    assert stamp_ns in harness.cameras['front'].markers
    assert stamp_ns not in harness.cameras['left'].markers
    assert harness.wait_for_status(
        lambda each: each.name.endswith('left') and 'too red' in each.message
    )


def test_a_silent_camera_does_not_delay_the_others_and_is_reported(harness):
    def is_reported(status):
        detect_all(harness, {'front': 1, 'left': 1}, ('front', 'left'))
        return status.name == 'detector: right' and 'no image on /right' in status.message

    assert harness.wait_for_status(is_reported)


def test_without_an_image_of_the_trigger_camera_nothing_is_processed(harness):
    stamps = [harness.send(image(1), harness.cameras['left'], focal=FOCAL) for _ in range(3)]
    harness.wait(0.5)
    assert not set(stamps) & set(harness.cameras['left'].markers)
    detect_all(harness, dict.fromkeys(CAMERAS, 1))


def test_a_lens_far_from_the_trained_one_is_reported(harness):
    def is_reported(status):
        stamp_ns = harness.stamp_ns + 100_000_007
        for name in CAMERAS[::-1]:
            focal = 3 * FOCAL if name == 'right' else FOCAL
            harness.send(image(1), harness.cameras[name], stamp_ns, focal=focal)
        return (
            status.name == 'detector: right'
            and 'times that of the training camera' in status.message
        )

    status = harness.wait_for_status(is_reported)
    assert '3.01 times' in status.message
    assert status.level == status.WARN
    front = harness.wait_for_status(lambda each: each.name == 'detector: front')
    assert 'times that of' not in front.message


def mounted(name, y_m):
    """Transform of a camera on the vehicle that looks forward (optical: x right, y down)."""
    mount = TransformStamped()
    mount.header.frame_id, mount.child_frame_id = 'base_link', f'{name}_optical'
    position, rotation = mount.transform.translation, mount.transform.rotation
    position.x, position.y, position.z = 1.0, y_m, 1.5
    rotation.x, rotation.y, rotation.z, rotation.w = -0.5, 0.5, -0.5, 0.5
    return mount


def test_with_tf_boxes_are_in_the_vehicle_frame_and_duplicates_are_merged(harness):
    """Must run last: tf stays available from here on."""
    tf2_msgs = pytest.importorskip('tf2_msgs.msg', reason='tf2_msgs comes with ROS only')
    latched = QoSProfile(depth=1, durability=QoSDurabilityPolicy.TRANSIENT_LOCAL)
    static = harness.node.create_publisher(tf2_msgs.TFMessage, '/tf_static', latched)
    mounts = [mounted(name, y_m) for name, y_m in MOUNTS_Y_M.items()]
    static.publish(tf2_msgs.TFMessage(transforms=mounts))

    def in_vehicle():
        results = detect_all(harness, dict.fromkeys(CAMERAS, 1))
        return results if results['right'][0].header.frame_id == 'base_link' else None

    results = harness.wait_until(in_vehicle)
    for name, markers in results.items():
        assert {each.header.frame_id for each in markers} == {'base_link'}
        x, y, z = (
            sum(getattr(point, axis) for point in added(markers)[0].points) / 24 for axis in 'xyz'
        )
        # the fake network sees its car 2.8 m ahead and 1 m below the camera
        assert (x, y, z) == pytest.approx((3.8, MOUNTS_Y_M[name], 0.5), abs=0.05)
    wait_for_all_statuses(harness, lambda each: 'no transform' not in each.message)
    static.publish(tf2_msgs.TFMessage(transforms=[mounted('right', 0.1)]))  # next to front

    def count_boxes():
        results = detect_all(harness, dict.fromkeys(CAMERAS, 1))
        return {name: len(added(results[name])) for name in CAMERAS}

    assert harness.wait_until(lambda: sum(count_boxes().values()) == 2)
    assert count_boxes()['left'] == 1
