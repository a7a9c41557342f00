"""Markers: the same boxes in every frame; markers of removed objects are deleted."""

from dataclasses import replace

import numpy as np
import pytest
from frame_results import STAMP_NS, by_kind, objects, plain_new, random_target, result, xyz

from mono3d_ros.bags import recorded_boxes
from mono3d_ros.bags.message_types import make_message_factory, make_typestore
from mono3d_ros.camera_frame import TargetFrame
from mono3d_ros.messages import annotated_image, detections, markers
from mono3d_ros.messages.markers import ARROW
from stl_core.geometry import BOX_EDGES, box_corners
from stl_core.visualization import style

DELETE = markers.DELETE


@pytest.mark.parametrize('n', [0, 3])
def test_first_marker_identifies_the_processed_image(n):
    first = markers.to_marker_array(result(n), (), plain_new).markers[0]
    assert (first.ns, first.id, first.action) == ('front/frame', 0, DELETE)
    assert (first.header.stamp.sec, first.header.stamp.nanosec) == divmod(STAMP_NS, 10**9)
    assert first.header.frame_id == 'front_optical'


def test_every_object_has_outline_heading_and_label():
    made = markers.to_marker_array(result(3), (), plain_new, lifetime_s=0.25).markers[1:]
    assert [(each.ns, each.id) for each in made] == [
        (f'front/{kind}', id) for id in range(3) for kind in ('boxes', 'heading', 'labels')
    ]
    for each in made:
        assert each.action == markers.ADD
        assert each.header.frame_id == 'front_optical'
        assert not each.frame_locked
        assert each.pose.orientation.w == 1.0
        assert max(each.scale.x, each.scale.y, each.scale.z) > 0
        assert (each.lifetime.sec, each.lifetime.nanosec) == (0, 250_000_000)
        assert each.color.a == 1.0


def test_outline_is_the_twelve_edges_of_the_box():
    drawn = by_kind(markers.to_marker_array(result(2), (), plain_new))
    o = objects(2)
    boxes = box_corners(o.center_m, o.size_hwl_m, o.rotation_y)
    for row in range(2):
        points = [xyz(point) for point in drawn['front/boxes', row].points]
        expected = [boxes[row, corner] for edge in BOX_EDGES for corner in edge]
        np.testing.assert_allclose(points, expected)


def test_heading_arrow_points_ahead_from_the_front():
    o = objects(1)
    tail, tip = by_kind(markers.to_marker_array(result(1), (), plain_new))[
        'front/heading', 0
    ].points
    ahead = np.array([np.cos(o.rotation_y[0]), 0.0, -np.sin(o.rotation_y[0])])
    np.testing.assert_allclose(xyz(tail), o.center_m[0] + 2.0 * ahead)
    np.testing.assert_allclose(xyz(tip), o.center_m[0] + 3.0 * ahead)


def test_label_is_above_the_box():
    drawn = by_kind(markers.to_marker_array(result(2), (), plain_new))
    label = drawn['front/labels', 0]
    assert label.text == 'Car 0.90 20.0 m'
    assert drawn['front/labels', 1].text == 'Tram 0.80 23.4 m'
    assert label.pose.position.y < objects(1).center_m[0, 1] - 0.75  # y is down


def test_classes_have_colours():
    drawn = by_kind(markers.to_marker_array(result(2), (), plain_new))
    car, tram = (drawn['front/boxes', row].color for row in range(2))
    assert (car.r, car.g, car.b) == tuple(each / 255 for each in style.CLASS_COLOURS['car'])
    assert (tram.r, tram.g, tram.b) == tuple(each / 255 for each in style.OTHER_COLOUR)


def test_markers_of_removed_ids_are_deleted_in_the_same_array():
    made = markers.to_marker_array(result(2, ids=(0, 7)), (0, 1, 5), plain_new).markers
    deleted = {(each.ns, each.id) for each in made[1:] if each.action == DELETE}
    assert deleted == {(f'front/{kind}', id) for kind in markers.MARKER_KINDS for id in (1, 5)}
    added = {each.id for each in made if each.action == markers.ADD}
    assert added == {0, 7}
    assert all(each.pose.orientation.w == 1.0 for each in made)


def tracked(n, velocities):
    return replace(result(n), velocity_m_s=np.array(velocities, float))


@pytest.mark.parametrize('seed', range(3))
def test_points_are_the_same_in_another_frame(seed):
    target, frame_result = random_target(seed), tracked(2, [[1.0, 0, 3], [0, 0, -4]])
    in_camera = markers.to_marker_array(frame_result, (5,), plain_new).markers
    in_target = markers.to_marker_array(frame_result, (5,), plain_new, target=target).markers
    assert {each.header.frame_id for each in in_target} == {'base_link'}
    assert {each.header.stamp.nanosec for each in in_target} == {STAMP_NS % 10**9}
    for a, b in zip(in_camera, in_target, strict=True):
        assert (a.ns, a.id, a.action) == (b.ns, b.id, b.action)
        points = [(xyz(p), xyz(q)) for p, q in zip(positions(a), positions(b), strict=True)]
        for in_cam, actual in points:
            moved = target.target_T_cam @ [*in_cam, 1.0]
            np.testing.assert_allclose(actual, moved[:3], atol=1e-9)
    boxes = recorded_boxes.boxes_from_markers(
        markers.to_marker_array(frame_result, (), plain_new, target=target)
    )
    sides = np.linalg.norm(np.diff(boxes.edges_m.reshape(2, 12, 2, 3), axis=2), axis=-1)
    for one in sides:  # sizes are unchanged
        np.testing.assert_allclose(np.sort(one.ravel()), [1.5] * 4 + [1.6] * 4 + [4.0] * 4)


def positions(marker):
    """Return the points of a marker, or the position of its text."""
    if marker.action == DELETE:
        return []
    has_text = marker.type == markers.TEXT_VIEW_FACING
    return [marker.pose.position] if has_text else marker.points


def test_boxes_of_a_left_camera_are_to_the_left_of_the_vehicle():
    """In the vehicle, the camera's x is ahead, its y is down, its z is to the left."""
    left = np.array([[1.0, 0, 0, 1.2], [0, 0, 1, 0.4], [0, -1, 0, 1.6], [0, 0, 0, 1]])
    frame_result = result(1)  # 1 m behind the camera, 1 m below it, 20 m to the left
    drawn = by_kind(
        markers.to_marker_array(frame_result, (), plain_new, target=TargetFrame('base_link', left))
    )
    center = np.mean([xyz(point) for point in drawn['front/boxes', 0].points], 0)
    np.testing.assert_allclose(center, [1.2 - 1.0, 0.4 + 20.0, 1.6 - 1.0])
    assert drawn['front/labels', 0].pose.position.z == pytest.approx(1.6 - 1.0 + 0.75 + 0.5)


def test_velocity_arrow_ends_at_the_position_in_one_second():
    frame_result = tracked(3, [[1.0, 0, 3], [0.1, 0, 0.2], [0, 0, -9]])
    drawn = by_kind(markers.to_marker_array(frame_result, (), plain_new))
    assert len(drawn) == 1 + 3 * 4
    for id in (0, 2):
        arrow = drawn['front/velocity', id]
        tail, tip = map(np.array, map(xyz, arrow.points))
        assert (arrow.type, arrow.action) == (ARROW, markers.ADD)
        np.testing.assert_allclose(tail, frame_result.objects.center_m[id])
        np.testing.assert_allclose(tip - tail, frame_result.velocity_m_s[id])
    assert drawn['front/velocity', 1].action == DELETE  # slower than MIN_SPEED_M_S
    texts = [drawn['front/labels', id].text for id in range(3)]
    assert [text.rsplit(' ', 1)[1] for text in texts] == ['#0', '#1', '#2']


def test_all_markers_of_an_ended_track_are_deleted():
    made = markers.to_marker_array(tracked(1, [[0, 0, 5.0]]), (0, 4), plain_new).markers
    deleted = [each.ns for each in made[1:] if each.action == DELETE]
    assert deleted == [f'front/{each}' for each in (*markers.MARKER_KINDS, 'velocity')]


def test_result_without_objects_deletes_all_markers():
    frame_result = tracked(2, [[0, 0, 5.0], [1, 0, 0]])
    empty = markers.to_marker_array(
        frame_result.without_objects(), frame_result.ids, plain_new
    ).markers
    drawn = markers.to_marker_array(frame_result, (), plain_new).markers
    assert {(each.ns, each.id) for each in empty} == {(each.ns, each.id) for each in drawn}
    assert {each.action for each in empty} == {DELETE}


@pytest.mark.parametrize('bad', [np.eye(3), np.full((4, 4), np.nan)])
def test_invalid_transform_raises(bad):
    with pytest.raises(ValueError, match=r'finite \(4, 4\) matrix'):
        TargetFrame('base_link', bad)


MAKERS = {
    'visualization_msgs/msg/MarkerArray': lambda new: markers.to_marker_array(
        tracked(2, [[1.0, 0, 3], [0, 0, 0]]), (0, 1, 2), new, target=random_target(0)
    ),
    'sensor_msgs/msg/CompressedImage': lambda new: annotated_image.to_annotated_image(
        np.full((40, 60, 3), 90, np.uint8),
        result(2),
        np.array([[30.0, 0, 30, 0], [0, 30, 20, 0], [0, 0, 1, 0]]),
        new,
    ),
    'vision_msgs/msg/Detection3DArray': lambda new: detections.to_detection_array(result(2), new),
}


@pytest.mark.parametrize('name', MAKERS)
def test_ros_and_rosbags_serialise_the_same_message(name):
    """Messages of both factories are deserialised by both libraries."""
    ros_messages = pytest.importorskip('mono3d_ros.node.message_factory')
    if ros_messages.message_class(name) is None:
        pytest.skip(f'{name.split("/")[0]} of ROS is not installed')
    serialization = pytest.importorskip('rclpy.serialization')
    store, make = make_typestore(), MAKERS[name]
    ros, bagged = make(ros_messages.make_message), make(make_message_factory(store))
    by_ros = serialization.serialize_message(ros)
    by_bag = bytes(store.serialize_cdr(bagged, name))

    read = [serialization.deserialize_message(each, type(ros)) for each in (by_ros, by_bag)]
    assert read[0] == read[1]
    read = [repr(store.deserialize_cdr(each, name)) for each in (by_ros, by_bag)]
    assert read[0] == read[1]
