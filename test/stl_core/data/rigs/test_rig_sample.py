"""Labels between the frames of cameras and of the vehicle."""

import dataclasses

import numpy as np
import pytest
from toy_rig_source import CAMERAS, NAMES, ToyRigConfig, ToyRigSource, camera

from stl_core.data.frame_source import DataError, SourceSample
from stl_core.data.rigs.sample import (
    camera_names,
    camera_poses,
    forward_camera_pose,
    labels_to_vehicle,
    objects_to_camera,
    sample_labels,
)
from stl_core.geometry import box_corners
from stl_core.types import Labels
from stl_core.vehicle_types import VehicleObjects


def toy_sample(**options):
    return ToyRigSource(ToyRigConfig(**options)).read('s0')


def two_opposite_cars():
    return VehicleObjects(
        class_id=[0, 0],
        score=[1, 1],
        center_m=[[8.0, 6.0, 0.9], [-9.0, -4.0, 1.1]],
        size_hwl_m=[[1.5, 1.7, 4.1]] * 2,
        yaw=[0.3, 0.3 - np.pi],
        velocity_mps=[[3.0, 1.0], [np.nan, np.nan]],
    )


def as_labels(objects):
    count = len(objects)
    return Labels(
        name=['Car'] * count,
        truncated=np.zeros(count),
        occluded=np.zeros(count),
        alpha=np.zeros(count),
        score=objects.score,
        center_m=objects.center_m,
        size_hwl_m=objects.size_hwl_m,
        rotation_y=objects.rotation_y,
        box_px=objects.box_px,
        velocity_mps=objects.velocity_mps,
    )


@pytest.mark.parametrize('name', list(CAMERAS))
def test_two_opposite_boxes_keep_their_headings_in_every_camera(name):
    """N5: read off the rotated length axis; back in the vehicle frame to the last digit."""
    _, pose = camera(name)
    objects = two_opposite_cars()
    inside = objects_to_camera(objects, pose, np.zeros((2, 4)))
    corners = box_corners(inside.center_m, inside.size_hwl_m, inside.rotation_y)
    corners = corners @ pose[:3, :3].T + pose[:3, 3]
    along = (corners[:, [0, 1, 4, 5]].mean(1) - corners[:, [2, 3, 6, 7]].mean(1))[:, :2]
    heading = np.column_stack([np.cos(objects.yaw), np.sin(objects.yaw)])
    np.testing.assert_allclose(along, 4.1 * heading, atol=1e-9)
    back = labels_to_vehicle(as_labels(inside), pose)
    np.testing.assert_allclose(back.center_m, objects.center_m, atol=1e-9)
    np.testing.assert_allclose(np.exp(1j * back.yaw), np.exp(1j * objects.yaw), atol=1e-9)
    np.testing.assert_allclose(back.velocity_mps, objects.velocity_mps, atol=1e-9)


def test_the_pitch_of_a_camera_does_not_turn_a_heading_by_more_than_it_foreshortens():
    pitch = np.deg2rad(3)
    _, pose = camera('front')
    tilt = np.eye(4)
    tilt[1:3, 1:3] = [[np.cos(pitch), -np.sin(pitch)], [np.sin(pitch), np.cos(pitch)]]
    objects = two_opposite_cars()
    inside = objects_to_camera(objects, pose @ tilt, np.zeros((2, 4)))
    back = labels_to_vehicle(as_labels(inside), pose @ tilt)
    turned = np.angle(np.exp(1j * (back.yaw - objects.yaw)))
    assert np.abs(turned).max() < np.deg2rad(0.1)


def test_a_single_camera_stands_level_above_the_origin():
    pose = forward_camera_pose(1.65)
    ahead, right, down = (pose @ [*axis, 0] for axis in ([0, 0, 1], [1, 0, 0], [0, 1, 0]))
    assert ahead[:3].tolist() == [1, 0, 0]
    assert right[:3].tolist() == [0, -1, 0]
    assert down[:3].tolist() == [0, 0, -1]
    sample = toy_sample()
    image = dataclasses.replace(sample.images[0], vehicle_T_cam=None)
    alone = SourceSample('s', (image,))
    assert np.array_equal(camera_poses(alone)[0], pose)
    labels = sample_labels(alone)
    np.testing.assert_allclose(labels.center_m[:, 0], image.labels.center_m[:, 2])
    # KITTI: rotation_y 0 heads to the right, which is -y of the vehicle
    np.testing.assert_allclose(
        np.exp(1j * labels.yaw), np.exp(1j * (-image.labels.rotation_y - np.pi / 2)), atol=1e-9
    )


def test_labels_of_the_sample_come_before_those_of_images():
    sample = toy_sample()
    assert sample_labels(sample) is sample.labels


@pytest.mark.parametrize(
    ('change', 'function', 'message'),
    [
        ({'labels': None}, sample_labels, 'sample s0: no labels around the vehicle'),
        ({'pose': None}, camera_poses, "camera 'left' has no vehicle_T_cam"),
        ({'camera': 'front'}, lambda s: camera_names([s]), 'two images of one camera'),
    ],
)
def test_a_sample_that_is_no_rig_is_refused_by_name(change, function, message):
    sample = toy_sample()
    if 'labels' in change:
        sample = dataclasses.replace(sample, labels=None)
    else:
        front, left, back = sample.images
        name = change.get('camera', 'left')
        left = dataclasses.replace(left, camera=name)
        if 'pose' in change:
            left = dataclasses.replace(left, vehicle_T_cam=None)
        sample = dataclasses.replace(sample, images=(front, left, back))
    with pytest.raises(DataError, match=message):
        function(sample)


def test_cameras_are_named_in_the_order_in_which_they_appear():
    source = ToyRigSource(ToyRigConfig(missing=('front',)))
    samples = [source.read('s1'), source.read('s0')]
    assert camera_names(samples) == ('left', 'back', 'front')
    assert NAMES[0] == 'Car'
