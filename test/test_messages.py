import array
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from mono3d_ros import messages
from mono3d_ros.calibration import Uncalibrated, as_rectified
from mono3d_ros.stream import FrameResult
from stl_core import strokes
from stl_core.geometry import BOX_EDGES, corners
from stl_core.types import Objects3D

STAMP_NS = 1_700_000_000_123_456_789
DELETE = messages.DELETE


def objects(n):
    rows = np.arange(n, dtype=float)
    return Objects3D(
        class_id=np.arange(n) % 2,
        score=0.9 - 0.1 * rows,
        center_m=np.stack([rows - 1, 1 + 0 * rows, 20 + 3.44 * rows], 1),
        size_hwl_m=np.tile([1.5, 1.6, 4.0], (n, 1)),
        rotation_y=0.3 + rows,
        box_px=np.zeros((n, 4)),
        depth_sigma_m=np.ones(n),
    )


def result(n, ids=None):
    return FrameResult(
        camera='front',
        stamp_ns=STAMP_NS,
        frame_id='front_optical',
        objects=objects(n),
        classes=('Car', 'Tram'),
        ids=tuple(range(n)) if ids is None else ids,
        timings_ms={},
    )


def plain_new(type_name, /, **fields):
    return SimpleNamespace(type_name=type_name, **fields)


def by_kind(array):
    return {(each.ns, each.id): each for each in array.markers}


def xyz(point):
    return (point.x, point.y, point.z)


@pytest.mark.parametrize('n', [0, 3])
def test_first_marker_tells_which_image_was_answered(n):
    first = messages.markers(result(n), (), plain_new).markers[0]
    assert (first.ns, first.id, first.action) == ('front/frame', 0, DELETE)
    assert (first.header.stamp.sec, first.header.stamp.nanosec) == divmod(STAMP_NS, 10**9)
    assert first.header.frame_id == 'front_optical'


def test_every_object_has_outline_heading_and_label():
    found = messages.markers(result(3), (), plain_new, lifetime_s=0.25).markers[1:]
    assert [(each.ns, each.id) for each in found] == [
        (f'front/{kind}', id) for id in range(3) for kind in ('boxes', 'heading', 'labels')
    ]
    for each in found:
        assert each.action == messages.ADD
        assert each.header.frame_id == 'front_optical'
        assert not each.frame_locked
        assert each.pose.orientation.w == 1.0
        assert max(each.scale.x, each.scale.y, each.scale.z) > 0
        assert (each.lifetime.sec, each.lifetime.nanosec) == (0, 250_000_000)
        assert each.color.a == 1.0


def test_outline_is_the_twelve_edges_of_the_box():
    drawn = by_kind(messages.markers(result(2), (), plain_new))
    o = objects(2)
    boxes = corners(o.center_m, o.size_hwl_m, o.rotation_y)
    for row in range(2):
        points = [xyz(point) for point in drawn['front/boxes', row].points]
        wanted = [boxes[row, corner] for edge in BOX_EDGES for corner in edge]
        np.testing.assert_allclose(points, wanted)


def test_arrow_points_ahead_from_the_front():
    o = objects(1)
    tail, tip = by_kind(messages.markers(result(1), (), plain_new))['front/heading', 0].points
    ahead = np.array([np.cos(o.rotation_y[0]), 0.0, -np.sin(o.rotation_y[0])])
    np.testing.assert_allclose(xyz(tail), o.center_m[0] + 2.0 * ahead)
    np.testing.assert_allclose(xyz(tip), o.center_m[0] + 3.0 * ahead)


def test_label_floats_above_the_box():
    drawn = by_kind(messages.markers(result(2), (), plain_new))
    label = drawn['front/labels', 0]
    assert label.text == 'Car 0.90 20.0 m'
    assert drawn['front/labels', 1].text == 'Tram 0.80 23.4 m'
    assert label.pose.position.y < objects(1).center_m[0, 1] - 0.75  # y is down


def test_classes_have_colours():
    drawn = by_kind(messages.markers(result(2), (), plain_new))
    car, tram = (drawn['front/boxes', row].color for row in range(2))
    assert (car.r, car.g, car.b) == tuple(each / 255 for each in strokes.COLOURS['car'])
    assert (tram.r, tram.g, tram.b) == tuple(each / 255 for each in strokes.OTHER_COLOUR)


def test_what_is_gone_is_deleted_in_the_same_array():
    found = messages.markers(result(2, ids=(0, 7)), (0, 1, 5), plain_new).markers
    gone = {(each.ns, each.id) for each in found[1:] if each.action == DELETE}
    assert gone == {(f'front/{kind}', id) for kind in messages.KINDS for id in (1, 5)}
    added = {each.id for each in found if each.action == messages.ADD}
    assert added == {0, 7}
    assert all(each.pose.orientation.w == 1.0 for each in found)


def test_ros_and_rosbags_write_the_same_message():
    """What both makers wrote is read again, by both readers."""
    node = pytest.importorskip('mono3d_ros.node', reason='rclpy is not installed')
    bag = pytest.importorskip('mono3d_ros.bag')
    serialization = pytest.importorskip('rclpy.serialization')
    store = bag.typestore()
    name = 'visualization_msgs/msg/MarkerArray'
    ros = messages.markers(result(2), (0, 1, 2), node.new)
    bagged = messages.markers(result(2), (0, 1, 2), bag.maker(store))
    by_ros = serialization.serialize_message(ros)
    by_bag = bytes(store.serialize_cdr(bagged, name))

    read = [serialization.deserialize_message(each, type(ros)) for each in (by_ros, by_bag)]
    assert read[0] == read[1]
    assert len(read[0].markers) == len(ros.markers)
    read = [repr(store.deserialize_cdr(each, name)) for each in (by_ros, by_bag)]
    assert read[0] == read[1]


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
    frame = messages.to_frame(image(), info(), 'front', as_rectified)
    assert (frame.camera, frame.stamp_ns, frame.frame_id) == ('front', STAMP_NS, 'image_frame')
    np.testing.assert_array_equal(frame.image, np.tile([3, 2, 1], (2, 4, 1)))
    np.testing.assert_array_equal(frame.P, [[3, 0, 2, -6], [0, 3, 1, 0], [0, 0, 1, 0]])


def test_to_frame_without_a_frame_of_its_own():
    assert messages.to_frame(image(''), info(), 'front', as_rectified).frame_id == 'info_frame'


def test_to_frame_maps_roi_and_binning():
    roi = SimpleNamespace(x_offset=10, y_offset=20, width=8, height=4)
    numbers = messages.to_intrinsics(info(width=100, height=80, roi=roi, binning_x=2, binning_y=2))
    assert numbers.roi_px == (10, 20, 8, 4)
    assert numbers.binning == (2, 2)
    assert hash(numbers) == hash(
        messages.to_intrinsics(info(width=100, height=80, roi=roi, binning_x=2, binning_y=2))
    )


def test_to_frame_refuses():
    with pytest.raises(ValueError, match="encoding 'rgb7'"):
        messages.to_frame(image(encoding='rgb7'), info(), 'front', as_rectified)
    with pytest.raises(Uncalibrated):
        messages.to_frame(image(), info(k=[0.0] * 9), 'front', as_rectified)


def test_detections_are_the_same_boxes_in_the_axes_of_ros():
    found = result(3, ids=(4, 7, 9))
    array = messages.detections(found, plain_new)
    assert array.header.frame_id == 'front_optical'
    assert [each.id for each in array.detections] == ['4', '7', '9']
    told = [each.results[0].hypothesis for each in array.detections]
    assert [each.class_id for each in told] == ['Car', 'Tram', 'Car']
    assert [each.score for each in told] == found.objects.score.tolist()
    boxes = corners(found.objects.center_m, found.objects.size_hwl_m, found.objects.rotation_y)
    for each, box in zip(array.detections, boxes, strict=True):
        q, size = each.bbox.center.orientation, each.bbox.size
        turn = Rotation.from_quat([q.x, q.y, q.z, q.w]).as_matrix()
        half = np.array([size.x, size.y, size.z]) / 2
        # corners 0 to 7 in the frame of a vehicle: x ahead, y to the left, z up
        signs = [[1, 1, 1], [1, 1, -1], [-1, 1, -1], [-1, 1, 1]]
        signs += [[x, -y, z] for x, y, z in signs]
        at = xyz(each.bbox.center.position) + np.array(signs) * half @ turn.T
        np.testing.assert_allclose(at, box, atol=1e-9)
        assert each.results[0].pose.pose == each.bbox.center
        covariance = np.reshape(each.results[0].pose.covariance, (6, 6))
        assert covariance[2, 2] == 2.0  # of a Laplace distribution of scale 1 m
        assert np.count_nonzero(covariance) == 1
