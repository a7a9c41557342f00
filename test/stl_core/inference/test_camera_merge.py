"""Detections of several cameras around a vehicle."""

import numpy as np
import pytest

from stl_core.geometry import wrap_angle
from stl_core.inference.camera_merge import merge_cameras, objects_to_vehicle
from stl_core.types import Objects3D

#: x right, y down, z forward as axes of a vehicle that looks along x.
LOOKS_AHEAD = np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]])


def pose(yaw=0.0, pitch=0.0, place=(1.5, 0.0, 1.5)):
    cos, sin = np.cos(yaw), np.sin(yaw)
    about_z = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
    cos, sin = np.cos(pitch), np.sin(pitch)
    about_y = np.array([[cos, 0, sin], [0, 1, 0], [-sin, 0, cos]])
    transform = np.eye(4)
    transform[:3, :3] = about_z @ about_y @ LOOKS_AHEAD
    transform[:3, 3] = place
    return transform


def camera_object(vehicle_T_cam, center_m, yaw, score=0.9, class_id=0, velocity=(3.0, 4.0)):
    """Return an object of the vehicle frame as a camera sees it."""
    rotation = vehicle_T_cam[:3, :3]
    center = rotation.T @ (np.array(center_m) - vehicle_T_cam[:3, 3])
    axis = rotation.T @ [np.cos(yaw), np.sin(yaw), 0]
    return Objects3D(
        class_id=[class_id],
        score=[score],
        center_m=[center],
        size_hwl_m=[[1.6, 1.9, 4.5]],
        rotation_y=[np.arctan2(-axis[2], axis[0])],
        box_px=[[0, 0, 1, 1]],
        depth_sigma_m=[0.5],
        velocity_mps=[rotation.T @ [*velocity, 0]],
        attribute_id=[2],
    )


@pytest.mark.parametrize('yaw', np.radians([0, -55, 110, 180]))
def test_objects_return_to_the_vehicle_frame(yaw):
    camera = pose(yaw)
    center = [20 * np.cos(yaw + 0.2), 20 * np.sin(yaw + 0.2), 0.8]
    found = objects_to_vehicle(camera_object(camera, center, 0.7), camera)
    np.testing.assert_allclose(found.center_m, [center], atol=1e-9)
    assert found.yaw[0] == pytest.approx(0.7)
    np.testing.assert_allclose(found.velocity_mps, [[3, 4]], atol=1e-9)
    assert found.attribute_id.tolist() == [2]
    assert found.range_sigma_m[0] > 0.5  # an error of depth is longer along an oblique ray


def test_pitch_of_a_camera_does_not_leak_into_yaw():
    camera = pose(0.3, pitch=0.1)
    for heading in np.linspace(-3, 3, 13):
        found = objects_to_vehicle(camera_object(camera, [15.0, 5, 1], heading), camera)
        # turned about the camera's tilted vertical: at most 0.3 degrees at 0.1 rad of pitch
        assert abs(wrap_angle(found.yaw[0] - heading)) < 0.006


def test_an_object_of_two_cameras_is_kept_once_with_the_higher_score():
    left, right = pose(0.5), pose(-0.5)
    cars = [
        camera_object(left, [20.0, 0, 1], 0.1, score=0.4),
        camera_object(right, [20.3, 0.2, 1], 0.1, score=0.8),
    ]
    merged = merge_cameras(cars, [left, right])
    assert merged.score.tolist() == [0.8]
    other = camera_object(left, [20.0, 0, 1], 0.1, score=0.4, class_id=1)
    assert merge_cameras([other, cars[1]], [left, right]).class_id.tolist() == [0, 1]
    apart = camera_object(left, [20.0, 4, 1], 0.1, score=0.95)
    assert merge_cameras([apart, cars[1]], [left, right]).score.tolist() == [0.95, 0.8]


def test_no_camera_and_another_number_of_poses():
    assert len(merge_cameras([], [])) == 0
    with pytest.raises(ValueError, match='1 cameras but 0 poses'):
        merge_cameras([Objects3D.empty()], [])
