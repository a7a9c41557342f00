"""A result in numbers: for tools of ROS in general, and for Autoware."""

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

#: autoware_perception_msgs/msg/ObjectClassification by lower-case class name; else UNKNOWN.
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
#: autoware_perception_msgs/msg/DetectedObjectKinematics: front and back are told apart.
AVAILABLE = 2
#: autoware_perception_msgs/msg/Shape
BOUNDING_BOX = 0


def to_detection_array(
    result: FrameResult, make_message: MessageFactory, *, target: TargetFrame | None = None
) -> Any:
    """
    Say a result in numbers.

    A box has ROS's axes, x along the length, y to the left, z up, and sizes in that order: so it
    stays the usual box when a transform brings it into the frame of a vehicle.

    :param result: what was found.
    :param make_message: maker of messages.
    :param target: the frame to tell it in; None: the camera's own.
    :return: vision_msgs Detection3DArray; the covariance is that of the depth, along the rays.
    """
    target = target or identity_target(result.frame_id)
    header = to_header(result.stamp_ns, target.frame_id, make_message)
    boxes = to_ros_boxes(result.objects, target, result.velocity_m_s)
    found = [
        _detection(result, boxes, row, header, make_message) for row in range(len(result.objects))
    ]
    return make_message('vision_msgs/msg/Detection3DArray', header=header, detections=found)


def to_detected_objects(
    result: FrameResult, make_message: MessageFactory, *, target: TargetFrame | None = None
) -> Any:
    """
    Say a result in numbers as Autoware takes them.

    :param result: what was found.
    :param make_message: maker of messages.
    :param target: the frame to tell it in, Autoware wants base_link; None: the camera's own.
    :return: autoware_perception_msgs DetectedObjects; twists, along the axes of each object, where
        velocities are known.
    """
    target = target or identity_target(result.frame_id)
    header = to_header(result.stamp_ns, target.frame_id, make_message)
    boxes = to_ros_boxes(result.objects, target, result.velocity_m_s)
    found = [
        _detected_object(result, boxes, row, make_message) for row in range(len(result.objects))
    ]
    return make_message(
        'autoware_perception_msgs/msg/DetectedObjects', header=header, objects=found
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
        own = Rotation.from_quat(boxes.quaternion_xyzw[row]).inv().apply(boxes.velocity_m_s[row])
        twist = make_message(
            'geometry_msgs/msg/Twist', linear=to_vector(own.tolist(), make_message)
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
    """Make the pose of a box and what is not known of it."""
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
    N boxes in the frame of a target.

    :param center_m: (N, 3).
    :param quaternion_xyzw: (N, 4) quaternions of the boxes' axes.
    :param size_lwh_m: (N, 3) along these axes.
    :param covariance: (N, 3, 3) of the centres, by what is told of their depth.
    :param velocity_m_s: (N, 3) along the axes of the frame; None where it is not known.
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
    Bring objects into the frame of a target.

    :param objects: N objects, camera frame.
    :param target: the frame.
    :param velocity_m_s: (N, 3) camera frame; None where they are not known.
    :return: N boxes.
    """
    turn, known = target.rotation, velocity_m_s
    quaternion = Rotation.from_matrix(turn).as_quat()
    return RosBoxes(
        center_m=target.transform_points(objects.center_m),
        quaternion_xyzw=_multiply_quaternions(quaternion, _yaw_to_quaternions(objects.rotation_y)),
        size_lwh_m=objects.size_hwl_m[:, ::-1],
        covariance=turn @ depth_covariance(objects) @ turn.T,
        velocity_m_s=None if known is None else known @ turn.T,
    )


def _yaw_to_quaternions(rotation_y: Array) -> Array:
    """(N,) -> (N, 4) quaternions that turn the axes of a box into the camera's frame."""
    # a quarter turn about x brings z up to -y; the turn about y follows
    sin, cos = (np.sqrt(0.5) * each(rotation_y / 2) for each in (np.sin, np.cos))
    return np.stack([cos, sin, -sin, cos], 1)


def _multiply_quaternions(a: Array, b: Array) -> Array:
    """(4,) and (N, 4) quaternions x y z w -> (N, 4): the turn b, then the turn a."""
    x, y, z, w = a
    by_a = np.array([[w, -z, y, x], [z, w, -x, y], [-y, x, w, z], [-x, -y, -z, w]])
    return b @ by_a.T
