"""Detection messages of a result: vision_msgs Detection3DArray, Autoware DetectedObjects."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from mono3d_ros.camera_frame import FrameResult, TargetFrame, identity_target
from mono3d_ros.messages.primitives import MessageFactory, to_header, to_pose, to_vector
from stl_core.geometry import depth_covariance
from stl_core.types import Array, Objects3D

#: autoware_perception_msgs/msg/ObjectClassification label by lower-case class name;
#: other names are UNKNOWN.
AUTOWARE_LABELS = MappingProxyType(
    {
        'car': 1,
        'van': 1,
        'truck': 2,
        'bus': 3,
        'trailer': 4,
        'motorcycle': 5,
        'bicycle': 6,
        'cyclist': 6,
        'pedestrian': 7,
        'person': 7,
        'person_sitting': 7,
        'animal': 8,
    }
)
UNKNOWN = 0
#: autoware_perception_msgs/msg/DetectedObjectKinematics: orientation, front and back
#: distinguished.
AVAILABLE = 2
#: autoware_perception_msgs/msg/Shape
BOUNDING_BOX = 0


def to_detection_array(
    result: FrameResult, make_message: MessageFactory, *, target: TargetFrame | None = None
) -> Any:
    """
    Build a Detection3DArray of a result.

    Boxes have the ROS axes, x along the length, y to the left, z up, and sizes in that order, so
    they follow the ROS convention after a transform to the vehicle frame.

    :param result: detected objects.
    :param make_message: message factory.
    :param target: frame of the message; None: the camera's body_velocity.
    :return: vision_msgs Detection3DArray; its covariance is that of the depth, along the rays.
    """
    target = target or identity_target(result.frame_id)
    header = to_header(result.stamp_ns, target.frame_id, make_message)
    boxes = to_ros_boxes(result.objects, target, result.velocity_m_s)
    messages = [
        _detection(result, boxes, row, header, make_message) for row in range(len(result.objects))
    ]
    return make_message('vision_msgs/msg/Detection3DArray', header=header, detections=messages)


def to_detected_objects(
    result: FrameResult, make_message: MessageFactory, *, target: TargetFrame | None = None
) -> Any:
    """
    Build the DetectedObjects message of Autoware.

    :param result: detected objects.
    :param make_message: message factory.
    :param target: frame of the message, base_link for Autoware; None: the camera's body_velocity.
    :return: autoware_perception_msgs DetectedObjects; with twists, along the axes of each object,
        if velocities are known.
    """
    target = target or identity_target(result.frame_id)
    header = to_header(result.stamp_ns, target.frame_id, make_message)
    boxes = to_ros_boxes(result.objects, target, result.velocity_m_s)
    messages = [
        _detected_object(result, boxes, row, make_message) for row in range(len(result.objects))
    ]
    return make_message(
        'autoware_perception_msgs/msg/DetectedObjects', header=header, objects=messages
    )


def _detection(
    result: FrameResult, boxes: RosBoxes, row: int, header: Any, make_message: MessageFactory
) -> Any:
    pose = _pose_with_covariance(boxes, row, make_message)
    hypothesis = make_message(
        'vision_msgs/msg/ObjectHypothesis',
        class_id=_class_name(result, row),
        score=float(result.objects.score[row]),
    )
    size = to_vector(boxes.size_lwh_m[row].tolist(), make_message)
    return make_message(
        'vision_msgs/msg/Detection3D',
        header=header,
        results=[
            make_message(
                'vision_msgs/msg/ObjectHypothesisWithPose', hypothesis=hypothesis, pose=pose
            )
        ],
        bbox=make_message('vision_msgs/msg/BoundingBox3D', center=pose.pose, size=size),
        id=str(result.ids[row]),
    )


def _detected_object(
    result: FrameResult, boxes: RosBoxes, row: int, make_message: MessageFactory
) -> Any:
    package = 'autoware_perception_msgs/msg'
    kinematics = {
        'pose_with_covariance': _pose_with_covariance(boxes, row, make_message),
        'has_position_covariance': True,
        'orientation_availability': AVAILABLE,
    }
    if boxes.velocity_m_s is not None:
        velocity = (
            Rotation.from_quat(boxes.quaternion_xyzw[row]).inv().apply(boxes.velocity_m_s[row])
        )
        twist = make_message(
            'geometry_msgs/msg/Twist', linear=to_vector(velocity.tolist(), make_message)
        )
        kinematics['twist_with_covariance'] = make_message(
            'geometry_msgs/msg/TwistWithCovariance', twist=twist
        )
        kinematics['has_twist'] = True
    label = AUTOWARE_LABELS.get(_class_name(result, row).lower(), UNKNOWN)
    size = to_vector(boxes.size_lwh_m[row].tolist(), make_message)
    return make_message(
        f'{package}/DetectedObject',
        existence_probability=float(result.objects.score[row]),
        classification=[
            make_message(f'{package}/ObjectClassification', label=label, probability=1.0)
        ],
        kinematics=make_message(f'{package}/DetectedObjectKinematics', **kinematics),
        shape=make_message(f'{package}/Shape', type=BOUNDING_BOX, dimensions=size),
    )


def _pose_with_covariance(boxes: RosBoxes, row: int, make_message: MessageFactory) -> Any:
    """Build the pose of a box with the covariance of its centre."""
    pose = to_pose(boxes.center_m[row].tolist(), make_message, boxes.quaternion_xyzw[row].tolist())
    covariance: Array = np.zeros((6, 6))
    covariance[:3, :3] = boxes.covariance[row]
    return make_message(
        'geometry_msgs/msg/PoseWithCovariance', pose=pose, covariance=covariance.ravel()
    )


def _class_name(result: FrameResult, row: int) -> str:
    return result.classes[int(result.objects.class_id[row])]


@dataclass(frozen=True)
class RosBoxes:
    """
    N boxes in a target frame, with the ROS axes: x along the length, y to the left, z up.

    :param center_m: (N, 3) centres.
    :param quaternion_xyzw: (N, 4) rotations from the axes of a box to the frame.
    :param size_lwh_m: (N, 3) length, width, height.
    :param covariance: (N, 3, 3) covariances of the centres, from depth_sigma_m, m^2.
    :param velocity_m_s: (N, 3) along the axes of the frame; None if unknown.
    """

    center_m: Array
    quaternion_xyzw: Array
    size_lwh_m: Array
    covariance: Array
    velocity_m_s: Array | None


def to_ros_boxes(
    objects: Objects3D, target: TargetFrame, velocity_m_s: Array | None = None
) -> RosBoxes:
    """
    Transform objects to a target frame.

    :param objects: N objects, camera frame.
    :param target: the target frame.
    :param velocity_m_s: (N, 3) velocities, camera frame; None if unknown.
    :return: N boxes.
    """
    rotation, velocity = target.rotation, velocity_m_s
    quaternion = Rotation.from_matrix(rotation).as_quat()
    return RosBoxes(
        center_m=target.transform_points(objects.center_m),
        quaternion_xyzw=_multiply_quaternions(quaternion, _yaw_to_quaternions(objects.rotation_y)),
        size_lwh_m=objects.size_hwl_m[:, ::-1],
        covariance=rotation @ depth_covariance(objects) @ rotation.T,
        velocity_m_s=None if velocity is None else velocity @ rotation.T,
    )


def _yaw_to_quaternions(rotation_y: Array) -> Array:
    """Return (N, 4) quaternions that rotate the axes of boxes with (N,) yaws to the camera."""
    # a quarter turn about x maps z to -y; the rotation about y follows
    sin, cos = (np.sqrt(0.5) * each(rotation_y / 2) for each in (np.sin, np.cos))
    return np.stack([cos, sin, -sin, cos], 1)


def _multiply_quaternions(a: Array, b: Array) -> Array:
    """Multiply (4,) and (N, 4) quaternions x y z w: rotation b, then rotation a."""
    x, y, z, w = a
    by_a = np.array([[w, -z, y, x], [z, w, -x, y], [-y, x, w, z], [-x, -y, -z, w]])
    return b @ by_a.T
