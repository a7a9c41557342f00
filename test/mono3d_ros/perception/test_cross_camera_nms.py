"""Cross-camera NMS: of overlapping boxes of two cameras only the higher-scoring one is kept."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation
from shapely import affinity
from shapely.geometry import box as rectangle

from mono3d_ros.perception.cross_camera_nms import suppress_duplicates
from mono3d_ros.perception.tracker import UPRIGHT_T_CAM
from stl_core.geometry import wrap_angle
from stl_core.types import Objects3D


def camera_pose(yaw, x=0.0, y=0.0, pitch=0.0):
    """Return the (4, 4) pose of a camera 1.6 m above the origin, turned left by yaw, then down."""
    matrix = np.eye(4)
    rotation = Rotation.from_euler('zy', [yaw, pitch]).as_matrix()
    matrix[:3, :3] = rotation @ UPRIGHT_T_CAM[:3, :3]
    matrix[:3, 3] = x, y, 1.6
    return matrix


def visible_objects(cars, camera):
    """Build objects in a camera frame from cars: x, y, heading, score, class on the vehicle."""
    cars = np.reshape(np.asarray(cars, float), (-1, 5))
    count, rotation = len(cars), camera[:3, :3]
    center_m = np.column_stack([cars[:, :2], np.full(count, 0.8)])
    ahead = np.column_stack([np.cos(cars[:, 2]), np.sin(cars[:, 2]), np.zeros(count)]) @ rotation
    return Objects3D(
        class_id=cars[:, 4],
        score=cars[:, 3],
        center_m=(center_m - camera[:3, 3]) @ rotation,
        size_hwl_m=np.tile([1.5, 1.8, 4.2], (count, 1)),
        rotation_y=wrap_angle(np.arctan2(-ahead[:, 2], ahead[:, 0])),
        box_px=np.zeros((count, 4)),
        depth_sigma_m=np.ones(count),
    )


def held_headings(objects, camera):
    """Return the headings on the vehicle that objects hold; a pitched camera rounds them."""
    ry = objects.rotation_y
    ahead = np.stack([np.cos(ry), np.zeros(len(ry)), -np.sin(ry)])
    x, y, _ = camera[:3, :3] @ ahead
    return np.arctan2(y, x).tolist()


FRONT, LEFT = camera_pose(0.0, x=1.0), camera_pose(np.pi / 2, y=0.5)


def scores(kept):
    return [each.score.tolist() for each in kept]


@pytest.mark.parametrize(('front', 'left'), [(0.9, 0.6), (0.6, 0.9)])
def test_object_in_both_cameras_is_kept_by_the_higher_scoring_one(front, left):
    car = (8.0, 8.0, 0.4)
    objects = [
        visible_objects([(*car, front, 0)], FRONT),
        visible_objects([(*car, left, 0)], LEFT),
    ]
    kept = suppress_duplicates(objects, [FRONT, LEFT], 0.2)
    assert scores(kept) == ([[0.9], []] if front > left else [[], [0.9]])


def test_other_positions_classes_and_objects_of_one_camera_are_kept():
    front = visible_objects(
        [(8, 8, 0.4, 0.9, 0), (20, 0, 0.0, 0.5, 0), (20.1, 0, 0.0, 0.4, 0)], FRONT
    )
    left = visible_objects([(8, 8, 0.4, 0.8, 1), (8, 13, 0.4, 0.7, 0)], LEFT)
    kept = suppress_duplicates([front, left], [FRONT, LEFT], 0.2)
    assert scores(kept) == [front.score.tolist(), left.score.tolist()]


def test_objects_of_a_camera_of_unknown_pose_are_kept():
    car = (8.0, 8.0, 0.4)
    objects = [
        visible_objects([(*car, 0.9 - 0.1 * i, 0)], each)
        for i, each in enumerate((FRONT, LEFT, LEFT))
    ]
    kept = suppress_duplicates(objects, [FRONT, None, LEFT], 0.2)
    assert scores(kept) == [[0.9], [0.8], []]
    assert scores(suppress_duplicates(objects, [None, None, LEFT], 0.2)) == [[0.9], [0.8], [0.7]]


def test_suppressed_box_suppresses_no_other():
    """Three in a row, each overlapping the next: the first suppresses the second only."""
    cars = [(5.0 + 2.5 * i, 8.0, 0.0, 0.9 - 0.1 * i, 0) for i in range(3)]
    cameras = [FRONT, LEFT, camera_pose(0.8)]
    objects = [visible_objects([car], camera) for car, camera in zip(cars, cameras, strict=True)]
    assert scores(suppress_duplicates(objects, cameras, 0.2)) == [[0.9], [], [0.7]]


def test_tilted_camera_has_the_same_ground_plane():
    car = (12.0, 3.0, 0.2)
    tilted = camera_pose(0.3, x=1.2, y=-0.4, pitch=0.25)
    objects = [visible_objects([(*car, 0.9, 0)], FRONT), visible_objects([(*car, 0.8, 0)], tilted)]
    assert scores(suppress_duplicates(objects, [FRONT, tilted], 0.5)) == [[0.9], []]


def footprint(car):
    x, y, heading = car[:3]
    flat = rectangle(x - 2.1, y - 0.9, x + 2.1, y + 0.9)
    return affinity.rotate(flat, heading, origin=(x, y), use_radians=True)


def iou(one, other):
    a, b = footprint(one), footprint(other)
    intersection = a.intersection(b).area
    return intersection / (a.area + b.area - intersection)


CARS = st.lists(
    st.tuples(
        st.floats(4, 12),
        st.floats(4, 12),
        st.floats(-3, 3),
        st.floats(0.1, 1.0),
        st.integers(0, 1),
    ),
    max_size=4,
)


NEAR_THRESHOLD = (
    [(6.87109375, 9.9765625, -1.015625, 1.0, 0)],
    [(7.42578125, 11.98828125, 1.0, 1.0, 0)],
)


@settings(max_examples=60, deadline=None)
@given(CARS, CARS, st.floats(-3, 3))
@example(*NEAR_THRESHOLD, 0.0)
def test_iou_equals_that_of_shapely(cars_a, cars_b, yaw):
    cameras = [camera_pose(yaw, x=0.7), camera_pose(-yaw / 2, y=-0.3, pitch=0.1)]
    objects = [
        visible_objects(cars, camera)
        for cars, camera in zip((cars_a, cars_b), cameras, strict=True)
    ]
    rows = [
        (*car[:2], heading, *car[3:], number)
        for number, cars in enumerate((cars_a, cars_b))
        for car, heading in zip(cars, held_headings(objects[number], cameras[number]), strict=True)
    ]
    overlaps = [
        iou(a, b) for a in rows for b in rows if a[4] == b[4] and a[5] != b[5] and a[3] >= b[3]
    ]
    if any(abs(each - 0.2) < 1e-6 for each in overlaps):
        return  # too near to the threshold
    kept = []
    for row in sorted(rows, key=lambda row: -row[3]):
        if all(row[5] == k[5] or row[4] != k[4] or iou(row, k) <= 0.2 for k in kept):
            kept.append(row)
    expected = [[row[3] for row in rows if row in kept and row[5] == camera] for camera in (0, 1)]
    assert scores(suppress_duplicates(objects, cameras, 0.2)) == expected


def test_max_overlap_of_one_keeps_all_objects_unchanged():
    car = (8.0, 8.0, 0.4)
    objects = [
        visible_objects([(*car, 0.9, 0)], FRONT),
        visible_objects([(*car, 0.8, 0)], LEFT),
        Objects3D.empty(),
    ]
    kept = suppress_duplicates(objects, [FRONT, LEFT, LEFT], 1.0)
    for before, after in zip(objects, kept, strict=True):
        np.testing.assert_array_equal(before.center_m, after.center_m)
    assert suppress_duplicates([], [], 0.2) == []
    far = replace(objects[0], center_m=np.full((1, 3), 1e6))
    assert scores(suppress_duplicates([far, objects[1]], [FRONT, LEFT], 0.2)) == [[0.9], [0.8]]
