"""Three cameras in one real node, over real DDS, and boxes told in the frame of the vehicle."""

import re

import pytest

pytest.importorskip('rclpy', reason='rclpy is not installed')
pytest.importorskip('visualization_msgs', reason='ROS messages are not installed')

from fake_vehicle import Vehicle, drawn, finish, image, labels, stamp_of, start
from geometry_msgs.msg import TransformStamped
from rclpy.qos import QoSDurabilityPolicy, QoSProfile

CAMERAS = ('front', 'left', 'right')
#: Such a lens looks on the network's canvas as long as the one it has learnt.
FOCAL = 28.0
LABEL = 'Car 0.90 2.8 m'
#: left and right look on like front does, shifted to the side: each sees its own car.
MOUNTS_Y_M = {'front': 0.0, 'left': 3.0, 'right': -3.0}


@pytest.fixture(scope='module')
def ring(tmp_path_factory):
    model = tmp_path_factory.mktemp('models') / 'student.safetensors'
    model.write_text('lens')
    parameters = {
        'cameras': f'[{", ".join(CAMERAS)}]',
        'trigger': 'front',
        'left.transport': 'raw',
        'target_frame': 'base_link',
    }
    process = start(model, *(part for k, v in parameters.items() for part in ('-p', f'{k}:={v}')))
    ring = Vehicle(CAMERAS)
    ring.eyes['left'].hears_files = False
    ring.ready()
    yield ring
    ring.close()
    code, log = finish(process)
    assert code == 0, log
    assert 'Traceback' not in log, log
    sizes = [int(size) for size in re.findall(r'a batch of (\d)', log)]
    assert sizes[:3] == [1, 2, 3], 'the warm-up runs what will be seen'
    assert sizes[3:].count(3) >= 1, log


def together(ring, cars, cameras=CAMERAS, **info):
    """Send an image of each camera, all of one time, until all are answered -> markers of each."""
    for _ in range(10):
        stamp_ns = ring.stamp_ns + 100_000_007
        for name in cameras[::-1]:  # the one that is waited for comes last
            ring.send(image(cars[name]), ring.eyes[name], stamp_ns, focal=FOCAL, **info)
        eyes = [ring.eyes[name] for name in cameras]
        if ring.until(lambda s=stamp_ns, e=eyes: all(s in eye.answers for eye in e), 2.0):
            return {name: ring.eyes[name].answers[stamp_ns] for name in cameras}
    raise AssertionError('not all were answered')


def of_all(ring, condition):
    """Wait until a diagnostic status of each camera fulfils a condition."""
    return {
        name: ring.status(lambda each, n=name: each.name == f'detector: {n}' and condition(each))
        for name in CAMERAS
    }


def test_three_cameras_are_answered_each_on_its_own_topic(ring):
    found = together(ring, {'front': 1, 'left': 2, 'right': 0})
    assert [len(drawn(found[name])) for name in CAMERAS] == [1, 2, 0]
    for name, markers in found.items():
        assert {each.ns.split('/')[0] for each in markers} == {name}
        assert stamp_of(markers[0].header) == ring.stamp_ns
    assert labels(found['front']) == [LABEL]


def test_without_tf_boxes_stay_in_the_cameras_own_frame_and_it_is_told(ring):
    found = together(ring, dict.fromkeys(CAMERAS, 1))
    for name, markers in found.items():
        assert {each.header.frame_id for each in markers} == {f'{name}_optical'}
    for name, status in of_all(ring, lambda each: 'no transform from' in each.message).items():
        assert status.level == status.WARN
        assert f'no transform from {name}_optical to base_link' in status.message


def test_one_bad_camera_does_not_silence_the_others(ring):
    for _ in range(10):
        stamp_ns = ring.stamp_ns + 100_000_007
        for name, red in (('left', 25), ('right', 1), ('front', 1)):
            ring.send(image(red), ring.eyes[name], stamp_ns, focal=FOCAL)
        good = [ring.eyes[name] for name in ('front', 'right')]
        if ring.until(lambda s=stamp_ns, g=good: all(s in eye.answers for eye in g), 2.0):
            break
    assert stamp_ns in ring.eyes['front'].answers
    assert stamp_ns not in ring.eyes['left'].answers
    assert ring.status(lambda each: each.name.endswith('left') and 'too red' in each.message)


def test_a_silent_camera_does_not_hold_up_the_others_and_is_told(ring):
    def silent(status):
        together(ring, {'front': 1, 'left': 1}, ('front', 'left'))
        return status.name == 'detector: right' and 'no image on /right' in status.message

    assert ring.status(silent)


def test_without_the_image_of_its_trigger_nothing_is_answered(ring):
    stamps = [ring.send(image(1), ring.eyes['left'], focal=FOCAL) for _ in range(3)]
    ring.rest(0.5)
    assert not set(stamps) & set(ring.eyes['left'].answers)
    together(ring, dict.fromkeys(CAMERAS, 1))


def test_a_lens_far_from_the_learnt_one_is_told(ring):
    def strange(status):
        stamp_ns = ring.stamp_ns + 100_000_007
        for name in CAMERAS[::-1]:
            focal = 3 * FOCAL if name == 'right' else FOCAL
            ring.send(image(1), ring.eyes[name], stamp_ns, focal=focal)
        return status.name == 'detector: right' and 'times as long as the one' in status.message

    status = ring.status(strange)
    assert '3.01 times' in status.message
    assert status.level == status.WARN
    well = ring.status(lambda each: each.name == 'detector: front')
    assert 'times as long' not in well.message


def mounted(name, y_m):
    """Where a camera stands on the vehicle: looking ahead, x right and y down of its own."""
    mount = TransformStamped()
    mount.header.frame_id, mount.child_frame_id = 'base_link', f'{name}_optical'
    at, turn = mount.transform.translation, mount.transform.rotation
    at.x, at.y, at.z = 1.0, y_m, 1.5
    turn.x, turn.y, turn.z, turn.w = -0.5, 0.5, -0.5, 0.5
    return mount


def test_with_tf_boxes_are_told_once_in_the_frame_of_the_vehicle(ring):
    """Runs last: from here on tf is known."""
    tf2_msgs = pytest.importorskip('tf2_msgs.msg', reason='tf2_msgs comes with ROS only')
    latched = QoSProfile(depth=1, durability=QoSDurabilityPolicy.TRANSIENT_LOCAL)
    static = ring.node.create_publisher(tf2_msgs.TFMessage, '/tf_static', latched)
    mounts = [mounted(name, y_m) for name, y_m in MOUNTS_Y_M.items()]
    static.publish(tf2_msgs.TFMessage(transforms=mounts))

    def in_vehicle():
        found = together(ring, dict.fromkeys(CAMERAS, 1))
        return found if found['right'][0].header.frame_id == 'base_link' else None

    found = ring.until(in_vehicle)
    for name, markers in found.items():
        assert {each.header.frame_id for each in markers} == {'base_link'}
        x, y, z = (
            sum(getattr(point, axis) for point in drawn(markers)[0].points) / 24 for axis in 'xyz'
        )
        # the fake network sees its car 2.8 m ahead and 1 m below the camera
        assert (x, y, z) == pytest.approx((3.8, MOUNTS_Y_M[name], 0.5), abs=0.05)
    of_all(ring, lambda each: 'no transform' not in each.message)
    static.publish(tf2_msgs.TFMessage(transforms=[mounted('right', 0.1)]))  # beside front

    def once():
        found = together(ring, dict.fromkeys(CAMERAS, 1))
        return {name: len(drawn(found[name])) for name in CAMERAS}

    assert ring.until(lambda: sum(once().values()) == 2)
    assert once()['left'] == 1
