"""Detection messages: boxes in any frame, covariance along rays, labels of Autoware."""

from dataclasses import replace

import numpy as np
import pytest
from frame_results import STAMP_NS, objects, plain_new, random_target, result, xyz
from hypothesis import given, settings
from hypothesis import strategies as st
from rosbags.typesys import get_types_from_msg
from scipy.spatial.transform import Rotation

from mono3d_ros.bags.message_types import make_message_factory, make_typestore
from mono3d_ros.camera_frame import TargetFrame
from mono3d_ros.messages import detections
from mono3d_ros.messages.detections import AUTOWARE_LABELS
from stl_core.geometry import box_corners

#: (4, 4) from a camera that looks to the left to base_link.
LEFT = np.array([[1.0, 0, 0, 1.2], [0, 0, 1, 0.4], [0, -1, 0, 1.6], [0, 0, 0, 1]])
#: Signs of corners 0 to 7 of geometry.box_corners in ROS axes: x ahead, y to the left, z up.
SIGNS = np.array([[x, y, z] for y in (1, -1) for x, z in ((1, 1), (1, -1), (-1, -1), (-1, 1))])


def ros_box_corners(pose, size):
    """Compute the corners of a box by the conventions of ROS."""
    q = pose.orientation
    rotation = Rotation.from_quat([q.x, q.y, q.z, q.w]).as_matrix()
    return xyz(pose.position) + SIGNS * (np.array(xyz(size)) / 2) @ rotation.T


def test_detection_array_contains_the_same_boxes_in_ros_axes():
    frame_result = result(3, ids=(4, 7, 9))
    array = detections.to_detection_array(frame_result, plain_new)
    assert array.header.frame_id == 'front_optical'
    assert [each.id for each in array.detections] == ['4', '7', '9']
    hypotheses = [each.results[0].hypothesis for each in array.detections]
    assert [each.class_id for each in hypotheses] == ['Car', 'Tram', 'Car']
    assert [each.score for each in hypotheses] == frame_result.objects.score.tolist()
    boxes = box_corners(
        frame_result.objects.center_m,
        frame_result.objects.size_hwl_m,
        frame_result.objects.rotation_y,
    )
    for each, box in zip(array.detections, boxes, strict=True):
        corners = ros_box_corners(each.bbox.center, each.bbox.size)
        np.testing.assert_allclose(corners, box, atol=1e-9)
        assert each.results[0].pose.pose == each.bbox.center


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.floats(-np.pi, np.pi))
def test_corners_and_sizes_are_the_same_in_any_frame(seed, rotation_y):
    target = random_target(seed)
    frame_result = replace(
        result(2), objects=replace(objects(2), rotation_y=[rotation_y, -rotation_y])
    )
    array = detections.to_detection_array(frame_result, plain_new, target=target)
    assert array.header.frame_id == array.detections[0].header.frame_id == 'base_link'
    o = frame_result.objects
    boxes = box_corners(o.center_m, o.size_hwl_m, o.rotation_y)
    for each, box in zip(array.detections, boxes, strict=True):
        assert xyz(each.bbox.size) == (4.0, 1.6, 1.5)
        moved = box @ target.target_T_cam[:3, :3].T + target.target_T_cam[:3, 3]
        np.testing.assert_allclose(
            ros_box_corners(each.bbox.center, each.bbox.size), moved, atol=1e-9
        )


def test_left_camera_yields_identity_rotation_for_a_car_driving_ahead():
    """A car that faces right in the image drives ahead: its yaw in base_link is 0."""
    frame_result = replace(result(1), objects=replace(objects(1), rotation_y=[0.0]))
    (each,) = detections.to_detection_array(
        frame_result, plain_new, target=TargetFrame('base_link', LEFT)
    ).detections
    q = each.bbox.center.orientation
    np.testing.assert_allclose(np.abs([q.x, q.y, q.z, q.w]), [0, 0, 0, 1], atol=1e-12)
    np.testing.assert_allclose(xyz(each.bbox.center.position), [0.2, 20.4, 0.6])


@pytest.mark.parametrize('target', [None, TargetFrame('base_link', LEFT), random_target(3)])
def test_covariance_of_a_centre_is_along_its_ray(target):
    o = replace(objects(3), depth_sigma_m=[0.5, 2.0, 4.0])
    array = detections.to_detection_array(replace(result(3), objects=o), plain_new, target=target)
    matrix = np.eye(4) if target is None else target.target_T_cam
    for each, center, sigma in zip(array.detections, o.center_m, o.depth_sigma_m, strict=True):
        covariance = np.reshape(each.results[0].pose.covariance, (6, 6))
        # the centre if the depth is one standard deviation larger
        farther = center * (center[2] + sigma) / center[2]
        shift = matrix[:3, :3] @ (farther - center)
        np.testing.assert_allclose(covariance[:3, :3], np.outer(shift, shift), atol=1e-12)
        assert not covariance[3:].any()
        assert not covariance[:, 3:].any()
        if target is None:
            assert covariance[2, 2] == pytest.approx(sigma**2)  # exactly the variance of the depth


def test_infinite_depth_sigma_yields_a_finite_covariance():
    o = replace(objects(1), depth_sigma_m=[np.inf])
    (each,) = detections.to_detection_array(replace(result(1), objects=o), plain_new).detections
    assert np.reshape(each.results[0].pose.covariance, (6, 6))[2, 2] == pytest.approx(20.0**2)


#: Definitions of autoware_perception_msgs, without constants.
AUTOWARE = {
    'ObjectClassification': 'uint8 label\nfloat32 probability',
    'DetectedObjectKinematics': (
        'geometry_msgs/PoseWithCovariance pose_with_covariance\nbool has_position_covariance\n'
        'uint8 orientation_availability\n'
        'geometry_msgs/TwistWithCovariance twist_with_covariance\n'
        'bool has_twist\nbool has_twist_covariance'
    ),
    'Shape': 'uint8 type\ngeometry_msgs/Polygon footprint\ngeometry_msgs/Vector3 dimensions',
    'DetectedObject': (
        'float32 existence_probability\n'
        'autoware_perception_msgs/ObjectClassification[] classification\n'
        'autoware_perception_msgs/DetectedObjectKinematics kinematics\n'
        'autoware_perception_msgs/Shape shape'
    ),
    'DetectedObjects': (
        'std_msgs/Header header\nautoware_perception_msgs/DetectedObject[] objects'
    ),
}


@pytest.fixture(scope='module')
def store():
    store = make_typestore()
    for name, text in AUTOWARE.items():
        full = f'autoware_perception_msgs/msg/{name}'
        if full not in store.types:
            store.register(get_types_from_msg(text, full))
    return store


def autoware(frame_result, store, target=None):
    """Build a DetectedObjects message, serialise it and read it back."""
    name = 'autoware_perception_msgs/msg/DetectedObjects'
    message = detections.to_detected_objects(
        frame_result, make_message_factory(store), target=target
    )
    return store.deserialize_cdr(store.serialize_cdr(message, name), name)


def test_detected_objects_contain_the_same_boxes(store):
    frame_result, target = result(3), random_target(5)
    array = autoware(frame_result, store, target)
    expected = detections.to_detection_array(
        frame_result, make_message_factory(store), target=target
    ).detections
    assert array.header.frame_id == 'base_link'
    assert array.header.stamp.nanosec == STAMP_NS % 10**9
    for each, reference, score in zip(
        array.objects, expected, frame_result.objects.score, strict=True
    ):
        assert each.existence_probability == pytest.approx(score)
        kinematics = each.kinematics
        assert kinematics.pose_with_covariance.pose == reference.bbox.center
        np.testing.assert_array_equal(
            kinematics.pose_with_covariance.covariance, reference.results[0].pose.covariance
        )
        assert kinematics.has_position_covariance
        assert kinematics.orientation_availability == 2
        assert not kinematics.has_twist
        assert (each.shape.type, each.shape.dimensions) == (0, reference.bbox.size)
    assert [each.classification[0].label for each in array.objects] == [
        1,
        0,
        1,
    ]  # no label for Tram


def test_kitti_classes_have_their_autoware_labels():
    labels = {'car': 1, 'truck': 2, 'bus': 3, 'motorcycle': 5, 'cyclist': 6, 'pedestrian': 7}
    assert {name: AUTOWARE_LABELS[name] for name in labels} == labels


def test_twists_are_along_the_axes_of_the_object(store):
    """Two cars: one drives ahead, the other backwards and slightly to its right."""
    yaws, speeds = np.array([0.7, -2.0]), np.array([9.0, -3.0])
    ahead = np.column_stack([np.cos(yaws), np.zeros(2), -np.sin(yaws)])
    left = np.column_stack([np.sin(yaws), np.zeros(2), np.cos(yaws)])
    frame_result = replace(
        result(2),
        objects=replace(objects(2), rotation_y=yaws),
        velocity_m_s=speeds[:, None] * ahead + [[0.0], [-0.5]] * left,
    )
    for target in (None, random_target(6)):
        twists = [
            each.kinematics.twist_with_covariance.twist.linear
            for each in autoware(frame_result, store, target).objects
        ]
        np.testing.assert_allclose(xyz(twists[0]), [9.0, 0.0, 0.0], atol=1e-6)
        np.testing.assert_allclose(xyz(twists[1]), [-3.0, -0.5, 0.0], atol=1e-6)
    assert all(each.kinematics.has_twist for each in autoware(frame_result, store).objects)
