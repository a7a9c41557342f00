"""What two cameras see is told once, judged on the ground of the vehicle."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation
from shapely import affinity
from shapely.geometry import box as rectangle

from mono3d_ros.perception.cross_camera_nms import suppress_duplicates
from mono3d_ros.perception.tracker import UPRIGHT_T_CAM
from stl_core.geometry import wrap_angle
from stl_core.types import Objects3D


def place(yaw, x=0.0, y=0.0, pitch=0.0):
    """(4, 4) of a camera 1.6 m above the vehicle's origin, turned left by yaw, down by pitch."""
    matrix = np.eye(4)
    turn = Rotation.from_euler('zy', [yaw, pitch]).as_matrix()
    matrix[:3, :3] = turn @ UPRIGHT_T_CAM[:3, :3]
    matrix[:3, 3] = x, y, 1.6
    return matrix


def seen(cars, camera):
    """Make what a camera sees of cars, each x, y, heading, score, class on the vehicle."""
    cars = np.reshape(np.asarray(cars, float), (-1, 5))
    count, turn = len(cars), camera[:3, :3]
    at = np.column_stack([cars[:, :2], np.full(count, 0.8)])
    ahead = np.column_stack([np.cos(cars[:, 2]), np.sin(cars[:, 2]), np.zeros(count)]) @ turn
    return Objects3D(
        class_id=cars[:, 4],
        score=cars[:, 3],
        center_m=(at - camera[:3, 3]) @ turn,
        size_hwl_m=np.tile([1.5, 1.8, 4.2], (count, 1)),
        rotation_y=wrap_angle(np.arctan2(-ahead[:, 2], ahead[:, 0])),
        box_px=np.zeros((count, 4)),
        depth_sigma_m=np.ones(count),
    )


FRONT, LEFT = place(0.0, x=1.0), place(np.pi / 2, y=0.5)


def scores(kept):
    return [each.score.tolist() for each in kept]


@pytest.mark.parametrize(('front', 'left'), [(0.9, 0.6), (0.6, 0.9)])
def test_the_surer_camera_tells_what_both_see(front, left):
    at = (8.0, 8.0, 0.4)
    found = [seen([(*at, front, 0)], FRONT), seen([(*at, left, 0)], LEFT)]
    kept = suppress_duplicates(found, [FRONT, LEFT], 0.2)
    assert scores(kept) == ([[0.9], []] if front > left else [[], [0.9]])


def test_what_stands_elsewhere_is_of_another_class_or_seen_by_one_camera_is_kept():
    front = seen([(8, 8, 0.4, 0.9, 0), (20, 0, 0.0, 0.5, 0), (20.1, 0, 0.0, 0.4, 0)], FRONT)
    left = seen([(8, 8, 0.4, 0.8, 1), (8, 13, 0.4, 0.7, 0)], LEFT)
    kept = suppress_duplicates([front, left], [FRONT, LEFT], 0.2)
    assert scores(kept) == [front.score.tolist(), left.score.tolist()]


def test_a_camera_of_unknown_place_speaks_for_itself():
    at = (8.0, 8.0, 0.4)
    found = [seen([(*at, 0.9 - 0.1 * i, 0)], each) for i, each in enumerate((FRONT, LEFT, LEFT))]
    kept = suppress_duplicates(found, [FRONT, None, LEFT], 0.2)
    assert scores(kept) == [[0.9], [0.8], []]
    assert scores(suppress_duplicates(found, [None, None, LEFT], 0.2)) == [[0.9], [0.8], [0.7]]


def test_what_a_beaten_one_would_beat_is_kept():
    """Three in a row, each clashing with the next: the middle one loses to the first."""
    cars = [(5.0 + 2.5 * i, 8.0, 0.0, 0.9 - 0.1 * i, 0) for i in range(3)]
    cameras = [FRONT, LEFT, place(0.8)]
    found = [seen([car], camera) for car, camera in zip(cars, cameras, strict=True)]
    assert scores(suppress_duplicates(found, cameras, 0.2)) == [[0.9], [], [0.7]]


def test_a_tilted_camera_sees_the_same_ground():
    at = (12.0, 3.0, 0.2)
    tilted = place(0.3, x=1.2, y=-0.4, pitch=0.25)
    found = [seen([(*at, 0.9, 0)], FRONT), seen([(*at, 0.8, 0)], tilted)]
    assert scores(suppress_duplicates(found, [FRONT, tilted], 0.5)) == [[0.9], []]


def footprint(car):
    x, y, heading = car[:3]
    flat = rectangle(x - 2.1, y - 0.9, x + 2.1, y + 0.9)
    return affinity.rotate(flat, heading, origin=(x, y), use_radians=True)


def iou(one, other):
    a, b = footprint(one), footprint(other)
    shared = a.intersection(b).area
    return shared / (a.area + b.area - shared)


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


@settings(max_examples=60, deadline=None)
@given(CARS, CARS, st.floats(-3, 3))
def test_pairs_are_judged_as_shapely_judges_them(ours, theirs, yaw):
    cameras = [place(yaw, x=0.7), place(-yaw / 2, y=-0.3, pitch=0.1)]
    found = [seen(cars, camera) for cars, camera in zip((ours, theirs), cameras, strict=True)]
    rows = [(*car, camera) for camera, cars in enumerate((ours, theirs)) for car in cars]
    overlaps = [
        iou(a, b) for a in rows for b in rows if a[4] == b[4] and a[5] != b[5] and a[3] >= b[3]
    ]
    if any(abs(each - 0.2) < 1e-6 for each in overlaps):
        return  # as good as equal
    kept = []
    for row in sorted(rows, key=lambda row: -row[3]):
        if all(row[5] == k[5] or row[4] != k[4] or iou(row, k) <= 0.2 for k in kept):
            kept.append(row)
    wanted = [[row[3] for row in rows if row in kept and row[5] == camera] for camera in (0, 1)]
    assert scores(suppress_duplicates(found, cameras, 0.2)) == wanted


def test_an_overlap_of_one_keeps_everything_and_nothing_is_changed():
    at = (8.0, 8.0, 0.4)
    found = [seen([(*at, 0.9, 0)], FRONT), seen([(*at, 0.8, 0)], LEFT), Objects3D.empty()]
    kept = suppress_duplicates(found, [FRONT, LEFT, LEFT], 1.0)
    for before, after in zip(found, kept, strict=True):
        np.testing.assert_array_equal(before.center_m, after.center_m)
    assert suppress_duplicates([], [], 0.2) == []
    far = replace(found[0], center_m=np.full((1, 3), 1e6))
    assert scores(suppress_duplicates([far, found[1]], [FRONT, LEFT], 0.2)) == [[0.9], [0.8]]
